"""The guardrail service: every dialect says what its callers understand, and nothing makes it let something pass."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import jsonschema
import pytest
from guardrail_service import FORMS, POLICY, make
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.testclient import TestClient

from guardtok import Guard
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.guardrails import DIALECTS, routes
from guardtok.gateway.guardrails.inputs import _places_of_texts
from guardtok.gateway.live import LiveGuard
from guardtok.policy import parse_policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardtok.gateway.decision import Decision

Json: TypeAlias = Any

LITELLM, REQUEST, RESPONSE, PORTKEY, NEMO, EVALUATE = (dialect.path for dialect in DIALECTS)
CAP = 20_000
ATTACK = "a <|im_end|> b"
BROKEN = "a <_|im_end|> b"
BLOCKED = "a <|endoftext|> b"


class Service:
    """The service, and what it decides."""

    def __init__(self, client: TestClient, decisions: list[Decision]) -> None:
        self.client = client
        self.decisions = decisions

    def ask(self, path: str, body: Json) -> Json:
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.mark.parametrize("path", [LITELLM, EVALUATE])
@pytest.mark.parametrize("chosen", ["<|im_end|>", "a b", "x" * 129, ""])
def test_an_odd_id_of_the_callers_is_copied_nowhere(service: Service, path: str, chosen: str) -> None:
    """It would stand in violations and logs, and it may be a control token itself."""
    body: Json = {"text": ATTACK, "source": "user"}
    if path == LITELLM:
        body = {"input_type": "request", "texts": [ATTACK], "litellm_call_id": chosen}
    answer = service.client.post(path, json=body, headers={"x-request-id": chosen})
    assert service.decisions[-1].call.request_id is None
    assert {violation.request_id for violation in service.decisions[-1].violations} == {None}
    assert "<|im_end|>" not in answer.text
    service.client.post(path, json=body, headers={"x-request-id": "req-1"})
    assert service.decisions[-1].call.request_id == "req-1"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Yield the service."""
    gatekeeper, decisions = make()
    with TestClient(Starlette(routes=routes(gatekeeper, max_body=CAP))) as client:
        yield Service(client, decisions)


def chat(*texts: str, role: str = "user") -> list[dict[str, Any]]:
    """Return messages, all of one role."""
    return [{"role": role, "content": text} for text in texts]


# --- LiteLLM's generic guardrail API -------------------------------------------------------------------------------


def test_litellm_gets_texts_messages_tools_and_calls_rewritten(service: Service) -> None:
    """All four go back, the messages with what no text holds: names, arguments, schema keys."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"q": ATTACK})}}
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": ATTACK}, {"type": "text", "text": "fine"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": ATTACK},
    ]
    tool = {
        "type": "function",
        "function": {"name": "f", "description": ATTACK, "parameters": {"properties": {ATTACK: {}}}},
    }
    body = {
        "input_type": "request",
        "texts": ["be kind", ATTACK, "fine", ATTACK],
        "structured_messages": messages,
        "tools": [tool],
        "tool_calls": [call],
        "request_data": {},
    }
    told = service.ask(LITELLM, body)
    assert told["action"] == "GUARDRAIL_INTERVENED"
    assert told["texts"] == ["be kind", BROKEN, "fine", BROKEN]
    assert [message["role"] for message in told["structured_messages"]] == ["system", "user", "assistant", "tool"]
    assert told["structured_messages"][2]["tool_calls"] == told["tool_calls"]
    assert not any(form in json.dumps(told) for form in FORMS)
    assert told["tool_calls"][0]["function"]["arguments"] == json.dumps({"q": BROKEN})


def test_litellm_is_told_nothing_where_nothing_is_to_do(service: Service) -> None:
    """Clean inputs are not sent back: LiteLLM keeps its own."""
    body = {"input_type": "request", "texts": ["hi"], "structured_messages": chat("hi")}
    assert service.ask(LITELLM, body) == {"action": "NONE", "blocked_reason": None}


def test_litellm_is_told_which_rule_blocks_and_where(service: Service) -> None:
    """The reason names path and rule, and not the token."""
    body = {"input_type": "request", "texts": [BLOCKED], "structured_messages": chat(BLOCKED)}
    told = service.ask(LITELLM, body)
    assert told["action"] == "BLOCKED"
    assert "$.messages[0].content" in told["blocked_reason"]
    assert "<|endoftext|>" not in told["blocked_reason"]


def test_a_text_of_no_message_is_unknown_and_one_alone_is_a_prompt(service: Service) -> None:
    """LiteLLM sends texts without messages for completions, whose prompts are the user's."""
    prompt = {"input_type": "request", "texts": [BLOCKED]}
    assert service.ask(LITELLM, prompt)["action"] == "BLOCKED"
    beside = {"input_type": "request", "texts": [BLOCKED, "hi"], "structured_messages": chat("hi")}
    told = service.ask(LITELLM, beside)
    assert told["texts"] == ["a <_|endoftext|> b", "hi"]
    assert service.decisions[-1].violations[0].source == "unknown"


def test_one_text_of_two_roles_is_the_word_of_neither(service: Service) -> None:
    """Where LiteLLM leaves messages out, a text that two roles wrote cannot be told apart, and is `unknown`."""
    messages = [*chat(BROKEN, role="system"), *chat(BROKEN), *chat("more")]
    told = service.ask(LITELLM, {"input_type": "request", "texts": [BROKEN], "structured_messages": messages})
    assert told["action"] == "NONE"
    messages = [*chat(ATTACK, role="system"), *chat(ATTACK), *chat("more")]
    told = service.ask(LITELLM, {"input_type": "request", "texts": [ATTACK], "structured_messages": messages})
    assert told["texts"] == [BROKEN]
    assert "unknown" in {violation.source for violation in service.decisions[-1].violations}


def test_many_texts_that_are_the_same_cost_no_more_than_others() -> None:
    """A text that stands in every message is looked up once, and not once for each."""
    count = 4_000
    looked = 0

    class Counting(dict[str, Json]):
        def get(self, *key: Json) -> Json:
            nonlocal looked
            looked += 1
            return super().get(*key)

    assert len(_places_of_texts([Counting(message) for message in chat(*["a"] * count)])) == 1
    assert looked <= 3 * count


def test_a_rewrite_that_litellm_does_not_take_back_is_a_block(service: Service) -> None:
    """Calls of a reply, and those that stand in no message, would go on as they came."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"q": ATTACK})}}
    for kind in ("request", "response"):
        told = service.ask(LITELLM, {"input_type": kind, "texts": ["hi"], "tool_calls": [call]})
        assert told["action"] == "BLOCKED"


def test_litellm_has_replies_judged_as_the_assistants(service: Service) -> None:
    """What the policy says of the assistant holds for texts of a response."""
    told = service.ask(LITELLM, {"input_type": "response", "texts": ["fine", ATTACK]})
    assert told["texts"] == ["fine", BROKEN]
    beside = {"input_type": "response", "texts": ["fine"], "structured_messages": chat(ATTACK, role="assistant")}
    told = service.ask(LITELLM, beside)
    assert (told["texts"], told["structured_messages"]) == (["fine"], chat(BROKEN, role="assistant"))
    assert service.ask(LITELLM, {"input_type": "response", "texts": [BLOCKED]})["action"] == "BLOCKED"
    assert service.decisions[-1].violations[0].source == "assistant"


# --- agentgateway and kgateway -------------------------------------------------------------------------------------

# After agentgateway v1.4.1, `crates/agentgateway/src/llm/policy/webhook.rs`, and for `/response` after the schema that
# solo.io published for Gloo AI Gateway (0.0.1), which knows no rejection there and is the narrower.
MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
}
REASON = {"reason": {"type": "string"}}


def _action(*allowed: dict[str, Any]) -> dict[str, Any]:
    closed = [{"type": "object", "additionalProperties": False, **one} for one in allowed]
    return {"type": "object", "required": ["action"], "properties": {"action": {"oneOf": closed}}}


def _mask(name: str, item: dict[str, Any]) -> dict[str, Any]:
    body = {"type": "object", "required": [name], "properties": {name: {"type": "array", "items": item}}}
    return {"required": ["body"], "properties": {"body": body, **REASON}}


PASS = {"properties": REASON}
REJECT = {
    "required": ["body", "status_code"],
    "properties": {"body": {"type": "string"}, "status_code": {"type": "integer"}, **REASON},
}
CHOICE = {"type": "object", "required": ["message"], "properties": {"message": MESSAGE}}
SCHEMAS = {
    REQUEST: _action(PASS, REJECT, _mask("messages", MESSAGE)),
    RESPONSE: _action(PASS, _mask("choices", CHOICE)),
}


def webhook(service: Service, path: str, body: Json) -> Json:
    """Ask as agentgateway does, and return the action if it is of a shape that agentgateway reads."""
    told = service.ask(path, {"body": body})
    jsonschema.validate(told, SCHEMAS[path])
    return told["action"]


def test_agentgateway_gets_as_many_messages_as_it_sent(service: Service) -> None:
    """A mask holds every message, changed or not, for agentgateway refuses one of another count."""
    action = webhook(service, REQUEST, {"messages": [*chat("be kind", role="system"), *chat("hi", ATTACK)]})
    assert action["body"]["messages"] == [*chat("be kind", role="system"), *chat("hi", BROKEN)]
    assert "body" not in webhook(service, REQUEST, {"messages": chat("hi")})


def test_agentgateway_rejects_with_an_error_that_openais_clients_read(service: Service) -> None:
    """The rejection's body is OpenAI's error, as a string, with real nulls."""
    action = webhook(service, REQUEST, {"messages": chat(BLOCKED)})
    assert action["status_code"] == 400
    error = json.loads(action["body"])["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == "messages[0].content"


@pytest.mark.parametrize("body", [{"messages": chat("hi")}, {"messages": chat(BLOCKED), "model": "m"}, {}, []])
def test_agentgateway_told_to_send_messages_raw_gets_an_error(service: Service, body: Json) -> None:
    """It sends no envelope and looks for no action: an answer without `messages` is a pass, an empty list is none."""
    told = service.ask(REQUEST, body)
    assert told["messages"] == []
    assert told["action"]["status_code"] == 400


def test_a_refused_reply_is_a_mask_that_nobody_can_apply(service: Service) -> None:
    """A rejection would be a pass for some versions, and a mask that can be applied is dropped where replies stream."""
    for texts in ([BLOCKED], ["secret", BLOCKED]):
        body = {"choices": [{"message": {"role": "", "content": text}} for text in texts]}
        action = webhook(service, RESPONSE, body)
        # With messages it is a request's mask for who looks at that first; for who does not, it is one of none.
        assert action["body"] == {"messages": [], "choices": []}
        assert "status_code" not in action


def test_a_reply_for_agentgateway_is_the_assistants_whatever_its_role(service: Service) -> None:
    """Replies of some protocols have none, and a hostile one could have any."""
    body = {"choices": [{"message": {"role": ATTACK, "content": ATTACK}}]}
    said = {"message": {"role": "assistant", "content": BROKEN}}
    assert webhook(service, RESPONSE, body)["body"] == {"choices": [said]}
    assert "body" not in webhook(service, RESPONSE, {"choices": [{"message": {"role": "x", "content": "hi"}}]})


# --- Portkey -------------------------------------------------------------------------------------------------------


def hook(kind: str, body: Json, *, after: bool = False) -> dict[str, Any]:
    """Return what Portkey posts."""
    side = {"json": body, "text": "", "isTransformed": False}
    empty = {"json": {}, "text": ""}
    return {
        "request": empty if after else side,
        "response": side if after else empty,
        "provider": "openai",
        "requestType": kind,
        "metadata": {},
        "eventType": "afterRequestHook" if after else "beforeRequestHook",
    }


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("chatComplete", {"model": "m", "messages": chat("{}")}, ("messages", 0, "content")),
        ("complete", {"model": "m", "prompt": "{}"}, ("prompt",)),
        ("embed", {"model": "m", "input": "{}"}, ("input",)),
        ("messages", {"model": "m", "max_tokens": 9, "messages": chat("{}")}, ("messages", 0, "content")),
    ],
)
def test_portkey_gets_a_whole_body_back(service: Service, kind: str, body: Json, text: tuple[Any, ...]) -> None:
    """Each kind of request is judged in its own protocol, and comes back where Portkey looks for it."""

    def filled(value: str) -> Json:
        return json.loads(json.dumps(body).replace("{}", value))

    told = service.ask(PORTKEY, hook(kind, filled(ATTACK)))
    assert told["verdict"] is True
    assert told["transformedData"] == {"request": {"json": filled(BROKEN)}}
    assert "transformedData" not in service.ask(PORTKEY, hook(kind, filled("hi")))
    place = filled(BROKEN)
    for step in text:
        place = place[step]
    assert place == BROKEN


def test_portkey_is_denied_in_words_that_it_does_not_take_for_an_outage(service: Service) -> None:
    """Portkey lets pass what answers with an error, so a denial is a verdict, whatever is wrong."""
    told = service.ask(PORTKEY, hook("chatComplete", {"messages": chat(BLOCKED)}))
    assert told["verdict"] is False
    assert told["data"]["path"] == "$.messages[0].content"
    for body in (hook("listen", {}), hook("chatComplete", None), {}, [], hook("chatComplete", "text")):
        assert service.ask(PORTKEY, body)["verdict"] is False
    assert service.client.post(PORTKEY, content=b"{" * 9).json()["verdict"] is False
    assert service.client.post(PORTKEY, content=b" " * (CAP + 1)).json()["verdict"] is False


def test_portkey_has_replies_judged(service: Service) -> None:
    """After the call, the reply is judged and comes back as the response; a streamed one, sent as null, is denied."""
    reply = {"choices": [{"index": 0, "message": {"role": "assistant", "content": ATTACK}}]}
    told = service.ask(PORTKEY, hook("chatComplete", reply, after=True))
    assert told["transformedData"]["response"]["json"]["choices"][0]["message"]["content"] == BROKEN
    assert service.ask(PORTKEY, hook("chatComplete", None, after=True))["verdict"] is False


# --- NeMo Guardrails -----------------------------------------------------------------------------------------------


def test_nemo_gets_the_content_of_the_message_that_it_asks_about(service: Service) -> None:
    """Of a request the user's last message, of a reply the assistant's."""
    body = {"model": "m", "messages": chat("one", ATTACK), "guardrails": {"config_id": "x"}}
    assert service.ask(NEMO, body) == {"status": "modified", "content": BROKEN}
    assert service.ask(NEMO, {"messages": chat("one", "two")}) == {"status": "passed", "content": "two"}
    told = service.ask(NEMO, {"messages": chat("one", BLOCKED)})
    assert told["status"] == "blocked"
    assert told["rail"].startswith("user.block")


def test_nemo_blocks_what_it_could_not_give_back(service: Service) -> None:
    """A verdict has one content: a form in another message, or in a tool, cannot be taken out of there."""
    assert service.ask(NEMO, {"messages": chat(ATTACK, "two")})["rail"] == "request.changed"
    tools = [{"type": "function", "function": {"name": "f", "description": ATTACK}}]
    assert service.ask(NEMO, {"messages": chat("two"), "tools": tools})["rail"] == "request.changed"
    parts = [{"role": "user", "content": [{"type": "text", "text": ATTACK}]}]
    assert service.ask(NEMO, {"messages": parts})["rail"] == "request.changed"


def test_nemo_has_replies_judged(service: Service) -> None:
    """Where an assistant speaks, or `rail_types` says so, its last message is a reply."""
    talk = [*chat("one"), *chat(ATTACK, role="assistant")]
    assert service.ask(NEMO, {"messages": talk}) == {"status": "modified", "content": BROKEN}
    only = {"messages": talk, "guardrails": {"rail_types": ["input"]}}
    assert service.ask(NEMO, only)["status"] == "blocked"


def test_nemo_is_told_of_a_broken_question_as_its_own_server_does(service: Service) -> None:
    """422, with OpenAI's envelope."""
    for body in ({}, {"messages": []}, {"messages": "hi"}, [], {"messages": [1]}):
        answer = service.client.post(NEMO, json=body)
        assert answer.status_code == 422
        assert answer.json()["error"]["type"] == "invalid_request_error"


# --- guardtok's own ------------------------------------------------------------------------------------------------


def test_evaluate_tells_all_of_a_text(service: Service) -> None:
    """Action, output, violations, decision and policy."""
    told = service.ask(EVALUATE, {"text": ATTACK, "source": "user"})
    assert told["action"] == "escape"
    assert told["output"] == BROKEN
    assert told["violations"][0]["rule"] == "user.default"
    assert told["decision_id"] == service.decisions[-1].id
    assert told["policy"]["name"] == "service"
    refused = service.ask(EVALUATE, {"text": BLOCKED, "source": "user"})
    assert (refused["action"], refused["refused"], refused["output"]) == ("block", True, None)
    assert refused["refusal"]["blame"] == "policy"


def test_evaluate_tells_all_of_a_body(service: Service) -> None:
    """Requests and replies, in every protocol of the walker's."""
    body = {"messages": chat(ATTACK)}
    told = service.ask(EVALUATE, {"body": body, "protocol": "openai.chat"})
    assert told["output"] == {"messages": chat(BROKEN)}
    assert told["violations"][0]["path"] == "$.messages[0].content"
    reply = {"choices": [{"index": 0, "message": {"role": "assistant", "content": ATTACK}}]}
    told = service.ask(EVALUATE, {"body": reply, "protocol": "openai.chat", "stage": "reply"})
    assert told["output"]["choices"][0]["message"]["content"] == BROKEN
    assert service.ask(EVALUATE, {"body": [], "protocol": "nonsense"})["refusal"]["rule"] == "request.protocol"


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"text": "hi"},
        {"text": "hi", "source": "nobody"},
        {"text": None, "source": "user"},
        {"text": "hi", "source": "user", "protocol": "openai.chat"},
        {"body": {}, "protocol": None},
        {"text": "hi", "source": "user", "surprise": 1},
    ],
)
def test_evaluate_does_not_guess_what_is_meant(service: Service, body: Json) -> None:
    """A question that is not one of the two gets a 400 that says so."""
    answer = service.client.post(EVALUATE, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["blame"] == "shape"


def test_a_near_source_is_named(service: Service) -> None:
    """The caller's own word is not repeated."""
    answer = service.client.post(EVALUATE, json={"text": "hi", "source": "usr"})
    assert "'user'" in answer.json()["error"]["message"]


def test_the_page_shows_what_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application on the page serves, and its example is answered as it says."""
    page = (Path(__file__).parent.parent / "docs" / "gateway-guardrails.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    question = re.search(r"/v1/evaluate -d '(.*?)'", page)
    assert program is not None
    assert question is not None
    monkeypatch.chdir(tmp_path)
    Path("policy.yaml").write_text(POLICY, encoding="utf-8")
    names: dict[str, Json] = {}
    exec(program[1], names)  # noqa: S102 - our own page
    with TestClient(names["app"]) as client:
        told = client.post(EVALUATE, content=question[1]).json()
    assert list(told) == re.findall(
        r'"(\w+)": ', re.sub(r"\[\{.*?\}\]|\{\"name.*?\}", "0", page.split("```json")[1].split("```")[0])
    )
    assert told["output"] == BROKEN.replace("a ", "hi ").removesuffix(" b")
    assert all(dialect.path in page for dialect in DIALECTS)


# --- every dialect -------------------------------------------------------------------------------------------------


def refuses(path: str, told: Json) -> bool:
    """Return whether an answer admits nothing, in the words of its dialect."""
    if path in {REQUEST, RESPONSE}:
        jsonschema.validate(told, SCHEMAS[path])
        action = told["action"]
        return "status_code" in action or action.get("body") == {"messages": [], "choices": []}
    if path == NEMO:
        return "error" in told or told["status"] == "blocked"
    if path == EVALUATE:
        return "error" in told or told["refused"]
    return told.get("action") == "BLOCKED" or told.get("verdict") is False


@pytest.mark.parametrize("path", [dialect.path for dialect in DIALECTS])
@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"", {}),
        (b"\xff\xfe", {}),
        (b'{"a": 1, "a": 2}', {}),
        (b'{"a": NaN}', {}),
        (b"[" * 500 + b"]" * 500, {}),
        (b" " * (CAP + 1), {}),
        (gzip.compress(b" " * 2_000_000), {"content-encoding": "gzip"}),
        (b"{}", {"content-encoding": "br"}),
        (b"{}", {"content-encoding": "gzip"}),
    ],
)
def test_what_cannot_be_read_is_refused(service: Service, path: str, content: bytes, headers: dict[str, str]) -> None:
    """No dialect lets pass what it cannot read, and none calls it an error of its own."""
    answer = service.client.post(path, content=content, headers=headers)
    assert answer.status_code < 500
    assert refuses(path, answer.json())


@pytest.mark.parametrize("path", [dialect.path for dialect in DIALECTS])
def test_a_guard_that_fails_admits_nothing(path: str) -> None:
    """Whatever breaks behind the door, the answer is a refusal in the dialect's words."""

    class Broken:
        @property
        def current(self) -> Json:
            raise MemoryError("<|im_end|>")

        def __getattr__(self, name: str) -> Json:
            raise MemoryError("<|im_end|>")

    questions = {
        LITELLM: {"input_type": "request", "texts": ["hi"]},
        REQUEST: {"body": {"messages": chat("hi")}},
        RESPONSE: {"body": {"choices": [{"message": {"role": "", "content": "hi"}}]}},
        PORTKEY: hook("chatComplete", {"messages": chat("hi")}),
        NEMO: {"messages": chat("hi")},
        EVALUATE: {"text": "hi", "source": "user"},
    }
    with TestClient(Starlette(routes=routes(Broken()))) as client:  # type: ignore[arg-type]  # a broken one
        told = client.post(path, json=questions[path])
    assert refuses(path, told.json())
    assert "im_end" not in told.text


def test_replies_pass_where_no_rule_asks_for_them() -> None:
    """A policy that says nothing of the assistant says nothing of replies, streamed ones included."""
    unruled = Guard.load(parse_policy('{guardtok: 1, sources: {"*": {default: block}}}'), "guardtok", sinks=())
    asked = {
        LITELLM: ({"input_type": "response", "texts": [ATTACK]}, "NONE"),
        RESPONSE: ({"body": {"choices": [{"message": {"role": "", "content": ATTACK}}]}}, "Nothing was changed."),
        PORTKEY: (hook("chatComplete", None, after=True), True),
    }
    with TestClient(Starlette(routes=routes(Gatekeeper(LiveGuard(unruled))))) as client:
        for path, (body, said) in asked.items():
            told = client.post(path, json=body).json()
            action = told.get("action", told.get("verdict"))
            assert said == (action["reason"] if isinstance(action, dict) else action)


SPICED = st.text(max_size=8) | st.sampled_from([*FORMS, ATTACK, BLOCKED, "\ud800", "user", "assistant", "text"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats(allow_nan=False) | SPICED,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SPICED, inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.lists(
    JSON
    | st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "tool", "x"]), "content": SPICED | JSON},
        optional={"name": SPICED, "tool_calls": JSON, "surprise": JSON},
    ),
    max_size=3,
)
BODY = JSON | st.fixed_dictionaries({"messages": MESSAGES}, optional={"tools": JSON, "prompt": JSON, "surprise": JSON})
CHOICES = st.lists(
    JSON | st.fixed_dictionaries({"message": JSON | st.fixed_dictionaries({"role": SPICED, "content": SPICED})}),
    max_size=3,
)
QUESTIONS = {
    LITELLM: st.fixed_dictionaries(
        {"input_type": st.sampled_from(["request", "response", "x"])},
        optional={
            "texts": st.lists(SPICED, max_size=4),
            "structured_messages": MESSAGES,
            "tools": JSON,
            "tool_calls": JSON,
        },
    ),
    REQUEST: st.fixed_dictionaries({"body": st.fixed_dictionaries({"messages": MESSAGES})}),
    RESPONSE: st.fixed_dictionaries({"body": st.fixed_dictionaries({"choices": CHOICES})}),
    PORTKEY: st.builds(
        hook, st.sampled_from(["chatComplete", "complete", "embed", "messages", "x"]), BODY, after=st.booleans()
    ),
    NEMO: st.fixed_dictionaries({"messages": MESSAGES}, optional={"guardrails": JSON, "tools": JSON}),
    EVALUATE: st.fixed_dictionaries({"text": SPICED, "source": st.sampled_from(["user", "template", "x"])})
    | st.fixed_dictionaries(
        {"body": BODY, "protocol": st.sampled_from(["openai.chat", "openai.completions", "anthropic.messages", "x"])},
        optional={"stage": st.sampled_from(["request", "reply"])},
    ),
}


def spoken(path: str, told: Json) -> str:
    """Return what of an answer goes on to a model or a client, as JSON."""
    if path == EVALUATE:
        told = {**told, "violations": None, "refusal": None}
    return json.dumps(told, ensure_ascii=False)


@pytest.mark.parametrize("path", [dialect.path for dialect in DIALECTS])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_question_has_an_answer_without_control_tokens(service: Service, path: str, data: st.DataObject) -> None:
    """No JSON makes a 500, and no answer holds a form that the policy does not allow its source."""
    question = data.draw(QUESTIONS[path] | JSON)
    if path == EVALUATE and isinstance(question, dict) and question.get("source") == "template":
        question["source"] = "user"
    answer = service.client.post(path, content=json.dumps(question))
    assert answer.status_code in {200, 400, 422}
    told = answer.json()
    assert not any(form in spoken(path, told) for form in FORMS)
