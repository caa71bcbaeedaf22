"""What the gateway costs and withstands: the table of latency, throughput, held load, fuzzing and faults.

Latency is paired: each request is sent with and without guarding, one right after the other. Throughput is that of
`guardtok serve` against the same proxy without the middleware, in processes of their own, in turns; upstream, proxy and
load share the cores of the machine, so on two cores they take time from each other.

    python -m benchmarks.gateway [--smoke | --nightly] [--json FILE]

An aim of time that is missed is printed. An error, a leak, a control token upstream, or a fault without its defined
answer ends it with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.gateway_faults import cpu_of, faults, rss_of
from benchmarks.gateway_fuzz import fuzz
from benchmarks.load import CHAT, exchange, press, process, request_of
from guardtok.gateway.middleware import GuardtokMiddleware
from tests.serving import serving
from tests.upstream import served

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

POLICY, TOKENIZER = "strict", "guardtok"
WARM_UP = 50


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was measured.
        aim: What it should be.
        measured: What it was.
        met: Whether the aim was met.
        correct: Whether what must hold on any machine held: no error, no leak.
    """

    what: str
    aim: str
    measured: str
    met: bool
    correct: bool = True

    def __str__(self) -> str:
        """Return the line."""
        mark = "yes" if self.met else "NO"
        return f"{self.what:<44} {self.aim:<20} {mark:<4} {self.measured}"


async def answer_whole(_scope: Scope, receive: Receive, send: Send) -> None:
    """Read a body and answer two bytes: the least that an application does."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


def guarded(app: ASGIApp) -> ASGIApp:
    """Return an application behind the middleware."""
    return GuardtokMiddleware(app, policy=POLICY, tokenizer=TOKENIZER)


async def pairs(
    without: Callable[[], Awaitable[object]], with_: Callable[[], Awaitable[object]], count: int
) -> list[float]:
    """Return so many differences, in milliseconds, of the one call to the other; which is first changes each time."""
    differences = []
    for number in range(count + WARM_UP):
        took = {}
        for call in (without, with_) if number % 2 else (with_, without):
            began = time.perf_counter()
            await call()
            took[call] = time.perf_counter() - began
        if number >= WARM_UP:
            differences.append((took[with_] - took[without]) * 1e3)
    return differences


async def in_process(count: int) -> list[float]:
    """Call the applications as a server does."""
    body = json.dumps(CHAT).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
        "client": ("127.0.0.1", 1),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message.get("status", 200) != 200:
            raise RuntimeError("The chat was refused.")

    app = guarded(answer_whole)
    return await pairs(lambda: answer_whole(scope, receive, send), lambda: app(dict(scope), receive, send), count)


async def over_sockets(count: int) -> list[float]:
    """Ask two servers, one of them guarded, over a connection each."""
    with served(answer_whole) as plain, served(guarded(answer_whole)) as careful:
        request = request_of()
        calls = []
        writers = []
        for url in (plain, careful):
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
            writers.append(writer)

            async def call(reader: asyncio.StreamReader = reader, writer: asyncio.StreamWriter = writer) -> None:
                if await exchange(reader, writer, request) != 200:
                    raise RuntimeError("The chat was refused.")

            calls.append(call)
        differences = await pairs(calls[0], calls[1], count)
        for writer in writers:
            writer.close()
        return differences


def latency(name: str, differences: list[float]) -> Row:
    """Return the row of some differences."""
    p50 = statistics.median(differences)
    p99 = statistics.quantiles(differences, n=100)[98]
    measured = f"p50 {p50:.2f} ms, p99 {p99:.2f} ms ({len(differences):,} pairs)"
    return Row(f"added latency, 2 KB chat, {name}", "p50 ≤ 1, p99 ≤ 5 ms", measured, p50 <= 1 and p99 <= 5)


def throughput_and_load(rounds: int, seconds: float, hold: float) -> list[Row]:
    """Measure `guardtok serve` and the same proxy with guarding off, in turns; then hold a load."""
    with process("upstream") as (upstream, _), process("bare", f"http://127.0.0.1:{upstream}") as bare:
        options = ("--upstream", f"http://127.0.0.1:{upstream}", "--tokenizer", TOKENIZER)
        with serving(*options, policy=POLICY) as gateway:
            careful = int(gateway.url.rpartition(":")[2]), gateway.process.pid
            rates: dict[tuple[int, int], list[float]] = {bare: [], careful: []}
            costs: dict[tuple[int, int], list[float]] = {bare: [], careful: []}
            errors = 0
            for each in rates:
                asyncio.run(press(each[0], min(seconds, 1.0)))
            for _ in range(rounds):
                for each, found in rates.items():
                    before = cpu_of(each[1])
                    load = asyncio.run(press(each[0], seconds))
                    found.append(load.rate)
                    costs[each].append((cpu_of(each[1]) - before) / len(load.times) * 1e3)
                    errors += load.errors
            ratio = statistics.median(on / off for on, off in zip(rates[careful], rates[bare], strict=True))
            on, off = (statistics.median(rates[each]) for each in (careful, bare))
            least = [min(costs[each]) for each in (careful, bare)]
            measured = (
                f"{ratio:.2f} × ({on:,.0f} of {off:,.0f} requests/s, {errors} errors; "
                f"processor time {least[0]:.2f} and {least[1]:.2f} ms a request)"
            )
            rows = [
                Row(
                    "throughput of serve, guarding on / off",
                    "≥ 0.85 ×",
                    measured,
                    ratio >= 0.85 and not errors,
                    not errors,
                )
            ]
            rows.append(held(*careful, hold))
    return rows


def held(port: int, pid: int, seconds: float) -> Row:
    """Hold a load; return errors, and growth of memory after the first sixth of the time."""
    first = asyncio.run(press(port, seconds / 6))
    before = rss_of(pid)
    rest = asyncio.run(press(port, seconds * 5 / 6))
    after = rss_of(pid)
    growth, errors = after / before - 1, first.errors + rest.errors
    count = len(first.times) + len(rest.times)
    p99 = statistics.quantiles(rest.times, n=100)[98] * 1e3
    measured = f"{count:,} requests, {errors} errors, memory {growth:+.1%} ({after / 1024:.0f} MiB), p99 {p99:.0f} ms"
    correct = not errors and growth <= 0.05
    return Row(f"held load, {seconds:.0f} s, 16 connections", "no error, ≤ 5 % more", measured, correct, correct)


def main() -> int:
    """Measure, print the table, and write it where that is asked for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that everything runs")
    parser.add_argument("--nightly", action="store_true", help="at least 10,000 requests fuzzed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table to a file, too")
    options = parser.parse_args()
    # What the machine has configured is not what is measured.
    for name in [name for name in os.environ if name.startswith("GUARDTOK_") and name != "GUARDTOK_VOCAB_DIR"]:
        os.environ.pop(name)
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores; policy {POLICY!r}")
    rows: list[Row] = []

    def show(row: Row) -> None:
        rows.append(row)
        print(row, flush=True)

    def check(what: str, aim: str, run: Callable[[], str]) -> None:
        try:
            show(Row(what, aim, run(), met=True))
        except (AssertionError, RuntimeError, httpx.HTTPError) as error:
            show(Row(what, aim, f"{type(error).__name__}: {error}"[:300], met=False, correct=False))

    show(latency("in process", asyncio.run(in_process(200 if options.smoke else 5_000))))
    show(latency("over sockets", asyncio.run(over_sockets(200 if options.smoke else 5_000))))
    for row in throughput_and_load(*((1, 1.0, 3.0) if options.smoke else (7, 4.0, 60.0))):
        show(row)
    count = 12_000 if options.nightly else 200 if options.smoke else 2_000
    check("requests fuzzed, four protocols", "no 5xx, no token", lambda: fuzz(count))
    with faults() as found:
        for name, fault in found:
            check(f"fault: {name}", "a defined answer", fault)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    wrong = sum(not row.correct for row in rows)
    print(f"{sum(not row.met for row in rows)} of {len(rows)} aims missed, {wrong} of them wrong on any machine")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
