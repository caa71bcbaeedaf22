"""A caller's `allowed_special` and `disallowed_special` over a policy: they narrow what it allows and widen nothing.

The threat is code that is older than the policy: `allowed_special="all"`, written when only trusted text came that way,
must not open what the policy closes. The other way round, a caller who forbids a form is obeyed under any policy.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from dataclasses import dataclass, field, fields
from itertools import accumulate
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ahocorasick_rs import BytesAhoCorasick, MatchKind

from guardtok.errors import RefusedError
from guardtok.policy.resolve import Decision
from guardtok.ruleset import Form, FormKind, Ruleset
from guardtok.violation import Action, Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Forms: TypeAlias = "frozenset[str] | Literal['all']"
"""Surface forms. `"all"` stands for every control form of the tokenizer, or as `disallowed` for the others of them."""

_DISALLOWED = Decision(Action.BLOCK, "caller.disallowed_special", None)
_NOT_ALLOWED = Decision(Action.ESCAPE, "caller.allowed_special", None)


@dataclass(frozen=True, slots=True)
class NarrowedRuleset(Ruleset):
    """A ruleset under a caller's `allowed_special` and `disallowed_special`. Made by `narrow`.

    Attributes:
        base: The ruleset that was narrowed.
        allowed: The forms that the caller lets become ids.
        disallowed: The forms that the caller refuses.
        refused: Indexes of the forms whose presence the caller refuses, in any mode.
    """

    base: Ruleset = field(repr=False)
    allowed: Forms = field(repr=False)
    disallowed: Forms = field(repr=False)
    refused: frozenset[int] = field(repr=False)

    def __reduce__(self) -> tuple[object, tuple[Any, ...]]:
        return narrow, (self.base, self.allowed, self.disallowed)


def narrow(ruleset: Ruleset, allowed: Forms, disallowed: Forms) -> NarrowedRuleset:
    """Narrow a ruleset for one call, by tiktoken's rules.

    A form that is disallowed is blocked for every source, and so is a form that holds it, for no text has the one
    without the other. A control form that the policy allows and the caller does not is escaped. Everything else stays
    as the policy decided. `disallowed` wins over `allowed`, and may name strings that are no known forms.

    Raises:
        RefusedError: The empty string is disallowed; it stands in every text.
        TypeError: Something in either set is no string.
    """
    _check_strings(allowed, "allowed_special")
    _check_strings(disallowed, "disallowed_special")
    control = {form.text for form in ruleset.forms if form.kind is FormKind.CONTROL}
    may = control if allowed == "all" else control & allowed
    may_not = control - may if disallowed == "all" else {_repaired(text) for text in disallowed}
    if "" in may_not:
        raise RefusedError("", ())
    extra = sorted(may_not.difference(form.text for form in ruleset.forms))
    forms = ruleset.forms + tuple(Form(text, None, None, FormKind.MARKER) for text in extra)
    refused = frozenset(_holding(may_not, forms)) if may_not else frozenset()
    unlisted = [index for index, form in enumerate(forms) if form.kind is FormKind.CONTROL and form.text not in may]
    table: dict[str, tuple[Decision, ...]] = {}
    for source, decisions in ruleset.table.items():
        row = [*decisions, *(_DISALLOWED for _ in extra)]
        for index in unlisted:
            if row[index].action is Action.ALLOW:
                row[index] = _NOT_ALLOWED
        enforced = ruleset.modes[source] is Mode.ENFORCE
        for index in refused:
            if not (enforced and row[index].action is Action.BLOCK):
                row[index] = _DISALLOWED
        table[source] = tuple(row)
    # Only where the policy strips are prefixes asked for, so an empty set stays empty.
    prefixes = {text[:cut] for text in extra for cut in range(1, len(text))} if ruleset.prefixes else ()
    identity = json.dumps([ruleset.fingerprint, _listed(allowed), _listed(disallowed)])
    changed: dict[str, Any] = {
        "forms": forms,
        "table": MappingProxyType(table),
        "automata": (*ruleset.automata, *([(len(ruleset.forms), _automaton(extra))] if extra else ())),
        "prefixes": ruleset.prefixes.union(prefixes),
        "longest": max([ruleset.longest, *map(len, extra)]),
        "fingerprint": "sha256:" + hashlib.sha256(identity.encode()).hexdigest(),
    }
    kept = {own.name: getattr(ruleset, own.name) for own in fields(Ruleset) if own.init}
    return NarrowedRuleset(**(kept | changed), base=ruleset, allowed=allowed, disallowed=disallowed, refused=refused)


def _check_strings(forms: Forms, argument: str) -> None:
    for form in forms:
        if not isinstance(form, str):
            raise TypeError(f"{argument} holds a {type(form).__name__}. Give the forms as strings.")


def _repaired(text: str) -> str:
    """Return a form as it stands in a text that was taken in: surrogate pairs joined, lone surrogates replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _automaton(texts: Iterable[str]) -> BytesAhoCorasick:
    return BytesAhoCorasick([text.encode() for text in texts], MatchKind.Standard)


def _holding(texts: Iterable[str], forms: tuple[Form, ...]) -> Iterator[int]:
    """Yield the index of every form that is one of `texts` or has one of them in it."""
    spelled = [form.text.encode() for form in forms]
    starts = list(accumulate((len(one) + 1 for one in spelled), initial=0))
    # All forms are searched in one go; 0xFF is in no UTF-8, so nothing is found across a border.
    for _, start, _ in _automaton(texts).find_matches_as_indexes(b"\xff".join(spelled)):
        yield bisect_right(starts, start) - 1


def _listed(forms: Forms) -> list[str] | str:
    return forms if isinstance(forms, str) else sorted(forms)
