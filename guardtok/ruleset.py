"""A policy bound to a tokenizer: every form that matters, one automaton that finds them, one table that decides them.

Binding is where a policy can still be refused: an unknown token, a pinned fingerprint that differs, an id that already
means something else. What comes out is immutable and has a fingerprint of its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from ahocorasick_rs import BytesAhoCorasick, MatchKind
from typing_extensions import assert_never

from guardtok.dialects import catalogue
from guardtok.errors import PolicyError, TokenizerMismatchError
from guardtok.placing import place
from guardtok.policy.model import Reaction
from guardtok.policy.resolve import Decision, conflicts, resolve, sources_of, unknown_tokens
from guardtok.rules import Rules, read_rules, with_text_tokens
from guardtok.tokenizer import TokenClass
from guardtok.views import Lookout, prepare
from guardtok.violation import Action, Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from guardtok.policy.model import Policy
    from guardtok.tokenizer import Role, Tokenizer


MAX_FIRST_BYTES = 3
"""So many different first bytes of forms ahocorasick_rs can look for without walking its automaton."""


Automata: TypeAlias = "tuple[tuple[int, BytesAhoCorasick], ...]"
"""Automata, each with the index of the first form that it finds; its matches count from 0."""


class FormKind(str, Enum):
    """Why a form is looked for.

    `control`: the bound tokenizer has an id for it (without a tokenizer: the catalogue names it). `marker`: it has no
        id, but
    the policy names it. `foreign`: it belongs to another family, which this tokenizer would not parse.
    """

    CONTROL = "control"
    MARKER = "marker"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Form:
    """A surface form that is looked for.

    Attributes:
        text: The characters that spell it.
        token_id: Its id in the bound tokenizer, or None.
        role: What it is for, or None where nobody says.
        kind: Why it is looked for.
    """

    text: str
    token_id: int | None
    role: Role | None
    kind: FormKind


@dataclass(frozen=True, slots=True)
class Ruleset:
    """A policy × a tokenizer.

    Attributes:
        policy: The policy.
        tokenizer: The tokenizer with the policy's custom tokens, or None: then nothing can be encoded.
        forms: Every form that is looked for; a match names a form by its index.
        table: For each source that the policy knows, the decision for each form.
        modes: The mode of each source.
        automata: Find the forms in UTF-8. Each finds those from an index on, up to where the next one's begin.
        prefixes: Proper prefixes of the forms, where some source may `strip`; empty elsewhere.
        longest: Length in characters of the longest form.
        fingerprint: `sha256:…` over the policy's and the tokenizer's.
        lookalikes: What each source's look-alikes lead to.
        lookout: Finds forms in disguise.
        inert: For each source, the forms that it may not write as tokens and that, as text, change and raise nothing.
        escaped: For each source, the forms that it must have broken where text goes on as text.
        stripped: For each source, the forms that it must have deleted.
        reserved: Ids that no ordinary text may come out as: the tokenizer's reserved ids, and those of the forms.
        watched: The sources whose look-alikes matter: not ignored, and not those of a source that may write every form.
        rules: The tokenizer's own rules for added tokens, or None where it has none.
    """

    policy: Policy
    tokenizer: Tokenizer | None
    forms: tuple[Form, ...] = field(repr=False)
    table: Mapping[str, tuple[Decision, ...]] = field(repr=False)
    modes: Mapping[str, Mode]
    automata: Automata = field(repr=False)
    prefixes: frozenset[str] = field(repr=False)
    longest: int
    fingerprint: str
    lookalikes: Mapping[str, Reaction]
    lookout: Lookout = field(repr=False)
    inert: Mapping[str, frozenset[int]] = field(init=False, repr=False)
    escaped: Mapping[str, frozenset[int]] = field(init=False, repr=False)
    stripped: Mapping[str, frozenset[int]] = field(init=False, repr=False)
    reserved: frozenset[int] = field(init=False, repr=False)
    watched: frozenset[str] = field(init=False, repr=False)
    rules: Rules | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Derive what follows from the table, so that no narrowed copy can carry a stale one."""
        enforced = {Action.ESCAPE: "escaped", Action.STRIP: "stripped"}
        for action, name in enforced.items():
            forms = {source: self._find_enforced(source, action) for source in self.table}
            object.__setattr__(self, name, MappingProxyType(forms))
        inert = {source: _find_inert(decisions, self.modes[source]) for source, decisions in self.table.items()}
        object.__setattr__(self, "inert", MappingProxyType(inert))
        own = self.tokenizer.reserved_ids if self.tokenizer is not None else frozenset()
        tokens = self.tokenizer.control_tokens if self.tokenizer is not None else ()
        free = {token.id for token in tokens if token.kind is not TokenClass.CONTROL} - own
        ids = {form.token_id for form in self.forms if form.token_id is not None}
        object.__setattr__(self, "reserved", own | (ids - free))
        object.__setattr__(self, "rules", read_rules(self.tokenizer, [form.text for form in self.forms]))
        watched = {source for source, reaction in self.lookalikes.items() if reaction is not Reaction.IGNORE}
        trusted = {source for source in watched if all(each.action is Action.ALLOW for each in self.table[source])}
        object.__setattr__(self, "watched", frozenset(watched - trusted))

    def _find_enforced(self, source: str, action: Action) -> frozenset[int]:
        if self.modes[source] is Mode.MONITOR:
            return frozenset()
        return frozenset(form for form, decision in enumerate(self.table[source]) if decision.action is action)

    def __reduce__(self) -> tuple[object, tuple[Policy, Tokenizer | None]]:
        # The automata are not picklable, and rebuilding all is quicker than shipping the table.
        return _rebuild, (self.policy, self.tokenizer)

    @property
    def sources(self) -> Mapping[str, Mode]:
        """The sources that the policy knows."""
        return self.modes


def bind(policy: Policy, tokenizer: Tokenizer | None) -> Ruleset:
    """Bind a policy to a tokenizer, or to none.

    Raises:
        PolicyError: A token that nobody knows, two equally specific entries that disagree, a custom token without a
            tokenizer to add it to.
        TokenizerMismatchError: The tokenizer is not the one that the policy or its lock file pins.
        ExtensionError: A custom token cannot have its id (a `TokenizerError`).
    """
    if tokenizer is not None:
        _check_binding(policy, tokenizer)
        if policy.text_tokens:
            tokenizer = with_text_tokens(tokenizer, [token.form for token in policy.text_tokens], policy.place)
        tokenizer = _add_custom_tokens(policy, tokenizer)
    return _rebuild(policy, tokenizer)


def _rebuild(policy: Policy, tokenizer: Tokenizer | None) -> Ruleset:
    forms = tuple(sorted(_collect(policy, tokenizer), key=lambda form: _first_byte(form.text)))
    universe = _universe(forms)
    problems = (*unknown_tokens(policy, frozenset(catalogue()).union(universe)), *conflicts(policy, universe))
    if problems:
        raise PolicyError(problems)
    sources = sources_of(policy)
    table = {source: _decide_all(policy, source, forms, universe) for source in sources}
    rules = policy.sources
    modes = {source: (rules[source].mode if source in rules else None) or _any_mode(policy) for source in sources}
    strips = any(decision.action is Action.STRIP for decisions in table.values() for decision in decisions)
    prefixes = {form.text[:cut] for form in forms for cut in range(1, len(form.text))} if strips else ()
    identity = f"{policy.digest}\n{tokenizer.fingerprint if tokenizer else ''}"
    return Ruleset(
        policy=policy,
        tokenizer=tokenizer,
        forms=forms,
        table=MappingProxyType(table),
        modes=MappingProxyType(modes),
        automata=tuple(_build_automata([form.text for form in forms])),
        prefixes=frozenset(prefixes),
        longest=max((len(form.text) for form in forms), default=0),
        fingerprint="sha256:" + hashlib.sha256(identity.encode()).hexdigest(),
        lookalikes=MappingProxyType({source: _reaction(policy, source) for source in sources}),
        lookout=prepare(_with_standing(forms), policy.limits.max_hidden),
    )


def _with_standing(forms: tuple[Form, ...]) -> Iterator[tuple[str, bool]]:
    """Yield each form, and whether ordinary documents hold it."""
    known = catalogue()
    return ((form.text, form.text in known and known[form.text].common) for form in forms)


def _reaction(policy: Policy, source: str) -> Reaction:
    for name in (source, "*"):
        rules = policy.sources.get(name)
        if rules is not None and rules.lookalikes is not None:
            return rules.lookalikes
    return policy.lookalikes


@cache
def catalogue_automata() -> Automata:
    """Return automata for every form of the catalogue, those that are common in ordinary text too."""
    return tuple(_build_automata(sorted(catalogue(), key=_first_byte)))


def _first_byte(form: str) -> int:
    return form.encode()[0]


def _build_automata(forms: Sequence[str]) -> Iterator[tuple[int, BytesAhoCorasick]]:
    """Yield automata for the forms, which are sorted by first byte, each for at most three first bytes.

    With so few the library skips to candidates by vector instructions, a hundred times faster than it walks.
    """
    begin = 0
    firsts: set[int] = set()
    for index, form in enumerate(forms):
        # Forms beyond ASCII apart: what the library holds to be rare in both makes it walk.
        apart = not form[0].isascii() and bool(firsts) and min(firsts) < 0x80  # noqa: PLR2004 - ASCII
        if apart or len(firsts | {_first_byte(form)}) > MAX_FIRST_BYTES:
            yield begin, BytesAhoCorasick([form.encode() for form in forms[begin:index]], MatchKind.Standard)
            begin, firsts = index, set()
        firsts.add(_first_byte(form))
    if forms:
        yield begin, BytesAhoCorasick([form.encode() for form in forms[begin:]], MatchKind.Standard)


def _find_inert(decisions: Iterable[Decision], mode: Mode) -> frozenset[int]:
    inert = {Action.LOG, Action.ESCAPE} if mode is Mode.ENFORCE else set(Action) - {Action.ALLOW}
    return frozenset(form for form, decision in enumerate(decisions) if decision.action in inert)


def _any_mode(policy: Policy) -> Mode:
    other = policy.sources.get("*")
    return (other.mode if other else None) or policy.mode


def _check_binding(policy: Policy, tokenizer: Tokenizer) -> None:
    pinned = policy.tokenizer
    if pinned is None:
        return
    if pinned.name is not None and pinned.name != tokenizer.name:
        raise TokenizerMismatchError(
            f"{pinned.mark}: the policy is written for tokenizer {pinned.name!r} and was given {tokenizer.name!r}. "
            "Load it with that tokenizer, or change `tokenizer.name`."
        )
    if pinned.fingerprint is not None and pinned.fingerprint != tokenizer.fingerprint:
        raise TokenizerMismatchError(
            f"{pinned.mark}: tokenizer {tokenizer.name!r} has fingerprint {tokenizer.fingerprint}, and the policy pins "
            f"{pinned.fingerprint}. Compare `guardtok tokens {tokenizer.name}` before you pin the new one."
        )


def _add_custom_tokens(policy: Policy, tokenizer: Tokenizer) -> Tokenizer:
    """Give `auto` tokens their ids, from the lock file or from the tokenizer if it has them, and add them all to it."""
    if not policy.custom_tokens:
        return tokenizer
    lock = policy.lock
    if lock is not None and lock.fingerprint != tokenizer.fingerprint:
        raise TokenizerMismatchError(
            f"{lock.file}: the ids are pinned for tokenizer {lock.tokenizer!r} with another fingerprint than "
            f"{tokenizer.name!r} has now. Write the lock file again: "
            f"guardtok tokens {tokenizer.name} --policy {policy.place} --lock --update."
        )
    locked = lock.ids if lock is not None else {}
    pinned = {token.form: locked.get(token.form) if token.id is None else token.id for token in policy.custom_tokens}
    placed = place(
        tokenizer,
        list(pinned),
        {form: id_ for form, id_ in pinned.items() if id_ is not None},
        avoid=locked.values(),
    )
    return tokenizer.with_custom_tokens({token.form: token.id for token in placed})


def _collect(policy: Policy, tokenizer: Tokenizer | None) -> list[Form]:
    """List every form once: the tokenizer's, then the policy's, then other families'."""
    forms: dict[str, Form] = {}
    known = catalogue()
    if tokenizer is not None:
        for token in tokenizer.control_tokens:
            forms.setdefault(token.form, Form(token.form, token.id, token.role, FormKind.CONTROL))
    else:
        for entry in known.values():
            forms[entry.form] = Form(entry.form, None, entry.role, FormKind.CONTROL)
        for custom in policy.custom_tokens:
            forms.setdefault(custom.form, Form(custom.form, custom.id, None, FormKind.CONTROL))
    named = [marker.form for marker in policy.forms]
    named += [selector for selector in _literals(policy) if selector in known]
    for text in named:
        role = known[text].role if text in known else None
        forms.setdefault(text, Form(text, None, role, FormKind.MARKER))
    if policy.foreign is not Reaction.IGNORE:
        for entry in known.values():
            if not entry.common:
                forms.setdefault(entry.form, Form(entry.form, None, entry.role, FormKind.FOREIGN))
    written = {token.form for token in policy.text_tokens}
    return [form for form in forms.values() if form.text not in written]


def _literals(policy: Policy) -> list[str]:
    """Return what the policy selects literally, directly or through its groups: it means these, whatever is bound."""
    selectors = [entry.selector for rules in policy.sources.values() for entry in rules.entries]
    selectors += [member for group in policy.groups.values() for member in group.members]
    return selectors


def _universe(forms: tuple[Form, ...]) -> dict[str, frozenset[str]]:
    """Map each form to the built-in groups that it is in. A marker is in no `@special`: it has no id."""
    families = catalogue()
    universe: dict[str, frozenset[str]] = {}
    for form in forms:
        names = {"@special"} if form.kind is FormKind.CONTROL else set()
        if form.role is not None:
            names.add(f"@{form.role}")
        if form.text in families:
            names.update(f"@dialect:{slug}" for slug in families[form.text].families)
        universe[form.text] = frozenset(names)
    return universe


def _decide_all(
    policy: Policy, source: str, forms: tuple[Form, ...], universe: Mapping[str, frozenset[str]]
) -> tuple[Decision, ...]:
    """Decide every form for one source. Another family's form it may write if it may; else `foreign` decides."""
    decisions = resolve(policy, source, universe)
    foreign = Decision(to_action(policy.foreign), "foreign", None)

    def decide(form: Form) -> Decision:
        decision = decisions[form.text]
        return foreign if form.kind is FormKind.FOREIGN and decision.action is not Action.ALLOW else decision

    return tuple(map(decide, forms))


def to_action(reaction: Reaction) -> Action:
    """Return the action that a reaction asks for."""
    match reaction:
        case Reaction.LOG:
            return Action.LOG
        case Reaction.ESCAPE:
            return Action.ESCAPE
        case Reaction.BLOCK:
            return Action.BLOCK
        case Reaction.IGNORE:
            return Action.ALLOW
        case other:
            assert_never(other)
