"""huggingface's library is the oracle: what all may write has its ids, and what nobody may write is never made."""

from __future__ import annotations

import pytest
from hf_tokenizers import KINDS, added_tokens, build, strings
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from guardtok.adapters.hf import HfTokenizer
from guardtok.errors import VerificationError
from guardtok.guard import Guard
from guardtok.policy import parse_policy
from guardtok.text import Text

QUIET = "foreign: ignore, lookalikes: ignore, surrogates: replace"
ALLOW = parse_policy(f'{{guardtok: 1, {QUIET}, sources: {{"*": {{default: allow}}}}}}')
ESCAPE = parse_policy(f'{{guardtok: 1, {QUIET}, sources: {{template: {{default: allow}}, "*": {{default: escape}}}}}}')
FEW = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def library_ids(tokenizer, text: str) -> list[int]:  # noqa: ANN001
    """Return what the library itself makes of a text; it panics on a few."""
    try:
        return tokenizer.encode(text, add_special_tokens=False).ids
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        assume(False)  # noqa: FBT003
        raise


@pytest.mark.parametrize("kind", KINDS)
@given(tokens=added_tokens(), text=strings())
@FEW
def test_where_all_is_allowed_the_ids_are_the_library_s(kind: str, tokens, text: str) -> None:  # noqa: ANN001
    """Whatever was added, with whatever flags, under whatever normaliser."""
    tokenizer = build(kind, *tokens)
    expected = library_ids(tokenizer, text)
    guard = Guard(ALLOW, HfTokenizer(tokenizer), sinks=())
    try:
        ids = guard.encode(text, source="user").ids
    except VerificationError:
        # A control id that the model's own vocabulary makes comes only of a match.
        assume(False)  # noqa: FBT003
    assert ids == expected


@pytest.mark.parametrize("kind", KINDS)
@given(tokens=added_tokens(), text=strings())
@FEW
def test_no_reserved_id_comes_out_of_text_that_may_write_none(kind: str, tokens, text: str) -> None:  # noqa: ANN001
    """And what comes out decodes to what the tokenizer's own normaliser makes of the text."""
    wrapped = HfTokenizer(build(kind, *tokens))
    guard = Guard(ESCAPE, wrapped, sinks=())
    try:
        ids = guard.encode(text, source="user").ids
    except VerificationError:
        # A form of one character cannot be cut apart.
        assume(False)  # noqa: FBT003
    assert wrapped.reserved_ids.isdisjoint(ids)
    assert guard.count(text, source="user") == len(ids)
    if kind.startswith("byte-level"):
        decoded = wrapped.decode_bytes(ids).decode()
        assert decoded.removeprefix(" ") == wrapped.normalize(text).removeprefix(" ")


@pytest.mark.parametrize("kind", KINDS)
@given(tokens=added_tokens(), before=strings(4), form=st.integers(0, 4), after=strings(4))
@FEW
def test_a_trusted_token_is_there_whatever_is_beside_it(kind: str, tokens, before: str, form: int, after: str) -> None:  # noqa: ANN001
    """No neighbour hides, splits or swallows it; the only reserved ids are those that the template wrote."""
    tokenizer = build(kind, *tokens)
    token = tokens[form % len(tokens)].content
    alone = library_ids(tokenizer, token)
    wrapped = HfTokenizer(tokenizer)
    guard = Guard(ESCAPE, wrapped, sinks=())
    text = Text(before, source="user") + Text(token, source="template") + Text(after, source="user")
    try:
        out = guard.encode(text)
    except VerificationError:
        assume(False)  # noqa: FBT003
    written = [id_ for id_ in alone if id_ in wrapped.reserved_ids]
    assert [id_ for id_ in out.ids if id_ in wrapped.reserved_ids] == written
