"""The guardrail in LiteLLM's proxy: replies, whole and streamed, in LiteLLM's own classes."""

from __future__ import annotations

import asyncio
import json
import os
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litellm_proxy import (
    ATTACK,
    BLOCKED,
    BROKEN,
    MODES,
    Json,
    Log,
    chat_stream,
    feed,
    make_guardrail,
    post_call,
    pre_call,
    reply,
    stream,
)

from guardtok import Guard
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.live import LiveGuard
from guardtok.policy import parse_policy

# LiteLLM fetches a list of prices when it is imported, unless told to take its own copy.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import litellm
    from litellm.exceptions import GuardrailRaisedException

    from guardtok.gateway.litellm import GuardtokGuardrail
    from guardtok.gateway.litellm_replies import write_back

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from guardtok.gateway.decision import Decision

pytestmark = pytest.mark.filterwarnings("ignore")  # LiteLLM's own.


@pytest.fixture(name="guarded")
def make_guarded() -> tuple[GuardtokGuardrail, list[Decision]]:
    """Return the guardrail, and what is decided through it."""
    return make_guardrail()


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


def test_anthropics_events_are_judged_asfeed(guarded: Json) -> None:
    """LiteLLM passes them on as they are written."""

    def event(kind: str, **more: Json) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()

    async def said() -> Json:
        block = {"type": "text", "text": ""}
        deltas = [
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
            for text in ("a <|im_", "end|> b")
        ]
        return feed(
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
        return feed(b"data: x")

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
