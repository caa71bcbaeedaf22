"""One conformance suite for every tokenizer: what guardtok builds on, checked on the tokenizer itself.

A guard proves on ids what it promises, and an id means what its tokenizer says it means. A tokenizer that keeps a
control token to itself, loses text or mixes up two threads makes the proof worthless, and nothing in a guard can tell.
So whoever writes an adapter runs this over it:

    @pytest.mark.parametrize("check", guardtok.testing.CHECKS)
    def test_my_tokenizer(check):
        guardtok.testing.check_tokenizer(MyTokenizer(), checks=[check])

It needs neither pytest nor Hypothesis, and the same seed gives the same texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from guardtok.errors import ConformanceError, is_failure
from guardtok.testing.cases import Case, make_cases
from guardtok.testing.checks import CHECKS, Subject

if TYPE_CHECKING:
    from collections.abc import Iterable

    from guardtok.tokenizer import Tokenizer

__all__ = ["CHECKS", "Case", "Report", "check_tokenizer", "make_cases"]


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked. There is one only if nothing was wrong.

    Attributes:
        tokenizer: The tokenizer's name.
        checks: The checks that passed.
        seed: What the texts were made from.
        texts: How many texts each check that needs texts used.
        parsed: In how many of them `encode_ordinary` made a reserved id, so that guardtok had to cut a form apart.
        refused: How many, all of them forms in disguise, could not be encoded at all, and so are an error in use.
    """

    tokenizer: str
    checks: tuple[str, ...]
    seed: int
    texts: int
    parsed: int
    refused: int


def check_tokenizer(
    tokenizer: Tokenizer,
    *,
    seed: int = 0,
    cases: int = 200,
    forms: Iterable[str] = (),
    checks: Iterable[str] | None = None,
) -> Report:
    """Check that a tokenizer keeps what `guardtok.tokenizer.Tokenizer` promises.

    Args:
        tokenizer: The tokenizer.
        seed: What the texts are made from; `make_cases` repeats them.
        cases: How many texts to make, beside each control form alone.
        forms: Control forms that are known from elsewhere (a configuration file), all of which it must list.
        checks: Names out of `CHECKS`; all by default.

    Raises:
        ConformanceError: The tokenizer breaks a promise; the error names the check and the place.
        ValueError: A check that is not there.
    """
    names = tuple(CHECKS if checks is None else checks)
    if unknown := set(names).difference(CHECKS):
        raise ValueError(f"No check is named {min(unknown)!r}. There are {', '.join(CHECKS)}.")
    subject = Subject(tokenizer, seed, cases, tuple(forms))
    for name in names:
        try:
            CHECKS[name](subject)
        except ConformanceError:
            raise
        except BaseException as error:
            if not is_failure(error):
                raise
            failure = type(error).__name__
        else:
            continue
        # Raised out here it has no context: the tokenizer's own error may quote a text.
        raise ConformanceError(name, f"it raised {failure}, where nothing may fail")
    counted = subject.counts if "ordinary" in names else (0, 0)
    return Report(str(tokenizer.name), names, seed, len(subject.cases), *counted)
