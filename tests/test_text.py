"""`Text` keeps who wrote what through `+`, slices and `join`, and loses it only to the stricter side."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardtok import Text
from guardtok.errors import NotTextError
from guardtok.text import Run, runs_of

SOURCES = st.sampled_from(["user", "template", "tool_result"])
PARTS = st.lists(st.tuples(st.text(max_size=6), SOURCES | st.none()), max_size=6)


def build(parts: list[tuple[str, str | None]]) -> Text:
    """Join labelled parts; a part without a source is a plain string."""
    pieces = [Text(text, source=source, path=str(i)) if source else text for i, (text, source) in enumerate(parts)]
    return Text("", source="template").join(pieces)


def labels(text: str) -> list[tuple[str, str, int]]:
    """Return source, path and offset of each character."""
    return [(run.source, run.path, run.offset + i) for run in runs_of(text) for i in range(run.end - run.start)]


@given(PARTS)
def test_every_character_has_one_label(parts: list[tuple[str, str | None]]) -> None:
    """Joining keeps each character's own label; plain strings are unknown."""
    text = build(parts)
    expected = [
        (source or "unknown", str(number) if source else "", offset)
        for number, (part, source) in enumerate(parts)
        for offset in range(len(part))
    ]
    assert text == "".join(part for part, _ in parts)
    assert labels(text) == expected


@given(PARTS, st.integers(-40, 40) | st.none(), st.integers(-40, 40) | st.none())
def test_slices_keep_labels(parts: list[tuple[str, str | None]], start: int | None, stop: int | None) -> None:
    """A slice has the characters of the slice, with their labels."""
    text = build(parts)
    assert text[start:stop] == str(text)[start:stop]
    assert labels(text[start:stop]) == labels(text)[start:stop]


@given(PARTS, st.integers(0, 40))
def test_cutting_and_joining_is_the_identity(parts: list[tuple[str, str | None]], cut: int) -> None:
    """Cut anywhere and add again: the very same runs, so a stream's cuts leave no trace."""
    text = build(parts)
    assert labels(text[:cut] + text[cut:]) == labels(text)
    whole = Text("abcdef", source="user", path="p")
    assert (whole[:cut] + whole[cut:]).runs == whole.runs


@given(PARTS)
def test_adding_is_joining(parts: list[tuple[str, str | None]]) -> None:
    """`+` from the left, from the right, and `join` agree."""
    text = Text("", source="user")
    for part in parts:
        text = text + build([part])
    assert [(who, at) for who, _, at in labels(text)] == [(who, at) for who, _, at in labels(build(parts))]
    assert labels("x" + Text("y", source="user")) == [("unknown", "", 0), ("user", "", 0)]
    assert labels(Text("y", source="user") + "x") == [("user", "", 0), ("unknown", "", 0)]


def test_join_puts_the_separator_between() -> None:
    """The separator keeps its own label, and stands between parts alone."""
    joined = Text(", ", source="template").join([Text("a", source="user"), "b"])
    assert joined == "a, b"
    assert [run.source for run in joined.runs] == ["user", "template", "unknown"]


def test_single_characters_and_steps() -> None:
    """A character keeps its label; a slice with a step is a plain string, which no guard takes without a source."""
    text = Text("abc", source="user")
    assert text[-1].runs == (Run(0, 1, "user", "", 2),)
    assert type(text[::-1]) is str
    with pytest.raises(IndexError):
        text[3]


@pytest.mark.parametrize(
    "lost",
    [f"{Text('a', source='user')}", "".join([Text("a", source="user")]), Text("a", source="user").expandtabs()],
    ids=["f-string", "plain join", "expandtabs"],
)
def test_what_loses_its_label_is_a_plain_string(lost: str) -> None:
    """Nothing invents a label."""
    assert not isinstance(lost, Text)
    assert runs_of(lost) == (Run(0, len(lost), "unknown", "", 0),)


def test_text_is_equal_by_its_characters() -> None:
    """Equality and hashing are those of `str`."""
    assert Text("a", source="user") == Text("a", source="template") == "a"
    assert len({Text("a", source="user"), "a"}) == 1


def test_text_survives_pickling() -> None:
    """The labels go along."""
    text = Text("a", source="user", path="p") + "b"
    assert pickle.loads(pickle.dumps(text)).runs == text.runs  # noqa: S301 - this test's own


def test_a_subclass_cannot_lie_about_its_characters() -> None:
    """What a subclass of `str` says in `__str__` is not what counts."""

    class Liar(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "innocent"

    assert Text(Liar("<|im_end|>"), source="user") == "<|im_end|>"
    assert type(Text("", source="user").join([Liar("x")])) is Text


def test_only_strings_are_text() -> None:
    """Bytes, numbers and None are a typed error, and a `TypeError`."""
    for value in (b"a", 1, None):
        with pytest.raises(NotTextError):
            Text(value, source="user")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            Text("a", source="user").join(["a", value])  # type: ignore[list-item]
