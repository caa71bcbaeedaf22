"""Findings → `Violation` records: the one place that decides what a log may know of a text.

Records travel: into log stores, terminals, tickets, prompts. So a record names a form broken, identifies text by a
keyed digest that means nothing without the key, and shows an excerpt only where the policy says so, escaped and with
every form in it broken.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import groupby, pairwise, repeat
from typing import TYPE_CHECKING

from guardtok.policy.model import LogText
from guardtok.ruleset import catalogue_automata
from guardtok.scan import find
from guardtok.text import UNKNOWN
from guardtok.violation import Action, Mode, Verdict, Violation, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from guardtok.decide import Decided, Finding
    from guardtok.errors import LimitError, SurrogateError
    from guardtok.intake import Intake
    from guardtok.ruleset import Ruleset
    from guardtok.text import Text

LOGGED_GROUPS = 8
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
        others: What was found in other texts that belong to this one, and is reported behind it.
    """

    intake: Intake = field(repr=False)
    decided: Decided
    ruleset: Ruleset = field(repr=False)
    key: bytes = field(repr=False)
    request_id: str | None
    others: tuple[Report, ...] = ()

    @property
    def count(self) -> int:
        """How many matches are not allowed."""
        return self.decided.count

    def violations(self) -> tuple[Violation, ...]:
        """Return one record per finding, in the order of the text, at most `limits.max_violations`."""
        write = self.writer()
        own = [write(finding, 1) for finding in self.decided.findings]
        also = [violation for other in self.others for violation in other.violations()]
        return tuple([*own, *also][: self.ruleset.policy.limits.max_violations])

    def groups(self) -> Iterator[Violation]:
        """Yield what a log gets: see `Tally`."""
        tally = Tally()
        for report in (self, *self.others):
            tally.add(report)
        yield from tally.records()

    def refusal(self) -> tuple[str, tuple[Violation, ...]]:
        """Return the form that was refused and the violations, the refused one among them."""
        refused = self.decided.refused
        if refused is None:
            return "", self.violations()
        found = self.violations()
        if refused not in self.decided.findings:
            found = (self.writer()(refused, 1), *found)
        return self.ruleset.forms[refused.match[0]].text, found

    def verdict(self) -> Verdict:
        """Return what the policy says of the text."""
        return Verdict(self.decided.action, self.violations(), self.decided.count)

    def writer(self) -> Callable[[Finding, int], Violation]:
        """Return a function that writes records and spells or digests no string twice: there can be a thousand."""
        ruleset, intake = self.ruleset, self.intake
        policy = ruleset.policy
        tokenizer = ruleset.tokenizer.name if ruleset.tokenizer is not None else None
        # A rule spells its selector, a path the caller's keys, an id what a client sent, and a form may hold another.
        spell = cache(partial(defuse, ruleset=ruleset))
        digest = cache(self._digest)
        strings = list(self._strings()) if policy.log is not LogText.NEVER else []
        request_id = spell(self.request_id) if self.request_id is not None else None

        def write(finding: Finding, count: int) -> Violation:
            index, start, end = finding.match
            form = ruleset.forms[index]
            run = intake.runs[finding.run]
            span = (start, end) if policy.log is LogText.NEVER else strings[finding.run]
            return Violation(
                rule=spell(finding.rule),
                token=spell(form.text),
                token_id=form.token_id,
                role=form.role.value if form.role is not None else None,
                source=finding.source,
                path=spell(run.path),
                start=intake.caller_position(run, start),
                end=intake.caller_position(run, min(end, run.end)),
                form=finding.view,
                count=count,
                action=finding.action,
                mode=finding.mode,
                policy=policy.name,
                policy_digest=policy.digest,
                tokenizer=tokenizer,
                request_id=request_id,
                digest=digest(*span),
                excerpt=self._excerpt(start, end) if policy.log is LogText.EXCERPT else None,
            )

        return write

    def _digest(self, start: int, end: int) -> str:
        return _digest(self.intake.text[start:end], self.key)

    def _strings(self) -> Iterator[tuple[int, int]]:
        """Yield, for each run, the stretch of neighbouring runs that share its source and path."""
        for _, neighbours in groupby(self.intake.runs, key=lambda run: (run.source, run.path)):
            runs = list(neighbours)
            yield from repeat((runs[0].start, runs[-1].end), len(runs))

    def _excerpt(self, start: int, end: int) -> str:
        text = self.intake.text[max(0, start - AROUND) : end + AROUND]
        return defuse(text, self.ruleset)


class Tally:
    """What a log gets: one record per form, rule, source and path, its place that of the first occurrence.

    A vocabulary has a thousand forms, and a text can hold them all: after eight records, those of one rule, source
    and action are one record, whose token is `*`. The counts are always whole.
    """

    __slots__ = ("_groups", "_members")

    def __init__(self) -> None:
        self._members: dict[tuple[object, ...], _Group] = {}  # by form, rule, source and path
        self._groups: dict[tuple[object, ...], _Group] = {}

    def add(self, report: Report) -> None:
        """Count the findings of one more stretch of the same text."""
        write = report.writer()
        members, groups, runs = self._members, self._groups, report.intake.runs
        for finding, count in report.decided.groups:
            match, action, rule, _, source, run, view = finding
            key = (match[0], rule, source, runs[run].path, view)
            group = members.get(key)
            if group is None:
                # After the first eight a group is one of rule, source and action.
                kind = key if len(groups) < LOGGED_GROUPS else (rule, source, action)
                group = groups.get(kind)
                if group is None:
                    group = groups[kind] = _Group(write(finding, 1))
                group.members += 1
                members[key] = group
            group.count += count

    def records(self) -> Iterator[Violation]:
        """Yield the records: the first eight, then what sums up the rest."""
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
    source = "+".join(dict.fromkeys(run.source for run in text.runs))
    # Limits bound the work and hold in monitor mode too.
    record = record_refusal(
        error.rule, text.runs[0].path, len(text), Mode.ENFORCE, ruleset, key, request_id, source=source
    )
    return Verdict(Action.BLOCK, (record,), 1)


def record_refusal(  # noqa: PLR0913, PLR0917 - the parts of a record
    rule: str,
    path: str,
    length: int,
    mode: Mode,
    ruleset: Ruleset,
    key: bytes,
    request_id: str | None,
    *,
    source: str = UNKNOWN,
) -> Violation:
    """Return the record of a value of so many characters that is refused as a whole, and not for a form in it."""
    policy, tokenizer = ruleset.policy, ruleset.tokenizer
    return Violation(
        rule=rule,
        token="",
        token_id=None,
        role=None,
        source=source,
        path=defuse(path, ruleset),
        start=0,
        end=length,
        form="exact",
        count=1,
        action=Action.BLOCK,
        mode=mode,
        policy=policy.name,
        policy_digest=policy.digest,
        tokenizer=tokenizer.name if tokenizer is not None else None,
        request_id=defuse(request_id, ruleset) if request_id is not None else None,
        digest=_digest("", key),
    )


def hasher(key: bytes) -> hashlib.blake2b:
    """Return the keyed hash that identifies text in records."""
    return hashlib.blake2b(key=key, digest_size=16)


def _digest(text: str, key: bytes) -> str:
    keyed = hasher(key)
    keyed.update(text.encode())
    return keyed.hexdigest()


def defuse(text: str, ruleset: Ruleset) -> str:
    """Return `text` for eyes: forms broken after their first character, unprintable characters escaped.

    Broken are the ruleset's forms and those of every family that the catalogue knows: a log can end up anywhere. Where
    a form is still there when it is broken (it is one character, or has another broken form's spelling), its first
    character is written as an escape.
    """
    data = text.encode("utf-8", "backslashreplace")  # A path may hold half a surrogate pair.
    breaks = {start + width for start, width in _first_characters(data, ruleset)}
    borders = [0, *sorted(breaks), len(data)]
    spelled = "_".join(data[a:b].decode() for a, b in pairwise(borders))
    if breaks:
        data = spelled.encode()
        for start, width in sorted(_first_characters(data, ruleset), reverse=True):
            escaped = data[start : start + width].decode().encode("unicode_escape")
            escaped = escaped if escaped.startswith(b"\\") else b"\\x%02x" % ord(escaped)
            data = data[:start] + escaped + data[start + width :]
        spelled = data.decode()
    return visible(spelled)


def _first_characters(data: bytes, ruleset: Ruleset) -> set[tuple[int, int]]:
    """Return where each form in UTF-8 text begins, and the width of its first character, in bytes."""
    starts = {start for _, start, _ in find(data, ruleset.automata)}
    starts.update(start for _, start, _ in find(data, catalogue_automata()))
    return {(start, len(data[start : start + 4].decode("utf-8", "ignore")[0].encode())) for start in starts}
