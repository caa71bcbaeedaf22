"""Replies of the four protocols, whole and as servers stream them, and what the official clients read in a stream."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from anthropic._streaming import SSEDecoder as AnthropicDecoder
from anthropic.types import RawMessageStreamEvent
from openai._streaming import SSEDecoder as OpenAIDecoder
from openai.types.chat import ChatCompletionChunk
from openai.types.completion import Completion
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

if TYPE_CHECKING:
    from collections.abc import Iterator

ANTHROPIC: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
RESPONSES: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Attributes:
        text: The answer.
        thought: The reasoning before it.
        name: The name of the tool that it calls.
        arguments: The JSON of the call.
    """

    text: str
    thought: str
    name: str
    arguments: str


@dataclass
class Cutter:
    """Cuts texts into fragments at places that somebody else picks."""

    places: list[int]
    at: int = field(default=0)

    def cut(self, text: str) -> list[str]:
        """Return the fragments of a text, none of them empty unless the text is."""
        own = self.places[self.at : self.at + 4]
        self.at += 4
        borders = sorted({place % (len(text) + 1) for place in own} | {0, len(text)})
        return [text[a:b] for a, b in pairwise(borders)] or [text]


def write(event: dict[str, Any], *, named: bool) -> bytes:
    """Return an event as servers write it."""
    name = f"event: {event['type']}\n" if named else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def chat_whole(reply: Reply) -> dict[str, Any]:
    """Return a chat completion."""
    call = {"id": "call_1", "type": "function", "function": {"name": reply.name, "arguments": reply.arguments}}
    message = {"role": "assistant", "content": reply.text, "reasoning_content": reply.thought, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None}
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def chat_stream(reply: Reply, cutter: Cutter) -> Iterator[bytes]:
    """Yield the events of a chat completion."""

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        envelope = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "usage": None}
        return write({**envelope, "choices": [choice]}, named=False)

    yield chunk({"role": "assistant", "content": ""})
    yield b": a comment\n\n"
    for fragment in cutter.cut(reply.thought):
        yield chunk({"reasoning_content": fragment})
    for fragment in cutter.cut(reply.text):
        yield chunk({"content": fragment})
    yield chunk(
        {
            "tool_calls": [
                {"index": 0, "id": "call_1", "type": "function", "function": {"name": reply.name, "arguments": ""}}
            ]
        }
    )
    for fragment in cutter.cut(reply.arguments):
        yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": fragment}}]})
    yield chunk({}, "tool_calls")
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    yield write(
        {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": usage},
        named=False,
    )
    yield b"data: [DONE]\n\n"


def chat_read(body: bytes) -> Reply:
    """Return what the client reads."""
    text = thought = name = arguments = ""
    for event in OpenAIDecoder().iter_bytes(iter([body])):
        if event.data == "[DONE]":
            break
        for choice in ChatCompletionChunk.model_validate(event.json()).choices:
            text += choice.delta.content or ""
            thought += (choice.delta.model_extra or {}).get("reasoning_content") or ""
            for call in choice.delta.tool_calls or ():
                name += (call.function and call.function.name) or ""
                arguments += (call.function and call.function.arguments) or ""
    return Reply(text, thought, name, arguments)


def chat_parts(body: dict[str, Any]) -> Reply:
    """Return the texts of a whole chat completion."""
    message = body["choices"][0]["message"]
    function = message["tool_calls"][0]["function"]
    return Reply(message["content"], message["reasoning_content"], function["name"], function["arguments"])


def completion_whole(reply: Reply) -> dict[str, Any]:
    """Return a completion with two choices."""
    choices = [
        {"index": 0, "text": reply.text, "finish_reason": "stop", "logprobs": None},
        {"index": 1, "text": reply.thought, "finish_reason": "stop", "logprobs": None},
    ]
    return {"id": "c1", "object": "text_completion", "created": 1, "model": "m", "choices": choices}


def completion_stream(reply: Reply, cutter: Cutter) -> Iterator[bytes]:
    """Yield the events of a completion, its choices in turns; nothing says that they end but the end."""
    texts = [(0, each) for each in cutter.cut(reply.text)], [(1, each) for each in cutter.cut(reply.thought)]
    while any(texts):
        for fragments in texts:
            if fragments:
                index, text = fragments.pop(0)
                # The type asks for a reason, servers send null.
                choice = {"index": index, "text": text, "logprobs": None, "finish_reason": None}
                event = {"id": "c1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
                yield write(event, named=False)
    yield b"data: [DONE]\n\n"


def completion_read(body: bytes) -> Reply:
    """Return what the client reads."""
    texts = ["", ""]
    for event in OpenAIDecoder().iter_bytes(iter([body])):
        if event.data == "[DONE]":
            break
        for choice in Completion.construct(**event.json()).choices:
            texts[choice.index] += choice.text
    return Reply(*texts, "", "")


def completion_parts(body: dict[str, Any]) -> Reply:
    """Return the texts of a whole completion."""
    return Reply(body["choices"][0]["text"], body["choices"][1]["text"], "", "")


def message_whole(reply: Reply) -> dict[str, Any]:
    """Return an Anthropic message."""
    content = [
        {"type": "thinking", "thinking": reply.thought, "signature": "c2ln"},
        {"type": "text", "text": reply.text},
        {"type": "tool_use", "id": "toolu_1", "name": reply.name, "input": json.loads(reply.arguments)},
    ]
    return {**_message(), "content": content, "stop_reason": "tool_use"}


def _message() -> dict[str, Any]:
    usage = {"input_tokens": 1, "output_tokens": 1}
    opening = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    return {**opening, "stop_reason": None, "stop_sequence": None, "usage": usage}


def message_stream(reply: Reply, cutter: Cutter) -> Iterator[bytes]:
    """Yield the events of an Anthropic message."""
    yield write({"type": "message_start", "message": _message()}, named=True)
    yield write({"type": "ping"}, named=True)
    call = {"type": "tool_use", "id": "toolu_1", "name": reply.name, "input": {}}
    blocks: list[tuple[dict[str, Any], str, str, str]] = [
        ({"type": "thinking", "thinking": "", "signature": ""}, "thinking_delta", "thinking", reply.thought),
        ({"type": "text", "text": ""}, "text_delta", "text", reply.text),
        (call, "input_json_delta", "partial_json", reply.arguments),
    ]
    for index, (block, kind, key, text) in enumerate(blocks):
        yield write({"type": "content_block_start", "index": index, "content_block": block}, named=True)
        for fragment in cutter.cut(text):
            delta = {"type": kind, key: fragment}
            yield write({"type": "content_block_delta", "index": index, "delta": delta}, named=True)
        if key == "thinking":
            delta = {"type": "signature_delta", "signature": "c2ln"}
            yield write({"type": "content_block_delta", "index": index, "delta": delta}, named=True)
        yield write({"type": "content_block_stop", "index": index}, named=True)
    ending = {"stop_reason": "tool_use", "stop_sequence": None}
    yield write({"type": "message_delta", "delta": ending, "usage": {"output_tokens": 9}}, named=True)
    yield write({"type": "message_stop"}, named=True)


def message_read(body: bytes) -> Reply:
    """Return what the client reads; every delta must lie between the start and the stop of its block."""
    texts = {"text_delta": "", "thinking_delta": "", "input_json_delta": ""}
    keys = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
    name = ""
    current = None
    for sse in AnthropicDecoder().iter_bytes(iter([body])):
        if sse.event == "ping":
            continue
        event = ANTHROPIC.validate_json(sse.data)
        assert event.type == sse.event
        if event.type == "content_block_start":
            assert current is None
            current = event.index
            name += event.content_block.name if event.content_block.type == "tool_use" else ""
        elif event.type == "content_block_stop":
            assert current == event.index
            current = None
        elif event.type == "content_block_delta":
            assert current == event.index
            if event.delta.type in texts:
                texts[event.delta.type] += getattr(event.delta, keys[event.delta.type])
    return Reply(texts["text_delta"], texts["thinking_delta"], name, texts["input_json_delta"])


def message_parts(body: dict[str, Any]) -> Reply:
    """Return the texts of a whole message."""
    thinking, text, call = body["content"]
    return Reply(text["text"], thinking["thinking"], call["name"], json.dumps(call["input"]))


def response_whole(reply: Reply, status: str = "completed") -> dict[str, Any]:
    """Return a response of the Responses API."""
    output = [
        {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": reply.thought}]},
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": reply.text, "annotations": []}],
        },
        {
            "id": "fc_1",
            "type": "function_call",
            "call_id": "call_1",
            "status": "completed",
            "name": reply.name,
            "arguments": reply.arguments,
        },
    ]
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": status,
        "output": output,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }


def response_stream(reply: Reply, cutter: Cutter) -> Iterator[bytes]:
    """Yield the events of a response, each text of which is said five times."""
    whole = response_whole(reply)
    thought, message, call = whole["output"]
    number = iter(range(10_000))

    def event(kind: str, **fields: object) -> bytes:
        return write({"type": f"response.{kind}", "sequence_number": next(number), **fields}, named=True)

    yield event("created", response={**whole, "status": "in_progress", "output": []})
    place: dict[str, Any] = {"item_id": "rs_1", "output_index": 0}
    part = {**place, "summary_index": 0}
    yield event("output_item.added", output_index=0, item={**thought, "summary": []})
    yield event("reasoning_summary_part.added", **part, part={"type": "summary_text", "text": ""})
    for fragment in cutter.cut(reply.thought):
        yield event("reasoning_summary_text.delta", **part, delta=fragment)
    yield event("reasoning_summary_text.done", **part, text=reply.thought)
    yield event("reasoning_summary_part.done", **part, part=thought["summary"][0])
    yield event("output_item.done", output_index=0, item=thought)
    part = {"item_id": "msg_1", "output_index": 1, "content_index": 0}
    yield event("output_item.added", output_index=1, item={**message, "content": []})
    yield event("content_part.added", **part, part={"type": "output_text", "text": "", "annotations": []})
    for fragment in cutter.cut(reply.text):
        yield event("output_text.delta", **part, delta=fragment, logprobs=[])
    yield event("output_text.done", **part, text=reply.text, logprobs=[])
    yield event("content_part.done", **part, part=message["content"][0])
    yield event("output_item.done", output_index=1, item=message)
    place = {"item_id": "fc_1", "output_index": 2}
    yield event("output_item.added", output_index=2, item={**call, "arguments": ""})
    for fragment in cutter.cut(reply.arguments):
        yield event("function_call_arguments.delta", **place, delta=fragment)
    yield event("function_call_arguments.done", **place, arguments=reply.arguments)
    yield event("output_item.done", output_index=2, item=call)
    yield event("completed", response=whole)


def response_read(body: bytes) -> Reply:  # noqa: C901 - a case for each event
    """Return what the client reads in the fragments; the other four times must say the same."""
    thought = text = arguments = ""
    said: list[Reply] = []
    for sse in OpenAIDecoder().iter_bytes(iter([body])):
        event = RESPONSES.validate_json(sse.data)
        assert event.type == sse.event
        match event.type:
            case "response.reasoning_summary_text.delta":
                thought += event.delta
            case "response.output_text.delta":
                text += event.delta
            case "response.function_call_arguments.delta":
                arguments += event.delta
            case "response.reasoning_summary_text.done":
                assert event.text == thought
            case "response.output_text.done":
                assert event.text == text
            case "response.function_call_arguments.done":
                assert json.loads(event.arguments) == json.loads(arguments)
            case "response.reasoning_summary_part.done":
                assert event.part.text == thought
            case "response.content_part.done":
                assert event.part.text == text
            case "response.completed":
                said.append(response_parts(event.response.model_dump()))
                assert (said[-1].text, said[-1].thought) == (text, thought)
                assert json.loads(said[-1].arguments) == json.loads(arguments)
            case _:
                pass
    return Reply(text, thought, said[-1].name if said else "", arguments)


def response_parts(body: dict[str, Any]) -> Reply:
    """Return the texts of a whole response."""
    thought, message, call = body["output"]
    return Reply(message["content"][0]["text"], thought["summary"][0]["text"], call["name"], call["arguments"])


PROTOCOLS: dict[str, Any] = {
    "openai.chat": (chat_whole, chat_stream, chat_read, chat_parts),
    "openai.completions": (completion_whole, completion_stream, completion_read, completion_parts),
    "openai.responses": (response_whole, response_stream, response_read, response_parts),
    "anthropic.messages": (message_whole, message_stream, message_read, message_parts),
}
"""By protocol: a whole reply, its stream, what the client reads in a stream, the texts of a whole reply."""
