from __future__ import annotations

import doctest
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardtok import extend
from guardtok.extension import Extension, NewToken, Placement

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "resizing.md"


def test_the_examples_of_the_page_run() -> None:
    """Each example gives what the page says: the notebook's surgery is caught by name, guardtok's keeps every bit."""
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8", optionflags=doctest.ELLIPSIS)
    assert result.attempted > 30
    assert result.failed == 0


def test_the_page_writes_out_what_extend_says(vocab: Callable[[str], Any]) -> None:
    """The extension on the page is that of GPT-2's vocabulary, but for the fingerprints."""
    vocab("gpt2")
    made = extend("gpt2", ["MyNewToken_1", "MyNewToken_2"], name="gpt2_custom").extension
    (written,) = (
        example.source
        for example in doctest.DocTestParser().get_examples(PAGE.read_text(encoding="utf-8"))
        if example.source.startswith("extension = Extension(")
    )
    names: dict[str, Any] = {"Extension": Extension, "NewToken": NewToken, "Placement": Placement}
    exec(written, names)  # noqa: S102 - our own page
    assert names["extension"] == replace(made, base_fingerprint="sha256:…", fingerprint="sha256:…")


def test_every_finding_is_on_the_page() -> None:
    """A code that resizing in memory can give stands in one of its tables."""
    here = {
        "plan",
        "survey",
        "census",
        "rows",
        "support",
        "configs",
        "optimizer",
        "verify",
        "scores",
        "transaction",
        "frozen",
    }
    sources = [(ROOT / "guardtok" / "resize" / f"{name}.py").read_text(encoding="utf-8") for name in sorted(here)]
    given = set(re.findall(r"(?:Finding|_error|yield)\(?\s*\"([a-z0-9]+(?:-[a-z0-9]+)*)\",", "\n".join(sources)))
    given |= {"bias-appeared", "tensor-appeared", "old-rows-missing"}
    page = set(re.findall(r"`([a-z0-9-]+)`", PAGE.read_text(encoding="utf-8")))
    assert given - page == set()
