"""Which rows of a vocabulary table stay, which are filled, and how many there will be: from an extension alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from guardtok.extension import Placement
from guardtok.finding import Finding, Severity

if TYPE_CHECKING:
    from guardtok.extension import Extension, NewToken


class RowAction(str, Enum):
    """What happens to a token's row."""

    KEEP = "keep"
    """The base has the token; its row is not touched."""
    REUSE = "reuse"
    """The row of a reserved slot is written anew."""
    FILL = "fill"
    """The row is there as padding, without a token, and is written."""
    GROW = "grow"
    """The row is added."""

    # Equal to its string, so it must hash like it; `Enum` would hash the name.
    __hash__ = str.__hash__

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token and its row.

    Attributes:
        form: The string that spells it.
        id: Its id, which is its row.
        action: What happens to the row.
        pieces: What the base makes of the form, as ids that have a row which stays.
    """

    form: str
    id: int
    action: RowAction
    pieces: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RowPlan:
    """What becomes of the rows of every vocabulary tensor.

    Attributes:
        old: Rows there are.
        new: Rows there will be.
        used: Rows below this have a token of the base; those above are padding, and say nothing of how a token looks.
        tokens: The extension's tokens.
    """

    old: int
    new: int
    used: int
    tokens: tuple[TokenRow, ...]

    @property
    def written(self) -> tuple[TokenRow, ...]:
        """The tokens whose rows are written, in the order of their ids."""
        return tuple(sorted((t for t in self.tokens if t.action != RowAction.KEEP), key=lambda token: token.id))

    @property
    def overwritten(self) -> tuple[int, ...]:
        """The rows that are there and will be written, in order."""
        return tuple(token.id for token in self.written if token.id < self.old)

    @property
    def padding(self) -> tuple[int, ...]:
        """The rows that are added without a token, in order."""
        tokens = {token.id for token in self.written}
        return tuple(row for row in range(self.old, self.new) if row not in tokens)


def plan_rows(
    extension: Extension, old: int, *, multiple_of: int | None, allow_shrink: bool
) -> tuple[RowPlan, list[Finding]]:
    """Return what becomes of the rows, and what there is to say about it.

    The size comes from the highest id, never from a count of tokens: a vocabulary with gaps has fewer tokens than rows.

    Args:
        extension: What is added.
        old: Rows there are.
        multiple_of: What the number of rows shall be divisible by; None for no such wish.
        allow_shrink: Whether rows may be cut off.
    """
    findings = list(_check(extension))
    needed = extension.rows if allow_shrink else max(extension.rows, old)
    if multiple_of is not None:
        needed = -(-needed // multiple_of) * multiple_of
    written = {token.id for token in extension.tokens if token.placement != Placement.PRESENT}
    kept = min(old, needed)
    tokens = tuple(_token_row(token, kept, written, old) for token in extension.tokens)
    if extension.base_rows > old:
        findings.append(
            Finding(
                "base-rows-missing",
                Severity.WARNING,
                "rows",
                f"The base's highest id is {extension.base_rows - 1}, but the model has only {old} rows.",
                "Is this the tokenizer of this model? The rows between are added as means.",
            )
        )
    if needed < old:
        findings.append(
            Finding("shrinks", Severity.WARNING, "rows", f"{old - needed} rows are cut off, as `allow_shrink` says.")
        )
    elif extension.rows < old:
        fact = f"The model has {old} rows, the tokens need {extension.rows}. None is cut off."
        findings.append(Finding("padding-kept", Severity.NOTE, "rows", fact))
    return RowPlan(old, needed, min(extension.base_rows, old), tokens), findings


def _token_row(token: NewToken, kept: int, written: set[int], old: int) -> TokenRow:
    pieces = tuple(piece for piece in token.pieces if 0 <= piece < kept and piece not in written)
    return TokenRow(token.form, token.id, action_of(token, old), pieces)


def action_of(token: NewToken, old: int) -> RowAction:
    """Return what happens to a token's row where there are `old` rows."""
    if token.id >= old:
        return RowAction.GROW
    if token.placement == Placement.PRESENT:
        return RowAction.KEEP
    return RowAction.REUSE if token.placement == Placement.RESERVED else RowAction.FILL


def _check(extension: Extension) -> list[Finding]:
    """Return what is wrong with an extension that somebody wrote by hand."""
    ids = [token.id for token in extension.tokens]
    wrong = []
    if len(set(ids)) != len(ids):
        wrong.append("Two tokens have one id.")
    if any(not 0 <= token < extension.rows for token in ids):
        wrong.append(f"A token's id is not below {extension.rows}, which `rows` says.")
    if extension.rows < extension.base_rows:
        wrong.append(f"It has fewer rows ({extension.rows}) than its base ({extension.base_rows}).")
    if any(t.placement == Placement.APPEND and t.id < extension.base_rows for t in extension.tokens):
        wrong.append("A token that is said to be appended has an id of the base.")
    mend = "Build it with `guardtok.extend`."
    return [Finding("extension-broken", Severity.ERROR, "extension", fact, mend) for fact in wrong]
