"""Where violations go, and that nothing there can change a decision."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import structlog

from guardtok import Guard, Policy, RefusedError, Violation
from guardtok.encodings import load_tokenizer
from guardtok.sinks import to_json_lines, to_structlog

if TYPE_CHECKING:
    from collections.abc import Iterable

    from guardtok.sinks import Sink

POLICY = Policy.parse(
    'guardtok: 1\nname: sinks\nsources:\n  user: {default: escape, block: ["<|endoftext|>"]}\n'
    '  tool_result: {default: block, mode: monitor}\n  "*": {default: escape}\n'
)


def build(sinks: Iterable[Sink]) -> Guard:
    """Return a guard with sinks."""
    return Guard(POLICY, load_tokenizer("guardtok"), sinks=sinks)


def test_structlog_gets_one_event_per_group() -> None:
    """The same form again is a count, not another record."""
    with structlog.testing.capture_logs() as logs:
        build([to_structlog]).encode("<|im_end|> <|im_end|> <|im_start|> [INST]", source="user")
    assert [(log["event"], log["log_level"], log["token"], log["count"]) for log in logs] == [
        ("guardtok.violation", "warning", "<_|im_end|>", 2),
        ("guardtok.violation", "warning", "<_|im_start|>", 1),
        ("guardtok.violation", "info", "[_INST]", 1),
    ]


def test_clean_text_logs_nothing() -> None:
    """Silence is the normal case."""
    with structlog.testing.capture_logs() as logs:
        build([to_structlog]).encode("hello", source="user")
    assert logs == []


def test_default_sink_is_structlog() -> None:
    """A guard that is told nothing logs."""
    with structlog.testing.capture_logs() as logs:
        Guard(POLICY).check("<|im_end|>", source="user")
    assert len(logs) == 1


def test_guardtok_configures_no_logging() -> None:
    """Neither structlog nor the standard library's root logger is touched, not even by a violation."""
    program = (
        "import logging, structlog; from guardtok import Guard; g = Guard.load('chatml', 'guardtok'); "
        "g.encode('<|im_end|>', source='user'); "
        "raise SystemExit(structlog.is_configured() or bool(logging.getLogger().handlers))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == 0


def test_json_lines_are_one_object_a_line() -> None:
    """Each line parses alone and is plain ASCII."""
    stream = io.StringIO()
    build([to_json_lines(stream)]).encode("<|im_end|> <\uff5cUser\uff5c>", source="user")
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [record["event"] for record in records] == ["guardtok.violation"] * 2
    assert stream.getvalue().isascii()


def test_a_refusal_is_logged_before_it_is_raised() -> None:
    """What was refused is on record."""
    seen: list[Violation] = []
    with pytest.raises(RefusedError) as caught:
        build([seen.append]).encode("<|endoftext|>", source="user")
    assert [violation.action for violation in seen] == ["block"]
    assert caught.value.violations[0].token == seen[0].token


def fail(violation: Violation) -> None:
    """Fail, and quote the record in doing so."""
    raise RuntimeError(f"secret {violation}")


def test_failing_sink_admits_nothing_and_starves_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """The decision stands, the other sinks get their records, and the failure is reported without its text."""
    seen: list[Violation] = []
    guard = build([fail, seen.append])
    with caplog.at_level(logging.ERROR, logger="guardtok"):
        out = guard.encode("<|im_end|> <|im_start|>", source="user")
        with pytest.raises(RefusedError):
            guard.encode("<|endoftext|>", source="user")
    assert guard.tokenizer is not None
    assert guard.tokenizer.reserved_ids.isdisjoint(out.ids)
    assert len(seen) == 3
    reported = [record.getMessage() for record in caplog.records]
    assert reported == ["guardtok.sink_failed sink=fail error=RuntimeError"] * 2


class PanicException(BaseException):
    """What a panic in a sink written in Rust looks like."""


def test_panic_in_a_sink_is_a_failed_sink() -> None:
    """A `BaseException` that is no interrupt changes no decision either."""

    def panic(_: Violation) -> None:
        raise PanicException

    seen: list[Violation] = []
    assert build([panic, seen.append]).encode("<|im_end|>", source="user").ids
    assert len(seen) == 1


def test_interrupt_in_a_sink_is_not_swallowed() -> None:
    """Ctrl-C while a sink writes is the user's, not a failed sink."""

    def interrupt(_: Violation) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build([interrupt]).encode("<|im_end|>", source="user")


def test_monitor_logs_and_goes_on() -> None:
    """A monitored block is on record as a block that was not enforced; the token is still not parsed."""
    seen: list[Violation] = []
    guard = build([seen.append])
    out = guard.encode("<|im_end|>", source="tool_result")
    assert [(violation.action, violation.mode) for violation in seen] == [("block", "monitor")]
    assert guard.tokenizer is not None
    assert guard.tokenizer.reserved_ids.isdisjoint(out.ids)
