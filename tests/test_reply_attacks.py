"""What a review got past the guard of streamed replies, once: events without a type, and a delta that is a string."""

from __future__ import annotations

import json
from typing import Any

import pytest

from guardtok.errors import RequestError
from tests.request_bodies import guard_of

END = "<|im_end|>"


def stream(events: list[tuple[str | None, dict[str, Any]]], protocol: str) -> bytes:
    """Return what goes on of events, each with its name."""
    replies = guard_of().reply_stream(protocol=protocol)
    made = b""
    for name, event in events:
        made += replies.feed((f"event: {name}\n" if name else "").encode() + f"data: {json.dumps(event)}\n\n".encode())
    made += replies.finish()
    assert replies.count == 1
    return made


@pytest.mark.parametrize(
    ("protocol", "name", "events"),
    [
        (
            "anthropic.messages",
            "content_block_delta",
            [{"index": 0, "delta": {"type": "text_delta", "text": text}} for text in ("<|im_", "end|>")],
        ),
        (
            "openai.responses",
            "response.output_text.delta",
            [{"output_index": 0, "content_index": 0, "delta": text} for text in ("<|im_", "end|>")],
        ),
    ],
)
def test_the_name_of_an_event_is_its_type_where_its_data_has_none(
    protocol: str, name: str, events: list[dict[str, Any]]
) -> None:
    """Anthropic's client reads it so, and joins the fragments."""
    made = stream([(name, event) for event in events], protocol)
    assert b"<_|im_end|>" in made


def test_a_delta_that_is_a_string_is_a_text() -> None:
    """It is no failure, and its fragments are joined."""
    made = stream([(None, {"choices": [{"index": 0, "delta": text}]}) for text in ("a <|im_", "end|>")], "openai.chat")
    assert b"<_|im_end|>" in made
    assert END.encode() not in made


@pytest.mark.parametrize("field", [" data", "data ", "\tdata", "\0data", "DATA", "\ufeffdata"])
def test_a_line_that_only_some_clients_take_for_data_is_refused(field: str) -> None:
    """The standard ignores such a line, and a client that strips lines reads what was not looked at."""
    replies = guard_of().reply_stream(protocol="openai.chat")
    with pytest.raises(RequestError) as caught:
        replies.feed(f'data: {{"choices": []}}\n\n{field}: {{"choices": []}}\n\n'.encode())
    assert caught.value.rule == "reply.events"
    assert replies.passed == b'data: {"choices": []}\n\n'
