"""Tokenizers with what is known to be wrong with them, as targets for `guardtok fuzz` (`benchmarks.known:words`).

Each is as small as it can be and faithful in the one point that matters: the library is the real one, and so is the
door. What a vocabulary has to do with a finding is in it; nothing else is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tiktoken
from tokenizers import AddedToken

from benchmarks.templates import load_templates
from tests import hf_tokenizers

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def overlapping() -> tiktoken.Encoding:
    """Return an encoding with the tokens X1 to X199: tiktoken tries them in the order of a hash table."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    special = {f"X{number}": 1000 + number for number in range(1, 200)}
    return tiktoken.Encoding("overlapping", pat_str="(?s:.)", mergeable_ranks=ranks, special_tokens=special)


def not_special() -> Tokenizer:
    """Return byte-level BPE with an added token that is not special, as reasoning and tool tokens mostly are."""
    return hf_tokenizers.build("byte-level", AddedToken("<think>", special=False))


def unigram() -> Tokenizer:
    """Return Unigram with its control tokens among its pieces, as SentencePiece's converters leave them."""
    return hf_tokenizers.build("unigram, first", AddedToken("</s>", special=True))


def words() -> Tokenizer:
    """Return WordLevel with a control token among its words."""
    return hf_tokenizers.build("words", AddedToken("</s>", special=True))


def nfkc() -> Tokenizer:
    """Return Unigram behind NFKC, as T5 and its kin have it."""
    return hf_tokenizers.build("unigram, always", AddedToken("</s>", special=True))


def sanitized() -> Any:  # noqa: ANN401 - a transformers tokenizer
    """Return a transformers tokenizer whose chat template writes the parts of a message one behind the other."""
    (template,) = (each for each in load_templates(None) if each.name == "own_completion")
    tokenizer = template.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    )
    return tokenizer


@dataclass(frozen=True, slots=True)
class Known:
    """Something that is known to be wrong.

    Attributes:
        name: What it is.
        target: What the fuzzer is pointed at.
        oracle: Which oracle must find it.
        cause: As which cause.
        against: What the ids are held against.
        cases: So many cases are enough to find it with seed 0.
    """

    name: str
    target: str
    oracle: str
    cause: str
    against: str | None = None
    cases: int = 60


KNOWN = (
    Known(
        "tiktoken reads X199 as X19 and 9",
        "benchmarks.known:overlapping",
        "overlap",
        "a token is read as another that it begins with or overlaps",
    ),
    Known("o200k_harmony has one id for two tokens", "o200k_harmony", "overlap", "two tokens share an id", cases=1),
    Known(
        "tokenizers: an added token that is not special survives encode_special_tokens=True",
        "benchmarks.known:not_special",
        "leak",
        "a token that is not special that the text spells",
    ),
    Known(
        "tokenizers: Unigram makes a control id of plain text",
        "benchmarks.known:unigram",
        "leak",
        "a special token that the text spells",
    ),
    Known(
        "tokenizers: WordLevel makes a control id of plain text",
        "benchmarks.known:words",
        "leak",
        "a special token that the text spells",
    ),
    Known(
        "tokenizers: NFKC makes a control token of full-width characters",
        "benchmarks.known:nfkc",
        "leak",
        "a special token that the text does not spell",
        cases=120,
    ),
    Known("gigatoken and tiktoken differ on cl100k_base", "cl100k_base", "drift", "other ids", against="gigatoken"),
    Known(
        "transformers: a token in two parts beats sanitize_control_tokens=True",
        "benchmarks.known:sanitized",
        "forge",
        "a special token, in pieces, in parts",
        cases=1_000,
    ),
)
"""What the fuzzer must find, unaided, in a minute."""
