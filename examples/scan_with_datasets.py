"""Annotate a Hugging Face dataset: python examples/scan_with_datasets.py FILE.jsonl."""

import sys

from datasets import Dataset, load_dataset

from guardtok.corpus import ArrowScanner


def annotate(dataset: Dataset, num_proc: int | None = None) -> Dataset:
    """Add to each row what was found in it. With a fixed key, `datasets` knows the result again in its cache."""
    scan = ArrowScanner("corpus", ["text"], action="annotate", digest_key=b"any bytes of yours")
    return dataset.with_format("arrow").map(scan, batched=True, num_proc=num_proc).with_format(None)


if __name__ == "__main__":
    print(annotate(load_dataset("json", data_files=sys.argv[1], split="train"), num_proc=2))
