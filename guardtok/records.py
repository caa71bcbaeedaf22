"""Findings → `Violation` records: the one place that decides what a log may know of a text.

Records travel: into log stores, terminals, tickets, prompts. So a record names a form broken, identifies text by a
keyed digest that means nothing without the key, and shows an excerpt only where the policy says so, escaped and with
every form in it broken.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from guardtok.policy.model import LogText
from guardtok.scan import find
from guardtok.violation import Action, Verdict, Violation, broken, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardtok.decide import Decided, Finding
    from guardtok.errors import LimitError, SurrogateError
    from guardtok.intake import Intake
    from guardtok.ruleset import Ruleset
    from guardtok.text import Text

LOGGED_GROUPS = 16
"""So many records of one call go to the sinks, each with a count; the rest are summed up."""

AROUND = 24
"""Characters of an excerpt on each side of the match."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in one text, written out as records when somebody asks.

    Attributes:
        intake: The text.
        decided: What was decided about it.
        ruleset: The rules that decided.
        key: Key of the digests.
        request_id: What the caller gave, or None.
    """

    intake: Intake = field(repr=False)
    decided: Decided
    ruleset: Ruleset = field(repr=False)
    key: bytes = field(repr=False)
    request_id: str | None

    def violations(self) -> tuple[Violation, ...]:
        """Return one record per finding, in the order of the text, at most `limits.max_violations`."""
        return tuple(self.write(finding, 1) for finding in self.decided.findings)

    def groups(self) -> Iterator[Violation]:
        """Yield what a log gets: see `Tally`."""
        tally = Tally()
        tally.add(self)
        return tally.records()

    def refusal(self) -> tuple[str, tuple[Violation, ...]]:
        """Return the form that was refused and the violations, the refused one among them."""
        refused = self.decided.refused
        if refused is None:
            return "", self.violations()
        found = self.violations()
        if refused not in self.decided.findings:
            found = (self.write(refused, 1), *found)
        return self.ruleset.forms[refused.match[0]].text, found

    def verdict(self) -> Verdict:
        """Return what the policy says of the text."""
        return Verdict(self.decided.action, self.violations(), self.decided.count)

    def write(self, finding: Finding, count: int) -> Violation:
        """Write one finding out, standing for so many."""
        index, start, end = finding.match
        form = self.ruleset.forms[index]
        run = self.intake.runs[finding.run]
        policy, tokenizer = self.ruleset.policy, self.ruleset.tokenizer
        return Violation(
            rule=finding.rule,
            token=broken(form.text),
            token_id=form.token_id,
            role=str(form.role) if form.role is not None else None,
            source=finding.source,
            path=run.path,
            start=self.intake.caller_position(run, start),
            end=self.intake.caller_position(run, min(end, run.end)),
            form=finding.view,
            count=count,
            action=finding.action,
            mode=finding.mode,
            policy=policy.name,
            policy_digest=policy.digest,
            tokenizer=tokenizer.name if tokenizer is not None else None,
            request_id=self.request_id,
            digest=self._digest(start, end, finding.run),
            excerpt=self._excerpt(start, end) if policy.log is LogText.EXCERPT else None,
        )

    def _digest(self, start: int, end: int, run_index: int) -> str:
        """Digest the matched characters, or the whole string that they are in where the policy lets a log know it."""
        if self.ruleset.policy.log is not LogText.NEVER:
            start, end = self._string_around(run_index)
        return _digest(self.intake.text[start:end], self.key)

    def _string_around(self, index: int) -> tuple[int, int]:
        """Return the stretch of neighbouring runs that share source and path with the run at `index`."""
        runs = self.intake.runs
        here = (runs[index].source, runs[index].path)
        first = last = index
        while first > 0 and (runs[first - 1].source, runs[first - 1].path) == here:
            first -= 1
        while last + 1 < len(runs) and (runs[last + 1].source, runs[last + 1].path) == here:
            last += 1
        return runs[first].start, runs[last].end

    def _excerpt(self, start: int, end: int) -> str:
        text = self.intake.text[max(0, start - AROUND) : end + AROUND]
        return defuse(text, self.ruleset)


class Tally:
    """What a log gets: one record per form, rule, source and path, its place that of the first occurrence.

    A vocabulary has a thousand forms, and a text can hold them all: after sixteen records, those of one rule, source
    and action are one record, whose token is `*`. The counts are always whole.
    """

    __slots__ = ("_groups", "_members")

    def __init__(self) -> None:
        self._members: dict[tuple[object, ...], _Group] = {}  # by form, rule, source and path
        self._groups: dict[tuple[object, ...], _Group] = {}

    def add(self, report: Report) -> None:
        """Count the findings of one more stretch of the same text."""
        for finding, count in report.decided.groups:
            key: tuple[object, ...] = (
                finding.match[0],
                finding.rule,
                finding.source,
                report.intake.runs[finding.run].path,
                finding.view,
            )
            group = self._members.get(key)
            if group is None:
                # After the first sixteen a group is one of rule, source and action.
                kind = key if len(self._groups) < LOGGED_GROUPS else (finding.rule, finding.source, finding.action)
                group = self._groups.get(kind)
                if group is None:
                    group = self._groups[kind] = _Group(report.write(finding, 1))
                group.members += 1
                self._members[key] = group
            group.count += count

    def records(self) -> Iterator[Violation]:
        """Yield the records: the first sixteen, then what sums up the rest."""
        for group in self._groups.values():
            record = replace(group.record, count=group.count)
            yield replace(record, token="*", token_id=None, role=None) if group.members > 1 else record  # noqa: S106


@dataclass(slots=True)
class _Group:
    record: Violation
    count: int = 0
    members: int = 0


def refuse_intake(
    error: LimitError | SurrogateError, text: Text, ruleset: Ruleset, key: bytes, request_id: str | None
) -> Verdict:
    """Return the verdict on a text, not empty, that cannot even be scanned: `block`, with a record that says why."""
    policy, tokenizer = ruleset.policy, ruleset.tokenizer
    sources = dict.fromkeys(run.source for run in text.runs)
    record = Violation(
        rule=error.rule,
        token="",
        token_id=None,
        role=None,
        source="+".join(sources),
        path=text.runs[0].path,
        start=0,
        end=len(text),
        form="exact",
        count=1,
        action=Action.BLOCK,
        mode=policy.mode,
        policy=policy.name,
        policy_digest=policy.digest,
        tokenizer=tokenizer.name if tokenizer is not None else None,
        request_id=request_id,
        digest=_digest("", key),
    )
    return Verdict(Action.BLOCK, (record,), 1)


def hasher(key: bytes) -> hashlib.blake2b:
    """Return the keyed hash that identifies text in records."""
    return hashlib.blake2b(key=key, digest_size=16)


def _digest(text: str, key: bytes) -> str:
    keyed = hasher(key)
    keyed.update(text.encode())
    return keyed.hexdigest()


def defuse(text: str, ruleset: Ruleset) -> str:
    """Return `text` for eyes: forms broken after their first character, unprintable characters escaped."""
    data = text.encode()
    breaks = {start + len(data[start:end].decode()[0].encode()) for _, start, end in find(data, ruleset)}
    borders = [0, *sorted(breaks), len(data)]
    return visible("_".join(data[a:b].decode() for a, b in pairwise(borders)))
