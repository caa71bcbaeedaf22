"""Streamed responses of the Responses API: output items, each text of which is said up to four times.

Fragments come first, then the whole text, then the part and the item that hold it, and at the end the whole response.
A client may read any of them, so all of them must say the same.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from guardtok.requests.pieces import Piece, Reading, mapped, strings
from guardtok.text import UNKNOWN

if TYPE_CHECKING:
    from guardtok.requests.labels import Label
    from guardtok.requests.pieces import Steps

_INDICES = ("content_index", "summary_index", "command_index")
_LAST = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled", "error"})


class _Kind(NamedTuple):
    """A kind of text.

    Attributes:
        place: Where it lies in its item; `{}` is the index of the part.
        source: Who wrote it.
        whole: The field of the `done` event that says it whole.
        json: Whether it is JSON.
    """

    place: str
    source: str
    whole: str
    json: bool = False


_KINDS = MappingProxyType(
    {
        "response.output_text": _Kind(".content[{}].text", "assistant", "text"),
        "response.refusal": _Kind(".content[{}].refusal", "assistant", "refusal"),
        "response.reasoning_text": _Kind(".content[{}].text", "assistant", "text"),
        "response.reasoning_summary_text": _Kind(".summary[{}].text", "assistant", "text"),
        "response.audio.transcript": _Kind(".transcript", "assistant", "transcript"),
        "response.function_call_arguments": _Kind(".arguments", "tool_arguments", "arguments", json=True),
        "response.mcp_call_arguments": _Kind(".arguments", "tool_arguments", "arguments", json=True),
        "response.custom_tool_call_input": _Kind(".input", "tool_arguments", "input"),
        "response.code_interpreter_call_code": _Kind(".code", "tool_arguments", "code"),
        "response.shell_call_command": _Kind(".action.commands[{}]", "tool_arguments", "command"),
        "response.shell_call_output_content": _Kind(".output[{}]", "tool_result", "output"),
    }
)
"""By what the types of its events begin with."""

_PARTS = MappingProxyType(
    {
        "output_text": ("text", "response.output_text"),
        "refusal": ("refusal", "response.refusal"),
        "reasoning_text": ("text", "response.reasoning_text"),
        "summary_text": ("text", "response.reasoning_summary_text"),
    }
)
"""By the type of a part: the field that may hold the beginning of its text, and what that text's events begin with."""


class Items:
    """How `/v1/responses` streams."""

    restates: ClassVar[bool] = True

    __slots__ = ("_label",)

    def __init__(self, label: Label) -> None:
        """Take the label of every event."""
        self._label = label

    def read(self, event: dict[str, Any]) -> Reading:
        """Return what an event means."""
        said = event.get("type")
        said = said if isinstance(said, str) else ""
        name, _, stage = said.rpartition(".")
        holder = _holder_of(event)
        item = f"$.output[{holder}]"
        part = next((event[key] for key in _INDICES if type(event.get(key)) is int), 0)
        field = "summary" if type(event.get("summary_index")) is int else "content"
        places = [("$.response", "$"), ("$.item", item), ("$.part", f"{item}.{field}[{part}]")]
        places.append(("$.annotation", f"{item}.{field}[{part}].annotations"))
        pieces: tuple[Piece, ...] = ()
        ends: tuple[Steps, ...] = ()
        kind = _KINDS.get(name)
        match stage:
            case "delta":
                path = item + (kind.place.format(part) if kind else f".{name.rpartition('.')[2]}")
                pieces = tuple(
                    Piece(
                        steps,
                        (holder, name, part, *steps[1:]),
                        path + "".join(f".{step}" for step in steps[1:]),
                        kind.source if kind else UNKNOWN,
                        kind.json if kind else False,
                    )
                    for steps, _ in strings(event.get("delta"), ("delta",))
                )
            case "added" if name in {"response.content_part", "response.reasoning_summary_part"}:
                pieces = _begin(mapped(event.get("part")), holder, part, item)
            case "done" if name == "response.output_item":
                ends = ((holder,),)
            case "done" if name in {"response.content_part", "response.reasoning_summary_part"}:
                ends = tuple((holder, each, part) for _, each in _PARTS.values())
            case "done":
                ends = ((holder, name, part),)
                if kind is not None:
                    places.append((f"$.{kind.whole}", item + kind.place.format(part)))
            case _:
                ends = ((),) if said in _LAST else ()
        return Reading(pieces, ends, self._label, tuple(places))

    @staticmethod
    def rest(event: dict[str, Any], piece: Piece, text: str) -> dict[str, Any]:
        """Return an event that says no more than this of a text."""
        made: Any = text
        for step in reversed(piece.steps[1:]):
            made = {step: made} if isinstance(step, str) else [made]
        if piece.steps[0] == "part":
            made = text
        copied = {key: value for key, value in event.items() if key not in {"part", "obfuscation", "logprobs"}}
        name = str(piece.text[1])
        # The type of these events has log probabilities, and clients ask for them.
        probabilities: dict[str, Any] = {"logprobs": []} if name == "response.output_text" else {}
        return {**copied, "type": f"{name}.delta", "delta": made, **probabilities}


def _holder_of(event: dict[str, Any]) -> int | str:
    """Return what tells an event's item from the others: its index, or where a server leaves that out its id."""
    said = event.get("output_index", event.get("item_id"))
    return said if isinstance(said, (int, str)) else -1


def _begin(part: dict[str, Any], holder: int | str, index: int, item: str) -> tuple[Piece, ...]:
    said = part.get("type")
    field, name = _PARTS.get(said if isinstance(said, str) else "", ("", ""))
    if not isinstance(part.get(field), str):
        return ()
    kind = _KINDS[name]
    return (Piece(("part", field), (holder, name, index), item + kind.place.format(index), kind.source),)
