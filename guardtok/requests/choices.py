"""Streamed chat completions and completions: `choices`, each with fragments of several texts, told apart by indices.

A client joins whatever strings a `delta` holds, those of fields that nobody knows yet as well. So they are all
fragments here, but for those that say what something is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from guardtok.chat.labels import SPOKEN
from guardtok.requests.pieces import Piece, Reading, listed, mapped, number, spell_steps, strings
from guardtok.text import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardtok.requests.labels import Label
    from guardtok.requests.pieces import Steps

_WHOLE = frozenset({"role", "id", "type", "object"})
"""Fields of a delta that come whole, however often: clients overwrite these."""

_ENVELOPE = frozenset({"choices", "usage", "obfuscation"})
"""What an event that only has the rest of a text does not repeat."""


_DEPTH = 3
"""Steps that lead to a delta, and so to what it is where it is no mapping."""


class Choices:
    """How `/v1/chat/completions` and `/v1/completions` stream."""

    restates: ClassVar[bool] = False

    __slots__ = ("_label",)

    def __init__(self, label: Label) -> None:
        """Take the label of a whole reply."""
        self._label = label

    def read(self, event: dict[str, Any]) -> Reading:
        """Return what an event means."""
        pieces: list[Piece] = []
        ends: list[Steps] = []
        places: list[tuple[str, str]] = []
        for at, each in enumerate(listed(event.get("choices"))):
            choice = mapped(each)
            index = number(choice.get("index"), at)
            if isinstance(choice.get("text"), str):
                pieces.append(Piece(("choices", at, "text"), (index, "text"), f"$.choices[{index}].text", "assistant"))
            pieces += _pieces_of(choice.get("delta"), at, index)
            places.append((f"$.choices[{at}].delta", f"$.choices[{index}].message"))
            places.append((f"$.choices[{at}]", f"$.choices[{index}]"))
            if choice.get("finish_reason"):
                ends.append((index,))
        return Reading(tuple(pieces), tuple(ends), self._label, tuple(places))

    def rest(self, event: dict[str, Any], piece: Piece, text: str) -> dict[str, Any]:
        """Return an event that says no more than this of a text."""
        choice = mapped(event["choices"][piece.steps[1]])
        made: dict[str, Any] = {"index": piece.text[0]}
        made.update(_only(choice, piece.steps[2:], text))
        made.update({"logprobs": None, "finish_reason": None})
        envelope = {key: value for key, value in event.items() if key not in _ENVELOPE}
        nothing = {"usage": None} if "usage" in event else {}
        return {**envelope, "choices": [made], **nothing}


def _pieces_of(delta: object, at: int, index: int) -> Iterator[Piece]:
    for steps, _ in strings(delta, ("choices", at, "delta")):
        if steps[-1] in _WHOLE:
            continue
        names: list[str | int] = []
        value = delta
        for step in steps[_DEPTH:]:
            value = value[step]  # type: ignore[index]  # the steps were found in it
            names.append(number(mapped(value).get("index"), step) if isinstance(step, int) else step)
        path = spell_steps(("choices", index, "message", *names))
        yield Piece(steps, (index, *names), path, _source_of(steps), _is_arguments(steps))


def _source_of(steps: Steps) -> str:
    if len(steps) <= _DEPTH:
        return "assistant"
    field = steps[_DEPTH]
    if field in SPOKEN:
        return "assistant"
    if field in {"tool_calls", "function_call"}:
        return "name" if steps[-1] == "name" and not _is_inside(steps) else "tool_arguments"
    if field == "audio":
        return "assistant" if steps[4:] == ("transcript",) else UNKNOWN
    return UNKNOWN


def _is_inside(steps: Steps) -> bool:
    """Whether a place lies in arguments that came as a mapping and not as JSON, where `name` is any key."""
    return "arguments" in steps[4:-1] or "input" in steps[4:-1]


def _is_arguments(steps: Steps) -> bool:
    return steps[_DEPTH:][:1] in {("tool_calls",), ("function_call",)} and steps[-1] == "arguments"


def _only(value: Any, steps: Steps, text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return a value with one string in it and, of what leads there, no more than an index."""
    if not steps:
        return text
    first, *rest = steps
    inner = _only(value[first], tuple(rest), text)
    if isinstance(first, str):
        return {first: inner}
    index = mapped(value[first]).get("index")
    return [{"index": index, **inner} if isinstance(inner, dict) and index is not None else inner]
