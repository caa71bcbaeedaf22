"""The decision log: a line for each decision, nothing of a text in it, and nothing lost without a word."""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog
from hypothesis import given
from hypothesis import strategies as st

from guardtok import Guard, Policy
from guardtok.gateway.decision import Blame, Call, Decision, Refusal
from guardtok.gateway.decision_log import MAX_FINDINGS, DecisionLog
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.live import LiveGuard
from guardtok.gateway.log_file import LogFile
from guardtok.gateway.log_writer import LogWriter
from guardtok.gateway.masked_input import KEYS, MAX_VALUES, mask

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

    import pytest

POLICY = Policy.parse(
    'guardtok: 1\nname: logged\nsources:\n  user: {default: escape, block: ["<|im_start|>"]}\n'
    '  tool_result: {default: block, mode: monitor}\n  "*": {default: escape}\n'
)
GUARDS = LiveGuard(Guard(POLICY, sinks=()), 7)
CALL = Call("/v1/chat/completions", "req-1", "10.0.0.7")


def decide(text: str, source: str = "user", call: Call = CALL) -> Decision:
    """Return the decision about a text."""
    return Gatekeeper(GUARDS).judge_text(text, source, call).decision


CLEAN = decide("hello")


def lines(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a log."""
    return [json.loads(line) for line in file.read_text(encoding="ascii").splitlines()]


def written(decision: Decision, **options: Any) -> dict[str, Any]:  # noqa: ANN401 - as DecisionLog has them
    """Return the line that a decision becomes."""
    stream = io.BytesIO()
    log = DecisionLog(stream, **options)
    log(decision)
    log.close()
    made: dict[str, Any] = json.loads(stream.getvalue())
    return made


def test_a_decision_has_the_fields_of_an_opa_log() -> None:
    """The names are OPA's, so that what reads its logs reads these; the values are those of the decision."""
    line = written(CLEAN, labels={"app": "shop"})
    assert line.keys() >= {"decision_id", "timestamp", "labels", "bundles", "path", "result", "requested_by", "metrics"}
    assert line["decision_id"] == CLEAN.id
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", line["timestamp"])
    assert line["labels"].keys() == {"id", "version", "app"}
    assert line["bundles"] == {"logged": {"digest": POLICY.digest, "revision": "7"}}
    assert (line["path"], line["route"], line["request_id"]) == ("text/user", "/v1/chat/completions", "req-1")
    assert line["requested_by"] == "10.0.0.7"
    assert line["metrics"] == {"timer_guard_ns": int(CLEAN.seconds * 1e9)}
    assert (line["erased"], "input" in line) == (["/input"], False)
    assert line["result"]["allowed"] is True
    assert line["result"]["refusal"] is None


def test_a_refusal_names_rule_and_place() -> None:
    """Why nothing went on is in the line: rule, path, and each finding with its count."""
    result = written(decide("<|im_end|> <|im_end|> <|im_start|>"))["result"]
    assert (result["allowed"], result["action"], result["count"]) == (False, "block", 3)
    assert result["refusal"]["rule"] == "user.block[<_|im_start|>]"
    assert result["refusal"]["blame"] == "policy"
    assert [(each["rule"], each["count"]) for each in result["findings"]] == [
        ("user.default", 2),
        ("user.block[<_|im_start|>]", 1),
    ]
    watched = written(decide("<|im_start|>", "tool_result"))["result"]
    assert (watched["allowed"], watched["findings"][0]["mode"]) == (True, "monitor")


def test_a_request_s_places_are_logged_and_its_text_is_not() -> None:
    """The finding has the JSON path; what stood there is nowhere, masked or not."""
    body = {"model": "m", "messages": [{"role": "user", "content": f"{PRIVATE} <|im_start|>"}], PRIVATE: 4111}
    decision = Gatekeeper(GUARDS).judge_request(body, "openai.chat", CALL).decision
    for masked in (False, True):
        line = written(decision, masked_input=masked)
        assert line["path"] == "request/openai.chat"
        assert line["result"]["refusal"]["path"] == "$.messages[0].content"
        assert "4111" not in json.dumps(line)
        assert "<|im_start|>" not in json.dumps(line)


def test_a_flood_of_forms_is_no_flood_of_lines() -> None:
    """Of a thousand different findings a bounded number is listed; the count has them all."""
    found = decide("<|im_end|>").violations[0]
    many = tuple(replace(found, path=f"$.messages[{number}].content") for number in range(1_000))
    result = written(replace(CLEAN, violations=many, count=5_000))["result"]
    assert len(result["findings"]) == MAX_FINDINGS
    assert result["count"] == 5_000


FORMS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "[INST]", "<\uff5cUser\uff5c>", "</s>")
HOSTILE = st.text(max_size=40) | st.sampled_from([*FORMS, "\x1b[31m", "\u202e", "\ud800", "\n", "a\0b"])


@given(st.lists(HOSTILE, min_size=4, max_size=4))
def test_a_line_is_ascii_and_spells_nothing(hostile: list[str]) -> None:
    """Whatever a caller chooses, a line has no escape, no control token and no line feed but its last."""
    route, request_id, peer, source = ("".join([part, *FORMS]) for part in hostile)
    stream = io.BytesIO()
    log = DecisionLog(stream, masked_input=True)
    log(replace(CLEAN, call=Call(route, request_id, peer), protocol=source, input={"a": [route, {peer: 1}]}))
    log.close()
    line = stream.getvalue()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])
    said = json.dumps(json.loads(line), ensure_ascii=False)
    assert [form for form in FORMS if form in said] == []
    assert "\x1b" not in said
    assert "\u202e" not in said


PRIVATE = "4111-1111 my secret"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=20), inner, max_size=5),
    max_leaves=20,
)


@given(JSON)
def test_a_masked_body_shows_its_shape_alone(body: Any) -> None:  # noqa: ANN401 - JSON
    """Objects, lists, truth values and nulls stay; strings, foreign keys and numbers do not."""
    digits = re.compile(r"\(\d+ characters, [0-9a-f]{16}\)")

    def compare(masked: object, value: object) -> None:
        match value:
            case None | bool():
                assert masked is value
            case int() | float():
                assert masked == "(number)"
            case str():
                assert isinstance(masked, str)
                assert digits.fullmatch(masked)
                assert masked.startswith(f"({len(value)} ")
            case list():
                assert isinstance(masked, list)
                for one, other in zip(masked, value, strict=True):
                    compare(one, other)
            case dict():
                assert isinstance(masked, dict)
                assert all(name in KEYS or digits.fullmatch(name) for name in masked)
                for one, other in zip(masked.values(), value.values(), strict=True):
                    compare(one, other)

    compare(mask(body, b"key"), body)


def test_masking_is_bounded_and_keyed() -> None:
    """A body of a million values is cut; equal strings have equal digests under one key, and others under another."""
    assert len(str(mask([["x"] * 1_000] * 1_000, b"k"))) < MAX_VALUES * 50
    deep: object = "x"
    for _ in range(10_000):
        deep = [deep]
    assert "(cut)" in str(mask(deep, b"k"))
    assert mask("x", b"k") == mask("x", b"k") != mask("x", b"l")
    assert mask({"role": "user", "ssn": "1"}, b"k").keys() - {"role"} == {mask("ssn", b"k")}  # type: ignore[attr-defined]


def test_masked_input_is_written_where_it_is_asked_for() -> None:
    """The line has the shape under `input` and says that it is masked; the text is nowhere."""
    line = written(replace(CLEAN, input={"messages": [{"role": "user", "content": PRIVATE}]}), masked_input=True)
    assert line["masked"] == ["/input"]
    assert line["input"]["messages"][0]["content"].startswith(f"({len(PRIVATE)} characters")
    assert "4111" not in json.dumps(line)


def test_a_failure_of_masking_drops_the_input_and_not_the_event() -> None:
    """What cannot be masked is left out and counted; the decision is on record."""
    failed: list[str] = []
    line = written(replace(CLEAN, input={"a": {1, 2}}), masked_input=True, failed=failed.append)
    assert (line["decision_id"], line["erased"], "input" in line) == (CLEAN.id, ["/input"], False)
    assert failed == ["decision_log_mask"]


def test_lines_keep_their_order(tmp_path: Path) -> None:
    """What was decided first stands first, over many batches."""
    log = DecisionLog(tmp_path / "log", delay=0.001)
    for number in range(2_000):
        log(replace(CLEAN, id=str(number)))
    log.close()
    assert [line["decision_id"] for line in lines(tmp_path / "log")] == [str(number) for number in range(2_000)]


def test_a_closed_log_takes_the_last_requests_too(tmp_path: Path) -> None:
    """A request that ends after the shutdown began is written by the next close."""
    log = DecisionLog(tmp_path / "log")
    log(CLEAN)
    log.close()
    log(CLEAN)
    log.close()
    log.close()
    assert len(lines(tmp_path / "log")) == 2


def test_files_are_rotated_by_size(tmp_path: Path) -> None:
    """No file grows far beyond its size, no line is divided or lost while old ones are kept, and the oldest go."""
    file = LogFile(tmp_path / "log", 1_000, 3)
    for number in range(100):
        file.write(b"%098d\n" % number + b"%098d\n" % number)
    file.close()
    names = ["log.3", "log.2", "log.1", "log"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "log.lock"])
    kept = [int(line) for name in names for line in (tmp_path / name).read_bytes().splitlines()]
    assert kept == [number for number in range(kept[0], 100) for _ in range(2)]
    assert all((tmp_path / name).stat().st_size <= 1_000 for name in names)
    assert len(kept) > 30


def test_without_old_files_the_log_begins_anew(tmp_path: Path) -> None:
    """`keep=0` keeps the current file alone; a batch that is larger than a file is written whole."""
    file = LogFile(tmp_path / "log", 10, 0)
    file.write(b"1" * 20 + b"\n")
    file.write(b"2" * 20 + b"\n")
    assert (tmp_path / "log").read_bytes() == b"2" * 20 + b"\n"
    assert not (tmp_path / "log.1").exists()


def test_a_file_that_was_moved_away_is_opened_anew(tmp_path: Path) -> None:
    """Another program may rotate the file, or delete it: the next line is in a new one."""
    file = LogFile(tmp_path / "log", 10**6, 1)
    file.write(b"one\n")
    (tmp_path / "log").rename(tmp_path / "old")
    file.write(b"two\n")
    assert ((tmp_path / "old").read_bytes(), (tmp_path / "log").read_bytes()) == (b"one\n", b"two\n")


def test_half_a_line_of_the_dead_spoils_no_other(tmp_path: Path) -> None:
    """A file that does not end in a line feed gets one before the next line."""
    (tmp_path / "log").write_bytes(b'{"half')
    LogFile(tmp_path / "log", 10**6, 1).write(b"{}\n")
    assert (tmp_path / "log").read_bytes() == b'{"half\n{}\n'


def append(path: Path, name: int, together: Barrier) -> None:
    """Write many small batches, in another process."""
    file = LogFile(path, 20_000, 100)
    together.wait()
    for number in range(200):
        file.write(b"%d %0100d\n" % (name, number) * 3)


def test_processes_share_a_file(tmp_path: Path) -> None:
    """Four processes that write and rotate one file lose, double and tear no line."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(4)
    workers = [context.Process(target=append, args=(tmp_path / "log", name, together)) for name in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    found: dict[int, list[int]] = {name: [] for name in range(4)}
    old = sorted(tmp_path.glob("log.*[0-9]"), key=lambda path: -int(path.suffix[1:]))
    assert len(old) > 5
    for path in (*old, tmp_path / "log"):
        for line in path.read_text(encoding="ascii").splitlines():
            name, number = map(int, line.split())
            found[name].append(number)
    expected = [number for number in range(200) for _ in range(3)]
    assert found == dict.fromkeys(range(4), expected)


class Stubborn:
    """A target that takes nothing for a while."""

    def __init__(self, *, broken: bool = True) -> None:
        self.broken = broken
        self.data = b""

    def write(self, batch: bytes) -> None:
        """Write, or not."""
        if self.broken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.data += batch

    def close(self) -> None:
        """Nothing is open."""


def until(fact: Callable[[], bool]) -> None:
    """Wait until a fact holds."""
    end = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_full_disk_stops_nobody_and_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines wait while nothing can be written; it is reported once, tried again, and they are written in order."""
    monkeypatch.setattr("guardtok.gateway.log_writer._RETRY", 0.02)
    target, failed = Stubborn(), list[str]()
    writer = LogWriter(target, lambda _: b"lost\n", 0.001, 1_000_000, failed.append)
    with structlog.testing.capture_logs() as logs:
        for number in range(100):
            writer.put(b"%d\n" % number)
        until(lambda: len(failed) >= 3)
        target.broken = False
        until(lambda: target.data.count(b"\n") == 100)
        writer.close()
    assert target.data == b"".join(b"%d\n" % number for number in range(100))
    assert set(failed) == {"decision_log_write"}
    assert [log["event"] for log in logs] == ["guardtok.decision_log_failed", "guardtok.decision_log_recovered"]
    assert logs[0]["reason"] == "No space left on device"


def test_what_is_beyond_the_buffer_is_lost_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first lines are kept, the rest is counted, and a line in their place says how many they were."""
    monkeypatch.setattr("guardtok.gateway.log_writer._RETRY", 0.02)
    target, failed = Stubborn(), list[str]()
    writer = LogWriter(target, lambda count: b"lost %d\n" % count, 0.001, 40, failed.append)
    for number in range(10, 30):
        writer.put(b"%d......\n" % number)
    assert failed.count("decision_log_lost") == 16
    target.broken = False
    until(lambda: b"lost" in target.data)
    writer.put(b"after\n")
    writer.close()
    assert target.data == b"10......\n11......\n12......\n13......\nlost 16\nafter\n"


def test_a_loss_is_told_of_in_its_place() -> None:
    """What comes after a loss stands behind the line that tells of it, however the writer is interrupted."""
    target = Stubborn(broken=False)
    writer = LogWriter(target, lambda count: b"lost %d\n" % count, 0.1, 20, lambda _: None)
    writer._thread = threading.current_thread()  # Nobody else writes.
    writer.put(b"first.........\n")
    assert writer._take()
    writer.put(b"lost..........\n")
    assert writer._write()
    writer.put(b"after.........\n")
    while writer._take():
        assert writer._write()
    assert target.data == b"first.........\nlost 1\nafter.........\n"


def test_a_line_that_comes_while_a_log_is_closed_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there are two who write what waits: the one who closes, and the thread that the line begins."""
    monkeypatch.setattr("guardtok.gateway.log_writer._RETRY", 0.0)
    tried, second, third = [], threading.Event(), threading.Event()
    made = []

    class Disk:
        def write(self, batch: bytes) -> None:
            tried.append(batch)
            if len(tried) == 1:
                raise OSError(errno.ENOSPC, "full")
            if len(tried) == 2:
                second.set()
                third.wait(0.5)  # Nobody else writes meanwhile.
            else:
                third.set()
            made.append(batch)

        def close(self) -> None:
            pass

    writer = LogWriter(Disk(), lambda n: b"%d\n" % n, 60.0, 1_000, print)
    writer.put(b"one\n")
    closing = threading.Thread(target=writer.close)
    closing.start()
    assert second.wait(10)
    writer.put(b"two\n")
    closing.join()
    writer.close()
    assert b"".join(made) == b"one\ntwo\n"


def test_a_line_longer_than_a_batch_is_written() -> None:
    """A line of any length goes out, alone."""
    stream = io.BytesIO()
    log = DecisionLog(stream, labels={"long": "x" * 3_000_000})
    log(CLEAN)
    log(CLEAN)
    log.close()
    assert len(stream.getvalue().splitlines()) == 2


def test_what_cannot_be_written_at_the_end_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A close that fails says how many decisions are lost."""
    monkeypatch.setattr("guardtok.gateway.log_writer._RETRY", 0.02)
    writer = LogWriter(Stubborn(), lambda _: b"lost\n", 0.001, 1_000_000, lambda _: None)
    writer.put(b"1\n")
    writer.put(b"2\n")
    with structlog.testing.capture_logs() as logs:
        writer.close()
    assert ("guardtok.decision_log_failed", 2) in [(log["event"], log.get("lost")) for log in logs]


def test_a_really_full_device_fails_whole(tmp_path: Path) -> None:
    """Where a write takes half a batch and the device is full, the half is taken back."""
    import resource

    program = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom guardtok.gateway.log_file import LogFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "file = LogFile(Path(sys.argv[1]), 10**6, 1)\nfile.write(b'x' * 899 + b'\\n')\n"
        "try: file.write(b'y' * 300 + b'\\n')\nexcept OSError: pass\nelse: raise SystemExit('written')\n"
        "file.write(b'z' * 50 + b'\\n')\n"
    )
    assert resource.RLIMIT_FSIZE >= 0
    subprocess.run([sys.executable, "-c", program, tmp_path / "log"], check=True)
    assert (tmp_path / "log").read_bytes() == b"x" * 899 + b"\n" + b"z" * 50 + b"\n"


def test_an_unwritable_path_stops_nobody(tmp_path: Path) -> None:
    """A log in a folder that does not exist fails when it is written, never in a request."""
    failed: list[str] = []
    log = DecisionLog(tmp_path / "absent" / "log", delay=0.001, failed=failed.append)
    log(CLEAN)
    until(lambda: "decision_log_write" in failed)
    (tmp_path / "absent").mkdir()
    log.close()
    assert len(lines(tmp_path / "absent" / "log")) == 1


# The process tells on its output what it has decided, after the log took it, and is killed meanwhile.
LOADED = """
import os, signal, sys, time
from dataclasses import replace
sys.path.insert(0, sys.argv[2])
from test_decision_log import CLEAN, DecisionLog
log = DecisionLog(sys.argv[1])
if len(sys.argv) > 3:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
number = 0
while True:
    log(replace(CLEAN, id=str(number)))
    os.write(1, b"%d %f\\n" % (number, time.time()))
    number += 1
    if number % 50 == 0:
        time.sleep(0.001)
"""


def load_and_kill(file: Path, how: signal.Signals, *more: str) -> tuple[list[tuple[int, float]], float]:
    """Run a process that decides and decides, and end it. Return what it had decided and when, and when it ended."""
    here = os.path.dirname(__file__)  # noqa: PTH120 - an argument
    process = subprocess.Popen([sys.executable, "-c", LOADED, file, here, *more], stdout=subprocess.PIPE)
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(20_000)]
    process.send_signal(how)
    ended = time.time()
    told += process.stdout.read().splitlines()
    process.stdout.close()
    process.wait(30)
    pairs = [line.split() for line in told if line.count(b" ") == 1]
    return [(int(number), float(when)) for number, when in pairs], ended


def test_kill_minus_nine_loses_only_what_is_within_the_bound(tmp_path: Path) -> None:
    """Killed under load, a process leaves on record every decision that is older than the stated bound."""
    decided, ended = load_and_kill(tmp_path / "log", signal.SIGKILL)
    text = (tmp_path / "log").read_text(encoding="ascii")
    whole = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    logged = [int(line["decision_id"]) for line in whole]
    assert logged == list(range(len(logged)))
    # A tenth of a second of collecting, and the rest for a machine that is busy.
    missing = [when for number, when in decided if number >= len(logged) and when < ended - 0.5]
    assert missing == []
    assert len(logged) > 100


def test_an_orderly_end_loses_nothing(tmp_path: Path) -> None:
    """A SIGTERM that ends the interpreter writes every decision that was taken, without a call of `close`."""
    decided, _ = load_and_kill(tmp_path / "log", signal.SIGTERM, "orderly")
    logged = [int(line["decision_id"]) for line in lines(tmp_path / "log")]
    assert logged == list(range(len(logged)))
    assert len(logged) >= len(decided)


def test_a_fork_writes_its_own(tmp_path: Path) -> None:
    """A child has its own thread, writes nothing that waits in its parent, and loses nothing of its own."""
    program = (
        "import os, sys\nfrom dataclasses import replace\nsys.path.insert(0, sys.argv[2])\n"
        "from test_decision_log import CLEAN, DecisionLog\n"
        "log = DecisionLog(sys.argv[1], delay=0.5)\nlog(replace(CLEAN, id='parent'))\nchild = os.fork()\n"
        "if not child:\n    log(replace(CLEAN, id='child'))\n    log.close()\n    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
    )
    here = os.path.dirname(__file__)  # noqa: PTH120 - an argument
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, tmp_path / "log", here], check=True)
    assert sorted(line["decision_id"] for line in lines(tmp_path / "log")) == ["child", "parent"]


def test_what_comes_after_the_close_is_written_at_the_end_too(tmp_path: Path) -> None:
    """Requests that end after a server has closed its log: the interpreter's end comes within the delay."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from test_decision_log import CLEAN, DecisionLog\n"
        "log = DecisionLog(sys.argv[1], delay=5)\n"
        "log(CLEAN); log.close(); log(CLEAN)\n"
    )
    here = os.path.dirname(__file__)  # noqa: PTH120 - an argument
    subprocess.run([sys.executable, "-c", program, tmp_path / "log", here], check=True)
    assert len(lines(tmp_path / "log")) == 2


def test_a_fork_opens_its_own_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that was open when the process forked is one lock for both, which keeps neither out."""
    closed: list[int] = []
    target = Stubborn(broken=False)
    monkeypatch.setattr(target, "close", lambda: closed.append(os.getpid()))
    writer = LogWriter(target, lambda _: b"", 0.001, 1_000, lambda _: None)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    writer.put(b"1\n")
    assert closed == [-1]
    writer.close()
    assert target.data == b"1\n"


def test_no_caller_can_fill_the_log() -> None:
    """Of what can be as long as a body, a path of keys, an id, a URL, only the beginning is written."""
    long = "k" * 1_000_000
    found = replace(decide("<|im_end|>").violations[0], path=f"$.{long}")
    refusal = Refusal(Blame.SHAPE, "request.shape", f"$.{long}", f"$.{long}: wrong.")
    call = Call(f"/{long}", long, long)
    line = written(replace(CLEAN, call=call, violations=(found,), count=1, refusal=refusal, protocol=long))
    assert len(json.dumps(line)) < 5_000


def test_standard_output_can_be_the_log() -> None:
    """`-` writes lines to standard output, for containers."""
    program = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nfrom test_decision_log import CLEAN, DecisionLog\n"
        "DecisionLog('-')(CLEAN)\n"
    )
    here = os.path.dirname(__file__)  # noqa: PTH120 - an argument
    done = subprocess.run([sys.executable, "-c", program, here], check=True, capture_output=True)
    assert json.loads(done.stdout)["result"]["allowed"] is True
