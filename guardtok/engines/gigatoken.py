"""gigatoken as an engine: the fastest there is, with its two weaknesses fenced in.

gigatoken 0.10.0 keeps every piece of text that it ever saw, in a table without a bound, under a hash without a secret.
So text made for it grows the process without end, and words that all hash alike make each look-up walk past all the
others: 960 KB of them take 3 s, and whatever is encoded afterwards in that table is slow, too. Here it has a budget of
processor time beyond what known text takes. When that is used up, its table is dropped, tiktoken encodes the next two
million characters, and only then a fresh table is built. So whatever an attacker sends, the time stays linear and the
memory bounded.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from random import random
from time import thread_time
from typing import TYPE_CHECKING, Protocol

from guardtok.engines.compared import rank_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    import tiktoken

    from guardtok.engines.compared import Comparison
    from guardtok.tokenizer import Ids

BUDGET = 0.5
"""Seconds of processor time beyond that of known text that one table gets."""

REST = 2_000_000
"""Characters that tiktoken encodes between a table that was dropped and a fresh one."""

SLICE = 65_536
"""Longer text is encoded in slices of about so many characters, and the budget is looked at between them."""

KNOWN_CALL, KNOWN_CHARACTER = 5e-6, 5e-9
"""Seconds that a call and a character of known text take at most."""

WEAR = 0.5e-9
"""Seconds that each character costs of the budget, whatever it took: a table lives for 10⁹ characters at most."""

TIMED = 4_000
"""A text of fewer characters is timed with a chance of its length by this, and then stands for those that were not."""

# No piece of any pattern that was compared goes on from a letter or a digit to one of these, nor looks behind itself,
# so text can be cut between the two. The letters have been letters since the first versions of Unicode.
_CUT = re.compile(
    "[0-9A-Za-z\u0430-\u044f\u0621-\u063a\u3041-\u3096\u4e00-\u9fa5\uac00-\ud7a3](?=[ \n\u3001\u3002\uff0c])"
)


class Backend(Protocol):
    """What is used of a `gigatoken.BPETokenizer`."""

    def encode(self, text: str, /) -> Ids:
        """Return the ids as an array."""
        ...


class GigatokenEngine:
    """Encodes ordinary text with gigatoken wherever that gives tiktoken's ids.

    It holds a table that grows, but what it returns depends on the text alone. Safe to share between threads; it does
    not release Python's lock.

    Args:
        encoding: The encoding whose ids are wanted.
        comparison: Where the two agree.
    """

    name = "gigatoken"
    parallel = False

    def __init__(self, encoding: tiktoken.Encoding, comparison: Comparison) -> None:
        self._encoding = encoding
        self._scheme = comparison.scheme
        self._differ = comparison.pattern()
        self._used = 0.0
        self._rest = 0
        self._table: Backend | None = self._load()

    def encode(self, text: str) -> Ids | None:
        """Return the ids of a text as an array, or None where tiktoken must encode it."""
        if self._rest:
            self._wait(len(text))
            return None
        if self._differ is not None and not text.isascii() and self._differ.search(text):
            return None
        try:
            return self._encode(text) if len(text) <= SLICE else self._encode_long(text)
        except BaseException as error:
            # A Rust panic is no Exception. After one the table may be anything.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            self._drop()
            return None

    def _encode(self, text: str) -> Ids | None:
        table, size = self._table, len(text)
        if table is None:
            return None
        if size < TIMED and random() * TIMED > size:  # noqa: S311 - what is timed is no secret, only unforeseen
            return table.encode(text)
        start = thread_time()
        ids = table.encode(text)
        spent = thread_time() - start
        excess = max(0.0, spent - KNOWN_CALL - size * KNOWN_CHARACTER) + size * WEAR
        self._used += excess * max(1.0, TIMED / (size or 1))
        if self._used > BUDGET:
            self._drop()
        return ids

    def _encode_long(self, text: str) -> Ids | None:
        import numpy as np

        parts = []
        for part in _slices(text):
            ids = self._encode(part) if len(part) <= 2 * SLICE else None
            if ids is None:
                return None
            parts.append(np.array(ids))  # The engine's own has room for an id per byte.
        joined: Ids = np.concatenate(parts)
        return joined

    def _wait(self, size: int) -> None:
        """Count down while tiktoken encodes; then build a fresh table, or wait again where that fails."""
        left = self._rest - max(1, size)
        if left <= 0:
            try:
                self._table, left = self._load(), 0
            except Exception:  # noqa: BLE001 - without a table there is no engine, and tiktoken is always there
                left = REST
        self._rest = left

    def _drop(self) -> None:
        self._rest = REST
        self._used, self._table = 0.0, None

    def _load(self) -> Backend:
        import gigatoken

        # It reads from a path alone. The folder is this user's own, and what is written is what was compared.
        with tempfile.TemporaryDirectory(prefix="guardtok-") as folder:
            path = Path(folder, "ranks.tiktoken")
            path.write_bytes(rank_file(self._encoding))
            # Without special tokens there is nothing that it could parse.
            whole = gigatoken.Tokenizer.from_tiktoken(path, pretokenizer=self._scheme, special_tokens={})
        table: Backend = whole.backend
        return table


def _slices(text: str) -> Iterator[str]:
    """Yield the text in slices; one is long where it offers no place to cut."""
    start = 0
    while len(text) - start > SLICE:
        cut = _CUT.search(text, start + SLICE)
        if cut is None:
            break
        yield text[start : cut.end()]
        start = cut.end()
    yield text[start:]
