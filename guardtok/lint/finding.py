"""One finding of lint, and how findings name forms and places."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from heapq import nsmallest
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from guardtok.errors import PolicyError
from guardtok.policy.files import read_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from guardtok.policy.model import Mark, Policy

_SHOWN = 3


class Severity(str, Enum):
    """How bad a finding is.

    `error`: no guard can be built. `warning`: less is guarded than one may think, or something has no effect. `info`:
    worth knowing, and often meant.
    """

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One thing that is suspicious about a policy.

    Attributes:
        code: A stable name of the kind of finding.
        severity: How bad it is.
        place: `file:line:column`.
        fact: What is the case.
        mend: What to do about it; empty where nothing can be suggested.
    """

    code: str
    severity: Severity
    place: str
    fact: str
    mend: str = ""

    def __str__(self) -> str:
        mend = f" {self.mend}" if self.mend else ""
        return f"{self.place}: {self.severity}[{self.code}]: {self.fact}{mend}"


def name_forms(forms: Collection[str], universe: Collection[str]) -> str:
    """Return words for a set of forms: all, each of a few, or a few of many."""
    if len(forms) == len(universe):
        return "all control tokens"
    shown = [repr(form) for form in nsmallest(_SHOWN, forms)]
    if len(forms) <= _SHOWN:
        return ", ".join(shown)
    return f"{len(forms)} control tokens ({', '.join(shown)} …)"


def name_sources(sources: Iterable[str]) -> str:
    """Return words for one source or several."""
    names = [repr(source) for source in sources]
    return f"source {names[0]}" if len(names) == 1 else f"sources {', '.join(names)}"


def place_of(policy: Policy, key: str) -> str:
    """Return where a policy, or the nearest one that it extends, says `key`; its first line where none does.

    Single values are merged without their places, so the file is read again.
    """
    at: Policy | None = policy
    while at is not None:
        try:
            places = _places(read_text(Path(at.place)), at.place)
        except PolicyError:  # It was parsed from a string, or the file is gone.
            break
        if key in places:
            return str(places[key])
        at = at.extends
    return f"{policy.place}:1:1"


@lru_cache(maxsize=4)
def _places(text: str, file: str) -> Mapping[str, Mark]:
    """Return where a file says each of its keys.

    Raises:
        PolicyError: It is not a policy any more.
    """
    from guardtok.policy.marked import Mapped, read_yaml

    tree, _ = read_yaml(text, file)
    return MappingProxyType(tree.keys if isinstance(tree, Mapped) else {})
