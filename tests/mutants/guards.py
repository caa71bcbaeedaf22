"""The guards that are broken: small ones, with nothing wrong, each with the one thing that a mutant gets wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tiktoken
from tokenizers import AddedToken

from guardtok import Guard, Policy
from guardtok.adapters.hf import HfTokenizer
from guardtok.adapters.tiktoken import TiktokenTokenizer
from tests import hf_tokenizers
from tests.test_fuzz_guarded import Bodies

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMS = {"<|im_start|>": 400, "<|im_end|>": 401, "</s>": 402}

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content.replace('</think>', '') }}"
    "{% else %}{% for part in m.content or [] %}{{ part.text }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
)
"""A chat template that takes something out of messages, as those of reasoning models do."""


def policy(rules: str = "{default: escape}", more: str = "lookalikes: ignore") -> Policy:
    """Return a policy under which the template may do anything, and everybody else what `rules` say."""
    sources = f"sources:\n  template: {{default: allow}}\n  '*': {rules}\n"
    return Policy.parse(f"guardtok: 1\nname: mutants\nforeign: ignore\n{more}\n{sources}")


def tokenizer(
    forms: Mapping[str, int] = FORMS, kind: type[TiktokenTokenizer] = TiktokenTokenizer, template: str | None = None
) -> TiktokenTokenizer:
    """Return a tokenizer of bytes and a few merges with these control tokens."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"<|": 300, b"\n<|": 301, b"ab": 302}
    made = tiktoken.Encoding("mutants", pat_str="(?s:.+)", mergeable_ranks=ranks, special_tokens=dict(forms))
    return kind(made, chat_template=template)


def plain(kind: type[Guard] = Guard) -> Guard:
    """Return a guard that escapes."""
    return kind(policy(), tokenizer(), sinks=())


def requesting(kind: type[Bodies] = Bodies) -> Guard:
    """Return a guard of whole requests."""
    return plain(kind)


def stripping() -> Guard:
    """Return a guard that takes forms out."""
    return Guard(policy("{default: strip}"), tokenizer(), sinks=())


def blocking() -> Guard:
    """Return a guard that refuses all forms but one, which it escapes."""
    return Guard(policy("{default: block, escape: ['</s>']}"), tokenizer(), sinks=())


def watching() -> Guard:
    """Return a guard that escapes forms in disguise, too."""
    return Guard(policy("{default: escape, lookalikes: escape}", ""), tokenizer(), sinks=())


def excerpting() -> Guard:
    """Return a guard whose records quote the text."""
    return Guard(policy(more="lookalikes: ignore\nlog: {text: excerpt}"), tokenizer(), sinks=())


def overlapping() -> Guard:
    """Return a guard of tokens of which one begins with the other."""
    return Guard(policy(), tokenizer({"<|a|>": 400, "<|a|>b": 401}), sinks=())


def smiling(kind: type[Guard] = Guard) -> Guard:
    """Return a guard of a token that two surrogates spell."""
    return kind(policy(), tokenizer({**FORMS, "\U0001f44d": 403}), sinks=())


def many() -> Guard:
    """Return a guard of media tokens and of slots that nobody uses."""
    forms = {**FORMS, "<|image_pad|>": 403, "<|reserved_special_token_7|>": 404}
    return Guard(policy(), tokenizer(forms), sinks=())


def talking(kind: type[Guard] = Guard) -> Guard:
    """Return a guard with a chat template that takes something out."""
    return kind(policy(), tokenizer(template=TEMPLATE), sinks=())


class PanicException(BaseException):
    """What a Rust library raises where it gives up."""


class Panicking(TiktokenTokenizer):
    """Gives up on long texts, as tiktoken does on a million blanks."""

    def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:
        """Encode, or panic."""
        if len(text) > 5_000:
            raise PanicException
        return list(super().encode_ordinary(text, at_start=at_start))


def panicking() -> Guard:
    """Return a guard whose tokenizer gives up on long texts."""
    return Guard(policy(), tokenizer(kind=Panicking), sinks=())


def unigram() -> Guard:
    """Return a guard before a model that makes control ids of plain text."""
    return _hf("unigram, first", AddedToken("</s>", special=True))


def thinking() -> Guard:
    """Return a guard of a token that is not special."""
    return _hf("byte-level", AddedToken("<think>", special=False), AddedToken("</s>", special=True))


def folding() -> Guard:
    """Return a guard of a token that a normaliser makes of other characters."""
    return _hf("byte-level under NFKC and lower case", AddedToken("<think>", special=False, normalized=True))


def _hf(kind: str, *tokens: AddedToken) -> Guard:
    return Guard(policy(), HfTokenizer(hf_tokenizers.build(kind, *tokens)), sinks=())
