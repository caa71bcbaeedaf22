"""What a streamed event says, in any protocol: fragments of texts, ends of texts, and everything else.

A text is known by where it lies in the whole reply. What is left of one when it ends is sent as an event of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias

from guardtok.errors import RequestError
from guardtok.requests.paths import spell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardtok.requests.labels import Label
    from guardtok.requests.paths import Node

Steps: TypeAlias = "tuple[str | int, ...]"
"""Keys and indices that lead to a value."""


class Piece(NamedTuple):
    """A string of an event that is a fragment of a text.

    Attributes:
        steps: Where it stands in the event.
        text: The text that it belongs to: equal for all fragments of one text, and of no other.
        path: Where the whole text lies in the whole reply.
        source: Who wrote it.
        json: Whether the text is JSON.
    """

    steps: Steps
    text: Steps
    path: str
    source: str
    json: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """What an event means.

    Attributes:
        pieces: The fragments in it, in order.
        ends: The texts that end with it: every text whose name begins like one of these.
        label: Whose everything else in it is.
        places: For parts of the event, where they lie in the whole reply: from one path to another.
    """

    pieces: tuple[Piece, ...]
    ends: tuple[Steps, ...]
    label: Label
    places: tuple[tuple[str, str], ...] = ()

    def place(self, path: str) -> str:
        """Return where what stands at a path of the event lies in the whole reply."""
        for event, reply in self.places:
            if path.startswith(event) and path[len(event) : len(event) + 1] in {"", ".", "[", "~"}:
                return reply + path[len(event) :]
        return path


class Dialect(Protocol):
    """How one protocol streams a reply.

    Attributes:
        restates: Whether events say whole again what was said in pieces.
    """

    restates: ClassVar[bool]

    def read(self, event: dict[str, Any]) -> Reading:
        """Return what an event means."""

    def rest(self, event: dict[str, Any], piece: Piece, text: str) -> dict[str, Any]:
        """Return an event that says no more than this of a text, made of the last event that held a piece of it."""


def strings(value: object, steps: Steps = ()) -> Iterator[tuple[Steps, str]]:
    """Yield every string in a value, and where it stands."""
    todo: list[tuple[Steps, object]] = [(steps, value)]
    while todo:
        at, each = todo.pop()
        if isinstance(each, str):
            yield at, each
        elif isinstance(each, dict):
            todo += [((*at, key), item) for key, item in reversed(each.items())]
        elif isinstance(each, list):
            todo += [((*at, index), item) for index, item in reversed(list(enumerate(each)))]


def get(value: Any, steps: Steps) -> Any:  # noqa: ANN401 - any JSON value
    """Return what stands at a place of a value, or None where there is no such place."""
    try:
        for step in steps:
            value = value[step]
    except (KeyError, IndexError, TypeError):
        return None
    return value


def put(value: Any, steps: Steps, text: str) -> str:  # noqa: ANN401 - any JSON value
    """Put a string where another one stands in a value, and return that.

    Raises:
        RequestError: There is none: a key that leads there holds a form, and was changed.
    """
    holder = get(value, steps[:-1])
    before = get(value, steps)
    if not isinstance(before, str):
        raise RequestError("reply.shape", "$", "a key on the way to a text of the reply holds a form.")
    holder[steps[-1]] = text
    return before


def spell_steps(steps: Steps) -> str:
    """Return the path of a place."""
    node: Node = (None, "$")
    for step in steps:
        node = (node, step)
    return spell(node)


def listed(value: object) -> list[Any]:
    """Return a list as it is, and nothing for what is none."""
    return value if isinstance(value, list) else []


def mapped(value: object) -> dict[str, Any]:
    """Return a mapping as it is, and nothing for what is none."""
    return value if isinstance(value, dict) else {}


def number(value: object, default: int) -> int:
    """Return an index as it is, and the default for what is none."""
    return value if type(value) is int else default
