"""`Encoded`: ids that were proven, with what was found on the way and who wrote what.

It vouches for its ids, so it is made in one place, `guardtok.encode`, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from guardtok.attribute import TRAINED, attribute, mark_spans
from guardtok.errors import MessageError, MissingExtraError
from guardtok.pieces import Piece
from guardtok.records import defuse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from guardtok.intake import Intake
    from guardtok.records import Report
    from guardtok.ruleset import Ruleset
    from guardtok.tokenizer import Ids
    from guardtok.violation import Span, Violation

_MINT = object()


class Encoded:
    """Ids that were proven, with what was found on the way. Only guardtok makes them.

    A pickled copy carries its ids, violations, sources and display, and neither the text nor the key of the digests.

    Attributes:
        fingerprint: Fingerprint of the ruleset (policy × tokenizer) that they were made under.
    """

    __slots__ = ("_account", "_ids", "_list", "fingerprint")

    def __init__(self, mint: object, ids: Ids, fingerprint: str, account: Live | Clean | Kept) -> None:
        """Refuse to be called by anybody else: an `Encoded` that was not checked would vouch for nothing.

        Raises:
            TypeError: Always, outside guardtok.
        """
        if mint is not _MINT:
            raise TypeError("Encoded comes from Guard.encode alone: ids that were not checked would vouch for nothing.")
        self._ids = ids
        self._list = ids if isinstance(ids, list) else None
        self.fingerprint = fingerprint
        self._account = account

    def __repr__(self) -> str:
        return f"<Encoded {len(self._ids)} ids under {self.fingerprint[:19]}…>"

    def __reduce__(self) -> tuple[object, tuple[Any, ...]]:
        return mint, (
            self._ids,
            self.fingerprint,
            Kept(self.violations, self.sources, self.display(), self._account.mask),
        )

    @property
    def ids(self) -> list[int]:
        """The token ids. Where an engine made an array of them, the list is made when it is first asked for."""
        if self._list is None:
            self._list = as_list(self._ids)
        return self._list

    @property
    def array(self) -> npt.NDArray[np.uint32]:
        """The ids as a NumPy array of uint32, made without the list where an engine gave an array; then read-only.

        Raises:
            MissingExtraError: NumPy is not installed.
        """
        if not isinstance(self._ids, list):
            self._ids.setflags(write=False)
            return self._ids
        try:
            import numpy as np
        except ImportError:
            raise MissingExtraError("Encoded.array needs NumPy: pip install 'guardtok[fast]'.") from None
        return np.array(self._ids, dtype=np.uint32)

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

    def mask(self) -> list[int]:
        """Return 1 for each id to train on and 0 for the others: what the assistant generated, its turn's end included.

        An id counts if any of its characters does, as in transformers. Where a tokenizer's ids do not spell the text
        (it normalises), every id of a run counts if any of the run's characters does.

        Raises:
            MessageError: The ids are no conversation's.
        """
        if self._account.mask is None:
            raise MessageError("Only a conversation says what to train on: encode it with Guard.encode_chat.")
        return list(self._account.mask)

    def display(self) -> str:
        """Return the output for eyes, not for re-encoding: control tokens as `⟦form⟧`, every form broken."""
        return self._account.display


@dataclass(frozen=True, slots=True)
class Live:
    """How ids came about, written out when somebody asks."""

    ids: Ids
    pieces: tuple[Piece, ...]
    ends: tuple[int, ...]
    report: Report
    trained: Callable[[], Sequence[Span]] | None

    @property
    def violations(self) -> tuple[Violation, ...]:
        """What the policy did not allow."""
        return self.report.violations()

    @property
    def sources(self) -> tuple[frozenset[str], ...]:
        """For each id, who wrote it."""
        return self._attribute(self.report.intake)

    def _attribute(self, intake: Intake) -> tuple[frozenset[str], ...]:
        return tuple(attribute(as_list(self.ids), self.pieces, self.ends, intake, self.report.ruleset))

    @property
    def mask(self) -> tuple[int, ...] | None:
        """For each id whether to train on it; None where nobody says."""
        if self.trained is None:
            return None
        intake = self.report.intake
        runs = mark_spans(self.trained(), len(intake.text))
        return tuple(int(TRAINED in sources) for sources in self._attribute(replace(intake, runs=runs, joined=())))

    @property
    def display(self) -> str:
        """The output for eyes."""
        spelled = ((defuse(piece.text, self.report.ruleset), piece.token_id) for piece in self.pieces)
        return "".join(text if token_id is None else f"⟦{text}⟧" for text, token_id in spelled)


class Clean(NamedTuple):
    """The same of one source's text in which nothing was found; a tuple, for most texts are such and it is quick."""

    size: int
    text: str
    source: str
    ruleset: Ruleset

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The stretches of the output."""
        return (Piece(self.text, ((0, 0),), None),)

    @property
    def violations(self) -> tuple[Violation, ...]:
        """What the policy did not allow."""
        return ()

    @property
    def sources(self) -> tuple[frozenset[str], ...]:
        """For each id, who wrote it."""
        return (frozenset((self.source,)),) * self.size

    @property
    def mask(self) -> tuple[int, ...] | None:
        """For each id whether to train on it; None where nobody says."""
        return None

    @property
    def display(self) -> str:
        """The output for eyes."""
        return defuse(self.text, self.ruleset)


@dataclass(frozen=True, slots=True)
class Kept:
    """The same, written out already, for a pickle."""

    violations: tuple[Violation, ...]
    sources: tuple[frozenset[str], ...]
    display: str
    mask: tuple[int, ...] | None


def mint(ids: Ids, fingerprint: str, account: Live | Clean | Kept) -> Encoded:
    """Return ids that `guardtok.encode` has proven. Nobody else calls this."""
    return Encoded(_MINT, ids, fingerprint, account)


def as_list(ids: Ids) -> list[int]:
    """Return ids as a list; a list is returned as it is."""
    return ids if isinstance(ids, list) else cast("list[int]", ids.tolist())
