"""JSON lines, CSV and text files as records with texts in them, and the same written again.

A line that nothing was found in goes on byte for byte. What cannot be read as a record is reported, and is not in the
output: nobody looked at it.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from guardtok.corpus.columns import inside_of_list
from guardtok.corpus.files import CorpusFile, FileFormat
from guardtok.corpus.finding import Problem
from guardtok.corpus.scanner import NOT_UTF8
from guardtok.errors import CorpusError, near_match
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

MAX_LINE = 128 << 20
"""A line of more bytes is reported and not read."""

_CHUNK = 1 << 20
_PROBE = 8192
"""So many bytes of a file are looked at for one that no text has."""


@dataclass(slots=True)
class Record:
    """One row of a file that is no table.

    Attributes:
        row: Its number, from 0. Of JSON lines: the line's, blank ones counted.
        line: The line where it begins, from 1.
        value: What was read; None where it could not be.
        raw: Its bytes as they were, with the line ending.
        problem: What is wrong with it, or None.
        changed: Whether `value` is no longer what `raw` says.
    """

    row: int
    line: int
    value: Any = field(repr=False)
    raw: bytes = field(default=b"", repr=False)
    problem: Problem | None = None
    changed: bool = False


class BinaryFileError(Exception):
    """A file holds bytes that no text has."""


def read_records(file: CorpusFile, max_chars: int) -> Iterator[Record]:
    """Yield the records of a file.

    Args:
        file: JSON lines, CSV or a text.
        max_chars: The longest text that the policy takes; of a longer file so much is read that it shows.

    Raises:
        OSError: It cannot be read to its end.
        BinaryFileError: It is to be a text, and is none.
        CorpusError: It is no CSV, or from some row on none; or a text in UTF-16.
    """
    with file.open_stream() as stream:
        if file.format is FileFormat.JSONL:
            yield from _read_json_lines(stream)
        elif file.format is FileFormat.CSV:
            yield from _read_csv(stream, file)
        else:
            yield _read_text(stream, max_chars)


def _read_lines(stream: pa.NativeFile) -> Iterator[bytes | None]:
    """Yield lines with their endings; None for one that is too long. A carriage return ends no line of JSON."""
    parts: list[bytes] = []
    size = 0
    while chunk := stream.read(_CHUNK):
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            yield b"".join((*parts, line, b"\n")) if size + len(line) <= MAX_LINE else None
            parts, size = [], 0
        size += len(rest)
        parts = [*parts, rest] if size <= MAX_LINE else []
    if size:
        yield b"".join(parts) if size <= MAX_LINE else None


def _read_json_lines(stream: pa.NativeFile) -> Iterator[Record]:
    for row, read in enumerate(_read_lines(stream)):
        line = read.removeprefix(codecs.BOM_UTF8) if read and not row else read
        if line is None:
            problem = Problem(f"The line has more than {MAX_LINE:,} bytes and was not read.", row)
            yield Record(row, row + 1, None, problem=problem)
        elif line.strip():
            yield _parse(row, line)


def _parse(row: int, line: bytes) -> Record:
    problem: Problem | None = None
    try:
        text = line.decode()
    except UnicodeDecodeError:
        text, problem = line.decode("utf-8", "replace"), Problem(NOT_UTF8, row)
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        fact = str(error) if isinstance(error, _TwiceError) else "The line is no JSON that could be read."
        return Record(row, row + 1, None, problem=Problem(fact, row))
    if not isinstance(value, dict):
        return Record(row, row + 1, None, problem=Problem("The line is JSON, but no object.", row))
    return Record(row, row + 1, value, line, problem, changed=problem is not None)


class _TwiceError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that is written twice: readers differ in which of the two they take."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _TwiceError("An object of the line has a key twice, and readers differ in which of the two they take.")
    return made


def _read_csv(stream: pa.NativeFile, file: CorpusFile) -> Iterator[Record]:
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    previous = csv.field_size_limit(MAX_LINE)
    try:
        reader = csv.reader(text, delimiter=delimiter_of(file), strict=True)
        header = next(reader, None)
        if header is None or len(set(header)) != len(header):
            raise CorpusError("The file has no first line with a name for each column, each of them once.")
        yield Record(-1, 1, header)
        row, line = 0, reader.line_num + 1
        for cells in reader:
            problem = None
            if cells and len(cells) != len(header):
                # Some readers then take the first cell for the row's name, and every other for its neighbour.
                fact = f"The row has {len(cells)} fields, and the first line names {len(header)}."
                yield Record(row, line, None, problem=Problem(fact, row))
                row, cells = row + 1, []  # noqa: PLW2901
            elif any(not cell.isascii() and _has_escapes(cell) for cell in cells):
                cells = [cell.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for cell in cells]  # noqa: PLW2901
                problem = Problem(NOT_UTF8, row)
            if cells:
                yield Record(row, line, cells, problem=problem)
                row += 1
            line = reader.line_num + 1
    except csv.Error:
        raise CorpusError("From here on the file is no CSV: a quotation is not closed, or a field too long.") from None
    finally:
        csv.field_size_limit(previous)


def delimiter_of(file: CorpusFile) -> str:
    """Return what separates the fields of a CSV file."""
    return "\t" if ".tsv" in file.name.lower() else ","


def _has_escapes(cell: str) -> bool:
    return any("\udc80" <= char <= "\udcff" for char in cell)


def _read_text(stream: pa.NativeFile, max_chars: int) -> Record:
    data = stream.read(_PROBE)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # UTF-32's begins like one of them.
        raise CorpusError("The text is UTF-16 or UTF-32, and was not read. Convert it to UTF-8.")
    if b"\0" in data:
        raise BinaryFileError
    bound = 4 * max_chars + _PROBE
    parts = [data]
    while parts[-1] and sum(map(len, parts)) <= bound:
        parts.append(stream.read(_CHUNK))
    data = b"".join(parts)
    return Record(0, 1, data, data)


class JsonColumn:
    """The texts of one column in objects of JSON."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.names = tuple(path.split("."))

    def texts(self, value: dict[str, Any]) -> list[tuple[str, Callable[[str], None]]]:
        """Return each text of a record with a function that replaces it.

        Raises:
            CorpusError: The column is missing, or no text.
        """
        names: Sequence[str] = (self.path,) if self.path in value else self.names
        if names[0] not in value:
            raise CorpusError(f"There is no key {visible(names[0][:64])!r}.{near_match(names[0], value)}")
        found: list[tuple[str, Callable[[str], None]]] = []
        self._walk(value, names[0], names[1:], found)
        return found

    def _walk(self, holder: Any, key: Any, names: Sequence[str], found: list[Any]) -> None:  # noqa: ANN401 - JSON
        value = holder[key]
        if value is None:
            return
        if isinstance(value, list):
            for at in range(len(value)):
                self._walk(value, at, inside_of_list(names), found)
        elif isinstance(value, dict) and names:
            if names[0] in value:
                self._walk(value, names[0], names[1:], found)
        elif isinstance(value, str) and not names:
            found.append((value, lambda text: holder.__setitem__(key, text)))
        else:
            raise CorpusError("The column is no text here.")


class CsvColumn:
    """The texts of one column in rows of CSV."""

    def __init__(self, path: str, header: Sequence[str]) -> None:
        if path not in header:
            raise CorpusError(f"There is no column {visible(path[:64])!r}.{near_match(path, header)}")
        self.at = header.index(path)

    def texts(self, value: list[str]) -> list[tuple[str, Callable[[str], None]]]:
        """Return the text of a row with a function that replaces it."""
        at = self.at
        return [(value[at], lambda text: value.__setitem__(at, text))]


@contextmanager
def write_records(file: CorpusFile, sink: Any) -> Iterator[Callable[[Record], None]]:  # noqa: ANN401 - fsspec's files
    """Yield a function that writes records as the file was written, compression included.

    Raises:
        OSError: The system refuses.
    """
    import pyarrow as pa

    out = sink
    if file.compression:
        out = pa.CompressedOutputStream(pa.PythonFile(_KeptOpen(sink), mode="w"), file.compression)
    try:
        if file.format is not FileFormat.CSV:
            yield lambda record: out.write(_dump(record) if record.changed else record.raw)
            return
        text = io.StringIO()
        # Only what is in its own line ending does the writer put in quotes: each of the two would end a row.
        rows = csv.writer(text, delimiter=delimiter_of(file), lineterminator="\r\n")

        def write(record: Record) -> None:
            rows.writerow(record.value)
            out.write(text.getvalue().removesuffix("\r\n").encode("utf-8", "replace") + b"\n")
            text.seek(0)
            text.truncate()

        yield write
    finally:
        if out is not sink:
            out.close()


class _KeptOpen:
    """A sink that whoever compresses into it does not close."""

    closed = False

    def __init__(self, sink: Any) -> None:  # noqa: ANN401 - as above
        self.write = sink.write
        self.flush = sink.flush

    def close(self) -> None:
        """Leave it open."""


def _dump(record: Record) -> bytes:
    if isinstance(record.value, (bytes, str)):
        return record.value if isinstance(record.value, bytes) else record.value.encode()
    ending = b"\r\n" if record.raw.endswith(b"\r\n") else b"\n"
    try:
        return json.dumps(record.value, ensure_ascii=False).encode() + ending
    except UnicodeEncodeError:
        return json.dumps(record.value).encode() + ending
