"""What was found in a whole body: every record with its place, as many as the policy asks for, and what is refused.

A body has a hundred strings and an attacker a hundred thousand. Each is judged alone; what is reported is reported once
for the body, with counts, and a refusal says everything that was found and not only the first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from guardtok.errors import LimitError, RefusedError, RequestError, SurrogateError
from guardtok.records import LOGGED_GROUPS, Report, Tally, defuse, record_refusal
from guardtok.violation import Action, Mode, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardtok.decide import Finding
    from guardtok.errors import GuardtokError
    from guardtok.ruleset import Ruleset
    from guardtok.violation import Violation

VERBATIM = "request.verbatim"
"""The rule of a form in a string that cannot be changed without meaning something else."""

_MAX_OBJECTIONS = 64
"""So many objections of one body are recorded, and the first that refuses it, which is raised."""


class Ledger:
    """What was found in one body so far.

    Attributes:
        count: How many matches are not allowed, and how much was objected to.
        action: The strictest action that anything asks for.
    """

    __slots__ = (
        "_enforced",
        "_key",
        "_objections",
        "_records",
        "_refused",
        "_request_id",
        "_ruleset",
        "_tally",
        "action",
        "count",
    )

    def __init__(self, ruleset: Ruleset, key: bytes, request_id: str | None) -> None:
        self._ruleset = ruleset
        self._key = key
        self._request_id = request_id
        self._records: list[Violation] = []
        self._tally = Tally()
        self._refused: tuple[str, Violation] | None = None
        self._objections: list[Violation] = []
        self._enforced: GuardtokError | None = None  # the first objection that refuses, whatever was recorded
        self.action = Action.ALLOW
        self.count = 0

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.count

    @property
    def refused(self) -> bool:
        """Whether the body is refused."""
        return self._refused is not None

    def add(self, report: Report) -> None:
        """Note what was found in one string."""
        decided = report.decided
        if not decided.groups:
            return
        self._tally.add(report)
        self.count += decided.count
        self._heed(decided.action)
        write = report.writer()
        room = self._ruleset.policy.limits.max_violations - len(self._records)
        self._records += [write(finding, 1) for finding in decided.findings[: max(room, 0)]]
        if decided.refused is not None and self._refused is None:
            form = self._ruleset.forms[decided.refused.match[0]].text
            self._refused = form, write(decided.refused, 1)

    def object_to(self, rule: str, path: str, fact: str, length: int = 0) -> None:
        """Note what no caller may send; under `mode: monitor` it is only reported."""
        mode = self._ruleset.policy.mode
        self._note(RequestError(rule, self.show(path), fact), rule, path, mode, length)

    def give_up(self, rule: str, path: str, fact: str) -> None:
        """Note why a body cannot be guarded at all, whatever the mode."""
        self._note(RequestError(rule, self.show(path), fact), rule, path, Mode.ENFORCE, 0)

    def give_up_on(self, error: LimitError | SurrogateError, path: str, length: int) -> None:
        """Note a string, or a body, that is over a limit of the policy."""
        self._note(error, error.rule, path, Mode.ENFORCE, length)

    def show(self, path: str) -> str:
        """Return a path that may be shown."""
        return defuse(path, self._ruleset)

    def violations(self) -> tuple[Violation, ...]:
        """Return what was found, at most `limits.max_violations`: objections first, what refuses always among them."""
        limit = self._ruleset.policy.limits.max_violations
        found = [*self._objections, *self._records][:limit]
        if self._refused is not None and self._refused[1] not in found:
            found = [self._refused[1], *found]
        return tuple(found)

    def groups(self) -> Iterator[Violation]:
        """Yield what a log gets."""
        yield from self._objections[:LOGGED_GROUPS]
        yield from self._tally.records()

    def verdict(self) -> Verdict:
        """Return what the policy says of the body."""
        return Verdict(self.action, self.violations(), self.count)

    def check(self) -> None:
        """Raise if the body is refused.

        Raises:
            RequestError: It holds what no caller may send, or has the wrong shape.
            LimitError: It is over a limit.
            SurrogateError: A lone surrogate under `surrogates: refuse`.
            RefusedError: The policy blocks a form in it.
        """
        if self._enforced is not None:
            if isinstance(self._enforced, RequestError):
                self._enforced.violations = self.violations()
            raise self._enforced
        if self._refused is not None:
            raise RefusedError(self._refused[0], self.violations())

    def _note(self, error: GuardtokError, rule: str, path: str, mode: Mode, length: int) -> None:
        self.count += 1
        self._heed(Action.BLOCK)
        first = mode is Mode.ENFORCE and self._enforced is None
        if first:
            self._enforced = error
        if first or len(self._objections) < _MAX_OBJECTIONS:
            record = record_refusal(rule, path, length, mode, self._ruleset, self._key, self._request_id)
            self._objections.append(record)

    def _heed(self, action: Action) -> None:
        if action.severity > self.action.severity:
            self.action = action


def refuse_changes(report: Report) -> Report:
    """Return the report of a string that must stay as it is: what would change it refuses it."""
    decided = report.decided
    if not (decided.breaks or decided.cuts):
        return report

    def refuse(finding: Finding) -> Finding:
        if finding.mode is Mode.MONITOR or finding.action.severity < Action.ESCAPE.severity:
            return finding
        return finding._replace(action=Action.BLOCK, rule=VERBATIM)

    findings = tuple(map(refuse, decided.findings))
    groups = tuple((refuse(finding), count) for finding, count in decided.groups)
    refused = next(
        (f for f, _ in groups if f.action is Action.BLOCK and f.mode is Mode.ENFORCE),
        # Several sources spelled it, and not the one that reports it asks for the change.
        groups[0][0]._replace(action=Action.BLOCK, rule=VERBATIM, mode=Mode.ENFORCE),
    )
    made = replace(decided, findings=findings, groups=groups, refused=decided.refused or refused, breaks=(), cuts=())
    return replace(report, decided=made)
