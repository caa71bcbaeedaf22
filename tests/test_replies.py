"""Replies: each text as it would be whole, however events and bytes are cut, and streams that the clients can read."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from replies import PROTOCOLS, Cutter, Reply
from text_guards import FORMS, SOURCES, TEXTS, tokenizer

from guardtok import Guard, Policy, RefusedError
from guardtok.errors import GuardtokError, LimitError, RequestError, StreamClosedError
from guardtok.requests.replies import are_ruled

if TYPE_CHECKING:
    from collections.abc import Iterable

    from guardtok.requests.reply_stream import ReplyStream

PLACES = st.lists(st.integers(0, 60), min_size=16, max_size=16)
BYTES = st.lists(st.integers(0, 20_000), max_size=12)
SAID = TEXTS.map(lambda text: json.loads(json.dumps(text)))
"""Texts as JSON gives them: two halves of a surrogate pair are one character."""

ARGUMENTS = st.builds(
    lambda value, ascii: json.dumps(value, ensure_ascii=ascii),
    st.dictionaries(st.sampled_from("kmn"), SAID | st.lists(SAID, max_size=2) | st.none(), max_size=3),
    st.booleans(),
)
REPLIES = st.builds(
    Reply, text=SAID, thought=SAID, name=st.sampled_from(["f", "X199", "f<|abc|>"]), arguments=ARGUMENTS
)
CHATML = Guard.load("chatml", sinks=())


@cache
def guard(name: str, more: str = "") -> Guard:
    """Return the guard of a policy of `text_guards`, whose rules for users are those for assistants."""
    looks = "" if name in ("lookalikes", "both", "block") else "lookalikes: ignore\n"
    words = f"forms: {[form for form in FORMS if form.isalnum()]}\n"
    sources = SOURCES[name].replace("user:", "assistant:")
    lines = f"guardtok: 1\nname: {name}\nforeign: ignore\n{looks}{words}{more}sources:\n  {sources}\n"
    return Guard(Policy.parse(lines), tokenizer(), sinks=(), digest_key=b"key")


def cut(body: bytes, places: list[int]) -> list[bytes]:
    """Return bytes cut at these places, each a number modulo their length."""
    borders = sorted({place % (len(body) + 1) for place in places} | {0, len(body)})
    return [body[a:b] for a, b in zip(borders, borders[1:], strict=False)]


def pour(stream: ReplyStream, chunks: Iterable[bytes]) -> tuple[bytes, GuardtokError | None]:
    """Feed all chunks and finish; return what went on, and what was raised, or None."""
    out = b""
    try:
        for chunk in chunks:
            out += stream.feed(chunk)
        out += stream.finish()
    except GuardtokError as error:
        return out + stream.passed, error
    return out, None


def keyed(violations: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Return violations in an order that does not tell in which they were found."""
    return sorted((v.path, v.start, v.end, v.rule, v.token, v.form, v.digest, v.action.value) for v in violations)


def same(one: Reply, other: Reply) -> bool:
    """Whether two replies say the same; how JSON is spelled does not matter."""
    arguments = [json.loads(each.arguments or "null") for each in (one, other)]
    return (one.text, one.thought, one.name) == (other.text, other.thought, other.name) and arguments[0] == arguments[1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", SOURCES)
@given(reply=REPLIES, places=PLACES, borders=BYTES)
@settings(max_examples=25)
def test_a_stream_says_what_the_whole_reply_would(
    protocol: str, name: str, reply: Reply, places: list[int], borders: list[int]
) -> None:
    """For every protocol, policy and way to cut: the texts, what was found and how much, read with the clients' types."""
    whole, stream, read, parts = PROTOCOLS[protocol]
    one = guard(name)
    through = one.reply_stream(protocol=protocol)
    body = b"".join(stream(reply, Cutter(places)))
    out, error = pour(through, cut(body, borders))
    try:
        expected = one.sanitize_reply(whole(reply), protocol=protocol)
    except RefusedError:
        assert isinstance(error, RefusedError)
        assert error.violations
        assert error.violations[0].path.startswith("$.")
        return
    assert error is None, error
    assert same(read(out), parts(expected.body))
    assert keyed(through.violations) == keyed(expected.violations)
    assert (through.count, through.action) == (expected.count, expected.action)
