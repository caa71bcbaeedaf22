"""The shape of a body without what it says: for a decision log that may be read by people who may not read prompts."""

from __future__ import annotations

import hashlib

MAX_VALUES = 1_000
"""Values of one body that are shown; the rest is cut off."""

MAX_DEPTH = 32
"""Objects and lists within one another that are shown."""

CUT = "(cut)"
"""Stands where the rest was cut off."""

KEYS = frozenset(
    {"arguments", "content", "description", "documents", "function", "functions", "id", "input", "instructions"}
    | {"max_tokens", "messages", "model", "name", "options", "parameters", "prompt", "properties", "required"}
    | {"response_format", "role", "source", "stop", "stream", "suffix", "system", "temperature", "text"}
    | {"tool_call_id", "tool_calls", "tool_choice", "tools", "type"}
)
"""Keys that the protocols have. Any other key is text that the caller chose."""


def mask(body: object, key: bytes) -> object:
    """Return a body with each string as its length and keyed digest, and each number as `(number)`.

    Two equal strings have equal digests under one key, so that repetition can be seen without the text.

    Args:
        body: JSON values; a bare text too.
        key: Key of the digests, 1 to 64 bytes.

    Raises:
        TypeError: A value that JSON does not have.
    """
    return _Masking(key).value(body, 0)


class _Masking:
    __slots__ = ("_key", "_left")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._left = MAX_VALUES

    def value(self, value: object, depth: int) -> object:
        if self._left <= 0 or depth > MAX_DEPTH:
            return CUT
        self._left -= 1
        match value:
            case None | bool():
                return value
            case str():
                return self._text(value)
            case int() | float():
                return "(number)"  # A token id is text, and a number may be a card's.
            case dict():
                return self._object(value, depth)
            case list() | tuple():
                shown: list[object] = []
                for each in value:
                    shown.append(self.value(each, depth + 1))
                    if self._left <= 0:
                        break
                return shown
            case _:
                raise TypeError

    def _object(self, value: dict[object, object], depth: int) -> dict[str, object]:
        shown: dict[str, object] = {}
        for name, each in value.items():
            shown[name if isinstance(name, str) and name in KEYS else self._text(str(name))] = self.value(
                each, depth + 1
            )
            if self._left <= 0:
                break
        return shown

    def _text(self, text: str) -> str:
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=8).hexdigest()
        return f"({len(text)} characters, {digest})"
