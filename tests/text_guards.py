"""Guards for tests of the text level: small tokenizers full of forms that overlap, and policies with every action."""

from __future__ import annotations

from functools import cache

import tiktoken
from hypothesis import strategies as st

from guardtok import Guard, Policy
from guardtok.adapters.tiktoken import TiktokenTokenizer

FORMS = (
    "<|a|>",
    "<|ab|>",
    "<|a",
    "|>",
    "X1",
    "X19",
    "X199",
    ">>T<<",
    "<<",
    "<🎉>",
    "§",
    "</s>",
    "<_|",
    "_>",
    "aa",
    "aaa",
    "<|abc|>",
    "[T199]",
)
"""They overlap, begin, end and contain each other; one is one character, two hold `_`, two overlap themselves. The last
two are looked for under every view, the others are too short for that."""

SOURCES = {
    "escape": '"*": {default: escape}',
    "strip": '"*": {default: strip}',
    "block": '"*": {default: escape, block: ["X199", "<<"]}',
    "monitor": '"*": {default: block, mode: monitor}',
    "mixed": (
        'user: {default: escape, strip: ["|>", "X19", "aaa"], allow: ["<|a|>", "X1", "<<"]}\n  "*": {default: strip}'
    ),
    "allowing": 'user: {default: allow, escape: ["|>", "X199", "aa"], strip: ["<|a", "<<"]}\n  "*": {default: escape}',
    "lookalikes": '"*": {default: escape, lookalikes: escape}',
    "both": 'user: {default: strip, escape: ["<<", "aa"], lookalikes: escape}\n  "*": {default: escape}',
}
"""What each policy says of its sources. Only the last two, and `block`, look for disguises."""


@cache
def tokenizer() -> TiktokenTokenizer:
    """Return a tokenizer of 256 bytes and the forms."""
    ranks = {bytes([i]): i for i in range(256)}
    special = {form: 1000 + i for i, form in enumerate(FORMS)}
    return TiktokenTokenizer(
        tiktoken.Encoding(name="text-level", pat_str=r"(?s:.)", mergeable_ranks=ranks, special_tokens=special)
    )


@cache
def guard(name: str, more: str = "") -> Guard:
    """Return the guard of a policy in `SOURCES`; `more` are lines of the policy."""
    looks = "" if name in ("lookalikes", "both", "block") else "lookalikes: ignore\n"
    # A bare word is the name of a group unless it is declared.
    words = f"forms: {[form for form in FORMS if form.isalnum()]}\n"
    lines = f"guardtok: 1\nname: {name}\nforeign: ignore\n{looks}{words}{more}sources:\n  {SOURCES[name]}\n"
    policy = Policy.parse(lines)
    return Guard(policy, tokenizer(), sinks=(), digest_key=b"key")


PIECES = (
    *FORMS,
    *(form[:2] for form in FORMS),
    *(form[1:] for form in FORMS),
    *"<|>_aX19§�T/",
    "\uff1c", "\uff58", "\uff1e", "\uff5c", "\u200b", " ",
    "&lt;", "&amp;lt;", "%3C", "%253c", "\\u003c", "\\\\", "&", "A",
    "&lt;|abc|>", "%3c|ABC", "<|ABC|>", "[t199", "\\u005bT", "< |abc|", "\uff1c|abc|>", "[T1\u200b99]",
    "\ud83c", "\udf89", "\ud83c\udf89", "\ud800", "é", "\n",
)  # fmt: skip
"""Forms, halves of forms, what may go into them, disguises, halves of characters."""

TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
