"""Checks what a policy file says beyond its schema: that every selector means something, and only one thing."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from itertools import chain, islice
from typing import TYPE_CHECKING

from guardtok.errors import Problem, near_match
from guardtok.policy.bounds import (
    MAX_ENTRIES,
    MAX_FORMS,
    MAX_GROUPS,
    MAX_PATTERNS,
    MAX_PROBLEMS,
    MAX_SOURCES,
    shown,
)
from guardtok.policy.marked import Mapped, Steps, mark_at
from guardtok.policy.selectors import (
    MAX_WILDCARDS,
    Level,
    builtin_names,
    declared_forms,
    is_bare_word,
    is_builtin,
    level_of,
)
from guardtok.violation import Action

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from guardtok.policy.model import Policy
    from guardtok.policy.schema import PolicyModel

ACTIONS = (Action.ALLOW, Action.ESCAPE, Action.STRIP, Action.BLOCK)
"""The actions that a source can have entries for."""


def check_meaning(file: PolicyModel, tree: Mapped, parent: Policy | None, *, orphan: bool) -> list[Problem]:
    """Return what is wrong with the groups, forms and selectors of one file.

    Args:
        file: What the file says.
        tree: Where it says it.
        parent: What it extends.
        orphan: Whether its parent could not be loaded, so that a group nobody declares may yet be the parent's.
    """
    groups = {name: group.members for name, group in parent.groups.items()} if parent else {}
    groups |= {name: tuple(members) for name, members in file.groups.items()}
    declared = (declared_forms(parent) if parent else frozenset()) | {*file.custom_tokens, *file.forms}
    checker = _Checker(file, tree, groups, declared, orphan=orphan)
    found = chain(checker.groups(), checker.circles(), checker.forms(), checker.inherited(parent), checker.sources())
    return list(islice(found, MAX_PROBLEMS))


def check_size(policy: Policy) -> Iterator[Problem]:
    """Yield what a merged policy has too many of; what stands in one file alone its schema bounds."""
    declared = declared_forms(policy)
    selectors = [entry.selector for rules in policy.sources.values() for entry in rules.entries]
    words = {*selectors, *(member for group in policy.groups.values() for member in group.members)}
    patterns = sum(level_of(word, policy.groups, declared) is Level.PATTERN for word in words)
    for count, most, noun in (
        (len(policy.sources), MAX_SOURCES, "sources"),
        (len(selectors), MAX_ENTRIES, "selectors under its sources"),
        (patterns, MAX_PATTERNS, "patterns"),
        (len(policy.groups), MAX_GROUPS, "groups"),
        (len(declared), MAX_FORMS, "forms and custom tokens"),
    ):
        if count > most:
            fact = f"With all that it extends, the policy has {count} {noun}; it can have {most}."
            yield Problem(f"{policy.place}:1:1", fact, "Select by group or by default instead of one by one.")


class _Checker:
    """Checks one file; every method yields what it finds wrong."""

    def __init__(
        self,
        file: PolicyModel,
        tree: Mapped,
        groups: Mapping[str, tuple[str, ...]],
        declared: frozenset[str],
        *,
        orphan: bool,
    ) -> None:
        self._file = file
        self._tree = tree
        self._groups = groups
        self._declared = declared
        self._orphan = orphan

    def groups(self) -> Iterator[Problem]:
        for name, members in self._file.groups.items():
            if name in self._declared:
                place = self._place(("groups", name), key=True)
                yield Problem(place, f"{shown(name)} names a group and a form.", "Name the group otherwise.")
            yield from self._repeated(members, ("groups", name))
            for index, member in enumerate(members):
                yield from self._selector(member, ("groups", name, index))

    def circles(self) -> Iterator[Problem]:
        """Find a group that holds itself, through whatever others."""
        inner = {name: [word for word in members if word in self._groups] for name, members in self._groups.items()}
        try:
            TopologicalSorter(inner).prepare()
        except CycleError as error:
            circle: list[str] = error.args[1][::-1]
            own = next(name for name in circle if name in self._file.groups)
            shown_circle = " → ".join(circle[:10]) + (" → …" if len(circle) > 10 else "")  # noqa: PLR2004
            place = self._place(("groups", own), key=True)
            yield Problem(place, f"Groups go in a circle: {shown_circle}.", "Take one of them out of the other.")

    def forms(self) -> Iterator[Problem]:
        yield from self._repeated(self._file.forms, ("forms",))
        yield from self._repeated(self._file.text_tokens, ("text_tokens",))
        custom = self._file.custom_tokens
        for index, form in enumerate(self._file.text_tokens):
            if form in custom or form in self._file.forms:
                place = self._place(("text_tokens", index))
                yield Problem(place, f"{shown(form)} is declared as a form too.", "Keep one of the two.")
        places = [(form, self._place(("forms", index))) for index, form in enumerate(self._file.forms)]
        for form, place in places:
            if form in custom:
                yield Problem(place, f"{shown(form)} is under `custom_tokens` too.", "Keep one of the two.")
        for form, place in [*places, *((form, self._place(("custom_tokens", form), key=True)) for form in custom)]:
            if is_builtin(form):
                yield Problem(place, f"{shown(form)} is a built-in group and cannot be a form.", "Spell it otherwise.")
            if "\ufffd" in form:
                fact = f"{shown(form)} holds U+FFFD, which guardtok itself writes where `strip` leaves a gap."
                yield Problem(place, fact, "Spell it without.")

    def inherited(self, parent: Policy | None) -> Iterator[Problem]:
        """Find a form with the name of a parent's group or pattern: what that selected would select the form alone."""
        if parent is None:
            return
        own: list[tuple[str, Steps, bool]]
        own = [(form, ("forms", index), False) for index, form in enumerate(self._file.forms)]
        own += [(form, ("custom_tokens", form), True) for form in self._file.custom_tokens]
        known = declared_forms(parent)
        words = {entry.selector for rules in parent.sources.values() for entry in rules.entries}
        words.update(member for group in parent.groups.values() for member in group.members)
        for form, path, key in own:
            level = level_of(form, parent.groups, known) if form in words or form in parent.groups else Level.LITERAL
            if level is Level.LITERAL or form in self._file.groups:
                continue  # A group of the file's own that is named as its form is a problem of that group.
            noun = "pattern" if level is Level.PATTERN else "group"
            fact = f"{shown(form)} is a {noun} of the policy that this one extends, and would no longer be one."
            yield Problem(self._place(path, key=key), fact, "Spell the form otherwise.")

    def sources(self) -> Iterator[Problem]:
        for name, rules in self._file.sources.items():
            first: dict[str, Action] = {}
            for action in ACTIONS:
                entries: list[str] = getattr(rules, action)
                steps: Steps = ("sources", name, action.value)
                yield from self._repeated(entries, steps)
                for index, word in enumerate(entries):
                    if first.setdefault(word, action) is not action:
                        fact = f"{shown(word)} is under `{first[word]}` and under `{action}` of source {name!r}."
                        yield Problem(self._place((*steps, index)), fact, "Keep one of the two.")
                    yield from self._selector(word, (*steps, index))

    def _selector(self, word: str, path: Steps) -> Iterator[Problem]:
        fact, mend = "", ""
        match level_of(word, self._groups, self._declared):
            case Level.GROUP if word not in self._groups and not is_builtin(word):
                known = builtin_names()
                fact = f"There is no built-in group {shown(word)}."
                mend = near_match(word, known) or f"Known are {' '.join(known[:10])} and @dialect:NAME."
            case Level.PATTERN if word.count("*") > MAX_WILDCARDS:
                fact, mend = f"A pattern has at most {MAX_WILDCARDS} wildcards.", "Name a group of forms instead."
            case Level.LITERAL if is_bare_word(word) and word not in self._declared and not self._orphan:
                fact = f"There is no group {shown(word)}."
                mend = near_match(word, (*self._groups, *builtin_names()))
                if word.isupper() or not mend:
                    mend = (
                        "Declare it under `groups`; a form that is a bare word under `forms` too; "
                        f'for one in brackets, quote it: "[{word}]".'
                    )
            case Level.GROUP | Level.PATTERN | Level.LITERAL:
                return
        yield Problem(self._place(path), fact, mend.strip())

    def _repeated(self, words: list[str], path: Steps) -> Iterator[Problem]:
        seen: set[str] = set()
        for index, word in enumerate(words):
            if word in seen:
                yield Problem(self._place((*path, index)), f"{shown(word)} is in this list twice.", "Take one out.")
            seen.add(word)

    def _place(self, path: Steps, *, key: bool = False) -> str:
        return str(mark_at(self._tree, path, key=key))
