"""The process that a tokenizer lives in: it answers, line by line of JSON, what the oracles say of cases.

Whatever the tokenizer prints goes to a file of its own and is a finding; the protocol has channels that it cannot
find by their usual numbers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from typing import TYPE_CHECKING, Any, BinaryIO

from guardtok.errors import GuardtokError
from guardtok.fuzz.bench import Bench
from guardtok.fuzz.case import Case
from guardtok.fuzz.findings import shown
from guardtok.fuzz.targets import open_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from guardtok.fuzz.judge import Judgement


MAX_TAKEN = 1_000_000
"""Bytes of what is printed that are looked at."""

MAX_PRINTED = 2**30
"""Bytes of the largest file that the process may write: what it prints while it judges one case is one."""


class Capture:
    """A file that takes what is printed, and knows whether it has grown."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process

    def redirect(self) -> None:
        """Send standard output and standard error here, those of C and Rust too, and give standard input nothing."""
        os.dup2(self._file.fileno(), 1)
        os.dup2(self._file.fileno(), 2)
        with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - a device
            os.dup2(nothing.fileno(), 0)

    def take(self) -> bytes:
        """Return what came since this was last asked."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        descriptor = self._file.fileno()
        size = os.fstat(descriptor).st_size
        if not size:
            return b""
        os.lseek(descriptor, 0, os.SEEK_SET)
        taken = os.read(descriptor, MAX_TAKEN)
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return taken


def serve(requests: Iterable[bytes], answer: Callable[[dict[str, Any]], None], capture: Capture) -> None:
    """Open the target of the first request and judge those that follow."""
    bench: Bench | None = None
    owner, patience = os.getpid(), 0.0
    for line in requests:
        request = json.loads(line)
        if bench is None:
            patience = request.pop("patience")
            _expire(request.pop("opening"))
            bench = _open(request, answer)
            if bench is None:
                return
            capture.take()  # Libraries greet when they are loaded.
            _expire(0)
            continue
        _expire(patience)
        case = Case.from_dict(request)
        made = bench.judge(case)
        if os.getpid() != owner:
            os._exit(0)  # A copy that the tokenizer has left behind: one answers.
        if printed := capture.take():
            bench.judge_printed(printed, made)
        answer(_reply(made))
        _expire(0)


def _expire(seconds: float) -> None:
    """End this process after so many seconds, also where it hangs and the process that started it is gone; 0: never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit() -> None:
    """Bound what the tokenizer may print and, where the system can, the memory that it may ask for."""
    if sys.platform == "win32":
        return
    import resource

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for kind, most in ((resource.RLIMIT_FSIZE, MAX_PRINTED), (resource.RLIMIT_DATA, memory // 2)):
        hard = resource.getrlimit(kind)[1]
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(kind, (most, hard))


def _open(request: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> Bench | None:
    try:
        bench = Bench(open_target(**request))
        profile = bench.profile().to_dict()
        surveyed = [[form, _reply(made)] for form, made in bench.survey()]
    except GuardtokError as error:
        answer({"mistake": str(error)})
        return None
    except Exception as error:  # noqa: BLE001 - the target's own code, which may raise anything
        answer({"mistake": f"The target cannot be read ({shown(type(error).__name__)}: {shown(str(error))})."})
        return None
    answer({"profile": profile, "survey": surveyed})
    return bench


def _reply(made: Judgement) -> dict[str, Any]:
    return {
        "ran": sorted(oracle.value for oracle in made.ran),
        "outcomes": [outcome.to_dict() for outcome in made.outcomes],
    }


def main() -> None:
    """Talk to the process that started this one, over what were standard input and output."""
    # Ctrl-C goes to all that a terminal runs; when this process ends is the other's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = os.fdopen(os.dup(0), "rb")
    replies: BinaryIO = os.fdopen(os.dup(1), "wb")
    _limit()
    capture = Capture()
    capture.redirect()

    def answer(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()

    serve(requests, answer, capture)
