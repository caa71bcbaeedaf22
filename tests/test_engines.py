"""Engines: other encoders of ordinary text, which never change an id and never admit one."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardtok import Guard
from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.encodings import load_tokenizer
from guardtok.engines import compared, gigatoken
from guardtok.engines.choose import ENGINES, choose_engine
from guardtok.engines.compared import Comparison, find_comparison
from guardtok.engines.gigatoken import GigatokenEngine
from guardtok.errors import EngineError, MissingExtraError, VerificationError
from guardtok.policy.model import Policy
from guardtok.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from guardtok.tokenizer import Tokenizer

FAST = ("gigatoken", "riptoken")
NEWER = "\U00033476"
"""A letter since Unicode 17, and nothing yet in tiktoken's tables."""

TEXTS = ("", "a", "Hello, world! 12345\n\n  x", "naïve 漢字 👩\u200d💻 DON'T", f"{NEWER}_a {NEWER}'s", "\ufffd\x00\x85")


@pytest.fixture(scope="module", params=FAST)
def engine(request: pytest.FixtureRequest) -> str:
    """Return the name of a fast engine, where it is installed and was compared as it is."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed: pip install 'guardtok[fast]'")
    return request.param


def equip(vocab: Callable[[str], Tokenizer], engine: str, name: str = "cl100k_base") -> TiktokenTokenizer:
    """Return a tokenizer with an engine, or skip the test where the two were not compared in these versions."""
    tokenizer = vocab(name)
    assert isinstance(tokenizer, TiktokenTokenizer)
    try:
        return tokenizer.with_engine(engine)
    except EngineError as error:
        pytest.skip(str(error))


def ids_of(tokenizer: TiktokenTokenizer, text: str) -> list[int]:
    """Return ordinary ids as a list."""
    return list(tokenizer.encode_ordinary(text, at_start=True))


@pytest.mark.parametrize("text", TEXTS)
def test_an_engine_gives_tiktokens_ids(vocab: Callable[[str], Tokenizer], engine: str, text: str) -> None:
    """Awkward texts come out as tiktoken encodes them, whatever the engine makes of them."""
    tokenizer = equip(vocab, engine)
    assert ids_of(tokenizer, text) == tokenizer.encoding.encode_ordinary(text)
    assert tokenizer.engine == engine


@pytest.fixture(scope="module")
def equipped(vocab: Callable[[str], Tokenizer], engine: str) -> TiktokenTokenizer:
    """Return a tokenizer with an engine, for properties."""
    return equip(vocab, engine)


SMALL = st.sampled_from([" ", "\n", "\r\n", "'s", "_a", "12", "3", ".", "the", "A", "漢", "e\u0301", "\u3000", NEWER])


@given(st.text() | st.lists(SMALL).map("".join) | st.text(st.characters(min_codepoint=0x10000)))
def test_no_text_gets_other_ids(equipped: TiktokenTokenizer, text: str) -> None:
    """For any text the ids are tiktoken's."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert ids_of(equipped, text) == equipped.encoding.encode_ordinary(text)


def test_gigatoken_differs_on_its_own_and_not_through_guardtok(vocab: Callable[[str], Tokenizer]) -> None:
    """The newer Unicode tables of gigatoken change ids; guardtok takes tiktoken's way there."""
    pytest.importorskip("gigatoken", reason="gigatoken is not installed: pip install 'guardtok[fast]'")
    tokenizer = equip(vocab, "gigatoken")
    text = f"{NEWER}_a {NEWER}'s"
    assert isinstance(tokenizer._engine, GigatokenEngine)
    raw = tokenizer._engine._table.encode(text).tolist()
    assert raw != tokenizer.encoding.encode_ordinary(text)
    assert ids_of(tokenizer, text) == tokenizer.encoding.encode_ordinary(text)
    guard = Guard(Policy.load("chatml"), tokenizer, sinks=())
    assert guard.encode(text, source="user").ids == tokenizer.encoding.encode_ordinary(text)


@pytest.mark.parametrize("text", ["word " * 60_000, "x = 1\n" * 40_000, "漢字\uff0c" * 60_000, "a" * 200_000])
def test_long_text_is_cut_only_where_that_changes_nothing(equipped: TiktokenTokenizer, text: str) -> None:
    """Text of many slices has the ids of the whole; text that offers no place to cut is left to tiktoken."""
    assert ids_of(equipped, text) == equipped.encoding.encode_ordinary(text)


def test_no_slice_ends_inside_a_piece(vocab: Callable[[str], Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut wherever it may be cut, between letters or digits and blanks, text with every kind of run has its ids."""
    pytest.importorskip("gigatoken", reason="gigatoken is not installed: pip install 'guardtok[fast]'")
    monkeypatch.setattr(gigatoken, "SLICE", 8)
    text = "a word  or   two \n  an 12 \n\nx1 =  1 it's 345 6 \n\n\n\tno\n 漢字\uff0c 9\u3002 B  \n" * 50
    for name in ("r50k_base", "cl100k_base", "o200k_base", "qwen"):
        tokenizer = equip(vocab, "gigatoken", name)
        ids = tokenizer._engine.encode(text)  # type: ignore[union-attr]
        assert ids is not None
        assert list(ids) == tokenizer.encoding.encode_ordinary(text)


def test_the_array_is_the_engines_own(vocab: Callable[[str], Tokenizer]) -> None:
    """`array` is what the engine made, read-only and uint32; `ids` is the same as a list, made once."""
    pytest.importorskip("gigatoken", reason="gigatoken is not installed: pip install 'guardtok[fast]'")
    guard = Guard(Policy.load("chatml"), equip(vocab, "gigatoken"), sinks=())
    out = guard.encode("Hello, world!", source="user")
    assert out.array is out.array
    assert (out.array.dtype, out.array.flags.writeable) == ("uint32", False)
    assert out.ids == out.array.tolist() == guard.tokenizer.encoding.encode("Hello, world!")  # type: ignore[union-attr]
    assert out.ids is out.ids
    assert {type(token_id) for token_id in out.ids} == {int}
    assert len(out.ids) == guard.count("Hello, world!", source="user")
    copy = pickle.loads(pickle.dumps(out))  # noqa: S301 - its own
    assert (copy.ids, copy.sources) == (out.ids, out.sources)


def test_allowed_tokens_stand_between_arrays(vocab: Callable[[str], Tokenizer], engine: str) -> None:
    """Ids of allowed tokens and of ordinary runs come out in one sequence, the one that tiktoken gives."""
    guard = Guard(Policy.load("chatml"), equip(vocab, engine, "cl100k_im"), sinks=())
    text = Text("<|im_start|>user\n", source="template") + Text("hi <|im_end|>", source="user")
    plain = Guard(Policy.load("chatml"), vocab("cl100k_im"), sinks=()).encode(text)
    out = guard.encode(text)
    assert (out.ids, out.array.tolist(), out.sources) == (plain.ids, plain.ids, plain.sources)
    assert (guard.encoding.encode("hi there"), guard.encoding.encode_ordinary("é")) == (
        vocab("cl100k_im").encoding.encode("hi there"),  # type: ignore[attr-defined]
        vocab("cl100k_im").encoding.encode("é"),  # type: ignore[attr-defined]
    )


class Broken:
    """Stands in for an engine's insides and fails."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def encode(self, _text: str) -> list[int]:
        raise self._error

    encode_ordinary = encode


PanicException = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})


@pytest.mark.parametrize("error", [TypeError("no"), MemoryError(), PanicException("boo")])
def test_an_engine_that_fails_is_stood_in_for(
    vocab: Callable[[str], Tokenizer], engine: str, error: BaseException
) -> None:
    """Whatever an engine raises, a Rust panic too, tiktoken encodes the text."""
    tokenizer = equip(vocab, engine)
    setattr(tokenizer._engine, "_table" if engine == "gigatoken" else "_core", Broken(error))
    assert ids_of(tokenizer, "Hello") == tokenizer.encoding.encode("Hello")


def test_an_interrupt_goes_through_an_engine(vocab: Callable[[str], Tokenizer], engine: str) -> None:
    """Ctrl-C is no failure of an engine."""
    tokenizer = equip(vocab, engine)
    setattr(tokenizer._engine, "_table" if engine == "gigatoken" else "_core", Broken(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        ids_of(tokenizer, "Hello")


def test_a_table_that_was_flooded_is_dropped(
    vocab: Callable[[str], Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When gigatoken's budget is used up tiktoken takes over for a while; then a fresh table is built. Ids stay."""
    pytest.importorskip("gigatoken", reason="gigatoken is not installed: pip install 'guardtok[fast]'")
    tokenizer = equip(vocab, "gigatoken")
    inner = tokenizer._engine
    assert isinstance(inner, GigatokenEngine)
    # Only now: loading encodes a text too, which is sometimes timed.
    monkeypatch.setattr(gigatoken, "BUDGET", 1e-9)
    monkeypatch.setattr(gigatoken, "REST", 3_000)
    first, text = inner._table, "some text that is timed " * 200
    tables = []
    for _ in range(6):
        assert ids_of(tokenizer, text) == tokenizer.encoding.encode(text)
        tables.append(inner._table)
    assert first not in tables
    assert None in tables
    assert any(table is not None for table in tables)


def test_words_that_hash_alike_use_the_budget_up(vocab: Callable[[str], Tokenizer]) -> None:
    """Words that gigatoken's hash sends to one place make it slow; its table does not outlive them."""
    pytest.importorskip("gigatoken", reason="gigatoken is not installed: pip install 'guardtok[fast]'")
    tokenizer = equip(vocab, "gigatoken")
    inner = tokenizer._engine
    assert isinstance(inner, GigatokenEngine)
    inner._used = gigatoken.BUDGET * 0.9  # What a slower machine would have used by now.
    words = colliding_words(20_000)
    assert ids_of(tokenizer, words) == tokenizer.encoding.encode(words)
    assert inner._table is None


def colliding_words(count: int) -> str:
    """Return words of which CRC-32C's low bits, the places in gigatoken's table, are all the same."""

    def crc(data: bytes) -> int:
        state = 0
        for byte in data:
            state ^= byte
            for _ in range(8):
                state = (state >> 1) ^ (0x82F63B78 if state & 1 else 0)
        return state & 0xFFFFE

    base = b" " + b"h" * 14
    place = crc(base + b"\x0f")
    basis: dict[int, tuple[int, int]] = {}
    kernel = []
    for bit in range(42):
        changed = bytearray(base)
        changed[1 + bit // 3] ^= 1 << bit % 3
        value, mask = crc(bytes(changed) + b"\x0f") ^ place, 1 << bit
        while value and value.bit_length() in basis:
            other, others = basis[value.bit_length()]
            value, mask = value ^ other, mask ^ others
        if value:
            basis[value.bit_length()] = (value, mask)
        else:
            kernel.append(mask)
    words = []
    for index in range(count):
        mask = 0
        for place, member in enumerate(kernel):
            mask ^= member if index >> place & 1 else 0
        words.append(" " + "".join(chr(ord("h") ^ (mask >> 3 * at & 7)) for at in range(14)))
    return "".join(words)


@pytest.mark.parametrize("length", [1, 200])
def test_a_batch_is_what_its_texts_are_one_by_one(length: int) -> None:
    """Texts long enough for threads, and short ones, come out in their order as `encode` gives them."""
    guard = Guard.load("chatml", "guardtok", sinks=())
    texts = [f"message {index} <|im_end|> " * length for index in range(40)]
    batch = guard.encode_batch(texts, source="user")
    assert [out.ids for out in batch] == [guard.encode(text, source="user").ids for text in texts]
    assert [out.violations[0].path for out in batch] == [f"[{index}]" for index in range(40)]


def test_engines_are_shared_by_threads_and_pickled(vocab: Callable[[str], Tokenizer], engine: str) -> None:
    """Eight threads get right ids from one engine, and a pickled tokenizer has its engine again."""
    tokenizer = equip(vocab, engine)
    texts = [f"message {index} of many, naïve {NEWER if index % 7 == 0 else ''}" * 20 for index in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: ids_of(tokenizer, text), texts))
    assert found == [tokenizer.encoding.encode_ordinary(text) for text in texts]
    copy = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301 - its own
    assert (copy.engine, copy.fingerprint, ids_of(copy, "é 1")) == (
        engine,
        tokenizer.fingerprint,
        ids_of(tokenizer, "é 1"),
    )


@pytest.mark.parametrize("low", [False, True])
def test_reserved_ids_are_seen_in_arrays(low: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """An engine that makes a reserved id out of ordinary text is found out on the array as on a list."""
    numpy = pytest.importorskip("numpy", reason="NumPy is not installed: pip install 'guardtok[fast]'")

    class Forger:
        name, parallel = "forger", True

        def encode(self, text: str) -> object:
            return numpy.array([1, 8448 if "x" in text else 2, 3], dtype=numpy.uint32)

    plain = load_tokenizer("guardtok")
    assert isinstance(plain, TiktokenTokenizer)
    tokenizer = plain.with_custom_tokens({"<|high|>": 60_000} if low else {})
    guard = Guard(Policy.load("chatml"), tokenizer, sinks=())
    tokenizer._engine = Forger()  # After the guard was built: it would be refused.
    assert guard.encode("clean", source="user").ids == [1, 2, 3]
    with pytest.raises(VerificationError):
        guard.encode("x", source="user")


def test_an_unknown_engine_is_refused_with_the_near_match() -> None:
    """A name that no engine has is an error that says which one was meant."""
    with pytest.raises(EngineError, match="Did you mean 'gigatoken'"):
        Guard.load("chatml", "guardtok", engine="gigatokn")


@pytest.mark.parametrize("name", FAST)
def test_an_engine_that_is_absent_is_refused_by_name_and_passed_over_by_auto(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named, it is an error with the mend; `auto` is tiktoken then."""

    def version(package: str) -> str:
        if package in FAST:
            raise metadata.PackageNotFoundError(package)
        return "0"

    monkeypatch.setattr(metadata, "version", version)
    encoding = load_tokenizer("guardtok").encoding  # type: ignore[attr-defined]
    with pytest.raises(MissingExtraError, match=r"pip install 'guardtok\[fast\]'"):
        choose_engine(encoding, name)
    assert choose_engine(encoding, "auto") is None
    assert choose_engine(encoding, "tiktoken") is None


@pytest.mark.parametrize("changed", ["gigatoken", "riptoken", "tiktoken"])
def test_versions_that_were_not_compared_are_refused(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer engine, or a newer tiktoken, is not trusted until somebody compared it; the error says how."""
    versions = {"gigatoken": "0.10.0", "riptoken": "0.2.4", "tiktoken": "0.14.0", changed: "99"}
    monkeypatch.setattr(metadata, "version", versions.__getitem__)
    encoding = load_tokenizer("guardtok").encoding  # type: ignore[attr-defined]
    for name in FAST if changed == "tiktoken" else (changed,):
        with pytest.raises(EngineError, match="compare_engines"):
            choose_engine(encoding, name)


def test_a_users_own_comparison_counts_where_it_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result in the folder that GUARDTOK_ENGINES names is used for its versions alone; a broken one is an error."""
    versions = {"riptoken": "99", "tiktoken": "98"}
    monkeypatch.setattr(metadata, "version", versions.__getitem__)
    monkeypatch.setattr(compared.platform, "machine", lambda: "Abacus")
    monkeypatch.setenv(compared.RESULTS, str(tmp_path))
    encoding = load_tokenizer("guardtok").encoding  # type: ignore[attr-defined]
    entry = {
        "ranks": hashlib.sha256(compared.rank_file(encoding)).hexdigest(),
        "pattern": hashlib.sha256(encoding._pat_str.encode()).hexdigest(),
        "scheme": "",
        "differ": ["0041-0043", "33476"],
    }
    result = {"format": 1, "engine": "riptoken", "engine_version": "99", "tiktoken_version": "98", "machine": "abacus"}
    file = tmp_path / "engine_riptoken.json"
    file.write_text(json.dumps(result | {"vocabularies": [entry]}))
    comparison = find_comparison("riptoken", encoding)
    assert comparison == Comparison("", ((0x41, 0x43), (0x33476, 0x33476)))
    pattern = comparison.pattern()
    assert pattern is not None
    assert [bool(pattern.search(text)) for text in ("a", "xB", NEWER, "@D")] == [False, True, True, False]
    file.write_text(json.dumps(result | {"machine": "other", "vocabularies": [entry]}))
    with pytest.raises(EngineError, match="abacus"):
        find_comparison("riptoken", encoding)
    for broken in ("{", "[]", json.dumps(result), json.dumps(result | {"vocabularies": [entry | {"differ": ["x"]}]})):
        file.write_text(broken)
        with pytest.raises(EngineError, match="no result of a comparison"):
            find_comparison("riptoken", encoding)


def test_auto_takes_the_fastest_that_was_compared(vocab: Callable[[str], Tokenizer]) -> None:
    """With both engines here, `auto` is gigatoken where it can take the pattern."""
    pytest.importorskip("gigatoken", reason="gigatoken is not installed: pip install 'guardtok[fast]'")
    equip(vocab, "gigatoken")
    tokenizer = load_tokenizer("cl100k_base", "auto")
    assert isinstance(tokenizer, TiktokenTokenizer)
    assert tokenizer.engine == "gigatoken"
    assert load_tokenizer("cl100k_base", "auto") is tokenizer
    assert ENGINES == ("tiktoken", "auto", "gigatoken", "riptoken")
