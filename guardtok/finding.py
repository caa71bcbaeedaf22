"""What a check of a vocabulary, a model or a checkpoint found: a code that stays, how bad, where, the mend."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class Severity(str, Enum):
    """`error` stops what was asked for or undoes it; `warning` is reported; `note` says what was seen to be right."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    # Equal to its string, so it must hash like it; `Enum` would hash the name.
    __hash__ = str.__hash__

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check has to say.

    Attributes:
        code: The check, a name that stays: `shrinks`, `bias-appeared`, `id-taken`.
        severity: How bad it is.
        where: The token, tensor, parameter, config key or file that is meant; a control form is written broken.
        fact: What is so.
        mend: What to do about it; empty where nothing is wrong.
    """

    code: str
    severity: Severity
    where: str
    fact: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.severity} {self.code} at {self.where}: {self.fact}" + (f" {self.mend}" if self.mend else "")

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain JSON values; `mend` only where there is one."""
        record = {"code": self.code, "severity": self.severity.value, "where": self.where, "fact": self.fact}
        return record | ({"mend": self.mend} if self.mend else {})


@dataclass(frozen=True, slots=True)
class Report:
    """Findings in the order in which the checks ran; printed, a line for each."""

    findings: tuple[Finding, ...] = ()

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity is severity)
