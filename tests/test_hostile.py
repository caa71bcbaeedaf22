"""What is too much, too deep or no text at all ends in the right answer or a typed error; what is ordinary, as ever.

The sizes of a night's run are in `benchmarks/hostile.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ordinary import ORDINARY

from guardtok import Guard, Policy
from guardtok.errors import InvalidUTF8Error, LimitError, ViewError
from guardtok.views import search

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.tokenizer import Tokenizer

LEFT, RIGHT, FORM = "<|im_", "end|>", "<|im_end|>"
RULES = (
    "guardtok: 1\nname: hostile\nsurrogates: refuse\nlimits: {max_chars: 1000000}\n"
    "sources: {user: {default: escape, lookalikes: escape}, document: {default: strip, lookalikes: escape}}\n"
)
GUARD = Guard.load(Policy.parse(RULES), "guardtok", sinks=())


def pour(chunks: list[str] | list[bytes], source: str = "user") -> str:
    """Return what a stream makes of chunks."""
    stream = GUARD.stream(source=source)
    out = [stream.feed(chunk) if isinstance(chunk, str) else stream.feed_bytes(chunk) for chunk in chunks]
    return "".join([*out, stream.finish()])


def test_more_than_the_limit_is_refused_before_it_is_read() -> None:
    """By encode, sanitize and a stream; `check` says so, and `count` counts."""
    text = "ab " * 340_000
    for call in (GUARD.encode, GUARD.sanitize):
        with pytest.raises(LimitError):
            call(text, source="user")
    with pytest.raises(LimitError):
        pour([text[:600_000], text[600_000:]])
    assert GUARD.check(text, source="user").action == "block"
    assert GUARD.count(text, source="user") > 0


def test_nothing_but_forms() -> None:
    """Ten thousand: none is an id, each is broken or gone, and what is kept of them is bounded."""
    text = FORM * 10_000
    out = GUARD.encode(text, source="user")
    assert GUARD.ruleset.reserved.isdisjoint(out.ids)
    assert len(out.violations) == GUARD.policy.limits.max_violations
    assert GUARD.sanitize(text, source="user").text == "<_|im_end|>" * 10_000
    assert GUARD.sanitize(text, source="document").text == ""


def test_forms_inside_forms() -> None:
    """Ten thousand deep: one pass leaves nothing that reassembles, and the original comes back."""
    text = LEFT * 10_000 + FORM + RIGHT * 10_000
    out = GUARD.sanitize(text, source="document")
    assert out.text == LEFT * 10_000 + "\ufffd" + RIGHT * 10_000
    assert out.restore() == text
    assert GUARD.sanitize(out.text, source="document").edits == ()


def test_hidden_characters_inside_a_form() -> None:
    """A hundred thousand: a finding of its own, broken, whole or as a stream, and ordinary text as ids."""
    text = LEFT + "\u200b" * 100_000 + RIGHT
    assert [each.form for each in GUARD.check(text, source="user").violations] == ["hidden_run"]
    assert GUARD.sanitize(text, source="user").text == "<_" + text[1:]
    assert pour([text[at : at + 999] for at in range(0, len(text), 999)]) == "<_" + text[1:]
    assert GUARD.ruleset.reserved.isdisjoint(GUARD.encode(text, source="user").ids)


def test_a_stream_by_single_bytes() -> None:
    """Characters, forms and disguises, each cut at every byte."""
    text = f"text \u20ac {FORM} \uff1c|im_end|> \U0001f600 " * 20
    data = text.encode()
    assert pour([data[at : at + 1] for at in range(len(data))]) == GUARD.sanitize(text, source="user").text


def test_bytes_that_are_no_text() -> None:
    """A typed error under `surrogates: refuse`, wherever they are cut."""
    for chunks in ([b"a\xff"], [b"<|im_\xe2\x82", b"end|>"], [b"\xed\xa0\x80"], [b"\xc0\xbc"]):
        with pytest.raises(InvalidUTF8Error):
            pour(chunks)


@pytest.mark.parametrize("step", ["_step", "may_go_on", "search_all", "make_shape"])
def test_a_view_that_raises_admits_nothing(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Whatever fails in it: nothing comes out of encode, a batch, sanitize or a stream but a typed error."""

    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(search, step, fail)
    text = "\u00e9 < |IM_END|> \uff1c|im_end|>"
    calls = (
        lambda: GUARD.encode(text, source="user"),
        lambda: GUARD.encode_batch([text, "a"], source="user"),
        lambda: GUARD.sanitize(text, source="user"),
        lambda: pour([text]),
    )
    for call in calls:
        with pytest.raises(ViewError):
            call()


@pytest.mark.parametrize("engine", ["tiktoken", "auto"])
def test_ordinary_text_gets_the_ids_it_gets_without_a_guard(vocab: Callable[[str], Tokenizer], engine: str) -> None:
    """Under `escape`, every family known, every view on: no finding, tiktoken's ids, and the text as it was."""
    tokenizer = vocab("cl100k_base").with_engine(engine)  # type: ignore[attr-defined]
    strict = Guard(Policy.parse(RULES), tokenizer, sinks=())
    for text in ORDINARY:
        out = strict.encode(text, source="user")
        assert (out.ids, out.violations) == (tokenizer.encoding.encode_ordinary(text), ())
        assert strict.sanitize(text, source="document").text == text
    batch = strict.encode_batch(ORDINARY, source="user")
    assert [out.ids for out in batch] == list(map(tokenizer.encoding.encode_ordinary, ORDINARY))
