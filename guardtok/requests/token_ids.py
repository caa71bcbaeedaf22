"""Token ids that callers send: prompts that no text rule ever sees, and ids that steer what a model writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guardtok.violation import Action

if TYPE_CHECKING:
    from collections.abc import Iterable

    from guardtok.ruleset import Ruleset


def are_ids(value: Any) -> bool:  # noqa: ANN401 - any JSON value
    """Whether a prompt is one of ids: a number, or a list that begins with a number or with a list."""
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    return isinstance(first, (int, float)) or (first is not value and isinstance(first, (list, tuple)))


def has_ids(value: object) -> bool:
    """Whether a value is a list with an integer in it, or with such a list."""
    if not isinstance(value, (list, tuple)):
        return False
    return any(_is_id(each) or (isinstance(each, (list, tuple)) and any(map(_is_id, each))) for each in value)


def copy_ids(value: Any) -> tuple[Any, list[int]] | None:  # noqa: ANN401 - any JSON value
    """Return a copy of a value that holds ids, and the ids; None where it is no such value.

    Ids come as an integer, a list of integers, a list of such lists, or a mapping from ids to numbers.
    """
    if _is_id(value):
        return value, [value]
    if isinstance(value, dict):
        return _copy_keys(value)
    if not isinstance(value, (list, tuple)):
        return None
    if all(map(_is_id, value)):
        return [*value], [*value]
    made: list[Any] = []
    ids: list[int] = []
    for inner in value:
        if not (isinstance(inner, (list, tuple)) and all(map(_is_id, inner))):
            return None
        made.append([*inner])
        ids += inner
    return made, ids


def find_reserved(ids: Iterable[int], source: str, ruleset: Ruleset) -> str | None:
    """Return what is wrong with ids that a source sends, or None: a reserved id that it may not write, or none at all.

    Without a tokenizer nobody knows what an id is.
    """
    tokenizer = ruleset.tokenizer
    if tokenizer is None:
        return "the policy has token ids checked, and no tokenizer is bound to check them by. Bind one, or send text."
    allowed = {
        form.token_id
        for form, decision in zip(ruleset.forms, ruleset.table[source], strict=True)
        if form.token_id is not None and decision.action is Action.ALLOW
    }
    distinct = set(ids)
    if distinct & (ruleset.reserved - allowed):
        return "a control token of the model is among these ids, which the policy does not allow here. Take it out."
    if distinct and (min(distinct) < 0 or max(distinct) >= tokenizer.n_vocab):
        return "an id among these is none of the tokenizer's. Encode with the tokenizer of the model."
    return None


def _copy_keys(value: dict[Any, Any]) -> tuple[Any, list[int]] | None:
    ids: list[int] = []
    for key, bias in value.items():
        if type(key) is not str or not key.isascii() or not key.isdecimal() or not isinstance(bias, (int, float)):
            return None
        if len(key) > 10:  # noqa: PLR2004 - the largest id has ten digits
            return None
        ids.append(int(key))
    return dict(value), ids


def _is_id(value: object) -> bool:
    return type(value) is int
