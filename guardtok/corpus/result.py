"""What a scan says of a file, and of many together: counts that are complete, and a bounded list of places."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from guardtok.corpus.finding import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from guardtok.corpus.finding import RowFinding

LISTED = 1_000
"""So many findings of a file, and problems, are listed one by one, and of findings with several fewer; the rest are
counted."""


class Kind(NamedTuple):
    """What findings are counted by.

    Attributes:
        token: The form, broken; `*` for what is beyond `limits.max_violations` of a text.
        form: `exact`, or the name of the view.
        role: What the form is for, or None.
        source: Who wrote it.
        column: The column's path.
        action: What the policy asks for.
    """

    token: str
    form: str
    role: str | None
    source: str
    column: str
    action: str


@dataclass(slots=True)
class FileResult:
    """What a scan says of a file, or of a part of it.

    Attributes:
        path: The file.
        rows: Documents that were read.
        texts: Texts in them that were scanned.
        size: Bytes of those texts.
        flagged: Texts in which something was found.
        count: How many findings there are in them.
        dropped: Documents that the output leaves out.
        kinds: The findings, counted.
        findings: The first of them, as plain JSON values.
        problems: The first problems.
        unlisted: Problems beyond those.
        tokens: Ids that were written, where the file was tokenized.
        shards: What was written, as plain JSON values.
        skipped: Why the file was not scanned, or None.
        part: Which part of the file this is, from 0.
        violations: How many there are in the findings that are listed.
    """

    path: str
    rows: int = 0
    texts: int = 0
    size: int = 0
    flagged: int = 0
    count: int = 0
    dropped: int = 0
    kinds: Counter[Kind] = field(default_factory=Counter, repr=False)
    findings: list[dict[str, Any]] = field(default_factory=list, repr=False)
    problems: list[Problem] = field(default_factory=list)
    unlisted: int = 0
    tokens: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    skipped: str | None = None
    part: int = 0
    violations: int = 0

    @property
    def failed(self) -> bool:
        """Whether there is a problem."""
        return bool(self.problems)

    def note(self, findings: Iterable[RowFinding]) -> None:
        """Count findings, and list them while there is room."""
        for finding in findings:
            verdict = finding.verdict
            self.flagged += 1
            self.count += verdict.count
            for each in verdict.violations:
                self.kinds[Kind(each.token, each.form, each.role, each.source, finding.column, each.action.value)] += 1
            beyond = verdict.count - len(verdict.violations)
            if beyond > 0:
                source = verdict.violations[0].source
                self.kinds[Kind("*", "*", None, source, finding.column, verdict.action.value)] += beyond
            if self.violations < LISTED:
                self.findings.append({"path": self.path, **finding.to_dict()})
                self.violations += max(1, len(verdict.violations))

    def trouble(self, problem: Problem) -> None:
        """List a problem while there is room."""
        if len(self.problems) < LISTED:
            self.problems.append(Problem(problem.fact, problem.row, problem.column, self.path))
        else:
            self.unlisted += 1

    def cut(self, room: int) -> None:
        """List no more than so many findings and problems."""
        del self.findings[room:]
        self.unlisted += len(self.problems[room:])
        del self.problems[room:]

    def add(self, other: FileResult) -> None:
        """Add the counts of another part, or of another file; and its lists, while there is room."""
        for name in ("rows", "texts", "size", "flagged", "count", "dropped", "unlisted", "tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.kinds.update(other.kinds)
        self.shards += other.shards
        self.findings += other.findings[: max(0, LISTED - len(self.findings))]
        room = max(0, LISTED - len(self.problems))
        self.problems += other.problems[:room]
        self.unlisted += len(other.problems[room:])

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        made = {name: getattr(self, name) for name in self.__slots__}
        made["kinds"] = [[*kind, count] for kind, count in self.kinds.items()]
        made["problems"] = [problem.to_dict() for problem in self.problems]
        return made

    @classmethod
    def from_dict(cls, made: dict[str, Any]) -> FileResult:
        """Return the result that `to_dict` was called on."""
        kinds = Counter({Kind(*kind): count for *kind, count in made["kinds"]})
        return cls(**{**made, "kinds": kinds, "problems": [Problem(**problem) for problem in made["problems"]]})
