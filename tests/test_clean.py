"""The short way: whatever takes it holds nothing that the long way would find, and comes out the same."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import FOREIGN, FORMS, tokenizer
from text_guards import TEXTS, guard

from guardtok import Guard, Policy, RefusedError, Text
from guardtok import clean as short_way
from guardtok.clean import are_clean, is_clean, which_are_clean
from guardtok.encode import encode
from guardtok.errors import LimitError, MissingSourceError, NotTextError, UnknownSourceError, ViewError
from guardtok.intake import take_in
from guardtok.lookalikes import look
from guardtok.scan import scan
from guardtok.views import search

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.encoded import Encoded

RULES = (
    "guardtok: 1\nname: clean\nlookalikes: {}\nsources: {{'*': {{default: escape}}, assistant: {{default: allow}}}}\n"
)
PIECES = (
    *FORMS,
    *FOREIGN,
    *(form[:4] for form in (*FORMS, *FOREIGN)),
    *("<|IM_", "< |im_", "end|>", "END|>", "[inst]", "[/INST]", "&lt;", "&#60", ";", "%3C", "\\u003c", "\\\\", "\\"),
    *("< b", "a < 1", "[i]", "</th>", "&amp;", "100%", "\n", "  ", "\x00", "\x1b", "a", "reserved_special_token_1"),
)
SOUP = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


@cache
def made(lookalikes: str) -> Guard:
    """Return a guard that knows every family, and forms that overlap."""
    return Guard(Policy.parse(RULES.format(lookalikes)), tokenizer(), sinks=(), digest_key=b"key")


def outcome(call: Callable[[], list[Encoded]]) -> object:
    """Return what there is to see of the results, or the form that is refused."""
    try:
        return [(out.ids, out.violations, out.sources, out.display()) for out in call()]
    except RefusedError as error:
        return error.token


def the_long_way(one: Guard, text: str, source: str) -> Encoded:
    """Encode a text as if there were no other way."""
    return encode(one._examiner.examine(one.ruleset, text, source, None))


@pytest.mark.parametrize("lookalikes", ["ignore", "log"])
@given(text=SOUP | st.text(max_size=20), source=st.sampled_from(["user", "assistant"]))
@example(text="<|\x00im_end|>", source="user")
@example(text="</s\x1b>", source="user")
@example(text="a &#60;|im_end|>", source="user")
def test_what_is_clean_holds_nothing(lookalikes: str, text: str, source: str) -> None:
    """No form, exact or disguised, is in a text that takes the short way, and its ids are those of the long way."""
    one = made(lookalikes)
    if not is_clean(text, source, one.ruleset):
        return
    limits, surrogates = one.policy.limits, one.policy.surrogates
    intake = take_in(text, source, known=one.ruleset.sources, limits=limits, surrogates=surrogates)
    assert scan(intake, one.ruleset) == []
    assert source not in one.ruleset.watched or look(intake, [], one.ruleset) == []
    short, long = one.encode(text, source=source), the_long_way(one, text, source)
    assert (short.ids, short.violations, short.sources) == (long.ids, long.violations, long.sources)
    assert (short.display(), short.fingerprint) == (long.display(), long.fingerprint)


@pytest.mark.parametrize("text", ["Hello.", "if a < 1 and b[0] > 2: x = '</th>'", "a &amp; b, 100% of it\n\\n"])
def test_ordinary_text_takes_the_short_way(text: str) -> None:
    """Else there would be none."""
    assert is_clean(text, "user", Guard.load("chatml", sinks=()).ruleset)


@pytest.mark.parametrize("name", ["escape", "lookalikes", "block"])
@pytest.mark.parametrize("block", [1, 30, 1_000_000])
@given(texts=st.lists(TEXTS | SOUP, max_size=8))
def test_a_batch_is_its_texts_one_by_one(name: str, block: int, texts: list[str]) -> None:
    """However many are searched in one go, and whatever stands beside each: ids, records, or the same refusal."""
    one = guard(name)
    labelled = [Text(text, source="user", path=f"[{index}]") for index, text in enumerate(texts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(short_way, "BLOCK", block)
        batch = outcome(lambda: one.encode_batch(texts, source="user"))
    assert batch == outcome(lambda: [one.encode(text) for text in labelled])


CATALOGUE = Guard.load("chatml", sinks=())


@pytest.mark.parametrize("reaction", ["ignore", "log", "block", "catalogue"])
@given(texts=st.lists(SOUP, max_size=6))
@example(texts=["m", "f", "x", "assistant", "function", 'a "\\u003c|im_end|>"'])
def test_texts_that_pass_together_hold_nothing_each(reaction: str, texts: list[str]) -> None:
    """One search of many texts, whatever stands beside each, misses nothing that a look at each alone finds."""
    one = CATALOGUE if reaction == "catalogue" else made(reaction)
    if are_clean(texts, "user", one.ruleset):
        assert [one.check(text, source="user").count for text in texts] == [0] * len(texts)


def test_a_dirty_neighbour_stops_nobody_else() -> None:
    """Each text of a batch is told by what it holds itself; what two spell over their border is in neither."""
    ruleset = Guard.load("chatml", sinks=()).ruleset
    texts = ["a", "<|im_end|>", "b", "", "&lt;|im_end|>", "\u00e9", "c", "< |im_end|>", "d"]
    assert list(which_are_clean(texts, "user", ruleset)) == [text in ("a", "b", "c", "d") for text in texts]
    assert list(which_are_clean(["x <|im_end", "|> y"], "user", ruleset))[1]


def test_the_short_way_raises_what_the_long_way_does() -> None:
    """A source that is missing, unknown or no string, and a text over the limit."""
    one = Guard(Policy.parse(RULES.format("log") + "limits: {max_chars: 3}\n"), tokenizer(), sinks=())
    with pytest.raises(MissingSourceError):
        one.encode("a")
    for source in ("usr", ["user"]):
        with pytest.raises(UnknownSourceError):
            one.encode("a", source=source)  # type: ignore[arg-type]
        with pytest.raises((UnknownSourceError, NotTextError)):
            one.encode_batch(["a"], source=source)  # type: ignore[arg-type]
    with pytest.raises(LimitError):
        one.encode("abcd", source="user")
    with pytest.raises(LimitError):
        one.encode_batch(["a", "abcd"], source="user")


def test_a_view_that_raises_lets_nothing_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the short way cannot tell the long way meets too, and says so with a typed error."""
    monkeypatch.setattr(search, "may_go_on", None)
    for call in (made("log").encode, lambda text, source: made("log").encode_batch([text], source=source)):
        with pytest.raises(ViewError):
            call("< |im_end|>", source="user")
