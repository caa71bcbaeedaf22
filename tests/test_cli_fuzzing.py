"""`guardtok fuzz`: its status, its reports and its messages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from tests.command_line import guardtok

if TYPE_CHECKING:
    from pathlib import Path

GOOD, BAD = "tests.fuzz_targets:good", "tests.fuzz_targets:overlapping"


def test_nothing_found_is_status_0() -> None:
    """The report says what was tried."""
    ran = guardtok("fuzz", GOOD, "--cases", "40", "--attack", "A1")
    assert (ran.status, ran.err) == (0, "")
    assert "0 findings" in ran.out
    assert "40 cases" in ran.out


def test_a_finding_is_status_1_and_can_be_repeated() -> None:
    """The line that a report gives makes the same finding."""
    ran = guardtok("fuzz", BAD, "--cases", "1")
    assert ran.status == 1
    assert "a token is read as another" in ran.out
    (line,) = (line for line in ran.out.splitlines() if "again:" in line)
    case = line.partition("--case '")[2].removesuffix("'")
    again = guardtok("fuzz", BAD, "--case", case)
    assert again.status == 1
    assert again.objects[0]["oracle"] == "overlap"
    assert guardtok("fuzz", GOOD, "--case", case).status == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-tokenizer",),
        ("nowhere:attribute",),
        ("./missing.json",),
        (GOOD, "--attack", "A99"),
        (GOOD, "--oracle", "leek"),
        (GOOD, "--report", "pdf"),
        (GOOD, "--time", "-1"),
        (GOOD, "--time", "nan"),
        (GOOD, "--case", "{"),
        (GOOD, "--case", "[" * 100_000),
        (GOOD, "--case", '{"attack": "A1"}'),
        ("guardtok", "--policy", "no-such-policy", "--cases", "1"),
        (GOOD, "--policy", "chatml", "--cases", "1"),
        (GOOD, "--against", "gigatoken", "--cases", "1"),
    ],
    ids=lambda arguments: " ".join(arguments)[:50],
)
def test_a_mistake_is_status_2(arguments: tuple[str, ...]) -> None:
    """One message, no traceback, nothing on standard output."""
    ran = guardtok("fuzz", *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert "Error:" in ran.err
    assert "Traceback" not in ran.err


def test_every_format_can_be_written_to_a_file(tmp_path: Path) -> None:
    """Each is what it says it is."""
    written = {}
    for output in ("text", "html", "json", "sarif", "junit"):
        path = tmp_path / output
        assert guardtok("fuzz", BAD, "--cases", "0", "--report", output, "--out", path).status == 1
        written[output] = path.read_text(encoding="utf-8")
    assert written["html"].startswith("<!doctype html>")
    assert json.loads(written["json"])["findings"][0]["oracle"] == "overlap"
    assert json.loads(written["sarif"])["version"] == "2.1.0"
    assert ET.fromstring(written["junit"]).tag == "testsuites"  # noqa: S314 - it was written right here


def test_a_report_that_has_no_place_is_told_before_the_run(tmp_path: Path) -> None:
    """Not after it: the tokenizer is not even looked for."""
    ran = guardtok("fuzz", "no-such-tokenizer", "--out", tmp_path / "no" / "folder")
    assert ran.status == 2
    assert "cannot be written" in ran.err


def test_a_corpus_keeps_findings(tmp_path: Path) -> None:
    """A second run without a new case finds them again."""
    assert guardtok("fuzz", BAD, "--cases", "0", "--corpus", tmp_path / "corpus").status == 1
    (vector,) = (tmp_path / "corpus").iterdir()
    assert json.loads(vector.read_text(encoding="utf-8"))["vectors"][0]["class"] == "A23"


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
@pytest.mark.parametrize(("target", "status"), [(BAD, 1), ("tests.fuzz_targets:hanging", 0)])
def test_ctrl_c_gives_the_report_so_far(target: str, status: int) -> None:
    """The report says that it was interrupted, the status what was found; nobody waits for a tokenizer that hangs."""
    command = [sys.executable, "-m", "guardtok", "fuzz", target, "--time", "600", "--attack", "A6"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(6)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert "interrupted" in out
    assert (process.returncode, err) == (status, "")
