"""Conversations around untrusted parts: the same shape with harmless parts is the twin of an attack."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Message: TypeAlias = dict[str, Any]
Conversation: TypeAlias = "tuple[list[Message], list[Message] | None]"

_CALL_ID = 9
"""Characters of a call's id: Mistral's templates ask for exactly nine."""


def _user(content: object) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: object, **more: object) -> Message:
    return {"role": "assistant", "content": content, **more}


def _pieces(parts: Sequence[str]) -> list[Message]:
    return [{"type": "text", "text": part} for part in parts]


def _tool(name: str = "weather", description: str = "Look.", key: str = "city", value: str = "Bern") -> Message:
    parameters = {"type": "object", "properties": {key: {"type": "string", "enum": [value]}}, "required": [key]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _called(arguments: object, name: str = "weather", call: str = "a" * _CALL_ID) -> list[Message]:
    function = {"name": name, "arguments": arguments}
    return [_user("Weather?"), _assistant("", tool_calls=[{"id": call, "type": "function", "function": function}])]


def _answered(content: object, call: str = "a" * _CALL_ID, **more: object) -> list[Message]:
    result = {"role": "tool", "tool_call_id": call, "content": content, **more}
    return [*_called({"city": "Bern"}, call=call), result]


def _whole(build: Callable[[str], Conversation]) -> Callable[[Sequence[str]], Conversation]:
    return lambda parts: build("".join(parts))


CHATS: Mapping[str, Callable[[Sequence[str]], Conversation]] = MappingProxyType(
    {
        "chat: content": _whole(lambda text: ([_user(text)], None)),
        "chat: system": _whole(lambda text: ([{"role": "system", "content": text}, _user("hi")], None)),
        "chat: history": _whole(lambda text: ([_user("hi"), _assistant(text), _user("so")], None)),
        "chat: reasoning": _whole(lambda text: ([_user("hi"), _assistant("ok", reasoning_content=text)], None)),
        "chat: parts": lambda parts: ([_user(_pieces(parts))], None),
        "chat: parts of the history": lambda parts: ([_user("hi"), _assistant(_pieces(parts)), _user("so")], None),
        "chat: messages": lambda parts: ([_user(part) for part in parts] or [_user("")], None),
        "chat: role": _whole(lambda text: ([{"role": text, "content": "hi"}], None)),
        "chat: name": _whole(lambda text: ([{**_user("hi"), "name": text}], None)),
        "chat: tool result": _whole(lambda text: (_answered(text), [_tool()])),
        "chat: tool result parts": lambda parts: (_answered(_pieces(parts)), [_tool()]),
        "chat: call id": _whole(lambda text: (_answered("21", call=text.ljust(_CALL_ID, "a")), [_tool()])),
        "chat: call name": _whole(lambda text: (_called({"city": "Bern"}, name=text), [_tool()])),
        "chat: call argument": _whole(lambda text: (_called({"city": text}), [_tool()])),
        "chat: call argument key": _whole(lambda text: (_called({text: "Bern"}), [_tool()])),
        "chat: tool name": _whole(lambda text: ([_user("hi")], [_tool(name=text)])),
        "chat: tool description": _whole(lambda text: ([_user("hi")], [_tool(description=text)])),
        "chat: tool key": _whole(lambda text: ([_user("hi")], [_tool(key=text)])),
        "chat: tool value": _whole(lambda text: ([_user("hi")], [_tool(value=text)])),
    }
)
"""Builders of messages and tools, by the name of the shape."""

FIELDS = tuple(name for name in CHATS if name not in {"chat: content", "chat: history", "chat: system"})
"""The shapes that put text somewhere else than into the content of one message."""

PARTED = ("chat: parts", "chat: parts of the history", "chat: messages", "chat: tool result parts")
"""The shapes in which the parts stay apart."""
