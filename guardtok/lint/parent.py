"""Compares a policy with the one that it extends: whatever the child forbids less is listed.

Who takes over a policy as a parent relies on it, and a child can undo any line of it. Each such line is shown once, so
that a reviewer can say yes to it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from guardtok.lint.finding import LintFinding, Severity, name_forms, name_sources, place_of
from guardtok.policy.model import ANY_SOURCE, LogText, Reaction, Surrogates
from guardtok.policy.resolve import builtin_universe, resolve, sources_of
from guardtok.violation import Action, Mode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from enum import Enum

    from guardtok.policy.model import Policy
    from guardtok.policy.resolve import Decision

_MEND = "Keep it only if that is meant."

_FROM_MILD_TO_STRICT: Mapping[str, tuple[Enum, ...]] = MappingProxyType(
    {
        "foreign": tuple(Reaction),
        "lookalikes": tuple(Reaction),
        "surrogates": tuple(Surrogates),
        "log": tuple(LogText)[::-1],
    }
)


def review_parent(policy: Policy, universe: Mapping[str, frozenset[str]]) -> Iterator[LintFinding]:
    """Report everything in which a policy is less strict than the one that it extends.

    Args:
        policy: The policy.
        universe: Every form that is known, with the built-in names that it belongs to.
    """
    parent = policy.extends
    if parent is None:
        return
    known = builtin_universe(parent).keys() & universe.keys()
    yield from _weaker_rules(policy, parent, {form: universe[form] for form in universe if form in known})
    yield from _weaker_modes(policy, parent)
    yield from _weaker_settings(policy, parent)


def _weaker_rules(policy: Policy, parent: Policy, universe: Mapping[str, frozenset[str]]) -> Iterator[LintFinding]:
    forms: dict[tuple[Decision, Action], set[str]] = {}
    sources: dict[tuple[Decision, Action], list[str]] = {}
    for source in sources_of(policy):
        theirs = resolve(parent, source if source in sources_of(parent) else ANY_SOURCE, universe)
        for form, decision in resolve(policy, source, universe).items():
            before = theirs[form].action
            if decision.action.severity < before.severity:
                forms.setdefault((decision, before), set()).add(form)
                sources.setdefault((decision, before), []).append(source)
    for (decision, before), weakened in forms.items():
        who = name_sources(dict.fromkeys(sources[decision, before]))
        what = name_forms(weakened, universe)
        fact = f"For {who}, {decision.rule} makes {decision.action} of {what}; {parent.name!r} says {before}."
        yield _finding(str(decision.mark or f"{policy.place}:1:1"), fact)


def _weaker_modes(policy: Policy, parent: Policy) -> Iterator[LintFinding]:
    if parent.mode is Mode.ENFORCE and policy.mode is Mode.MONITOR:
        yield _finding(place_of(policy, "mode"), f"`mode` is monitor; {parent.name!r} enforces.")
    for name, rules in policy.sources.items():
        before = parent.sources.get(name)
        if rules.mode is Mode.MONITOR and ((before and before.mode) or parent.mode) is Mode.ENFORCE:
            yield _finding(str(rules.mark), f"The `mode` of source {name!r} is monitor; {parent.name!r} enforces.")


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


def _finding(place: str, fact: str) -> LintFinding:
    return LintFinding("weakens-parent", Severity.WARNING, place, fact, _MEND)
