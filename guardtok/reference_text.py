"""Text that goes on as text, once more, slow and plain: the specification that `sanitize` and `stream` are held to.

The need it answers: an editor that works window by window, caches separators and looks back no further than it must is
quick and easy to get wrong. Here the whole text is at hand, every form is tried at every place, and each rule of
`docs/text-level.md` is one function. Exact forms are judged by `reference`, disguises found by `reference_views`; this
puts the two together. Only tests and fuzzing import it.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guardtok.dialects import catalogue
from guardtok.policy.model import ANY_SOURCE, Reaction
from guardtok.reference import (
    Decision,
    Finding,
    Standing,
    bound,
    decision,
    judge,
    known_forms,
    occurrences,
    repair,
    reported,
    sources_of,
    to_delete,
)
from guardtok.reference_views import disguises
from guardtok.views.escapes import read
from guardtok.views.folds import View
from guardtok.views.lookout import views_for
from guardtok.violation import Action, Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from guardtok.policy.model import Policy
    from guardtok.reference import Character, Form
    from guardtok.text import Text
    from guardtok.tokenizer import Tokenizer

SEPARATORS = "_-~."
GAP = "\ufffd"
ESCAPE_LENGTH = 16
"""A disguise has at most so many characters, and `max_hidden`, for each of the longest form's."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A finding, the name of the views that it was seen under, and whether it lies inside another."""

    finding: Finding
    view: str
    inner: bool = False


@dataclass(frozen=True, slots=True)
class ReferenceText:
    """What a text becomes.

    Attributes:
        text: The result; where `refused` is true, what it would be if nothing were refused.
        seen: What is reported, exact and disguised, by start, then the longest first.
        refused: The form that refuses the text, or None.
        characters: The text as it was taken in, labelled.
    """

    text: str
    seen: list[Seen]
    refused: str | None
    characters: list[Character]


@dataclass(frozen=True, slots=True)
class _Break:
    """A form that may not stay whole: a separator goes behind the character at `first`, before `end`."""

    first: int
    end: int
    form: str


def sanitize(
    text: Text,
    policy: Policy,
    tokenizer: Tokenizer,
    order: Sequence[str],
    begins_disguise: Callable[[str], bool] = lambda _: False,
) -> ReferenceText:
    """Decide a text and edit it.

    Args:
        text: The text.
        policy: The policy.
        tokenizer: The tokenizer, without the policy's custom tokens.
        order: The forms as the ruleset lists them: where one spelling may be several, the first stands for all.
        begins_disguise: Whether a text ends in the beginning of a form in disguise. Only asked where disguises may not
            stay and something is deleted.

    Raises:
        LimitError: More characters than `limits.max_chars`.
        SurrogateError: A lone surrogate under `surrogates: refuse`.
    """
    forms = known_forms(policy, bound(policy, tokenizer))
    characters = repair(text, policy)
    tokens, findings = judge(characters, forms, policy)
    disguised = list(_judge_disguises(characters, [forms[each] for each in order], policy))
    told = [each for each, _ in disguised if not each.inner]
    seen = [Seen(each, "exact") for each in reported(findings)] + told
    blocks = [each for each in findings + [each.finding for each in told] if _enforces(each, Action.BLOCK)]
    breaks = [_Break(each.start, each.end, each.form.text) for each in findings if _must_break(each, policy)]
    # One that lies inside another is broken too, for when that is broken it stands alone.
    breaks += [
        each
        for found, each in disguised
        if _enforces(found.finding, Action.ESCAPE)
        and not (found.inner and any(start <= found.finding.start < end for start, end, _ in tokens))
    ]
    strict = any(reaction(policy, each.source) in {Reaction.ESCAPE, Reaction.BLOCK} for each in characters)
    return ReferenceText(
        text=_edit(
            "".join(each.value for each in characters),
            to_delete(tokens, findings, characters, policy),
            sorted(breaks, key=lambda each: (each.first, -each.end)),
            [(start, end) for start, end, _ in tokens],
            list(forms),
            begins_disguise if strict else lambda _: False,
        ),
        seen=sorted(seen, key=lambda each: (each.finding.start, -each.finding.end)),
        refused=min(blocks, key=lambda each: (each.start, -each.end)).form.text if blocks else None,
        characters=characters,
    )


def reaction(policy: Policy, source: str) -> Reaction:
    """Return what `lookalikes` says: of the source, else of any source, else of all."""
    asked = [policy.sources[name] for name in (source, ANY_SOURCE) if name in policy.sources]
    return next((rules.lookalikes for rules in asked if rules.lookalikes is not None), policy.lookalikes)


def _enforces(finding: Finding, action: Action) -> bool:
    return finding.decision.action is action and finding.decision.mode is Mode.ENFORCE


def _must_break(finding: Finding, policy: Policy) -> bool:
    """Whether the verdict, or one of those who spelled the form together, enforces another text."""
    decided = [finding.decision]
    if len(finding.sources) > 1:
        decided += [decision(policy, source, finding.form) for source in finding.sources]
    return any(each.action in {Action.ESCAPE, Action.STRIP} and each.mode is Mode.ENFORCE for each in decided)


def _judge_disguises(
    characters: list[Character], forms: Sequence[Form], policy: Policy
) -> Iterator[tuple[Seen, _Break]]:
    """Yield what is reported of disguises, each with where it is broken: behind its first character as it is read."""
    plain = "".join(each.value for each in characters)
    numbers = {form.text: number for number, form in enumerate(forms)}
    exact = [(numbers[form.text], start, end) for start, end, form in occurrences(plain, {f.text: f for f in forms})]
    known = catalogue()
    shapes = {
        number: (form.text, views_for(form.text, common=form.text in known and known[form.text].common))
        for number, form in enumerate(forms)
    }
    longest = max(map(len, numbers), default=0) * (ESCAPE_LENGTH + policy.limits.max_hidden)
    told: set[tuple[int, int]] = set()
    for disguise in sorted(disguises(plain, exact, shapes, policy.limits.max_hidden), key=_in_order):
        number, start, end, view, inner = disguise
        sources = sources_of(characters[start:end])
        decided = _decide_disguise(forms[number], sources, policy)
        if decided.action is Action.ALLOW or (start, end) in told or end - start > longest:
            continue
        told.add((start, end))
        second = read(plain, start)[1]
        yield (
            Seen(Finding(forms[number], start, end, sources, decided), view, inner),
            _Break(second - 1 if second < end else start, end, forms[number].text),
        )


def _in_order(disguise: tuple[int, int, int, str, bool]) -> tuple[int, int, int, int, int]:
    """Order disguises by place; of those at one place, the one that takes the fewest views first."""
    number, start, end, view, _ = disguise
    views = sum(each for each in View if each.name.lower() in view.split("+"))
    return start, end, views.bit_count(), views, number


def _decide_disguise(form: Form, sources: tuple[str, ...], policy: Policy) -> Decision:
    """Decide a disguise: the most restrictive of what its sources' `lookalikes` say.

    Who may write the form may disguise it, and another family's form is no worse disguised than written.
    """
    decided: list[tuple[Action, Mode]] = []
    for source in sources:
        itself = decision(policy, source, form)
        said = reaction(policy, source)
        action = Action.ALLOW if said is Reaction.IGNORE else Action(said.value)
        if itself.action is Action.ALLOW or form.standing is Standing.FOREIGN:
            action = min(action, itself.action, key=lambda each: each.severity)
        decided.append((action, itself.mode))
    action = max((each for each, _ in decided), key=lambda each: each.severity)
    mode = Mode.ENFORCE if (action, Mode.ENFORCE) in decided else Mode.MONITOR
    return Decision(action, mode, frozenset({"lookalikes"}))


def _edit(  # noqa: PLR0913, PLR0917 - what decides an edit
    plain: str,
    deleted: set[int],
    breaks: list[_Break],
    tokens: list[tuple[int, int]],
    forms: list[str],
    begins_disguise: Callable[[str], bool],
) -> str:
    """Return the text, edited from left to right."""
    replaced = {each.first for each in breaks if each.end - each.first == 1}
    separators = _place_separators(plain, deleted, breaks, tokens, forms)
    beginnings = {form[:size] for form in forms for size in range(1, len(form))}
    out = ""
    for position, character in enumerate(plain):
        out += separators.get(position, "")
        if position not in deleted:
            out += GAP if position in replaced else character
        elif position - 1 not in deleted and (any(map(out.endswith, beginnings)) or begins_disguise(out)):
            out += GAP  # Nothing that follows can grow together with what stands here.
    return out


def _place_separators(
    plain: str, deleted: set[int], breaks: list[_Break], tokens: list[tuple[int, int]], forms: list[str]
) -> dict[int, str]:
    """Return by position what goes in before a character.

    That is behind a form's first character, or right behind the allowed token which that is in. It is not needed where
    one stands behind that character already, or where a character beside it is deleted.
    """
    placed: dict[int, str] = {}
    for each in breaks:
        if each.end - each.first == 1:
            continue
        place = max([each.first + 1, *(end for start, end in tokens if start <= each.first < end)])
        if max(placed, default=0) > each.first or not deleted.isdisjoint({place - 1, place}):
            continue
        lefts, rights = plain[place - 1] + each.form[0], plain[place] + each.form[1]
        placed[place] = next(sign for sign in SEPARATORS if _is_inert(sign, lefts, rights, forms))
    return placed


def _is_inert(sign: str, lefts: str, rights: str, forms: Iterable[str]) -> bool:
    """Whether no form has a sign between two of these characters, or at its border, all as they are or folded."""
    left, right = ({folded for char in chars for folded in _folds(char)} for chars in (lefts, rights))
    return not any(
        form[at] == sign and (at == 0 or form[at - 1] in left) and (at + 1 == len(form) or form[at + 1] in right)
        for form in {folded for form in forms for folded in _folds(form)}
        for at in range(len(form))
    )


def _folds(text: str) -> set[str]:
    composed = unicodedata.normalize("NFKC", text)
    return {text, composed, composed.casefold()}
