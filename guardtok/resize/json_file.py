"""JSON as checkpoints hold it, read strictly: bounded, UTF-8, each key once.

Two readers that take different values of a key which stands there twice see two different checkpoints. So such a file
is refused, and so is one that would only exhaust memory.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from guardtok.errors import CheckpointError
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_BYTES = 128 << 20
"""The largest JSON file that is read; the tokenizers of 2026 take up to 35 MB."""

_MAX_SHOWN = 120
_MAX_DEPTH = 100


def shown(name: str) -> str:
    """Return a name out of a file as messages may spell it: bounded, one line, nothing that a terminal obeys."""
    return visible(name if len(name) <= _MAX_SHOWN else name[:_MAX_SHOWN] + "…")


def parse(data: bytes, place: str, *, python: bool = True) -> Any:  # noqa: ANN401 - JSON is any of many types
    """Return the value that a JSON text holds.

    Args:
        data: The text, in UTF-8.
        place: What the text is, for messages.
        python: Whether what Python takes beyond JSON is taken: `NaN`, `Infinity`, and `-0` as a whole number.

    Raises:
        CheckpointError: The text is no JSON, not UTF-8, too deep, or has a key twice in one object.
    """

    def refuse(_: str) -> float:
        raise CheckpointError(f"{place} holds a number that is no JSON.")

    def whole(digits: str) -> float:
        # To JSON's other readers `-0` is no whole number.
        return -0.0 if digits == "-0" else int(digits)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            raise CheckpointError(f"{place} has a key twice in one object, so readers may disagree on what it says.")
        return made

    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique,
            parse_constant=float if python else refuse,
            parse_int=int if python else whole,
        )
        _check_depth(value)
    except CheckpointError:
        raise
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{place} is not UTF-8: byte {error.start} begins no character.") from None
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{place} is no JSON: see line {error.lineno}, column {error.colno}.") from None
    except (ValueError, RecursionError, MemoryError):
        raise CheckpointError(f"{place} is no JSON that can be read: too deep, or a number too long.") from None
    return value


def _check_depth(value: object) -> None:
    """Do nothing if a value is no deeper than whoever walks it can go.

    Raises:
        RecursionError: It is.
    """
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [each for part in level for each in _inner(part) if isinstance(each, dict | list)]
        if not level:
            return
    raise RecursionError


def _inner(value: object) -> Iterable[object]:
    match value:
        case dict():
            return value.values()
        case list():
            return value
        case _:
            return ()


def parse_object(data: bytes, place: str) -> dict[str, Any]:
    """Return the object that a JSON text holds.

    Raises:
        CheckpointError: As `parse`, or it holds something else.
    """
    value = parse(data, place)
    if not isinstance(value, dict):
        raise CheckpointError(f"{place} holds no JSON object.")
    return value


def render(value: dict[str, Any]) -> bytes:
    """Return a JSON text as checkpoints have it: two spaces, characters as they are, a line ending.

    A lone surrogate, which UTF-8 cannot hold, makes it all ASCII.
    """
    try:
        return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(value, indent=2) + "\n").encode()
