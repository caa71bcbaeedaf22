"""Which action a policy has for a form that a source wrote, and the line of the policy that says so.

The threat is a rule that quietly does not hold. So the order of entries never matters, two entries that are equally
specific and disagree are a problem and not a choice, and what nobody says anything about is blocked.

From the strongest to the weakest: the source's literal forms, its patterns, its groups, its default; the same four of
`"*"`; and last `*.implicit`, which blocks. Between entries that are equally specific, a policy's own wins over those it
extends.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations, groupby, islice, product
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING

from guardtok.dialects import catalogue
from guardtok.errors import Problem, UnknownSourceError, near_match
from guardtok.policy.bounds import MAX_PROBLEMS, MAX_SUGGESTED, shown
from guardtok.policy.model import ANY_SOURCE, BUILTIN_SOURCES
from guardtok.policy.selectors import DIALECT, SPECIAL, Level, declared_forms, level_of, selections
from guardtok.violation import Action

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from guardtok.policy.model import Entry, Mark, Policy, SourceRules
    from guardtok.policy.selectors import Selection
    from guardtok.violation import Mode


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens to a form that one source wrote.

    Attributes:
        action: The action.
        rule: What decided: `SOURCE.ACTION[SELECTOR]`, `SOURCE.default` or `*.implicit`.
        mark: Where that is written; None for `*.implicit`.
    """

    action: Action
    rule: str
    mark: Mark | None


_IMPLICIT = Decision(Action.BLOCK, f"{ANY_SOURCE}.implicit", None)
"""For a source of which the policy says nothing, and says nothing under `"*"` either: fail closed."""


def sources_of(policy: Policy) -> tuple[str, ...]:
    """Return the sources that a policy knows: the built-in ones, then those it declares."""
    return tuple(dict.fromkeys((*BUILTIN_SOURCES, *(name for name in policy.sources if name != ANY_SOURCE))))


def resolve(policy: Policy, source: str, universe: Mapping[str, frozenset[str]]) -> dict[str, Decision]:
    """Decide every form of `universe` for one source.

    Args:
        policy: The policy.
        source: A source that the policy knows, or `"*"` for what holds for the others.
        universe: The built-in names (`@turn`, `@special`, `@dialect:qwen` …) that each known form belongs to.

    Returns:
        A decision for each form. Where equally specific entries disagree (see `conflicts`) the most restrictive holds.

    Raises:
        UnknownSourceError: The policy does not know the source.
    """
    if source != ANY_SOURCE and source not in sources_of(policy):
        raise UnknownSourceError(f"Unknown source {shown(source)}.{near_match(source, sources_of(policy))}")
    selected = selections(policy, universe)
    decisions: dict[str, Decision] = {}
    undecided = set(universe)
    for name in dict.fromkeys((source, ANY_SOURCE)):
        rules = policy.sources.get(name)
        if rules is None:
            continue
        for layer in reversed(_layers(rules, selected)):
            # Within a layer the strictest comes first; the selector settles which of two that agree is named.
            for entry in sorted(layer, key=lambda entry: (entry.action.severity, entry.selector), reverse=True):
                decision = Decision(entry.action, f"{name}.{entry.action}[{entry.selector}]", entry.mark)
                decided = undecided & selected[entry.selector].forms
                decisions.update(dict.fromkeys(decided, decision))
                undecided -= decided
        if rules.default is not None:
            default = Decision(rules.default.action, f"{name}.default", rules.default.mark)
            decisions.update(dict.fromkeys(undecided, default))
            break
    return {form: decisions.get(form, _IMPLICIT) for form in universe}


def mode_of(policy: Policy, source: str) -> Mode:
    """Return the mode that holds for a source: its own, or that of `"*"`, or the policy's."""
    modes = (policy.sources[name].mode for name in (source, ANY_SOURCE) if name in policy.sources)
    return next(filter(None, modes), policy.mode)


def conflicts(policy: Policy, universe: Mapping[str, frozenset[str]]) -> tuple[Problem, ...]:
    """Return a problem for each two equally specific entries that disagree on a form which nothing stronger decides.

    Args:
        policy: The policy.
        universe: As for `resolve`.

    Returns:
        The problems, the first hundred of each source.
    """
    problems: list[Problem] = []
    selected = selections(policy, universe)
    for rules in policy.sources.values():
        layers = _layers(rules, selected)
        decided: set[str] = set()
        for number in range(len(layers) - 1, -1, -1):
            layer = layers[number]
            if not any(_disagree(other) for other in layers[: number + 1]):
                break
            left = {entry: selected[entry.selector].forms - decided for entry in layer}
            problems.extend(_clashes(rules.name, left))
            decided.update(*left.values())
    return tuple(problems)


def is_contested(policy: Policy) -> bool:
    """Return whether two equally specific entries have different actions, so that `conflicts` may find something."""
    declared = declared_forms(policy)
    for rules in policy.sources.values():
        actions: dict[tuple[Level, int], Action] = {}
        for entry in rules.entries:
            strength = (level_of(entry.selector, policy.groups, declared), entry.depth)
            if actions.setdefault(strength, entry.action) is not entry.action:
                return True
    return False


def unknown_tokens(policy: Policy, known_forms: Collection[str]) -> tuple[Problem, ...]:
    """Return a problem for each literal selector that neither `known_forms` nor the policy itself knows.

    Loading a policy does not check this, because only the bound tokenizer knows all its tokens.

    Args:
        policy: The policy.
        known_forms: The catalogue's forms and the bound tokenizer's.

    Returns:
        The problems, at most a hundred. The first few suggest what was meant.
    """
    declared = declared_forms(policy)
    written = [(entry.selector, entry.mark) for rules in policy.sources.values() for entry in rules.entries]
    written += [(member, group.mark) for group in policy.groups.values() for member in group.members]
    unknown = (
        (selector, mark)
        for selector, mark in written
        if selector not in known_forms and selector not in declared
        if level_of(selector, policy.groups, declared) is Level.LITERAL
    )
    return tuple(
        Problem(
            str(mark),
            f"No token {shown(selector)} is known.",
            _mend_token(selector, (*known_forms, *declared) if number < MAX_SUGGESTED else ()),
        )
        for number, (selector, mark) in enumerate(islice(unknown, MAX_PROBLEMS))
    )


def builtin_universe(policy: Policy) -> Mapping[str, frozenset[str]]:
    """Return the forms that a policy knows without a tokenizer, each with the built-in names that it belongs to.

    These are the catalogue's and the policy's own. Custom tokens are in `@special`; `forms`, unless the catalogue knows
    them, are in none.
    """
    catalogued = _catalogue_universe()
    own = {form.form: catalogued.get(form.form, frozenset()) for form in policy.forms}
    custom = {token.form: catalogued.get(token.form, frozenset()) | {SPECIAL} for token in policy.custom_tokens}
    return {**catalogued, **own, **custom}


@cache
def _catalogue_universe() -> Mapping[str, frozenset[str]]:
    return MappingProxyType(
        {
            form: frozenset((SPECIAL, f"@{entry.role}", *(DIALECT + slug for slug in entry.families)))
            for form, entry in catalogue().items()
        }
    )


def _layers(rules: SourceRules, selected: Mapping[str, Selection]) -> list[list[Entry]]:
    """Return a source's entries in layers of equal strength, the weakest layer first."""

    def strength(entry: Entry) -> tuple[Level, int]:
        return selected[entry.selector].level, -entry.depth

    return [list(layer) for _, layer in groupby(sorted(rules.entries, key=strength), key=strength)]


def _disagree(layer: Iterable[Entry]) -> bool:
    return len({entry.action for entry in layer}) > 1


def _clashes(source: str, selected: Mapping[Entry, frozenset[str]]) -> Iterator[Problem]:
    """Yield a problem for each pair of entries that disagree, and name one form of theirs."""
    entries = sorted(selected, key=lambda entry: (entry.mark.line, entry.mark.column))
    for earlier, later in sorted(_pairs([(entry.action, selected[entry]) for entry in entries]), key=itemgetter(1, 0)):
        one, other = entries[earlier], entries[later]
        shared = selected[one] & selected[other]
        form = shown(min(shared))
        more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
        yield Problem(
            str(other.mark),
            f"For source {source!r}, {shown(other.selector)} ({other.action}) and {shown(one.selector)} "
            f"({one.action}, at {one.mark}) both select {form}{more}, and neither is more specific.",
            f"Name {form} itself under the action that it should have.",
        )


def _pairs(entries: Sequence[tuple[Action, frozenset[str]]]) -> set[tuple[int, int]]:
    """Return pairs of entries, given as action and forms, that disagree on a form; at most `MAX_PROBLEMS`.

    Entries are gone through by form, since most pairs of many entries share none.
    """
    by_form: dict[str, dict[Action, list[int]]] = {}
    for index, (action, forms) in enumerate(entries):
        for form in forms:
            by_form.setdefault(form, {}).setdefault(action, []).append(index)
    pairs: set[tuple[int, int]] = set()
    for _, sharing in sorted(by_form.items()):
        for some, others in combinations(sharing.values(), 2):
            for one, other in product(some, others):
                pairs.add((min(one, other), max(one, other)))
                if len(pairs) == MAX_PROBLEMS:
                    return pairs
    return pairs


def _mend_token(selector: str, known: Iterable[str]) -> str:
    """Suggest the nearest known form; forms of a very different length are not compared, for there are thousands."""
    near = near_match(selector, [form for form in known if abs(len(form) - len(selector)) <= 2])  # noqa: PLR2004
    return (
        near.strip()
        or "Check its spelling; a marker without an id goes under `forms`, a token to add under `custom_tokens`."
    )
