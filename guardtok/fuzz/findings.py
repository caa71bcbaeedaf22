"""`Finding`, one cause with its smallest input, and `Report`, what a campaign came to."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from guardtok.fuzz.attacks import ATTACKS, MEANING, Oracle
from guardtok.ruleset import catalogue_automata
from guardtok.scan import find

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from guardtok.fuzz.case import Case, Outcome

VERSION = 1
"""Version of a report as JSON."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, once for each cause.

    Attributes:
        case: The smallest input that was found.
        outcome: What the oracle said of it.
        count: How many inputs showed it, those tried to make it smaller left out.
        seconds: When it was first seen, from the beginning.
        known: Whether it came from the corpus.
    """

    case: Case
    outcome: Outcome
    count: int = 1
    seconds: float = 0.0
    known: bool = False

    @property
    def key(self) -> tuple[Oracle, str]:
        """What makes two findings one."""
        return self.outcome.oracle, self.outcome.cause


@dataclass(frozen=True, slots=True)
class Report:
    """What a campaign came to.

    Attributes:
        target: The target's name.
        library: The library and its version.
        command: What was asked for, as a command line without the seed.
        seed: What the cases were made from.
        seconds: How long it ran.
        cases: How many cases were judged.
        vacuous: How many were left out because they had lost their payload.
        coverage: How many cases of each attack class each oracle has judged.
        findings: One for each cause, in the order in which they were found.
        notes: What else there is to say: the corpus, restarts, how it ended.
        interrupted: Whether it was ended before its time.
    """

    target: str
    library: str
    command: str
    seed: int
    seconds: float
    cases: int
    vacuous: int
    coverage: Mapping[str, Mapping[Oracle, int]]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = field(default=())
    interrupted: bool = False

    def speeds(self) -> dict[Oracle, float]:
        """Return how many cases each oracle has judged a second."""
        return {
            oracle: sum(row.get(oracle, 0) for row in self.coverage.values()) / (self.seconds or 1.0)
            for oracle in Oracle
        }

    def table(self) -> list[tuple[str, dict[Oracle, tuple[int, int]]]]:
        """Return, for each attack class that was tried, how many cases and findings each oracle has."""
        rows = []
        for attack in ATTACKS:
            counts = self.coverage.get(attack, {})
            found = [finding.outcome.oracle for finding in self.findings if finding.case.attack == attack]
            if counts or found:
                rows.append((attack, {oracle: (counts.get(oracle, 0), found.count(oracle)) for oracle in Oracle}))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values; no form is spelled in them but as the escapes of `case`."""
        return {
            "version": VERSION,
            "target": self.target,
            "library": self.library,
            "command": self.command,
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
            "cases": self.cases,
            "vacuous": self.vacuous,
            "interrupted": self.interrupted,
            "coverage": {
                attack: {oracle.value: count for oracle, count in sorted(counts.items())}
                for attack, counts in self.coverage.items()
            },
            "speeds": {oracle.value: round(speed, 1) for oracle, speed in self.speeds().items() if speed},
            "findings": [
                {
                    "oracle": finding.outcome.oracle.value,
                    "cause": finding.outcome.cause,
                    "meaning": MEANING[finding.outcome.oracle],
                    "attack": finding.case.attack,
                    "shape": finding.case.shape,
                    "text": shown(finding.case.text, [finding.case.form]),
                    "ids": list(finding.outcome.ids),
                    "expected": shown(finding.outcome.expected, [finding.case.form]),
                    "got": shown(finding.outcome.got, [finding.case.form]),
                    "count": finding.count,
                    "seconds": round(finding.seconds, 3),
                    "known": finding.known,
                    "reproduce": self.reproduce(finding),
                    "case": finding.case.to_json(),
                }
                for finding in self.findings
            ],
            "notes": list(self.notes),
        }

    def reproduce(self, finding: Finding) -> str:
        """Return the command line that judges the case of a finding again."""
        return f"{self.command} --case '{finding.case.to_json()}'"


MAX_SHOWN = 600


def shown(text: str, forms: Sequence[str] = ()) -> str:
    r"""Return text for eyes: forms broken by `_`, and what cannot be seen, or is not ASCII's, written as an escape.

    Letters of all scripts stay; full-width and other compatibility characters become `\uXXXX`, as do marks.
    """
    cut = text[:MAX_SHOWN]
    data = cut.encode("utf-8", "surrogatepass")
    borders = {_characters(data[:start]) + 1 for _, start, _ in find(data, catalogue_automata())}
    for form in filter(None, forms):
        borders.update(_places(cut, form))
    made = "".join(("_" if place in borders else "") + _legible(char) for place, char in enumerate(cut))
    return made + (f"… ({len(text):,} characters)" if len(text) > MAX_SHOWN else "")


def _places(text: str, form: str) -> Iterable[int]:
    at = text.find(form)
    while at >= 0:
        yield at + 1
        at = text.find(form, at + 1)


def _characters(data: bytes) -> int:
    return len(data.decode("utf-8", "surrogatepass"))


def _legible(char: str) -> str:
    plain = char.isprintable() and unicodedata.normalize("NFKC", char) == char and not unicodedata.combining(char)
    return char if plain else char.encode("unicode_escape").decode()
