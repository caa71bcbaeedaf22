"""Runs `guardtok serve` as its users do: as a process, in front of an upstream."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 60.0


@dataclass
class Served:
    """A running `guardtok serve`."""

    process: subprocess.Popen[str]
    announced: dict[str, Any]
    lines: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it listens."""
        return str(self.announced["url"])

    def end(self, signal_: int = signal.SIGTERM, patience: float = PATIENCE) -> int:
        """Tell it to end; return its exit status."""
        self.process.send_signal(signal_)
        return self.process.wait(patience)

    def wait_for(self, event: str) -> dict[str, Any]:
        """Return the first line of its log that holds a word."""
        found: list[str] = []
        until(lambda: found.extend(line for line in self.lines if event in line) or bool(found))
        made: dict[str, Any] = json.loads(found[0])
        return made


def until(fact: Any, patience: float = PATIENCE) -> None:  # noqa: ANN401 - any callable
    """Wait until something holds."""
    deadline = time.monotonic() + patience
    while not fact():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@contextlib.contextmanager
def serving(
    *arguments: str | Path, policy: str | Path = "strict", environ: dict[str, str] | None = None
) -> Iterator[Served]:
    """Run `guardtok serve` on a free port until the block ends; it is ready when the block begins."""
    command = [sys.executable, "-m", "guardtok", "serve", "--port", "0", "--policy", policy, *arguments]
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, env=os.environ | (environ or {})
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    try:
        served = Served(process, json.loads(first))
    except ValueError:
        process.kill()
        raise AssertionError(first + process.stderr.read()) from None
    stderr = process.stderr
    reader = threading.Thread(target=lambda: served.lines.extend(iter(stderr.readline, "")), daemon=True)
    reader.start()

    def is_ready() -> bool:
        assert process.poll() is None, served.lines
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{served.url}/readyz").status_code == 200
        return False

    try:
        until(is_ready)
        yield served
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        stderr.close()
