"""Selectors: what the words under `allow`, `escape`, `strip` and `block` stand for.

A selector selects among forms that are known beforehand and never among text, so no input can make one slow.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import TYPE_CHECKING

from guardtok.dialects import dialect_names, family
from guardtok.tokenizer import Role

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

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


def select(selector: str, policy: Policy, universe: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Return the forms of `universe` that a selector of `policy` selects.

    Args:
        selector: As written.
        policy: Gives groups and declared forms.
        universe: The built-in names that each known form belongs to.
    """
    groups = {name: group.members for name, group in policy.groups.items()}
    declared = declared_forms(policy)
    found: set[str] = set()
    for word in [selector] if selector in declared else leaves(selector, groups):
        match level_of(word, (), declared):
            case Level.LITERAL:
                found.update({word} & universe.keys())
            case Level.PATTERN:
                found.update(form for form in universe if matches(word, form))
            case Level.GROUP:
                name = _canonical(word)
                found.update(form for form, names in universe.items() if name in names)
    return frozenset(found)


def matches(pattern: str, form: str) -> bool:
    """Return whether a pattern, in which `*` stands for any characters or none, matches a whole form.

    Each part is looked for once, from the left, so a pattern of many wildcards costs no more than its length says.
    """
    head, *middle, tail = pattern.split("*")
    end = len(form) - len(tail)
    at = len(head)
    if end < at or not form.startswith(head) or not form.endswith(tail):
        return False
    for part in middle:
        found = form.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _canonical(name: str) -> str:
    """Return the name under which the universe knows a group: a family goes by its slug."""
    if name.startswith(DIALECT) and (found := family(name.removeprefix(DIALECT))) is not None:
        return DIALECT + found.slug
    return name
