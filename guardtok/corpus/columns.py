"""The texts of a column, wherever in its rows they lie, and the column put together again around what they become.

A chat's texts are `messages.content`: a field of a structure in a list. What is read of such a column is one flat array
of strings, and for each of them the row that it is in.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guardtok.errors import CorpusError, near_match
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

_OF_LISTS = frozenset({"list", "element", "item"})
"""How Parquet and Arrow call a list's inside. A path may name it, as their schemas do, or leave it out."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """The texts of one column.

    Attributes:
        values: Strings, large strings, or a dictionary of them.
        rows: For a text, by its number: its row, and which of the row's texts it is (None where a row has one).
        rebuild: Makes the column anew from other texts, as many.
    """

    values: pa.Array
    rows: Callable[[int], tuple[int, int | None]]
    rebuild: Callable[[pa.Array], pa.Array]


def steps_to(schema: pa.Schema, path: str) -> tuple[str, ...]:
    """Return the names that lead to a column's texts: `("messages", "content")`.

    Args:
        schema: The table's.
        path: The column's name, or the names of fields joined by `.`; the inside of a list needs no name.

    Raises:
        CorpusError: There is no such column, or it holds no text.
    """
    names = (path,) if path in schema.names else tuple(path.split("."))
    if names[0] not in schema.names:
        mend = near_match(names[0], schema.names)
        raise CorpusError(f"There is no column {visible(names[0][:64])!r}.{mend}")
    if schema.names.count(names[0]) > 1:
        raise CorpusError(f"There are several columns {visible(names[0][:64])!r}; which is meant is not to be known.")
    kind = schema.field(names[0]).type
    _check(kind, names[1:], path)
    return names


def _check(kind: pa.DataType, names: Sequence[str], path: str) -> None:
    import pyarrow as pa

    shown = visible(path[:64])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _check(kind.value_type, inside_of_list(names), path)
    if pa.types.is_struct(kind):
        fields = [field.name for field in kind]
        if not names:
            raise CorpusError(f"Column {shown!r} is nested: name one of its fields, {shown}.{_listed(fields)}.")
        if fields.count(names[0]) != 1:
            raise CorpusError(f"Column {shown!r}: there is no field of this name.{near_match(names[0], fields)}")
        return _check(kind.field(names[0]).type, names[1:], path)
    if names:
        raise CorpusError(f"Column {shown!r}: a field is named of what is {kind} and has no fields.")
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)):
        raise CorpusError(f"Column {shown!r} is no text but {visible(str(kind)[:64])}.")
    return None


def _listed(fields: Sequence[str]) -> str:
    return visible("|".join(fields[:4])[:64])


def inside_of_list(names: Sequence[str]) -> Sequence[str]:
    """Return the names without those of a list's inside."""
    while names and names[0] in _OF_LISTS:
        names = names[1:]
    return names


def open_column(column: pa.Array, names: Sequence[str]) -> Leaf:
    """Return the texts of a column.

    Args:
        column: One chunk of the column.
        names: What `steps_to` returned, without the first.
    """
    import pyarrow as pa

    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _open_list(column, inside_of_list(names))
    if pa.types.is_struct(column.type):
        return _open_struct(column, names)
    if pa.types.is_string_view(column.type):
        return Leaf(column.cast(pa.large_string()), _alone, lambda values: values.cast(pa.string_view()))
    return Leaf(column, _alone, lambda values: values)


def _alone(position: int) -> tuple[int, int | None]:
    return position, None


def _open_struct(column: pa.StructArray, names: Sequence[str]) -> Leaf:
    import pyarrow as pa

    index = column.type.get_field_index(names[0])
    parts = [column.field(at) for at in range(column.type.num_fields)]
    # With the structure's own nulls: what lies below one is no text of anybody's.
    inner = open_column(column.flatten()[index], names[1:])

    def rebuild(values: pa.Array) -> pa.Array:
        parts[index] = inner.rebuild(values)
        return pa.StructArray.from_arrays(parts, fields=list(column.type), mask=column.is_null())

    return Leaf(inner.values, inner.rows, rebuild)


def _open_list(column: pa.ListArray | pa.LargeListArray, names: Sequence[str]) -> Leaf:
    import pyarrow as pa

    # A null list may lie over items that belong to nobody; without them each item has its row.
    flat = column.flatten()
    bounds = [0]
    lengths = column.value_lengths().to_pylist()
    for length in lengths:
        bounds.append(bounds[-1] + (length or 0))
    inner = open_column(flat, names)

    def rows(position: int) -> tuple[int, int | None]:
        item, _ = inner.rows(position)
        row = bisect_right(bounds, item) - 1
        return row, position - _first_in(row)

    def _first_in(row: int) -> int:
        return bounds[row] if inner.rows is _alone else bisect_right(range(len(inner.values)), bounds[row] - 1, key=_of)

    def _of(position: int) -> int:
        return inner.rows(position)[0]

    def rebuild(values: pa.Array) -> pa.Array:
        kind = type(column)
        offsets = pa.array(bounds, pa.int32() if pa.types.is_list(column.type) else pa.int64())
        return kind.from_arrays(offsets, inner.rebuild(values), type=column.type, mask=column.is_null())

    return Leaf(inner.values, rows, rebuild)
