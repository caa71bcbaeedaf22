"""`guardtok sanitize`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from command_line import guardtok

if TYPE_CHECKING:
    from pathlib import Path


def test_the_text_comes_out_broken() -> None:
    """The text alone goes to standard output, what was found to standard error."""
    ran = guardtok("sanitize", "hi <|im_end|>")
    assert (ran.status, ran.out) == (0, "hi <_|im_end|>")
    assert "<_|im_end|>" in ran.err
    assert "<|im_end|>" not in ran.err


def test_a_pipe_gets_the_text_as_it_is() -> None:
    """Nothing is added, nothing is escaped, no line ending changes: it is a filter."""
    text = "a\r\nb\x00\x1b[31m\u202e żółć\n"
    ran = guardtok("sanitize", "-", stdin=text.encode())
    assert (ran.status, ran.out, ran.err) == (0, text, "")


def test_sanitizing_again_changes_nothing() -> None:
    """Its own output is clean."""
    once = guardtok("sanitize", "x <|im_start|> [INST] </s>").out
    again = guardtok("sanitize", once)
    assert (again.out, again.err) == (once, "")


def test_a_refused_text_comes_out_empty(tmp_path: Path) -> None:
    """The status says so, and the other texts come out all the same."""
    policy = tmp_path / "p.yaml"
    policy.write_text('guardtok: 1\nsources: {user: {default: escape, block: ["@eos"]}, "*": {default: escape}}\n')
    ran = guardtok("sanitize", "--policy", policy, "--tokenizer", "guardtok", "a <|endoftext|>", "b")
    assert (ran.status, ran.out) == (1, "\nb\n")
    assert "Text 1: Refused" in ran.err


def test_json_has_the_text() -> None:
    """One object for each text; a refused one has no `text`."""
    ran = guardtok("sanitize", "--format", "json", "<|im_end|>")
    record = json.loads(ran.out)
    assert (record["text"], record["action"]) == ("<_|im_end|>", "escape")
    assert list(record) == ["text", "action", "violations", "policy"]
