"""The properties that `guardtok.decide` promises, each by its name."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st
from strategies import SOURCES, guards, strings, texts

from guardtok.decide import decide
from guardtok.guard import Guard
from guardtok.intake import take_in
from guardtok.policy import Entry, Limits, Mark, Surrogates, TextForm
from guardtok.scan import scan
from guardtok.text import Text
from guardtok.violation import Action

if TYPE_CHECKING:
    from guardtok.decide import Decided
    from guardtok.intake import Intake

MARK = Mark("test", 1, 1)


def taken(guard: Guard, text: Text) -> Intake:
    """Take a text in, lone surrogates and all."""
    return take_in(text, None, known=guard.ruleset.sources, limits=Limits(), surrogates=Surrogates.REPLACE)


def decided(guard: Guard, text: Text) -> Decided:
    """Scan a text and decide it."""
    intake = taken(guard, text)
    return decide(scan(intake, guard.ruleset), intake, guard.ruleset)


def sources(intake: Intake, start: int, end: int) -> dict[str, None]:
    """Return the sources of some characters, in order."""
    return dict.fromkeys(intake.runs[intake.run_at(i)].source for i in range(start, end))


@given(guard=guards(), text=texts())
def test_only_allowed_matches_become_ids(guard: Guard, text: Text) -> None:
    """What becomes an id is a form with an id, written by one source that may write it; none overlaps another."""
    intake, done = taken(guard, text), 0
    for form, start, end in decided(guard, text).allowed:
        (source,) = sources(intake, start, end)
        assert guard.ruleset.table[source][form].action is Action.ALLOW
        assert guard.ruleset.forms[form].token_id is not None
        assert intake.text[start:end] == guard.ruleset.forms[form].text
        assert done <= start
        done = end


@given(guard=guards(actions=("allow", "allow", "escape"), trusted=("template", "user")), cut=st.data())
def test_a_form_that_several_sources_spelled_together_is_never_allowed(guard: Guard, cut: st.DataObject) -> None:
    """Two sources that may each write a form cannot write it together."""
    form = cut.draw(st.sampled_from([form for form in guard.ruleset.forms if len(form.text) > 1]))
    at = cut.draw(st.integers(1, len(form.text) - 1))
    text = Text(form.text[:at], source="user") + Text(form.text[at:], source="template")
    result = decided(guard, text)
    assert all((start, end) != (0, len(form.text)) for _, start, end in result.allowed)
    assert any(finding.rule == "joint" and finding.match[1:] == (0, len(form.text)) for finding in result.findings)


@given(guard=guards(foreign=("ignore",)), text=texts())
def test_the_most_restrictive_action_wins(guard: Guard, text: Text) -> None:
    """A finding's action is at least as severe as what each of its sources asks for, and one of them asks for it."""
    intake, ruleset = taken(guard, text), guard.ruleset
    for finding in decided(guard, text).findings:
        form, start, end = finding.match
        asked = [ruleset.table[source][form].action for source in sources(intake, start, end)]
        strictest = max(asked, key=lambda action: action.severity)
        assert finding.action is (Action.ESCAPE if strictest is Action.ALLOW else strictest)


@given(guard=guards(foreign=("ignore",)), text=texts(), form=st.sampled_from(["T<", "b", "|", "9X", "> <", "<|a|><|"]))
def test_adding_a_blocked_form_never_admits_anything(guard: Guard, text: Text, form: str) -> None:
    """One more form that every source is blocked from changes no id, and what was refused is refused still."""
    policy = guard.policy
    entry = Entry(form, Action.BLOCK, MARK, 0)
    stricter = dataclasses.replace(
        policy,
        forms=(*policy.forms, TextForm(form, MARK)),
        sources={
            name: dataclasses.replace(rules, entries=(*rules.entries, entry)) for name, rules in policy.sources.items()
        },
        custom_tokens=(),
    )
    before, after = decided(guard, text), decided(Guard(stricter, guard.tokenizer, sinks=()), text)
    assert [(start, end) for _, start, end in after.allowed] == [(start, end) for _, start, end in before.allowed]
    assert after.refused is not None or before.refused is None
    assert set(before.cuts) <= set(after.cuts)


@given(guard=guards(), text=texts(), data=st.data())
def test_the_order_of_matches_does_not_matter(guard: Guard, text: Text, data: st.DataObject) -> None:
    """`decide` gives one answer for one set of matches."""
    intake = taken(guard, text)
    matches = scan(intake, guard.ruleset)
    shuffled = data.draw(st.permutations(matches))
    assert decide(shuffled, intake, guard.ruleset) == decide(matches, intake, guard.ruleset)


@given(
    guard=guards(trusted=("template",)),
    trusted=strings(),
    around=st.tuples(strings(), strings()),
    source=st.sampled_from(SOURCES[1:]),
)
def test_an_untrusted_neighbour_moves_no_allowed_match(
    guard: Guard, trusted: str, around: tuple[str, str], source: str
) -> None:
    """What trusted text wrote is allowed in the same places whatever stands before and after it."""
    # Half a surrogate pair on either side of a border is one character of nobody's, and no neighbour.
    before, middle, after = (text.encode("utf-8", "ignore").decode() for text in (around[0], trusted, around[1]))
    alone = decided(guard, Text(middle, source="template")).allowed
    whole = Text(before, source=source) + Text(middle, source="template") + Text(after, source=source)
    low, high = len(before), len(before) + len(middle)
    there = [match for match in decided(guard, whole).allowed if low <= match[1] < high]
    assert [(form, start - low, end - low) for form, start, end in there] == list(alone)
