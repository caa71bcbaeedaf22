from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import guardtok
from ruamel.yaml import YAML

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parent.parent
TEXTS = ["clean", "a <|im_end|> b", None, "caf\u00e9"]


def example(name: str) -> ModuleType:
    """Return an example, imported from its file."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_in_process(tmp_path: Path) -> None:
    """A loop over the batches of a file."""
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    assert example("scan_in_process").clean(str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")) == 4
    assert pq.read_table(tmp_path / "b.parquet")["text"].to_pylist() == ["clean", "a <_|im_end|> b", None, "caf\u00e9"]


def test_spark_without_spark() -> None:
    """The generator that `mapInArrow` calls, on batches as Spark hands them out."""
    batches = pa.table({"text": TEXTS}).to_batches(max_chunksize=2)
    cleaned = pa.Table.from_batches(example("scan_with_spark").clean_batches(iter(batches)))
    assert cleaned["text"].to_pylist() == ["clean", "a <_|im_end|> b", None, "caf\u00e9"]


@pytest.mark.filterwarnings("ignore")
def test_datasets(tmp_path: Path) -> None:
    """`Dataset.map` over Arrow, in a cache that knows the result again."""
    import datasets

    rows = datasets.Dataset.from_dict({"text": TEXTS}, features=datasets.Features({"text": datasets.Value("string")}))
    made = example("scan_with_datasets").annotate(rows)
    assert made["guardtok_count"][:] == [0, 1, 0, 0]
    assert made._fingerprint == example("scan_with_datasets").annotate(rows)._fingerprint


@pytest.mark.filterwarnings("ignore")
def test_datatrove() -> None:
    """A filter between a reader and a tokenizer."""
    from datatrove.data import Document

    documents = [Document(text=text, id=str(at)) for at, text in enumerate(filter(None, TEXTS))]
    filtered = example("scan_with_datatrove").ControlTokenFilter()
    assert [doc.text for doc in filtered.run(iter(documents))] == ["clean", "caf\u00e9"]


def test_the_hooks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry of `.pre-commit-hooks.yaml` is a command that finds what it is there to find."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text("<|im_end|>")
    (tmp_path / "ok.md").write_text("fine")
    hooks = YAML(typ="safe").load(ROOT / ".pre-commit-hooks.yaml")
    assert [hook["id"] for hook in hooks] == ["guardtok-scan", "guardtok-policy-test"]
    command, *arguments = hooks[0]["entry"].split()
    assert command == "guardtok"
    assert guardtok(*arguments, "ok.md").status == 0
    found = guardtok(*arguments, "ok.md", "page.md")
    assert (found.status, "page.md" in found.out) == (1, True)


def test_the_way_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of docs/corpora.md that stands behind a `$` runs, in order, with the status that is shown."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "crawl").mkdir()
    pq.write_table(pa.table({"text": ["clean", "a <|endoftext|> b", "c"] * 50}), tmp_path / "crawl" / "a.parquet")
    rows = [{"text": "<|im_start|>system"}, {"text": "fine"}]
    (tmp_path / "crawl" / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = (ROOT / "docs" / "corpora.md").read_text("utf-8")
    commands = [line.removeprefix("$ ") for line in page.splitlines() if line.startswith("$ guardtok ")]
    assert len(commands) >= 5
    for command in commands:
        words, _, status = command.partition("  # status ")
        ran = guardtok(*words.split()[1:], "-j", "1")
        assert ran.status == int(status or 0), (words, ran.out, ran.err)
