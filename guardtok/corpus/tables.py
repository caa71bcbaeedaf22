"""Parquet and Arrow files as tables that follow one another, and the same written again.

A file is never held whole. How many rows are read at once follows from how large they are.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from guardtok.corpus.files import CorpusFile, FileFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import BinaryIO

    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH = 16 << 20
"""So many bytes of a table, about, are read at once."""

_MAX_BATCH = 64 << 20
"""So many bytes of a column may be read at once where its rows share their values."""

_FILE_MARK = b"ARROW1"
"""How an Arrow file begins, and an Arrow stream does not."""

_MAX_ROWS = 65_536
_BUFFER = 1 << 20
"""So many bytes of a column are read ahead."""

_GROUP = 64 << 20
"""So many bytes, about, make a row group of Parquet."""


def count_groups(file: CorpusFile) -> list[tuple[int, int]]:
    """Return rows and bytes of each row group of a Parquet file.

    Raises:
        OSError: It cannot be read.
        ArrowException: It is none.
    """
    import pyarrow.parquet as pq

    with file.open() as opened:
        meta = pq.ParquetFile(opened).metadata
        groups = (meta.row_group(at) for at in range(meta.num_row_groups))
        return [(group.num_rows, group.total_byte_size) for group in groups]


def read_tables(file: CorpusFile, columns: Sequence[str] | None, groups: Sequence[int] | None) -> Iterator[pa.Table]:
    """Yield the rows of a file as tables.

    Args:
        file: A Parquet or Arrow file.
        columns: The columns to read of Parquet; None for all.
        groups: The row groups to read of Parquet; None for all.

    Raises:
        OSError: It cannot be read to its end.
        ArrowException: It is not what its name says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with file.open() as opened:
        if file.format is FileFormat.PARQUET:
            parquet = pq.ParquetFile(opened, buffer_size=_BUFFER, pre_buffer=False)
            names = None if columns is None else [name for name in columns if name in parquet.schema_arrow.names]
            every = range(parquet.num_row_groups) if groups is None else groups
            wanted = [group for group in every if parquet.metadata.row_group(group).num_rows]
            if not wanted:
                yield parquet.schema_arrow.empty_table()
            for group in wanted:
                rows = _rows_at_once(file, parquet, group, names)
                for batch in parquet.iter_batches(rows, row_groups=[group], columns=names):
                    yield pa.Table.from_batches([batch])
            return
        for batch in _arrow_batches(opened):
            rows = max(1, len(batch) * BATCH // max(1, batch.nbytes))
            for start in range(0, max(1, len(batch)), rows):
                yield pa.Table.from_batches([batch.slice(start, rows)])


def _rows_at_once(file: CorpusFile, parquet: pq.ParquetFile, group: int, names: Sequence[str] | None) -> int:
    """Return how many rows of a row group to read at once.

    How large it says it is counts a value of a dictionary once, however many rows have it: kilobytes may stand for
    gigabytes. So of such columns the longest value is looked for first; those inside of others are left to their luck.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    meta = parquet.metadata.row_group(group)
    rows = max(1, min(_MAX_ROWS, int(meta.num_rows) * BATCH // max(1, int(meta.total_byte_size))))
    columns = [meta.column(at) for at in range(meta.num_columns)]
    suspects = [
        column.path_in_schema
        for column in columns
        if column.has_dictionary_page
        and column.physical_type == "BYTE_ARRAY"
        and column.path_in_schema in (parquet.schema_arrow.names if names is None else names)
        and column.total_uncompressed_size * min(rows, meta.num_rows) > _MAX_BATCH
    ]
    if not suspects:
        return rows
    with file.open() as opened:
        coded = pq.ParquetFile(
            opened, metadata=parquet.metadata, read_dictionary=suspects, pre_buffer=False, buffer_size=_BUFFER
        )
        for batch in coded.iter_batches(1, row_groups=[group], columns=suspects):
            words = (column.dictionary for column in batch.columns if pa.types.is_dictionary(column.type))
            longest = max((int(pc.max(pc.binary_length(each)).as_py() or 1) for each in words), default=1)
            return max(1, min(rows, _MAX_BATCH // max(1, longest)))
    return rows


def _arrow_batches(opened: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    is_file = opened.read(len(_FILE_MARK)) == _FILE_MARK
    opened.seek(0)
    reader: Any = pa.ipc.open_file(opened) if is_file else pa.ipc.open_stream(opened)
    yield pa.RecordBatch.from_pylist([], schema=reader.schema)  # So that one without rows has its columns, too.
    yield from (map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader)


@contextmanager
def write_tables(file: CorpusFile, sink: BinaryIO) -> Iterator[Callable[[pa.Table], None]]:
    """Yield a function that writes tables as the file was written: its format and, of Parquet, its compression.

    Args:
        file: The file that was read.
        sink: Where to write.

    Raises:
        OSError: The system refuses.
    """
    import pyarrow as pa

    writer: Any = None
    waiting: list[pa.Table] = []

    def flush() -> None:
        nonlocal writer
        if not waiting:
            return
        table = pa.concat_tables(waiting)
        writer = writer or _writer(file, sink, table.schema)
        writer.write_table(table)
        waiting.clear()

    def write(table: pa.Table) -> None:
        waiting.append(table)
        if sum(each.nbytes for each in waiting) >= _GROUP:
            flush()

    try:
        yield write
        flush()
    finally:
        if writer is not None:
            writer.close()


def _writer(file: CorpusFile, sink: BinaryIO, schema: pa.Schema) -> Any:  # noqa: ANN401 - two classes with one method
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.format is FileFormat.PARQUET:
        return pq.ParquetWriter(sink, schema, compression=_compression(file))
    with file.open() as opened:
        is_file = opened.read(len(_FILE_MARK)) == _FILE_MARK
    return pa.ipc.new_file(sink, schema) if is_file else pa.ipc.new_stream(sink, schema)


def _compression(file: CorpusFile) -> str:
    import pyarrow.parquet as pq

    with file.open() as opened:
        meta = pq.ParquetFile(opened).metadata
        known = meta.row_group(0).column(0).compression.lower() if meta.num_row_groups and meta.num_columns else "zstd"
        return "none" if known == "uncompressed" else str(known)
