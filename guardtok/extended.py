"""An extended vocabulary: the new tokenizer, what was added to it, and what the checks said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guardtok.extension import Extension
    from guardtok.finding import Report
    from guardtok.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Extended:
    """What `guardtok.extend` returns.

    A guard takes it as it is: `Guard.load(policy, tokenizer=extended)`. The new tokens are control tokens of
    `tokenizer` and of `encoding` alike, so there is no moment at which one exists and a guard does not know it.

    Attributes:
        extension: The new tokens and where their ids came from, as plain values; what a model is resized for.
        tokenizer: The extended vocabulary as guardtok binds it; it reads overlapping tokens leftmost-longest.
        encoding: The same in the base's own library: a `tiktoken.Encoding`, a `tokenizers.Tokenizer` or a fast
            tokenizer of transformers. It parses whatever it is told to: give it text from people only through a guard.
        report: What the checks found; no error, for then there would be no result.
    """

    extension: Extension
    tokenizer: Tokenizer = field(repr=False)
    encoding: Any = field(repr=False)
    report: Report = field(repr=False)
