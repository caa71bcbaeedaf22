"""The guardrail in LiteLLM's proxy: how it refuses, what it records, its modes and its configuration."""

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
from typing import TYPE_CHECKING

import pytest
from guardrail_service import FORMS, POLICY, make
from litellm_proxy import (
    ATTACK,
    BLOCKED,
    BROKEN,
    MODES,
    Json,
    chat_stream,
    make_guardrail,
    post_call,
    pre_call,
    recorded,
    reply,
    stream,
)
from ruamel.yaml import YAML

# LiteLLM fetches a list of prices when it is imported, unless told to take its own copy.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import litellm
    from litellm.exceptions import GuardrailRaisedException

    from guardtok.gateway.litellm import GuardtokGuardrail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from guardtok.gateway.decision import Decision

pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM's own.


@pytest.fixture(name="guarded")
def make_guarded() -> tuple[GuardtokGuardrail, list[Decision]]:
    """Return the guardrail, and what is decided through it."""
    return make_guardrail()


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
