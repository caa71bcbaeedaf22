"""What a policy makes of forms in disguise: reported or refused, never an id, and never at an exact form's expense."""

from __future__ import annotations

from functools import cache

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from guardtok import Guard, Policy, RefusedError, Text
from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.errors import ViewError
from guardtok.views import search

WIDE = "\uff1c|im_end|\uff1e"
PIECES = st.sampled_from(
    ["<|im_end|>", WIDE, "<|IM_", "END|>", "&lt;|im_end|>", "\u200b", " ", "a", "<|im_", "end|>", "\uff1c", "|im_end|>"]
)


@cache
def guard(*lines: str) -> Guard:
    """Return a guard over bytes and two control tokens."""
    ranks = {bytes([code]): code for code in range(256)}
    special = {"<|im_start|>": 300, "<|im_end|>": 301}
    tokenizer = TiktokenTokenizer(
        tiktoken.Encoding("bytes", pat_str="(?s:.)", mergeable_ranks=ranks, special_tokens=special)
    )
    text = "\n".join(["guardtok: 1", "name: test", *lines])
    return Guard(Policy.parse(text), tokenizer, sinks=(), digest_key=b"key")


SOURCES = "sources: {template: {default: allow}, '*': {default: escape}}"


@pytest.mark.parametrize("reaction", ["ignore", "log", "escape"])
def test_at_token_level_a_lookalike_stays_the_text_it_is(reaction: str) -> None:
    """Whatever is said of it, it is encoded as its characters are."""
    out = guard(SOURCES, f"lookalikes: {reaction}").encode(WIDE, source="user")
    assert out.ids == list(WIDE.encode())
    assert [str(each.action) for each in out.violations] == ([] if reaction == "ignore" else [reaction])


def test_block_refuses_and_monitor_does_not() -> None:
    """A blocked look-alike raises with the record in it; under `monitor` the record alone is there."""
    with pytest.raises(RefusedError) as caught:
        guard(SOURCES, "lookalikes: block").encode(f"a{WIDE}", source="user")
    (record,) = caught.value.violations
    assert (record.rule, record.form, record.start, record.end) == ("lookalikes", "width", 1, 11)
    watched = guard(SOURCES, "lookalikes: block", "mode: monitor").encode(f"a{WIDE}", source="user")
    assert [each.action for each in watched.violations] == ["block"]


def test_a_source_decides_for_itself() -> None:
    """`lookalikes` of a source comes before that of `*`, and that before the policy's."""
    star, name = "'*': {default: escape, lookalikes: ignore}", "name: {default: escape, lookalikes: block}"
    made = guard(f"sources: {{user: {{default: escape}}, {star}, {name}}}")
    assert made.check(WIDE, source="user").action == "allow"
    assert made.check(WIDE, source="name").action == "block"


def test_who_may_write_a_form_may_disguise_it() -> None:
    """A source that may write the form is not reported, and of several sources the strictest counts."""
    made = guard(SOURCES, "lookalikes: block")
    assert made.check(WIDE, source="template").violations == ()
    (record,) = made.check(Text("\uff1c|im_", source="template") + Text("end|\uff1e", source="user")).violations
    assert (record.action, record.source) == ("block", "template+user")


def test_another_familys_disguise_is_no_worse_than_its_form() -> None:
    """With `foreign: log` a disguised foreign form is logged, though look-alikes are blocked."""
    made = guard(SOURCES, "lookalikes: block", "foreign: log")
    assert made.check("\uff1cstart_of_turn\uff1e", source="user").action == "log"
    assert guard(SOURCES, "foreign: ignore").check("\uff1cstart_of_turn\uff1e", source="user").violations == ()


def test_a_hidden_run_is_taken_for_the_tokenizers_own_form() -> None:
    """Where the beginning fits forms of several families, the bound tokenizer's decides: it is refused, not logged."""
    (record,) = guard(SOURCES, "lookalikes: block").check("<|" + "\u200b" * 100, source="user").violations
    assert (record.form, record.action, record.token_id, record.end) == ("hidden_run", "block", 300, 67)


def test_exact_tokens_stand_whatever_is_disguised_beside_them() -> None:
    """A trusted token keeps its id between look-alikes that reach up to it."""
    text = Text("\uff1c|im_", source="user") + Text("<|im_end|>", source="template") + Text("end|>&lt;", source="user")
    assert 301 in guard(SOURCES, "lookalikes: log").encode(text).ids


@given(st.lists(PIECES, max_size=6).map("".join), st.data())
def test_cutting_one_sources_text_changes_nothing(text: str, data: st.DataObject) -> None:
    """Runs of one source, cut anywhere, have the findings of the whole, in the same places."""
    made = guard(SOURCES, "lookalikes: escape")
    cut = data.draw(st.integers(0, len(text)))
    parts = Text(text[:cut], source="user") + Text(text[cut:], source="user")
    whole = made.check(Text(text, source="user"))
    assert [(each.form, each.token) for each in made.check(parts).violations] == [
        (each.form, each.token) for each in whole.violations
    ]


def test_a_view_that_raises_admits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error inside a view leaves `encode` and `check` as a typed error."""
    monkeypatch.setattr(search, "make_shape", None)
    with pytest.raises(ViewError):
        guard(SOURCES).encode("<|im_\u200bend|>", source="user")
    with pytest.raises(ViewError):
        guard(SOURCES).check("<|im_\u200bend|>", source="user")


def test_a_guard_still_sees_disguises_after_pickling() -> None:
    """The lookout is built again where a guard is unpickled."""
    import pickle

    copy = pickle.loads(pickle.dumps(guard(SOURCES)))  # noqa: S301 - our own bytes
    assert [each.form for each in copy.check(WIDE, source="user").violations] == ["width"]
