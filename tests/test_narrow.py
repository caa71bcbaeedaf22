from __future__ import annotations

import pickle
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardtok.encodings import load_tokenizer
from guardtok.errors import RefusedError
from guardtok.guard import Guard
from guardtok.narrow import narrow
from guardtok.policy.model import Policy
from guardtok.ruleset import FormKind, Ruleset, bind
from guardtok.scan import find
from guardtok.violation import Action

if TYPE_CHECKING:
    from guardtok.narrow import Forms, NarrowedRuleset
    from guardtok.policy.resolve import Decision

POLICY = """
guardtok: 1
foreign: ignore
sources:
  template: {default: allow}
  system: {default: escape, allow: ["@turn"]}
  user: {default: strip, block: ["<|im_start|>"], allow: ["<think>"]}
  document: {default: allow, mode: monitor}
  "*": {default: block}
forms: ["### System:"]
custom_tokens: {"<think>2": auto}
"""
EVERYTHING = "{guardtok: 1, foreign: ignore, sources: {'*': {default: allow}}}"
ALL: Forms = "all"
NONE: Forms = frozenset()


@cache
def ruleset(policy: str = POLICY) -> Ruleset:
    """Return the policy on the embedded tokenizer, bound once."""
    return bind(Policy.parse(policy), load_tokenizer("guardtok"))


CONTROL = sorted(form.text for form in ruleset().forms if form.kind is FormKind.CONTROL)
FORMS: st.SearchStrategy[Forms] = st.just(ALL) | st.frozensets(
    st.sampled_from([*CONTROL, "### System:", "[INST]", "im_start", "sesame", "\ud83d\udc4d", "\ud83d"])
)


def decision(narrowed: Ruleset, source: str, text: str) -> Decision:
    """Return the decision for a form, by its text."""
    index = next(index for index, form in enumerate(narrowed.forms) if form.text == text)
    return narrowed.table[source][index]


@given(FORMS, FORMS)
def test_nothing_is_loosened(allowed: Forms, disallowed: Forms) -> None:
    """Whatever the caller allows, no decision becomes milder than the policy's, and none is about another form."""
    base = ruleset()
    narrowed = narrow(base, allowed, disallowed)
    assert narrowed.forms[: len(base.forms)] == base.forms
    for source, decisions in base.table.items():
        after = narrowed.table[source]
        assert len(after) == len(narrowed.forms)
        for before, now in zip(decisions, after, strict=False):
            assert now == before or now.action.severity > before.action.severity or now.rule.startswith("caller.")
            assert now.action.severity >= before.action.severity


@given(FORMS, FORMS)
def test_a_form_stays_allowed_only_where_both_allow_it(allowed: Forms, disallowed: Forms) -> None:
    """An id can come out for exactly the forms that policy and caller allow and the caller does not disallow."""
    base = ruleset()
    narrowed = narrow(base, allowed, disallowed)
    may = set(CONTROL) if allowed == "all" else allowed & set(CONTROL)
    may_not = set(CONTROL) - may if disallowed == "all" else disallowed
    for source in base.table:
        for form in CONTROL:
            expected = (
                decision(base, source, form).action is Action.ALLOW
                and form in may
                and not any(other in form for other in may_not)
            )
            assert expected == (decision(narrowed, source, form).action is Action.ALLOW)


@pytest.mark.parametrize(
    ("source", "form", "allowed", "disallowed", "expected"),
    [
        ("template", "<think>", {"<think>"}, ALL, "template.default"),
        ("template", "<think>", ALL, ALL, "template.default"),
        ("template", "<think>", {"<|im_end|>"}, ALL, "caller.disallowed_special"),
        ("template", "<think>", {"<|im_end|>"}, (), "caller.allowed_special"),
        ("template", "<think>", {"<think>"}, {"<think>"}, "caller.disallowed_special"),
        ("system", "<think>", {"<think>"}, (), "system.default"),
        ("system", "<|im_end|>", {"<|im_end|>"}, (), "system.allow[@turn]"),
        ("user", "<|im_start|>", {"<|im_start|>"}, (), "user.block[<|im_start|>]"),
        ("user", "<|im_start|>", {}, ALL, "user.block[<|im_start|>]"),
        ("user", "<|im_end|>", {"<|im_end|>"}, ALL, "user.default"),
        ("user", "<|im_end|>", {}, ALL, "caller.disallowed_special"),
        ("document", "<|im_end|>", {}, (), "caller.allowed_special"),
        ("tool_result", "<|im_end|>", {"<|im_end|>"}, (), "*.default"),
        ("template", "### System:", {}, (), "template.default"),
        ("template", "### System:", {}, {"### System:"}, "caller.disallowed_special"),
        ("template", "sesame", ALL, {"sesame"}, "caller.disallowed_special"),
    ],
)
def test_the_rule_names_who_decided(source: str, form: str, allowed: Forms, disallowed: Forms, expected: str) -> None:
    """A decision that the caller made is the caller's, and one that the policy made keeps the policy's rule."""
    narrowed = narrow(ruleset(), _forms(allowed), _forms(disallowed))
    assert expected == decision(narrowed, source, form).rule


def test_a_form_that_holds_a_disallowed_one_is_disallowed() -> None:
    """`<think>2` cannot be written without `<think>`, so tiktoken raises for it, and so does this."""
    narrowed = narrow(ruleset(), frozenset({"<think>2"}), ALL)
    assert decision(narrowed, "template", "<think>2").rule == "caller.disallowed_special"
    narrowed = narrow(ruleset(), frozenset({"<think>2"}), NONE)
    assert decision(narrowed, "template", "<think>2").action is Action.ALLOW


def test_an_unknown_string_is_found() -> None:
    """A disallowed string that is no form is looked for beside the forms, for every source."""
    narrowed = narrow(ruleset(), ALL, frozenset({"sesame", "ö"}))
    found = find("<think> open sesame ö".encode(), narrowed.automata)
    assert [narrowed.forms[form].text for form, _, _ in found] == ["<think>", "sesame", "ö"]
    assert all(decision(narrowed, source, "sesame").action is Action.BLOCK for source in narrowed.sources)
    assert narrowed.refused == {index for index, form in enumerate(narrowed.forms) if form.text in {"sesame", "ö"}}


def test_what_need_not_change_is_shared() -> None:
    """Without unknown strings a narrowed ruleset has the forms and automata of its base, not copies."""
    base = ruleset()
    narrowed = narrow(base, NONE, ALL)
    assert narrowed.forms is base.forms
    assert all(mine is its for (_, mine), (_, its) in zip(narrowed.automata, base.automata, strict=True))
    assert narrowed.modes is base.modes


def test_beginnings_of_unknown_strings_are_guarded_where_text_is_stripped() -> None:
    """A cut must not let a disallowed string reassemble; where nothing is stripped nothing needs to be known."""
    assert {"s", "se", "ses"} <= narrow(ruleset(), ALL, frozenset({"sesa"})).prefixes
    assert narrow(ruleset(EVERYTHING), ALL, frozenset({"sesa"})).prefixes == frozenset()
    assert narrow(ruleset(), ALL, frozenset({"x" * 99})).longest == 99


def test_the_empty_string_is_in_every_text() -> None:
    """As tiktoken does, a disallowed empty string refuses every text."""
    with pytest.raises(RefusedError, match="''"):
        narrow(ruleset(), ALL, frozenset({""}))


@pytest.mark.parametrize(("allowed", "disallowed"), [({1}, ()), ((), {b"<think>"})])
def test_forms_are_strings(allowed: object, disallowed: object) -> None:
    """Bytes or numbers among the forms are a mistake, not forms that are never found."""
    with pytest.raises(TypeError, match="as strings"):
        narrow(ruleset(), frozenset(allowed), frozenset(disallowed))  # type: ignore[call-overload]


def test_fingerprints_differ_with_the_narrowing() -> None:
    """What was encoded under other rules has another fingerprint; the same rules have the same one."""
    base = ruleset()
    seen = [
        narrow(base, *pair).fingerprint
        for pair in ((NONE, ALL), (ALL, ALL), (NONE, NONE), (frozenset({"<think>"}), NONE))
    ]
    assert len({base.fingerprint, *seen}) == 5
    assert narrow(base, frozenset({"<think>", "a"}), ALL).fingerprint == (
        narrow(base, frozenset({"a", "<think>"}), ALL).fingerprint
    )


@given(FORMS, FORMS)
def test_narrowing_survives_pickling(allowed: Forms, disallowed: Forms) -> None:
    """A pickled ruleset comes back with its narrowing, and finds and decides the same."""
    narrowed = narrow(ruleset(), allowed, disallowed)
    copy: NarrowedRuleset = pickle.loads(pickle.dumps(narrowed))  # noqa: S301 - our own bytes
    assert (narrowed.forms, narrowed.table, narrowed.refused) == (copy.forms, copy.table, copy.refused)
    assert (narrowed.fingerprint, narrowed.prefixes, narrowed.longest) == (
        copy.fingerprint,
        copy.prefixes,
        copy.longest,
    )
    probe = b"<|im_start|>### System: sesame <think>2"
    assert find(probe, narrowed.automata) == find(probe, copy.automata)


def test_what_was_encoded_under_a_narrowing_survives_pickling() -> None:
    """An `Encoded` made under a narrowed ruleset shows the same violations after pickling."""
    from guardtok.encode import encode

    guard = Guard(Policy.parse(EVERYTHING), load_tokenizer("guardtok"), sinks=())
    narrowed = narrow(guard.ruleset, NONE, NONE)
    encoded = encode(guard._examiner.examine(narrowed, "a <think> b", "user", None))
    copy = pickle.loads(pickle.dumps(encoded))  # noqa: S301 - our own bytes
    assert [violation.rule for violation in encoded.violations] == ["caller.allowed_special"]
    assert (encoded.ids, encoded.violations, encoded.sources) == (copy.ids, copy.violations, copy.sources)


def _forms(given: object) -> Forms:
    return "all" if given == "all" else frozenset(given)  # type: ignore[call-overload]
