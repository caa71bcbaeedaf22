"""What is found in a corpus, row by row, and what could not be read of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guardtok.violation import Verdict


@dataclass(frozen=True, slots=True)
class RowFinding:
    """What was found in one text of a corpus.

    Attributes:
        row: The row, from 0, of its table or file.
        column: The column's path.
        item: Which of the row's texts in this column, from 0; None where a row has one.
        verdict: What the policy says of the text.
        refused: Whether the text was to be rewritten and the policy refuses it.
        line: The line of its file where the row begins, from 1; None where rows have no lines.
        lines: For each violation its line; empty unless the text is a whole file.
    """

    row: int
    column: str
    item: int | None
    verdict: Verdict
    refused: bool = False
    line: int | None = None
    lines: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain JSON values, without what it does not have."""
        made: dict[str, Any] = {"row": self.row, "column": self.column}
        optional = {"item": self.item, "line": self.line, "lines": list(self.lines) or None}
        made.update((key, value) for key, value in optional.items() if value is not None)
        made["action"] = self.verdict.action.value
        made["count"] = self.verdict.count
        if self.refused:
            made["refused"] = True
        made["violations"] = [violation.to_dict() for violation in self.verdict.violations]
        return made


@dataclass(frozen=True, slots=True)
class Problem:
    """Something of a corpus that could not be read, scanned or written as it is.

    Attributes:
        fact: What is the case; never what the corpus says.
        row: The row, from 0; None where it concerns the whole file.
        column: The column's path, or None.
        path: The file; empty for a table in memory.
    """

    fact: str
    row: int | None = None
    column: str | None = None
    path: str = ""

    def __str__(self) -> str:
        row = "" if self.row is None else f"row {self.row}"
        column = "" if self.column is None else f"column {self.column}"
        place = ", ".join(filter(None, (self.path, row, column)))
        return f"{place}: {self.fact}" if place else self.fact

    def to_dict(self) -> dict[str, Any]:
        """Return the problem as plain JSON values, without what it does not have."""
        made = {"path": self.path or None, "row": self.row, "column": self.column, "fact": self.fact}
        return {key: value for key, value in made.items() if value is not None}
