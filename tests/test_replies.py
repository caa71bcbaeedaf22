"""Replies: each text as it would be whole, however events and bytes are cut, and streams that the clients can read."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from replies import PROTOCOLS, Cutter, Reply
from text_guards import FORMS, PIECES, SOURCES, TEXTS, tokenizer

from guardtok import Guard, Policy, RefusedError
from guardtok.errors import GuardtokError, LimitError, RequestError, StreamClosedError
from guardtok.requests.replies import are_ruled

if TYPE_CHECKING:
    from collections.abc import Iterable

    from guardtok.requests.reply_stream import ReplyStream
    from guardtok.sinks import Sink

PLACES = st.lists(st.integers(0, 60), min_size=16, max_size=16)
BYTES = st.lists(st.integers(0, 20_000), max_size=12)
SAID = TEXTS.map(lambda text: json.loads(json.dumps(text)))
"""Texts as JSON gives them: two halves of a surrogate pair are one character."""

ARGUMENTS = st.builds(
    lambda value, escaped: json.dumps(value, ensure_ascii=escaped),
    st.dictionaries(st.sampled_from("kmn"), SAID | st.lists(SAID, max_size=2) | st.none(), max_size=3),
    st.booleans(),
)
REPLIES = st.builds(
    Reply, text=SAID, thought=SAID, name=st.sampled_from(["f", "X199", "f<|abc|>"]), arguments=ARGUMENTS
)
KEYS = (
    "choices", "index", "delta", "message", "content", "text", "tool_calls", "function", "arguments", "name", "role",
    "finish_reason", "logprobs", "usage", "content_block", "partial_json", "thinking", "item", "part", "response",
    "output", "output_index", "content_index", "item_id", "summary", "input", "id", "signature", "citation",
)  # fmt: skip
TYPES = (
    "content_block_start", "content_block_delta", "content_block_stop", "message_start", "message_delta", "ping",
    "response.output_text.delta", "response.output_text.done", "response.content_part.added",
    "response.content_part.done", "response.output_item.done", "response.function_call_arguments.delta",
    "response.function_call_arguments.done", "response.completed", "response.new.delta", "x",
)  # fmt: skip
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
    return [body[a:b] for a, b in pairwise(borders)]


def small(policy: str, *sinks: Sink) -> Guard:
    """Return a guard that knows no forms but those of its tokenizer."""
    words = f"forms: {[form for form in FORMS if form.isalnum()]}\n"
    lines = f"guardtok: 1\nname: n\nforeign: ignore\nlookalikes: ignore\n{words}{policy}\n"
    return Guard(Policy.parse(lines), tokenizer(), sinks=sinks)


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
@settings(max_examples=15)
def test_a_stream_says_what_the_whole_reply_would(
    protocol: str, name: str, reply: Reply, places: list[int], borders: list[int]
) -> None:
    """For every protocol, policy and way to cut: the texts, read with the clients' types, and what was found."""
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


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(reply=REPLIES, places=PLACES, borders=BYTES)
def test_what_came_out_before_a_refusal_is_a_prefix(
    protocol: str, reply: Reply, places: list[int], borders: list[int]
) -> None:
    """Of each text that the reply would have if nothing in it were refused; and nothing comes out afterwards."""
    whole, stream, read, parts = PROTOCOLS[protocol]
    through = guard("block").reply_stream(protocol=protocol)
    out, error = pour(through, cut(b"".join(stream(reply, Cutter(places))), borders))
    expected = parts(guard("escape", "surrogates: replace\n").sanitize_reply(whole(reply), protocol=protocol).body)
    got = read(out)
    assert expected.text.startswith(got.text)
    assert expected.thought.startswith(got.thought)
    if error is not None:
        with pytest.raises(StreamClosedError):
            through.feed(b"\n")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["escape", "strip", "both"])
@given(reply=REPLIES, places=PLACES)
@settings(max_examples=15)
def test_what_went_through_goes_through_again_unchanged(
    protocol: str, name: str, reply: Reply, places: list[int]
) -> None:
    """Each text is the same; something may be reported again, such as a look-alike over what was cut."""
    one = guard(name)
    out, error = pour(one.reply_stream(protocol=protocol), PROTOCOLS[protocol][1](reply, Cutter(places)))
    assume(error is None)
    again = one.reply_stream(protocol=protocol)
    second, error = pour(again, [out])
    assert error is None
    assert PROTOCOLS[protocol][2](second) == PROTOCOLS[protocol][2](out)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(
    reply=st.builds(
        Reply, *[st.text("abc é🎉\n", max_size=40)] * 2, st.just("f"), st.just('{"a": "bé", "c": [1.5, true, "d"]}')
    ),
    places=PLACES,
)
def test_a_clean_stream_goes_on_byte_for_byte_and_at_once(protocol: str, reply: Reply, places: list[int]) -> None:
    """Each event when it is whole, comments and all; of one that is not whole nothing."""
    through = CHATML.reply_stream(protocol=protocol)
    for event in PROTOCOLS[protocol][1](reply, Cutter(places)):
        assert through.feed(event[:-1]) == b""
        assert through.feed(event[-1:]) == event
    assert through.finish() == b""
    assert (through.changed, through.count, through.action) == (False, 0, "allow")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2) | st.sampled_from(PIECES) | st.sampled_from(["stop", "text_delta"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.sampled_from(PIECES), inner, max_size=5)
    ),
    max_leaves=14,
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["escape", "strip", "block"])
@given(
    events=st.lists(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6), max_size=4),
    kinds=st.lists(st.sampled_from(TYPES), min_size=4, max_size=4),
)
def test_whatever_a_server_sends_is_guarded_or_refused(
    protocol: str, name: str, events: list[dict[str, Any]], kinds: list[str]
) -> None:
    """No shape of an event makes anything but a typed error, and no form comes out of any of them."""
    through = guard(name).reply_stream(protocol=protocol)
    data = [json.dumps({**event, "type": kind}) for event, kind in zip(events, kinds, strict=False)]
    out, _ = pour(through, [f"data: {each}\n\n".encode() for each in data])
    assert guard("escape").check(strings_of(out), source="assistant").count == 0


def strings_of(body: bytes) -> str:
    """Return every string and key in the events of a body, with something between them that no form holds."""
    found: list[str] = []

    def walk(value: object) -> None:
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict):
            found.extend(value)
            list(map(walk, value.values()))
        elif isinstance(value, list):
            list(map(walk, value))

    for line in body.splitlines():
        if line.startswith(b"data: "):
            walk(json.loads(line[6:]))
    return "\n\x01\n".join(found)


def chat(*deltas: dict[str, Any], **more: object) -> list[bytes]:
    """Return events of a chat, one for each delta."""
    return [event({"choices": [{"index": 0, "delta": delta, **more}]}) for delta in deltas]


def event(data: object, name: str = "") -> bytes:
    """Return an event."""
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(data).encode() + b"\n\n"


def passed(stream: ReplyStream, *chunks: bytes) -> list[Any]:
    """Return the data of the events that go on for each chunk, and at the end."""
    outs = [*map(stream.feed, chunks), stream.finish()]
    return [
        [
            json.loads(line[6:]) if line != b"data: [DONE]" else "[DONE]"
            for line in out.splitlines()
            if line.startswith(b"data")
        ]
        for out in outs
    ]


def deltas(events: list[Any]) -> list[Any]:
    """Return the delta of each event of a chat."""
    return [each["choices"][0]["delta"] for each in events]


def test_what_is_held_back_comes_with_the_next_fragment_of_its_text() -> None:
    """The event of a fragment goes on at once, with what can go on of it."""
    out = passed(
        CHATML.reply_stream(protocol="openai.chat"), *chat({"content": "a <"}, {"reasoning": "b"}, {"content": "= c"})
    )
    assert [deltas(each) for each in out] == [[{"content": "a "}], [{"reasoning": "b"}], [{"content": "<= c"}], []]


@pytest.mark.parametrize(
    "last", [event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}), b"data: [DONE]\n\n", b""]
)
def test_what_is_held_back_comes_before_its_text_ends(last: bytes) -> None:
    """In an event of its own that repeats the envelope, and of the choice no more than its index."""
    envelope = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    call = {"index": 3, "id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a": "<'}}
    choice = {"index": 1, "delta": {"role": "assistant", "tool_calls": [call]}, "finish_reason": None}
    closing = last.replace(b'"index": 0', b'"index": 1')
    stream = CHATML.reply_stream(protocol="openai.chat")
    out = passed(stream, event({**envelope, "choices": [choice], "usage": None}), closing)
    rest = next(each for events in out[1:] for each in events)
    assert rest == {
        **envelope,
        "choices": [
            {
                "index": 1,
                "delta": {"tool_calls": [{"index": 3, "function": {"arguments": "<"}}]},
                "logprobs": None,
                "finish_reason": None,
            }
        ],
        "usage": None,
    }


def test_a_last_fragment_carries_what_is_held_back_itself() -> None:
    """A server may end a text in the event of its last fragment."""
    stream = CHATML.reply_stream(protocol="openai.completions")
    choice = {"index": 0, "text": "a <", "finish_reason": "length"}
    assert passed(stream, event({"choices": [choice]})) == [[{"choices": [choice]}], []]


def test_a_block_is_filled_before_it_is_stopped() -> None:
    """Anthropic's blocks: the rest of a text comes inside its block, as a delta of its type."""
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "<"}}
    stop = {"type": "content_block_stop", "index": 0}
    out = passed(
        CHATML.reply_stream(protocol="anthropic.messages"),
        event(start, start["type"]),
        event(stop, "content_block_stop"),
    )
    rest = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "<"}}
    assert out == [[{**start, "content_block": {"type": "text", "text": ""}}], [rest, stop], []]


def test_a_part_that_begins_with_text_goes_on_in_its_fragments() -> None:
    """A form may begin in the part and end in a fragment; and the rest comes as a fragment with the part's place."""
    place = {"item_id": "i", "output_index": 0, "content_index": 2, "sequence_number": 5}
    part = {
        "type": "response.content_part.added",
        **place,
        "part": {"type": "output_text", "text": "<|im_", "annotations": []},
    }
    delta = {"type": "response.output_text.delta", **place, "delta": "end|> <", "logprobs": []}
    stream = CHATML.reply_stream(protocol="openai.responses")
    out = passed(stream, event(part), event(delta))
    assert [each["delta"] for each in out[1]] == ["<_|im_end|> "]
    assert out[2] == [{**delta, "delta": "<"}]
    assert [each.path for each in stream.violations] == ["$.output[0].content[2].text"]


def test_a_server_that_restates_another_text_is_guarded_too() -> None:
    """What a `done` event says is what its fragments became only if it says the same."""
    place = {"output_index": 0, "content_index": 0}
    stream = CHATML.reply_stream(protocol="openai.responses")
    delta = {"type": "response.output_text.delta", **place, "delta": "a <|im_end|>"}
    done = {"type": "response.output_text.done", **place}
    out = passed(stream, event(delta), event({**done, "text": "b <|im_end|>"}))
    assert out[1][-1]["text"] == "b <_|im_end|>"
    assert stream.count == 2


@pytest.mark.parametrize(
    ("protocol", "data"),
    [
        ("openai.chat", {"choices": [{"delta": {"new_field": {"deep": ["<|im_end|>"]}}}]}),
        ("openai.chat", {"choices": [{"message": {"content": "<|im_end|>"}}]}),
        ("openai.chat", {"choices": [{"delta": {"content": [{"type": "text", "text": "<|im_end|>"}]}}]}),
        ("openai.chat", {"error": {"message": "<|im_end|>"}}),
        ("openai.completions", {"<|im_end|>": 1}),
        ("openai.responses", {"type": "response.new_thing.delta", "delta": {"x": "<|im_end|>"}}),
        ("openai.responses", {"type": "new", "anything": ["<|im_end|>"]}),
        ("anthropic.messages", {"type": "new_event", "text": "<|im_end|>"}),
        ("anthropic.messages", {"type": "content_block_delta", "index": 0, "delta": {"type": "x", "y": "<|im_end|>"}}),
        ("anthropic.messages", {"type": "content_block_start", "content_block": {"type": "x", "y": "<|im_end|>"}}),
    ],
)  # fmt: skip
def test_what_nobody_knows_yet_is_guarded(protocol: str, data: dict[str, Any]) -> None:
    """New fields, new events and new deltas are `unknown` or the assistant's, and never skipped."""
    stream = CHATML.reply_stream(protocol=protocol)
    out = stream.feed(event(data)) + stream.finish()
    assert b"<|im_end|>" not in out
    assert b"<_|im_end|>" in out
    assert stream.count == 1


def test_a_form_in_a_field_that_nobody_knows_is_seen_across_events() -> None:
    """Clients join the strings of every field of a delta."""
    stream = CHATML.reply_stream(protocol="openai.chat")
    out = b"".join(map(stream.feed, chat({"new": "<|im_"}, {"new": "end|>"}))) + stream.finish()
    assert b"end|>" in out
    assert b"<_|im_end|>" in out


def test_log_probabilities_go_on_beside_text_that_goes_on() -> None:
    """Beside any other they would spell it as it was, token by token."""
    entry = {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": []}
    plain = chat({"content": "a"}, logprobs={"content": [entry]})
    form = chat({"content": "<|im_end|>"}, logprobs={"content": [{**entry, "token": "<|im_end|>"}]})
    kept, dropped, _ = passed(CHATML.reply_stream(protocol="openai.chat"), *plain, *form)
    assert kept[0]["choices"][0]["logprobs"] == {"content": [entry]}
    assert dropped[0]["choices"][0]["logprobs"] is None


def test_log_probabilities_of_a_whole_reply_go_with_its_text() -> None:
    """Choice by choice; another one's stay."""
    probabilities = {"content": [{"token": "<", "logprob": -1.0, "bytes": [60], "top_logprobs": []}]}
    texts = "<|im_end|>", "<"
    choices = [{"index": i, "message": {"content": text}, "logprobs": probabilities} for i, text in enumerate(texts)]
    made = CHATML.sanitize_reply({"choices": choices}, protocol="openai.chat")
    assert [choice["logprobs"] for choice in made.body["choices"]] == [None, probabilities]


@pytest.mark.parametrize(
    "data", ["{", "1", '"x"', "[]", "hello", '{"a": ' + "[" * 200 + "]" * 200 + "}", "\udc80", "[DONE]x"]
)
def test_data_that_is_no_json_object_is_refused(data: str) -> None:
    """By a typed error that quotes nothing; what came before in the same chunk is there to be sent."""
    stream = CHATML.reply_stream(protocol="openai.chat")
    (good,) = chat({"content": "a"})
    with pytest.raises(RequestError) as caught:
        stream.feed(good + b"data: " + data.encode("utf-8", "surrogateescape") + b"\n\n")
    assert data not in str(caught.value)
    assert stream.passed == good
    with pytest.raises(StreamClosedError):
        stream.finish()


def test_a_key_that_comes_twice_means_one_thing() -> None:
    """What goes on has it once, with the value that was looked at."""
    stream = CHATML.reply_stream(protocol="openai.chat")
    out = stream.feed(b'data: {"choices": [{"delta": {"content": "<|im_end|>", "content": "b"}}]}\n\n')
    assert out == b'data: {"choices":[{"delta":{"content":"b"}}]}\n\n'


def test_two_choices_of_one_index_end_once() -> None:
    """A server may say twice that a choice ends."""
    choice = {"index": 0, "delta": {"content": "<"}, "finish_reason": "stop"}
    out = CHATML.reply_stream(protocol="openai.chat").feed(event({"choices": [choice, choice]}))
    assert b'"content":"<<"' in out


def test_more_of_a_text_that_ended_is_refused() -> None:
    """What was held back of it has gone on; a form over that seam would be seen by nobody."""
    stream = CHATML.reply_stream(protocol="openai.chat")
    stream.feed(b"".join(chat({"content": "<|im_"}, finish_reason="stop")))
    stream.feed(b"".join(chat({"content": ""})))
    with pytest.raises(RequestError, match=r"comes after the text ended"):
        stream.feed(b"".join(chat({"content": "end|>"})))


def test_a_body_that_ends_in_the_middle_of_an_event_loses_only_that() -> None:
    """What could be an event goes on, what could not is dropped as clients do, and what was held back comes."""
    first, second = chat({"content": "a <"}, {"content": "= c"})
    unended = chat({"reasoning": "="})[0].rstrip()
    for end, expected in (
        (second.rstrip(), ["a ", "<= c"]),
        (second[:20], ["a ", "<"]),
        (b": note", ["a ", "<"]),
        (unended, ["a ", None, "<"]),
        (unended + b"\n", ["a ", None, "<"]),
    ):
        stream = CHATML.reply_stream(protocol="openai.chat")
        out = passed(stream, first + end)
        assert [each.get("content") for events in out for each in deltas(events)] == expected


def test_sinks_hear_of_a_reply_once_and_in_few_records() -> None:
    """One record for a rule, a token, a source and a place; a flood of places is summed up; counts are whole."""
    records: list[Any] = []
    one = small('sources: {"*": {default: escape}}', records.append)
    stream = one.reply_stream(protocol="openai.chat", request_id="r")
    words = json.dumps([f"<|abc|>{i}" for i in range(300)])
    call = {"index": 0, "function": {"arguments": words}}
    stream.feed(b"".join(chat({"content": "<|abc|>"}, {"content": "<|abc|>"}, {"tool_calls": [call]})))
    assert records == []
    stream.finish()
    stream.close()
    assert sum(record.count for record in records) == stream.count == 302
    assert len(records) <= 20
    own = next(record for record in records if record.path == "$.choices[0].message.content")
    assert (own.count, own.request_id) == (2, "r")


def test_what_refuses_a_reply_has_its_place_in_the_whole_reply() -> None:
    """In the error, in the violations and in the log."""
    records: list[Any] = []
    one = small('sources: {"*": {default: block}}', records.append)
    stream = one.reply_stream(protocol="anthropic.messages")
    delta = {"type": "content_block_delta", "index": 7, "delta": {"type": "input_json_delta"}}
    with pytest.raises(RefusedError) as caught:
        stream.feed(event({**delta, "delta": {**delta["delta"], "partial_json": '{"a": ["x \\u003c|abc|>"]}'}}))
    path = "$.content[7].input.a[0]"
    assert [v.path for v in caught.value.violations] == [v.path for v in stream.violations] == [path]
    assert [record.path for record in records] == [path]
    assert stream.action == "block"


def test_bounds_hold_over_all_texts() -> None:
    """Characters of all texts together, and how many texts there are."""
    one = small('limits: {max_chars: 50}\nsources: {"*": {default: escape}}')
    stream = one.reply_stream(protocol="openai.chat")
    with pytest.raises(LimitError):
        stream.feed(b"".join(chat(*({"content": "bbb", "reasoning": "ccc"} for _ in range(10)))))
    stream = CHATML.reply_stream(protocol="openai.completions")
    stream.feed(event({"choices": [{"index": index, "text": "a"} for index in range(2048)]}))
    with pytest.raises(RequestError, match=r"2,048 texts"):
        stream.feed(event({"choices": [{"index": 2048, "text": "a"}]}))


def test_violations_are_capped_and_counted() -> None:
    """The first of them, and a count of all, as for one text."""
    one = small('limits: {max_violations: 2}\nsources: {"*": {default: escape}}')
    stream = one.reply_stream(protocol="openai.chat")
    stream.feed(b"".join(chat(*({"content": "<|abc|>", "reasoning": "<|abc|>"} for _ in range(5)))))
    stream.finish()
    assert (len(stream.violations), stream.count) == (2, 10)


@pytest.mark.parametrize(
    ("policy", "ruled"),
    [("chatml", False), ("gpt2", False), ("strict", True), ("monitor", True), ("reasoning", True)],
)
def test_a_policy_has_rules_for_replies_if_it_names_the_assistant(policy: str, *, ruled: bool) -> None:
    """`"*"` alone says nothing of answers; what is inherited counts."""
    assert are_ruled(Policy.load(policy)) is ruled


def test_a_protocol_is_said_and_not_guessed() -> None:
    """An unknown one is an error with the near match."""
    for call in (CHATML.reply_stream, lambda protocol: CHATML.sanitize_reply({}, protocol=protocol)):
        with pytest.raises(RequestError, match=r"openai\.chat"):
            call(protocol="openai.chats")
