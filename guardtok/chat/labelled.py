"""Lists and mappings whose strings and keys come out as `Text`, for a template that walks them.

A template sees plain lists and dictionaries, as transformers gives it; only what it takes out of them is labelled, and
only when it takes it out, for ten tools hold hundreds of strings and most templates look at none of them. A string that
gets past these classes unlabelled is a plain `str` and counts as `unknown`.
"""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any, SupportsIndex

from guardtok.text import Run, Text, labelled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardtok.chat.labels import Label

_SHOWN = 64
"""Characters of a key in a path."""


class LabelledDict(dict[Any, Any]):
    """A dictionary of plain data: its keys and strings come out with the source and the path that they have.

    Args:
        raw: The data, of exact JSON types; it is not copied again and must not change.
        label: Who wrote it.
        path: Where it lies.
        mixed: Whether strings in it may be `Text` with labels of their own.
    """

    # A name that a template can say would hide the key of that name; names like these no template may say.
    __slots__ = ("_guardtok_children", "_guardtok_label", "_guardtok_mixed", "_guardtok_path", "_guardtok_raw")

    def __init__(self, raw: dict[Any, Any], label: Label, path: str, *, mixed: bool) -> None:
        super().__init__(raw)
        self._guardtok_raw = raw
        self._guardtok_label = label
        self._guardtok_path = path
        self._guardtok_mixed = mixed
        self._guardtok_children: dict[Any, Any] = {}

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401 - as `dict` has it
        children = self._guardtok_children
        if key not in children:
            value = dict.__getitem__(self, key)
            path = _member(self._guardtok_path, key)
            children[key] = wrap(value, self._guardtok_label.of(key), path, mixed=self._guardtok_mixed)
        return children[key]

    def get(self, key: Any, default: Any = None) -> Any:  # noqa: ANN401 - as `dict` has it
        """Return the labelled value, or the default."""
        return self[key] if key in self else default  # noqa: SIM401 - this is `get`

    def __iter__(self) -> Iterator[Any]:
        for key in dict.__iter__(self):
            yield self._name(key)

    def __reversed__(self) -> Iterator[Any]:
        for key in dict.__reversed__(self):
            yield self._name(key)

    def _name(self, key: Any) -> Any:  # noqa: ANN401 - a key
        path = f"{_member(self._guardtok_path, key)}~"
        return wrap(key, self._guardtok_label, path, mixed=self._guardtok_mixed)

    def keys(self) -> list[Any]:  # type: ignore[override]
        """Return the labelled keys; the path of a key ends in `~`."""
        return list(self)

    def values(self) -> list[Any]:  # type: ignore[override]
        """Return the labelled values."""
        return [self[key] for key in dict.__iter__(self)]

    def items(self) -> list[tuple[Any, Any]]:  # type: ignore[override]
        """Return pairs of labelled key and labelled value."""
        return [(self._name(key), self[key]) for key in dict.__iter__(self)]

    def copy(self) -> LabelledDict:
        """Return the same dictionary, which a template cannot change."""
        return self


class LabelledList(list[Any]):
    """A list of plain data, as `LabelledDict` is a dictionary of it."""

    __slots__ = ("_guardtok_children", "_guardtok_label", "_guardtok_mixed", "_guardtok_path", "_guardtok_raw")

    def __init__(self, raw: list[Any], label: Label, path: str, *, mixed: bool) -> None:
        super().__init__(raw)
        self._guardtok_raw = raw
        self._guardtok_label = label
        self._guardtok_path = path
        self._guardtok_mixed = mixed
        self._guardtok_children: dict[int, Any] = {}

    def _item(self, at: int) -> Any:  # noqa: ANN401 - an item
        children = self._guardtok_children
        if at not in children:
            value = list.__getitem__(self, at)
            path = f"{self._guardtok_path}[{at}]"
            children[at] = wrap(value, self._guardtok_label.of(at), path, mixed=self._guardtok_mixed)
        return children[at]

    def __getitem__(self, key: SupportsIndex | slice) -> Any:  # noqa: ANN401 - as `list` has it
        if isinstance(key, slice):
            return [self._item(at) for at in range(*key.indices(len(self)))]
        at = index(key)  # Raises a TypeError for a name, as a list does: templates ask lists for names, too.
        return self._item(at + len(self) if at < 0 else at)

    def __iter__(self) -> Iterator[Any]:
        return map(self._item, range(len(self)))

    def __reversed__(self) -> Iterator[Any]:
        return map(self._item, reversed(range(len(self))))

    def __add__(self, other: Any) -> list[Any]:  # noqa: ANN401 - as `list` has it
        return [*self, *other] if isinstance(other, list) else NotImplemented

    def __radd__(self, other: Any) -> list[Any]:  # noqa: ANN401 - as `list` has it
        return [*other, *self] if isinstance(other, list) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> list[Any]:
        return [*self] * index(times)

    __rmul__ = __mul__

    def copy(self) -> list[Any]:
        """Return the labelled items."""
        return [*self]


def wrap(value: Any, label: Label, path: str, *, mixed: bool) -> Any:  # noqa: ANN401 - any JSON value
    """Return a value with its label: a string as `Text`, unless it is one; what lies in a list or mapping on demand."""
    match value:
        case Text():
            return value
        case str():
            return labelled(value, (Run(0, len(value), label.source, path, 0),) if value else ())
        case dict():
            return LabelledDict(value, label, path, mixed=mixed)
        case list():
            return LabelledList(value, label, path, mixed=mixed)
        case tuple():
            return tuple(wrap(item, label.of(at), f"{path}[{at}]", mixed=mixed) for at, item in enumerate(value))
        case _:
            return value


def _member(path: str, key: object) -> str:
    name = str(key)
    if name.isidentifier():
        return f"{path}.{name[:_SHOWN]}"
    return f"{path}[{name[:_SHOWN]!r}]"
