"""Stand-ins for what lies on both sides of a door: a guard, an application that records, a client that cuts bodies."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from hypothesis import strategies as st

from guardtok.errors import RefusedError
from guardtok.gateway.bodies import MAX_DEPTH
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.live import LiveGuard
from guardtok.violation import Action, Mode, Violation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from guardtok.gateway.decision import Decision
    from guardtok.guard import Guard

FORBIDDEN = "<|im_end|>"

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)
"""Values that JSON can say."""

HOSTILE = {
    "nothing": b"",
    "white space": b" \n",
    "truncated": b'{"messages": [{"role": "us',
    "two values": b"{} {}",
    "a comment": b"{/**/}",
    "a trailing comma": b"[1,]",
    "single quotes": b"{'a': 1}",
    "a raw control character": b'{"a": "\x00"}',
    "a BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-16 without a BOM": '{"a": 1}'.encode("utf-16-le"),
    "UTF-32": '{"a": 1}'.encode("utf-32-be"),
    "Latin-1": b'{"a": "\xe9"}',
    "an overlong slash": b'{"a": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "NaN": b'{"temperature": NaN}',
    "Infinity": b'{"temperature": [-Infinity]}',
    "a float beyond doubles": b'{"temperature": 1e999}',
    "an integer of 20 digits": b'{"seed": 99999999999999999999}',
    "an integer of 5000 digits": b'{"seed": ' + b"9" * 5000 + b"}",
    "an integer of a million digits": b'{"seed": ' + b"9" * 1_000_000 + b"}",
    "a key twice": b'{"messages": [], "messages": [1]}',
    "a key twice, once escaped": b'{"messages": [], "m\\u0065ssages": [1]}',
    "a key twice, deep down": b'{"a": [{"b": {"c": 1, "d": 2, "c": 1}}]}',
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep and open": b"[" * 5_000_000,
    "many lists": b"[" + b"[]," * 100_000 + b"0]",
    "many objects": b"[" + b"{}," * 100_000 + b"0]",
    "many strings": b"[" + b'"",' * 100_001 + b"0]",
    "many strings, some escaped": b"[" + b'"\\\\","\\"",' * 50_001 + b"0]",
    "a little too deep": b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
}
"""Bodies that mean nothing, or two things."""


class StubGuard:
    """Blocks `FORBIDDEN`, writes `mark` for `raw`, and fails where it is told to."""

    policy = SimpleNamespace(name="stub", digest="0" * 64, mode=Mode.ENFORCE, place="stub", sources={})
    tokenizer = None

    def sanitize_chat(self, body: object, *, protocol: str, request_id: str | None = None) -> Any:  # noqa: ANN401
        text = json.dumps(body)
        if "fail" in text:
            raise ZeroDivisionError(text)
        if FORBIDDEN in text:
            raise RefusedError(FORBIDDEN, (violation(request_id),))
        made = json.loads(text.replace("raw", "mark"))
        return SimpleNamespace(
            body=made, changed=made != body, action=Action.ALLOW, violations=(), count=0, protocol=protocol
        )


def violation(request_id: str | None = None) -> Violation:
    """Return a violation as the stub makes it."""
    return Violation(
        rule="user.block[@turn]",
        token="<_|im_end|>",  # noqa: S106 - a token of the other kind
        token_id=None,
        role="turn",
        source="user",
        path="$.messages[0].content",
        start=3,
        end=13,
        form="exact",
        count=1,
        action=Action.BLOCK,
        mode=Mode.ENFORCE,
        policy="stub",
        policy_digest="0" * 64,
        tokenizer=None,
        request_id=request_id,
        digest="00",
    )


@dataclass
class Told:
    """An observer that keeps what it is told."""

    decisions: list[Decision] = field(default_factory=list)

    def __call__(self, decision: Decision) -> None:
        self.decisions.append(decision)


def make_gatekeeper(*observers: Told) -> Gatekeeper:
    """Return a gatekeeper over the stub."""
    return Gatekeeper(LiveGuard(cast("Guard", StubGuard())), observers)


@dataclass
class RecordingApp:
    """An ASGI application that reads what it is sent, keeps it, and answers with `answer`."""

    answer: bytes = b'{"ok":true}'
    scopes: list[Any] = field(default_factory=list)
    received: list[list[Any]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        self.scopes.append(scope)
        self.received.append([])
        if scope["type"] == "http":
            while True:
                message = await receive()
                self.received[-1].append(message)
                if not message.get("more_body", False):
                    break
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-app", b"1")]})
            await send({"type": "http.response.body", "body": self.answer})

    @property
    def bodies(self) -> list[bytes]:
        """The bodies that came, whole."""
        return [b"".join(message.get("body", b"") for message in messages) for messages in self.received]


@dataclass
class Reply:
    """What a door answered."""

    sent: list[Any]

    @property
    def status(self) -> int:
        """The HTTP status."""
        return cast("int", self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The headers."""
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def json(self) -> Any:  # noqa: ANN401
        """The body's value."""
        return json.loads(self.body)


def ask(  # noqa: PLR0913
    app: Any,  # noqa: ANN401
    body: bytes = b"{}",
    *,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    headers: Iterable[tuple[bytes, bytes]] = (),
    cuts: Iterable[int] = (),
    **scope: Any,  # noqa: ANN401
) -> Reply:
    """Send one request, its body cut at `cuts`, and return what was answered."""
    ends = sorted(min(cut, len(body)) for cut in cuts)
    parts = [body[start:end] for start, end in zip([0, *ends], [*ends, len(body)], strict=True)]
    waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    waiting[-1]["more_body"] = False
    sent: list[Any] = []

    async def receive() -> Any:  # noqa: ANN401
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:  # noqa: ANN401
        sent.append(message)

    made = {"type": "http", "http_version": "1.1", "method": method, "path": path, "headers": list(headers), **scope}
    asyncio.run(app(made, receive, send))
    return Reply(sent)
