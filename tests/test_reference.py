"""The specification on cases small enough to check by eye: it must be right before anything is held against it."""

from __future__ import annotations

import pytest
from strategies import load, tokenizer

from guardtok import reference
from guardtok.errors import SurrogateError
from guardtok.text import Text
from guardtok.violation import Action, Mode

TINY = tokenizer()
IDS = {token.form: token.id for token in TINY.control_tokens}


def policy(**sources: object) -> dict[str, object]:
    """Return a policy of these sources that knows no foreign forms."""
    return {"guardtok": 1, "foreign": "ignore", "sources": sources}


def run(tree: dict[str, object], *parts: tuple[str, str]) -> reference.ReferenceResult:
    """Encode parts of (source, characters)."""
    text = Text("", source="user")
    for source, characters in parts:
        text += Text(characters, source=source)
    return reference.encode(text, load(tree), TINY)


def test_the_longest_of_the_leftmost_is_parsed() -> None:
    """`X199` is `X199`, which tiktoken reads as `X19`, `9`; `X20` is `X2`, `0`."""
    result = run(policy(template={"default": "allow"}), ("template", "X199X20"))
    assert result.ids == [IDS["X199"], IDS["X2"], ord("0")]
    assert result.findings == []


def test_a_form_of_two_sources_is_joint() -> None:
    """Both may write it, and together they may not; it is ordinary text, and a trusted token beside it stays."""
    both = policy(user={"default": "allow"}, template={"default": "allow"})
    result = run(both, ("user", ">>T<"), ("template", "<|endoftext|>"))
    assert result.ids[-1] == IDS["<|endoftext|>"]
    (finding,) = (each for each in result.findings if each.form.text == ">>T<<")
    assert finding.sources == ("user", "template")
    assert finding.decision == reference.Decision(Action.ESCAPE, Mode.ENFORCE, frozenset({"joint"}))


def test_a_gap_keeps_the_beginning_and_the_end_of_a_form_apart() -> None:
    """What is stripped cannot make its neighbours reassemble; where nothing begins a form nothing is put in."""
    tree = policy(user={"default": "strip"})
    assert run(tree, ("user", "<|a<|endoftext|>b|>")).text == "b"
    assert run(tree, ("user", "X<|endoftext|>1")).text == "X\ufffd1"
    assert run(tree, ("user", "c<|endoftext|>d")).text == "cd"


def test_only_the_source_that_strips_loses_characters() -> None:
    """An edit touches no character of another source."""
    tree = policy(user={"default": "strip"}, tool_result={"default": "block", "mode": "monitor"})
    result = run(tree, ("user", "X<|endo"), ("tool_result", "ftext|>"))
    assert (result.refused, result.cuts) == (False, [(1, 7)])
    assert result.text == "X\ufffdftext|>"


def test_the_first_enforced_block_refuses() -> None:
    """A monitored block, and one inside an allowed token, do not."""
    tree = policy(
        template={"default": "block", "allow": ["<|a|>"]},
        user={"default": "block", "mode": "monitor"},
        crm={"default": "block"},
    )
    result = run(tree, ("template", "<|a|>"), ("user", "</s>"), ("crm", "§X7"))
    assert (result.refused, result.refused_form, result.action) == (True, "§", Action.BLOCK)
    assert result.ids[0] == IDS["<|a|>"]
    assert [each.form.text for each in result.findings] == ["</s>", "§", "X7"]


@pytest.mark.parametrize(
    ("rules", "action"),
    [
        ({"default": "allow", "strip": ["<|*|>"], "escape": ["<|a|>"]}, Action.ESCAPE),
        ({"default": "allow", "strip": ["<|*"], "escape": ["@special"]}, Action.STRIP),
        ({"default": "allow", "escape": ["@special"]}, Action.ESCAPE),
        ({"default": "allow", "escape": ["@turn"]}, Action.ALLOW),
        ({}, Action.STRIP),
    ],
)
def test_the_most_specific_selector_decides(rules: dict[str, object], action: Action) -> None:
    """A literal before a pattern, a pattern before a group, a group before the default, a source before `*`."""
    rest = {"default": "block", "strip": ["<|a|>"]}
    loaded = load({"guardtok": 1, "sources": {"user": rules, "*": rest}})
    form = reference.known_forms(loaded, TINY)["<|a|>"]
    assert reference.decision(loaded, "user", form).action is action


def test_where_nothing_is_said_it_is_blocked() -> None:
    """No source, no `*`: fail closed."""
    loaded = load({"guardtok": 1})
    form = reference.known_forms(loaded, TINY)["<|a|>"]
    assert reference.decision(loaded, "user", form) == reference.Decision(
        Action.BLOCK, Mode.ENFORCE, frozenset({"*.implicit"})
    )


def test_surrogates() -> None:
    """A pair is one character of two in the caller's string; halves that two sources wrote are two halves."""
    tree = policy(template={"default": "allow"})
    whole = run(tree, ("template", "é<\ud83c\udf89>"))
    assert whole.ids[-1] == IDS["<🎉>"]
    shared = run(tree, ("template", "<\ud83c"), ("user", "\udf89>\ud83c"))
    assert [each.source for each in shared.characters] == ["template", "template", "user", "user", "user"]
    assert "".join(each.value for each in shared.characters) == "<\ufffd\ufffd>\ufffd"
    assert not shared.findings
    with pytest.raises(SurrogateError):
        run({**tree, "surrogates": "refuse"}, ("user", "\ud83c"))
