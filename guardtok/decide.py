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

_CHANGING = frozenset({Action.ESCAPE, Action.STRIP})
"""The actions that change text which goes on as text."""

_SAID_BY = {
    (action, mode): [(a, m) for a in Action for m in {mode, Mode.MONITOR} if a.severity <= action.severity]
    for action in Action
    for mode in Mode
}
"""For an action and a mode, all that say no more."""

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


class Window(NamedTuple):
    """A part of a text that is decided part by part.

    Attributes:
        stop: Where the part ends. Matches that begin after that are not decided yet.
        allowed: The allowed matches of earlier parts that end in this one, or where it begins.
        findings: The findings of earlier parts that end in this one. They are not reported again.
    """

    stop: int
    allowed: tuple[Match, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision about one text.

    Attributes:
        allowed: The matches that become ids, in order, none overlapping another.
        cuts: Stretches of characters to delete, in order, none overlapping another.
        breaks: The matches that may not stay whole where text goes on as text, by start, then the longest first. Cuts
            take some of them apart already.
        findings: The matches that are not allowed, in the order of the text, at most `limits.max_violations`.
        groups: For each form, rule, source and path: its first finding and how many there are.
        refused: The first finding that an enforced `block` refuses, or None.
        reaching: Of a text that is decided part by part, the findings that end after the part, those known before too.
        candidates: The matches that may become ids, in order, overlapping ones too. `allowed` are the leftmost and
            longest of them; a tokenizer with rules of its own chooses otherwise.
    """

    allowed: tuple[Match, ...] = ()
    cuts: tuple[Span, ...] = ()
    breaks: tuple[Match, ...] = ()
    findings: tuple[Finding, ...] = ()
    groups: tuple[tuple[Finding, int], ...] = ()
    refused: Finding | None = None
    reaching: tuple[Finding, ...] = ()
    candidates: tuple[Match, ...] = ()

    @property
    def action(self) -> Action:
        """The most restrictive action of any finding, `allow` where there is none."""
        return max((group.action for group, _ in self.groups), key=attrgetter("severity"), default=Action.ALLOW)

    @property
    def count(self) -> int:
        """How many matches are not allowed, those beyond the cap of `findings` included."""
        return sum(count for _, count in self.groups)


NOTHING = Decided()


def decide(matches: list[Match], intake: Intake, ruleset: Ruleset, window: Window | None = None) -> Decided:
    """Decide every match from the sources of its characters.

    Args:
        matches: Every match in the text, overlapping ones too, in any order.
        intake: The text.
        ruleset: What its sources may do.
        window: For a text that is decided part by part: what was decided before. All others begin after that.
    """
    context = window is not None and bool(window.allowed or window.findings)
    if not matches and not context:
        return NOTHING
    if not context:
        quick = _decide_inert(matches, intake, ruleset, window)
        if quick is not None:
            return quick
    candidates = list(window.allowed) if window else []
    found = list(window.findings) if window else []
    for match in sorted(matches, key=leftmost_longest):
        finding = _judge(match, intake, ruleset)
        if finding is not None:
            found.append(finding)
        elif ruleset.forms[match[0]].kind is FormKind.CONTROL:
            candidates.append(match)
    allowed = tuple(_without_overlaps(candidates))
    written = list(_outside(found, allowed))
    # A source that strips does so whatever stricter thing another, perhaps only monitored, asks for the same match.
    stripped = [f for f in written if f.action.severity >= Action.STRIP.severity]
    breaks = tuple(f.match for f in written if _must_break(f, intake, ruleset))
    findings = list(_without_contained(written))
    reaching: tuple[Finding, ...] = ()
    if window is not None:
        reaching = tuple(f for f in written if f.match[2] > window.stop)
        known = frozenset(window.findings)
        findings = [f for f in findings if f not in known]
        written = [f for f in written if f not in known]
    groups: dict[tuple[int, str, str, str], list[Finding]] = {}
    for finding in findings:
        run = intake.runs[finding.run]
        groups.setdefault((finding.match[0], finding.rule, finding.source, run.path), []).append(finding)
    return Decided(
        allowed=allowed,
        cuts=tuple(_cut(stripped, allowed, intake, ruleset)),
        breaks=breaks,
        findings=tuple(findings[: ruleset.policy.limits.max_violations]),
        groups=tuple((group[0], len(group)) for group in groups.values()),
        refused=next((f for f in written if f.action is Action.BLOCK and f.mode is Mode.ENFORCE), None),
        reaching=reaching,
        candidates=tuple(candidates) if ruleset.rules is not None else (),
    )


def leftmost_longest(match: Match) -> tuple[int, int]:
    """Order matches by start, of those that begin at one place the longest first."""
    return match[1], -match[2]


def _judge(match: Match, intake: Intake, ruleset: Ruleset) -> Finding | None:
    """Return the finding for one match, or None where its single source may write it."""
    form, start, end = match
    first = intake.run_at(start)
    run = intake.runs[first]
    if end <= run.end:  # Nearly always, and in a prompt there are many: no more is made than is needed.
        own = ruleset.table[run.source][form]
        if own.action is Action.ALLOW:
            return None
        return Finding(match, own.action, own.rule, ruleset.modes[run.source], run.source, first)
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
    reach: dict[tuple[Action, Mode], int] = {}  # how far findings reach, so far, that say at least as much
    for finding in findings:
        end = finding.match[2]
        if end <= reach.get((finding.action, finding.mode), 0):
            continue
        for said in _SAID_BY[finding.action, finding.mode]:
            reach[said] = max(reach.get(said, 0), end)
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


def changes(finding: Finding) -> bool:
    """Whether text that goes on as text may not keep the match whole."""
    return finding.action in _CHANGING and finding.mode is Mode.ENFORCE


def _must_break(finding: Finding, intake: Intake, ruleset: Ruleset) -> bool:
    """Whether the match may not stay whole: the verdict says so, or one of its sources, whatever others monitor."""
    if changes(finding):
        return True
    if finding.rule != JOINT:
        return False
    form, _, end = finding.match
    sources = {run.source for run in intake.runs[finding.run : intake.run_at(end - 1) + 1]}
    return any(ruleset.table[s][form].action in _CHANGING and ruleset.modes[s] is Mode.ENFORCE for s in sources)


def _decide_inert(matches: list[Match], intake: Intake, ruleset: Ruleset, window: Window | None) -> Decided | None:
    """Decide a text of one run in which nothing is allowed or refused and no match overlaps; else return None.

    This is the flood that an attacker can send for nothing: forms and again forms, each encoded as text or taken out.
    It is decided form by form, not match by match, and the result is the one that the long way gives; but what is cut
    whole, as here every stripped match is, needs no break.
    """
    if len(intake.runs) > 1:
        return None
    source = intake.runs[0].source
    counts = Counter(map(_FORM, matches))
    decisions, mode = ruleset.table[source], ruleset.modes[source]
    # `&` with a view of keys would walk the whole set.
    stripped = ruleset.stripped[source].intersection(counts)
    if not counts.keys() - stripped <= ruleset.inert[source]:
        return None
    if not all(map(le, map(_END, matches), islice(map(_START, matches), 1, None))):
        return None
    why = {form: (decisions[form].action, decisions[form].rule, mode, source, 0) for form in counts}
    first = dict(zip(map(_FORM, reversed(matches)), reversed(matches), strict=True))
    changing = ruleset.escaped[source].intersection(counts)
    whole = len(changing) == len(counts)
    last = matches[-1]
    return Decided(
        cuts=tuple([Span(start, end) for form, start, end in matches if form in stripped]) if stripped else (),
        breaks=tuple(matches if whole else [match for match in matches if match[0] in changing]),
        findings=tuple([Finding(match, *why[match[0]]) for match in matches[: ruleset.policy.limits.max_violations]]),
        groups=tuple([(Finding(first[form], *why[form]), count) for form, count in counts.items()]),
        reaching=(Finding(last, *why[last[0]]),) if window is not None and last[2] > window.stop else (),
    )
