"""Several processes of `guardtok serve`: they share a socket, are replaced when they die, and end together."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from guardtok.errors import SettingsError
from guardtok.gateway.proxy.process import Processes, ServeError, bind, run
from tests.serving import serving, until
from tests.upstream import StandIn, served

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAT = "/v1/chat/completions"


def say(text: str) -> list[dict[str, str]]:
    """Return a conversation of one message."""
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def behind() -> Iterator[tuple[StandIn, str]]:
    """A stand-in, and its URL."""
    stand_in = StandIn()
    with served(stand_in) as url:
        yield stand_in, url


def children_of(pid: int) -> list[int]:
    """Return the processes that a process started to serve."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in found if b"resource_tracker" not in Path(f"/proc/{each}/cmdline").read_bytes()]


def test_workers_share_the_load_the_numbers_and_the_end(behind: tuple[StandIn, str], tmp_path: Path) -> None:
    """One that is killed is replaced, a scrape shows the sums, and SIGTERM ends them all."""
    log = tmp_path / "decisions.jsonl"
    with serving("--upstream", behind[1], "--workers", "2", "--decision-log", log) as running:
        until(lambda: len(children_of(running.process.pid)) == 2)
        count = 0

        def ask() -> bool:
            nonlocal count
            with contextlib.suppress(httpx.TransportError):
                httpx.post(running.url + CHAT, json={"model": "m", "messages": say("hi")}).raise_for_status()
                count += 1
            return count > 5

        until(ask)

        def total() -> float:
            lines = httpx.get(f"{running.url}/metrics").text.splitlines()
            asked = [line for line in lines if line.startswith("guardtok_decisions_total{") and "request" in line]
            return sum(float(line.split()[-1]) for line in asked)

        assert [total() for _ in range(4)] == [count] * 4
        first = children_of(running.process.pid)
        os.kill(first[0], signal.SIGKILL)
        until(lambda: len(set(children_of(running.process.pid)) - set(first)) == 1)
        until(ask)
        assert running.end() == 0
    assert len(log.read_text().splitlines()) >= count


def test_workers_end_with_their_parent(behind: tuple[StandIn, str]) -> None:
    """Nobody serves on by an old policy after the service was killed."""
    with serving("--upstream", behind[1], "--workers", "2") as running:
        members = children_of(running.process.pid)
        running.process.kill()
        until(lambda: not any(Path(f"/proc/{each}").exists() for each in members), 20)


def fail_to_start() -> None:
    """Stand in for a service whose policy has gone bad since the start."""
    raise SettingsError("the policy is gone")


def crash_at_the_start() -> None:
    """Stand in for a service with a bug."""
    raise RuntimeError("a bug")


def test_workers_that_crash_at_the_start_are_not_started_again_and_again() -> None:
    """A machine that starts processes without end has no time left for what else runs on it."""
    with bind("127.0.0.1", 0) as listener, pytest.raises(ServeError, match="No worker can start"):
        run(crash_at_the_start, listener, Processes(workers=2, grace=1))


def test_a_worker_that_is_starting_outlives_sighup(behind: tuple[StandIn, str]) -> None:
    """Until it can read the policy again it has nothing to read again."""
    with serving("--upstream", behind[1], "--workers", "2") as running:
        pid = running.process.pid
        seen: set[int] = set()

        def is_full() -> bool:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                seen.update(children_of(pid))
                if len(seen) > 2:
                    running.process.send_signal(signal.SIGHUP)
                # One that serves has a thread that waits for its parent's end.
                return len(seen) > 2 and all(
                    len(list(Path(f"/proc/{each}/task").iterdir())) > 1 for each in seen - {first}
                )
            return False

        until(lambda: len(children_of(pid)) == 2)
        seen.update(children_of(pid))
        first = min(seen)
        os.kill(first, signal.SIGKILL)
        until(is_full)
        assert len(seen) == 3


def test_workers_that_cannot_start_end_the_service(capfd: pytest.CaptureFixture[str]) -> None:
    """They are not started again and again where none serves, and say why in one line each."""
    with bind("127.0.0.1", 0) as listener, pytest.raises(ServeError, match="No worker can start"):
        run(fail_to_start, listener, Processes(workers=2, grace=1))
    told = capfd.readouterr().err
    assert "the policy is gone" in told
    assert "Traceback" not in told
