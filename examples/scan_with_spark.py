"""Clean a Spark data frame. Not run by guardtok's tests, which have no JVM; `mapInArrow` hands out record batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardtok.corpus import ArrowScanner

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from pyspark.sql import DataFrame

SCAN = ArrowScanner("corpus", ["text"], action="escape")


def clean_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Scan what Spark hands out."""
    for batch in batches:
        yield from SCAN(batch).to_batches()


def clean(frame: DataFrame) -> DataFrame:
    """Break the control tokens in the column `text`."""
    return frame.mapInArrow(clean_batches, frame.schema)
