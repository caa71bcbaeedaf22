"""Text that goes on as text against its specification, exact forms and disguises together; and streams against both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_guards import FORMS, SOURCES, TEXTS, guard, tokenizer

from guardtok import Guard, Policy, RefusedError, Text
from guardtok.errors import SurrogateError
from guardtok.records import defuse
from guardtok.reference import encode, place
from guardtok.reference_text import sanitize

if TYPE_CHECKING:
    from guardtok.reference_text import ReferenceText

LABELLED = st.lists(st.tuples(TEXTS, st.sampled_from(["user", "document"])), max_size=3).map(
    lambda parts: Text("", source="user").join([Text(text, source=source) for text, source in parts])
)
ACTIONS = st.sampled_from(["allow", "escape", "escape", "strip", "block"])
REACTIONS = st.sampled_from(["ignore", "log", "escape", "escape", "block"])
SELECTED = st.lists(st.tuples(st.sampled_from(FORMS), ACTIONS), max_size=4, unique_by=lambda pair: pair[0])


@st.composite
def guards(draw: st.DrawFn) -> Guard:
    """Draw a guard: for two sources any actions, reactions to disguises, and modes."""
    lines = [
        "guardtok: 1",
        "name: drawn",
        "foreign: ignore",
        f"forms: {[form for form in FORMS if form.isalnum()]}",
        f"surrogates: {draw(st.sampled_from(['replace', 'replace', 'refuse']))}",
        "limits: {max_hidden: 2}",
        "sources:",
    ]
    for source in ("user", "document"):
        mode = draw(st.sampled_from(["enforce", "enforce", "enforce", "monitor"]))
        lines.append(f"  {source}: {{default: {draw(ACTIONS)}, lookalikes: {draw(REACTIONS)}, mode: {mode}")
        chosen = draw(SELECTED)
        for action in sorted({action for _, action in chosen}):
            lines[-1] += f", {action}: {[form for form, other in chosen if other == action]}"
        lines[-1] += "}"
    return Guard(Policy.parse("\n".join(lines) + "\n"), tokenizer(), sinks=(), digest_key=b"key")


def specified(one: Guard, text: Text) -> ReferenceText:
    """Return what the specification makes of a text. What begins a disguise is production's to say."""
    rules = one.ruleset

    def begins_disguise(left: str) -> bool:
        return one._beginnings.find_open_disguise(left, 0, len(left), rules.lookout) < len(left)

    return sanitize(text, one.policy, tokenizer(), [form.text for form in rules.forms], begins_disguise)


def assert_specified(one: Guard, text: Text) -> None:
    """Assert that findings, refusal, text, and what a stream of single characters makes, are the specified ones."""
    try:
        expected = specified(one, text)
    except SurrogateError:
        with pytest.raises(SurrogateError):
            one.sanitize(text)
        return
    found = [
        (v.form, v.token, v.action, v.mode, v.source, (v.path, v.start, v.end)) for v in one.check(text).violations
    ]
    assert found == [
        (
            each.view,
            defuse(each.finding.form.text, one.ruleset),
            each.finding.decision.action,
            each.finding.decision.mode,
            "+".join(each.finding.sources),
            place(each.finding, expected.characters),
        )
        for each in expected.seen
    ]
    if expected.refused is None:
        assert one.sanitize(text).text == expected.text
        assert one.encode(text).ids == encode(text, one.policy, tokenizer()).ids
        return
    for call in (one.sanitize, one.encode):
        with pytest.raises(RefusedError) as caught:
            call(text)
        assert caught.value.token == expected.refused


@given(one=guards(), text=LABELLED)
def test_production_is_the_specification(one: Guard, text: Text) -> None:
    """Whatever two sources may and write: forms that overlap, disguises beside them, tokens in between."""
    assert_specified(one, text)


@pytest.mark.parametrize("name", SOURCES)
@given(text=TEXTS)
def test_every_action_is_the_specification(name: str, text: str) -> None:
    """The policies that the other tests of the text level use."""
    assert_specified(guard(name), Text(text, source="user"))


@given(one=guards(), text=TEXTS)
def test_a_stream_is_the_specification(one: Guard, text: str) -> None:
    """Fed by single characters, which is what leaves a stream the least to know."""
    try:
        expected = specified(one, Text(text, source="user"))
    except SurrogateError:
        return
    stream = one.stream(source="user")
    out: list[str] = []
    try:
        out.extend(map(stream.feed, text))
        out.append(stream.finish())
        refused = None
    except RefusedError as error:
        refused = error.token
    assert refused == expected.refused
    assert expected.text.startswith("".join(out))
    assert refused is not None or "".join(out) == expected.text
