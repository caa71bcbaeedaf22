"""The only mint of `Encoded`: decided text → ids, proven on the ids before anybody sees them.

Strings are scanned to explain; the guarantee is here. A reserved id enters the output through one door, the list of
allowed matches, and after every ordinary run the ids themselves are checked, whatever the tokenizer, its normaliser or
its merges made of the text.
"""

from __future__ import annotations

from array import array
from functools import lru_cache, partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, TypeVar, cast

from guardtok.adapters.hf import HfTokenizer
from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.attribute import sources_of
from guardtok.encoded import Clean, Encoded, Live, as_list, mint
from guardtok.errors import (
    GuardtokError,
    TokenizerError,
    VerificationError,
    is_failure,
)
from guardtok.layout import lay_out
from guardtok.scan import find
from guardtok.violation import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from guardtok.decide import Decided
    from guardtok.intake import Intake
    from guardtok.pieces import Piece
    from guardtok.records import Report
    from guardtok.ruleset import Ruleset
    from guardtok.tokenizer import Ids, Tokenizer
    from guardtok.violation import Span

_Made = TypeVar("_Made")

_NONE: frozenset[int] = frozenset()
_WORTH_A_BATCH = 4_000
"""Characters of ordinary runs from which on one call for all of them costs less than one for each."""


def encode(report: Report, trained: Callable[[], Sequence[Span]] | None = None) -> Encoded:
    """Encode a decided text and check the ids.

    Args:
        report: The text, and the decision.
        trained: For a conversation: returns the stretches of the text that the assistant generated.

    Raises:
        TokenizerError: The tokenizer failed, or there is none.
        VerificationError: A reserved id came out of ordinary text and could not be kept out.
    """
    intake, ruleset = report.intake, report.ruleset
    pieces = tuple(lay_out(intake, report.decided, ruleset))
    if len(pieces) == 1 and pieces[0].token_id is None:  # Most texts: nothing to join.
        only = encode_piece(pieces[0], intake, ruleset, at_start=True)
        account = Live(only, pieces, (len(only),), report, trained)
        return mint(only, ruleset.fingerprint, account)
    parts: list[Ids] = []
    ends: list[int] = []
    count = 0
    ahead = _encode_ahead(pieces, ruleset)
    for index, piece in enumerate(pieces):
        ids = encode_piece(piece, intake, ruleset, at_start=count == 0, made=ahead.get(index))
        count += len(ids)
        parts.append(ids)
        ends.append(count)
    joined = _join(parts)
    account = Live(joined, pieces, tuple(ends), report, trained)
    return mint(joined, ruleset.fingerprint, account)


def encode_clean(text: str, source: str, ruleset: Ruleset) -> Encoded:
    """Encode one source's text in which nothing was found, and check the ids, as `encode` does.

    Raises:
        TokenizerError: The tokenizer failed, or there is none.
        VerificationError: A reserved id came out of the text and could not be kept out.
    """
    ids = encode_run(text, ruleset, at_start=True)
    return mint(ids, ruleset.fingerprint, Clean(len(ids), text, source, ruleset))


def count(intake: Intake, decided: Decided, ruleset: Ruleset) -> int:
    """Return how many ids `encode` would make of a decided text.

    Raises:
        TokenizerError: The tokenizer failed, or there is none.
        VerificationError: A reserved id came out of ordinary text and could not be kept out.
    """
    total = 0
    for piece in lay_out(intake, decided, ruleset):
        total += len(encode_piece(piece, intake, ruleset, at_start=total == 0))
    return total


def _encode_ahead(pieces: Sequence[Piece], ruleset: Ruleset) -> dict[int, Ids]:
    """Encode all ordinary runs but the first in one call, where the tokenizer can. By index of the piece, unchecked."""
    rules = ruleset.rules
    if rules is None:
        return {}
    runs = [index for index, piece in enumerate(pieces) if index and piece.token_id is None and not piece.normalized]
    texts = [pieces[index].text for index in runs]
    if len(texts) == 1 or sum(map(len, texts)) < _WORTH_A_BATCH:
        return {}
    tokenizer = rules.tokenizer
    made = _call(partial(tokenizer.encode_ordinary_batch, texts), "".join(texts), tokenizer)
    return dict(zip(runs, made, strict=True))


def encode_piece(piece: Piece, intake: Intake, ruleset: Ruleset, *, at_start: bool, made: Ids | None = None) -> Ids:
    """Encode a stretch of an output: a token's id, or ordinary text as `encode_run` does it.

    Where a library has rules of its own, its model may make a control token's id of plain text if one source wrote the
    whole stretch and may write that token, for so it is in the unguarded pipeline.

    Args:
        piece: The stretch.
        intake: The text that it was made of.
        ruleset: The forms, and the tokenizer.
        at_start: Whether it begins the output.
        made: What the tokenizer made of it already, unchecked.

    Raises:
        TokenizerError: The tokenizer failed, or there is none.
        VerificationError: Even the parts make a reserved id.
    """
    if piece.token_id is not None:
        return [piece.token_id]
    if ruleset.rules is None:
        return encode_run(piece.text, ruleset, at_start=at_start)

    def may_make(ids: frozenset[int]) -> bool:
        sources = set(sources_of(piece, intake))
        if len(sources) > 1:
            return False
        decisions = ruleset.table.get(sources.pop(), ())
        known = {form.token_id for form in ruleset.forms}
        return ids <= known and all(
            decision.action is Action.ALLOW
            for form, decision in zip(ruleset.forms, decisions, strict=True)
            if form.token_id in ids
        )

    return encode_run(piece.text, ruleset, at_start=at_start, normalized=piece.normalized, may_make=may_make, made=made)


def encode_run(  # noqa: PLR0913 - what is known of the run
    text: str,
    ruleset: Ruleset,
    *,
    at_start: bool,
    normalized: bool = False,
    may_make: Callable[[frozenset[int]], bool] | None = None,
    made: Ids | None = None,
) -> Ids:
    """Encode text in which nothing is parsed, and check that no reserved id came out.

    A tokenizer that makes a reserved id of plain text (Unigram, WordLevel, `ignore_merges`, a normaliser) gets each
    form in the text cut apart after its first character, and the parts encoded one by one.

    Args:
        text: The text.
        ruleset: The forms, and the tokenizer.
        at_start: Whether it begins the output.
        normalized: Whether the tokenizer's normaliser made it.
        may_make: Says whether these reserved ids may come out of it all the same; by default none may.
        made: What the tokenizer made of it already, unchecked.

    Raises:
        TokenizerError: The tokenizer failed, or there is none.
        VerificationError: Even the parts make a reserved id.
    """
    tokenizer, rules = ruleset.tokenizer, ruleset.rules
    if tokenizer is None:
        raise TokenizerError(
            "This guard has no tokenizer: it can check, not encode. Load it with one: Guard.load(policy, tokenizer=…)."
        )
    if made is not None:
        ids = made
    elif normalized and rules is not None:
        ids = _call(partial(rules.tokenizer.encode_normalized, text, at_start=at_start, inside=False), text, tokenizer)
    else:
        ids = _call(partial(tokenizer.encode_ordinary, text, at_start=at_start), text, tokenizer)
    leaked = _leaked(ids, ruleset.reserved)
    if rules is not None and rules.weak is not None:
        leaked |= rules.find_weak(text if normalized else rules.tokenizer.normalize(text))
    if not leaked or (may_make is not None and may_make(leaked)):
        return ids
    ids = _join(_encode_parts(text, tokenizer, ruleset, at_start=at_start, normalized=normalized))
    leaked = _leaked(ids, ruleset.reserved)
    if leaked:
        token_id = min(leaked)
        raise VerificationError(
            f"Tokenizer {tokenizer.name!r} makes the reserved id {token_id} out of ordinary text, whole and in parts. "
            "Nothing was returned. Block the form for this source, or use a tokenizer that can encode it as text.",
            token_id,
        )
    return ids


def _encode_parts(text: str, tokenizer: Tokenizer, ruleset: Ruleset, *, at_start: bool, normalized: bool) -> list[Ids]:
    """Encode a text form by form in parts. A normaliser runs first, so that no part gets a prefix of its own."""
    rules = ruleset.rules
    parts: list[Ids] = []
    if rules is None:
        for part in _take_apart(text, ruleset):
            first = at_start and not any(map(len, parts))
            parts.append(_call(partial(tokenizer.encode_ordinary, part, at_start=first), part, tokenizer))
        return parts
    normal = text if normalized else rules.tokenizer.normalize(text)
    for number, part in enumerate(_take_apart(normal, ruleset)):
        encode_part = partial(
            rules.tokenizer.encode_normalized, part, at_start=at_start and number == 0, inside=number > 0
        )
        parts.append(_call(encode_part, part, tokenizer))
    return parts or [[]]


def encode_ordinary(text: str, ruleset: Ruleset, *, at_start: bool) -> list[int]:
    """Return what `encode_run` does as a list, and raise what it raises."""
    return as_list(encode_run(text, ruleset, at_start=at_start))


def _join(parts: list[Ids]) -> Ids:
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, list) for part in parts):
        return [id_ for part in parts for id_ in part]
    import numpy as np

    return np.concatenate([np.asarray(part, dtype=np.uint32) for part in parts])


def _leaked(ids: Ids, reserved: frozenset[int]) -> frozenset[int]:
    """Return the reserved ids among `ids`; of an array only those are looked at that are high enough to be one."""
    least = _least(reserved)
    if isinstance(ids, list):
        # Reserved ids are mostly above all others, and the highest id is found sooner than each is looked up.
        return _NONE if not ids or max(ids) < least or reserved.isdisjoint(ids) else reserved.intersection(ids)
    # The place of the highest id is found several times as fast as the highest id.
    if not len(ids) or ids[ids.argmax()] < least:
        return _NONE
    return reserved.intersection(ids[ids >= least].tolist())


@lru_cache(maxsize=64)
def _least(reserved: frozenset[int]) -> int:
    return min(reserved, default=2**32)


def _call(call: Callable[[], _Made], text: str, tokenizer: Tokenizer) -> _Made:
    try:
        return cast("_Made", _own(call(), tokenizer))
    except GuardtokError:
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        failure = type(error).__name__
    # Raised out here it has no context: the tokenizer's own error may quote the text.
    raise TokenizerError(
        f"Tokenizer {tokenizer.name!r} failed with {failure} on {len(text):,} characters; nothing was encoded. "
        "Cut very long runs of one character, or set a lower `limits.max_chars`."
    )


def _own(made: Any, tokenizer: Tokenizer) -> Any:  # noqa: ANN401 - ids, or a list of them
    """Return ids that nobody else holds.

    A snapshot is what gets proven, and what is returned: not a list that somebody else still holds, and not something
    that gives other ids when it is read again. tiktoken and tokenizers make a new list of ints each time.
    """
    if isinstance(tokenizer, (TiktokenTokenizer, HfTokenizer)):
        return made
    if made and isinstance(made, list) and not isinstance(made[0], int):
        return [array("I", ids).tolist() for ids in made]
    return array("I", made).tolist()


def _take_apart(text: str, ruleset: Ruleset) -> Iterator[str]:
    data = text.encode()
    borders = {start + len(data[start:end].decode()[0].encode()) for _, start, end in find(data, ruleset.automata)}
    folded = ruleset.rules.find_folded(text) if ruleset.rules is not None else []
    if folded:
        ends = list(accumulate((len(char.encode()) for char in text), initial=0))
        borders.update(ends[start + 1] for _, start, _ in folded)
    for low, high in pairwise([0, *sorted(borders), len(data)]):
        if low < high:
            yield data[low:high].decode()
