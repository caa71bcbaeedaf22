"""Selectors: what the words under `allow`, `escape`, `strip` and `block` stand for.

A selector selects among forms that are known beforehand and never among text, so no input can make one slow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from guardtok.dialects import dialect_names, family
from guardtok.tokenizer import Role

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from guardtok.policy.model import Policy

SPECIAL = "@special"
"""All that the bound tokenizer reserves."""

DIALECT = "@dialect:"
"""Begins the name of a family of the catalogue: `@dialect:llama3`."""

MAX_WILDCARDS = 8
"""Wildcards in one pattern."""

_BARE_WORD = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)


class Level(IntEnum):
    """How specific a selector is; the highest level that selects a form decides it."""

    GROUP = 1
    PATTERN = 2
    LITERAL = 3


def level_of(selector: str, groups: Collection[str], declared: Collection[str]) -> Level:
    """Return how specific a selector is.

    Args:
        selector: As written.
        groups: Names of the policy's groups.
        declared: The policy's own forms and custom tokens; these are literal even where they hold a `*`.
    """
    if selector in declared:
        return Level.LITERAL
    if selector.startswith("@") or selector in groups:
        return Level.GROUP
    return Level.PATTERN if "*" in selector else Level.LITERAL


def declared_forms(policy: Policy) -> frozenset[str]:
    """Return the forms that a policy brings along: its custom tokens and its `forms`."""
    return frozenset([*(token.form for token in policy.custom_tokens), *(form.form for form in policy.forms)])


def is_bare_word(selector: str) -> bool:
    """Return whether a selector looks like the name of a group, which no catalogued form does."""
    return _BARE_WORD.fullmatch(selector) is not None


def builtin_names() -> tuple[str, ...]:
    """Return every name that begins with `@`: the roles, `@special`, and a `@dialect:` for each family."""
    return (*(f"@{role}" for role in Role), SPECIAL, *(DIALECT + name for name in dialect_names()))


def is_builtin(name: str) -> bool:
    """Return whether `name` is one of `builtin_names`."""
    if name.startswith(DIALECT):
        return family(name.removeprefix(DIALECT)) is not None
    return name == SPECIAL or name in {f"@{role}" for role in Role}


def leaves(selector: str, groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield what a selector comes to once groups inside groups are taken apart; each group is opened once."""
    opened: set[str] = set()
    waiting = [selector]
    while waiting:
        word = waiting.pop()
        if word not in groups:
            yield word
        elif word not in opened:
            opened.add(word)
            waiting.extend(groups[word])


@dataclass(frozen=True, slots=True)
class Selection:
    """What one selector comes to.

    Attributes:
        level: How specific it is.
        forms: The known forms that it selects.
    """

    level: Level
    forms: frozenset[str]


def selections(policy: Policy, universe: Mapping[str, frozenset[str]]) -> Mapping[str, Selection]:
    """Return what each selector under `sources` selects among the forms of `universe`.

    Args:
        policy: The policy.
        universe: The built-in names that each known form belongs to.
    """
    words = frozenset(entry.selector for rules in policy.sources.values() for entry in rules.entries)
    if not words:
        return {}
    groups = frozenset((name, group.members) for name, group in policy.groups.items())
    return _select_all(words, groups, declared_forms(policy), frozenset(universe.items()))


# Every source of a policy asks for the same, and it depends on the arguments alone.
@lru_cache(maxsize=4)
def _select_all(
    words: frozenset[str],
    groups: frozenset[tuple[str, tuple[str, ...]]],
    declared: frozenset[str],
    universe: frozenset[tuple[str, frozenset[str]]],
) -> Mapping[str, Selection]:
    members = dict(groups)
    forms = [form for form, _ in universe]
    known = frozenset(forms)
    named: dict[str, list[str]] = {}
    for form, names in universe:
        for name in names:
            named.setdefault(name, []).append(form)

    @cache
    def leaf(word: str) -> frozenset[str]:
        match level_of(word, (), declared):
            case Level.LITERAL:
                return known & {word}
            case Level.PATTERN:
                return frozenset(matching(word, forms))
            case Level.GROUP:
                return frozenset(named.get(_canonical(word), ()))

    def select(selector: str) -> Selection:
        inside = (selector,) if selector in declared else leaves(selector, members)
        return Selection(level_of(selector, members, declared), frozenset[str]().union(*map(leaf, inside)))

    return MappingProxyType({word: select(word) for word in words})


def matching(pattern: str, forms: Iterable[str]) -> Iterator[str]:
    """Yield the forms that a pattern matches whole; `*` in it stands for any characters or none.

    Each part is looked for once, from the left, so a pattern of many wildcards costs no more than its length says.
    """
    head, *middle, tail = pattern.split("*")
    ends = len(head) + len(tail)
    longest = max(head, *middle, tail, key=len)
    for form in [form for form in forms if longest in form]:  # Far quicker than the rest of the loop.
        if not form.startswith(head) or not form.endswith(tail) or len(form) < ends:
            continue
        at, end = len(head), len(form) - len(tail)
        for part in middle:
            found = form.find(part, at, end)
            if found < 0:
                break
            at = found + len(part)
        else:
            yield form


def _canonical(name: str) -> str:
    """Return the name under which the universe knows a group: a family goes by its slug."""
    if name.startswith(DIALECT) and (found := family(name.removeprefix(DIALECT))) is not None:
        return DIALECT + found.slug
    return name
