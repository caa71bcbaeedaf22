"""Taking text in: one exact, well-formed, bounded text, whose positions stay the caller's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardtok import Text
from guardtok.errors import LimitError, MissingSourceError, NotTextError, SurrogateError, UnknownSourceError
from guardtok.intake import Intake, take_in
from guardtok.policy.model import BUILTIN_SOURCES, Limits, Surrogates

UNITS = st.text(alphabet=st.sampled_from(["a", "é", "👍", "\ud83d", "\udc4d", "\udbff", "\x00"]), max_size=8)


def take(text: str, source: str | None = None, *, limit: int = 1000, refuse: bool = False) -> Intake:
    """Take a text in."""
    surrogates = Surrogates.REFUSE if refuse else Surrogates.REPLACE
    return take_in(text, source, known=BUILTIN_SOURCES, limits=Limits(max_chars=limit), surrogates=surrogates)


@given(UNITS)
def test_repair_is_tiktokens(text: str) -> None:
    """Pairs are joined and lone surrogates replaced exactly as `tiktoken.Encoding.encode` does it."""
    repaired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    taken = take(text, "user")
    assert taken.text == repaired
    assert taken.data.decode() == repaired


@given(st.lists(st.tuples(UNITS, st.sampled_from(["user", "template"])), max_size=5))
def test_runs_cover_the_repaired_text(parts: list[tuple[str, str]]) -> None:
    """Every character keeps its source; two halves of a character that two sources wrote stay two halves."""
    pieces = [Text(part, source=source, path=str(index)) for index, (part, source) in enumerate(parts)]
    text = Text("", source="user").join(pieces)
    taken = take(text)
    units = [(unit, source) for part, source in parts for unit in part]
    expected: list[str] = []
    index = 0
    while index < len(units):
        unit, source = units[index]
        after, other = units[index + 1] if index + 1 < len(units) else ("", "")
        if "\ud800" <= unit <= "\udbff" and "\udc00" <= after <= "\udfff" and source == other:
            index += 1
        expected.append(source)
        index += 1
    assert [run.source for run in taken.runs for _ in range(run.start, run.end)] == expected
    assert [run.start for run in taken.runs] == [0, *(run.end for run in taken.runs)][: len(taken.runs)]


@given(UNITS, UNITS)
def test_positions_are_the_callers(before: str, after: str) -> None:
    """A position in the repaired text is found again in the caller's own string."""
    taken = take(before + "<" + after, "user")
    mark = taken.text.index("<")
    run = taken.runs[taken.run_at(mark)]
    assert taken.caller_position(run, mark) == len(before)
    assert taken.caller_position(run, mark + 1) == len(before) + 1


def test_source_is_asked_for() -> None:
    """A plain string does not say who wrote it, and a Text takes no other name."""
    with pytest.raises(MissingSourceError, match="source='user'"):
        take("a")
    with pytest.raises(TypeError):
        take(Text("a", source="user"), "template")


def test_unknown_source_suggests_the_near_one() -> None:
    """A typing error is answered with what was meant, for empty texts and for parts too."""
    for text, source in (("a", "tool_resutl"), ("", "tool_resutl"), (Text("a", source="tool_resutl"), None)):
        with pytest.raises(UnknownSourceError, match="Did you mean 'tool_result'"):
            take(text, source)


def test_hostile_source_name_is_bounded() -> None:
    """A name of a megabyte is not echoed and not compared."""
    with pytest.raises(UnknownSourceError) as caught:
        take("a", "x" * 1_000_000)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("value", [b"a", 1, None, ["a"]])
def test_only_strings(value: object) -> None:
    """Anything else is a `TypeError` of guardtok's own."""
    with pytest.raises(NotTextError):
        take(value, "user")  # type: ignore[arg-type]


def test_limit_counts_the_callers_characters() -> None:
    """One character over the limit is refused; the message has no text in it."""
    assert take("a" * 10, "user", limit=10).text == "a" * 10
    with pytest.raises(LimitError, match="11 characters") as caught:
        take("secret-text", "user", limit=10)
    assert "secret" not in str(caught.value)


def test_refusing_surrogates_refuses_lone_ones_alone() -> None:
    """Pairs are well-formed text in a language that counts in UTF-16; halves are not."""
    assert take("\ud83d\udc4d", "user", refuse=True).text == "👍"
    with pytest.raises(SurrogateError, match="Character 1"):
        take("a\ud83d", "user", refuse=True)
