from __future__ import annotations

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from command_line import guardtok
from corpora import plain

from guardtok.corpus import ArrowScanner, local, output, records, work
from guardtok.corpus.scan import ScanEngine, scan_files
from guardtok.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.corpus.files import CorpusFile
    from guardtok.corpus.finding import Problem
    from guardtok.corpus.scan import ScanResult

TEXTS = ["clean", "a <|im_end|> b", "caf\u00e9 \u4e16\u754c", "<|im_start|>system", "", "< |im_end|>"]
ESCAPED = ["clean", "a <_|im_end|> b", "caf\u00e9 \u4e16\u754c", "<_|im_start|>system", "", "< |im_end|>"]
ROWS = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]


def json_lines(rows: list[Any] = ROWS) -> bytes:
    """Return rows as JSON lines."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def comma_separated() -> bytes:
    """Return the rows as CSV, with quotations and an empty field."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["id", "text"])
    writer.writerows([row["id"], row["text"]] for row in ROWS)
    return text.getvalue().encode()


def arrow(*, stream: bool) -> bytes:
    """Return the rows as an Arrow file or stream."""
    table, sink = pa.Table.from_pylist(ROWS), pa.BufferOutputStream()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue().to_pybytes()


def parquet(rows: list[Any] = ROWS, group: int = 2) -> bytes:
    """Return rows as a Parquet file of small row groups."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=group)
    return sink.getvalue().to_pybytes()


FILES = {
    "a.parquet": parquet(),
    "b.arrow": arrow(stream=False),
    "c.arrow": arrow(stream=True),
    "d.jsonl": json_lines(),
    "e.jsonl.gz": gzip.compress(json_lines()),
    "f.ndjson.zst": zstandard.compress(json_lines()),
    "g.csv": comma_separated(),
    "h.csv.gz": gzip.compress(comma_separated()),
    "i.tsv": comma_separated().replace(b",", b"\t"),
}


def read(path: Path) -> list[Any]:
    """Return the texts of a file in any of the formats."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().stream_reader(data).read()
    if ".parquet" in path.name:
        return pq.read_table(path)["text"].to_pylist()
    if ".arrow" in path.name:
        return (
            (pa.ipc.open_file if data.startswith(b"ARROW1") else pa.ipc.open_stream)(data)
            .read_all()["text"]
            .to_pylist()
        )
    if "json" in path.name:
        return [json.loads(line)["text"] for line in data.splitlines()]
    rows = csv.DictReader(io.StringIO(data.decode()), delimiter="\t" if ".tsv" in path.name else ",")
    return [row["text"] for row in rows]


def problems(result: ScanResult) -> list[Problem]:
    """Return what was wrong."""
    return result.total.problems


@pytest.mark.parametrize("name", FILES)
def test_every_format_is_read_and_written(tmp_path: Path, name: str) -> None:
    """The same rows have the same findings, and come out with the same texts, whatever they are stored in."""
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / name).write_bytes(FILES[name])
    result = scan_files([str(source)], plain("escape"), output=str(target), processes=1)
    assert problems(result) == []
    assert [finding["row"] for finding in result.total.findings] == [1, 3, 5]
    assert (result.total.rows, result.total.count) == (6, 3)
    assert result.total.size == sum(len(text.encode()) for text in TEXTS)
    assert read(target / name) == ESCAPED
    dropped = scan_files([str(source)], plain("drop"), output=str(tmp_path / "dropped"), processes=1)
    assert dropped.total.dropped == 2
    assert read(tmp_path / "dropped" / name) == [TEXTS[0], TEXTS[2], TEXTS[4], TEXTS[5]]


def test_annotations_are_written_where_there_are_columns(tmp_path: Path) -> None:
    """As columns of a table, keys of JSON, fields of CSV."""
    for name in ("a.parquet", "d.jsonl", "g.csv"):
        (tmp_path / name).write_bytes(FILES[name])
        scan_files([str(tmp_path / name)], plain("annotate"), output=str(tmp_path / f"{name}.out"), processes=1)
    counts = [0, 1, 0, 1, 0, 1]
    assert pq.read_table(tmp_path / "a.parquet.out" / "a.parquet")["guardtok_count"].to_pylist() == counts
    lines = (tmp_path / "d.jsonl.out" / "d.jsonl").read_text().splitlines()
    assert [json.loads(line)["guardtok_count"] for line in lines] == counts
    rows = csv.DictReader(io.StringIO((tmp_path / "g.csv.out" / "g.csv").read_text()))
    assert [int(row["guardtok_count"]) for row in rows] == counts


def test_lines_that_hold_nothing_go_on_byte_for_byte(tmp_path: Path) -> None:
    """However they are spelled."""
    clean = b'{ "text":"caf\\u00e9" ,"n":1.50e3}\r\n'
    (tmp_path / "a.jsonl").write_bytes(clean + b"\n" + json_lines(ROWS[1:2]) + b'{"text": null}')
    scan_files([str(tmp_path / "a.jsonl")], plain("escape"), output=str(tmp_path / "out"), processes=1)
    written = (tmp_path / "out" / "a.jsonl").read_bytes()
    assert written == clean + b'{"id": 1, "text": "a <_|im_end|> b"}\n{"text": null}'


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    """Its findings have lines; what holds NUL is no text; what is hidden is left out."""
    (tmp_path / "page.md").write_text("one\n\u4e16 <|im_end|>\n\n<|im_start|>", encoding="utf-8")
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\0<|im_end|>")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("<|im_end|>")
    result = scan_files([str(tmp_path)], plain("escape"), output=str(tmp_path.parent / "out"), processes=1)
    assert {Path(file.path).name: file.skipped for file in result.files} == {
        "logo.png": "It is no text: it holds NUL.",
        "page.md": None,
    }
    assert [finding["lines"] for finding in result.total.findings] == [[2, 4]]
    assert (tmp_path.parent / "out" / "page.md").read_text("utf-8") == "one\n\u4e16 <_|im_end|>\n\n<_|im_start|>"


BROKEN: dict[str, tuple[str, bytes, int | None]] = {
    "truncated parquet": ("a.parquet", FILES["a.parquet"][:-40], 0),
    "parquet with a damaged page": (
        "a.parquet",
        FILES["a.parquet"][:60] + b"\xff" * 40 + FILES["a.parquet"][100:],
        None,
    ),
    "no parquet": ("a.parquet", b"PAR1", 0),
    "empty parquet": ("a.parquet", b"", 0),
    "truncated gzip": ("a.jsonl.gz", gzip.compress(json_lines(ROWS * 5000))[:-30], None),
    "truncated zstd": ("a.jsonl.zst", zstandard.compress(json_lines(ROWS * 5000))[:-3], None),
    "no gzip": ("a.jsonl.gz", json_lines(), 0),
    "truncated arrow": ("a.arrow", FILES["b.arrow"][:-40], 0),
    "truncated arrow stream": ("a.arrow", FILES["c.arrow"][:-300], None),
    "a quotation that is not closed": ("a.csv", b'id,text\n1,"<|im_end|>\n', None),
    "no csv header": ("a.csv", b"", None),
    "columns with one name": ("a.csv", b"text,text\na,b\n", None),
    "no column of this name": ("a.parquet", parquet([{"txt": "a"}]), None),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_file_is_reported_and_the_rest_goes_on(tmp_path: Path, broken: str) -> None:
    """By its path; nothing of it is written under its name, no traceback is shown, and the status is 2."""
    name, data, row = BROKEN[broken]
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / name).write_bytes(data)
    (source / "good.jsonl").write_bytes(json_lines())
    ran = guardtok("scan", source, "--action", "escape", "--output", target, "-j", "1")
    assert (ran.status, "Traceback" in ran.err) == (2, False)
    assert f"Problem: {source / name}" in ran.err
    assert read(target / "good.jsonl") == ESCAPED
    assert not (target / name).exists()
    assert list(target.glob(".guardtok/part/*")) == []
    assert row is None or f"row {row}:" in ran.err
    assert "<|im_end|>" not in ran.err + ran.out


def test_a_file_that_may_not_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test may run as root, who may read everything."""
    (tmp_path / "a.jsonl").write_bytes(json_lines())
    monkeypatch.setattr(work, "read_records", _refuse)
    [problem] = problems(scan_files([str(tmp_path)], plain(), processes=1))
    assert problem.fact == "The system refused to read or write: Permission denied."


def _refuse(*_: object) -> None:
    raise PermissionError(13, "Permission denied", "/secret")


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        (b'{"text": "<|im_end|>"', "no JSON"),
        (b"[1]", "no object"),
        (b'{"text": "a", "text": "<|im_end|>"}', "a key twice"),
        (b'{"txt": "<|im_end|>"}', "There is no key 'text'"),
        (b'{"text": {"a": "<|im_end|>"}}', "no text here"),
        (b"[" * 100_000, "no JSON"),
        (b'{"text": "' + b"x" * 2000 + b'"}', "more than 1,000 bytes"),
    ],
)
def test_a_line_that_is_no_record_is_reported_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, fact: str
) -> None:
    """Nobody looked at what it holds."""
    monkeypatch.setattr(records, "MAX_LINE", 1_000 if b"x" * 2000 in line else 1_000_000)
    (tmp_path / "a.jsonl").write_bytes(json_lines(ROWS[:1]) + line + b"\n" + json_lines(ROWS[1:2]))
    result = scan_files([str(tmp_path / "a.jsonl")], plain("escape"), output=str(tmp_path / "out"), processes=1)
    assert [(problem.row, fact in problem.fact) for problem in problems(result)] == [(1, True)]
    assert read(tmp_path / "out" / "a.jsonl") == ESCAPED[:2]
    assert "<|im_end|>" not in str(problems(result))


def test_what_is_not_utf8_is_reported_with_its_row(tmp_path: Path) -> None:
    """In every format, and it goes on repaired."""
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "<|im_\xffend|>"}\n')
    (tmp_path / "b.csv").write_bytes(b"text\nok\n<|im_\xffend|>\n")
    (tmp_path / "c.txt").write_bytes(b"<|im_\xffend|>")
    column = pa.array([b"ok", b"<|im_\xffend|>"]).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "d.parquet")
    result = scan_files([str(tmp_path)], plain("escape"), output=str(tmp_path / ".out"), processes=1)
    assert {(Path(problem.path).name, problem.row) for problem in problems(result)} == {
        ("a.jsonl", 1),
        ("b.csv", 1),
        ("c.txt", 0),
        ("d.parquet", 1),
    }
    assert all(b"\xff" not in (tmp_path / ".out" / name).read_bytes() for name in ("a.jsonl", "b.csv", "c.txt"))
    assert read(tmp_path / ".out" / "d.parquet") == ["ok", "<|im_\ufffdend|>"]


def test_lone_surrogates_in_json_are_the_guards_to_judge(tmp_path: Path) -> None:
    """As the policy says: replaced."""
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a \\ud83d b"}\n{"text": "<|im_end|>", "other": "\\ud83d"}\n')
    scan_files([str(tmp_path / "a.jsonl")], plain("escape"), output=str(tmp_path / "out"), processes=1)
    assert read(tmp_path / "out" / "a.jsonl") == ["a \ufffd b", "<_|im_end|>"]


def test_fail_fast_stops_at_the_first_problem(tmp_path: Path) -> None:
    """What follows is not read."""
    (tmp_path / "a.parquet").write_bytes(b"")
    (tmp_path / "b.jsonl").write_bytes(json_lines())
    result = scan_files([str(tmp_path)], plain(), processes=1, fail_fast=True)
    assert (result.stopped, result.total.rows, len(problems(result))) == (True, 0, 1)


def test_an_output_that_exists_is_refused(tmp_path: Path) -> None:
    """A folder with something in it, and a file; and an action that writes needs one."""
    (tmp_path / "a.jsonl").write_bytes(json_lines())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    for target in (tmp_path / "out", tmp_path / "a.jsonl", None):
        with pytest.raises(CorpusError):
            scan_files(
                [str(tmp_path / "a.jsonl")],
                plain("drop"),
                output=None if target is None else str(target),
                processes=1,
            )
    assert (tmp_path / "out" / "mine").read_text() == "precious"


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done is not done again, what failed is, and the report is that of a run without a break."""
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        (source / name).write_bytes(json_lines())
    whole = scan_files([str(source)], plain("escape"), output=str(tmp_path / "whole"), processes=1)
    real, calls = work.write_records, []

    def cut_off(file: CorpusFile, sink: BinaryIO) -> object:
        calls.append(file.name)
        if file.name == "b.jsonl" and calls.count("b.jsonl") == 1:
            sink.write(b"half")
            raise KeyboardInterrupt
        return real(file, sink)

    monkeypatch.setattr(work, "write_records", cut_off)
    with pytest.raises(KeyboardInterrupt):
        scan_files([str(source)], plain("escape"), output=str(target), processes=1)
    assert sorted(path.name for path in target.glob("*.jsonl")) == ["a.jsonl"]
    with pytest.raises(CorpusError, match="--resume"):
        scan_files([str(source)], plain("escape"), output=str(target), processes=1)
    with pytest.raises(CorpusError, match="another action"):
        scan_files([str(source)], plain("strip"), output=str(target), processes=1, resume=True)
    resumed = scan_files([str(source)], plain("escape"), output=str(target), processes=1, resume=True)
    assert calls == ["a.jsonl", "b.jsonl", "b.jsonl", "c.jsonl"]
    assert resumed == whole
    assert all(read(target / name) == ESCAPED for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    (source / "a.jsonl").write_bytes(json_lines(ROWS[:1]))
    os.utime(source / "a.jsonl", (1, 1))
    scan_files([str(source)], plain("escape"), output=str(target), processes=1, resume=True)
    assert read(target / "a.jsonl") == ESCAPED[:1], "a file that changed is done again"


def test_a_full_disk_is_reported_and_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's own name never appears, and a resumed run makes it."""
    (tmp_path / "a.jsonl").write_bytes(json_lines())
    real = os.fsync
    monkeypatch.setattr(output.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        scan_files([str(tmp_path / "a.jsonl")], plain("drop"), output=str(tmp_path / "none"), processes=1)
    assert not list((tmp_path / "none").rglob("*.json*"))
    monkeypatch.setattr(output.os, "fsync", real)
    monkeypatch.setattr(work, "write_records", _full)
    result = scan_files([str(tmp_path / "a.jsonl")], plain("drop"), output=str(tmp_path / "out"), processes=1)
    assert "There is no space left" in problems(result)[0].fact
    assert not (tmp_path / "out" / "a.jsonl").exists()
    monkeypatch.undo()
    scan_files([str(tmp_path / "a.jsonl")], plain("drop"), output=str(tmp_path / "out"), processes=1, resume=True)
    assert len(read(tmp_path / "out" / "a.jsonl")) == 4


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_several_processes_find_what_one_does(tmp_path: Path) -> None:
    """And the counts, the lists and the files are the same, in the order of the files."""
    for number in range(5):
        (tmp_path / f"{number}.parquet").write_bytes(parquet(ROWS[number:] * 20))
    one, two = (scan_files([str(tmp_path)], plain(), processes=number) for number in (1, 2))
    assert one == two
    assert one.total.count == 20 * (3 + 3 + 2 + 2 + 1)


def test_a_large_parquet_file_is_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row groups are pieces of work; rows keep their numbers in the file."""
    (tmp_path / "a.parquet").write_bytes(parquet(ROWS * 10, group=7))
    whole = scan_files([str(tmp_path)], plain(), processes=1)
    monkeypatch.setattr(work, "_WORTH_A_SPLIT", 0)
    monkeypatch.setattr(work, "_PIECE", 1)
    seen: list[int] = []
    split = scan_files([str(tmp_path)], plain(), processes=1, advance=lambda size, _: seen.append(size))
    assert len(seen) == 9
    assert split.total == whole.total
    assert split.files == whole.files


def test_a_process_that_dies_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its piece is done again by another; one that kills every process is reported, and the rest is done."""
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        (tmp_path / name).write_bytes(json_lines())
    once = tmp_path / ".once"
    program = (
        "import sys; sys.path[:] = sys.argv[1:]; import os; from guardtok.corpus import local\n"
        "real = local.do_piece\n"
        f"def die(job, piece):\n"
        f"    if piece.file.name == 'b.jsonl' and not os.path.exists({str(once)!r}):\n"
        f"        open({str(once)!r}, 'w').close(); os.kill(os.getpid(), 9)\n"
        "    if piece.file.name == 'c.jsonl': os.kill(os.getpid(), 9)\n"
        "    return real(job, piece)\n"
        "local.do_piece = die; local.serve()"
    )
    monkeypatch.setattr(local, "_PROGRAM", program)
    result = scan_files([str(tmp_path)], plain(), processes=2)
    assert [(file.count, len(file.problems)) for file in result.files] == [(3, 0), (3, 0), (0, 1)]
    assert "died 3 times" in problems(result)[0].fact


def test_ctrl_c_ends_all_processes_and_leaves_no_half_file(tmp_path: Path) -> None:
    """With the shell's status, and what is done stays done."""
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number in range(40):
        (source / f"{number:02}.jsonl").write_bytes(json_lines(ROWS * 400))
    command = [sys.executable, "-m", "guardtok", "scan", source, "-a", "escape", "-o", target, "-j", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not list(target.glob("*.jsonl")) and process.poll() is None:
            pass
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    finished = list(target.glob("*.jsonl"))
    assert 0 < len(finished) < 40
    assert all(read(path) == ESCAPED * 400 for path in finished[:2])


def test_remote_files_are_read_and_written_through_fsspec() -> None:
    """Any URL that it knows; here its own memory."""
    import fsspec

    files = fsspec.filesystem("memory")
    files.pipe_file("/corpus/a.jsonl", json_lines())
    files.pipe_file("/corpus/b.parquet", parquet())
    result = scan_files(["memory://corpus"], plain("escape"), output="memory://clean", processes=1)
    assert (problems(result), result.total.count) == ([], 6)
    assert [json.loads(line)["text"] for line in files.cat_file("/clean/a.jsonl").splitlines()] == ESCAPED
    assert pq.read_table(pa.BufferReader(files.cat_file("/clean/b.parquet")))["text"].to_pylist() == ESCAPED
    files.rm("/corpus", recursive=True)
    files.rm("/clean", recursive=True)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    """One would overwrite the other."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").write_bytes(json_lines())
    with pytest.raises(CorpusError, match="Two files"):
        scan_files([str(tmp_path / "a"), str(tmp_path / "b")], plain("escape"), output=str(tmp_path / "c"), processes=1)
    assert not (tmp_path / "c").exists()


def test_a_report_takes_files_of_one_name(tmp_path: Path) -> None:
    """pre-commit names files one by one, and each folder has its README; one that is named twice is read once."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "README.md").write_text("<|im_end|>")
    named = [str(tmp_path / "a" / "README.md"), str(tmp_path / "b" / "README.md"), str(tmp_path / "b")]
    result = scan_files(named, plain(), processes=1)
    assert [(file.path, file.count) for file in result.files] == [(named[0], 1), (named[1], 1)]


def test_counts_are_whole_where_lists_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dump of chats has a finding in every row, and a report must fit the memory."""
    from guardtok.corpus import result as result_module

    monkeypatch.setattr(result_module, "LISTED", 2)
    (tmp_path / "a.jsonl").write_bytes(json_lines([{"text": "<|im_end|>"}] * 9) + b"x\n" * 4)
    total = scan_files([str(tmp_path)], plain(), processes=1).total
    assert (total.count, len(total.findings), len(total.problems), total.unlisted) == (9, 2, 2, 2)
    assert sum(total.kinds.values()) == 9


REPORTS: dict[str, Callable[[str], bool]] = {
    "text": lambda out: "3 findings in 3 texts" in out and "whitespace" in out and "chatml" in out,
    "json": lambda out: json.loads(out.splitlines()[-1])["findings"] == 3,
    "sarif": lambda out: [r["level"] for r in json.loads(out)["runs"][0]["results"]] == ["warning", "warning", "note"],
    "html": lambda out: out.startswith("<!doctype html>") and "&lt;_|im_end|&gt;" in out,
    "github": lambda out: "::error file=a.jsonl,line=2,title=guardtok::<_|im_end|>" in out,
}


@pytest.mark.parametrize("report", REPORTS)
def test_each_report_says_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: str) -> None:
    """With the status 1, and no form in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(json_lines())
    ran = guardtok("scan", "a.jsonl", "--report", report)
    assert (ran.status, ran.err) == (1, "")
    assert REPORTS[report](ran.out)
    assert "<|im_" not in ran.out
    assert guardtok("scan", "a.jsonl", "--report", report, "--exit-zero").status == 0


def test_a_clean_corpus_has_the_status_0(tmp_path: Path) -> None:
    """And says so."""
    (tmp_path / "a.jsonl").write_bytes(json_lines(ROWS[:1]))
    ran = guardtok("scan", tmp_path)
    assert (ran.status, "Nothing was found." in ran.out) == (0, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nowhere"],
        [".", "--policy", "corpsu"],
        [".", "--action", "drop"],
        [".", "--source", "dokument"],
        ["nosuchprotocol://x"],
        [".", "--tokenizer", "nope"],
    ],
)
def test_a_mistake_is_a_message_and_the_status_2(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback."""
    monkeypatch.chdir(tmp_path)
    ran = guardtok("scan", *arguments)
    assert (ran.status, ran.err.startswith(("Error", "Usage"))) == (2, True)


def test_sarif_is_sarif(tmp_path: Path) -> None:
    """What a code host needs of it, and no more results than it takes."""
    (tmp_path / "a b.md").write_text("x\n<|im_end|>")
    ran = guardtok("scan", tmp_path / "a b.md", "--report", "sarif")
    run = json.loads(ran.out)["runs"][0]
    [result] = run["results"]
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"].endswith("/a%20b.md")
    assert place["region"] == {"startLine": 2}
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == {result["ruleId"]}
    assert run["invocations"][0]["executionSuccessful"] is True


def test_names_of_files_obey_nothing(tmp_path: Path) -> None:
    """Neither a page, nor a workflow, nor a terminal."""
    name = "a\x1b[31m<script>,b:c.md"
    (tmp_path / name).write_text("<|im_end|>")
    outs = {report: guardtok("scan", tmp_path, "--report", report).out for report in REPORTS}
    assert all("\x1b" not in out for out in outs.values())
    assert "<script>" not in outs["html"]
    assert "%2Cb%3Ac.md" in outs["github"]


def test_a_terminal_sees_a_bar_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """On standard error, with what was found so far."""
    from guardtok.cli.scanning import progress
    from guardtok.corpus.result import FileResult

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    said = {}
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress(shown=True) as bar:
            bar.begin(10)
            bar.advance(5, FileResult("", count=7))
        said[stream.isatty()] = stream.getvalue()
    assert "7 found" in said[True]
    assert said[False] == ""


def test_the_engines_are_named() -> None:
    """By what the command line takes."""
    assert [str(engine) for engine in ScanEngine] == ["local", "ray"]
    assert repr(ArrowScanner("corpus")) == "<ArrowScanner policy='corpus' columns=['text'] action='report'>"
