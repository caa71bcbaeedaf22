"""Streamed Anthropic messages: content blocks one after another, each begun, filled and stopped by its index."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from guardtok.requests.pieces import Piece, Reading, mapped, number, strings
from guardtok.text import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from guardtok.requests.labels import Label

_TEXTS: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "text_delta": ("text", "text", "assistant"),
        "thinking_delta": ("thinking", "thinking", "assistant"),
        "input_json_delta": ("partial_json", "input", "tool_arguments"),
    }
)
"""By the type of a delta: the field that holds the fragment, the field of the block that holds the text, its source."""

_WHOLE = frozenset({"signature_delta", "citations_delta"})
"""Deltas that come whole."""

_BEGUN = MappingProxyType({"text": "text_delta", "thinking": "thinking_delta"})
"""Fields of a block that may hold the beginning of a text, and the deltas that go on with it."""


class Blocks:
    """How `/v1/messages` streams."""

    restates: ClassVar[bool] = False

    __slots__ = ("_label",)

    def __init__(self, label: Label) -> None:
        """Take the label of every event."""
        self._label = label

    def read(self, event: dict[str, Any]) -> Reading:
        """Return what an event means."""
        kind = event.get("type")
        kind = kind if isinstance(kind, str) else ""
        index = number(event.get("index"), -1)
        block = f"$.content[{index}]"
        pieces: list[Piece] = []
        ends: tuple[tuple[int, ...], ...] = ()
        places: tuple[tuple[str, str], ...] = ()
        match kind:
            case "message_start":
                places = (("$.message", "$"),)
            case "content_block_start":
                places = (("$.content_block", block),)
                begun = mapped(event.get("content_block"))
                pieces += [
                    Piece(("content_block", key), (index, key), f"{block}.{key}", "assistant")
                    for key in _BEGUN
                    if isinstance(begun.get(key), str)
                ]
            case "content_block_delta":
                pieces, places = self._read_delta(mapped(event.get("delta")), index, block)
            case "content_block_stop":
                ends = ((index,),)
            case "message_delta" | "message_stop":
                places = (("$.delta", "$"),)
                ends = ((),)
            case _:
                pass
        return Reading(tuple(pieces), ends, self._label, places)

    @staticmethod
    def _read_delta(delta: dict[str, Any], index: int, block: str) -> tuple[list[Piece], tuple[tuple[str, str], ...]]:
        kind = delta.get("type")
        if kind == "citations_delta":
            return [], (("$.delta.citation", f"{block}.citations"),)
        if kind in _WHOLE:
            return [], (("$.delta", block),)
        key, field, source = _TEXTS.get(kind if isinstance(kind, str) else "", ("", "", UNKNOWN))
        pieces = [
            Piece(steps, (index, field), f"{block}.{field}", source, field == "input")
            if steps == ("delta", key)
            else Piece(steps, (index, *steps), f"{block}.{steps[-1]}", UNKNOWN)
            for steps, _ in strings(delta, ("delta",))
            if steps != ("delta", "type")
        ]
        return pieces, (("$.delta", block),)

    @staticmethod
    def rest(event: dict[str, Any], piece: Piece, text: str) -> dict[str, Any]:
        """Return an event that says no more than this of a text."""
        field = str(piece.steps[-1])
        kind = _BEGUN[field] if piece.steps[0] == "content_block" else event["delta"].get("type")
        made: Any = text
        for step in reversed(piece.steps[1:]):
            made = {step: made} if isinstance(step, str) else [made]
        return {"type": "content_block_delta", "index": event.get("index"), "delta": {"type": kind, **made}}
