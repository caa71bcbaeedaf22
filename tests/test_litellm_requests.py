"""The guardrail in LiteLLM's proxy: requests of every kind of call, as they go to the upstream."""

from __future__ import annotations

import json
import os
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from guardrail_service import FORMS, make
from hypothesis import given
from hypothesis import strategies as st
from litellm_proxy import (
    ATTACK,
    BLOCKED,
    BROKEN,
    MODES,
    Json,
    Log,
    make_guardrail,
    pre_call,
    recorded,
)

# LiteLLM fetches a list of prices when it is imported, unless told to take its own copy.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import litellm
    from litellm.exceptions import GuardrailRaisedException
    from litellm.proxy._types import UserAPIKeyAuth

    from guardtok.gateway.litellm import GuardtokGuardrail
    from guardtok.gateway.litellm_bodies import INTERNAL, protocol_of, put_body, take_body

if TYPE_CHECKING:
    from guardtok.gateway.decision import Decision

pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM's own.


@pytest.fixture(name="guarded")
def make_guarded() -> tuple[GuardtokGuardrail, list[Decision]]:
    """Return the guardrail, and what is decided through it."""
    return make_guardrail()


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
