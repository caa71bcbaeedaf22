"""A `Text` in the making, and values taken out of a conversation: each of the kind it must be, with its path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from guardtok.errors import ConversationError
from guardtok.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

TEMPLATE = "template"
"""The source of what the format itself writes."""

Parts = list[Text]


def literal(text: str) -> Text:
    """Return text that the format writes."""
    return Text(text, source=TEMPLATE)


def cut(text: Text, start: int, end: int) -> Text:
    """Return a part of a text with its labels."""
    return cast("Text", text[start:end])  # Only a step loses them.


def join(separator: str, drafts: Iterable[Parts]) -> Parts:
    """Return drafts in a row, with what the format writes between them."""
    joined: Parts = []
    for number, draft in enumerate(drafts):
        if number and separator:
            joined.append(literal(separator))
        joined += draft
    return joined


class Node:
    """A mapping in a conversation: its values, each with its path, and the source of what is written there."""

    def __init__(self, values: Any, path: str, source: str) -> None:  # noqa: ANN401 - whatever the caller has there
        if not isinstance(values, dict):
            raise ConversationError(path, f"is a {type(values).__name__}. Give a mapping.")
        if not all(isinstance(key, str) for key in values):
            raise ConversationError(path, "has a key that is no string.")
        self.values: Mapping[Any, Any] = values
        self.path = path
        self.source = source

    def label(self, key: str) -> Text | None:
        """Return a string with its label, or None where there is none. A `Text` keeps the labels that it has.

        Raises:
            ConversationError: It is something else than a string.
        """
        value, path = self.values.get(key), f"{self.path}.{key}"
        if value is None or isinstance(value, Text):
            return value
        if not isinstance(value, str):
            raise ConversationError(path, f"is a {type(value).__name__}. Give a string.")
        return Text(value, source=self.source, path=path)

    def require(self, key: str) -> Text:
        """Return a string with its label.

        Raises:
            ConversationError: There is none, or something else than a string.
        """
        text = self.label(key)
        if text is None:
            raise ConversationError(f"{self.path}.{key}", "is missing. Give a string.")
        return text

    def below(self, key: str, source: str | None = None) -> Node | None:
        """Return the mapping under a key, or None where there is none.

        Raises:
            ConversationError: It is something else than a mapping.
        """
        value = self.values.get(key)
        return None if value is None else Node(value, f"{self.path}.{key}", source or self.source)

    def items(self, key: str) -> Iterator[tuple[str, Any]]:
        """Yield path and value of each entry of the list under a key.

        Raises:
            ConversationError: It is something else than a list.
        """
        value = self.values.get(key)
        if not isinstance(value, (list, tuple)):
            raise ConversationError(f"{self.path}.{key}", f"is a {type(value).__name__}. Give a list.")
        return ((f"{self.path}.{key}[{index}]", entry) for index, entry in enumerate(value))
