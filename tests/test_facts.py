"""Ids that are known from outside: GPT-2's and Qwen-7B's own documents, and tiktoken's known gaps."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import pytest
import tiktoken

from guardtok import Guard, Policy, RefusedError, Text
from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.encodings import load_tokenizer
from guardtok.errors import TokenizerError
from guardtok.tokenizer import ControlToken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from guardtok.tokenizer import Tokenizer


def policy(rules: str, extra: str = "") -> Policy:
    """Return a policy from the lines under `sources`."""
    return Policy.parse(f"guardtok: 1\nname: facts\n{extra}sources:\n{rules}")


def guard(tokenizer: Tokenizer, rules: str, extra: str = "") -> Guard:
    """Return a silent guard."""
    return Guard(policy(rules, extra), tokenizer, sinks=())


def test_gpt2_new_token_text(vocab: Callable[[str], Tokenizer]) -> None:
    """GPT-2's ids of the well-known sentence, with only `<|endoftext|>` allowed."""
    out = guard(vocab("gpt2"), '  user: {default: block, allow: ["<|endoftext|>"]}\n').encode(
        "Hello, MyNewToken_1 is a new token. <|endoftext|>", source="user"
    )
    assert out.ids == [15496, 11, 2011, 3791, 30642, 62, 16, 318, 257, 649, 11241, 13, 220, 50256]


def test_qwen_print_as_text(vocab: Callable[[str], Tokenizer]) -> None:
    """From a source that may not write it, Qwen's `<|endoftext|>` is the text that it is."""
    out = guard(vocab("qwen"), "  user: {default: escape}\n").encode('print("<|endoftext|>")', source="user")
    assert out.ids == [1350, 9639, 91, 8691, 723, 427, 91, 82598]


def test_qwen_print_as_token(vocab: Callable[[str], Tokenizer]) -> None:
    """From a source that may write it, the same characters are the token."""
    out = guard(vocab("qwen"), "  user: {default: allow}\n").encode('print("<|endoftext|>")', source="user")
    assert out.ids == [1350, 445, 151643, 899]


def test_qwen_one_allowed_one_not(vocab: Callable[[str], Tokenizer]) -> None:
    """Two forms in one text are decided one by one."""
    rules = '  user: {default: escape, allow: ["<|endoftext|>"]}\n'
    out = guard(vocab("qwen"), rules).encode('print("<|extra_0|>")<|endoftext|>', source="user")
    assert out.ids == [1350, 9639, 91, 15460, 62, 15, 91, 82598, 151643]


def test_qwen_blocked_is_a_value_error_that_names_the_token(vocab: Callable[[str], Tokenizer]) -> None:
    """A blocked form raises what tiktoken's users catch."""
    rules = '  user: {default: escape, allow: ["<|endoftext|>"], block: ["<|extra_0|>"]}\n'
    with pytest.raises(ValueError, match=r"disallowed special token '<\|extra_0\|>'") as caught:
        guard(vocab("qwen"), rules).encode('print("<|extra_0|>")<|endoftext|>', source="user")
    assert isinstance(caught.value, RefusedError)
    assert caught.value.token == "<|extra_0|>"  # noqa: S105 - no password
    assert [violation.start for violation in caught.value.violations] == [7]


def test_qwen_decodes_half_a_character(vocab: Callable[[str], Tokenizer]) -> None:
    """Two bytes of three are a replacement character, or nothing; with the third they are the character."""
    encoding = guard(vocab("qwen"), "  user: {default: escape}\n").encoding
    assert encoding.decode([51461]) == " \ufffd"
    assert encoding.decode([51461], errors="ignore") == " "
    assert encoding.decode_tokens_bytes([51461, 117]) == [b" \xe6\xa0", b"\xb9"]
    assert encoding.decode([51461, 117]) == " 根"


def numbered() -> TiktokenTokenizer:
    """Return a tokenizer whose special tokens `X1` … `X199` overlap."""
    base = load_tokenizer("guardtok")
    assert isinstance(base, TiktokenTokenizer)
    encoding = tiktoken.Encoding(
        "numbered",
        pat_str=base.encoding._pat_str,
        mergeable_ranks=base.encoding._mergeable_ranks,
        special_tokens={f"X{number}": 10_000 + number for number in range(1, 200)},
    )
    return TiktokenTokenizer(encoding)


def test_overlapping_tokens_are_read_longest_first() -> None:
    """`X199` is one token, where tiktoken has no order and can read `X19`, `9`."""
    out = guard(numbered(), "  user: {default: allow}\n", "foreign: ignore\n").encode("X199 X19 X1", source="user")
    assert [token for token in out.ids if token >= 10_000] == [10_199, 10_019, 10_001]


def test_forbidden_prefix_does_not_move_an_allowed_token() -> None:
    """`X19` is blocked, `X199` is allowed: what was written is `X199`."""
    extra = "foreign: ignore\nforms: [X199]\n"  # A bare word is a form once the policy says so.
    allowed = guard(numbered(), '  user: {default: block, allow: ["X199"]}\n', extra)
    assert allowed.encode("X199", source="user").ids == [10_199]
    with pytest.raises(RefusedError):
        allowed.encode("X198", source="user")


def test_two_forms_of_one_id(vocab: Callable[[str], Tokenizer]) -> None:
    """o200k_harmony spells 200018 in two ways; a policy decides each by its form, and the id stays reserved."""
    rules = '  template: {default: allow}\n  user: {default: escape, allow: ["<|endofprompt|>"]}\n'
    both = guard(vocab("o200k_harmony"), rules)
    assert both.encode("<|endofprompt|>", source="user").ids == [200018]
    assert 200018 not in both.encode("<|reserved_200018|>", source="user").ids
    assert both.encode("<|reserved_200018|><|endofprompt|>", source="template").ids == [200018, 200018]


def falcon() -> TiktokenTokenizer:
    """Return a tokenizer with Falcon's overlapping forms."""
    base = load_tokenizer("guardtok")
    return TiktokenTokenizer(base.encoding).with_custom_tokens({">>TITLE<<": 9_000})  # type: ignore[attr-defined]


def test_jointly_written_form_is_not_parsed_and_hides_nothing() -> None:
    """User `>>TITLE<` and the template's `<|endoftext|>` spell `>>TITLE<<` together; the template's token stands."""
    rules = '  template: {default: allow}\n  user: {default: escape, allow: [">>TITLE<<"]}\n'
    both = guard(falcon(), rules)
    end = both.encode("<|endoftext|>", source="template").ids
    out = both.encode(Text(">>TITLE<", source="user") + Text("<|endoftext|>", source="template"))
    assert out.ids[-1:] == end
    assert 9_000 not in out.ids
    assert [(violation.rule, violation.source) for violation in out.violations] == [("joint", "user+template")]
    assert both.encode(">>TITLE<<", source="user").ids == [9_000]


CHAT = '  template: {default: allow}\n  "*": {default: escape}\n'


@pytest.fixture(scope="module")
def chat() -> Guard:
    """Return a silent guard on the embedded tokenizer, where nobody but the template writes tokens."""
    return guard(load_tokenizer("guardtok"), CHAT)


def decode(guard: Guard, ids: list[int]) -> str:
    """Return the text of ids."""
    assert guard.tokenizer is not None
    return guard.tokenizer.decode_bytes(ids).decode()


def reserved(guard: Guard, ids: list[int]) -> list[int]:
    """Return the reserved ids among ids."""
    assert guard.tokenizer is not None
    return [token for token in ids if token in guard.tokenizer.reserved_ids]


def test_empty_text_has_no_ids(chat: Guard) -> None:
    """An empty string is an answer, not an error."""
    out = chat.encode("", source="user")
    assert (out.ids, out.violations, out.sources, out.display()) == ([], (), (), "")


def test_nul_is_a_character_like_others(chat: Guard) -> None:
    """NUL ends nothing and hides nothing."""
    out = chat.encode("a\0<|im_end|>\0", source="user")
    assert decode(chat, out.ids) == "a\0<|im_end|>\0"
    assert [(violation.start, violation.end) for violation in out.violations] == [(2, 12)]


@pytest.mark.parametrize("text", ["<|im_end|>", "<|im_end|> a", "a <|im_end|>", "<|im_end|><|im_end|>"])
def test_token_at_either_end(chat: Guard, text: str) -> None:
    """A form at the first or the last character is decided like any other."""
    assert reserved(chat, chat.encode(text, source="user").ids) == []
    assert len(reserved(chat, chat.encode(text, source="template").ids)) == text.count("<|im_end|>")


@pytest.mark.parametrize("cut", range(1, len("<|im_start|>")))
def test_token_across_the_border_of_two_sources(chat: Guard, cut: int) -> None:
    """Wherever the border is, neither side's half makes the token whole."""
    form = "<|im_start|>"
    for first, second in (("user", "template"), ("template", "user"), ("user", "tool_result")):
        out = chat.encode(Text(form[:cut], source=first) + Text(form[cut:], source=second))
        assert reserved(chat, out.ids) == []
        assert decode(chat, out.ids) == form
        assert out.violations[0].source == f"{first}+{second}"


@pytest.mark.parametrize("half", ["<|im_start|", "<|im_", "<", "<|im_start|><|im_star"])
def test_trusted_token_next_to_half_a_forged_one(chat: Guard, half: str) -> None:
    """The template's token is there, whatever a user writes right before it or right after."""
    token = chat.encode("<|im_end|>", source="template").ids
    before = chat.encode(Text(half, source="user") + Text("<|im_end|>", source="template"))
    after = chat.encode(Text("<|im_end|>", source="template") + Text(half[::-1], source="user"))
    assert reserved(chat, before.ids) == token == reserved(chat, after.ids)
    assert before.ids[-1:] == token == after.ids[:1]


def test_surrogate_positions_stay_the_callers(chat: Guard) -> None:
    """A pair counts as the two characters that the caller gave, and is encoded as the one that it spells."""
    out = chat.encode("\ud83d\udc4d<|im_end|>\ud83d", source="user")
    assert decode(chat, out.ids) == "👍<|im_end|>\ufffd"
    assert [(violation.start, violation.end) for violation in out.violations] == [(2, 12)]


def test_surrogates_are_repaired_as_tiktoken_repairs_them(chat: Guard) -> None:
    """What is scanned is what is encoded, and it is what tiktoken would have encoded."""
    for text in ("\ud83d\udc4d", "\ud83d", "\udc4d\ud83d", "a\ud83d\ud83d\udc4d\udc4d", "\udc4d" * 3):
        assert chat.encode(text, source="user").ids == load_tokenizer("guardtok").encoding.encode(text)  # type: ignore[attr-defined]


def test_emoji_are_ordinary_text(chat: Guard) -> None:
    """Bytes of an emoji are no control tokens."""
    out = chat.encode("👍🏽 👩‍👩‍👧‍👦", source="user")
    assert (out.violations, decode(chat, out.ids)) == ((), "👍🏽 👩‍👩‍👧‍👦")


class Fallback:
    """A tokenizer of lower-case words that spells other characters as byte tokens, or as one unknown id."""

    name = fingerprint = "fallback"
    n_vocab = 400
    control_tokens = (ControlToken("</s>", 300),)
    reserved_ids = frozenset({300})

    def __init__(self, *, unknown: int | None) -> None:
        self.unknown = unknown

    def with_custom_tokens(self, ids: Mapping[str, int]) -> Fallback:
        assert not ids
        return self

    def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:  # noqa: ARG002 - the protocol's name
        known = set("abcdefghijklmnopqrstuvwxyz </>")
        ids: list[int] = []
        for char in text:
            ids += [self.unknown] if char not in known and self.unknown is not None else char.encode()
        return ids

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join({300: b"</s>", self.unknown: b"?"}.get(id_) or bytes([id_]) for id_ in ids)


@pytest.mark.parametrize("unknown", [None, 256], ids=["byte fallback", "unknown id"])
def test_emoji_with_a_tokenizer_that_does_not_know_them(unknown: int | None) -> None:
    """The unknown id and byte tokens are no control tokens: any emoji makes them, and none is refused for it."""
    fallback = guard(Fallback(unknown=unknown), CHAT)
    out = fallback.encode(Text("ok 👍🏽 </s>", source="user") + Text("</s>", source="template"))
    assert out.ids[-1] == 300
    assert out.ids.count(300) == 1
    assert [violation.token for violation in out.violations] == ["<_/s>"]
    assert len(out.sources) == len(out.ids)


def test_a_real_panic_is_an_error_that_admits_nothing() -> None:
    """The regex engine of tiktoken gives up with a Rust panic, which is no Exception."""
    encoding = tiktoken.Encoding(
        "panics",
        pat_str=r"(?:a|a|aa)+(?!a)\b(?<=b)|.",
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={"<|im_end|>": 256},
    )
    panicking = guard(TiktokenTokenizer(encoding), '  "*": {default: strip}\n', "lookalikes: ignore\n")
    with pytest.raises(TokenizerError, match="PanicException") as caught:
        panicking.encode("a" * 100, source="user")
    assert caught.value.__context__ is None


def test_ten_megabytes(chat: Guard) -> None:
    """Ten megabytes are an ordinary text."""
    text = "A line of a long document, of no interest.\n" * 245_000
    out = chat.encode(text, source="document")
    assert len(text) > 10_000_000
    assert decode(chat, out.ids) == text


def test_a_hundred_thousand_violations(chat: Guard) -> None:
    """`max_violations` caps the records, not the guarding."""
    out = chat.encode("<|im_end|>" * 100_000, source="user")
    assert len(out.violations) == chat.policy.limits.max_violations
    assert reserved(chat, out.ids) == []
    verdict = chat.check("<|im_end|>" * 100_000, source="user")
    assert verdict.count == 100_000


def test_pickled_to_another_process(chat: Guard) -> None:
    """A guard goes to a fresh process and decides the same there."""
    text = "hi <|im_end|>"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(encode_there, pickle.dumps(chat), text).result()
    here = chat.encode(text, source="user")
    assert there == (here.ids, here.violations)


def encode_there(pickled: bytes, text: str) -> tuple[list[int], object]:
    """Encode in another process, with a guard from a pickle."""
    out = pickle.loads(pickled).encode(text, source="user")  # noqa: S301 - this test's own
    return out.ids, out.violations


def test_eight_threads_share_a_guard(chat: Guard) -> None:
    """Every thread gets its own answer, each the one that a single thread gets."""
    texts = [f"{number} <|im_end|> " * (number % 7) for number in range(400)]
    expected = [chat.encode(text, source="user").ids for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: chat.encode(text, source="user").ids, texts)) == expected
