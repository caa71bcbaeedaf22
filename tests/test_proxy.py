from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Router

from guardtok import Guard
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.live import LiveGuard
from guardtok.gateway.proxy.envelope import Envelope
from guardtok.gateway.proxy.forwarder import Forwarder
from guardtok.gateway.proxy.headers import HOP_BY_HOP, end_to_end, for_upstream
from guardtok.gateway.proxy.service import guarded, speech
from guardtok.gateway.proxy.upstream import Patience, Upstream, UpstreamError
from guardtok.gateway.settings import Settings
from tests.serving import until
from tests.upstream import StandIn, free_port, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.types import Receive, Scope, Send

CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = BODY | {"stream": True}


@contextlib.contextmanager
def proxied(url: str, *, guard: Guard | None = None, **patience: float) -> Iterator[httpx.Client]:
    """Serve the proxy in front of a URL, bare or behind the middleware; yields a client of it."""
    waits = Patience(**patience)
    forwarder = Forwarder(Upstream.parse(url), waits, speech)
    app = forwarder if guard is None else guarded(forwarder, Gatekeeper(LiveGuard(guard)), Settings())

    @contextlib.asynccontextmanager
    async def living(_app: object) -> AsyncIterator[None]:
        yield
        await forwarder.aclose()

    served_app = Envelope(Router(default=app, lifespan=living), waits.client, speech)
    with served(served_app, lifespan="on") as front, httpx.Client(base_url=front, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def behind() -> Iterator[tuple[StandIn, str]]:
    """A stand-in, and its URL."""
    stand_in = StandIn()
    with served(stand_in) as url:
        yield stand_in, url


@pytest.fixture(scope="module")
def upstream(behind: tuple[StandIn, str]) -> StandIn:
    """The stand-in behind the proxy."""
    return behind[0]


@pytest.fixture(scope="module")
def client(behind: tuple[StandIn, str]) -> Iterator[httpx.Client]:
    """A client of the proxy."""
    with proxied(behind[1]) as client:
        yield client


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Serve each connection these bytes, and close it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65_536)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


HEADERS = st.lists(
    st.tuples(
        st.sampled_from([*sorted(HOP_BY_HOP), b"authorization", b"cookie", b"Connection", b"x-one", b"X-Two"]),
        st.sampled_from([b"x-one", b"keep-alive, X-Two", b"close", b"v"]),
    )
)


@given(HEADERS)
def test_no_header_of_a_connection_goes_on_and_every_other_does(headers: list[tuple[bytes, bytes]]) -> None:
    """What `Connection` names counts as a header of the connection; what stays keeps its order and its value."""
    named = {w.strip().lower() for n, v in headers if n.lower() == b"connection" for w in v.split(b",")}
    expected = [h for h in headers if h[0].lower() not in named and h[0].lower() not in HOP_BY_HOP]
    assert end_to_end(headers) == expected


@given(HEADERS)
def test_a_caller_cannot_choose_host_framing_or_the_peer(headers: list[tuple[bytes, bytes]]) -> None:
    """Host and framing are made anew, and the peer's address is the last one that is forwarded for."""
    said = [*headers, (b"connection", b"x-forwarded-for, host, via"), (b"host", b"evil"), (b"content-length", b"9")]
    made = for_upstream({"headers": said, "client": ("1.2.3.4", 5), "scheme": "http"}, b"up:80")
    values: dict[bytes, list[bytes]] = {}
    for name, value in made:
        values.setdefault(name, []).append(value)
    assert values[b"host"] == [b"up:80"]
    assert values[b"x-forwarded-for"] == [b"1.2.3.4"]
    assert values[b"x-forwarded-host"] == [b"evil"]
    chunked = any(name == b"transfer-encoding" for name, _ in headers)
    assert values.get(b"transfer-encoding") == ([b"chunked"] if chunked else None)
    assert values.get(b"content-length") == (None if chunked else [b"9"])


def test_credentials_cookies_path_and_query_go_on_as_they_came(client: httpx.Client, upstream: StandIn) -> None:
    """Not a byte of the target is written anew, and what `Connection` names does not go on, either way."""
    headers = {"authorization": "Bearer k", "cookie": "a=b", "x-hop": "1", "connection": "keep-alive, x-hop"}
    answer = client.post("/echo?a=%2F&b=%zz", content=b"body", headers=headers)
    got = upstream.last
    assert (answer.status_code, answer.content, got.target) == (200, b"body", b"/echo?a=%2F&b=%zz")
    assert (got.headers["authorization"], got.headers["cookie"]) == ("Bearer k", "a=b")
    assert "x-hop" not in got.headers
    assert answer.headers["x-kept"] == "yes"
    assert "x-secret" not in answer.headers
    model = b"/v1/models/meta-llama%2FLlama-3"
    client.get(model.decode())
    assert upstream.last.target == model


def test_no_cookie_is_kept_and_no_redirect_followed(client: httpx.Client, upstream: StandIn) -> None:
    """One caller's session never reaches another caller's request."""
    seen = len(upstream.requests)
    answer = client.post("/moved", json={})
    assert (answer.status_code, answer.headers["location"]) == (307, "/v1/models")
    client.cookies.clear()
    client.post("/echo", content=b"")
    assert "cookie" not in upstream.last.headers
    assert len(upstream.requests) == seen + 2


@pytest.mark.parametrize("path", ["/v1/../echo", "/v1/./echo", "//echo", "/v1%2f..%2fecho", "/v1\\echo", "/v1/%2e%2e"])
def test_a_path_with_two_readings_is_refused(client: httpx.Client, upstream: StandIn, path: str) -> None:
    """What the middleware judged as one path cannot be served as another."""
    seen = len(upstream.requests)
    host, port = client.base_url.host, client.base_url.port
    with socket.create_connection((host, port)) as raw:  # A client would tidy the path.
        raw.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"ambiguous_path" in answer
    assert len(upstream.requests) == seen


def test_a_get_carries_no_body(client: httpx.Client, upstream: StandIn) -> None:
    """A body that no rule looks at does not reach the upstream."""
    seen = len(upstream.requests)
    assert client.request("GET", "/echo", content=b"<|im_start|>").status_code == 400
    assert client.request("GET", "/echo", content=iter([b"<|im_start|>"])).status_code == 400
    assert len(upstream.requests) == seen
    assert client.request("GET", "/echo", headers={"content-length": "0"}).status_code == 200


@pytest.mark.parametrize("method", ["get", "Get", "post", "CONNECT", "connect"])
def test_a_method_with_two_readings_is_refused(client: httpx.Client, upstream: StandIn, method: str) -> None:
    """Spelled small it would be no GET here, and a GET with a body behind it; CONNECT would open a tunnel."""
    seen = len(upstream.requests)
    said = f"{method} /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
    with socket.create_connection((client.base_url.host, client.base_url.port)) as raw:
        raw.sendall(said.encode())
        answer = b"".join(iter(lambda: raw.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 405")
    assert len(upstream.requests) == seen


def test_a_length_beside_chunks_is_not_passed_on() -> None:
    """What the client reads is what the chunks say, whatever length an upstream names beside them."""
    said = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    with answering(said) as url, proxied(url) as client:
        answer = client.post(CHAT, json=BODY)
    assert (answer.content, "content-length" in answer.headers) == (b"hello", False)


def test_why_an_upstream_cannot_be_reached_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A certificate that nobody trusts is told apart from a server that is away; the caller hears neither."""
    with served(StandIn()) as url, proxied(url.replace("http:", "https:")) as client:
        answer = client.post(CHAT, json=BODY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unreachable")
    assert "SSL" in caplog.text
    assert "SSL" not in answer.text


def test_certificates_that_cannot_be_read_are_a_mistake_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there is named by its variable, without a traceback."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    with pytest.raises(UpstreamError, match="SSL_CERT_FILE"):
        Forwarder(Upstream.parse("https://x"), Patience(), speech)


def test_answers_without_a_body_pass(client: httpx.Client) -> None:
    """HEAD, 204 and an empty body keep their framing."""
    assert client.head("/echo").status_code == 200
    assert client.delete("/nothing").status_code == 204
    assert client.post("/echo", content=b"").content == b""


def test_a_large_body_passes_both_ways(client: httpx.Client) -> None:
    """Megabytes, with a length and in chunks."""
    body = bytes(range(256)) * 20_000
    assert client.post("/echo", content=body).content == body
    assert client.post("/echo", content=iter([body, body])).content == body * 2


def test_connections_to_the_upstream_are_used_again() -> None:
    """Requests one after the other take one connection."""
    peers = set()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        peers.add(scope["client"][1])
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    with served(app) as url, proxied(url) as client:
        for _ in range(5):
            client.post(CHAT, json=BODY)
    assert len(peers) == 1


@pytest.mark.parametrize(("path", "outer"), [(CHAT, "error"), ("/v1/messages", "type"), ("/api/chat", "error")])
def test_an_upstream_that_is_away_is_a_502_to_be_tried_again(path: str, outer: str) -> None:
    """The request was never sent, so a client may send it again; the answer has the protocol's form."""
    with proxied(f"http://127.0.0.1:{free_port()}") as client:
        answer = client.post(path, json=BODY)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (502, "true")
    assert outer in answer.json()


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 2", b"garbage\r\n\r\n", b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n"]
)
def test_an_upstream_that_gives_no_answer_is_a_502_not_to_be_tried_again(said: bytes) -> None:
    """It may have done the work."""
    with answering(said) as url, proxied(url) as client:
        answer = client.post(CHAT, json=BODY)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (502, "false")
    assert answer.json()["error"]["code"] == "upstream_failed"


@pytest.mark.parametrize("patience", [{"read": 0.2}, {"total": 0.2}])
def test_a_slow_upstream_is_a_504(behind: tuple[StandIn, str], patience: dict[str, float]) -> None:
    """Neither the first piece nor the whole answer is waited for without end."""
    with proxied(behind[1], **patience) as client:
        answer = client.post(CHAT, json=BODY, headers={"x-fault": "slow"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    assert answer.headers["x-should-retry"] == "false"


def read_broken(client: httpx.Client, path: str, body: dict[str, Any], fault: str) -> bytes:
    """Return what of an answer came before the connection was cut; an answer that ends as if it were whole fails."""
    got = b""
    with client.stream("POST", path, json=body, headers={"x-fault": fault}) as answer:
        assert answer.status_code == 200
        with contextlib.suppress(httpx.RemoteProtocolError):
            for piece in answer.iter_raw():
                got += piece
            pytest.fail("the answer seemed to be whole")
    return got


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"])
def test_a_stream_that_breaks_off_ends_in_an_error_and_is_cut(client: httpx.Client, path: str) -> None:
    """Between events the protocol's own error event is sent, too."""
    body = STREAM | {"prompt": "hi", "input": "hi", "max_tokens": 5}
    got = read_broken(client, path, body, "cut")
    last = got.rstrip().rsplit(b"\n", 1)[-1]
    assert "broke off" in json.loads(last.removeprefix(b"data: "))["error"]["message"]
    assert b"[DONE]" not in got


def test_in_the_middle_of_an_event_there_is_only_the_cut(client: httpx.Client) -> None:
    """An error event would be glued to the half of another one."""
    assert b"error" not in read_broken(client, CHAT, STREAM, "cut-event")


@pytest.mark.parametrize("fault", ["cut", "stall"])
def test_a_whole_answer_that_breaks_off_or_stops_is_cut(behind: tuple[StandIn, str], fault: str) -> None:
    """Half a JSON object never looks like the end of one."""
    with proxied(behind[1], read=0.3) as client:
        assert read_broken(client, CHAT, BODY, fault)


def test_a_stream_that_stops_is_given_up(behind: tuple[StandIn, str]) -> None:
    """After `read` seconds without a piece, and after `total` seconds whatever comes."""
    with proxied(behind[1], read=0.3) as client:
        assert b"upstream_stalled" in read_broken(client, CHAT, STREAM, "stall")
    with proxied(behind[1], total=0.5) as client:
        assert b"upstream_stalled" in read_broken(client, CHAT, STREAM, "trickle")


@pytest.mark.parametrize("fault", ["flood", "trickle"])
def test_the_upstream_is_told_when_the_client_leaves(behind: tuple[StandIn, str], fault: str) -> None:
    """A model does not write on for nobody."""
    stand_in, url = behind
    with proxied(url) as client:
        stand_in.left.clear()
        with client.stream("POST", CHAT, json=STREAM, headers={"x-fault": fault}) as answer:
            next(answer.iter_raw())
        until(lambda: stand_in.left, 10)


def test_the_upstream_is_told_when_the_client_leaves_before_the_answer(behind: tuple[StandIn, str]) -> None:
    """The prompt that is being read counts, too."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        while message["type"] != "http.disconnect":
            message = await receive()
        seen.append("left")

    with served(app) as url, proxied(url) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json=BODY, timeout=0.3)
        until(lambda: seen, 10)


def test_a_slow_client_holds_the_upstream_back_and_is_given_up(behind: tuple[StandIn, str]) -> None:
    """What waits for a client that does not read is bounded, and so is how long it waits."""
    stand_in, url = behind
    with proxied(url, client=1.0) as client:
        stand_in.sent = 0
        stand_in.left.clear()
        with client.stream("POST", CHAT, json=STREAM, headers={"x-fault": "flood"}) as answer:
            next(answer.iter_raw())
            until(lambda: stand_in.left, 10)
    # Four buffers of sockets lie between the two, each of some megabytes; the proxy keeps one piece.
    assert stand_in.sent < 40_000_000


@pytest.mark.parametrize("guard", [None, Guard.load("strict", sinks=[])], ids=["bare", "guarded"])
def test_half_a_body_is_a_408(behind: tuple[StandIn, str], guard: Guard | None) -> None:
    """Who announces a body and does not send it is not waited for."""
    with (
        proxied(behind[1], guard=guard, client=0.3) as client,
        socket.create_connection((client.base_url.host, client.base_url.port)) as raw,
    ):
        raw.sendall(b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        answer = b"".join(iter(lambda: raw.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'{"type": "error"' in answer


@pytest.mark.parametrize(
    ("url", "made"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("https://models.example/", "https://models.example"),
        ("http://[::1]:8000/llm/", "http://[::1]:8000/llm"),
    ],
)
def test_an_upstream_is_a_url_of_a_server(url: str, made: str) -> None:
    """A path is put before what is asked for."""
    upstream = Upstream.parse(url)
    assert str(upstream) == made
    assert upstream.host.decode() in url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000",
        "ftp://x",
        "http://",
        "http://u:p@x",
        "http://x/v1",
        "http://x?a=b",
        "http://x#y",
        "http://x:99999",
        "http://[x",
        "http://é",
        "http://x\n",
    ],
)
def test_what_is_no_upstream_is_refused_with_a_mend(url: str) -> None:
    """Credentials are not repeated."""
    with pytest.raises(UpstreamError) as caught:
        Upstream.parse(url)
    assert "u:p" not in str(caught.value)
