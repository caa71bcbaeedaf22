"""Every method of `Text` gives the characters that `str` gives, and keeps the labels of those that it keeps."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardtok import Text
from guardtok.text import Run, runs_of

if TYPE_CHECKING:
    from collections.abc import Callable

ALPHABET = " \t\nabABx_%ßŉİσΣ<|>"
STRINGS = st.text(ALPHABET, max_size=12)
SHORT = st.text(ALPHABET, max_size=3)


@st.composite
def texts(draw: st.DrawFn) -> Text:
    """Draw a text of several sources."""
    parts = draw(st.lists(st.tuples(STRINGS, st.sampled_from(["user", "template", "document"])), max_size=4))
    pieces = [Text(part, source=source, path=str(number)) for number, (part, source) in enumerate(parts)]
    return Text("", source="unknown").join(pieces)


def labels(text: str) -> list[tuple[str, str, str, int]]:
    """Return character, source, path and offset of each character."""
    return [
        (str.__getitem__(text, i), run.source, run.path, run.offset + i - run.start)
        for run in runs_of(text)
        for i in range(run.start, run.end)
    ]


def check_labels(result: Any, plain: Any, original: Text) -> None:  # noqa: ANN401 - any shape of strings
    """Check that a result is what `str` gives, each part of it a piece of the original with its labels, in order."""
    assert result == plain
    parts = [result] if isinstance(result, str) else list(result)
    everything = labels(original)
    position = 0
    for part in parts:
        assert isinstance(part, Text)
        mine = labels(part)
        starts = [i for i in range(position, len(everything) + 1) if everything[i : i + len(mine)] == mine]
        assert starts, "the part is no piece of the original"
        position = starts[0] + len(mine)


PIECES: dict[str, Callable[[Any, str, int], Any]] = {
    "strip": lambda t, s, _n: t.strip(s or None),
    "lstrip": lambda t, s, _n: t.lstrip(s or None),
    "rstrip": lambda t, s, _n: t.rstrip(s or None),
    "removeprefix": lambda t, s, _n: t.removeprefix(s),
    "removesuffix": lambda t, s, _n: t.removesuffix(s),
    "split": lambda t, s, n: t.split(s or None, n),
    "rsplit": lambda t, s, n: t.rsplit(s or None, n),
    "splitlines": lambda t, _s, n: t.splitlines(n > 0),
    "partition": lambda t, s, _n: t.partition(s or "x"),
    "slice": lambda t, _s, n: t[n:],
    "iteration": lambda t, _s, _n: list(t),
}


@pytest.mark.parametrize("name", PIECES)
@given(texts(), SHORT, st.integers(-1, 3))
def test_methods_that_cut_keep_the_labels(name: str, text: Text, argument: str, number: int) -> None:
    """What is cut out of a text is a piece of it, labels included."""
    cut = PIECES[name]
    check_labels(cut(text, argument, number), cut(str(text), argument, number), text)


@given(texts(), SHORT)
def test_the_last_separator_keeps_its_own_labels(text: Text, separator: str) -> None:
    """`rpartition` may give two empty parts first; together its parts are the text again."""
    parts = text.rpartition(separator or "x")
    assert parts == str(text).rpartition(separator or "x")
    assert labels(parts[0] + parts[1] + parts[2]) == labels(text)


@given(texts(), SHORT, texts(), st.integers(-1, 3))
def test_replace_puts_the_new_text_under_its_own_labels(text: Text, old: str, new: Text, count: int) -> None:
    """Each character comes from the text or from what replaced something, with the labels that it had there."""
    result = text.replace(old, new, count)
    assert result == str(text).replace(old, str(new), count)
    assert set(labels(result)) <= set(labels(text)) | set(labels(new))


RECASED: dict[str, Callable[[Any], Any]] = {
    "upper": lambda t: t.upper(),
    "lower": lambda t: t.lower(),
    "title": lambda t: t.title(),
    "capitalize": lambda t: t.capitalize(),
    "swapcase": lambda t: t.swapcase(),
    "casefold": lambda t: t.casefold(),
}


@pytest.mark.parametrize("name", RECASED)
@given(texts())
def test_changes_of_case_keep_the_labels(name: str, text: Text) -> None:
    """Where one character becomes one the labels stay; a run in which `ß` becomes `SS` keeps its source alone."""
    recase = RECASED[name]
    result, plain = recase(text), recase(str(text))
    assert result == plain
    if len(plain) == len(text):
        assert [each[1:] for each in labels(result)] == [each[1:] for each in labels(text)]
        return
    assert [run.source for run in result.runs] == [run.source for run in text.runs]
    for new, old in zip(result.runs, text.runs, strict=True):
        before, own = str(text)[: old.start], str(text)[old.start : old.end]
        assert new.start == len(recase(before))
        assert new.end == len(recase(before + own))
        assert new[3:] == (old[3:] if new.end - new.start == len(own) else ("", 0))


@given(texts(), texts())
def test_formatting_keeps_literals_and_bare_fields(text: Text, value: Text) -> None:
    """`%s` puts a text in with its labels; the literals keep theirs; what is formatted otherwise is unknown."""
    form = text.replace("%", "") + Text("%s|%5s|%%", source="template")
    result = form % (value, "n")
    assert result == str(form) % (str(value), "n")
    assert {each for each in labels(result) if each[1] != "unknown"} <= set(labels(form)) | set(labels(value))
    assert labels(value) == labels(result)[len(form) - len("%s|%5s|%%") :][: len(value)]


def test_formatting_by_name_keeps_the_labels() -> None:
    """`%(name)s` is a bare field too; a width taken from the values loses all labels, and never the characters."""
    user = Text("<|im_end|>", source="user")
    named = Text("a %(x)s b", source="template") % {"x": user}
    assert [run.source for run in runs_of(named)] == ["template", "user", "template"]
    starred = Text("%*s", source="template") % (12, user)
    assert starred == "  <|im_end|>"
    assert {run.source for run in runs_of(starred)} == {"unknown"}
    with pytest.raises(TypeError, match="not enough arguments"):
        Text("%s %s", source="template") % ("one",)


@given(texts(), st.integers(0, 3))
def test_repetition_repeats_the_labels(text: Text, times: int) -> None:
    """`text * n` and `n * text` are the text n times."""
    assert text * times == times * text == str(text) * times
    assert labels(text * times) == labels(text) * times


@given(texts(), texts())
def test_adding_is_joining(left: Text, right: Text) -> None:
    """The short way of `+` gives the runs that a join gives."""
    assert (left + right).runs == Text("", source="unknown").join([left, right]).runs
    assert labels(left + right) == labels(left) + labels(right)


def test_a_cut_and_added_text_has_its_runs_again() -> None:
    """A cut leaves no trace, so that adding chunks is the same as not cutting."""
    whole = Text("abcdef", source="user", path="p")
    assert (whole[:3] + whole[3:]).runs == whole.runs == (Run(0, 6, "user", "p", 0),)


@given(texts())
def test_pickling_keeps_labels(text: Text) -> None:
    """A pickled text is the same text."""
    copy = pickle.loads(pickle.dumps(text))  # noqa: S301 - made here
    assert (copy, copy.runs) == (text, text.runs)
