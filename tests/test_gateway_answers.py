from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardtok.gateway.answers import break_off, code_of, refuse, status_of
from guardtok.gateway.bodies import BAD_ENCODING, BAD_JSON, TOO_LARGE
from guardtok.gateway.decision import Blame, Refusal, Stage

BLOCKED = Refusal(Blame.POLICY, "user.block[@turn]", "$.messages[0].content", "A control token stands at …")
REFUSALS = st.builds(Refusal, st.sampled_from(Blame), st.text(), st.text(), st.text())
PROTOCOLS = ["openai.chat", "openai.completions", "openai.responses", "anthropic.messages", "ollama"]


def error_of(refusal: Refusal, protocol: str, **how: Any) -> Any:  # noqa: ANN401
    """Return the value of an answer's body."""
    return json.loads(refuse(refusal, protocol, "r", **how).body)


def test_openai_has_its_form() -> None:
    """Four fields under `error`, the path without its root."""
    assert error_of(BLOCKED, "openai.chat") == {
        "error": {
            "message": "A control token stands at … (rule user.block[@turn])",
            "type": "invalid_request_error",
            "param": "messages[0].content",
            "code": "policy_violation",
        }
    }


def test_flat_errors_are_those_of_sglang() -> None:
    """The same fields beside `object`."""
    flat = error_of(BLOCKED, "openai.chat", flat=True)
    assert flat == {"object": "error", **error_of(BLOCKED, "openai.chat")["error"]}


def test_anthropic_has_its_form() -> None:
    """The type in the type, and the id of the request."""
    assert error_of(BLOCKED, "anthropic.messages") == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "A control token stands at … (rule user.block[@turn])"},
        "request_id": "r",
    }


def test_ollama_has_its_form() -> None:
    """A message, and no more."""
    assert error_of(BLOCKED, "ollama") == {"error": "A control token stands at … (rule user.block[@turn])"}


@pytest.mark.parametrize(
    ("blame", "rule", "status", "code", "openai", "anthropic"),
    [
        (Blame.POLICY, "user.default", 400, "policy_violation", "invalid_request_error", "invalid_request_error"),
        (Blame.SHAPE, BAD_JSON, 400, "request_json", "invalid_request_error", "invalid_request_error"),
        (Blame.SHAPE, TOO_LARGE, 413, "request_size", "invalid_request_error", "request_too_large"),
        (Blame.SHAPE, BAD_ENCODING, 415, "request_encoding", "invalid_request_error", "invalid_request_error"),
        (Blame.FAILURE, "failure", 500, "guard_failure", "server_error", "api_error"),
    ],
)
def test_each_blame_has_its_status(  # noqa: PLR0913, PLR0917
    blame: Blame, rule: str, status: int, code: str, openai: str, anthropic: str
) -> None:
    """What the caller can mend is a 4xx; only a failure of the guard is a 500."""
    refusal = Refusal(blame, rule, "", "m")
    assert status_of(refusal) == status
    assert code_of(refusal) == code
    error = error_of(refusal, "openai.chat")["error"]
    assert (error["type"], error["code"], error["param"]) == (openai, code, None)
    assert error_of(refusal, "anthropic.messages")["error"]["type"] == anthropic


@given(REFUSALS, st.sampled_from(PROTOCOLS), st.booleans())
def test_every_answer_is_whole_json_that_nobody_retries(refusal: Refusal, protocol: str, flat: bool) -> None:  # noqa: FBT001
    """Whatever a refusal says, the body is JSON of the length that is said, and its header is seen by the clients."""
    answer = refuse(refusal, protocol, "r", decision_id="d", flat=flat)
    headers = dict(answer.headers)
    assert json.loads(answer.body)
    assert headers[b"content-length"] == b"%d" % len(answer.body)
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"x-should-retry"] == b"false"
    assert headers[b"x-guardtok-decision-id"] == b"d"
    assert headers[b"request-id" if protocol == "anthropic.messages" else b"x-request-id"] == b"r"
    assert answer.status in {400, 500}


@given(REFUSALS, st.sampled_from(PROTOCOLS[:-1]))
def test_a_stream_ends_with_one_whole_event(refusal: Refusal, protocol: str) -> None:
    """No text of a refusal can end the event early, or begin another one."""
    events = break_off(refusal, protocol, "r").decode().removesuffix("\n\n").split("\n\n")
    last = [event for event in events if event != "data: [DONE]"]
    assert len(last) == 1
    lines = [line.partition(": ") for line in last[0].split("\n")]
    assert [name for name, _, _ in lines] in (["data"], ["event", "data"])
    assert json.loads(lines[-1][2])["error"]


def test_each_protocol_ends_its_own_way() -> None:
    """Chats end with `[DONE]`; Responses and Anthropic with an event called `error`."""
    assert break_off(BLOCKED, "openai.chat").endswith(b"}\n\ndata: [DONE]\n\n")
    responses = break_off(BLOCKED, "openai.responses")
    assert responses.startswith(b"event: error\ndata: ")
    event = json.loads(responses.split(b"data: ")[1])
    assert event["type"] == "error"
    assert event["code"] == "policy_violation"
    assert event["param"] == "messages[0].content"
    assert break_off(BLOCKED, "anthropic.messages").startswith(b'event: error\ndata: {"type":"error",')


@pytest.mark.parametrize(("blame", "status"), [(Blame.POLICY, 400), (Blame.SHAPE, 502), (Blame.FAILURE, 500)])
def test_a_reply_that_cannot_be_judged_is_no_mistake_of_the_callers(blame: Blame, status: int) -> None:
    """The server behind has sent it; what the policy refuses stays a 400."""
    refusal = Refusal(blame, "reply.size", "", "m")
    assert refuse(refusal, "openai.chat", stage=Stage.REPLY).status == status


def test_a_long_path_is_cut() -> None:
    """Keys are as long as the caller likes."""
    refusal = Refusal(Blame.SHAPE, "request.shape", "$." + "k" * 10_000, "m")
    assert len(error_of(refusal, "openai.chat")["error"]["param"]) == 200
