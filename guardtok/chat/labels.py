"""Which source wrote what in a conversation: messages, tools, documents and template variables, field by field.

The threat is the field that nobody thought of: a tool's description, a key of a schema, the id of a call. So every
string and every key has a source here, and what is not named is `unknown`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from guardtok.text import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping

TEMPLATE = "template"
"""The source of a chat template's own literals, of the tokenizer's named tokens and of roles."""

ROLES = MappingProxyType(
    {
        "system": "system",
        "developer": "developer",
        "user": "user",
        "assistant": "assistant",
        "tool": "tool_result",
        "function": "tool_result",
        "ipython": "tool_result",
    }
)
"""The roles that every template may be given, and the source of what they say."""

RESULT_ROLES = frozenset({"tool_results", "tool_response", "observation"})
"""Roles that single families have for what tools answer."""

SPOKEN = ("content", "reasoning_content", "thinking", "reasoning", "refusal")
"""The fields of a message that its role wrote."""


@dataclass(frozen=True, slots=True)
class Label:
    """The source of a value, and of what lies in it.

    Attributes:
        source: Who wrote it: a string, or the keys and strings of a list or mapping.
        fields: What has another label, by key.
        items: The label of a list's items, where they differ from the list.
    """

    source: str
    fields: Mapping[str, Label] = field(default_factory=dict)
    items: Label | None = None

    @property
    def uniform(self) -> bool:
        """Whether everything in the value has one source."""
        return not self.fields and self.items is None

    def of(self, key: object) -> Label:
        """Return the label of the value under a key, or of an item where `key` is an index."""
        if isinstance(key, str):
            return self.fields.get(key) or (self if self.uniform else Label(self.source))
        return self.items or self


_NAME = Label("name")
_ARGUMENTS = Label("tool_arguments")
_FUNCTION = Label("tool_arguments", {"name": _NAME})
_CALL = Label("tool_arguments", {"name": _NAME, "function": _FUNCTION})

TOOLS = Label("tool_definition")
DOCUMENTS = Label("document")
VARIABLES = Label(UNKNOWN)
"""Template variables that the caller passes: nobody says who wrote them."""


def source_of_role(role: str, declared: Mapping[str, object]) -> str:
    """Return the source of what a role says; a role that the policy declares as a source is one."""
    if role in ROLES:
        return ROLES[role]
    if role in RESULT_ROLES:
        return "tool_result"
    # A message is nobody's template, whatever it calls itself.
    return role if role in declared and role != TEMPLATE else UNKNOWN


@lru_cache(maxsize=64)
def label_message(source: str) -> Label:
    """Return the label of a message that a source wrote."""
    spoken = dict.fromkeys(SPOKEN, Label(source))
    calls = Label("tool_arguments", items=_CALL)
    others = {"name": _NAME, "tool_calls": calls, "function_call": _FUNCTION, "tool_call_id": _ARGUMENTS}
    return Label(UNKNOWN, {**spoken, **others})
