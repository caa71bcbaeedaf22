"""Clean a Parquet file in this process, batch by batch: python examples/scan_in_process.py IN.parquet OUT.parquet."""

import sys

import pyarrow as pa
import pyarrow.parquet as pq

from guardtok.corpus import ArrowScanner


def clean(source: str, target: str) -> int:
    """Break the control tokens in the column `text`, and return how many documents there were."""
    scan = ArrowScanner("corpus", ["text"], action="escape")
    file = pq.ParquetFile(source)
    with pq.ParquetWriter(target, file.schema_arrow) as writer:
        for batch in file.iter_batches():
            writer.write_table(scan(pa.Table.from_batches([batch])))
    return int(file.metadata.num_rows)


if __name__ == "__main__":
    print(clean(*sys.argv[1:3]), "documents")
