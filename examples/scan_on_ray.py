"""Clean Parquet files on Ray Data: python examples/scan_on_ray.py IN_FOLDER OUT_FOLDER."""

import sys

import ray

from guardtok.corpus import ArrowScanner


def clean(source: str, target: str) -> None:
    """Leave out the documents that hold control tokens. Each worker builds one guard, and keeps it."""
    scan = ArrowScanner("corpus", ["text"], action="drop")
    documents = ray.data.read_parquet(source)
    documents.map_batches(scan.__call__, batch_format="pyarrow", batch_size=None).write_parquet(target)


if __name__ == "__main__":
    ray.init(include_dashboard=False)
    clean(*sys.argv[1:3])
