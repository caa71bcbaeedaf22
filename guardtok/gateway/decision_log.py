"""Every decision as a line of JSON, with the names that OPA's decision logs have, written off the request's path.

A log of decisions is evidence, and it is read by others than those who may read prompts. So nothing is lost without a
line that says how much, and nothing of a text is in it: no input, no control token that is not broken, no escape that
a terminal obeys.

What a `kill -9` can lose: the decisions of the last `delay` seconds (0.1) and of the write that was under way, and
those that wait because the disk takes none. What was written survives the process; it is not forced to the disk, so a
power failure can lose more. A kill within a write can leave half a line: the next writer ends it, so that no other line
suffers.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
import uuid
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from guardtok.errors import is_failure
from guardtok.gateway.log_file import LogFile, LogStream
from guardtok.gateway.log_writer import LogWriter
from guardtok.gateway.masked_input import mask
from guardtok.records import defuse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from guardtok.gateway.decision import Decision
    from guardtok.gateway.log_writer import Target
    from guardtok.violation import Violation

MAX_FINDINGS = 32
"""Findings of one decision that are listed, each with how often it is among the violations; `count` has them all."""

MAX_CHARS = 256
"""Characters of a path, an id or another text that a caller can make as long as a body; the rest is cut off."""

_ELSEWHERE = ("version", "policy", "policy_digest", "tokenizer", "request_id")
"""Fields of a violation that stand once in the line."""

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class DecisionLog:
    """An observer that writes each decision as one line. Calls return at once; one thread writes, in their order.

    Where the disk takes nothing, requests go on: decisions wait, up to `buffer` bytes of them, and are tried again each
    second. What comes beyond that is dropped, counted, and told of by a line `{"lost": N, …}` in its place.

    Args:
        target: A path, `-` for standard output, or a binary stream. Several processes may name one path.
        masked_input: Whether the shape of the body is written, strings as lengths and keyed digests. By default nothing
            of it is.
        labels: What every line is labelled with, besides the process's id and guardtok's version.
        max_bytes: Size from which on the file is moved to `PATH.1`.
        keep: Old files that are kept.
        delay: Seconds within which a decision is written.
        buffer: Bytes of decisions that may wait.
        digest_key: Key of the digests, 1 to 64 bytes; by default a random one.
        failed: Told `decision_log_write`, `decision_log_lost` or `decision_log_mask` for each that happens, as
            `Metrics.failed` is.
    """

    __slots__ = ("_failed", "_key", "_labels", "_masked", "_writer")

    def __init__(  # noqa: PLR0913 - each is one fact of how a log is kept
        self,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        masked_input: bool = False,
        labels: Mapping[str, str] | None = None,
        max_bytes: int = 100_000_000,
        keep: int = 5,
        delay: float = 0.1,
        buffer: int = 16_000_000,
        digest_key: bytes | None = None,
        failed: Callable[[str], object] | None = None,
    ) -> None:
        self._masked = masked_input
        self._labels = {"id": str(uuid.uuid4()), "version": _version(), **(labels or {})}
        self._key = secrets.token_bytes(32) if digest_key is None else digest_key
        self._failed = failed or _ignore
        self._writer = LogWriter(_open(target, max_bytes, keep), self._lost, delay, buffer, self._failed)

    def __call__(self, decision: Decision) -> None:
        """Take a decision; its `input` is neither kept nor changed."""
        self._writer.put(self._line(decision))

    def close(self) -> None:
        """Write what waits. Called at the interpreter's end too; a server calls it when it shuts down."""
        self._writer.close()

    def _line(self, decision: Decision) -> bytes:
        snapshot, call, refusal = decision.snapshot, decision.call, decision.refusal
        policy, tokenizer = snapshot.guard.policy, snapshot.guard.tokenizer
        bundle: dict[str, Any] = {"digest": policy.digest}
        if snapshot.revision is not None:
            bundle["revision"] = str(snapshot.revision)

        # Who asks chooses these, and some are part of a URL.
        def safe(text: str | None) -> str | None:
            return None if text is None else defuse(text[:MAX_CHARS], snapshot.guard.ruleset)

        record: dict[str, Any] = {
            "decision_id": decision.id,
            "timestamp": _timestamp(decision.started),
            "labels": self._labels,
            "bundles": {policy.name: bundle},
            "path": safe(f"{decision.stage.value}/{decision.protocol}"),
            "route": safe(call.route),
            "request_id": safe(call.request_id),
            "requested_by": safe(call.requested_by),
            "tokenizer": tokenizer and tokenizer.name,
            "result": {
                "allowed": refusal is None,
                "action": decision.action.value,
                "mode": policy.mode.value,
                "changed": decision.changed,
                "count": decision.count,
                "findings": _findings(decision.violations),
                "refusal": refusal
                and {
                    "blame": refusal.blame.value,
                    "rule": safe(refusal.rule),
                    "path": safe(refusal.path),
                    "message": defuse(refusal.message[: 4 * MAX_CHARS], snapshot.guard.ruleset),
                },
            },
            "metrics": {"timer_guard_ns": int(decision.seconds * 1e9)},
        }
        if self._masked:
            self._show_input(record, decision)
        else:
            record["erased"] = ["/input"]
        return _encode(record).encode("ascii") + b"\n"

    def _show_input(self, record: dict[str, Any], decision: Decision) -> None:
        try:
            record["input"] = mask(decision.input, self._key)
            record["masked"] = ["/input"]
        except BaseException as error:
            if not is_failure(error):
                raise
            # The event stays whatever its input is.
            record["erased"] = ["/input"]
            self._failed("decision_log_mask")

    def _lost(self, count: int) -> bytes:
        record = {"timestamp": _timestamp(time.time()), "labels": self._labels, "path": "log/lost", "lost": count}
        return _encode(record).encode("ascii") + b"\n"


def _findings(violations: tuple[Violation, ...]) -> list[dict[str, Any]]:
    """Return what was found, the same in one place once with a count: a flood of forms is no flood of logs."""
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for each in violations:
        key = each.rule, each.token, each.source, each.path, each.form, each.action, each.mode
        known = found.get(key)
        if known is not None:
            known["count"] += each.count
        elif len(found) < MAX_FINDINGS:
            record = each.to_dict()
            for name in _ELSEWHERE:
                del record[name]
            record["path"] = each.path[:MAX_CHARS]
            found[key] = record
    return list(found.values())


def _timestamp(seconds: float) -> str:
    """Return a time as RFC 3339 has it, in UTC, to the nanosecond."""
    whole, nanos = divmod(int(seconds * 1e9), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{nanos:09d}Z"


def _open(target: str | os.PathLike[str] | BinaryIO, max_bytes: int, keep: int) -> Target:
    if not isinstance(target, (str, os.PathLike)):
        return LogStream(target)
    if os.fspath(target) == "-":
        return LogStream(sys.stdout.buffer)
    return LogFile(Path(target).absolute(), max_bytes, keep)


def _version() -> str:
    try:
        return metadata.version("guardtok")
    except metadata.PackageNotFoundError:
        return "unknown"


def _ignore(_: str) -> None:
    pass
