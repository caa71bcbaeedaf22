"""A function that makes a prompt around untrusted text, judged by its ids: what tests of programs are about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guardtok.encodings import load_tokenizer
from guardtok.errors import ConformanceError, GuardtokError
from guardtok.fuzz.attacks import Oracle, check_attacks
from guardtok.fuzz.bench import Bench
from guardtok.fuzz.campaign import Plan, run
from guardtok.fuzz.case import BATCH, GROWTH, THREADS
from guardtok.fuzz.doors import as_ids, parser_of, through_adapter
from guardtok.fuzz.findings import shown
from guardtok.fuzz.judge import Judgement
from guardtok.fuzz.targets import Target
from guardtok.tokenizer import TokenClass
from guardtok.violation import broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from guardtok.fuzz.case import Case, Outcome
    from guardtok.fuzz.findings import Finding
    from guardtok.fuzz.profile import Profile
    from guardtok.tokenizer import Tokenizer

INERT = "x"
"""What stands in the place of an attack: the prompt around it is what its author meant."""

_REFUSALS = (GuardtokError, ValueError)


def assert_no_forgery(
    build: Callable[[str], Any],
    tokenizer: Any,  # noqa: ANN401 - whatever `load_tokenizer` takes
    *,
    cases: int = 300,
    seed: int = 0,
    attacks: Iterable[str] = (),
) -> None:
    """Check that no text makes or swallows a control token in what a program makes of it.

        assert_no_forgery(lambda text: my_prompt(user=text), "cl100k_base")

    Args:
        build: Takes an untrusted text and returns the prompt around it: ids, an `Encoded`, or a string, which is read
            as the tokenizer's library reads it, every control token parsed. It may refuse a text with a `ValueError`
            or an error of guardtok's; any other error is a finding.
        tokenizer: The tokenizer, as `load_tokenizer` takes it.
        cases: How many texts to try.
        seed: The same seed gives the same texts.
        attacks: Attack classes, keys of `ATTACKS`; all by default.

    Raises:
        ConformanceError: A text did; it is an `AssertionError`, and shows the smallest such text, its token broken.
        GuardtokError: The tokenizer cannot be opened.
        MissingExtraError: Hypothesis is not installed.
        TypeError: The prompt is neither ids nor a string, or a string where nobody can say how it is read.
        ValueError: The harmless text is refused, there is no such attack class, or no text was tried.
    """
    chosen = check_attacks(attacks)
    asked = _Prompts(build, load_tokenizer(tokenizer))
    report = run(asked, Plan(seed=seed, seconds=None, cases=cases, attacks=chosen))
    if not any(report.coverage.values()):
        raise ValueError("No text was tried: of these classes, or this number, none says anything about a prompt.")
    if report.findings:
        first = report.findings[0]
        raise ConformanceError(str(first.outcome.oracle), _explain(first, len(report.findings)))


def _explain(found: Finding, count: int) -> str:
    case, outcome = found.case, found.outcome
    more = f" There are {count - 1} more causes." if count > 1 else ""
    return (
        f"{outcome.cause}.\n"
        f"  attack    {case.attack}\n"
        f"  text      {shown(case.text, [case.form])}\n"
        f"  expected  {outcome.expected}\n"
        f"  got       {outcome.got}\n"
        f"The exact text, in JSON: {case.to_json()}{more}"
    )


class _Prompts:
    """Judges cases by what a function makes of them. As `Local`, in this process."""

    restarts = 0

    def __init__(self, build: Callable[[str], Any], tokenizer: Tokenizer) -> None:
        self._build = build
        self._bench = Bench(Target(through_adapter(tokenizer)))
        self._parse = parser_of(tokenizer)
        loose = {token.id for token in tokenizer.control_tokens if token.kind is not TokenClass.CONTROL}
        self._reserved = tokenizer.reserved_ids - loose
        self._names = {token.id: broken(token.form) for token in tokenizer.control_tokens}
        self._expected = self._tokens(INERT)

    def open(self) -> tuple[Profile, list[tuple[str, list[str], list[Outcome]]]]:
        return self._bench.profile(), []

    def ask(self, case: Case) -> tuple[list[str], list[Outcome]]:
        made = Judgement()
        if case.shape != GROWTH:
            for text in case.parts if case.shape in {BATCH, THREADS} else [case.text]:
                self._judge(text, made)
        return sorted(oracle.value for oracle in made.ran), made.outcomes

    def wake(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _judge(self, text: str, made: Judgement) -> None:
        got = made.call("the prompt", _REFUSALS, lambda: (self._tokens(text),))
        expected = self._name(self._expected)
        if got is None or got[0] == self._expected:
            made.ran |= {Oracle.FORGE, Oracle.ERASE}
        elif len(got[0]) < len(self._expected):
            made.report(Oracle.ERASE, "A text hides or swallows a control token", expected, self._name(got[0]))
        else:
            made.report(Oracle.FORGE, "A text makes a control token", expected, self._name(got[0]))

    def _name(self, ids: list[int]) -> str:
        """Return the broken forms of control tokens."""
        return " ".join(self._names.get(id_, str(id_)) for id_ in ids) or "none"

    def _tokens(self, text: str) -> list[int]:
        """Return the control tokens of the prompt around a text.

        Raises:
            TypeError: It is no prompt.
        """
        made = self._build(text)
        ids = getattr(made, "ids", made)
        if isinstance(ids, str):
            if self._parse is None:
                raise TypeError("How this tokenizer reads control tokens in a string is not known: return ids.")
            ids = self._parse(ids)
        return [id_ for id_ in as_ids(ids) if id_ in self._reserved]
