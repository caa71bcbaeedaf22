"""The how-to for conversations runs as it is printed."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.templates import load_templates

if TYPE_CHECKING:
    import pytest

PAGE = Path(__file__).parent.parent / "docs" / "chat.md"


def test_every_example_of_the_how_to_gives_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example runs, with a model folder as transformers writes it."""
    tokenizer = load_templates(None)[-1].tokenizer()
    tokenizer.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert result.attempted > 15
    assert result.failed == 0
