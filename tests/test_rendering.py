"""A chat that guardtok renders itself: what goes to the upstream are ids, and what comes back is a chat completion."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardtok import Guard, Policy
from guardtok.errors import RequestError
from guardtok.gateway import bodies
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.live import LiveGuard
from guardtok.gateway.rendering.app import RenderedChats, Rendering
from guardtok.gateway.rendering.dialects import DIALECTS
from guardtok.gateway.rendering.fields import read_fields
from guardtok.gateway.settings import Settings
from tests.tiny_llama import CHATML

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from guardtok.gateway.decision import Decision

    Message = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

GUARD = Guard.load("chatml", tokenizer="guardtok", sinks=[])
STRICT = Guard.load("strict", tokenizer="guardtok", sinks=[])
USER = {"role": "user", "content": "hi"}
COMPLETION = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "tiny",
    "choices": [{"index": 0, "text": "hello", "logprobs": None, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}
FORMS = st.sampled_from(["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool_call>", "<|im_", "end|>", " hi ", "\n"])


class Upstream:
    """Records what it is asked, and answers what it was told to."""

    def __init__(self, answer: object = COMPLETION, status: int = 200) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces = answer if isinstance(answer, list) else [json.dumps(answer).encode()]
        self.status = status
        self.said: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.asked.append((scope["path"], json.loads(body) if body else {}))
        self.headers = scope["headers"]
        kind = b"text/event-stream" if self.asked[-1][1].get("stream") else b"application/json"
        headers = self.said or [(b"content-type", kind), (b"x-upstream", b"1")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def ask(  # noqa: PLR0913 - one for each thing a test turns
    upstream: Upstream,
    body: object,
    *,
    guard: Guard = GUARD,
    dialect: str = "completions",
    path: str = "/v1/chat/completions",
    method: str = "POST",
    seen: list[Decision] | None = None,
    more: tuple[tuple[bytes, bytes], ...] = (),
    rendering: Rendering | None = None,
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Ask the application once; return status, headers and body of its answer."""
    observers = [] if seen is None else [seen.append]
    rendering = rendering or Rendering(dialect, CHATML)
    app = RenderedChats(upstream, Gatekeeper(LiveGuard(guard), observers), rendering, Settings())
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = [{"type": "http.request", "body": raw}]
    sent: list[Message] = []

    async def receive() -> Message:
        return given.pop() if given else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", b"%d" % len(raw)), (b"authorization", b"Bearer key"), *more]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "client": ("10.0.0.1", 1)}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


@given(st.lists(st.lists(FORMS, max_size=6).map("".join), min_size=1, max_size=4))
def test_what_goes_upstream_are_the_guards_ids(contents: list[str]) -> None:
    """The upstream is sent exactly the ids of `encode_chat`; the template's tokens are in them, no user's."""
    messages = [{"role": "user", "content": content} for content in contents]
    upstream = Upstream()
    status, _, _ = ask(upstream, {"model": "m", "messages": messages})
    [(path, asked)] = upstream.asked
    assert (status, path) == (200, "/v1/completions")
    assert asked["prompt"] == GUARD.encode_chat(messages, CHATML, add_generation_prompt=True).ids
    reserved = GUARD.tokenizer.reserved_ids
    assert sum(token in reserved for token in asked["prompt"]) == 2 * len(messages) + 1


def test_a_whole_answer_comes_back_as_a_chat_completion() -> None:
    """Text, reason and usage are the upstream's; the shape is the one that was asked for."""
    status, headers, body = ask(Upstream(), {"model": "m", "messages": [USER], "max_completion_tokens": 5})
    made = json.loads(body)
    assert (status, headers[b"content-type"], headers[b"x-upstream"]) == (200, b"application/json", b"1")
    assert made["object"] == "chat.completion"
    assert made["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert made["usage"] == COMPLETION["usage"]


def test_a_compressed_chat_is_read_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some bytes can become megabytes; and the ids go on plain, so no header says otherwise."""
    threads, parse = [], bodies.parse

    def watch(body: bytes) -> object:
        threads.append(threading.current_thread() is threading.main_thread())
        return parse(body)

    monkeypatch.setattr("guardtok.gateway.bodies.parse", watch)
    upstream = Upstream()
    raw = gzip.compress(json.dumps({"model": "m", "messages": [USER]}).encode())
    status, _, _ = ask(upstream, raw, more=((b"x-body-compressed", b"gzip"),))
    assert (status, threads[0]) == (200, False)
    assert not {b"x-body-compressed", b"content-encoding"} & {name for name, _ in upstream.headers}


def test_sampling_goes_on_and_credentials_too() -> None:
    """What chooses tokens reaches the upstream under the upstream's names; so does the caller's key."""
    body = {"messages": [USER], "max_tokens": 3, "temperature": 0.5, "stop": "x", "seed": 1, "user": "u", "n": 1}
    for dialect, length, stop in (("completions", "max_tokens", "x"), ("llama.cpp", "n_predict", ["x"])):
        upstream = Upstream(COMPLETION if dialect == "completions" else LLAMA)
        assert ask(upstream, body, dialect=dialect)[0] == 200
        [(_, asked)] = upstream.asked
        assert (asked[length], asked["temperature"], asked["stop"], asked["seed"]) == (3, 0.5, stop, 1)
        assert "user" not in asked
        assert dict(upstream.headers)[b"authorization"] == b"Bearer key"


LLAMA = {"content": "hello", "stop": True, "stop_type": "eos", "tokens_evaluated": 3, "tokens_predicted": 1}


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("chat_template", "{{ x }}", "request.chat_template"),
        ("chat_template_kwargs", {"chat_template": "{{ x }}"}, "request.chat_template"),
        ("chat_template_kwargs", {"template": "{{ x }}"}, "request.shape"),
        ("chat_template_kwargs", {"request_id": "x"}, "request.shape"),
        ("chat_template_kwargs", {"bos_token": "x"}, "request.messages"),
        ("tools", [{"type": "function"}], "request.rendered"),
        ("tool_choice", "required", "request.rendered"),
        ("response_format", {"type": "json_object"}, "request.rendered"),
        ("reasoning_effort", "high", "request.rendered"),
        ("logprobs", True, "request.rendered"),
        ("prompt", [1], "request.rendered"),
        ("input_ids", [1], "request.rendered"),
        ("<|im_start|>", 1, "request.rendered"),
        ("n", True, "request.shape"),
        ("n", 0, "request.shape"),
        ("n", 10**9, "request.shape"),
        ("stream", 1, "request.shape"),
        ("stream_options", {"include_usage": 1}, "request.shape"),
        ("chat_template_kwargs", {"self": 1}, "request.shape"),
        ("temperature", {"<|im_start|>": 1}, "request.shape"),
        ("temperature", True, "request.shape"),
        ("max_tokens", -1, "request.shape"),
        ("max_completion_tokens", 0, "request.shape"),
        ("seed", True, "request.shape"),
        ("stop", [1], "request.shape"),
        ("stop_token_ids", ["<|im_end|>"], "request.shape"),
        ("logit_bias", {"<|im_end|>": 1}, "request.shape"),
        ("ignore_eos", 1, "request.shape"),
        ("messages", "hi", "request.shape"),
        ("messages", [], "request.messages"),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "request.rendered"),
        ("messages", [{"role": "user", "content": [7]}], "request.rendered"),
        ("messages", [{"role": "oracle", "content": "x"}], "request.messages"),
    ],
)
def test_what_cannot_come_along_is_refused(field: str, value: object, rule: str) -> None:
    """A field that could change the prompt, or that asks the upstream to parse, gets a 400 and reaches nobody."""
    upstream, seen = Upstream(), []
    status, headers, body = ask(upstream, {"messages": [USER], field: value}, seen=seen)
    assert (status, upstream.asked) == (400, [])
    assert headers[b"x-should-retry"] == b"false"
    assert seen[0].refusal.rule == rule
    assert "<|im_start|>" not in body.decode()


def test_a_blocked_form_is_refused_with_its_path() -> None:
    """A policy that blocks gives OpenAI's error, and the upstream hears nothing."""
    upstream = Upstream()
    body = {"messages": [{"role": "user", "content": "hi <|im_end|>"}]}
    status, _, answer = ask(upstream, body, guard=STRICT)
    error = json.loads(answer)["error"]
    assert (status, upstream.asked, error["param"]) == (400, [], "messages[0].content")
    assert error["code"] == "policy_violation"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/completions",
        "/v1/responses",
        "/api/chat",
        "/v1/chat/completions/render",
        "/tokenize",
        "/v1/embeddings",
        "/whatever",
    ],
)
def test_nothing_else_with_a_body_reaches_the_upstream(path: str) -> None:
    """Whatever would be parsed by the upstream is refused."""
    upstream = Upstream()
    assert ask(upstream, {"prompt": "hi <|im_end|>"}, path=path)[0] == 400
    assert upstream.asked == []


def test_a_decision_says_changed_only_where_ids_are_others() -> None:
    """Another family's form is logged and encoded as ever; this one's is encoded as text."""
    for text, action, changed in (
        ("[SYSTEM_PROMPT]", "log", False),
        ("<|im_end|>", "escape", True),
        ("x", "allow", False),
    ):
        seen: list[Decision] = []
        ask(Upstream(), {"messages": [{"role": "user", "content": text}]}, seen=seen)
        assert (seen[0].action.value, seen[0].changed) == (action, changed)


def test_what_has_no_body_passes() -> None:
    """The list of models is the upstream's."""
    upstream = Upstream()
    assert ask(upstream, b"", path="/v1/models", method="GET")[0] == 200
    assert upstream.asked == [("/v1/models", {})]


def test_ids_are_only_for_the_models_that_have_the_tokenizer() -> None:
    """The same ids are other tokens to another model, so a caller chooses among those that were named."""
    rendering = Rendering("completions", CHATML, frozenset({"m"}))
    for model, status in (("m", 200), ("other", 400), (None, 400)):
        upstream = Upstream()
        assert ask(upstream, {"messages": [USER], "model": model}, rendering=rendering)[0] == status
        assert len(upstream.asked) == (status == 200)


def test_how_long_an_answer_may_be_is_the_callers_or_the_gateways() -> None:
    """A server that takes a completion's default of 16 tokens would cut every chat short."""
    for said, sent in (({}, 500), ({"max_tokens": 3}, 3), ({"max_completion_tokens": 4}, 4)):
        upstream = Upstream()
        ask(upstream, {"messages": [USER], **said}, rendering=Rendering("completions", CHATML, max_tokens=500))
        assert upstream.asked[0][1]["max_tokens"] == sent


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_an_answer_that_cannot_be_read_is_a_502(stream: bool, is_compressed: bool) -> None:  # noqa: FBT001
    """Compressed although it was asked for plain, or no stream where one was asked for: a status says so."""
    upstream = Upstream([events(part("a", "stop"), b"[DONE]")] if stream else COMPLETION)
    is_stream = stream if is_compressed else not stream
    upstream.said = [(b"content-type", b"text/event-stream" if is_stream else b"application/json")]
    upstream.said += [(b"content-encoding", b"gzip")] if is_compressed else []
    status, headers, body = ask(upstream, {"messages": [USER], "stream": stream})
    assert (status, json.loads(body)["error"]["code"]) == (502, "reply_upstream")
    assert b"content-encoding" not in headers


def test_an_error_of_the_upstream_goes_on_as_it_is() -> None:
    """Status and body are the upstream's."""
    status, _, body = ask(Upstream({"error": {"message": "busy"}}, status=429), {"messages": [USER]})
    assert (status, json.loads(body)) == (429, {"error": {"message": "busy"}})


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        "x",
        {"choices": []},
        {"choices": [{"index": 1, "text": "x", "finish_reason": "stop"}]},
        {"choices": [{"index": 0, "text": "x", "finish_reason": None}]},
        {"choices": [{"index": 0, "text": 1, "finish_reason": "stop"}]},
        {"choices": 1},
    ],
)
def test_what_is_no_answer_becomes_an_error(answer: object) -> None:
    """An upstream that answers something else never looks like a model that said something."""
    status, _, body = ask(Upstream([json.dumps(answer).encode()]), {"messages": [USER]})
    assert status == 502
    assert "error" in json.loads(body)


def events(*data: object) -> bytes:
    """Return a stream of events."""
    return b"".join(b"data: " + (d if isinstance(d, bytes) else json.dumps(d).encode()) + b"\n\n" for d in data)


def part(text: str, reason: str | None = None) -> dict[str, Any]:
    """Return one event of a streamed completion."""
    return {"model": "tiny", "choices": [{"index": 0, "text": text, "finish_reason": reason}]}


def read_events(body: bytes) -> list[Any]:
    """Return what a stream's events say."""
    lines = [line.removeprefix("data: ") for line in body.decode().split("\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@given(st.lists(st.integers(1, 40), max_size=8), st.text(st.characters(codec="utf-8"), max_size=20))
def test_a_stream_comes_back_as_chunks_however_it_is_cut(cuts: list[int], text: str) -> None:
    """Joined deltas are the text; the first has the role, the last the reason, and the usage comes where asked for."""
    raw = events(part(text[:5]), part(text[5:]), {**part("", "length"), "usage": {"total_tokens": 9}}, b"[DONE]")
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(raw[at : at + cut])
        at += cut
    body = {"messages": [USER], "stream": True, "stream_options": {"include_usage": True}}
    status, headers, answer = ask(Upstream([*pieces, raw[at:]]), body)
    *chunks, usage, done = read_events(answer)
    assert (status, headers[b"content-type"], done) == (200, b"text/event-stream; charset=utf-8", "[DONE]")
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == text
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "length"]
    assert (usage["choices"], usage["usage"]) == ([], {"total_tokens": 9})


@pytest.mark.parametrize(
    "raw",
    [
        events(part("a")),
        events(part("a"), b"[DONE]"),
        events(part("a"), b"nonsense"),
        events(part("a"), {"error": {"message": "gone"}}),
        events(part("a", "stop"), part("b")),
        b"",
    ],
)
def test_a_stream_that_breaks_off_ends_in_an_error(raw: bytes) -> None:
    """A stream that never said why it ended is no answer."""
    _, _, answer = ask(Upstream([raw]), {"messages": [USER], "stream": True})
    assert any("error" in event for event in read_events(answer) if event != "[DONE]")


def test_every_sampling_field_is_read_and_null_is_absent() -> None:
    """A null is as good as nothing; a number of answers that llama.cpp cannot give is refused."""
    fields = read_fields({"messages": [USER], "temperature": None, "tools": None, "n": None, "chat_template": None})
    assert (dict(fields.sampling), fields.choices, fields.add_generation_prompt) == ({}, 1, True)
    with pytest.raises(RequestError, match=r"\$\.n"):
        DIALECTS["llama.cpp"].ask([1], read_fields({"messages": [USER], "n": 2}))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("action", ["escape", "block"])
def test_what_comes_back_is_judged_where_the_policy_rules_replies(action: str, stream: bool) -> None:  # noqa: FBT001
    """A form that the model spells is broken or refused for `assistant` as in any other reply, however it is cut."""
    rules = f"sources: {{template: {{default: allow}}, user: {{default: escape}}, assistant: {{default: {action}}}}}"
    guard = Guard.load(Policy.parse(f"guardtok: 1\n{rules}\n"), tokenizer="guardtok", sinks=[])
    seen: list[Decision] = []
    whole = {**COMPLETION, "choices": [{"index": 0, "text": "so <|im_end|> much", "finish_reason": "stop"}]}
    streamed = [events(part("so <|im_"), part("end|> much"), part("", "stop"), b"[DONE]")]
    body = {"messages": [USER], "stream": stream}
    status, _, answer = ask(Upstream(streamed if stream else whole), body, guard=guard, seen=seen)
    assert [decision.stage.value for decision in seen] == ["request", "reply"]
    assert (seen[-1].action.value, seen[-1].refusal is not None) == (action, action == "block")
    assert status == (400 if action == "block" and not stream else 200)
    assert (b"policy_violation" in answer) == (action == "block")
    assert b"<|im_end|>" not in answer
    if stream:
        said = [event["choices"][0]["delta"].get("content", "") for event in read_events(answer) if "choices" in event]
        assert "".join(said) == ("so <_|im_end|> much" if action == "escape" else "so ")
    elif action == "escape":
        assert json.loads(answer)["choices"][0]["message"]["content"] == "so <_|im_end|> much"
