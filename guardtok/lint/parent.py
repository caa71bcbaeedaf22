"""Compares a policy with the one that it extends: whatever the child forbids less is listed.

Who takes over a policy as a parent relies on it, and a child can undo any line of it. Each such line is shown once, so
that a reviewer can say yes to it.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from typing_extensions import assert_never

from guardtok.dialects import catalogue
from guardtok.errors import GuardtokError
from guardtok.lint.finding import LintFinding, Severity, name_forms, name_sources, place_of
from guardtok.policy.bounds import shown
from guardtok.policy.model import (
    ANY_SOURCE,
    CallerTemplate,
    LogText,
    Mark,
    Reaction,
    SourceRules,
    Surrogates,
    TokenIds,
)
from guardtok.policy.resolve import Decision, builtin_universe, mode_of, resolve, sources_of
from guardtok.policy.selectors import declared_forms
from guardtok.ruleset import bind
from guardtok.violation import Action, Mode

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from enum import Enum

    from guardtok.policy.model import Policy
    from guardtok.tokenizer import Tokenizer

_Table: TypeAlias = "Mapping[str, Mapping[str, Decision]]"
"""Decision by source and form."""

FOREIGN = "foreign"
"""The rule that decides forms of other families."""

_NOT_SOUGHT = Decision(Action.ALLOW, "not looking for it", None)
"""What comes of a form that ordinary documents hold, or of any other family's where `foreign` is `ignore`."""

_MEND = "Keep it only if that is meant."

_FROM_MILD_TO_STRICT: Mapping[str, tuple[Enum, ...]] = MappingProxyType(
    {
        "foreign": tuple(Reaction),
        "lookalikes": tuple(Reaction),
        "surrogates": tuple(Surrogates),
        "log": tuple(LogText)[::-1],
        "chat_template": tuple(CallerTemplate)[::-1],
        "token_ids": tuple(TokenIds)[::-1],
    }
)


def review_parent(policy: Policy, tokenizer: Tokenizer | None) -> Iterator[LintFinding]:
    """Report everything in which a policy is less strict than the one that it extends.

    Args:
        policy: The policy.
        tokenizer: The tokenizer that it will be bound to, or None.
    """
    parent = policy.extends
    if parent is None:
        return
    yield from _weaker_rules(policy, parent, tokenizer)
    yield from _weaker_modes(policy, parent)
    yield from _weaker_lookalikes(policy, parent)
    yield from _weaker_settings(policy, parent)
    yield from _weaker_requests(policy, parent)
    yield from _more_text(policy, parent)


def _weaker_rules(policy: Policy, parent: Policy, tokenizer: Tokenizer | None) -> Iterator[LintFinding]:
    """Compare what comes out for each form and source, since the line of a rule is not all that decides."""
    dropped = _dropped_literals(policy, parent)
    ours, theirs = _decide_both(policy, parent, tokenizer, dropped)
    written = {token.form for token in policy.text_tokens}
    weakened: dict[tuple[Decision, Action, str], dict[str, set[str]]] = {}
    for source, decisions in ours.items():
        for form, before in theirs[source].items():
            now = decisions.get(form, _NOT_SOUGHT)
            if (
                form in written
                or now.action.severity >= before.action.severity
                or (before.rule == FOREIGN and now.mark is None)
            ):
                continue  # Where `foreign` decides both, the finding is one about `foreign`.
            place = now.mark or dropped.get(form) or f"{policy.place}:1:1"
            weakened.setdefault((now, before.action, str(place)), {}).setdefault(source, set()).add(form)
    for (now, action, place), forms in weakened.items():
        what = name_forms(frozenset[str]().union(*forms.values()), next(iter(theirs.values())))
        fact = f"For {name_sources(forms)}, {now.rule} makes {now.action} of {what}; {parent.name!r} says {action}."
        yield _finding(place, fact)


def _decide_both(
    policy: Policy, parent: Policy, tokenizer: Tokenizer | None, dropped: Collection[str]
) -> tuple[_Table, _Table]:
    """Return, for each source of the child, what child and parent decide of each form.

    Both are bound to the tokenizer. Where that cannot be done, or there is none, every family's tokens count as known,
    and what the child no longer spells out is decided as under a tokenizer that lacks it.
    """
    sources = sources_of(policy)
    # A source that only the child knows is for the parent one without rules; and what is pinned is not the matter here.
    unknown = {name: SourceRules(name, None, (), None, None, Mark(parent.place, 1, 1)) for name in sources}
    parent = replace(parent, sources={**unknown, **parent.sources}, tokenizer=None, lock=None)
    policy = replace(policy, tokenizer=None, lock=None)
    if tokenizer is not None:
        try:
            return _bound(policy, tokenizer), _bound(parent, tokenizer)
        except GuardtokError:  # That it cannot be bound is a finding of its own.
            pass
    known = builtin_universe(parent)
    universe = {form: names for form, names in builtin_universe(policy).items() if form in known}
    theirs = {source: resolve(parent, source, universe) for source in sources}
    ours = {source: resolve(policy, source, universe) for source in sources}
    for decisions in ours.values():
        for form in universe.keys() & dropped:
            foreign = _decide_foreign(policy, form)
            if foreign.action.severity < decisions[form].action.severity > Action.ALLOW.severity:
                decisions[form] = foreign
    return ours, theirs


def _bound(policy: Policy, tokenizer: Tokenizer) -> _Table:
    ruleset = bind(policy, tokenizer)
    texts = [form.text for form in ruleset.forms]
    return {source: dict(zip(texts, decisions, strict=True)) for source, decisions in ruleset.table.items()}


def _decide_foreign(policy: Policy, form: str) -> Decision:
    """Return what is decided of a form that the tokenizer does not have and the policy does not spell out."""
    match policy.foreign:
        case Reaction.IGNORE:
            return _NOT_SOUGHT
        case Reaction.LOG | Reaction.ESCAPE | Reaction.BLOCK:
            common = catalogue()[form].common
            return _NOT_SOUGHT if common else Decision(Action(policy.foreign.value), FOREIGN, None)
        case other:
            assert_never(other)


def _dropped_literals(policy: Policy, parent: Policy) -> Mapping[str, Mark]:
    """Return the forms that groups of the parent spell out and the child does not, with the group that dropped them.

    What a policy spells out is guarded under any tokenizer; anything else is foreign to one that lacks it.
    """
    kept = {entry.selector for rules in policy.sources.values() for entry in rules.entries} | declared_forms(policy)
    kept.update(member for group in policy.groups.values() for member in group.members)
    return {
        member: policy.groups[name].mark
        for name, group in parent.groups.items()
        for member in group.members
        if member in catalogue() and member not in kept
    }


def _weaker_modes(policy: Policy, parent: Policy) -> Iterator[LintFinding]:
    """Compare the mode that holds for each source, and name the line that sets it."""
    watched: dict[str, list[str]] = {}
    for source in sources_of(policy):
        if mode_of(policy, source) is Mode.ENFORCE or mode_of(parent, source) is Mode.MONITOR:
            continue
        rules = [policy.sources[name] for name in (source, ANY_SOURCE) if name in policy.sources]
        mark = next((each.mark for each in rules if each.mode is not None), None)
        watched.setdefault(str(mark or place_of(policy, "mode")), []).append(source)
    for place, sources in watched.items():
        yield _finding(place, f"`mode` is monitor for {name_sources(sources)}; {parent.name!r} enforces.")


def _weaker_lookalikes(policy: Policy, parent: Policy) -> Iterator[LintFinding]:
    scale = _FROM_MILD_TO_STRICT["lookalikes"]
    for name, rules in policy.sources.items():
        theirs = parent.sources.get(name)
        before = (theirs and theirs.lookalikes) or parent.lookalikes
        if rules.lookalikes is not None and scale.index(rules.lookalikes) < scale.index(before):
            fact = f"`lookalikes` of source {name!r} is {rules.lookalikes}; in {parent.name!r} it is {before}."
            yield _finding(str(rules.mark), fact)


def _weaker_settings(policy: Policy, parent: Policy) -> Iterator[LintFinding]:
    for key in ("foreign", "lookalikes", "surrogates", "log"):
        value, before = getattr(policy, key), getattr(parent, key)
        scale = _FROM_MILD_TO_STRICT[key]
        if scale.index(value) < scale.index(before):
            yield _finding(place_of(policy, key), f"`{key}` is {value.value}; in {parent.name!r} it is {before.value}.")
    if policy.limits.max_chars > parent.limits.max_chars:
        fact = f"`limits.max_chars` is {policy.limits.max_chars}; in {parent.name!r} it is {parent.limits.max_chars}."
        yield _finding(place_of(policy, "limits"), fact)
    pinned = parent.tokenizer is not None and parent.tokenizer.fingerprint is not None
    if pinned and (policy.tokenizer is None or policy.tokenizer.fingerprint is None):
        yield _finding(place_of(policy, "tokenizer"), f"{parent.name!r} pins the tokenizer's fingerprint.")
    if parent.chat.templates and not set(policy.chat.templates or ("",)) <= set(parent.chat.templates):
        fact = f"`chat.templates` lets chat templates be used that {parent.name!r} does not pin."
        yield _finding(place_of(policy, "chat"), fact)
    added = sorted(set(policy.chat.roles) - set(parent.chat.roles))
    if added:
        yield _finding(
            place_of(policy, "chat"), f"`chat.roles` names roles that {parent.name!r} refuses: {', '.join(added)}."
        )


def _weaker_requests(policy: Policy, parent: Policy) -> Iterator[LintFinding]:
    for key in ("chat_template", "token_ids"):
        scale = _FROM_MILD_TO_STRICT[key]
        value, before = getattr(policy.requests, key), getattr(parent.requests, key)
        if scale.index(value) < scale.index(before):
            fact = f"`requests.{key}` is {value.value}; in {parent.name!r} it is {before.value}."
            yield _finding(place_of(policy, "requests"), fact)


def _more_text(policy: Policy, parent: Policy) -> Iterator[LintFinding]:
    known = {token.form for token in parent.text_tokens}
    for token in policy.text_tokens:
        if token.form not in known:
            fact = f"{shown(token.form)} is text, which every source may write; for {parent.name!r} it is a token."
            yield _finding(str(token.mark), fact)


def _finding(place: str, fact: str) -> LintFinding:
    return LintFinding("weakens-parent", Severity.WARNING, place, fact, _MEND)
