"""Load for a gateway: a fast upstream, the proxy with guarding off, and connections that ask again and again.

python -m benchmarks.load upstream PORT
python -m benchmarks.load bare PORT URL
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

PROSE = "The river rises in the hills north of the town and runs past two mills before it meets the sea. "
CHAT = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "You answer in one sentence."},
        {"role": "user", "content": PROSE * 14},
        {"role": "assistant", "content": PROSE * 3},
        {"role": "user", "content": PROSE * 2},
    ],
}
"""A conversation of 2 KB in which nothing is found."""

_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": PROSE}}],
        "usage": {"prompt_tokens": 400, "completion_tokens": 20, "total_tokens": 420},
    }
).encode()


def request_of(body: object = CHAT, path: str = "/v1/chat/completions") -> bytes:
    """Return a whole HTTP request."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


@dataclass(slots=True)
class Load:
    """What became of a load."""

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    errors: int = 0

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.times) / self.seconds


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    """Send a request and read its whole answer; return the status."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    await reader.readexactly(length)
    return int(head[9:12])


async def press(port: int, seconds: float, connections: int = 16) -> Load:
    """Ask over so many connections, each again as soon as it is answered."""
    load, request = Load(), request_of()
    end = time.perf_counter() + seconds

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.perf_counter()) < end:
            try:
                ok = await exchange(reader, writer, request) == 200
            except (OSError, EOFError, StopIteration):
                ok = False
            if not ok:
                load.errors += 1
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            load.times.append(time.perf_counter() - began)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(connections)))
    load.seconds = time.perf_counter() - began
    return load


class _Fast(asyncio.Protocol):
    """Answers every request with the same chat completion, as fast as Python can."""

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - asyncio's signature
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            said = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_ANSWER)
            self.transport.write(said + _ANSWER)


async def _serve_fast(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Fast, "127.0.0.1", port)
    await server.serve_forever()


def make_bare(url: str) -> Any:  # noqa: ANN401 - an ASGI application
    """Return the proxy of `guardtok serve` without the middleware: for measurements, and for nothing else."""
    from starlette.routing import Router

    from guardtok.gateway.proxy.envelope import Envelope
    from guardtok.gateway.proxy.forwarder import Forwarder
    from guardtok.gateway.proxy.service import speech
    from guardtok.gateway.proxy.upstream import Patience, Upstream

    forwarder = Forwarder(Upstream.parse(url), Patience(), speech)

    @contextlib.asynccontextmanager
    async def living(_app: object) -> AsyncIterator[None]:
        gc.collect()
        gc.freeze()  # As the service does.
        yield
        await forwarder.aclose()

    return Envelope(Router(default=forwarder, lifespan=living), 60.0, speech)


@contextlib.contextmanager
def process(role: str, *arguments: object) -> Iterator[tuple[int, int]]:
    """Run a role of this module in a process of its own; yields its port and its id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.load", role, str(port), *map(str, arguments)]
    running = subprocess.Popen(command)
    try:
        wait_for_port(port)
        yield port, running.pid
    finally:
        running.terminate()
        running.wait(20)


def wait_for_port(port: int, seconds: float = 30.0) -> None:
    """Wait until somebody listens on a port."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:  # noqa: PERF203 - once in a while
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def main() -> None:
    """Play a role."""
    role, port, *rest = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        if role == "upstream":
            asyncio.run(_serve_fast(int(port)))
        else:
            from guardtok.gateway.proxy.process import Processes, bind, run

            with bind("127.0.0.1", int(port)) as listener:
                run(partial(make_bare, rest[0]), listener, Processes())


if __name__ == "__main__":
    main()
