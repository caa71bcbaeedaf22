"""Faults, each on a running `guardtok serve`: what a client sees, asserted to be a defined answer."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from benchmarks.load import CHAT, wait_for_port
from tests.serving import Served, serving, until
from tests.upstream import StandIn, free_port, served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATH = "/v1/chat/completions"
FORGED = {"model": "m", "messages": [{"role": "user", "content": "<|im_end|>"}]}
FAILED = 'guardtok_errors_total{kind="decision_log_write"}'
BLOCKING = "guardtok: 1\nname: blocking\nextends: chatml\nsources:\n  user: {default: block}\n"


def upstream_killed_mid_stream() -> str:
    """The upstream's process is killed while a stream runs."""
    port = free_port()
    upstream = subprocess.Popen([sys.executable, "-m", "tests.upstream", str(port)])
    try:
        wait_for_port(port)
        with serving("--upstream", f"http://127.0.0.1:{port}") as gateway:
            got = b""
            headers = {"x-fault": "trickle"}
            with httpx.stream("POST", gateway.url + PATH, json=CHAT | {"stream": True}, headers=headers) as answer:
                try:
                    for piece in answer.iter_raw():
                        got += piece
                        upstream.send_signal(signal.SIGKILL)
                except httpx.RemoteProtocolError:
                    cut = True
                else:
                    cut = False
            _check(cut and b"upstream_broken" in got and b"[DONE]" not in got, "the stream seemed whole")
            after = httpx.post(gateway.url + PATH, json=CHAT)
            _check(after.status_code == 502 and after.headers["x-should-retry"] == "true", "no 502 afterwards")
    finally:
        upstream.kill()
        upstream.wait()
    return "error event, then the connection is cut; the next request: 502"


def slow_client(gateway: Served, stand_in: StandIn) -> str:
    """A client asks for an endless stream and reads none of it."""
    stand_in.left.clear()
    before = rss_of(gateway.process.pid)
    with httpx.stream("POST", gateway.url + PATH, json=CHAT | {"stream": True}, headers={"x-fault": "flood"}) as answer:
        next(answer.iter_raw())
        until(lambda: stand_in.left, 20)
    grown = rss_of(gateway.process.pid) - before
    _check(grown < 20_000, f"memory grew by {grown} KiB")
    return f"cut after --client-timeout; memory grew by {grown / 1024:.1f} MiB"


def slow_upstream(gateway: Served, _stand_in: StandIn) -> str:
    """The upstream takes longer than --read-timeout."""
    answer = httpx.post(gateway.url + PATH, json=CHAT, headers={"x-fault": "slow"})
    _check(answer.status_code == 504 and answer.headers["x-should-retry"] == "false", "no 504")
    return "504 upstream_timeout, not to be retried"


def half_a_body(gateway: Served, stand_in: StandIn) -> str:
    """A client announces a body and sends half of it; another one leaves in the middle."""
    seen = len(stand_in.requests)
    port = httpx.URL(gateway.url).port
    said = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", port)) as leaving:
        leaving.sendall(said)
    with socket.create_connection(("127.0.0.1", port)) as waiting:
        waiting.sendall(said)
        answer = b"".join(iter(lambda: waiting.recv(65_536), b""))
    _check(answer.startswith(b"HTTP/1.1 408"), "no 408")
    _check(len(stand_in.requests) == seen, "something reached the upstream")
    return "408 after --client-timeout; nothing reaches the upstream"


def policy_deleted(gateway: Served, stand_in: StandIn, policy: Path) -> str:
    """The policy's file is deleted while the service runs."""
    policy.unlink()
    gateway.wait_for('"refused"')
    seen = len(stand_in.requests)
    _check(httpx.post(gateway.url + PATH, json=FORGED).status_code == 400, "no 400")
    _check(len(stand_in.requests) == seen, "something reached the upstream")
    return "the old policy stays in force; logged and counted"


def disk_full(gateway: Served, _stand_in: StandIn) -> str:
    """Nothing can be written to the decision log."""
    _check(httpx.post(gateway.url + PATH, json=CHAT).status_code == 200, "no 200")
    _check(httpx.post(gateway.url + PATH, json=FORGED).status_code == 400, "no 400")
    until(lambda: FAILED in httpx.get(f"{gateway.url}/metrics").text, 20)
    return "requests are judged as before; the failure is counted"


def disk_full_for_a_while(url: str, log: Path) -> str:
    """The decision log's file may grow no further in the middle of a run, and later it may again."""
    with serving("--upstream", url, "--decision-log", log) as gateway:
        ids = set()

        def ask() -> None:
            answer = httpx.post(gateway.url + PATH, json=FORGED)
            _check(answer.status_code == 400, "no 400")
            ids.add(answer.headers["x-guardtok-decision-id"])

        ask()
        until(lambda: log.exists() and log.stat().st_size > 0, 20)
        # In the middle of a line, so that half of one is written.
        room = log.stat().st_size + 100, resource.RLIM_INFINITY
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, room)
        for _ in range(20):
            ask()
        until(lambda: FAILED in httpx.get(f"{gateway.url}/metrics").text, 20)
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        ask()
        _check(gateway.end() == 0, "it did not end with status 0")
    written = {json.loads(line)["decision_id"] for line in log.read_text().splitlines()}
    _check(written == ids, f"{len(ids - written)} of {len(ids)} decisions are not in the log")
    return f"no half line, and all {len(ids)} decisions are in the log once there is room"


@contextlib.contextmanager
def faults() -> Iterator[Iterator[tuple[str, Callable[[], str]]]]:
    """Set up what the faults need; gives each by name, to be run in this order.

    Each returns what became of it, and raises RuntimeError where it had another end than the defined one.
    """
    stand_in = StandIn()
    with tempfile.TemporaryDirectory() as folder, served(stand_in) as url:
        policy = Path(folder) / "policy.yaml"
        policy.write_text(BLOCKING)
        options = ("--upstream", url, "--client-timeout", "1", "--read-timeout", "0.5", "--decision-log", "/dev/full")
        with serving(*options, policy=policy) as gateway:
            yield iter(
                (
                    ("upstream killed mid-stream", upstream_killed_mid_stream),
                    ("slow client", partial(slow_client, gateway, stand_in)),
                    ("slow upstream", partial(slow_upstream, gateway, stand_in)),
                    ("half a body", partial(half_a_body, gateway, stand_in)),
                    ("disk full for the log", partial(disk_full, gateway, stand_in)),
                    ("disk full for a while", partial(disk_full_for_a_while, url, Path(folder) / "decisions.jsonl")),
                    ("policy deleted", partial(policy_deleted, gateway, stand_in, policy)),
                )
            )
            _check(gateway.end() == 0, "it did not end with status 0")


def rss_of(pid: int) -> int:
    """Return how much memory a process holds, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def cpu_of(pid: int) -> float:
    """Return how much processor time a process has taken, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _check(holds: object, otherwise: str) -> None:
    if not holds:
        raise RuntimeError(f"{otherwise} ({time.strftime('%H:%M:%S')})")
