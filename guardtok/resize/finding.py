"""What a check of a model or a checkpoint found: a code that stays, how bad it is, where, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    """`error` stops a resize or undoes it; `warning` is reported; `note` says what was seen to be right."""

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
        code: The check, a name that stays: `shrinks`, `bias-appeared`, `old-rows-changed`.
        severity: How bad it is.
        where: The tensor, parameter, config key or file that is meant.
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
