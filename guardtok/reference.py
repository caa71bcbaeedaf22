"""The whole decision and encode once more, slow and plain: the specification that production is held against.

The need it answers: an automaton, spans and caches are quick and easy to get wrong. Here every form is tried at every
position, every character carries its own label, and nothing is shared with the production path. Only tests and fuzzing
import this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from guardtok.dialects import Kind, catalogue, family, role_of
from guardtok.errors import LimitError, SurrogateError
from guardtok.policy.model import ANY_SOURCE, Reaction, Surrogates
from guardtok.violation import Action, Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardtok.policy.model import Policy
    from guardtok.text import Text
    from guardtok.tokenizer import Role, Tokenizer


@dataclass(frozen=True, slots=True)
class Character:
    """One character of the repaired text, and the `width` characters that it was in the caller's own string at `path`.

    `whole` is false for a surrogate pair whose halves lay in two strings; the place is then that of the first half.
    """

    value: str
    source: str
    path: str
    offset: int
    width: int = 1
    whole: bool = True


class Standing(Enum):
    """Why a form is known: it has an id, the policy names it, or another family has it."""

    CONTROL = "control"
    MARKER = "marker"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Form:
    """A string that is looked for."""

    text: str
    id: int | None
    role: Role | None
    standing: Standing


@dataclass(frozen=True, slots=True)
class Decision:
    """What one source, or several together, may do with a form; `rules` are the names that the reason may have."""

    action: Action
    mode: Mode
    rules: frozenset[str]


@dataclass(frozen=True, slots=True)
class Finding:
    """One occurrence, from `start` to `end` in the repaired text, that is not allowed."""

    form: Form
    start: int
    end: int
    sources: tuple[str, ...]
    decision: Decision


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the output: a control token and the one source that wrote it, or an ordinary run."""

    text: str
    form: Form | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class ReferenceResult:
    """What comes out. Where `refused` is true, `ids` are only what `count` counts.

    Attributes:
        ids: The ids.
        pieces: The stretches of the output.
        refused: Whether the call must raise.
        refused_form: The form that it names.
        findings: What is reported, by start, then the longest first.
        action: The most restrictive action of any finding.
        cuts: The ranges of the repaired text that are deleted.
        characters: The repaired text, labelled.
    """

    ids: list[int]
    pieces: list[Piece]
    refused: bool
    refused_form: str | None
    findings: list[Finding]
    action: Action
    cuts: list[tuple[int, int]]
    characters: list[Character]

    @property
    def text(self) -> str:
        """The text that was encoded, without what was cut."""
        return "".join(piece.text for piece in self.pieces)


def repair(text: Text, policy: Policy) -> list[Character]:
    """Join surrogate pairs of one source and replace lone surrogates."""
    if len(text) > policy.limits.max_chars:
        raise LimitError("The text is longer than `limits.max_chars`.")
    whole = str.__str__(text)
    given = [
        Character(whole[i], run.source, run.path, run.offset + i - run.start)
        for run in text.runs
        for i in range(run.start, run.end)
    ]
    repaired: list[Character] = []
    while given:
        first = given.pop(0)
        pair = "\ud800" <= first.value <= "\udbff" and given and "\udc00" <= given[0].value <= "\udfff"
        if pair and given[0].source == first.source:
            second = given.pop(0)
            value = chr(0x10000 + (ord(first.value) - 0xD800) * 0x400 + ord(second.value) - 0xDC00)
            one_string = (second.path, second.offset) == (first.path, first.offset + 1)
            repaired.append(Character(value, first.source, first.path, first.offset, 1 + one_string, one_string))
        elif "\ud800" <= first.value <= "\udfff":
            if policy.surrogates is Surrogates.REFUSE:
                raise SurrogateError("The text holds a lone surrogate.")
            repaired.append(Character("\ufffd", first.source, first.path, first.offset))
        else:
            repaired.append(first)
    return repaired


def bound(policy: Policy, tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer with the policy's custom tokens: `auto` is the pinned id, or the next free one, in order."""
    pinned = policy.lock.ids if policy.lock else {}
    taken = {token.id for token in policy.custom_tokens}
    free = tokenizer.n_vocab
    ids: dict[str, int] = {}
    for token in policy.custom_tokens:
        id_ = pinned.get(token.form) if token.id is None else token.id
        if id_ is None:
            while free in taken:
                free += 1
            id_ = free
            free += 1
        ids[token.form] = id_
    return tokenizer.with_custom_tokens(ids) if ids else tokenizer


def written(policy: Policy) -> set[str]:
    """Return every selector that the policy writes: its sources' entries and its groups' members."""
    selectors = {entry.selector for rules in policy.sources.values() for entry in rules.entries}
    return selectors.union(*(group.members for group in policy.groups.values()))


def known_forms(policy: Policy, tokenizer: Tokenizer) -> dict[str, Form]:
    """Return everything that is looked for, by its string. `tokenizer` has the policy's custom tokens."""
    forms: dict[str, Form] = {}
    if policy.foreign is not Reaction.IGNORE:
        for text, entry in catalogue().items():
            if not entry.common:
                forms[text] = Form(text, None, role_of(text, None), Standing.FOREIGN)
    for text in {form.form for form in policy.forms} | (written(policy) & catalogue().keys()):
        forms[text] = Form(text, None, role_of(text, None), Standing.MARKER)
    for token in tokenizer.control_tokens:
        forms[token.form] = Form(token.form, token.id, token.role, Standing.CONTROL)
    return forms


def specificity(selector: str, form: Form, policy: Policy) -> int:
    """Return 3 where `selector` is the form itself, 2 for a pattern, 1 for a group, 0 where it does not select it."""
    if selector == form.text:
        return 3
    if selector in policy.groups:
        return int(any(specificity(member, form, policy) for member in policy.groups[selector].members))
    if selector.startswith("@"):
        return int(
            selector == f"@{form.role}" or (selector == "@special" and form.id is not None) or _kin(selector, form)
        )
    if "*" in selector and re.fullmatch(".*".join(map(re.escape, selector.split("*"))), form.text, re.DOTALL):
        return 2
    return 0


def _kin(selector: str, form: Form) -> bool:
    """Whether `selector` is `@dialect:NAME` and the family of that name has the form as a control token."""
    named = family(selector.removeprefix("@dialect:")) if selector.startswith("@dialect:") else None
    return named is not None and any(each.form == form.text and each.kind is Kind.CONTROL for each in named.forms)


def table(policy: Policy, source: str, form: Form) -> Decision:
    """Look a form up for one source: its entries, its default, those of `*`, and where nothing is said, `block`."""
    asked = [(name, policy.sources[name]) for name in (source, ANY_SOURCE) if name in policy.sources]
    mode = next((rules.mode for _, rules in asked if rules.mode), policy.mode)
    for name, rules in asked:
        ranked = [(specificity(entry.selector, form, policy), -entry.depth, entry) for entry in rules.entries]
        best = max((rank[:2] for rank in ranked if rank[0]), default=None)
        if best is not None:
            entries = [entry for *rank, entry in ranked if tuple(rank) == best]
            actions = {entry.action for entry in entries}
            if len(actions) > 1:
                raise ValueError("Equally specific entries of one file disagree; such a policy cannot be loaded.")
            names = frozenset(f"{name}.{entry.action}[{entry.selector}]" for entry in entries)
            return Decision(actions.pop(), mode, names)
        if rules.default is not None:
            return Decision(rules.default.action, mode, frozenset({f"{name}.default"}))
    return Decision(Action.BLOCK, mode, frozenset({f"{ANY_SOURCE}.implicit"}))


def decision(policy: Policy, source: str, form: Form) -> Decision:
    """Decide a form that one source wrote. One that only others would parse gets what `foreign` says, or is allowed."""
    decided = table(policy, source, form)
    if form.standing is Standing.FOREIGN and decided.action is not Action.ALLOW:
        return Decision(Action(policy.foreign.value), decided.mode, frozenset({"foreign"}))
    return decided


def joint_decision(policy: Policy, sources: tuple[str, ...], form: Form) -> Decision:
    """Decide a form that several sources wrote together: never allowed, and else the most restrictive of theirs."""
    decided = [decision(policy, source, form) for source in sources]
    least = Action.LOG if form.standing is Standing.FOREIGN else Action.ESCAPE
    action = max([least, *(each.action for each in decided)], key=lambda each: each.severity)
    asking = [each for each in decided if each.action is action] or decided
    enforced = any(each.mode is Mode.ENFORCE for each in asking)
    return Decision(action, Mode.ENFORCE if enforced else Mode.MONITOR, frozenset({"joint"}))


def occurrences(text: str, forms: dict[str, Form]) -> Iterator[tuple[int, int, Form]]:
    """Yield every occurrence of every form, overlapping ones too: by start, then the longest first."""
    for start in range(len(text)):
        for form in sorted((form for form in forms.values() if text.startswith(form.text, start)), key=_longest):
            yield start, start + len(form.text), form


def _longest(form: Form) -> int:
    return -len(form.text)


def encode(text: Text, policy: Policy, tokenizer: Tokenizer) -> ReferenceResult:
    """Decide and encode `text`. `tokenizer` comes without the policy's custom tokens.

    Raises:
        LimitError: More characters than `limits.max_chars`.
        SurrogateError: A lone surrogate under `surrogates: refuse`.
    """
    tokenizer = bound(policy, tokenizer)
    forms = known_forms(policy, tokenizer)
    characters = repair(text, policy)
    tokens, findings = judge(characters, forms, policy)

    blocks = [each for each in findings if (each.decision.action, each.decision.mode) == (Action.BLOCK, Mode.ENFORCE)]
    deleted = to_delete(tokens, findings, characters, policy)
    pieces = _lay_out(characters, tokens, deleted, forms)
    ids: list[int] = []
    for piece in pieces:
        if piece.form is not None and piece.form.id is not None:
            ids.append(piece.form.id)
        else:
            ids += tokenizer.encode_ordinary(piece.text, at_start=not ids)
    return ReferenceResult(
        ids=ids,
        pieces=pieces,
        refused=bool(blocks),
        refused_form=blocks[0].form.text if blocks else None,
        findings=reported(findings),
        action=max((each.decision.action for each in findings), key=lambda each: each.severity, default=Action.ALLOW),
        cuts=[(i, _end_of_cut(i, deleted)) for i in sorted(deleted) if i - 1 not in deleted],
        characters=characters,
    )


def judge(
    characters: list[Character], forms: dict[str, Form], policy: Policy
) -> tuple[list[tuple[int, int, Form]], list[Finding]]:
    """Return the tokens that are allowed, and every occurrence that is not, but for those inside such a token."""
    tokens: list[tuple[int, int, Form]] = []  # Leftmost-longest.
    forbidden: list[Finding] = []
    for start, end, form in occurrences("".join(each.value for each in characters), forms):
        sources = sources_of(characters[start:end])
        decided = decision(policy, sources[0], form) if len(sources) == 1 else joint_decision(policy, sources, form)
        if decided.action is not Action.ALLOW:
            forbidden.append(Finding(form, start, end, sources, decided))
        elif form.standing is Standing.CONTROL and (not tokens or tokens[-1][1] <= start):
            tokens.append((start, end, form))
    return tokens, [each for each in forbidden if not any(s <= each.start and each.end <= e for s, e, _ in tokens)]


def sources_of(characters: list[Character]) -> tuple[str, ...]:
    """Return who wrote these characters, each once, in their order."""
    return tuple(dict.fromkeys(each.source for each in characters))


def to_delete(
    tokens: list[tuple[int, int, Form]], findings: list[Finding], characters: list[Character], policy: Policy
) -> set[int]:
    """Return the characters that are deleted: none of a token is."""
    return _deleted(findings, characters, policy) - {i for start, end, _ in tokens for i in range(start, end)}


def place(finding: Finding, characters: list[Character]) -> tuple[str, int, int]:
    """Return path, start and end of a finding in the caller's own string that holds its first character."""
    first, *rest = characters[finding.start : finding.end]
    end = first.offset + first.width
    for each in rest:
        if (each.source, each.path, each.offset, each.whole) != (first.source, first.path, end, first.whole):
            break
        end += each.width
    return first.path, first.offset, end


def reported(findings: list[Finding]) -> list[Finding]:
    """Return the findings without those inside a longer one that says at least as much."""
    return [each for each in findings if not any(_covers(other, each) for other in findings)]


def _covers(outer: Finding, inner: Finding) -> bool:
    """Whether `outer` is longer, holds `inner`, and says at least as much."""
    return (
        outer.start <= inner.start
        and inner.end <= outer.end
        and outer.end - outer.start > inner.end - inner.start
        and outer.decision.action.severity >= inner.decision.action.severity
        and (outer.decision.mode is Mode.ENFORCE or inner.decision.mode is Mode.MONITOR)
    )


def _deleted(findings: list[Finding], characters: list[Character], policy: Policy) -> set[int]:
    """Return the characters whose own source asks for `strip`, and enforces it, for a form that they are part of."""
    asked: set[int] = set()
    for each in findings:
        for i in range(each.start, each.end):
            own = decision(policy, characters[i].source, each.form)
            if own.action is Action.STRIP and own.mode is Mode.ENFORCE:
                asked.add(i)
    return asked


def _end_of_cut(position: int, deleted: set[int]) -> int:
    while position in deleted:
        position += 1
    return position


def _lay_out(
    characters: list[Character], tokens: list[tuple[int, int, Form]], deleted: set[int], forms: dict[str, Form]
) -> list[Piece]:
    """Return the output's stretches: runs as long as can be between the tokens, without what is deleted.

    Where the text left of a gap ends in the beginning of a form, U+FFFD stays in the gap.
    """
    beginnings = {form[:size] for form in forms for size in range(1, len(form))}
    form_at = {start: form for start, _, form in tokens}
    pieces: list[Piece] = []
    kept = run = ""
    position = 0
    while position < len(characters):
        if position in form_at:
            form = form_at[position]
            pieces += [Piece(run)] if run else []
            pieces.append(Piece(form.text, form, characters[position].source))
            gained, run, position = form.text, "", position + len(form.text)
        elif position in deleted:
            gained = "\ufffd" if any(map(kept.endswith, beginnings)) else ""
            run, position = run + gained, _end_of_cut(position, deleted)
        else:
            gained = characters[position].value
            run, position = run + gained, position + 1
        kept += gained
    return pieces + ([Piece(run)] if run else [])
