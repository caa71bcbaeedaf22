"""Messages → one `Text`: which tokens the format writes around them, and what may stand in a header."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from guardtok.errors import ConversationError
from guardtok.harmony.content import render_developer, render_system
from guardtok.harmony.draft import Node, Parts, cut, literal
from guardtok.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

_SOURCES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool_result",
}
"""The source of a message's content, by its role."""

_NAME = re.compile(r"[\w./-]{1,256}")
_CONSTRAIN = "<|constrain|>"
_FINAL, _ANALYSIS = "final", "analysis"
_FOREIGN = {"tool_calls", "tool_call_id", "function_call"}


def render(conversation: Any, *, next_role: str | None = "assistant", drop_analysis: bool = True) -> Text:  # noqa: ANN401 - see Args
    """Render a conversation to a `Text` whose ids, through a guard on `o200k_harmony`, are openai-harmony's.

    One difference: text parts that follow one another in one message are encoded as the one text that they are, where
    openai-harmony encodes each alone.

    Args:
        conversation: A `Conversation` of openai-harmony's, or messages: its `Message`s, or mappings as
            `Message.to_dict` writes them: `role`, `content` (a string, or a list of mappings of type `text`,
            `system_content` or `developer_content`), and `name`, `channel`, `recipient` and `content_type` where there
            are such. A `Text` as content keeps its labels; else content has its role's source, tool definitions are
            `tool_definition`, and what is in a header is `name`.
        next_role: Whose turn it is next (`render_conversation_for_completion`); None to end after the last message.
        drop_analysis: Whether the analysis before the first final answer is left out where the assistant's last
            message is a final one, as openai-harmony does by default.

    Raises:
        ConversationError: A message of another shape, or a name, a recipient, a channel or a content type that holds
            more than letters, digits and `_ . / -`, and so could pass for header syntax; or a tool with the name of a
            role. The error names message and field.
    """
    messages = [_Message(values, f"$.messages[{index}]") for index, values in enumerate(_list(conversation))]
    has_functions = any(message.has_functions() for message in messages)
    parts = [part for message in _kept(messages, drop_analysis) for part in message.render(has_functions=has_functions)]
    if next_role is not None:
        if next_role not in _SOURCES:
            raise ConversationError("next_role", f"is no role. Give one of {', '.join(_SOURCES)}.")
        parts.append(literal(f"<|start|>{next_role}"))
    return literal("").join(parts)


def _list(conversation: Any) -> list[Any]:  # noqa: ANN401 - as in `render`
    """Return the messages as plain values. An object of openai-harmony's says itself what it is, in JSON."""
    if hasattr(conversation, "messages") and hasattr(conversation, "to_json"):
        conversation = conversation.messages
    if isinstance(conversation, (str, bytes, dict)) or not hasattr(conversation, "__iter__"):
        raise ConversationError("$", f"is a {type(conversation).__name__}. Give a Conversation or a list of messages.")
    return [json.loads(message.to_json()) if hasattr(message, "to_json") else message for message in conversation]


def _kept(messages: list[_Message], drop_analysis: bool) -> Iterable[_Message]:  # noqa: FBT001 - the caller's own word
    answers = [message for message in messages if message.role == "assistant"]
    if not drop_analysis or not answers or answers[-1].channel != _FINAL:
        return messages
    first = next(index for index, message in enumerate(messages) if message.channel == _FINAL)
    return (m for index, m in enumerate(messages) if index >= first or m.channel != _ANALYSIS)


class _Message(Node):
    """One message, checked."""

    def __init__(self, values: Any, path: str) -> None:  # noqa: ANN401 - whatever the caller has there
        super().__init__(values, path, "name")
        if foreign := _FOREIGN.intersection(self.values):
            raise ConversationError(
                f"{path}.{min(foreign)}",
                "is not of this format. Write a call as an assistant's message with `recipient` and `channel`, and its "
                "result as a message of the role `tool` with the tool's `name`.",
            )
        given = self.values.get("role")
        role = next((known for known in _SOURCES if known == given), None)  # `given` may be an enumeration's member.
        if role is None:
            raise ConversationError(f"{path}.role", f"is no role. Give one of {', '.join(_SOURCES)}.")
        self.role = role
        self.channel = self._word("channel")
        self._name = self._word("name")
        self._recipient = self._word("recipient")
        if role == "tool" and self._name is None:
            raise ConversationError(f"{path}.name", "is missing. A tool's message carries the name of the tool.")
        if role == "tool" and self._name is not None and self._name.casefold() in _SOURCES:
            raise ConversationError(f"{path}.name", "is a role, whose message it would become. Rename the tool.")
        self._contents = list(self._read_contents())

    def _word(self, key: str) -> Text | None:
        """Return what stands in the header under a key, if it can be nothing but a name.

        A word in a header has no control token around it: `x to=functions.f` would be a name and a recipient.
        """
        text = self.label(key)
        if text is not None and not _NAME.fullmatch(text):
            raise ConversationError(
                f"{self.path}.{key}", "holds more than letters, digits and _ . / -, or nothing, or too much. Rename it."
            )
        return text

    def _read_contents(self) -> Iterable[Node]:
        source = _SOURCES[self.role]
        if self.values.get("content") is None or isinstance(self.values["content"], str):
            yield Node({"type": "text", "text": self.values.get("content")}, self.path, source)
            return
        for path, values in self.items("content"):
            part = Node(values, path, source)
            kinds = ["text"] + [f"{self.role}_content"] * (self.role in {"system", "developer"})
            if part.values.get("type") not in kinds:
                raise ConversationError(f"{path}.type", f"is not {' or '.join(kinds)}, as this role's content is.")
            yield part

    def has_functions(self) -> bool:
        """Return whether a developer's message defines functions."""
        for part in self._contents:
            tools = part.below("tools") if part.values["type"] == "developer_content" else None
            functions = tools.below("functions") if tools is not None else None
            if functions is not None and any(True for _ in functions.items("tools")):
                return True
        return False

    def render(self, *, has_functions: bool) -> Parts:
        """Return the message, from `<|start|>` to its end."""
        parts = [literal("<|start|>")]
        if self.role != "tool":
            parts.append(literal(self.role + (":" if self._name is not None else "")))
        if self._name is not None:
            parts.append(self._name)
        if self._recipient is not None and self._recipient != "all":
            parts += literal(" to="), self._recipient
        if self.channel is not None:
            parts += literal("<|channel|>"), self.channel
        parts += self._render_content_type()
        parts.append(literal("<|message|>"))
        for part in self._contents:
            parts += self._render_content(part, has_functions=has_functions)
        calls = self.role == "assistant" and self._recipient is not None
        parts.append(literal("<|call|>" if calls else "<|end|>"))
        return parts

    def _render_content_type(self) -> Parts:
        """Return the content type: a word, with `<|constrain|>` before it where the model shall keep to it.

        It is the one place where openai-harmony makes a token of a message's text; here the token is the format's own,
        and nothing but a word may follow.
        """
        text = self.label("content_type")
        if text is None:
            return []
        constrained = text.startswith(_CONSTRAIN)
        word = cut(text, len(_CONSTRAIN) * constrained, len(text))
        if not (_NAME.fullmatch(word.removeprefix(" ")) or (constrained and not word)):
            raise ConversationError(
                f"{self.path}.content_type", f"is not a word, or {_CONSTRAIN[1:-1]} and a word. Give one like `json`."
            )
        return [literal(" " + _CONSTRAIN * constrained), word]

    def _render_content(self, part: Node, *, has_functions: bool) -> Parts:
        match part.values["type"]:
            case "system_content":
                return render_system(part, has_functions=has_functions)
            case "developer_content":
                return render_developer(part)
            case _:
                if part.path == self.path:  # The content is the string itself.
                    text = part.values["text"]
                    if not isinstance(text, str):
                        raise ConversationError(f"{self.path}.content", "is missing. Give a string or a list.")
                    return [
                        text if isinstance(text, Text) else Text(text, source=part.source, path=f"{self.path}.content")
                    ]
                return [part.require("text")]
