"""Server-sent events: the same events as the clients' own decoders see, wherever the bytes are cut."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from anthropic._streaming import SSEDecoder as AnthropicDecoder
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder as OpenAIDecoder

from guardtok.errors import NotTextError, RequestError
from guardtok.requests.sse import Event, EventReader, write_event

if TYPE_CHECKING:
    from collections.abc import Iterable

PIECES = (
    "data: ", "data:", "data", "event: x", "event:", "id: 7", "retry: 10", ": note", "unknown: z", "{}", '{"a":"é🎉"}',
    "\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n", " ", ":", "\u2028", "\x85", "[DONE]",
)  # fmt: skip
BODIES = st.lists(st.sampled_from(PIECES), max_size=24).map("".join).map(str.encode)
PLACES = st.lists(st.integers(0, 400), max_size=8)


def cut(body: bytes, places: list[int]) -> list[bytes]:
    """Return the bytes cut at these places, each a number modulo their length."""
    borders = sorted({place % (len(body) + 1) for place in places} | {0, len(body)})
    return [body[a:b] for a, b in pairwise(borders)]


def read(chunks: Iterable[bytes]) -> list[Event]:
    """Return the events of a body, the last one included if it was not ended."""
    reader = EventReader()
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    last = reader.finish()
    return events if last is None else [*events, last]


def seen(decoder: OpenAIDecoder | AnthropicDecoder, chunks: Iterable[bytes]) -> list[str]:
    """Return the data of the events that a client sees, empty ones left out."""
    return [event.data for event in decoder.iter_bytes(iter(chunks)) if event.data]


@given(BODIES, PLACES)
def test_no_byte_is_lost(body: bytes, places: list[int]) -> None:
    """What is read is, joined, what came."""
    assert b"".join(event.lead + event.raw() for event in read(cut(body, places))) == body


@given(BODIES, PLACES)
def test_cuts_change_no_event(body: bytes, places: list[int]) -> None:
    """Inside a character, a line end or a field's name: the data are those of the whole body."""
    events = [event.data for event in read(cut(body, places)) if event.data]
    assert events == [event.data for event in read([body]) if event.data]


@pytest.mark.parametrize("decoder", [OpenAIDecoder, AnthropicDecoder], ids=["openai", "anthropic"])
@given(body=BODIES, places=PLACES)
def test_the_clients_see_the_same_events(
    decoder: type[OpenAIDecoder | AnthropicDecoder], body: bytes, places: list[int]
) -> None:
    """Their own decoders read the same data from a body that ends as it should."""
    body = body.replace(b"\r", b"\n") if decoder is AnthropicDecoder else body
    body += b"\n\n"
    assert [event.data.decode() for event in read(cut(body, places)) if event.data] == seen(decoder(), [body])


@given(BODIES, PLACES)
def test_a_changed_event_differs_in_its_data_alone(body: bytes, places: list[int]) -> None:
    """Each other line stays, and a client reads the new data."""
    for event in read(cut(body, places)):
        if event.data:
            written = event.with_data(b"NEW")
            assert seen(OpenAIDecoder(), [written]) == ["NEW"]
            others = [line.rstrip(b"\r\n") for line in event.lines if not line.startswith(b"data")]
            (again,) = read([written])
            assert [line for line in (one.rstrip(b"\r\n") for one in again.lines) if not line.startswith(b"data")] in (
                others,
                [*others, b""],
            )


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    """The standard drops one at the beginning, and no other."""
    mark = "\ufeff".encode()
    first, second = read([mark[:2], mark[2:] + b"data: a\n\n", mark + b"data: b\n\n"])
    assert (first.lead, first.data, second.data) == (mark, b"a", None)


def test_an_event_that_never_ends_is_bounded() -> None:
    """A body without a line end, and one without a blank line, are refused when they pass the limit."""
    for piece in (b"x" * 10, b"x" * 9 + b"\n"):
        reader = EventReader(limit=100)
        for _ in range(10):
            list(reader.feed(piece))
        with pytest.raises(RequestError, match=r"more than 100 bytes") as caught:
            list(reader.feed(piece))
        assert caught.value.rule == "reply.events"


def test_text_is_no_stream_of_bytes() -> None:
    """A `str` is a mistake in use."""
    with pytest.raises(NotTextError):
        list(EventReader().feed("data: x"))  # type: ignore[arg-type]


def test_an_event_is_written_as_the_clients_read_it() -> None:
    """With a name and without."""
    (event,) = AnthropicDecoder().iter_bytes(iter([write_event("ping", b"{}")]))
    assert (event.event, event.data) == ("ping", "{}")
    assert write_event(None, b"{}") == b"data: {}\n\n"
