"""Many texts at once: searched together, decided and logged in their order, encoded on every core where that pays."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from guardtok.clean import which_are_clean
from guardtok.encode import encode, encode_clean
from guardtok.errors import NotTextError
from guardtok.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from guardtok.encoded import Encoded
    from guardtok.examine import Examiner
    from guardtok.records import Report
    from guardtok.ruleset import Ruleset

_WORTH_A_THREAD = 1_000
"""Characters of a text in a batch, on average, from which on threads cost less than they bring."""


def encode_batch(
    texts: Iterable[str], source: str | None, request_id: str | None, ruleset: Ruleset, examiner: Examiner
) -> list[Encoded]:
    """Encode texts; see `Guard.encode_batch`."""
    if isinstance(texts, str):
        raise NotTextError("A batch is an iterable of texts, not a str: encode it alone, or put it into a list.")
    listed = list(texts)
    examine = partial(examiner.examine, ruleset, request_id=request_id)

    def examine_one(index: int, text: str) -> Report:
        if source is None or isinstance(text, Text):
            return examine(text, source)
        return examine(Text(text, source=source, path=f"[{index}]"), None)

    def encode_one(decided: Report | tuple[str, str]) -> Encoded:
        return encode_clean(*decided, ruleset) if isinstance(decided, tuple) else encode(decided)

    decided = [
        (text, source) if source is not None and clean else examine_one(index, text)
        for index, (text, clean) in enumerate(zip(listed, which_are_clean(listed, source, ruleset), strict=True))
    ]
    length = sum(map(len, listed))
    if length < len(decided) * _WORTH_A_THREAD or not getattr(ruleset.tokenizer, "parallel", False):
        return list(map(encode_one, decided))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(encode_one, decided))
