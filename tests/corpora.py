"""What tests of corpora share: guards, hostile pieces of text, and the ways in which Arrow keeps strings."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pyarrow as pa
from hypothesis import strategies as st
from strategies import FOREIGN, FORMS, tokenizer

from guardtok import Guard, Policy
from guardtok.corpus import ArrowScanner

if TYPE_CHECKING:
    from guardtok.violation import Verdict

RULES = """guardtok: 1
name: corpus-test
sources:
  document: {default: escape, block: ["<|endoftext|>"]}
  template: {default: allow}
  "*": {default: escape}
"""
KEY = b"key"
PIECES = (
    *FORMS,
    *FOREIGN,
    *(form[:4] for form in (*FORMS, *FOREIGN)),
    *(form[2:] for form in (*FORMS, *FOREIGN)),
    *("<|IM_", "< |im_", "end|>", "&lt;", "&#60", ";", "%3C", "\\u003c", "\\\\", "\\", "&amp;"),
    *("\uff1c", "\uff5c", "<\u200b|im_end|>", "<|\uff49m_end|>", "\u276e|im_end|>", "\u2581", "\u200b", "\u2039s>"),
    # The tokenizer has `|>` for a token; these hold no form at all but the disguised one.
    *("<\u200b/s>", "</\u200bs>", "<th\u00adink>", "<\u200bthink>", "[I\uff2eST]", "[/\u2060INST]", "<t\u00a0hink>"),
    *("\u00e9", "\u4e16\u754c", "\U0001f600", "< b", "a < 1", "[i]", "</th>", "\n", "  ", "\x00", "a", ""),
)
SOUP = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
TEXTS = st.lists(st.none() | SOUP | st.text(max_size=8), max_size=12)


@cache
def guard(lookalikes: str = "log", default: str = "escape", limits: str = "") -> Guard:
    """Return the guard that corpora are held against."""
    return Guard(policy(lookalikes, default, limits), tokenizer(), sinks=(), digest_key=KEY)


@cache
def policy(lookalikes: str = "log", default: str = "escape", limits: str = "") -> Policy:
    """Return its policy."""
    rules = RULES.replace("document: {default: escape", f"document: {{default: {default}")
    return Policy.parse(f"{rules}lookalikes: {lookalikes}\n{limits}")


@cache
def scanner(action: str = "report", lookalikes: str = "log", column: str = "text", limits: str = "") -> ArrowScanner:
    """Return a scanner of one column."""
    return ArrowScanner(policy(lookalikes, "escape", limits), [column], action, tokenizer=tokenizer(), digest_key=KEY)


@cache
def plain(action: str = "report") -> ArrowScanner:
    """Return a scanner as the command line makes it."""
    return ArrowScanner("corpus", ["text"], action, digest_key=KEY)


def verdicts(texts: list[str | None], lookalikes: str = "log") -> dict[int, Verdict]:
    """Return what the guard finds in each text, by its place, where it finds something."""
    checked = {
        row: guard(lookalikes).check(text, source="document") for row, text in enumerate(texts) if text is not None
    }
    return {row: verdict for row, verdict in checked.items() if verdict.count}


def stored(texts: list[str | None], kind: str) -> pa.Array | pa.ChunkedArray:
    """Return texts as Arrow keeps them: one of `KINDS`."""
    match kind:
        case "string" | "large_string" | "string_view":
            return pa.array(texts, getattr(pa, kind)())
        case "sliced":
            return pa.array(["<|im_end|>", "<|im_", *texts, "end|>", None])[2 : 2 + len(texts)]
        case "chunked":
            return pa.chunked_array([pa.array([text], pa.string()) for text in texts], pa.string())
        case "dictionary":
            return pa.array(texts, pa.string()).dictionary_encode()
        case "over garbage":
            return over_garbage(texts)
        case _:
            raise ValueError(kind)


KINDS = ("string", "large_string", "string_view", "sliced", "chunked", "dictionary", "over garbage")


def over_garbage(texts: list[str | None]) -> pa.Array:
    """Return texts whose nulls lie over a form."""
    full = pa.array(["<|im_end|>" if text is None else text for text in texts], pa.string())
    _, offsets, data = full.buffers()
    bits = bytearray((len(texts) + 7) // 8)
    for row, text in enumerate(texts):
        bits[row // 8] |= (text is not None) << (row % 8)
    return pa.Array.from_buffers(pa.string(), len(texts), [pa.py_buffer(bytes(bits)), offsets, data])
