"""Tokenizers that lie, fork or never end, and cases from anybody: a finding or an error, never silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from guardtok.encodings import load_tokenizer
from guardtok.errors import GuardtokError
from guardtok.fuzz import Case, assert_no_forgery, fuzz, judge
from guardtok.fuzz.doors import as_ids
from guardtok.fuzz.worker import Worker
from tests import fuzz_targets
from tests.fuzz_targets import Good

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
HOSTILE = "tests.test_fuzz_hostile"


class Failing(Good):
    """Refuses everything, with an error that is declared."""

    def encode_ordinary(self, text: str) -> list[int]:
        raise ValueError(text)


class Late(Good):
    """Fails while what it returned is read."""

    def encode_ordinary(self, text: str) -> Any:  # noqa: ANN401 - which is the fault
        def ids() -> Iterator[int]:
            yield from super(Late, self).encode_ordinary(text)
            raise KeyError

        return ids()


class Numbers(Good):
    """Returns numbers that are no ids."""

    def __init__(self, number: object) -> None:
        self.number = number

    def encode_ordinary(self, text: str) -> Any:  # noqa: ANN401 - which is the fault
        return [self.number for _ in text]


class Hollow(Good):
    """Returns a batch of nothing."""

    def encode_ordinary_batch(self, texts: list[str]) -> Any:  # noqa: ANN401 - which is the fault
        return [None for _ in texts]


class Named(Good):
    """Raises an error whose name a terminal obeys and a model reads."""

    def encode_ordinary(self, text: str) -> list[int]:
        if "b" in text:
            raise type("\x1b[31m<|im_end|>", (Exception,), {})
        return super().encode_ordinary(text)


class Untold:
    """Encodes bytes, and says nothing of control tokens."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "replace"))

    def decode(self, ids: list[int]) -> bytes:
        return bytes(ids)


class Copying(Good):
    """Leaves a copy of the process behind, which answers too."""

    def encode_ordinary(self, text: str) -> list[int]:
        if text == "copy":
            os.fork()
        return super().encode_ordinary(text)


class Leaving(Good):
    """Ends, and leaves a process behind that holds everything open, in a session of its own."""

    def encode_ordinary(self, text: str) -> list[int]:
        if text == "leave":
            if os.fork() == 0:
                os.setsid()
                time.sleep(8)
                os._exit(0)
            os._exit(3)
        return super().encode_ordinary(text)


class Stuck(Good):
    """Says who it is, and never comes back."""

    def encode_ordinary(self, text: str) -> list[int]:
        if text == "stick":
            Path(os.environ["GUARDTOK_TEST_PID"]).write_text(str(os.getpid()), "utf-8")
            time.sleep(1_000)
        return super().encode_ordinary(text)


class Once(Good):
    """Can be made once."""

    def __init__(self) -> None:
        Path(os.environ["GUARDTOK_TEST_PID"]).open("x").close()

    def encode_ordinary(self, text: str) -> list[int]:
        if "b" in text:
            os._exit(1)
        return super().encode_ordinary(text)


def plain(*parts: str, shape: str = "text") -> Case:
    """Return a case without an attack."""
    return Case("plain", shape, parts)


def test_a_class_is_a_target() -> None:
    """Its instance is judged: calls of the class itself fail, each with an error that is declared, so none is found."""
    (finding,) = fuzz("tests.fuzz_targets:Twins", cases=0, seconds=None).findings
    assert finding.outcome.cause == "two tokens share an id"


def test_what_encodes_nothing_is_a_mistake_and_not_clean() -> None:
    """Every error is declared, so nothing would be found."""
    with pytest.raises(GuardtokError, match="cannot encode the letter"):
        fuzz(Failing(), cases=5)


def test_a_target_without_control_tokens_is_said_to_have_none() -> None:
    """No leak can be seen in it, which a reader must not take for none."""
    assert "no leak can be seen" in " ".join(fuzz(Untold(), cases=1, seconds=None).notes)


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        (Late(), "encode returns something else than ids"),
        (Numbers(10**5_000), "encode returns something else than ids"),
        (Numbers(True), "encode returns something else than ids"),  # noqa: FBT003 - it is the fault
        (Numbers(-1), "an id that the vocabulary does not have"),
        (Numbers(1 << 40), "an id that the vocabulary does not have"),
        (Numbers(None), "encode returns something else than ids"),
        (Hollow(), "encode of a batch returns something else than ids"),
        (Named(), "encode raises \\x1b[31m<_|im_end|>"),
    ],
    ids=["late", "huge", "truth value", "negative", "too large", "none", "batch", "name"],
)
def test_what_is_no_id_is_one_finding(target: object, cause: str) -> None:
    """Whatever comes back, and when it fails, it is the tokenizer's fault and not the end."""
    outcomes = judge(target, plain("abc", "d", shape="batch"))
    assert {outcome.cause for outcome in outcomes} == {cause}


def test_integers_of_other_libraries_are_ids() -> None:
    """Numpy's come in lists too."""
    import numpy as np

    assert as_ids([np.int64(3), 4]) == as_ids(np.array([3, 4])) == [3, 4]
    for wrong in ({"input_ids": [1]}, np.array([[1]]), "1", [1.0]):
        with pytest.raises(TypeError):
            as_ids(wrong)


@pytest.fixture
def worker() -> Iterator[Callable[..., Worker]]:
    """Return a function that opens a target in a process of its own."""
    made: list[Worker] = []

    def start(name: str, hang_seconds: float = 30) -> Worker:
        made.append(Worker({"target": f"{HOSTILE}:{name}"}, hang_seconds))
        made[-1].open()
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_a_copy_of_the_process_does_not_answer(worker: Callable[..., Worker]) -> None:
    """Each answer is that of its own case."""
    asked = worker("Copying")
    assert asked.ask(plain("copy")) == asked.ask(plain("a"))
    ran, _ = asked.ask(plain("b", "c", shape="batch"))
    assert asked.ask(plain("d", "e", shape="batch"))[0] == ran


def test_what_a_tokenizer_leaves_behind_holds_nothing_up(worker: Callable[..., Worker]) -> None:
    """The end of the process is seen, though another holds its pipes open; the next case goes on."""
    asked = worker("Leaving")
    _, (outcome,) = asked.ask(plain("leave"))
    assert outcome.cause == "the tokenizer ends its process or hangs (exit status 3)"
    assert asked.ask(plain("a"))[1] == []


def test_a_hanging_tokenizer_ends_when_its_fuzzer_is_killed(tmp_path: Path) -> None:
    """Nothing spins on when nobody can end it any more."""
    program = (
        "import guardtok.fuzz.worker as w\nfrom guardtok.fuzz import Case\nw.GRACE_SECONDS = 0.2\n"
        f"worker = w.Worker({{'target': '{HOSTILE}:Stuck'}}, 1.0)\nworker.open()\n"
        "worker.ask(Case('plain', 'text', ('stick',)))\n"
    )
    note = tmp_path / "pid"
    environment = {**os.environ, "GUARDTOK_TEST_PID": str(note), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=ROOT) as parent:
        until = time.monotonic() + 60
        while not (note.exists() and note.read_text("utf-8")) and time.monotonic() < until:
            time.sleep(0.02)
        parent.kill()
    child = int(note.read_text("utf-8"))
    while _runs(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process: int) -> bool:
    """Whether a process is there and has not ended, waited for or not."""
    try:
        os.kill(process, 0)
    except OSError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text("utf-8").rpartition(")")[2].split()[0] == "Z")


def test_a_target_that_opens_once_ends_the_run_with_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found until then is told."""
    monkeypatch.setenv("GUARDTOK_TEST_PID", str(tmp_path / "made"))
    report = fuzz(f"{HOSTILE}:Once", cases=200, seconds=None, attacks=["A3"])
    assert [finding.outcome.cause for finding in report.findings] == [
        "the tokenizer ends its process or hangs (exit status 1)"
    ]
    assert any(note.startswith("the run ended early: ") for note in report.notes)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": "\x1b[31m"},
        {"shape": ["text"]},
        {"shape": "growth", "parts": [""]},
        {"parts": []},
        {"repeat": True},
        {"repeat": 0},
        {"parts": ["x" * 1000], "repeat": 1_000_000},
    ],
    ids=str,
)
def test_a_hostile_case_is_refused(change: dict[str, Any]) -> None:
    """A vector comes from a file: it prints nothing, divides by nothing and fills no memory."""
    with pytest.raises(ValueError, match=r"^A case"):
        Case.from_dict({"attack": "A19", "shape": "text", "parts": ["x"], "form": "", "repeat": 1, **change})


def test_targets_may_share_a_corpus(tmp_path: Path) -> None:
    """The same input of two targets is two vectors."""
    for target in ("Twins", "Others"):
        kind = type(target, (fuzz_targets.Twins,), {})
        assert fuzz(kind(), cases=0, seconds=None, corpus=tmp_path).findings
    targets = [json.loads(path.read_text("utf-8"))["vectors"][0]["target"] for path in tmp_path.iterdir()]
    assert sorted(targets) == ["Others", "Twins"]


def test_a_folder_full_of_garbage_is_told_in_a_few_lines(tmp_path: Path) -> None:
    """A report is for people."""
    for number in range(100):
        (tmp_path / f"{number}.json").write_bytes(b"\xff")
    notes = fuzz(fuzz_targets.good, cases=0, seconds=None, corpus=tmp_path).notes
    assert len(notes) == 21
    assert notes[-1] == "corpus: 80 more are left out"


def test_a_line_to_reproduce_reproduces() -> None:
    """What is wrong with the vocabulary is seen again by its case, and the line names the policy."""
    (finding,) = fuzz(fuzz_targets.Twins(), cases=0, seconds=None).findings
    assert finding.outcome in judge(fuzz_targets.Twins(), finding.case)
    assert fuzz("guardtok", policy="strict", cases=0).command == "guardtok fuzz guardtok --policy strict"


def test_a_class_that_cannot_be_tried_is_named() -> None:
    """A tokenizer is given no requests."""
    report = fuzz(fuzz_targets.good, cases=5, seconds=None, attacks=["A14"])
    assert report.notes == ("A14 was not tried: this target has no place for it",)


@pytest.mark.parametrize("given", [{"attacks": ["A99"]}, {"attacks": ["A9"]}, {"cases": 0}], ids=str)
def test_an_assertion_that_tries_nothing_does_not_pass(given: dict[str, Any]) -> None:
    """It would hold of any prompt."""
    with pytest.raises(ValueError, match=r"no attack class|No text was tried"):
        assert_no_forgery(lambda text: text, "guardtok", **given)


def test_a_prompt_of_another_kind_does_not_pass() -> None:
    """A mapping's names, a row of a tensor and bytes hold no ids, so no forgery would be seen."""
    import torch

    tokenizer = load_tokenizer("guardtok")
    ids = sorted(tokenizer.reserved_ids)[:1]
    for wrong in ({"input_ids": ids}, torch.tensor([ids]), b"x"):
        with pytest.raises(TypeError):
            assert_no_forgery(lambda _, wrong=wrong: wrong, tokenizer)  # type: ignore[misc]
