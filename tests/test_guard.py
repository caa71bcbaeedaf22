"""The façade: what it takes, what it gives, what it raises."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardtok import Encoded, Guard, Policy, RefusedError, Text, Violation
from guardtok.encodings import load_tokenizer
from guardtok.errors import (
    DigestKeyError,
    LimitError,
    MissingSourceError,
    NotTextError,
    PolicyError,
    TokenizerError,
    TokenizerMismatchError,
    UnknownSourceError,
    UnknownTokenizerError,
)

if TYPE_CHECKING:
    from pathlib import Path

GUARD = Guard.load("chatml", "guardtok", sinks=())
PIECES = st.text(max_size=8) | st.sampled_from(["<|im_end|>", "<|im_", "start|>", "\ud800", "\0"])
HOSTILE = st.lists(PIECES).map("".join)


def parse(lines: str) -> Policy:
    """Return a policy from the lines after its name."""
    return Policy.parse(f"guardtok: 1\nname: test\n{lines}")


BLOCKING = parse('limits: {max_chars: 50}\nsurrogates: refuse\nsources: {"*": {default: block}}\n')


def test_a_plain_string_needs_a_source() -> None:
    """Who wrote it is never guessed."""
    with pytest.raises(MissingSourceError):
        GUARD.encode("hi")
    with pytest.raises(TypeError):
        GUARD.check("hi")
    with pytest.raises(TypeError):
        GUARD.encode_batch(["hi"])


@given(HOSTILE)
def test_chatml_never_raises_because_of_content(text: str) -> None:
    """The policy to start with is an error on nothing."""
    out = GUARD.encode(text, source="user")
    assert len(out.ids) == GUARD.count(text, source="user")


@given(HOSTILE)
def test_check_and_count_never_raise_because_of_content(text: str) -> None:
    """Not even under a policy that blocks everything, for texts too long and halves of characters."""
    guard = Guard(BLOCKING, load_tokenizer("guardtok"), sinks=())
    assert guard.count(text, source="user") >= 0
    verdict = guard.check(text, source="user")
    try:
        guard.encode(text, source="user")
    except ValueError:
        assert verdict.action == "block"
    else:
        assert verdict.action in {"allow", "log"}


def test_check_names_the_limit_that_was_met() -> None:
    """A text that cannot be scanned is blocked, with a record that says why."""
    guard = Guard(BLOCKING, sinks=())
    (long,) = guard.check("a" * 51, source="user").violations
    (lone,) = guard.check("\ud800", source="user").violations
    assert (long.rule, long.action, long.source, long.end) == ("limits.max_chars", "block", "user", 51)
    assert lone.rule == "surrogates.refuse"
    with pytest.raises(LimitError):
        guard.encode("a" * 51, source="user")


def test_count_is_the_length_of_the_ids() -> None:
    """Tokens that are allowed count as one, text as it is; a blocked form counts as text."""
    text = Text("<|im_start|>user\n", source="template") + Text("a <|im_end|>", source="user")
    assert GUARD.count(text) == len(GUARD.encode(text).ids)
    blocking = Guard(BLOCKING, load_tokenizer("guardtok"), sinks=())
    assert blocking.count("<|im_end|>", source="user") == GUARD.count("<|im_end|>", source="user")


def test_batch_is_encode_one_by_one() -> None:
    """The path of a plain string is its index."""
    texts = ["a", "<|im_end|>", "c <|im_start|>"]
    batch = GUARD.encode_batch(texts, source="document")
    assert [out.ids for out in batch] == [GUARD.encode(text, source="document").ids for text in texts]
    assert [violation.path for out in batch for violation in out.violations] == ["[1]", "[2]"]


def test_batch_does_not_relabel_a_text() -> None:
    """A Text with somebody else's name is an error in a batch too."""
    labelled = Text("<|im_end|>", source="user")
    assert GUARD.encode_batch([labelled])[0].ids == GUARD.encode(labelled).ids
    with pytest.raises(MissingSourceError):
        GUARD.encode_batch([labelled], source="template")


def test_encoded_is_made_by_guards_alone() -> None:
    """Nobody can vouch for ids by constructing the class."""
    with pytest.raises(TypeError):
        Encoded(object(), [1], "", None)  # type: ignore[arg-type]


def test_pickled_encoded_carries_neither_text_nor_key() -> None:
    """What is pickled goes to workers and caches: ids and records, not the prompt, the vocabulary or the key."""
    guard = Guard(GUARD.policy, GUARD.tokenizer, sinks=(), digest_key=b"the key of the digests")
    out = guard.encode(Text("<|im_start|>", source="template") + Text("secret <|im_end|>", source="user"))
    pickled = pickle.dumps(out)
    assert len(pickled) < 2_000
    assert b"the key" not in pickled
    again = pickle.loads(pickled)  # noqa: S301 - this test's own
    assert (again.ids, again.fingerprint) == (out.ids, out.fingerprint)
    assert (again.violations, again.sources, again.display()) == (out.violations, out.sources, out.display())
    assert pickle.loads(pickle.dumps(again)).sources == out.sources  # noqa: S301 - this test's own


def test_a_text_that_cannot_be_scanned_is_on_record() -> None:
    """A refusal for size or surrogates is logged like any other, and its error carries no text."""
    seen: list[Violation] = []
    guard = Guard(BLOCKING, load_tokenizer("guardtok"), sinks=[seen.append])
    for text in ("a" * 51, "secret \ud800"):
        with pytest.raises(ValueError, match=r"[cC]haracter") as caught:
            guard.encode(text, source="user")
        assert caught.value.__context__ is None
    assert [violation.rule for violation in seen] == ["limits.max_chars", "surrogates.refuse"]


def test_halves_of_a_character_from_two_sources_are_no_token() -> None:
    """Neither wrote the token, so nobody did, even where everybody else may."""
    policy = parse(
        'custom_tokens: {"😀": auto}\n'
        'sources: {user: {default: block}, tool_result: {default: block}, "*": {default: allow}}\n'
    )
    guard = Guard(policy, load_tokenizer("guardtok"), sinks=())
    token = guard.encode("\ud83d\ude00", source="template").ids
    out = guard.encode(Text("\ud83d", source="user") + Text("\ude00", source="tool_result"))
    assert not set(token) & set(out.ids)
    with pytest.raises(RefusedError):
        guard.encode("\ud83d\ude00", source="user")


def test_arguments_of_the_wrong_type_are_typed_errors() -> None:
    """Each is an error of guardtok's own."""
    with pytest.raises(UnknownSourceError):
        GUARD.encode("x", source=["user"])  # type: ignore[arg-type]
    with pytest.raises(NotTextError):
        GUARD.encode_batch("abc", source="user")
    with pytest.raises(NotTextError):
        Text("x", source="user", path=None)  # type: ignore[arg-type]
    with pytest.raises(DigestKeyError):
        Guard(GUARD.policy, digest_key="abc")  # type: ignore[arg-type]


def test_sources_of_ids() -> None:
    """Each id knows who wrote its characters; an id over a border knows both."""
    out = GUARD.encode(Text("<|im_start|>im", source="template") + Text("port 👍", source="user"))
    assert out.sources[0] == {"template"}
    assert out.sources[1] == {"template", "user"}
    assert set(out.sources[2:]) == {frozenset({"user"})}
    assert len(out.sources) == len(out.ids)


def test_array_is_uint32() -> None:
    """The same ids, as NumPy has them."""
    out = GUARD.encode("hello <|im_end|>", source="user")
    assert out.array.dtype == "uint32"
    assert out.array.tolist() == out.ids


def test_display_shows_tokens_apart_from_text() -> None:
    """A real token and its spelling in text cannot be mistaken, and neither parses again."""
    out = GUARD.encode(Text("<|im_start|>", source="template") + Text("<|im_start|>\x1b", source="user"))
    assert out.display() == "⟦<_|im_start|>⟧<_|im_start|>\\x1b"


def test_an_unbound_guard_checks_and_does_not_encode() -> None:
    """Without a tokenizer the whole catalogue is looked for."""
    guard = Guard.load("chatml", sinks=())
    assert [v.role for v in guard.check("<|eot_id|> </s>", source="user").violations] == ["turn", "eos"]
    for call in (guard.encode, guard.count):
        with pytest.raises(TokenizerError, match="no tokenizer"):
            call("hi", source="user")


def test_unknown_names_suggest_near_ones() -> None:
    """A typing error in a policy's or a tokenizer's name."""
    with pytest.raises(PolicyError, match="chatml"):
        Guard.load("chatlm")
    with pytest.raises(UnknownTokenizerError, match="cl100k_im"):
        Guard.load("chatml", "cl100k_mi")


def test_a_policy_can_pin_its_tokenizer() -> None:
    """By name and by fingerprint."""
    tokenizer = load_tokenizer("guardtok")
    pinned = f"{{name: guardtok, fingerprint: '{tokenizer.fingerprint}'}}"
    good = f'tokenizer: {pinned}\nsources: {{"*": {{default: escape}}}}\n'
    assert Guard(parse(good), tokenizer).encode("a", source="user").ids
    with pytest.raises(TokenizerMismatchError, match="written for tokenizer 'other'"):
        Guard(parse(good.replace("guardtok,", "other,")), tokenizer)
    with pytest.raises(TokenizerMismatchError, match="fingerprint"):
        Guard(parse(good.replace(tokenizer.fingerprint, "sha256:" + "0" * 64)), tokenizer)


def test_custom_tokens_get_ids_and_are_guarded_from_the_start() -> None:
    """`auto` takes the next free ids in order, and a user cannot write the new token."""
    tokenizer = load_tokenizer("guardtok")
    taken = tokenizer.n_vocab + 1
    guard = Guard(
        parse(
            f'custom_tokens: {{"<|tool|>": auto, "<|/tool|>": {taken}, "<|more|>": auto}}\n'
            'sources: {template: {default: allow}, "*": {default: escape}}\n'
        ),
        tokenizer,
        sinks=(),
    )
    forms = "<|tool|><|/tool|><|more|>"
    assert guard.encode(forms, source="template").ids == [taken - 1, taken, taken + 1]
    assert max(guard.encode(forms, source="user").ids) < tokenizer.n_vocab
    assert guard.tokenizer is not None
    assert guard.tokenizer.decode_bytes([taken - 1, taken]) == b"<|tool|><|/tool|>"
    assert guard.tokenizer is not None
    again = Guard(guard.policy, guard.tokenizer, sinks=())
    assert again.encode(forms, source="template").ids == [taken - 1, taken, taken + 1]
    with pytest.raises(TokenizerError, match="taken"):
        Guard(parse('custom_tokens: {"<|tool|>": 65}\nsources: {"*": {default: escape}}\n'), tokenizer)


def test_a_new_token_before_locked_ones_takes_a_free_id(tmp_path: Path) -> None:
    """What a lock pins is taken, so a token that is put in front gets the next id and moves nobody."""
    tokenizer = load_tokenizer("guardtok")
    free = tokenizer.n_vocab
    file = tmp_path / "mine.yaml"
    file.write_text(
        'guardtok: 1\ncustom_tokens: {"<|new|>": auto, "<|a|>": auto, "<|b|>": auto}\n'
        'sources: {template: {default: allow}, "*": {default: escape}}\n'
    )
    lock = {"guardtok_lock": 1, "tokenizer": "guardtok", "fingerprint": tokenizer.fingerprint}
    pinned = {"<|a|>": free, "<|b|>": free + 1}
    file.with_name("mine.lock.json").write_text(json.dumps(lock | {"ids": pinned}))
    guard = Guard.load(file, tokenizer, sinks=())
    assert guard.encode("<|new|><|a|><|b|>", source="template").ids == [free + 2, free, free + 1]
    other = Guard.load("chatml", "guardtok").tokenizer
    assert other is not None
    with pytest.raises(TokenizerMismatchError, match=r"mine\.lock\.json"):
        Guard.load(file, other.with_custom_tokens({"<|x|>": free + 9}))


def test_unknown_token_in_a_policy_suggests_the_near_one() -> None:
    """A misspelt form would otherwise be a rule that never holds."""
    policy = parse('sources: {user: {default: escape, block: ["<|im_strat|>"]}, "*": {default: escape}}\n')
    for tokenizer in (None, load_tokenizer("guardtok")):
        with pytest.raises(PolicyError, match=r"<string>:3:.*Did you mean '<\|im_start\|>'"):
            Guard(policy, tokenizer)


def test_strip_deletes_in_one_pass_and_nothing_reassembles() -> None:
    """What is left of a nested form cannot complete it: U+FFFD stays in the gap."""
    policy = parse('sources: {user: {default: strip}, "*": {default: escape}}\n')
    guard = Guard(policy, load_tokenizer("guardtok"), sinks=())
    assert guard.tokenizer is not None

    def stripped(text: str) -> str:
        assert guard.tokenizer is not None
        return guard.tokenizer.decode_bytes(guard.encode(text, source="user").ids).decode()

    assert stripped("a <|im_end|> b") == "a  b"
    assert stripped("<|im_<|im_end|>start|>") == "<|im_\ufffdstart|>"
    assert stripped("<|im_end|>" * 3) == ""


def test_strip_touches_no_character_of_a_source_that_did_not_ask() -> None:
    """A form that two sources spelled loses the characters of the one that strips."""
    policy = parse('sources: {user: {default: strip}, document: {default: escape}, "*": {default: escape}}\n')
    guard = Guard(policy, load_tokenizer("guardtok"), sinks=())
    out = guard.encode(Text("<|im_", source="user") + Text("end|> rest", source="document"))
    assert guard.tokenizer is not None
    assert guard.tokenizer.decode_bytes(out.ids).decode() == "end|> rest"


def test_refused_error_lists_what_was_found() -> None:
    """The error has the facts, not the text."""
    guard = Guard(parse('sources: {user: {default: escape, block: ["@eos"]}, "*": {default: escape}}\n'), sinks=())
    bound = Guard(guard.policy, load_tokenizer("guardtok"), sinks=())
    with pytest.raises(RefusedError) as caught:
        bound.encode("secret <|im_end|> <|endoftext|>", source="user", request_id="r")
    assert [violation.action for violation in caught.value.violations] == ["escape", "block"]
    assert "secret" not in str(caught.value)
    assert "user.block[@eos]" in str(caught.value)
