"""The only mint of `Encoded`: decided text → ids, proven on the ids before anybody sees them.

Strings are scanned to explain; the guarantee is here. A reserved id enters the output through one door, the list of
allowed matches, and after every ordinary run the ids themselves are checked, whatever the tokenizer, its normaliser or
its merges made of the text.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.attribute import attribute
from guardtok.errors import GuardtokError, MissingExtraError, TokenizerError, VerificationError, is_failure
from guardtok.layout import lay_out
from guardtok.records import defuse
from guardtok.scan import find

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from guardtok.layout import Piece
    from guardtok.records import Report
    from guardtok.ruleset import Ruleset
    from guardtok.tokenizer import Tokenizer
    from guardtok.violation import Violation

_MINT = object()


class Encoded:
    """Ids that were proven, with what was found on the way. Only guardtok makes them.

    A pickled copy carries its ids, violations, sources and display, and neither the text nor the key of the digests.

    Attributes:
        ids: The token ids.
        fingerprint: Fingerprint of the ruleset (policy × tokenizer) that they were made under.
    """

    __slots__ = ("_account", "fingerprint", "ids")

    def __init__(self, mint: object, ids: list[int], fingerprint: str, account: _Live | _Kept) -> None:
        """Refuse to be called by anybody else: an `Encoded` that was not checked would vouch for nothing.

        Raises:
            TypeError: Always, outside guardtok.
        """
        if mint is not _MINT:
            raise TypeError("Encoded comes from Guard.encode alone: ids that were not checked would vouch for nothing.")
        self.ids = ids
        self.fingerprint = fingerprint
        self._account = account

    def __repr__(self) -> str:
        return f"<Encoded {len(self.ids)} ids under {self.fingerprint[:19]}…>"

    def __reduce__(self) -> tuple[object, tuple[Any, ...]]:
        return _remint, (self.ids, self.fingerprint, _Kept(self.violations, self.sources, self.display()))

    @property
    def array(self) -> npt.NDArray[np.uint32]:
        """The ids as a NumPy array of uint32.

        Raises:
            MissingExtraError: NumPy is not installed.
        """
        try:
            import numpy as np
        except ImportError:
            raise MissingExtraError("Encoded.array needs NumPy: pip install 'guardtok[fast]'.") from None
        return np.array(self.ids, dtype=np.uint32)

    @property
    def violations(self) -> tuple[Violation, ...]:
        """What the policy did not allow, in the order of the text, at most `limits.max_violations`."""
        return self._account.violations

    @property
    def sources(self) -> tuple[frozenset[str], ...]:
        """For each id, the sources of the characters that it stands for.

        An id that covers part of a character counts for that character's source. Where a tokenizer's ids do not spell
        the text (it normalises), every id of the run counts for all the run's sources.
        """
        return self._account.sources

    def display(self) -> str:
        """Return the output for eyes, not for re-encoding: control tokens as `⟦form⟧`, every form broken."""
        return self._account.display


@dataclass(frozen=True, slots=True)
class _Live:
    """How ids came about, written out when somebody asks."""

    ids: list[int]
    pieces: tuple[Piece, ...]
    ends: tuple[int, ...]
    report: Report

    @property
    def violations(self) -> tuple[Violation, ...]:
        return self.report.violations()

    @property
    def sources(self) -> tuple[frozenset[str], ...]:
        return tuple(attribute(self.ids, self.pieces, self.ends, self.report.intake, self.report.ruleset))

    @property
    def display(self) -> str:
        spelled = ((defuse(piece.text, self.report.ruleset), piece.token_id) for piece in self.pieces)
        return "".join(text if token_id is None else f"⟦{text}⟧" for text, token_id in spelled)


@dataclass(frozen=True, slots=True)
class _Kept:
    """The same, written out already, for a pickle."""

    violations: tuple[Violation, ...]
    sources: tuple[frozenset[str], ...]
    display: str


def _remint(ids: list[int], fingerprint: str, account: _Kept) -> Encoded:
    return Encoded(_MINT, ids, fingerprint, account)


def encode(report: Report) -> Encoded:
    """Encode a decided text and check the ids.

    Raises:
        TokenizerError: The tokenizer failed, or there is none.
        VerificationError: A reserved id came out of ordinary text and could not be kept out.
    """
    ids: list[int] = []
    pieces: list[Piece] = []
    ends: list[int] = []
    for piece in lay_out(report.intake, report.decided, report.ruleset):
        if piece.token_id is not None:
            ids.append(piece.token_id)
        elif ids:
            ids += encode_ordinary(piece.text, report.ruleset, at_start=False)
        else:
            ids = encode_ordinary(piece.text, report.ruleset, at_start=True)
        pieces.append(piece)
        ends.append(len(ids))
    account = _Live(ids, tuple(pieces), tuple(ends), report)
    return Encoded(_MINT, ids, report.ruleset.fingerprint, account)


def encode_ordinary(text: str, ruleset: Ruleset, *, at_start: bool) -> list[int]:
    """Encode text in which nothing is parsed, and check that no reserved id came out.

    A tokenizer that makes a reserved id of plain text (Unigram, WordLevel, `ignore_merges`, a normaliser) gets each
    form in the text cut apart after its first character, and the parts encoded one by one.

    Raises:
        TokenizerError: The tokenizer failed, or there is none.
        VerificationError: Even the parts make a reserved id.
    """
    tokenizer = ruleset.tokenizer
    if tokenizer is None:
        raise TokenizerError(
            "This guard has no tokenizer: it can check, not encode. Load it with one: Guard.load(policy, tokenizer=…)."
        )
    ids = _call(tokenizer, text, at_start=at_start)
    if ruleset.reserved.isdisjoint(ids):
        return ids
    ids = []
    for part in _take_apart(text, ruleset):
        ids += _call(tokenizer, part, at_start=at_start and not ids)
    leaked = ruleset.reserved.intersection(ids)
    if leaked:
        token_id = min(leaked)
        raise VerificationError(
            f"Tokenizer {tokenizer.name!r} makes the reserved id {token_id} out of ordinary text, whole and in parts. "
            "Nothing was returned. Block the form for this source, or use a tokenizer that can encode it as text.",
            token_id,
        )
    return ids


def _call(tokenizer: Tokenizer, text: str, *, at_start: bool) -> list[int]:
    try:
        ids = tokenizer.encode_ordinary(text, at_start=at_start)
        # A snapshot is what gets proven, and what is returned: not a list that somebody else still holds, and not
        # something that gives other ids when it is read again. tiktoken makes a new list of ints each time.
        return ids if isinstance(tokenizer, TiktokenTokenizer) else array("I", ids).tolist()
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


def _take_apart(text: str, ruleset: Ruleset) -> Iterator[str]:
    data = text.encode()
    found = find(data, ruleset.automata)
    borders = sorted({start + len(data[start:end].decode()[0].encode()) for _, start, end in found})
    for low, high in zip([0, *borders], [*borders, len(data)], strict=True):
        if low < high:
            yield data[low:high].decode()
