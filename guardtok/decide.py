"""Matches → what is allowed, what is cut, what is found: the whole decision, pure.

Its properties, each with a test of that name: only allowed matches become ids; a form that several sources spelled
together is never allowed; the most restrictive action wins; adding a blocked form never admits anything; the order of
matches does not matter; an untrusted neighbour moves no allowed match.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter, itemgetter, le
from typing import TYPE_CHECKING, NamedTuple

from guardtok.ruleset import FormKind
from guardtok.violation import Action, Mode, Span

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from guardtok.intake import Intake
    from guardtok.ruleset import Ruleset
    from guardtok.violation import Match

JOINT = "joint"
"""The rule of a match that several sources spelled together."""

_FORM, _START, _END = itemgetter(0), itemgetter(1), itemgetter(2)


class Finding(NamedTuple):
    """A match that is not allowed, and why.

    Attributes:
        match: Form, first character, one past the last.
        action: What the policy asks for.
        rule: The rule that decided.
        mode: Whether it is enforced.
        source: Who wrote it; several sources joined by `+` in the order of the text.
        run: Index of the run that the match begins in.
        view: `exact`, or the name of the views in which the form was seen.
    """

    match: Match
    action: Action
    rule: str
    mode: Mode
    source: str
    run: int
    view: str = "exact"


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision about one text.

    Attributes:
        allowed: The matches that become ids, in order, none overlapping another.
        cuts: Stretches of characters to delete, in order, none overlapping another.
        findings: The matches that are not allowed, in the order of the text, at most `limits.max_violations`.
        groups: For each form, rule, source and path: its first finding and how many there are.
        refused: The first finding that an enforced `block` refuses, or None.
    """

    allowed: tuple[Match, ...] = ()
    cuts: tuple[Span, ...] = ()
    findings: tuple[Finding, ...] = ()
    groups: tuple[tuple[Finding, int], ...] = ()
    refused: Finding | None = None

    @property
    def action(self) -> Action:
        """The most restrictive action of any finding, `allow` where there is none."""
        return max((group.action for group, _ in self.groups), key=attrgetter("severity"), default=Action.ALLOW)

    @property
    def count(self) -> int:
        """How many matches are not allowed, those beyond the cap of `findings` included."""
        return sum(count for _, count in self.groups)


NOTHING = Decided()


def decide(matches: list[Match], intake: Intake, ruleset: Ruleset) -> Decided:
    """Decide every match from the sources of its characters.

    Args:
        matches: Every match in the text, overlapping ones too, in any order.
        intake: The text.
        ruleset: What its sources may do.
    """
    if not matches:
        return NOTHING
    quick = _decide_inert(matches, intake, ruleset)
    if quick is not None:
        return quick
    candidates: list[Match] = []
    findings: list[Finding] = []
    for match in sorted(matches, key=_leftmost_longest):
        finding = _judge(match, intake, ruleset)
        if finding is not None:
            findings.append(finding)
        elif ruleset.forms[match[0]].kind is FormKind.CONTROL:
            candidates.append(match)
    allowed = tuple(_without_overlaps(candidates))
    written = list(_outside(findings, allowed))
    # A source that strips does so whatever stricter thing another, perhaps only monitored, asks for the same match.
    stripped = [f for f in written if f.action.severity >= Action.STRIP.severity]
    findings = list(_without_contained(written))
    groups: dict[tuple[int, str, str, str], list[Finding]] = {}
    for finding in findings:
        run = intake.runs[finding.run]
        groups.setdefault((finding.match[0], finding.rule, finding.source, run.path), []).append(finding)
    return Decided(
        allowed=allowed,
        cuts=tuple(_cut(stripped, allowed, intake, ruleset)),
        findings=tuple(findings[: ruleset.policy.limits.max_violations]),
        groups=tuple((group[0], len(group)) for group in groups.values()),
        refused=next((f for f in written if f.action is Action.BLOCK and f.mode is Mode.ENFORCE), None),
    )


def _leftmost_longest(match: Match) -> tuple[int, int]:
    return match[1], -match[2]


def _judge(match: Match, intake: Intake, ruleset: Ruleset) -> Finding | None:
    """Return the finding for one match, or None where its single source may write it."""
    form, start, end = match
    first = intake.run_at(start)
    runs = intake.runs[first : intake.run_at(end - 1) + 1]
    sources = dict.fromkeys(run.source for run in runs)
    decisions = [(ruleset.table[source][form], ruleset.modes[source]) for source in sources]
    if len(decisions) == 1:
        (decision, mode), (source,) = decisions[0], sources
        if decision.action is Action.ALLOW:
            return None
        return Finding(match, decision.action, decision.rule, mode, source, first)
    floor = Action.LOG if ruleset.forms[form].kind is FormKind.FOREIGN else Action.ESCAPE
    action = max([floor, *(decision.action for decision, _ in decisions)], key=lambda a: a.severity)
    asking = [mode for decision, mode in decisions if decision.action is action] or [mode for _, mode in decisions]
    mode = Mode.ENFORCE if Mode.ENFORCE in asking else Mode.MONITOR
    return Finding(match, action, JOINT, mode, "+".join(sources), first)


def _without_overlaps(matches: list[Match]) -> Iterator[Match]:
    """Yield the leftmost match, the longest of those that begin there, and so on after it."""
    end = 0
    for match in matches:
        if match[1] >= end:
            end = match[2]
            yield match


def _outside(findings: list[Finding], allowed: Sequence[Match]) -> Iterator[Finding]:
    """Drop findings that lie inside an allowed match: `X1` inside an allowed `X199` was not written."""
    index = 0
    for finding in findings:
        _, start, end = finding.match
        while index < len(allowed) and allowed[index][2] <= start:
            index += 1
        if index == len(allowed) or start < allowed[index][1] or allowed[index][2] < end:
            yield finding


def _without_contained(findings: list[Finding]) -> Iterator[Finding]:
    """Drop findings inside a longer one that says at least as much: `X1` and `X19` inside a forbidden `X199`."""
    reach = {(action, mode): 0 for action in Action for mode in Mode}  # how far such findings reach, so far
    for finding in findings:
        end = finding.match[2]
        if end <= reach[finding.action, finding.mode]:
            continue
        for (action, mode), reached in reach.items():
            if action.severity <= finding.action.severity and mode in (finding.mode, Mode.MONITOR):
                reach[action, mode] = max(reached, end)
        yield finding


def _cut(strips: list[Finding], allowed: Sequence[Match], intake: Intake, ruleset: Ruleset) -> Iterator[Span]:
    """Yield the stretches to delete: of each stripped match the characters whose own source asks for it.

    A character of an allowed match stays: it is part of a token that trusted text wrote.
    """
    index = done = 0
    for low, high in sorted(span for finding in strips for span in _own_characters(finding, intake, ruleset)):
        start = max(low, done)
        while start < high:
            while index < len(allowed) and allowed[index][2] <= start:
                index += 1
            stop = min(high, allowed[index][1]) if index < len(allowed) else high
            if start < stop:
                yield Span(start, stop)
            start = stop if stop == high else allowed[index][2]
        done = max(done, high)


def _own_characters(finding: Finding, intake: Intake, ruleset: Ruleset) -> Iterator[tuple[int, int]]:
    form, start, end = finding.match
    for index in range(finding.run, len(intake.runs)):
        run = intake.runs[index]
        if run.start >= end:
            return
        if ruleset.table[run.source][form].action is Action.STRIP and ruleset.modes[run.source] is Mode.ENFORCE:
            yield max(start, run.start), min(end, run.end)


def _decide_inert(matches: list[Match], intake: Intake, ruleset: Ruleset) -> Decided | None:
    """Decide a text of one run in which nothing can change or raise and no match overlaps; else return None.

    This is the flood that an attacker can send for nothing: forms and again forms, each encoded as text. It is decided
    form by form, not match by match, and the result is the one that the long way gives.
    """
    if len(intake.runs) > 1:
        return None
    source = intake.runs[0].source
    counts = Counter(map(_FORM, matches))
    if not counts.keys() <= ruleset.inert[source]:
        return None
    if not all(map(le, map(_END, matches), islice(map(_START, matches), 1, None))):
        return None
    decisions, mode = ruleset.table[source], ruleset.modes[source]
    why = {form: (decisions[form].action, decisions[form].rule, mode, source, 0) for form in counts}
    first = dict(zip(map(_FORM, reversed(matches)), reversed(matches), strict=True))
    return Decided(
        findings=tuple([Finding(match, *why[match[0]]) for match in matches[: ruleset.policy.limits.max_violations]]),
        groups=tuple([(Finding(first[form], *why[form]), count) for form, count in counts.items()]),
    )
