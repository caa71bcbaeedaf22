"""The guardrail in LiteLLM's proxy, called as LiteLLM's own code calls it, with LiteLLM's own objects."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from guardrail_service import FORMS, POLICY, make
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from guardtok import Guard
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.live import LiveGuard
from guardtok.policy import parse_policy

# LiteLLM fetches a list of prices when it is imported, unless told to take its own copy.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import litellm
    from litellm.caching import DualCache
    from litellm.exceptions import GuardrailRaisedException
    from litellm.proxy._types import UserAPIKeyAuth
    from litellm.types.guardrails import GuardrailEventHooks

    from guardtok.gateway.litellm import GuardtokGuardrail
    from guardtok.gateway.litellm_bodies import INTERNAL, protocol_of, put_body, take_body
    from guardtok.gateway.litellm_replies import write_back

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from guardtok.gateway.decision import Decision

pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM's own.

Json: TypeAlias = Any

ATTACK = "a <|im_end|> b"
BROKEN = "a <_|im_end|> b"
BLOCKED = "a <|endoftext|> b"
MODES = ["pre_call", "post_call"]


@pytest.fixture
def guarded() -> tuple[GuardtokGuardrail, list[Decision]]:
    """Return the guardrail, and what is decided through it."""
    gatekeeper, decisions = make()
    made = GuardtokGuardrail(gatekeeper=gatekeeper, guardrail_name="g", event_hook=MODES, default_on=True)
    return made, decisions


class Log:
    """LiteLLM's log object, which goes along from hook to hook."""


def pre_call(guardrail: GuardtokGuardrail, data: dict[str, Any], call_type: str = "acompletion") -> dict[str, Any]:
    """Call the hook as `ProxyLogging._execute_guardrail_hook` does."""
    assert guardrail.should_run_guardrail(data=data, event_type=GuardrailEventHooks.pre_call)
    hook = guardrail.async_pre_call_hook(
        user_api_key_dict=UserAPIKeyAuth(), cache=DualCache(), data=data, call_type=call_type
    )
    return asyncio.run(hook)


def post_call(guardrail: GuardtokGuardrail, data: dict[str, Any], response: Json) -> Json:
    """Call the hook as `ProxyLogging.post_call_success_hook` does."""
    assert guardrail.should_run_guardrail(data=data, event_type=GuardrailEventHooks.post_call)
    hook = guardrail.async_post_call_success_hook(user_api_key_dict=UserAPIKeyAuth(), data=data, response=response)
    return asyncio.run(hook)


def recorded(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what LiteLLM's loggers are told."""
    return data["metadata"]["standard_logging_guardrail_information"]


def reply(text: str, **more: Json) -> Json:
    """Return a reply as LiteLLM makes it, without an upstream."""
    messages = [{"role": "user", "content": "hi"}]
    return asyncio.run(litellm.acompletion(model="openai/m", messages=messages, mock_response=text, **more))


# --- requests ------------------------------------------------------------------------------------------------------


def test_what_extracted_texts_leave_out_is_judged(guarded: Json) -> None:
    """Names, arguments, tools, documents and template arguments, beside the content."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"q": ATTACK})}}
    tool = {"type": "function", "function": {"name": "f", "description": ATTACK, "parameters": {ATTACK: {}}}}
    data = {
        "model": "m",
        "messages": [
            {"role": "user", "name": ATTACK, "content": [{"type": "text", "text": ATTACK}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ],
        "tools": [tool],
        "documents": [{"title": ATTACK, "text": ATTACK}],
        "chat_template_kwargs": {"date": ATTACK},
        "stream": True,
    }
    made = pre_call(guarded[0], data)
    assert made is data
    body = {name: value for name, value in made.items() if name not in INTERNAL}
    assert not any(form in json.dumps(body) for form in FORMS)
    assert json.dumps(body).count("<_|im_end|>") == 8
    assert body["stream"] is True


@pytest.mark.parametrize(
    ("call_type", "field"),
    [
        ("text_completion", "prompt"),
        ("atext_completion", "prompt"),
        ("aembedding", "input"),
        ("allm_passthrough_route", "prompt"),
        ("allm_passthrough_route", "input_ids"),
    ],
)
def test_token_ids_reach_the_guard(guarded: Json, call_type: str, field: str) -> None:
    """A prompt of ids is refused, as the policy has it by default; LiteLLM's own interface never shows one."""
    for prompt in ([1, 2, 3], [[1], [2]]):
        with pytest.raises(GuardrailRaisedException) as caught:
            pre_call(guarded[0], {"model": "m", field: prompt}, call_type)
        assert caught.value.status_code == 400
        assert guarded[1][-1].refusal.rule == "request.token_ids"


@pytest.mark.parametrize(
    ("call_type", "data", "protocol"),
    [
        ("completion", {"messages": []}, "openai.chat"),
        ("acompletion", {"messages": []}, "openai.chat"),
        ("text_completion", {}, "openai.completions"),
        ("atext_completion", {}, "openai.completions"),
        ("responses", {}, "openai.responses"),
        ("aresponses", {}, "openai.responses"),
        ("acompact_responses", {}, "openai.responses"),
        ("anthropic_messages", {}, "anthropic.messages"),
        ("aanthropic_messages", {}, "anthropic.messages"),
        ("aembedding", {"input": ""}, "openai.completions"),
        ("pass_through_endpoint", {"messages": []}, "openai.chat"),
        ("something_new", {}, "openai.completions"),
    ],
)
def test_every_call_type_has_a_protocol(call_type: str, data: dict[str, Any], protocol: str) -> None:
    """Sync and async spellings say the same, and no call is let by because nobody knows its name."""
    assert protocol_of(call_type, data) == protocol


def test_the_call_types_are_spelled_as_litellm_spells_them() -> None:
    """An enumeration of LiteLLM's is taken for the string that it is."""
    assert protocol_of(litellm.types.utils.CallTypes.aresponses, {}) == "openai.responses"


@pytest.mark.parametrize(
    ("call_type", "field", "value", "made"),
    [
        ("aresponses", "instructions", ATTACK, BROKEN),
        ("aresponses", "input", [{"type": "function_call_output", "call_id": "1", "output": ATTACK}], None),
        ("anthropic_messages", "system", ATTACK, BROKEN),
        ("atext_completion", "prompt", [ATTACK, "x"], [BROKEN, "x"]),
        ("aembedding", "input", ATTACK, BROKEN),
        ("aimage_generation", "prompt", ATTACK, BROKEN),
    ],
)
def test_each_protocol_is_walked_as_its_own(guarded: Json, call_type: str, field: str, value: Json, made: Json) -> None:
    """Every API's own fields are rewritten in place."""
    base = {"model": "m", **({"messages": []} if call_type == "anthropic_messages" else {})}
    out = pre_call(guarded[0], {**base, field: value}, call_type)
    assert made is None or out[field] == made
    assert "<|im_end|>" not in json.dumps(out[field])


def test_what_is_litellms_own_is_left_alone(guarded: Json) -> None:
    """Objects and bookkeeping stay the very objects, whatever they hold."""
    own = {
        "metadata": {"headers": {"x": ATTACK}, "user_api_key_auth": UserAPIKeyAuth()},
        "litellm_metadata": {"x": ATTACK},
        "proxy_server_request": {"body": {"messages": [ATTACK]}, "headers": {}},
        "secret_fields": {"raw_headers": {"authorization": ATTACK}},
        "litellm_logging_obj": Log(),
        "litellm_call_id": "1",
        "shared_session": Log(),
    }
    data = {"model": "m", "messages": [{"role": "user", "content": ATTACK}], **own}
    made = pre_call(guarded[0], data)
    assert made["messages"][0]["content"] == BROKEN
    assert all(made[name] is value for name, value in own.items())


@pytest.mark.parametrize("name", ["litellm_anything", "litellm_system_prompt", "_litellm_x", "roles", "Metadata", "é"])
def test_no_name_of_the_callers_is_a_way_round(guarded: Json, name: str) -> None:
    """What is not named as LiteLLM's own is the caller's, whatever it looks like."""
    data = {"model": "m", "messages": [], name: {"user": {"pre_message": ATTACK}}}
    assert pre_call(guarded[0], data)[name] == {"user": {"pre_message": BROKEN}}


def test_extra_body_is_judged_as_what_the_upstream_gets_of_it(guarded: Json) -> None:
    """Its fields are the request's: token ids and templates in it are refused as they are outside."""
    data = {"model": "m", "messages": [], "extra_body": {"documents": [{"text": ATTACK}], "top_k": 3}}
    assert pre_call(guarded[0], data)["extra_body"] == {"documents": [{"text": BROKEN}], "top_k": 3}
    for extra, rule in (
        ({"chat_template": "{{ messages }}"}, "request.chat_template"),
        ({"messages": []}, "request.extra_body"),
        ("messages", "request.shape"),
    ):
        data = {"model": "m", "messages": [], "extra_body": extra}
        with pytest.raises(GuardrailRaisedException):
            pre_call(guarded[0], data)
        assert recorded(data)[-1]["guardrail_response"]["rule"] == rule


@pytest.mark.parametrize("name", ["fallbacks", "context_window_fallbacks", "content_policy_fallbacks"])
def test_a_fallback_brings_no_body_of_its_own(guarded: Json, name: str) -> None:
    """LiteLLM writes what a fallback holds over the request, after every guardrail."""
    for fine in (["n"], [{"model": "n"}], [{"m": ["n", "o"]}]):
        pre_call(guarded[0], {"model": "m", "messages": [], name: fine})
    for bad in ([{"model": "n", "messages": []}], [{"model": "n", "prompt": [1]}], [{"m": [{"prompt": [1]}]}], [[1]]):
        with pytest.raises(GuardrailRaisedException):
            pre_call(guarded[0], {"model": "m", "messages": [], name: bad})
        with pytest.raises(GuardrailRaisedException):
            pre_call(guarded[0], {"model": "m", "messages": [], "extra_body": {name: bad}})


FIELDS = st.dictionaries(
    st.sampled_from(["model", "messages", "stop", "x", "<|im_end|>", "extra_body", "metadata", "prompt"]),
    st.text(max_size=3) | st.lists(st.integers(), max_size=2) | st.dictionaries(st.text(max_size=2), st.none()),
)


@given(data=FIELDS)
def test_a_body_that_is_put_back_as_it_was_taken_changes_nothing(data: dict[str, Any]) -> None:
    """Taking a body out and putting it back loses no field and moves none in or out of `extra_body`."""
    try:
        body = take_body(data)
    except ValueError:
        return
    before = dict(data)
    put_body(data, body, dict(body.fields))
    assert data == before


def test_a_field_whose_name_is_changed_is_there_once(guarded: Json) -> None:
    """Keys are judged too, those of the body itself as well."""
    data = {"model": "m", "messages": [], ATTACK: 1, "extra_body": {f"x{ATTACK}": 2}}
    made = pre_call(guarded[0], data)
    made.pop("metadata")
    assert made == {"model": "m", "messages": [], BROKEN: 1, "extra_body": {f"x{BROKEN}": 2}}


SPICED = st.text(max_size=6) | st.sampled_from([*FORMS, ATTACK, BLOCKED, "role", "user", "text", "model"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | SPICED,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SPICED, inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["messages", "prompt", "input", "system", "tools", "extra_body", "fallbacks", "stop"]) | SPICED
CALL_TYPES = ["acompletion", "atext_completion", "aresponses", "anthropic_messages", "aembedding", "x"]


@given(data=st.dictionaries(NAMES, VALUES, max_size=4), call_type=st.sampled_from(CALL_TYPES))
def test_any_request_is_refused_or_goes_on_without_control_tokens(data: dict[str, Json], call_type: str) -> None:
    """Whatever the caller's fields are, a form that the policy does not allow is in none of them afterwards."""
    gatekeeper, _ = make()
    guardrail = GuardtokGuardrail(gatekeeper=gatekeeper, event_hook=MODES, default_on=True)
    try:
        made: Json = pre_call(guardrail, data, call_type)
    except GuardrailRaisedException as error:
        made = {"status": error.status_code, "message": error.message}
    said = json.dumps({name: value for name, value in made.items() if name not in INTERNAL}, ensure_ascii=False)
    assert not any(form in said for form in FORMS)
    assert made.get("status", 400) == 400 or "status" in data


# --- refusals and records ------------------------------------------------------------------------------------------


def test_a_refusal_is_a_clean_bad_request(guarded: Json) -> None:
    """Status 400, blocked content, a message with path and rule and without the token."""
    data = {"model": "m", "messages": [{"role": "user", "content": BLOCKED}]}
    with pytest.raises(GuardrailRaisedException) as caught:
        pre_call(guarded[0], data)
    error = caught.value
    assert (error.status_code, error.blocked_content, error.guardrail_name) == (400, True, "g")
    assert "$.messages[0].content" in error.message
    assert not any(form in error.message for form in FORMS)
    assert litellm.integrations.custom_guardrail.is_guardrail_intervention(error)


def test_a_guard_that_fails_admits_nothing_and_says_so(guarded: Json) -> None:
    """LiteLLM is told that it was no verdict, and not what the error says."""
    guardrail = guarded[0]

    class Broken:
        current = guardrail._gatekeeper.current

        def __getattr__(self, name: str) -> Json:
            raise MemoryError(ATTACK)

    guardrail._gatekeeper = Broken()
    for call in (
        lambda: pre_call(guardrail, {"model": "m", "messages": []}),
        lambda: post_call(guardrail, {"model": "m"}, reply("hi")),
        lambda: stream(guardrail, chat_stream("hi")),
    ):
        with pytest.raises(GuardrailRaisedException) as caught:
            call()
        assert (caught.value.status_code, caught.value.blocked_content) == (500, False)
        assert "im_end" not in caught.value.message


def test_an_error_of_the_upstreams_in_a_stream_goes_on_as_it_is(guarded: Json) -> None:
    """What LiteLLM does about it is for LiteLLM."""

    async def broken() -> Json:
        async def chunks() -> AsyncIterator[Json]:
            async for chunk in await chat_stream("hello there"):
                yield chunk
                raise ConnectionError

        return chunks()

    with pytest.raises(ConnectionError):
        stream(guarded[0], broken())
    assert [decision.stage for decision in guarded[1]] == ["reply"]


@pytest.mark.parametrize(
    ("text", "status", "changed"), [("hi", "success", False), (ATTACK, "guardrail_intervened", True)]
)
def test_what_was_decided_is_recorded(guarded: Json, text: str, status: str, changed: bool) -> None:  # noqa: FBT001
    """LiteLLM's loggers hear the decision's id, the rules, and the places; never the text."""
    data = {"model": "m", "messages": [{"role": "user", "content": text}]}
    pre_call(guarded[0], data)
    (told,) = recorded(data)
    assert told["guardrail_status"] == status
    assert told["guardrail_id"] == guarded[1][-1].id
    assert told["guardrail_mode"] == "pre_call"
    assert told["guardrail_response"]["changed"] is changed
    assert told["masked_entity_count"] == ({"user.default": 1} if changed else {})
    assert text not in json.dumps(told)


def test_a_refusal_is_recorded_as_an_intervention(guarded: Json) -> None:
    """With the rule."""
    data = {"model": "m", "messages": [{"role": "user", "content": BLOCKED}]}
    with pytest.raises(GuardrailRaisedException):
        pre_call(guarded[0], data)
    (told,) = recorded(data)
    assert told["guardrail_status"] == "guardrail_intervened"
    assert told["guardrail_response"]["rule"].startswith("user.block")


# --- replies -------------------------------------------------------------------------------------------------------


def test_a_reply_is_changed_in_place(guarded: Json) -> None:
    """It stays LiteLLM's object, with all that is not text: usage, hidden parameters, ids."""
    response = reply(ATTACK)
    hidden = response._hidden_params
    made = post_call(guarded[0], {"model": "m"}, response)
    assert made is response
    assert made.choices[0].message.content == BROKEN
    assert made._hidden_params is hidden
    assert type(made.choices[0].message) is litellm.Message


def test_replies_of_every_protocol_are_judged(guarded: Json) -> None:
    """Completions, the Responses API and Anthropic's messages."""
    text = asyncio.run(litellm.atext_completion(model="openai/m", prompt="x", mock_response=ATTACK))
    assert post_call(guarded[0], {}, text).choices[0].text == BROKEN
    said = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": ATTACK}]}
    assert post_call(guarded[0], {}, said)["content"] == [{"type": "text", "text": BROKEN}]
    output = {
        "type": "message",
        "id": "m1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": ATTACK, "annotations": []}],
    }
    response = litellm.ResponsesAPIResponse(
        id="r", created_at=1, output=[output], parallel_tool_calls=True, tool_choice="auto", tools=[], top_p=1.0
    )
    made = post_call(guarded[0], {}, response)
    assert made.output[0].content[0].text == BROKEN


def test_a_refused_reply_is_an_error(guarded: Json) -> None:
    """The caller gets the refusal and nothing of the reply."""
    with pytest.raises(GuardrailRaisedException) as caught:
        post_call(guarded[0], {"model": "m"}, reply(BLOCKED))
    assert caught.value.status_code == 400


def test_what_holds_no_words_of_an_assistants_passes(guarded: Json) -> None:
    """Embeddings and pictures are not judged, and are no decision."""
    response = litellm.EmbeddingResponse(model="m", data=[])
    assert post_call(guarded[0], {}, response) is response
    assert guarded[1] == []


def test_a_reply_is_judged_by_the_policy_of_its_request(guarded: Json) -> None:
    """A policy that comes in between is for the next request."""
    guardrail, decisions = guarded
    data = {"model": "m", "messages": [], "litellm_logging_obj": Log()}
    pre_call(guardrail, data)
    begun = decisions[-1].snapshot
    live = guardrail._gatekeeper._guards
    live.current = type(begun)(begun.guard, begun.loaded + 1)
    post_call(guardrail, data, reply("hi"))
    assert decisions[-1].snapshot is begun
    post_call(guardrail, {"litellm_logging_obj": Log()}, reply("hi"))
    assert decisions[-1].snapshot is live.current


@given(
    old=st.recursive(
        st.text(max_size=2), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=1), inner)
    ),
    new=st.recursive(
        st.text(max_size=2), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=1), inner)
    ),
)
def test_writing_back_gives_the_new_reply(old: Json, new: Json) -> None:
    """Whatever changed, keys and lengths too, the reply is the new one."""
    assert write_back(json.loads(json.dumps(old)), old, new) == new


# --- streams -------------------------------------------------------------------------------------------------------


def stream(guardrail: GuardtokGuardrail, response: Json, data: dict[str, Any] | None = None) -> list[Any]:
    """Run the hook as `ProxyLogging.async_post_call_streaming_iterator_hook` does."""

    async def run() -> list[Any]:
        made = guardrail.async_post_call_streaming_iterator_hook(
            user_api_key_dict=UserAPIKeyAuth(), response=await response, request_data=data or {}
        )
        return [chunk async for chunk in made]

    return asyncio.run(run())


def chat_stream(text: str) -> Json:
    """Return a stream of LiteLLM's, to be awaited."""
    messages = [{"role": "user", "content": "hi"}]
    return litellm.acompletion(model="openai/m", messages=messages, mock_response=text, stream=True)


async def _bytes(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def test_a_streamed_reply_is_what_the_whole_one_is(guarded: Json) -> None:
    """Forms that are cut over chunks are found, and chunks keep LiteLLM's classes."""
    chunks = stream(guarded[0], chat_stream(f"say {ATTACK}"))
    assert {type(chunk).__name__ for chunk in chunks} == {"ModelResponseStream"}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == f"say {BROKEN}"
    text = litellm.atext_completion(model="openai/m", prompt="x", mock_response=ATTACK, stream=True)
    assert "".join(chunk.choices[0].text or "" for chunk in stream(guarded[0], text)) == BROKEN


def test_what_was_held_back_comes_at_the_end(guarded: Json) -> None:
    """A stream that ends in the beginning of a form, without a last chunk, loses nothing."""

    async def cut() -> Json:
        async def chunks() -> AsyncIterator[Json]:
            async for chunk in await chat_stream("say <|im_"):
                if chunk.choices[0].finish_reason is None:
                    yield chunk

        return chunks()

    chunks = stream(guarded[0], cut())
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "say <|im_"


def test_a_clean_stream_is_the_very_chunks(guarded: Json) -> None:
    """Nothing is made anew where nothing was found."""
    sent: list[Any] = []

    async def tee() -> Json:
        async def watched() -> AsyncIterator[Any]:
            async for chunk in await chat_stream("hello there"):
                sent.append(chunk)
                yield chunk

        return watched()

    chunks = stream(guarded[0], tee())
    assert len(chunks) == len(sent)
    assert all(one is other for one, other in zip(chunks, sent, strict=True))


def test_a_refused_stream_breaks_off(guarded: Json) -> None:
    """With the guardrail's exception, which LiteLLM turns into an error event."""
    with pytest.raises(GuardrailRaisedException):
        stream(guarded[0], chat_stream(f"say {BLOCKED}"))


def test_anthropics_events_are_judged_as_bytes(guarded: Json) -> None:
    """LiteLLM passes them on as they are written."""

    def event(kind: str, **more: Json) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()

    async def said() -> Json:
        block = {"type": "text", "text": ""}
        deltas = [
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
            for text in ("a <|im_", "end|> b")
        ]
        return _bytes(
            event("message_start", message={"id": "1", "type": "message", "role": "assistant", "content": []}),
            event("content_block_start", index=0, content_block=block),
            *deltas,
            event("content_block_stop", index=0),
            event("message_stop"),
        )

    log = Log()
    log.call_type = "anthropic_messages"  # type: ignore[attr-defined]
    made = b"".join(stream(guarded[0], said(), {"litellm_logging_obj": log}))
    assert b"<|im_end|>" not in made
    assert b"message_stop" in made

    async def said_otherwise(read: Callable[[bytes], Json]) -> Json:
        async def chunks() -> AsyncIterator[Json]:
            async for chunk in await said():
                yield read(chunk)

        return chunks()

    for read, kind in ((bytes.decode, str), (lambda chunk: json.loads(chunk.partition(b"data: ")[2]), dict)):
        parts = stream(guarded[0], said_otherwise(read), {"litellm_logging_obj": log})
        assert {type(part) for part in parts} == {kind}
        assert "<|im_end|>" not in "".join(map(str, parts))


def test_a_stream_of_a_kind_that_nobody_knows_is_refused(guarded: Json) -> None:
    """Bytes of another call than Anthropic's cannot be judged; where no rule asks for it, they pass."""

    async def said() -> Json:
        return _bytes(b"data: x")

    with pytest.raises(GuardrailRaisedException, match="cannot be judged"):
        stream(guarded[0], said())
    unruled = Guard.load(parse_policy('{guardtok: 1, sources: {"*": {default: escape}}}'), "guardtok", sinks=())
    guardrail = GuardtokGuardrail(gatekeeper=Gatekeeper(LiveGuard(unruled)), event_hook=MODES, default_on=True)
    assert stream(guardrail, said()) == [b"data: x"]
    assert post_call(guardrail, {}, reply(ATTACK)).choices[0].message.content == ATTACK


def test_a_reply_that_does_not_take_its_change_is_refused(guarded: Json) -> None:
    """What goes out is looked at once more."""

    class Stubborn(litellm.ModelResponse):
        def model_dump(self, **_: Json) -> Json:
            return {"choices": [{"message": {"role": "assistant", "content": ATTACK}}]}

    with pytest.raises(GuardrailRaisedException) as caught:
        post_call(guarded[0], {}, Stubborn(choices=[{"message": {"role": "assistant", "content": ATTACK}}]))
    assert caught.value.status_code == 500


# --- modes and configuration ---------------------------------------------------------------------------------------


def test_logging_only_decides_and_changes_nothing(guarded: Json) -> None:
    """What goes to LiteLLM's log is a copy that says what was found, in request and reply."""
    kwargs = {
        "messages": [{"role": "user", "content": BLOCKED}],
        "optional_params": {"extra_body": {"documents": [{"text": ATTACK}]}},
        "standard_logging_object": {"id": "1"},
        "litellm_call_id": "c",
    }
    before = json.dumps(kwargs)
    response = reply(ATTACK)
    made, result = asyncio.run(guarded[0].async_logging_hook(kwargs, response, "acompletion"))
    assert json.dumps(kwargs) == before
    assert result.choices[0].message.content == ATTACK
    asked, said = made["standard_logging_object"]["guardrail_information"]
    assert asked["guardrail_status"] == "guardrail_intervened"
    assert {detail["path"] for detail in asked["match_details"]} == {"$.messages[0].content", "$.documents[0].text"}
    assert said["guardrail_response"]["changed"] is True


def test_logging_only_sees_token_ids(guarded: Json) -> None:
    """A prompt of ids stays one in LiteLLM's log."""
    kwargs = {"messages": [1, 2], "optional_params": {}, "standard_logging_object": {}}
    asyncio.run(guarded[0].async_logging_hook(kwargs, None, "atext_completion"))
    assert guarded[1][-1].refusal.rule == "request.token_ids"


def test_litellm_itself_calls_the_logging_hook() -> None:
    """In `logging_only` the traffic is as it was, and the log knows."""
    gatekeeper, decisions = make()
    guardrail = GuardtokGuardrail(gatekeeper=gatekeeper, event_hook="logging_only", default_on=True)

    async def run() -> Json:
        messages = [{"role": "user", "content": f"mine {ATTACK}"}]
        made = await litellm.acompletion(model="openai/m", messages=messages, mock_response=ATTACK)
        for _ in range(200):
            if mine():
                break
            await asyncio.sleep(0.05)
        return made

    def mine() -> list[Decision]:
        # LiteLLM's worker may still have calls of the tests before this one to log.
        first = [one for one in decisions if "mine" in json.dumps(one.input)]
        return [one for one in decisions if first and one.call.request_id == first[0].call.request_id]

    litellm.callbacks = [guardrail]
    try:
        assert asyncio.run(run()).choices[0].message.content == ATTACK
    finally:
        litellm.callbacks = []
        litellm.success_callback = []
        litellm._async_success_callback = []
    assert [decision.stage for decision in mine()] == ["request", "reply"]


def test_a_mode_that_is_not_kept_is_refused_at_the_start() -> None:
    """A proxy that was configured wrong does not start, rather than guard nothing."""
    gatekeeper, _ = make()
    for mode in ("pre_call", "post_call", "logging_only", MODES):
        GuardtokGuardrail(gatekeeper=gatekeeper, event_hook=mode)
    for mode in ("during_call", "pre_mcp_call", ["pre_call", "during_call"]):
        with pytest.raises(ValueError, match="not in the supported event hooks"):
            GuardtokGuardrail(gatekeeper=gatekeeper, event_hook=mode)


def test_it_is_configured_by_litellms_yaml(tmp_path: Path) -> None:
    """`policy`, `tokenizer` and `settings` come as keywords, among two score of LiteLLM's own."""
    policy = tmp_path / "p.yaml"
    policy.write_text(POLICY, encoding="utf-8")
    made = GuardtokGuardrail(
        guardrail_name="g",
        event_hook=["pre_call"],
        default_on=True,
        policy=str(policy),
        tokenizer="guardtok",
        settings={"max_body": 1000},
        unreachable_fallback="fail_closed",
        version=2,
        mask=False,
    )
    out = pre_call(made, {"model": "m", "messages": [{"role": "user", "content": ATTACK}]})
    assert out["messages"][0]["content"] == BROKEN


def test_the_configuration_on_the_page_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As LiteLLM hands it over: what stands under `litellm_params`, `mode` under another name."""
    page = Path(__file__).parent.parent / "docs" / "gateway-litellm.md"
    config = re.search(r"```yaml\n(# config.yaml.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert config is not None
    guardrail = YAML(typ="safe").load(config[1])["guardrails"][0]
    params = guardrail["litellm_params"]
    module, _, name = params.pop("guardrail").rpartition(".")
    monkeypatch.chdir(tmp_path)
    Path("policy.yaml").write_text(POLICY, encoding="utf-8")
    made = getattr(importlib.import_module(module), name)(
        guardrail_name=guardrail["guardrail_name"], event_hook=params.pop("mode"), **params
    )
    assert pre_call(made, {"model": "m", "messages": [{"role": "user", "content": ATTACK}]})["messages"][0] == {
        "role": "user",
        "content": BROKEN,
    }
    made._running._log.close()
    assert "openai.chat" in Path("decisions.log").read_text(encoding="utf-8")


def test_the_proxys_test_endpoint_is_answered(guarded: Json) -> None:
    """`/guardrails/apply_guardrail` hands over texts alone."""
    inputs = {"texts": [ATTACK]}
    data = {"metadata": {}}
    made = asyncio.run(guarded[0].apply_guardrail(inputs=inputs, request_data=data, input_type="request"))
    assert made == {"texts": [BROKEN]}
    assert len(recorded(data)) == 1
    with pytest.raises(GuardrailRaisedException):
        asyncio.run(guarded[0].apply_guardrail(inputs={"texts": [BLOCKED]}, request_data={}, input_type="response"))


def test_litellm_takes_it_for_a_guardrail_with_hooks_of_its_own() -> None:
    """What LiteLLM looks up on the class itself is there."""
    assert GuardtokGuardrail.use_native_lifecycle_hooks
    assert {"async_pre_call_hook", "async_post_call_success_hook", "async_post_call_streaming_iterator_hook"} <= vars(
        GuardtokGuardrail
    ).keys()


def test_without_litellm_only_its_module_is_missing() -> None:
    """The import says which extra to install, and the rest of the gateway needs none of it."""
    program = (
        "import sys; sys.modules['litellm'] = None\n"
        "import guardtok.gateway.guardrails, guardtok.gateway.litellm_bodies\n"
        "from guardtok.errors import MissingExtraError\n"
        "try:\n    import guardtok.gateway.litellm\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "guardtok[litellm]" in done.stdout
