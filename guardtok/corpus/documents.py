"""The texts of one column of a file, one after another, whatever the file is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardtok.corpus.columns import open_column, steps_to
from guardtok.corpus.files import CorpusFile, FileFormat
from guardtok.corpus.finding import Problem
from guardtok.corpus.records import CsvColumn, JsonColumn, Record, read_records
from guardtok.corpus.scanner import NOT_UTF8
from guardtok.corpus.sift import read_buffers
from guardtok.corpus.tables import read_tables
from guardtok.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from guardtok.corpus.result import FileResult

TABLES = (FileFormat.PARQUET, FileFormat.ARROW)
"""The formats that are tables."""


def read_documents(file: CorpusFile, column: str, max_chars: int, result: FileResult) -> Iterator[tuple[int, str]]:
    """Yield each text with its row. Nulls are left out, and what is not UTF-8 is replaced and reported.

    Args:
        file: The file.
        column: The column's path.
        max_chars: The longest text that the policy takes.
        result: Gets the rows that were read, and the problems.

    Raises:
        CorpusError: There is no such column, or it holds no text.
        OSError: The file cannot be read to its end.
    """
    if file.format in TABLES:
        for table in read_tables(file, [column, column.partition(".")[0]], None):
            yield from _of_table(table, column, result)
            result.rows += len(table)
        return
    texts: Callable[[Record], list[str | bytes]] = _whole
    for record in read_records(file, max_chars):
        if record.row < 0:
            texts = _reader(CsvColumn(column, record.value))
            continue
        if file.format is FileFormat.JSONL:
            texts = _reader(JsonColumn(column))
        result.rows += 1
        if record.problem is not None:
            result.trouble(record.problem)
        try:
            found = texts(record) if record.value is not None else []
        except CorpusError as error:
            result.trouble(Problem(str(error), record.row, column))
            continue
        for text in found:
            yield record.row, text if isinstance(text, str) else _decode(text, record.row, column, result)


def _reader(column: JsonColumn | CsvColumn) -> Callable[[Record], list[str | bytes]]:
    return lambda record: [text for text, _ in column.texts(record.value)]


def _whole(record: Record) -> list[str | bytes]:
    return [record.value]


def _of_table(table: pa.Table, column: str, result: FileResult) -> Iterator[tuple[int, str]]:
    import pyarrow as pa

    name, *names = steps_to(table.schema, column)
    first = result.rows
    for chunk in table.column(name).chunks:
        leaf = open_column(chunk, names)
        values = leaf.values.cast(pa.large_string()) if pa.types.is_dictionary(leaf.values.type) else leaf.values
        offsets, data = read_buffers(values)
        valid = values.is_valid()
        for at in range(len(values)):
            if valid[at].as_py():
                row = first + leaf.rows(at)[0]
                yield row, _decode(bytes(data[offsets[at] : offsets[at + 1]]), row, column, result)
        first += len(chunk)


def _decode(data: bytes, row: int, column: str, result: FileResult) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        result.trouble(Problem(NOT_UTF8, row, column))
        return data.decode("utf-8", "replace")
