"""What every test shares: how hard Hypothesis searches, and the real vocabularies.

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
