"""The how-to for whole requests runs as it is printed."""

from __future__ import annotations

import doctest
from pathlib import Path

from guardtok.requests import PROTOCOLS

PAGE = Path(__file__).parent.parent / "docs" / "requests.md"


def test_every_example_of_the_how_to_gives_what_it_shows() -> None:
    """Each example runs."""
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert result.attempted > 5
    assert result.failed == 0


def test_every_protocol_is_named() -> None:
    """The page lists the protocols that there are."""
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"`{protocol}`" in page for protocol in PROTOCOLS)
