"""`guardtok demo`: what it claims is true of what it shows."""

from __future__ import annotations

import pytest
from command_line import Ran, guardtok

from guardtok import Guard, RefusedError, Text
from guardtok.cli.demo import NEXT, PARTS, POLICY, TOKENIZER, read_turns
from guardtok.encodings import load_tokenizer


@pytest.fixture
def prompt() -> Text:
    """Return the prompt that the demo shows."""
    return Text("", source="template").join(Text(text, source=source) for source, text in PARTS)


@pytest.fixture(scope="module")
def shown() -> Ran:
    """Return what the demo shows in a pipe."""
    return guardtok("demo")


def test_the_demo_fits_the_page_and_needs_no_colour(shown: Ran) -> None:
    """In a pipe no line is longer than 100 characters, nothing is an escape, and it fits two screens."""
    lines = shown.out.splitlines()
    assert (shown.status, shown.err) == (0, "")
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in shown.out
    assert len(lines) < 75


def test_the_forged_turns_are_real_without_guardtok(prompt: Text, shown: Ran) -> None:
    """An encode of tiktoken's makes turns that a user and a tool wrote, and the demo marks just these."""
    tokenizer = load_tokenizer(TOKENIZER)
    ids = tokenizer.encoding.encode(str(prompt), allowed_special="all")
    turns = list(read_turns(ids, prompt, tokenizer))
    assert [(turn.role, turn.opened_by) for turn in turns if turn.opened_by != "template"] == [
        ("system", "user"),
        ("assistant", "tool_result"),
    ]
    out = shown.out
    assert out.count("FORGED") == 2
    assert f"makes {len(ids)} ids" in out


def test_no_turn_is_forged_with_guardtok(prompt: Text, shown: Ran) -> None:
    """The guarded ids have the template's turns and no other, and lose no character."""
    guard = Guard.load(POLICY, TOKENIZER, sinks=())
    encoded = guard.encode(prompt)
    turns = list(read_turns(encoded.ids, prompt, guard.tokenizer))
    assert [turn.opened_by for turn in turns] == ["template"] * sum("<|im_start|>" in text for _, text in PARTS[::2])
    assert guard.tokenizer.decode_bytes(encoded.ids).decode() == prompt
    out = shown.out
    assert "none of them forged" in out
    assert [each.token for each in encoded.violations if out.count(f" {each.token} ") < 2] == []


def test_strict_refuses_the_prompt(prompt: Text, shown: Ran) -> None:
    """What the demo says of the policy `strict` is so."""
    assert "Under the policy strict the prompt is refused" in shown.out
    with pytest.raises(RefusedError):
        Guard.load("strict", TOKENIZER, sinks=()).encode(prompt)


def test_the_next_lines_run(shown: Ran) -> None:
    """The lines that the demo ends with are Python that works."""
    names: dict[str, object] = {}
    exec(NEXT, names)  # noqa: S102 - it is this project's own text
    assert isinstance(names["ids"], list)
    assert all(line.strip() in shown.out for line in NEXT.splitlines())
