"""Disguised forms → findings: what the policy says about text that is no token, but becomes one after a fold.

A look-alike is never an id and takes none away: what was decided about the exact forms stands. It is reported, or the
text is refused, as `lookalikes` says for the source that wrote it.
"""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING

from guardtok.decide import Finding, changes, leftmost_longest
from guardtok.ruleset import FormKind, to_action
from guardtok.views import find_disguised
from guardtok.violation import Action, Mode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from guardtok.decide import Decided
    from guardtok.intake import Intake
    from guardtok.ruleset import Ruleset
    from guardtok.views import Disguise
    from guardtok.violation import Match

_ESCAPED = 16
"""So many characters an escape has, on the average of a form, at most."""

LOOKALIKES = "lookalikes"
"""The rule of a form in disguise."""


def add_lookalikes(decided: Decided, matches: Sequence[Match], intake: Intake, ruleset: Ruleset) -> Decided:
    """Return the decision with what is to be said of disguised forms, if the text has a source whose matter.

    Args:
        decided: The decision about the exact matches.
        matches: The exact matches.
        intake: The text.
        ruleset: What its sources may do.

    Raises:
        ViewError: A view failed; nothing is known of the text.
    """
    watched = ruleset.watched
    for run in intake.runs:
        if run.source in watched:
            disguises = look(intake, matches, ruleset)
            return add_disguises(decided, disguises, intake, ruleset) if disguises else decided
    return decided


def add_disguises(decided: Decided, disguises: Sequence[Disguise], intake: Intake, ruleset: Ruleset) -> Decided:
    """Return the decision with what is to be said of these disguised forms."""
    judged = list(judge_disguises(disguises, intake, ruleset))
    if not judged:
        return decided
    # What lies inside another is no finding of its own; but that one, when it is broken, holds it no more.
    found = [finding for finding, each in judged if not each.inner]
    groups: dict[tuple[int, str, str, str], list[Finding]] = {}
    for finding in found:
        path = intake.runs[finding.run].path
        groups.setdefault((finding.match[0], finding.source, path, finding.view), []).append(finding)
    # After the first character that was read, if there are two: the escape that it may be stays whole.
    breaks = [
        (each.form, each.second - 1 if each.second < each.end else each.start, each.end)
        for finding, each in judged
        if changes(finding) and not (each.inner and any(low <= each.start < high for _, low, high in decided.allowed))
    ]
    findings = sorted([*decided.findings, *found], key=_in_order)
    blocks = (each for each in found if each.action is Action.BLOCK and each.mode is Mode.ENFORCE)
    refused = sorted([*filter(None, [decided.refused, next(blocks, None)])], key=_in_order)
    return replace(
        decided,
        breaks=tuple(sorted([*decided.breaks, *breaks], key=leftmost_longest)) if breaks else decided.breaks,
        findings=tuple(findings[: ruleset.policy.limits.max_violations]),
        groups=(*decided.groups, *((group[0], len(group)) for group in groups.values())),
        refused=refused[0] if refused else None,
    )


def look(intake: Intake, matches: Sequence[Match], ruleset: Ruleset) -> list[Disguise]:
    """Return every form in disguise in a text, by start; see `guardtok.views.find_disguised`.

    Escapes of escapes can be of any length. Those longer than `longest_disguise` are left out, for no stream could hold
    them.

    Raises:
        ViewError: A view failed; nothing is known of the text.
    """
    found = find_disguised(intake.text, intake.data, matches, ruleset.lookout)
    longest = longest_disguise(ruleset) if found else 0
    return [each for each in found if each.end - each.start <= longest]


def longest_disguise(ruleset: Ruleset) -> int:
    """Return how many characters a form in disguise may have: sixteen and what may be hidden, for each of its own."""
    return ruleset.longest * (_ESCAPED + ruleset.policy.limits.max_hidden)


def judge_disguises(
    disguises: Sequence[Disguise], intake: Intake, ruleset: Ruleset
) -> Iterator[tuple[Finding, Disguise]]:
    """Yield a finding for each place with a form in disguise that some source of it may not write.

    Where one place may stand for several forms, the first of them that is reported stands for all.
    """
    last = None
    for disguise in disguises:
        form, start, end = disguise.form, disguise.start, disguise.end
        if (start, end) == last:
            continue
        first = intake.run_at(start)
        sources = dict.fromkeys(run.source for run in intake.runs[first : intake.run_at(end - 1) + 1])
        asked = [(_react(form, source, ruleset), ruleset.modes[source]) for source in sources]
        action = max((action for action, _ in asked), key=attrgetter("severity"))
        if action is Action.ALLOW:
            continue
        last = start, end
        mode = Mode.ENFORCE if (action, Mode.ENFORCE) in asked else Mode.MONITOR
        finding = Finding((form, start, end), action, LOOKALIKES, mode, "+".join(sources), first, disguise.view)
        yield finding, disguise


def _react(form: int, source: str, ruleset: Ruleset) -> Action:
    """Return what a source's disguise of a form leads to: for another family's, never to more than the form itself."""
    itself = ruleset.table[source][form].action
    if itself is Action.ALLOW:
        return Action.ALLOW
    action = to_action(ruleset.lookalikes[source])
    foreign = ruleset.forms[form].kind is FormKind.FOREIGN
    return min(action, itself, key=attrgetter("severity")) if foreign else action


def _in_order(finding: Finding) -> tuple[int, int]:
    return leftmost_longest(finding.match)
