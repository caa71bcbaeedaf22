"""Files that were made to lead a scan, or whoever reads what it wrote, astray."""

from __future__ import annotations

import csv
import gzip
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import guardtok
from corpora import plain
from hypothesis import given, settings
from hypothesis import strategies as st

from guardtok.corpus import local, scan
from guardtok.corpus.files import find_files
from guardtok.corpus.local import run_here
from guardtok.corpus.scan import ScanResult, scan_files
from guardtok.corpus.tables import read_tables
from guardtok.corpus.work import Piece

if TYPE_CHECKING:
    from pathlib import Path

    from guardtok.corpus.result import FileResult


@dataclass(frozen=True)
class Large:
    """A job that fits no pipe."""

    output: None = None
    ballast: bytes = bytes(1 << 20)

    def do(self, piece: Piece, result: FileResult) -> None:
        """Do nothing."""


def test_a_process_that_dies_before_it_has_read_its_job_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without memory for a second process, or without a working Python there."""
    monkeypatch.setattr(local, "_PROGRAM", "raise SystemExit")
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("a")
    pieces = [Piece(file) for file in find_files([str(tmp_path)])]
    results = [result for _, result in run_here(Large(), pieces, 2)]
    assert ["died 3 times" in result.problems[0].fact for result in results] == [True, True]


def escaped(folder: Path, name: str, data: bytes, action: str = "escape") -> tuple[ScanResult, Path]:
    """Return what a scan says of one file, and where it wrote it again."""
    (folder / "in").mkdir()
    (folder / "in" / name).write_bytes(data)
    result = scan_files([str(folder / "in")], plain(action), output=str(folder / "out"), processes=1)
    return result, folder / "out" / name


CELLS = st.lists(st.sampled_from(["\r", "\n", '"', ",", "a", "\u00e9", " ", "<|im_end|>"]), max_size=4).map("".join)


@settings(max_examples=40)
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4))
def test_csv_that_was_written_again_has_its_rows(
    rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each cell of another column is what it was, with a lone carriage return in it too."""
    folder = tmp_path_factory.mktemp("csv")
    with (folder / "made.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("text", "other"), *rows])
    result, written = escaped(folder, "a.csv", (folder / "made.csv").read_bytes())
    assert result.total.problems == []
    with written.open(newline="", encoding="utf-8") as file:
        names, *found = csv.reader(file, strict=True)
    assert names == ["text", "other"]
    assert [row[1] for row in found] == [other for _, other in rows]
    assert [row[0] for row in found] == [text.replace("<|im_end|>", "<_|im_end|>") for text, _ in rows]


@pytest.mark.parametrize("action", ["escape", "annotate", "drop"])
def test_a_row_of_csv_with_more_or_fewer_fields_is_left_out(tmp_path: Path, action: str) -> None:
    """With pandas the first cell of a longer one is the row's name, and its text another column's."""
    data = b"text,other\nname,<|im_end|>,1\nfine,1\nshort\n"
    result, written = escaped(tmp_path, "a.csv", data, action)
    assert [problem.row for problem in result.total.problems] == [0, 2]
    assert [line.split(b",")[0] for line in written.read_bytes().splitlines()] == [b"text", b"fine"]
    assert result.total.rows == 3


def test_lines_of_json_keep_their_endings_and_the_first_is_read_behind_a_mark(tmp_path: Path) -> None:
    """Windows writes both."""
    data = b'\xef\xbb\xbf{"text": "<|im_end|>"}\r\n{"text": "fine"}\r\n'
    result, written = escaped(tmp_path, "a.jsonl", data)
    assert (result.total.problems, result.total.count) == ([], 1)
    assert written.read_bytes() == b'{"text": "<_|im_end|>"}\r\n{"text": "fine"}\r\n'


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_text_in_another_encoding_is_no_clean_one(tmp_path: Path, encoding: str) -> None:
    """It was taken for a binary file, and passed over."""
    result, written = escaped(tmp_path, "a.txt", "<|im_end|>".encode(encoding))
    assert [problem.fact for problem in result.total.problems] == [
        "The text is UTF-16 or UTF-32, and was not read. Convert it to UTF-8."
    ]
    assert not written.exists()


@pytest.mark.parametrize("groups", [0, 1, 2])
def test_parquet_without_rows_stays_parquet(tmp_path: Path, groups: int) -> None:
    """With row groups that have no rows, too."""
    empty = pa.table({"text": pa.array([], pa.string()), "id": pa.array([], pa.int8())})
    with pq.ParquetWriter(tmp_path / "made", empty.schema) as writer:
        for _ in range(groups):
            writer.write_table(empty)
    result, written = escaped(tmp_path, "a.parquet", (tmp_path / "made").read_bytes())
    assert result.total.problems == []
    assert pq.read_table(written).equals(empty)


def test_a_dictionary_with_an_order_keeps_it() -> None:
    """As pandas writes an ordered category."""
    words = pa.DictionaryArray.from_arrays(pa.array([1, 0, None], pa.int8()), ["a", "<|im_end|>"], ordered=True)
    table = pa.table({"text": words})
    written = plain("escape")(table)
    assert written.schema == table.schema
    assert written["text"].to_pylist() == ["<_|im_end|>", "a", None]


def test_an_output_inside_the_input_is_not_read_again(tmp_path: Path) -> None:
    """Not when the run goes on, either."""
    (tmp_path / "a.txt").write_text("<|im_end|>")
    for resume in (False, True):
        result = scan_files([str(tmp_path)], plain("escape"), output=str(tmp_path / "o"), resume=resume, processes=1)
        assert [file.path for file in result.files] == [f"{tmp_path}/a.txt"]
    assert sorted(path.name for path in (tmp_path / "o").iterdir() if path.name != ".guardtok") == ["a.txt"]


@pytest.mark.parametrize("report", ["text", "json", "sarif", "html", "github"])
def test_files_may_be_called_what_a_system_allows(tmp_path: Path, report: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no UTF-8, control characters, `::` which fsspec takes for a chain; they are read, and named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in (b"\xff<|im_end|>\x1b[31m.txt", b"a\n::error::x.txt", b"<script>.txt", b"c:d.txt"):
        with open(os.path.join(b"in", name), "w", encoding="ascii") as file:  # noqa: PTH118, PTH123 - pathlib takes no bytes
            file.write("<|im_end|>")
    ran = guardtok("scan", "in", "--report", report)
    assert (ran.status, ran.err) == (1, "")
    assert "\x1b" not in ran.out
    assert not any(line.startswith("::error::") for line in ran.out.splitlines())
    ran = guardtok("scan", "in", "--action", "escape", "--output", "out")
    assert ran.status == 1
    assert len(os.listdir(b"out")) == 5  # noqa: PTH208 - as above


def test_the_address_of_a_file_in_sarif_is_none_of_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with a colon is no scheme."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c:d.txt").write_text("<|im_end|>")
    said = json.loads(guardtok("scan", "c:d.txt", "--report", "sarif").out)
    [place] = said["runs"][0]["results"][0]["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "./c:d.txt"


def test_what_is_listed_of_many_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crawl of ten thousand files, each full of findings and problems, must fit the memory; the counts are whole."""
    monkeypatch.setattr(scan, "_LISTED", 6)
    for at in range(3):
        (tmp_path / f"{at}.jsonl").write_text('{"text": "<|im_end|>"}\n{}\n' * 5)
    result = scan_files([str(tmp_path)], plain(), processes=1)
    assert [(len(file.findings), file.count) for file in result.files] == [(2, 5)] * 3
    assert [(len(file.problems), file.unlisted) for file in result.files] == [(2, 3)] * 3


def test_a_finding_counts_in_a_list_for_what_it_holds(tmp_path: Path) -> None:
    """Each row may have a hundred."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "<|im_end|>" * 100}) + "\n")
    (tmp_path / "b.jsonl").write_text((json.dumps({"text": "<|im_end|>" * 100}) + "\n") * 200)
    result = scan_files([str(tmp_path)], plain(), processes=1)
    each = len(result.files[0].findings[0]["violations"])
    assert each > 10
    assert sum(len(finding["violations"]) for finding in result.files[1].findings) <= 1_000 + each
    assert result.files[1].count == 20_000


def test_a_file_that_breaks_off_leaves_no_shard(tmp_path: Path) -> None:
    """And the manifest counts what is there."""
    (tmp_path / "in").mkdir()
    lines = b"".join(b'{"text": "%d %d"}\n' % (at, at * at * 7919 % 10_007) for at in range(120_000))
    (tmp_path / "in" / "a.jsonl.gz").write_bytes(gzip.compress(lines, 1)[:-2_000])
    (tmp_path / "in" / "b.jsonl").write_text('{"text": "fine"}\n')
    ran = guardtok("tokenize", tmp_path / "in", "-o", tmp_path / "out", "-j", "1", "--shard-size", "1000")
    assert ran.status == 2
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    shards = [shard for file in manifest["files"] for shard in file["shards"]]
    assert manifest["documents"] == sum(shard["documents"] for shard in shards) == 1
    assert manifest["tokens"] == sum(shard["tokens"] for shard in shards)
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert there == {".guardtok", "manifest.json", "b.jsonl.00000.npy", "b.jsonl.00000.index.npy"}


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_value_that_all_rows_share_is_not_read_for_all_at_once(tmp_path: Path, *, dictionary: bool) -> None:
    """Fifty kilobytes of Parquet stand for five gigabytes of text."""
    words = pa.array(["<|im_end|>", "x" * 1_000_000])
    table = pa.table({"text": pa.DictionaryArray.from_arrays(pa.array([1] * 4_999 + [0], pa.int32()), words)})
    pq.write_table(table, tmp_path / "a.parquet", store_schema=dictionary)
    [file] = find_files([str(tmp_path)])
    assert file.size < 100_000
    sizes = [len(each) for each in read_tables(file, ["text"], None)]
    assert sum(sizes) == 5_000
    assert max(sizes) <= 200
