"""What every test shares: how hard Hypothesis searches, the real vocabularies and the real chat templates.

A gate must fail for what a change did, not for what chance found, so in CI the examples are the same on every run.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.templates import Template
    from guardtok.tokenizer import Tokenizer

# pytest tells its worker processes the width of a page; what is tested is a pipe, which has none.
os.environ.pop("COLUMNS", None)

# Deadlines are off because a shared machine stalls; speed has its own tests.
settings.register_profile("local", deadline=None, max_examples=50, print_blob=True)
settings.register_profile("ci", deadline=None, max_examples=50, print_blob=True, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def vocab() -> Callable[[str], Tokenizer]:
    """Return a function from a tokenizer's name to the tokenizer, loaded once.

    Where its file is nowhere to be found the test is skipped, or fails if `GUARDTOK_REQUIRE_VOCAB` is 1.
    """
    from guardtok.encodings import load_tokenizer
    from guardtok.errors import UnknownTokenizerError

    @functools.cache
    def load(name: str) -> Tokenizer:
        try:
            return load_tokenizer(name)
        except UnknownTokenizerError as error:
            absent = f"the vocabulary of {name!r} is not here: {error}"
        if os.environ.get("GUARDTOK_REQUIRE_VOCAB") == "1":
            pytest.fail(absent)
        pytest.skip(absent)

    return load


@pytest.fixture(scope="session")
def templates() -> dict[str, Template]:
    """Return the real chat templates of `GUARDTOK_TEMPLATE_DIR` by name.

    Where there are none the test is skipped, or fails if `GUARDTOK_REQUIRE_VOCAB` is 1.
    """
    from benchmarks.templates import find_directory, load_templates

    directory = find_directory()
    if directory is not None:
        return {template.name: template for template in load_templates(directory)}
    if os.environ.get("GUARDTOK_REQUIRE_VOCAB") == "1":
        pytest.fail("there are no chat templates: name their directory in GUARDTOK_TEMPLATE_DIR")
    pytest.skip("there are no chat templates: name their directory in GUARDTOK_TEMPLATE_DIR")
