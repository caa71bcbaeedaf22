"""An explanation names what decided, where that is written, and what lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from guardtok.encodings import load_tokenizer
from guardtok.errors import PolicyError, UnknownSourceError
from guardtok.explanation import explain
from guardtok.policy import load_policy, parse_policy, shipped_policies
from guardtok.ruleset import FormKind, bind
from guardtok.tokenizer import Role
from guardtok.violation import Action, Mode

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = """\
guardtok: 1
extends: ./parent.yaml
groups:
  mine: ["<|im_start|>"]
sources:
  user:
    default: escape
    block: ["<|im_*"]
    strip: [mine]
  "*": {default: block}
"""
PARENT = """\
guardtok: 1
sources:
  user: {escape: ["<|im_start|>"]}
  "*": {block: ["@turn"]}
"""


def test_candidates_stand_in_the_order_of_their_strength(tmp_path: Path) -> None:
    """Literal before pattern before group before default, the source before the rest; each with its line."""
    (tmp_path / "parent.yaml").write_text(PARENT, encoding="utf-8")
    (tmp_path / "child.yaml").write_text(LAYERS, encoding="utf-8")
    explanation = explain(load_policy(tmp_path / "child.yaml"), "user", "<|im_start|>")
    assert [(each.rule, each.why) for each in explanation.candidates] == [
        ("user.escape[<|im_start|>]", "literal form, inherited"),
        ("user.block[<|im_*]", "pattern"),
        ("user.strip[mine]", "group"),
        ("user.default", "default"),
        ("*.block[@turn]", 'group of "*", inherited'),
        ("*.default", 'default of "*"'),
    ]
    winner = explanation.decided_by
    assert winner is explanation.candidates[0]
    assert (winner.action, winner.place) == (Action.ESCAPE, f"{tmp_path / 'parent.yaml'}:3:19")
    assert winner.line == 'user: {escape: ["<|im_start|>"]}'
    assert (explanation.action, explanation.mode) == (Action.ESCAPE, Mode.ENFORCE)


def test_a_bound_tokenizer_gives_the_form_its_id() -> None:
    """Id, role and families of the form are part of the explanation."""
    explanation = explain(load_policy("chatml"), "user", "<|im_start|>", load_tokenizer("guardtok"))
    assert (explanation.tokenizer, explanation.token_id, explanation.role) == ("guardtok", 8449, Role.TURN)
    assert explanation.kind is FormKind.CONTROL
    assert "qwen" in explanation.families
    assert (explanation.action, explanation.rule) == (Action.ESCAPE, "*.default")


def test_a_foreign_form_is_decided_by_foreign() -> None:
    """What only other tokenizers have is decided by `foreign`, and the rules that speak of it lost."""
    explanation = explain(load_policy("llama3"), "user", "<|image|>", load_tokenizer("guardtok"))
    assert (explanation.kind, explanation.action, explanation.rule) == (FormKind.FOREIGN, Action.LOG, "foreign")
    assert explanation.decided_by is None
    assert explanation.candidates[0].rule == "*.block[@media]"


def test_a_form_that_is_not_looked_for_is_text() -> None:
    """`<s>` is HTML to a tokenizer that does not have it."""
    explanation = explain(load_policy("chatml"), "user", "<s>", load_tokenizer("guardtok"))
    assert (explanation.kind, explanation.action, explanation.rule) == (None, None, None)
    assert "llama2" in explanation.families


def test_what_nobody_says_anything_about_is_blocked_by_no_line() -> None:
    """The rule that fails closed has no place, and no candidate is blamed for it."""
    explanation = explain(parse_policy("guardtok: 1\nsources: {template: {default: allow}}\n"), "user", "<think>")
    assert (explanation.action, explanation.rule, explanation.decided_by) == (Action.BLOCK, "*.implicit", None)
    assert explanation.candidates == ()


def test_a_policy_from_a_string_has_no_lines_to_show() -> None:
    """The place is there all the same."""
    explanation = explain(parse_policy('guardtok: 1\nsources: {"*": {default: strip}}\n'), "user", "<think>")
    (candidate,) = explanation.candidates
    assert (candidate.line, candidate.place) == (None, "<string>:2:26")


def test_an_unknown_form_gets_a_near_match() -> None:
    """A slip in the question is not answered with a decision."""
    with pytest.raises(PolicyError, match=r"no control token that is known.*Did you mean '<\|im_start\|>'"):
        explain(load_policy("chatml"), "user", "<|im_strat|>")


def test_an_unknown_source_gets_a_near_match() -> None:
    """Nor is a source that the policy does not know."""
    with pytest.raises(UnknownSourceError, match="Did you mean 'user'"):
        explain(load_policy("chatml"), "users", "<|im_start|>")


@pytest.mark.parametrize("name", shipped_policies())
def test_the_first_candidate_is_what_a_guard_obeys(name: str) -> None:
    """Explained and enforced are the same, for forms of each kind that policies treat apart."""
    policy = load_policy(name)
    ruleset = bind(policy, None)
    index_of = {form.text: index for index, form in enumerate(ruleset.forms)}
    for source, form in (("template", "<|im_start|>"), ("assistant", "<think>"), ("user", "<|image|>")):
        explanation = explain(policy, source, form)
        decision = ruleset.table[source][index_of[form]]
        assert (explanation.action, explanation.rule) == (decision.action, decision.rule)
        assert explanation.candidates[0].rule == decision.rule
        assert explanation.candidates[0].place == str(decision.mark)
