"""Pieces of work done on this machine, by processes that each have a guard of their own.

They are started with nothing of the program that starts them but its search path: not its `__main__`, which may be a
script that scans as it is imported, and not its threads, which a fork would freeze. A process that dies (out of memory,
killed) takes nothing with it: its piece is done again by another.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING

from guardtok.corpus.finding import Problem
from guardtok.corpus.result import FileResult
from guardtok.corpus.work import do_piece

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from guardtok.corpus.work import Piece, Work

_TRIES = 3
"""So often is a piece given to a process, if they die."""

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from guardtok.corpus.local import serve; serve()"


def run_here(job: Work, pieces: Sequence[Piece], processes: int) -> Iterator[tuple[Piece, FileResult]]:
    """Do pieces of work, and yield each with its result as it is done.

    Args:
        job: What is to be done.
        pieces: With what.
        processes: How many at once; with one, in this process.
    """
    number = min(processes, len(pieces))
    if number <= 1:
        for piece in pieces:
            yield piece, do_piece(job, piece)
        return
    idle: SimpleQueue[_Worker] = SimpleQueue()
    workers = [_Worker(job) for _ in range(number)]
    for worker in workers:
        idle.put(worker)

    def work(piece: Piece) -> FileResult:
        worker = idle.get()
        try:
            return worker.do(piece)
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(number) as pool:
        try:
            todo = list(reversed(pieces))
            waiting = {pool.submit(work, piece): piece for piece in (todo.pop() for _ in range(number))}
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    piece = waiting.pop(future)
                    if todo:
                        following = todo.pop()
                        waiting[pool.submit(work, following)] = following
                    yield piece, future.result()
        finally:
            for worker in workers:
                worker.stop()


class _Worker:
    """A process that does pieces, and is started again when it dies."""

    def __init__(self, job: Work) -> None:
        self._job = pickle.dumps(job)
        self._stopped = False
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _PROGRAM, *map(os.path.abspath, filter(None, sys.path))]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - this Python
        if process.stdin is not None:
            with suppress(BrokenPipeError):  # It is dead already; who asks it something learns that.
                process.stdin.write(self._job)
                process.stdin.flush()
        return process

    def do(self, piece: Piece) -> FileResult:
        """Have a piece done."""
        for _ in range(_TRIES):
            result = self._ask(piece)
            if result is not None:
                return result
            self._end()
            if self._stopped:
                break
            self._process = self._start()
        result = FileResult(piece.file.path, part=piece.part)
        result.trouble(Problem(f"The process that read it died {_TRIES} times: out of memory, or killed."))
        return result

    def _ask(self, piece: Piece) -> FileResult | None:
        """Return the result, or None where the process died."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            return None
        try:
            pickle.dump(piece, stdin)
            stdin.flush()
            answer = pickle.load(stdout)  # noqa: S301 - made by `serve`
        except (OSError, EOFError, pickle.UnpicklingError):
            return None
        return answer if isinstance(answer, FileResult) else None

    def stop(self) -> None:
        """End the process, whatever it does: what it writes appears whole or not at all."""
        self._stopped = True
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # What was still to be sent has nobody to read it.
                    pipe.close()


def serve() -> None:
    """Do what comes on standard input, a job and then pieces, and answer on standard output, until it is closed."""
    import pyarrow as pa

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process.
    pa.set_cpu_count(1)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What anybody prints must not be taken for an answer.
    job: Work = pickle.load(sys.stdin.buffer)  # noqa: S301 - the parent's
    while True:
        try:
            piece: Piece = pickle.load(sys.stdin.buffer)  # noqa: S301 - as above
        except EOFError:
            return
        try:
            pickle.dump(do_piece(job, piece), answers)
            answers.flush()
        except BrokenPipeError:
            os._exit(1)  # Nobody waits for it: the parent was killed.
