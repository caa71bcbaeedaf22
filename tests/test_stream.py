"""Streams: the whole text's output and violations, wherever it is cut."""

from __future__ import annotations

import asyncio
import pickle
import time
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_guards import SOURCES, TEXTS, guard

from guardtok import Guard, RefusedError
from guardtok.errors import (
    InvalidUTF8Error,
    LimitError,
    NotTextError,
    StreamClosedError,
    SurrogateError,
    UnknownSourceError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from guardtok.stream import Stream

T = TypeVar("T", str, bytes)
CHATML = Guard.load("chatml", sinks=())


def cut(text: T, places: list[int]) -> list[T]:
    """Return the text cut at these places, each a number modulo its length."""
    borders = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(borders)]


def pour(stream: Stream, chunks: Sequence[str | bytes]) -> tuple[list[str], RefusedError | None]:
    """Feed all chunks and finish; return the outputs, and what was raised, or None."""
    out: list[str] = []
    try:
        out.extend(stream.feed(chunk) if isinstance(chunk, str) else stream.feed_bytes(chunk) for chunk in chunks)
        out.append(stream.finish())
    except RefusedError as error:
        return out, error
    return out, None


def compare(one: Guard, text: str, chunks: Sequence[str | bytes]) -> None:
    """Hold a stream of these chunks against the text whole."""
    stream = one.stream(source="user")
    out, error = pour(stream, chunks)
    if error is None:
        whole = one.sanitize(text, source="user")
        assert "".join(out) == whole.text
        assert stream.violations == whole.violations
        return
    with pytest.raises(RefusedError) as expected:
        one.sanitize(text, source="user")
    assert error.token == expected.value.token
    found = len(error.violations)
    assert expected.value.violations[:found] == error.violations
    assert error.violations[-1].action == "block"


@pytest.mark.parametrize("name", SOURCES)
@given(text=TEXTS, places=st.lists(st.integers(0, 200), max_size=8))
def test_cuts_change_nothing(name: str, text: str, places: list[int]) -> None:
    """Output and violations are those of the whole text, for every policy and every way to cut."""
    compare(guard(name), text, cut(text, places))


@pytest.mark.parametrize("name", SOURCES)
@given(text=TEXTS)
def test_one_character_at_a_time(name: str, text: str) -> None:
    """The most cuts that there can be, halves of surrogate pairs among them."""
    compare(guard(name), text, list(text))


@pytest.mark.parametrize("name", SOURCES)
@given(text=TEXTS, places=st.lists(st.integers(0, 300), max_size=8))
def test_bytes_may_be_cut_inside_a_character(name: str, text: str, places: list[int]) -> None:
    """UTF-8 in pieces is the text that it spells."""
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    compare(guard(name), text, cut(text.encode(), places))


@given(st.binary(max_size=40), st.lists(st.integers(0, 50), max_size=5))
def test_what_is_no_utf8_is_replaced_as_python_does(data: bytes, places: list[int]) -> None:
    """U+FFFD for each maximal part of what is no character, wherever it is cut."""
    compare(guard("escape"), data.decode(errors="replace"), cut(data, places))


@pytest.mark.parametrize("how", ["digest", "excerpt"])
@given(text=TEXTS, places=st.lists(st.integers(0, 200), max_size=8))
def test_records_are_the_whole_texts(how: str, text: str, places: list[int]) -> None:
    """The digest of the whole string, and what stands around a match, though it came later."""
    compare(guard("both", f"log: {{text: {how}}}\n"), text, cut(text, places))


@given(text=TEXTS, places=st.lists(st.integers(0, 200), max_size=8))
def test_the_cap_on_violations_holds_for_the_stream(text: str, places: list[int]) -> None:
    """The first of them, and a count of all."""
    one = guard("both", "limits: {max_violations: 2}\n")
    compare(one, text, cut(text, places))
    stream = one.stream(source="user")
    pour(stream, cut(text, places))
    assert stream.count == one.check(text, source="user").count


@given(text=TEXTS, places=st.lists(st.integers(0, 200), max_size=8))
def test_what_came_out_before_a_refusal_is_a_prefix(text: str, places: list[int]) -> None:
    """Of what the text would become if nothing in it were refused."""
    out, _ = pour(guard("block").stream(source="user"), cut(text, places))
    whole = guard("escape").sanitize(text, source="user").text
    assert whole.startswith("".join(out))


def test_text_that_no_form_begins_with_goes_on_at_once() -> None:
    """Nothing waits but what may be the beginning of a form."""
    stream = CHATML.stream(source="user")
    assert [stream.feed(chunk) for chunk in ("if a ", "<", " b: ", "<|im", "_x")] == [
        "if a ",
        "",
        "< b: ",
        "",
        "<|im_x",
    ]
    assert stream.finish() == ""


def test_what_is_held_back_comes_at_the_end() -> None:
    """The beginning of a form that never came."""
    stream = CHATML.stream(source="user")
    assert stream.feed("<|im_sta") == ""
    assert stream.finish() == "<|im_sta"


@pytest.mark.parametrize("unit", ["<|im_start|>", "<", "<|", "a", "&amp;", "\\", "<\u200b", "< ", "%25", "<<|im_end|>"])
def test_memory_does_not_grow(unit: str) -> None:
    """Neither with the stream nor with the violations in it."""
    stream = CHATML.stream(source="user")
    sizes = []
    for _ in range(2):
        for _ in range(6_000 // len(unit)):
            stream.feed(unit)
        sizes.append(len(pickle.dumps([stream._buffer, stream._reaching, stream._breaks, stream._joined])))
    assert max(sizes) < 12_000
    assert len(stream.violations) <= 1000


@pytest.mark.parametrize("unit", ["<|im_end|>", "<", "<|reserved_special_token_", "<\u200b", "&lt;|", "x"])
def test_single_characters_are_linear(unit: str) -> None:
    """Twice as much takes about twice as long."""

    def seconds(size: int) -> float:
        stream = CHATML.stream(source="user")
        text = unit * (size // len(unit))
        start = time.perf_counter()
        for character in text:
            stream.feed(character)
        stream.finish()
        return time.perf_counter() - start

    assert min(seconds(2_000) / seconds(1_000) for _ in range(5)) < 3


def test_positions_are_the_callers() -> None:
    """A surrogate pair is two characters of the string that was fed."""
    stream = CHATML.stream(source="user")
    pour(stream, ["\ud83d", "\ude00 <|im_", "end|>"])
    (violation,) = stream.violations
    assert (violation.start, violation.end) == (3, 13)


def test_a_stream_ends_once() -> None:
    """After it was finished, closed or refused nothing goes in and nothing comes out."""
    finished = CHATML.stream(source="user")
    finished.finish()
    closed = CHATML.stream(source="user")
    closed.feed("<|im_")
    closed.close()
    refused = guard("block").stream(source="user")
    with pytest.raises(RefusedError):
        refused.feed("<<<")
    for stream in (finished, closed, refused):
        for call in (lambda s: s.feed("a"), lambda s: s.feed_bytes(b"a"), lambda s: s.finish()):
            with pytest.raises(StreamClosedError):
                call(stream)
        stream.close()


def test_limits_hold_for_the_whole_stream() -> None:
    """Not for each chunk."""
    stream = guard("escape", "limits: {max_chars: 5}\n").stream(source="user")
    assert stream.feed("123") == "123"
    with pytest.raises(LimitError):
        stream.feed("456")
    with pytest.raises(StreamClosedError):
        stream.feed("")


def test_lone_surrogates_and_bad_bytes_are_refused_where_the_policy_says_so() -> None:
    """A half that waits for its other half in vain, and bytes that are no UTF-8."""
    strict = guard("escape", "surrogates: refuse\n")
    with pytest.raises(SurrogateError):
        pour(strict.stream(source="user"), ["a\ud800"])
    with pytest.raises(SurrogateError):
        pour(strict.stream(source="user"), ["\ud800", "a"])
    for chunks in ([b"\xff"], [b"a\xe2\x82"], [b"\xe2", "a"]):
        with pytest.raises(InvalidUTF8Error) as caught:
            pour(strict.stream(source="user"), chunks)
        assert caught.value.__context__ is None


def test_mistakes_are_typed() -> None:
    """A source that nobody knows, a chunk that is no text."""
    with pytest.raises(UnknownSourceError):
        CHATML.stream(source="usr")
    with pytest.raises(NotTextError):
        CHATML.stream(source="user").feed(b"a")


def test_sinks_hear_once() -> None:
    """At the end, one record per form with its count; when refused or closed, what was found until then."""
    heard = []
    one = Guard(guard("block").policy, guard("block").tokenizer, sinks=(heard.append,))
    stream = one.stream(source="user", request_id="r1")
    for _ in range(3):
        stream.feed("</s> ")
    assert heard == []
    stream.finish()
    assert [(v.token, v.count, v.request_id) for v in heard] == [("<_/s>", 3, "r1")]
    del heard[:]
    with pytest.raises(RefusedError):
        one.stream(source="user").feed("</s> << </s>")
    assert [(v.token, v.count, v.action) for v in heard] == [("<_/s>", 1, "escape"), ("<_<", 1, "block")]


async def _chunks(*chunks: str | bytes, log: list[str] | None = None) -> AsyncIterator[str]:
    try:
        for chunk in chunks:
            await asyncio.sleep(0)
            yield chunk
    finally:
        if log is not None:
            log.append("closed")


def test_an_asynchronous_iterator_is_wrapped() -> None:
    """Text or bytes, what is held back at the end included."""

    async def collect(*chunks: str | bytes) -> list[str]:
        return [text async for text in CHATML.stream(source="user").wrap(_chunks(*chunks))]

    assert asyncio.run(collect("a <|im_", "end|>", " <|im_")) == ["a ", "<_|im_end|> ", "<|im_"]
    assert "".join(asyncio.run(collect(b"\xe2\x82", b"\xac<|im_", b"end|>"))) == "€<_|im_end|>"


def test_an_early_end_closes_the_source_and_is_logged() -> None:
    """Whether the consumer stops, fails or is cancelled."""
    heard, log = [], []
    one = Guard(guard("escape").policy, guard("escape").tokenizer, sinks=(heard.append,))

    async def stop() -> None:
        wrapped = one.stream(source="user").wrap(_chunks("</s> ", "more", log=log))
        async for _ in wrapped:
            break
        await wrapped.aclose()

    async def cancel() -> None:
        async def consume() -> None:
            async for _ in one.stream(source="user").wrap(_chunks("</s> ", *["b"] * 1000, log=log)):
                pass

        task = asyncio.create_task(consume())
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(stop())
    asyncio.run(cancel())
    assert log == ["closed", "closed"]
    assert [v.count for v in heard] == [1, 1]
