from __future__ import annotations

import copy
import inspect
import multiprocessing
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.encodings import load_tokenizer
from guardtok.errors import (
    LimitError,
    MissingExtraError,
    MissingSourceError,
    NotTextError,
    RefusedError,
    SurrogateError,
    TokenizerError,
    UnknownSourceError,
    UnknownTokenError,
    VerificationError,
)
from guardtok.guard import Guard
from guardtok.guarded_encoding import GuardedEncoding
from guardtok.policy.model import Policy
from guardtok.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.violation import Violation

CHATML = "{guardtok: 1, foreign: ignore, sources: {template: {default: allow}, '*': {default: escape}}}"
EVERYTHING = "{guardtok: 1, foreign: ignore, sources: {'*': {default: allow}}}"
MIXED = """
guardtok: 1
foreign: ignore
sources:
  template: {default: allow}
  user: {default: escape, block: ["<|im_start|>"], allow: ["<think>"]}
  document: {default: strip}
  system: {default: block, mode: monitor}
  "*": {default: escape}
forms: ["### System:"]
custom_tokens: {"<|tool|>": auto}
"""

EMBEDDED = load_tokenizer("guardtok")
RAW: tiktoken.Encoding = EMBEDDED.encoding  # type: ignore[attr-defined]
SPECIAL = sorted(RAW.special_tokens_set)
END = RAW.encode_single_token("<|im_end|>")


@cache
def guarded(policy: str) -> GuardedEncoding:
    """Return the embedded tokenizer under a policy, silent."""
    return Guard(Policy.parse(policy), EMBEDDED, sinks=()).encoding


def outcome(call: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever the call returns
    """Return what a call returns, or `ValueError` where it raises one: tiktoken names any of the disallowed forms."""
    try:
        return call()
    except ValueError:
        return ValueError


PIECES = st.sampled_from([*SPECIAL, "<|", "|>", "<think", ">", " ", "\n", "im_end", "é", "👍"])
TEXTS = st.lists(PIECES | st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=6), max_size=8).map(
    "".join
)
SETS = st.sets(st.sampled_from([*SPECIAL, "nowhere", "im_end", "é"]), max_size=4)
ALLOWED = st.just("all") | SETS
DISALLOWED = st.just("all") | SETS | SETS.map(list) | st.just(())


# As tiktoken.


@pytest.mark.parametrize("name", sorted(name for name in vars(tiktoken.Encoding) if not name.startswith("_")))
def test_every_public_name_is_there(name: str) -> None:
    """Each public method has tiktoken's signature, plus a keyword `source` where text goes in."""
    theirs, ours = inspect.getattr_static(tiktoken.Encoding, name), inspect.getattr_static(GuardedEncoding, name)
    if not inspect.isfunction(theirs):
        assert isinstance(ours, property)
        return
    wanted, given_ = inspect.signature(theirs), inspect.signature(ours)
    parameters = dict(given_.parameters)
    source = parameters.pop("source", None)
    assert wanted == given_.replace(parameters=list(parameters.values()))
    assert (source is not None) == name.startswith("encode")
    if source is not None:
        assert (source.kind, source.default) == (source.KEYWORD_ONLY, "unknown")


@given(TEXTS, ALLOWED, DISALLOWED)
def test_under_a_policy_that_allows_everything_it_is_tiktoken(text: str, allowed: Any, disallowed: Any) -> None:  # noqa: ANN401
    """Ids, arrays and errors are tiktoken's for any text and any sets."""
    ours = guarded(EVERYTHING)
    options = {"allowed_special": allowed, "disallowed_special": disallowed}
    expected = outcome(lambda: RAW.encode(text, **options))
    assert expected == outcome(lambda: ours.encode(text, **options))
    assert expected == outcome(lambda: ours.encode_to_numpy(text, **options).tolist())
    batch = outcome(lambda: ours.encode_batch([text, "a"], num_threads=2, **options))
    assert batch == outcome(lambda: RAW.encode_batch([text, "a"], num_threads=2, **options))
    assert RAW.encode_ordinary(text) == ours.encode_ordinary(text)
    assert [RAW.encode_ordinary(text)] == ours.encode_ordinary_batch([text], num_threads=1)


@given(TEXTS.map(lambda text: text[-12:]), ALLOWED, DISALLOWED)
def test_unstable_tokens_are_those_of_tiktoken(text: str, allowed: Any, disallowed: Any) -> None:  # noqa: ANN401
    """Stable ids and the set of completions are tiktoken's; it gives the latter no order."""
    options = {"allowed_special": allowed, "disallowed_special": disallowed}

    def unstable(encoding: Any) -> tuple[list[int], set[tuple[int, ...]]]:  # noqa: ANN401
        stable, completions = encoding.encode_with_unstable(text, **options)
        assert all(type(more) is list for more in completions)
        return stable, set(map(tuple, completions))

    assert outcome(lambda: unstable(RAW)) == outcome(lambda: unstable(guarded(EVERYTHING)))


@given(st.binary(max_size=24) | TEXTS.map(str.encode) | st.tuples(TEXTS.map(str.encode), st.binary()).map(b"".join))
def test_bytes_are_encoded_as_by_tiktoken(data: bytes) -> None:
    """Bytes that are UTF-8 and bytes that are not become the same ids."""
    assert RAW._encode_bytes(data) == guarded(EVERYTHING)._encode_bytes(data)


@given(st.lists(st.integers(0, RAW.max_token_value), max_size=12))
def test_ids_are_decoded_as_by_tiktoken(ids: list[int]) -> None:
    """Each of the methods that decode returns, or raises, what tiktoken's does."""
    ours = guarded(EVERYTHING)
    assert RAW.decode(ids) == ours.decode(ids)
    assert outcome(lambda: RAW.decode(ids, "strict")) == outcome(lambda: ours.decode(ids, "strict"))
    assert RAW.decode_bytes(ids) == ours.decode_bytes(ids)
    assert RAW.decode_tokens_bytes(ids) == ours.decode_tokens_bytes(ids)
    assert outcome(lambda: RAW.decode_with_offsets(ids)) == outcome(lambda: ours.decode_with_offsets(ids))
    assert RAW.decode_batch([ids, []], errors="ignore") == ours.decode_batch([ids, []], errors="ignore")
    assert RAW.decode_bytes_batch([ids, []], num_threads=1) == ours.decode_bytes_batch([ids, []], num_threads=1)
    assert [RAW.is_special_token(id_) for id_ in ids] == [ours.is_special_token(id_) for id_ in ids]


def test_offsets_count_characters_that_tokens_share() -> None:
    """A token that begins inside a character has the offset of that character."""
    ids = RAW.encode("我非常渴望 é👍<|im_end|>x", allowed_special="all")
    assert RAW.decode_with_offsets(ids) == guarded(CHATML).decode_with_offsets(ids)


def test_the_vocabulary_is_that_of_tiktoken() -> None:
    """Sizes, names, special tokens and the attributes that tiktoken's users read are the encoding's own."""
    ours = guarded(CHATML)
    for name in ("name", "n_vocab", "max_token_value", "eot_token", "special_tokens_set"):
        assert getattr(RAW, name) == getattr(ours, name)
    for name in ("_special_tokens", "_mergeable_ranks", "_pat_str"):
        assert getattr(RAW, name) == getattr(ours, name)
    assert RAW.token_byte_values() == ours.token_byte_values()
    assert repr(ours) == "<GuardedEncoding 'guardtok' policy='unnamed'>"


def test_every_token_alone() -> None:
    """Each id decodes to bytes that are encoded, as one token, to that id; so does each special token's text."""
    ours = guarded(EVERYTHING)
    for id_ in (*range(0, RAW.n_vocab, 37), *RAW._special_tokens.values()):
        assert ours.encode_single_token(ours.decode_single_token_bytes(id_)) == id_
    assert ours.encode_single_token("<|im_end|>") == END


@pytest.mark.parametrize("id_", [10**6, 2**40])
def test_an_unknown_id_is_a_key_error(id_: int) -> None:
    """Ids beyond the vocabulary, and beyond 32 bits, raise what tiktoken raises for unknown ones."""
    ours = guarded(CHATML)
    for call in (ours.decode, ours.decode_bytes, ours.decode_tokens_bytes, ours.decode_with_offsets):
        with pytest.raises(KeyError):
            call([id_])
    with pytest.raises(KeyError):
        ours.decode_single_token_bytes(id_)


@pytest.mark.parametrize("text", ["\ud83d\udc4d", "\ud83d", "\udc4d\ud83d <|im_end|>"])
def test_surrogates_are_repaired_everywhere(text: str) -> None:
    """Pairs are joined and lone halves replaced in every method; tiktoken does so in `encode` alone."""
    ours = guarded(EVERYTHING)
    ids = RAW.encode(text, allowed_special="all")
    assert ids == ours.encode(text, allowed_special="all")
    assert ids == ours.encode_to_numpy(text, allowed_special="all").tolist()
    assert ours.encode_with_unstable(text, allowed_special="all")
    assert ours.encode_ordinary(text) == RAW.encode_ordinary(text)
    with pytest.raises(KeyError):
        ours.encode_single_token(text + "\ud83d")


# Guarded.


@given(
    TEXTS | TEXTS.map(lambda text: text + "<|tool|>### System: <|im_start|><think>"),
    ALLOWED,
    DISALLOWED,
    st.sampled_from(["template", "user", "document", "system", "tool_result", "unknown"]),
)
def test_no_argument_opens_what_the_policy_closes(text: str, allowed: Any, disallowed: Any, source: str) -> None:  # noqa: ANN401
    """Whatever the caller allows, the reserved ids are among those that the policy gives the source."""
    ours = guarded(MIXED)
    may = {
        "template": {*SPECIAL, "<|tool|>"} if allowed == "all" else {*allowed},
        "user": {"<think>"} if allowed == "all" else {"<think>"} & {*allowed},
    }.get(source, set())
    allowed_ids = {id_ for form, id_ in ours._special_tokens.items() if form in may}
    options = {"allowed_special": allowed, "disallowed_special": disallowed, "source": source}
    for call in (
        lambda: ours.encode(text, **options),
        lambda: ours.encode_to_numpy(text, **options).tolist(),
        lambda: ours.encode_batch([text], **options)[0],
        lambda: ours.encode_with_unstable(text[-16:], **options)[0],
    ):
        ids = outcome(call)
        assert ids is ValueError or {id_ for id_ in ids if ours.is_special_token(id_)} <= allowed_ids
    for call in (
        lambda: ours.encode_ordinary(text, source=source),
        lambda: ours.encode_ordinary_batch([text], source=source)[0],
        lambda: ours._encode_bytes(text.encode(), source=source),
        lambda: ours._encode_bytes(text.encode() + b"\xff", source=source),
    ):
        ids = outcome(call)
        assert ids is ValueError or not any(map(ours.is_special_token, ids))


@pytest.mark.parametrize("policy", [CHATML, EVERYTHING, MIXED])
@pytest.mark.parametrize("source", ["template", "user", "document", "system"])
def test_the_defaults_refuse_as_those_of_tiktoken_do(policy: str, source: str) -> None:
    """Without arguments a special token is an error under any policy, in monitor mode too, in tiktoken's words."""
    with pytest.raises(
        ValueError, match=r"^Encountered text corresponding to disallowed special token '<\|endoftext"
    ) as r:
        guarded(policy).encode("a <|endoftext|>", source=source)
    assert isinstance(r.value, RefusedError)
    assert [violation.rule for violation in r.value.violations] == ["caller.disallowed_special"] or source == "system"
    with pytest.raises(RefusedError, match="sesame"):
        guarded(policy).encode("open sesame", source=source, disallowed_special={"sesame"})


def test_a_block_of_the_policy_raises_whatever_the_caller_says() -> None:
    """`encode_ordinary` and `disallowed_special=()` do not turn a policy's block off."""
    ours = guarded(MIXED)
    for call in (
        lambda: ours.encode_ordinary("<|im_start|>", source="user"),
        lambda: ours.encode("<|im_start|>", allowed_special="all", disallowed_special=(), source="user"),
        lambda: ours.encode_single_token("<|im_start|>", source="user"),
        lambda: ours._encode_bytes(b"\xff<|im_start|>", source="user"),
        lambda: ours.encode_ordinary_batch(["a", "<|im_start|>"], source="user"),
    ):
        with pytest.raises(RefusedError) as refused:
            call()
        assert refused.value.violations[-1].rule == "user.block[<_|im_start|>]"


def test_a_monitor_raises_only_for_the_caller() -> None:
    """Under `mode: monitor` what the policy blocks is encoded as text unless the caller disallows it."""
    ours = guarded(MIXED)
    text = "<|im_start|>"
    assert ours.encode(text, disallowed_special=(), source="system") == RAW.encode_ordinary(text)
    assert ours.encode(text, allowed_special="all", source="system") == RAW.encode_ordinary(text)
    with pytest.raises(RefusedError) as refused:
        ours.encode(text, source="system")
    assert (refused.value.token, len(refused.value.violations)) == (text, 1)


def test_a_text_keeps_its_labels() -> None:
    """A `Text` is encoded under its own sources in every method, and takes no other source."""
    ours = guarded(CHATML)
    text = Text("<|im_end|>", source="template") + Text("<|im_end|>", source="user")
    ids = [END, *RAW.encode_ordinary("<|im_end|>")]
    options: Any = {"allowed_special": "all"}
    assert ids == ours.encode(text, **options)
    assert ids == ours.encode_to_numpy(text, **options).tolist()
    assert [ids] == ours.encode_batch([text], **options)
    assert RAW.encode_ordinary(text) == ours.encode_ordinary(text)
    assert ours.encode_with_unstable(text, **options)[0][0] == END
    assert ours.encode_single_token(Text("<|im_end|>", source="template")) == END
    with pytest.raises(MissingSourceError):
        ours.encode(text, source="user")


def test_a_single_special_token_needs_the_policy() -> None:
    """`encode_single_token` gives a special token's id to the sources that may write it, and a `KeyError` to others."""
    ours = guarded(CHATML)
    assert ours.encode_single_token("<|im_end|>", source="template") == END
    assert ours.encode_single_token(b"<|im_end|>", source="template") == END
    for text in ("<|im_end|>", b"<|im_end|>", "two tokens", "", b"\xff\xfe\xfd\xfc"):
        with pytest.raises(KeyError) as unknown:
            ours.encode_single_token(text)
        assert isinstance(unknown.value, UnknownTokenError)
        assert "single token" in str(unknown.value)
        assert "im_end" not in str(unknown.value)
    with pytest.raises(TypeError):
        ours.encode_single_token(5)  # type: ignore[arg-type]


def test_custom_tokens_are_special_tokens() -> None:
    """A token that the policy adds is listed, encoded, decoded and counted as the encoding's own are."""
    ours = guarded(MIXED)
    tool = RAW.n_vocab
    assert ours._special_tokens["<|tool|>"] == tool == ours.max_token_value == ours.n_vocab - 1
    assert ours.special_tokens_set == RAW.special_tokens_set | {"<|tool|>"}
    assert ours.is_special_token(tool)
    assert ours.encode("a<|tool|>", allowed_special={"<|tool|>"}, source="template")[-1] == tool
    assert ours.encode_single_token("<|tool|>", source="template") == tool
    assert ours.encode_with_unstable("a<|tool|>", allowed_special="all", source="template")[1] == []
    ids = [*RAW.encode("a é"), tool, END]
    assert ours.decode(ids) == "a é<|tool|><|im_end|>"
    assert ours.decode_single_token_bytes(tool) == b"<|tool|>"
    assert ours.decode_with_offsets(ids)[0] == "a é<|tool|><|im_end|>"
    assert ours.decode_batch([ids]) == ["a é<|tool|><|im_end|>"]


def test_what_the_policy_strips_is_stripped() -> None:
    """Stripped forms are gone from every method's ids; in bytes that are not UTF-8 a U+FFFD stays in the gap."""
    ours = guarded(MIXED)
    options: Any = {"disallowed_special": (), "source": "document"}
    text = "a<think>b"
    assert ours.decode(ours.encode(text, **options)) == "ab"
    assert ours.encode_with_unstable(text, **options)[0] == RAW.encode_with_unstable("ab")[0]
    assert ours.decode(ours.encode_ordinary(text, source="document")) == "ab"
    assert ours.decode_bytes(ours._encode_bytes(b"a<think>b", source="document")) == b"ab"
    assert ours.decode_bytes(ours._encode_bytes(b"a<think>b\xff", source="document")) == "a\ufffdb".encode() + b"\xff"


def test_violations_are_emitted() -> None:
    """What the caller does not allow reaches the sinks like any violation, also where it raises."""
    seen: list[Violation] = []
    ours = Guard(Policy.parse(EVERYTHING), EMBEDDED, sinks=[seen.append]).encoding
    ours.encode_ordinary("<think>", source="user")
    assert [(violation.rule, violation.action.value) for violation in seen] == [("caller.allowed_special", "escape")]
    with pytest.raises(RefusedError):
        ours.encode("<think>", source="user")
    assert seen[-1].rule == "caller.disallowed_special"


@pytest.mark.parametrize("argument", ["allowed_special", "disallowed_special"])
def test_a_bare_string_is_no_set(argument: str) -> None:
    """To tiktoken a string is a set of characters; here it is a mistake, also where it spells a token."""
    ours: Any = guarded(EVERYTHING)
    for method in (ours.encode, ours.encode_to_numpy, ours.encode_with_unstable, ours.encode_batch):
        with pytest.raises(TypeError, match=f'{argument} is a string other than "all"'):
            method("text", **{argument: "<think>"})


def test_limits_and_sources_hold() -> None:
    """The policy's limits, its word on surrogates and its sources are the guard's own."""
    policy = (
        "{guardtok: 1, foreign: ignore, surrogates: refuse, limits: {max_chars: 9}, sources: {'*': {default: allow}}}"
    )
    ours = guarded(policy)
    for call, error in (
        (lambda: ours.encode("x" * 10), LimitError),
        (lambda: ours.encode_single_token("x" * 10), LimitError),
        (lambda: ours.encode("\ud83d"), SurrogateError),
        (lambda: ours._encode_bytes(b"\xff"), SurrogateError),
        (lambda: ours.encode("x", source="usr"), UnknownSourceError),
        (lambda: ours.encode(5), NotTextError),  # type: ignore[arg-type]
    ):
        with pytest.raises(error):
            call()


# Failures of the tokenizer.


def tiny(special: dict[str, int], more: tuple[bytes, ...] = ()) -> tiktoken.Encoding:
    """Return an encoding of single bytes and a few longer tokens that it makes without merging."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {token: 256 + n for n, token in enumerate(more)}
    return tiktoken.Encoding("tiny", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens=special)


def test_a_reserved_id_out_of_ordinary_text_is_kept_in() -> None:
    """Where tiktoken makes a special token's id of plain text, nothing is returned, and no completion has it."""
    encoding = tiny({"<s>": 256}, (b"<s>",))
    ours = Guard(Policy.parse(CHATML), TiktokenTokenizer(encoding), sinks=()).encoding
    assert ours.encode("<s>", disallowed_special=()) == [*b"<s>"]
    assert encoding._encode_bytes(b"<s>") == [256]
    assert ours._encode_bytes(b"<s>") == [*b"<s>"]
    with pytest.raises(UnknownTokenError):
        ours.encode_single_token("<s>")
    assert ours.encode_single_token("<s>", source="template") == 256
    with pytest.raises(VerificationError):
        ours.encode_with_unstable("<s> <s> \xe9", disallowed_special=())
    stable, completions = ours.encode_with_unstable("<s", disallowed_special=())
    assert [256] in encoding.encode_with_unstable("<s", disallowed_special=())[1]
    assert [256] not in [stable + more for more in completions]


def test_a_reserved_id_out_of_bytes_is_an_error() -> None:
    """Bytes that are not UTF-8 cannot be taken apart, so what they make is checked and refused."""
    encoding = tiny({"<s>": 256}, (b"<s>",))
    ours = Guard(Policy.parse(CHATML), TiktokenTokenizer(encoding), sinks=()).encoding
    assert 256 in encoding._encode_bytes(b"<s> \xff")
    with pytest.raises(VerificationError) as leaked:
        ours._encode_bytes(b"<s> \xff")
    assert leaked.value.token_id == 256


def test_a_panic_is_a_typed_error() -> None:
    """Where tiktoken's regex engine gives up it panics, which is no `Exception`; here it is a `TokenizerError`."""
    encoding = tiktoken.Encoding(
        "slow",
        pat_str=r"\s+(?!\S)|\S+",
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={},
    )
    ours = Guard(Policy.parse(CHATML), TiktokenTokenizer(encoding), sinks=()).encoding
    spaces = " " * 2_000_000 + "x"
    for call in (ours.encode, ours.encode_ordinary, ours.encode_to_numpy, ours.encode_with_unstable):
        with pytest.raises(TokenizerError):
            call(spaces)
    with pytest.raises(TokenizerError):
        ours._encode_bytes(spaces.encode() + b"\xff")


def test_an_interrupt_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is neither an error nor a panic goes through: Ctrl-C stops the program."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tiktoken.Encoding, "encode_with_unstable", interrupt)
    with pytest.raises(KeyboardInterrupt):
        guarded(CHATML).encode_with_unstable("text")


@pytest.mark.parametrize("tokenizer", [None, "other"])
def test_another_tokenizer_has_no_such_interface(tokenizer: str | None) -> None:
    """Without one of tiktoken's tokenizers there is nothing that could stand for a `tiktoken.Encoding`."""

    class Other:
        name = "other"
        control_tokens = ()
        reserved_ids: frozenset[int] = frozenset()
        fingerprint = "sha256:0"
        n_vocab = 0

    guard = Guard(Policy.parse(CHATML), None if tokenizer is None else Other(), sinks=())  # type: ignore[arg-type]
    with pytest.raises(TokenizerError, match="no tokenizer" if tokenizer is None else "a Other"):
        _ = guard.encoding


def test_without_numpy_arrays_are_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy comes with an extra, and the error names it."""
    assert guarded(CHATML).encode_to_numpy("a").dtype == np.uint32
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        guarded(CHATML).encode_to_numpy("a")


# Copies and threads.


def test_copies_guard_as_the_original() -> None:
    """Pickled and copied encodings encode, allow and refuse the same."""
    ours = guarded(MIXED)
    ours.encode("fills what is kept")
    for other in (pickle.loads(pickle.dumps(ours)), copy.copy(ours), copy.deepcopy(ours)):  # noqa: S301 - our own bytes
        assert other.encode("<think>", allowed_special="all", source="user") == RAW.encode(
            "<think>", allowed_special="all"
        )
        assert other.encode_ordinary("<think>", source="user") == RAW.encode_ordinary("<think>")
        with pytest.raises(RefusedError):
            other.encode("<|im_start|>", allowed_special="all", source="user")


def test_another_process_can_be_sent_one() -> None:
    """A process that shares no memory unpickles the encoding and gets the same ids."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(guarded(CHATML).encode, ["hello world"]) == [RAW.encode("hello world")]


def test_threads_share_one() -> None:
    """Eight threads with more pairs of sets than are kept get what one thread gets."""
    ours = Guard(Policy.parse(EVERYTHING), EMBEDDED, sinks=()).encoding
    text = "".join(SPECIAL)

    def encode(number: int) -> list[int]:
        return ours.encode(text, allowed_special={SPECIAL[number % len(SPECIAL)], str(number)}, disallowed_special=())

    expected = [
        RAW.encode(text, allowed_special={SPECIAL[n % len(SPECIAL)]}, disallowed_special=()) for n in range(200)
    ]
    with ThreadPoolExecutor(8) as pool:
        assert expected == list(pool.map(encode, range(200)))
