from __future__ import annotations

import doctest
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "resizing.md"


def test_the_examples_of_the_page_run() -> None:
    """Each example gives what the page says: the notebook's surgery is caught by name, guardtok's keeps every bit."""
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8", optionflags=doctest.ELLIPSIS)
    assert result.attempted > 30
    assert result.failed == 0


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
