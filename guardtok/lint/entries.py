"""Reviews entries and groups: those without effect, those that open a door, those that mean another tokenizer."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from guardtok.lint.finding import LintFinding, Severity, name_forms, name_sources
from guardtok.policy.model import ANY_SOURCE
from guardtok.policy.resolve import resolve, sources_of
from guardtok.policy.selectors import Level, declared_forms, level_of, selections
from guardtok.violation import Action

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from guardtok.policy.model import Entry, Mark, Policy, SourceRules
    from guardtok.policy.selectors import Selection
    from guardtok.tokenizer import Tokenizer

TRUSTED = frozenset({"template", "system", "developer"})
"""Sources whose text the operator writes. Everybody else's is at least shaped by strangers."""


def review_entries(
    policy: Policy, tokenizer: Tokenizer | None, universe: Mapping[str, frozenset[str]]
) -> Iterator[LintFinding]:
    """Review every entry and group.

    Args:
        policy: The policy.
        tokenizer: The tokenizer that it will be bound to, or None.
        universe: Every form that is known, with the built-in names that it belongs to.
    """
    yield from _without_effect(policy, universe)
    yield from _unused_groups(policy)
    bound = None if tokenizer is None else {token.form for token in tokenizer.control_tokens} | declared_forms(policy)
    yield from _open_doors(policy, universe, universe.keys() if bound is None else bound)
    if tokenizer is not None and bound is not None:
        yield from _of_other_tokenizers(policy, universe, bound, tokenizer.name)


def _without_effect(policy: Policy, universe: Mapping[str, frozenset[str]]) -> Iterator[LintFinding]:
    """Find the policy's own entries that can never decide anything. Inherited ones are overridden on purpose."""
    selected = selections(policy, universe)
    left = _left_to_any(policy, universe)
    for rules in policy.sources.values():
        for entry, winners in _with_winners(rules, selected):
            forms = selected[entry.selector].forms
            rest = forms - winners.keys()
            fact, mend = "", "Take it out."
            if not forms:
                # A literal form that nobody knows is `unknown-form`.
                literal = selected[entry.selector].level is Level.LITERAL
                fact, mend = "" if literal else "no known form is like it.", "Take it out, or mend its spelling."
            elif not rest:
                winner = winners[min(forms)]
                fact = f"all that it selects is decided by the more specific {winner.selector!r} at {winner.mark}."
            elif rules.name == ANY_SOURCE and rest.isdisjoint(left):
                fact = "every source decides these forms by rules of its own."
            if fact and entry.depth == 0:
                fact = f"{rules.name}.{entry.action}[{entry.selector}] never applies: {fact}"
                yield LintFinding("never-applies", Severity.WARNING, str(entry.mark), fact, mend)


def _with_winners(rules: SourceRules, selected: Mapping[str, Selection]) -> Iterator[tuple[Entry, Mapping[str, Entry]]]:
    """Yield a source's entries, the strongest first, each with the forms that stronger ones decide, and by which."""

    def strength(entry: Entry) -> tuple[Level, int]:
        return selected[entry.selector].level, -entry.depth

    winners: dict[str, Entry] = {}
    for _, layer in groupby(sorted(rules.entries, key=strength, reverse=True), key=strength):
        equals = list(layer)
        yield from ((entry, winners) for entry in equals)
        for entry in equals:
            for form in selected[entry.selector].forms:
                winners.setdefault(form, entry)


def _left_to_any(policy: Policy, universe: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Return the forms that some source leaves to `"*"`."""
    selected = selections(policy, universe)
    left: set[str] = set()
    for source in sources_of(policy):
        rules = policy.sources.get(source)
        if rules is None:
            return frozenset(universe)
        if rules.default is None:
            own = frozenset[str]().union(*(selected[entry.selector].forms for entry in rules.entries))
            left.update(universe.keys() - own)
    return frozenset(left)


def _unused_groups(policy: Policy) -> Iterator[LintFinding]:
    waiting = [entry.selector for rules in policy.sources.values() for entry in rules.entries]
    used: set[str] = set()
    while waiting:
        word = waiting.pop()
        if word in policy.groups and word not in used:
            used.add(word)
            waiting.extend(policy.groups[word].members)
    for name, group in policy.groups.items():
        if name not in used and group.mark.file == policy.place:
            fact = f"No rule uses the group {name!r}."
            yield LintFinding("unused-group", Severity.WARNING, str(group.mark), fact, "Use it, or take it out.")


def _open_doors(
    policy: Policy, universe: Mapping[str, frozenset[str]], reachable: Collection[str]
) -> Iterator[LintFinding]:
    """Report every `allow` for a source that strangers write or shape, with what it allows."""
    forms: dict[tuple[str, Mark | None], set[str]] = {}
    sources: dict[tuple[str, Mark | None], list[str]] = {}
    for source in sources_of(policy):
        if source in TRUSTED:
            continue
        for form, decision in resolve(policy, source, universe).items():
            if decision.action is Action.ALLOW and form in reachable:
                door = (decision.rule, decision.mark)
                forms.setdefault(door, set()).add(form)
                sources.setdefault(door, []).append(source)
    for door, allowed in forms.items():
        rule, mark = door
        who = name_sources(dict.fromkeys(sources[door]))
        fact = f"By {rule}, {who} may write {name_forms(allowed, reachable)}."
        mend = "Keep it only if nobody but you decides what is written there."
        yield LintFinding("allow-untrusted", Severity.WARNING, str(mark), fact, mend)


def _of_other_tokenizers(
    policy: Policy, universe: Mapping[str, frozenset[str]], bound: Collection[str], tokenizer: str
) -> Iterator[LintFinding]:
    """Report what a policy names and the tokenizer does not have."""
    declared = declared_forms(policy)
    selections_of = selections(policy, universe)

    def literals(words: Iterable[str]) -> set[str]:
        return {w for w in words if level_of(w, policy.groups, declared) is Level.LITERAL} & universe.keys()

    # What a policy spells out is guarded under any tokenizer; what it selects by name or pattern is not.
    entries = [(source, entry) for source, rules in policy.sources.items() for entry in rules.entries]
    spelled = literals(entry.selector for _, entry in entries)
    for name, group in policy.groups.items():
        missing = literals(group.members).difference(bound)
        spelled |= missing
        if missing:
            fact = f"Of the group {name!r}, tokenizer {tokenizer!r} does not have {name_forms(missing, universe)}."
            mend = "They are guarded as text all the same."
            yield LintFinding("unknown-to-tokenizer", Severity.INFO, str(group.mark), fact, mend)
    for source, entry in entries:
        selected = selections_of[entry.selector].forms
        if not selected or not selected.isdisjoint(bound):
            continue
        fact = f"{source}.{entry.action}[{entry.selector}] selects no token of tokenizer {tokenizer!r}."
        severity, mend = Severity.INFO, "`foreign` decides what it selects."
        if entry.action is Action.ALLOW:
            severity, mend = Severity.WARNING, "Bind the tokenizer that has it, or take it out: nothing can be allowed."
        elif entry.selector in policy.groups and not selected.isdisjoint(spelled):
            continue  # Reported with the group.
        elif not selected.isdisjoint(spelled):
            mend = "What the policy spells out is guarded as text all the same."
        yield LintFinding("unknown-to-tokenizer", severity, str(entry.mark), fact, mend)
