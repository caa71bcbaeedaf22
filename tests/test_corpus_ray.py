"""One Ray for all of these tests: it takes seconds to start."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import PIECES, plain
from test_corpus_examples import example

from guardtok.corpus.scan import ScanEngine, scan_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own.


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a corpus that the test makes: hostile pieces and ordinary rows, in files of several formats."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = [f"row {at} {PIECES[at % len(PIECES)]}{PIECES[at * 7 % len(PIECES)]}" for at in range(2_000)]
    table = pa.table({"text": texts, "id": range(len(texts))})
    for at in range(3):
        pq.write_table(table.slice(at * 500, 500), folder / f"{at}.parquet", row_group_size=90)
    table.slice(1500).to_pandas().to_json(folder / "3.jsonl", orient="records", lines=True)
    (folder / "4.parquet").write_bytes(b"PAR1 and no more")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize("action", ["report", "escape"])
def test_both_engines_say_and_write_the_same(corpus: Path, tmp_path: Path, action: str) -> None:
    """Row for row: findings, counts, problems and texts."""
    outputs = {engine: None if action == "report" else str(tmp_path / engine.value) for engine in ScanEngine}
    results = {
        engine: scan_files([str(corpus)], plain(action), output=outputs[engine], engine=engine, processes=1)
        for engine in ScanEngine
    }
    local, on_ray = results[ScanEngine.LOCAL], results[ScanEngine.RAY]
    assert local.total.count > 300
    assert local == on_ray
    for file in corpus.iterdir() if action == "escape" else ():
        written = [tmp_path / engine.value / file.name for engine in ScanEngine]
        assert [path.exists() for path in written] == [file.name != "4.parquet"] * 2
        if written[0].exists():
            assert written[0].read_bytes() == written[1].read_bytes()


def test_the_callable_does_the_same_whatever_the_blocks(corpus: Path) -> None:
    """`map_batches` with blocks of seven rows, and all at once in this process."""
    import ray

    files = [str(corpus / f"{at}.parquet") for at in range(3)]
    scan = plain("annotate")
    mapped = ray.data.read_parquet(files).map_batches(scan, batch_format="pyarrow", batch_size=7)
    rows = sorted(mapped.take_all(), key=lambda row: row["id"])
    wanted = scan(pa.concat_tables(map(pq.read_table, files))).to_pylist()
    assert [{**row, "guardtok_tokens": list(row["guardtok_tokens"])} for row in rows] == wanted


def test_the_example_leaves_out_what_it_says(corpus: Path, tmp_path: Path) -> None:
    """`examples/scan_on_ray.py`, on the same Ray."""
    for at in range(2):
        (tmp_path / f"{at}.parquet").write_bytes((corpus / f"{at}.parquet").read_bytes())
    example("scan_on_ray").clean(str(tmp_path), str(tmp_path / "out"))
    kept = plain("drop")(pa.concat_tables(pq.read_table(tmp_path / f"{at}.parquet") for at in range(2)))
    assert sorted(pq.read_table(tmp_path / "out")["id"].to_pylist()) == kept["id"].to_pylist()


def test_a_worker_that_is_killed_loses_and_doubles_nothing(corpus: Path, tmp_path: Path) -> None:
    """Its task is done again, from the beginning."""
    import ray

    once = tmp_path / "once"
    scan = plain("annotate")

    def scan_and_die_once(table: pa.Table) -> pa.Table:
        made = scan(table)
        if not once.exists():
            once.write_text("")
            os.kill(os.getpid(), 9)
        return made

    files = [str(corpus / f"{at}.parquet") for at in range(3)]
    mapped = ray.data.read_parquet(files).map_batches(scan_and_die_once, batch_format="pyarrow", batch_size=100)
    rows = sorted(mapped.take_all(), key=lambda row: row["id"])
    assert once.exists()
    assert [row["id"] for row in rows] == list(range(1_500))
    wanted = scan(pa.concat_tables(map(pq.read_table, files)))["guardtok_count"].to_pylist()
    assert [row["guardtok_count"] for row in rows] == wanted
