from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import guardtok

from guardtok import Guard
from guardtok.corpus import ArrowScanner
from guardtok.corpus.tokenizing import MANIFEST, ShardFormat, tokenize_files
from guardtok.errors import CorpusError

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ["one <|endoftext|> two", "", None, "caf\u00e9 <|im_end|>", "three"] * 4
END = "<|endoftext|>"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Return a folder with the texts in a table and in JSON lines."""
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.table({"text": TEXTS}), folder / "a.parquet", row_group_size=3)
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return folder


def scanner(policy: str = "corpus") -> ArrowScanner:
    """Return what names policy, tokenizer and column."""
    return ArrowScanner(policy, tokenizer="guardtok")


def documents(target: Path, shard: dict[str, Any]) -> list[tuple[int, list[int]]]:
    """Return row and ids of each document in a shard."""
    path = target / shard["path"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == shard["sha256"]
    if path.suffix == ".arrow":
        return [(each["row"], each["ids"]) for each in pa.ipc.open_file(path.read_bytes()).read_all().to_pylist()]
    ids, index = np.load(path), np.load(path.with_name(path.name.replace(".npy", ".index.npy")))
    assert ids.dtype == np.uint16
    assert len(ids) == shard["tokens"]
    return [(row, ids[start : start + length].tolist()) for start, length, row in index]


@pytest.mark.parametrize("kind", list(ShardFormat))
@pytest.mark.parametrize("size", [1, 40, 1 << 25])
def test_shards_hold_the_documents_and_an_end_for_each(
    corpus: Path, tmp_path: Path, kind: ShardFormat, size: int
) -> None:
    """The ids are the guard's, document by document; only code wrote the separator, however often a page quotes it."""
    target = tmp_path / "out"
    result = tokenize_files([str(corpus)], scanner(), output=str(target), shard=size, shard_format=kind, processes=1)
    assert result.total.problems == []
    guard = Guard.load("corpus", "guardtok", sinks=())
    end = guard.encode(END, source="template").ids
    wanted = [(row, guard.encode(t, source="document").ids + end) for row, t in enumerate(TEXTS) if t is not None]
    manifest = json.loads((target / MANIFEST).read_text())
    assert manifest["separator"] == {"form": END, "id": end[0]}
    for file in manifest["files"]:
        found = [document for shard in file["shards"] for document in documents(target, shard)]
        assert found == wanted
        assert sum(ids.count(end[0]) for _, ids in found) == len(wanted)
    assert (manifest["documents"], manifest["tokens"]) == (2 * len(wanted), 2 * sum(len(ids) for _, ids in wanted))


def test_what_the_policy_refuses_is_left_out(corpus: Path, tmp_path: Path) -> None:
    """And counted; the others are there, with their rows."""
    (tmp_path / "strict.yaml").write_text(
        "guardtok: 1\nname: strict-corpus\nextends: corpus\nsources: {document: {block: ['<|im_end|>']}}\n"
    )
    target = tmp_path / "out"
    one = scanner(str(tmp_path / "strict.yaml"))
    result = tokenize_files([str(corpus / "a.parquet")], one, output=str(target), processes=1)
    [file] = json.loads((target / MANIFEST).read_text())["files"]
    rows = [row for row, _ in documents(target, file["shards"][0])]
    assert rows == [row for row, text in enumerate(TEXTS) if text is not None and "<|im_end|>" not in text]
    assert result.total.dropped == 4


def test_a_run_that_was_cut_off_goes_on_and_has_no_manifest_before(corpus: Path, tmp_path: Path) -> None:
    """Where the manifest is, all shards are."""
    target = tmp_path / "out"
    (corpus / "c.parquet").write_bytes(b"")
    stopped = tokenize_files([str(corpus)], scanner(), output=str(target), processes=1, fail_fast=True)
    assert stopped.stopped
    assert not (target / MANIFEST).exists()
    (corpus / "c.parquet").unlink()
    with pytest.raises(CorpusError, match="--resume"):
        tokenize_files([str(corpus)], scanner(), output=str(target), processes=1)
    tokenize_files([str(corpus)], scanner(), output=str(target), processes=1, resume=True)
    tokenize_files([str(corpus)], scanner(), output=str(tmp_path / "whole"), processes=2)
    assert (target / MANIFEST).read_bytes() == (tmp_path / "whole" / MANIFEST).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 0, "32 documents"),
        (("--separator", "none"), 0, "32 documents"),
        (("--separator", "<|im_end|>"), 2, "does not let the source `template` write it"),
        (("--separator", "hello"), 2, "no control token of this tokenizer"),
        (("--column", "txt"), 2, "no column 'txt'"),
        (("--format", "json"), 0, '"documents": 32'),
    ],
)
def test_the_command_line(corpus: Path, tmp_path: Path, arguments: tuple[str, ...], status: int, said: str) -> None:
    """Says what it wrote, or what is wrong."""
    ran = guardtok("tokenize", corpus, "--output", tmp_path / "out", "-j", "1", *arguments)
    assert (ran.status, said in ran.out + ran.err) == (status, True), ran.err
    assert "Traceback" not in ran.err


def test_several_columns_or_no_tokenizer_are_refused(corpus: Path, tmp_path: Path) -> None:
    """There would be no order of documents, or no ids."""
    for one in (ArrowScanner("corpus", ["text", "other"], tokenizer="guardtok"), ArrowScanner("corpus")):
        with pytest.raises(CorpusError):
            tokenize_files([str(corpus)], one, output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
