"""The other end of `guardtok.fuzz.child`: asks it, waits, and starts it again when it dies or hangs."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from guardtok.errors import TokenizerError
from guardtok.fuzz.attacks import Oracle
from guardtok.fuzz.case import Outcome
from guardtok.fuzz.profile import Profile

if TYPE_CHECKING:
    from guardtok.fuzz.case import Case

OPENING_SECONDS = 180.0
"""So long the target may take to be imported and read."""

ENDED = "the tokenizer ends its process or hangs"
"""How the cause of a finding begins that took the child with it."""

HANG_SECONDS = 20.0
"""So long one case may take."""

GRACE_SECONDS = 10.0
"""So much later a child ends itself that nobody has ended."""

_LOOK_SECONDS = 0.25
"""So often it is looked whether the child is still there."""

_MAIN = "import sys; sys.path[:] = sys.argv[1:]; from guardtok.fuzz.child import main; main()"


class Worker:
    """A child process with a target in it.

    Args:
        request: What `guardtok.fuzz.targets.open_target` takes, as JSON values.
        hang_seconds: So long one case may take before the child is ended.
    """

    def __init__(self, request: dict[str, Any], hang_seconds: float = HANG_SECONDS) -> None:
        # The child ends by itself where this process is killed; else this process notices first.
        patience = {"patience": hang_seconds + GRACE_SECONDS, "opening": OPENING_SECONDS + GRACE_SECONDS}
        self._request = {**request, "folder": str(Path.cwd()), **patience}
        self._hang_seconds = hang_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.restarts = -1

    def open(self) -> tuple[Profile, list[tuple[str, list[str], list[Outcome]]]]:
        """Start the child, and return what it says of the target and of its vocabulary.

        Raises:
            TokenizerError: There is no such target, or it ends or hangs the process while it is read.
        """
        reply = self._start()
        surveyed = [(form, *_read(each)) for form, each in reply["survey"]]
        return Profile.from_dict(reply["profile"]), surveyed

    def ask(self, case: Case) -> tuple[list[str], list[Outcome]]:
        """Return which oracles judged a case, and what they found; the end of the child is a finding too."""
        if self._process is None:
            self._start()
        self._write(case.to_dict())
        reply = self._wait(self._hang_seconds)
        if reply:
            return _read(json.loads(reply))
        if reply is None:
            fact, got = f"{ENDED} (hangs)", f"nothing within {self._hang_seconds:g} s"
        else:
            fact, got = f"{ENDED} ({self._ending()})", "the end of the process"
        self.close()
        return [Oracle.CRASH.value], [Outcome(Oracle.CRASH, fact, "ids or an error", got)]

    def wake(self) -> None:
        """Let whoever waits for a reply, or who next does, get a KeyboardInterrupt. A signal handler may call this."""
        self._replies.put(None)

    def close(self) -> None:
        """End the child."""
        if self._process is None:
            return
        _end(self._process)
        if self._process.stdin is not None:
            with suppress(OSError):  # What was still to be written has no reader any more.
                self._process.stdin.close()
        self._process = None

    def _start(self) -> dict[str, Any]:
        self.restarts += 1
        self._replies = queue.SimpleQueue()
        # It imports from where this process does: what lies in the current folder shadows nothing.
        command = [sys.executable, "-c", _MAIN, *sys.path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)  # noqa: S603 - ours
        if self._process.stdout is None:
            raise TokenizerError("The child process has no output.")
        threading.Thread(target=_read_lines, args=(self._process.stdout, self._replies), daemon=True).start()
        self._write(self._request)
        reply = self._wait(OPENING_SECONDS)
        if not reply:
            ending = "hangs" if reply is None else f"ends its process ({self._ending()})"
            self.close()
            raise TokenizerError(f"The target {ending} while it is read.")
        opened: dict[str, Any] = json.loads(reply)
        if "mistake" in opened:
            self.close()
            raise TokenizerError(opened["mistake"])
        return opened

    def _write(self, request: dict[str, Any]) -> None:
        if self._process is None or self._process.stdin is None:
            raise TokenizerError("The child process was not started.")
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return  # It is dead, which the next read says.

    def _wait(self, seconds: float) -> bytes | None:
        """Return the next line, nothing at the end of the process, None where it takes too long."""
        until = time.monotonic() + seconds
        ended = False
        while True:
            try:
                reply = self._replies.get(timeout=max(0.0, min(_LOOK_SECONDS, until - time.monotonic())))
            except queue.Empty:
                # What a child has started may hold its pipe open, so its end is not always the end of the stream.
                if ended:
                    return b""
                ended = self._process is not None and self._process.poll() is not None
                if not ended and time.monotonic() >= until:
                    return None
                continue
            if reply is None:
                raise KeyboardInterrupt
            return reply

    def _ending(self) -> str:
        status = None if self._process is None else self._process.wait()
        if status is not None and status < 0:
            try:
                return signal.Signals(-status).name
            except ValueError:
                return f"signal {-status}"
        return f"exit status {status}"


def _read_lines(stream: BinaryIO, into: queue.SimpleQueue[bytes | None]) -> None:
    """Put each line into a queue, and an empty one at the end.

    It closes the stream too: who closed it from outside would wait for whatever process has inherited its other end.
    """
    with stream:
        for line in stream:
            into.put(line)
    into.put(b"")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a child, and what it has started and left behind in its group."""
    if hasattr(os, "killpg"):
        with suppress(OSError):  # Nobody is left in it.
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _read(reply: dict[str, Any]) -> tuple[list[str], list[Outcome]]:
    return reply["ran"], [Outcome.from_dict(each) for each in reply["outcomes"]]
