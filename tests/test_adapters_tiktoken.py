from __future__ import annotations

import hashlib
import json
import multiprocessing
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
import tiktoken
import tiktoken.registry

from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.errors import TokenizerError
from guardtok.tokenizer import ControlToken, Role, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BYTES = {bytes([byte]): byte for byte in range(256)}
SPECIAL = {"<|im_start|>": 300, "<|endoftext|>": 299}


def encoding(
    pattern: str = r"\p{L}+|[\s\S]", ranks: Mapping[bytes, int] = BYTES, special: Mapping[str, int] = SPECIAL
) -> tiktoken.Encoding:
    """Return a small encoding; by default one token for each byte."""
    return tiktoken.Encoding("toy", pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens=dict(special))


def test_it_is_a_tokenizer() -> None:
    """The adapter has everything that the protocol asks for, and gives the encoding back."""
    toy = encoding()
    tokenizer: Tokenizer = TiktokenTokenizer(toy)
    assert isinstance(tokenizer, Tokenizer)
    assert TiktokenTokenizer(toy).encoding is toy
    assert tokenizer.name == "toy"
    assert TiktokenTokenizer(toy, name="mine").name == "mine"
    assert repr(tokenizer) == "<TiktokenTokenizer 'toy', 2 control tokens>"


def test_forms_are_encoded_as_the_text_they_are() -> None:
    """Ordinary encoding parses nothing, custom tokens neither."""
    tokenizer = TiktokenTokenizer(encoding(), custom_tokens={"<|tool|>": 301})
    for form in ("<|im_start|>", "<|tool|>"):
        assert tokenizer.encode_ordinary(form, at_start=True) == list(form.encode())


def test_control_tokens_are_in_the_order_of_ids_with_their_roles() -> None:
    """Special and custom tokens are one list; the catalogue says what each is for, or nothing does."""
    tokenizer = TiktokenTokenizer(encoding(), custom_tokens={"<|zz|>": 301})
    assert tokenizer.control_tokens == (
        ControlToken("<|endoftext|>", 299, Role.EOS),
        ControlToken("<|im_start|>", 300, Role.TURN),
        ControlToken("<|zz|>", 301, None),
    )
    assert tokenizer.reserved_ids == {299, 300, 301}
    assert tokenizer.n_vocab == 302
    assert TiktokenTokenizer(encoding()).n_vocab == 301


def test_an_ordinary_token_of_the_same_bytes_is_reserved() -> None:
    """Where the base vocabulary can spell a form in one token, that id is as good as the control token's."""
    ranks = {**BYTES, b"ab": 256}
    tokenizer = TiktokenTokenizer(encoding(ranks=ranks, special={"ab": 299}))
    assert tokenizer.encode_ordinary("ab", at_start=True) == [256]
    assert tokenizer.reserved_ids == {256, 299}


def test_two_forms_may_share_an_id() -> None:
    """o200k_harmony has two forms of 200018; both are listed, by form."""
    tokenizer = TiktokenTokenizer(encoding(special={"<|b|>": 299, "<|a|>": 299}))
    assert [token.form for token in tokenizer.control_tokens] == ["<|a|>", "<|b|>"]
    assert tokenizer.reserved_ids == {299}


def test_a_special_id_that_other_bytes_have_is_refused() -> None:
    """Such an id proves nothing: ordinary text makes it. The token's own bytes may have it."""
    with pytest.raises(TokenizerError, match="rank of other bytes"):
        TiktokenTokenizer(encoding(special={"<|x|>": 97}))
    assert TiktokenTokenizer(encoding(special={"a": 97})).reserved_ids == {97}


def test_an_empty_special_token_is_refused() -> None:
    """A form of no characters would stand between any two."""
    with pytest.raises(TokenizerError, match="empty"):
        TiktokenTokenizer(encoding(special={"": 299}))


@pytest.mark.parametrize(
    ("custom", "fact"),
    [
        ({"<|x|>": 97}, "97, which is taken. Use a free id, from 301 up"),
        ({"a": 97}, "97, which is taken"),
        ({"<|x|>": 299}, "299, which is taken"),
        ({"<|x|>": 400, "<|y|>": 400}, "400, which is taken. Use a free id, from 401 up"),
        ({"<|im_start|>": 400}, "is a special token with the id 300"),
        ({"": 400}, "empty"),
        ({"\ud800": 400}, "not valid Unicode"),
        ({"<|x|>": -1}, "not a 32-bit number"),
        ({"<|x|>": 2**32}, "not a 32-bit number"),
        ({"<|x|>": True}, "not a 32-bit number"),
    ],
)
def test_a_custom_token_that_collides_is_refused(custom: dict[str, int], fact: str) -> None:
    """Taken ids and forms, and ids that tiktoken has no room for, are errors that say what to do."""
    with pytest.raises(TokenizerError, match=fact) as caught:
        TiktokenTokenizer(encoding(), custom_tokens=custom)
    assert "<|x|>" not in str(caught.value)


def test_a_custom_token_that_the_encoding_has_changes_nothing() -> None:
    """A lock file may list what is there already."""
    same = TiktokenTokenizer(encoding(), custom_tokens={"<|im_start|>": 300})
    assert same.fingerprint == TiktokenTokenizer(encoding()).fingerprint


def test_custom_tokens_add_up_and_leave_the_first_tokenizer_alone() -> None:
    """`with_custom_tokens` returns another tokenizer and never moves an id."""
    first = TiktokenTokenizer(encoding(), name="mine").with_custom_tokens({"<|a|>": 301})
    second = first.with_custom_tokens({"<|b|>": 302, "<|a|>": 301})
    assert [token.id for token in first.control_tokens] == [299, 300, 301]
    assert [token.id for token in second.control_tokens] == [299, 300, 301, 302]
    assert second.name == "mine"
    with pytest.raises(TokenizerError, match="has the id 301 and cannot have 303 too"):
        first.with_custom_tokens({"<|a|>": 303})


def test_every_kind_of_id_is_decoded() -> None:
    """Ordinary, special and custom ids stand for their bytes, in order."""
    tokenizer = TiktokenTokenizer(encoding(), custom_tokens={"<é>": 301})
    assert tokenizer.decode_bytes([97, 301, 299, 98, 301]) == "a<é><|endoftext|>b<é>".encode()
    assert tokenizer.decode_bytes([97, 299]) == b"a<|endoftext|>"
    assert tokenizer.decode_bytes([]) == b""


@pytest.mark.parametrize("ids", [[256], [97, 10**6], [-1], [2**32], [301, 256], [301, -1]])
def test_an_unknown_id_is_a_key_error(ids: Sequence[int]) -> None:
    """Ids that nobody has are refused, those outside 32 bits in the same way."""
    with pytest.raises(KeyError):
        TiktokenTokenizer(encoding(), custom_tokens={"<|x|>": 301}).decode_bytes(ids)


def test_a_rust_panic_becomes_an_error_without_the_text() -> None:
    """Where tiktoken's regex engine gives up it panics past `except Exception`; the caller sees one typed error."""
    backtracks = encoding(pattern=r"(?:(?=a)a|aa)+c|a")
    with pytest.raises(BaseException, match="Err") as panic:
        backtracks.encode_ordinary("a" * 100)
    assert not isinstance(panic.value, Exception)
    with pytest.raises(TokenizerError, match="PanicException on a text of 100 characters") as caught:
        TiktokenTokenizer(backtracks).encode_ordinary("a" * 100, at_start=True)
    assert caught.value.__context__ is None
    assert "aaa" not in str(caught.value)


def test_a_panic_leaves_the_tokenizer_usable() -> None:
    """One text that cannot be encoded does not spoil the next."""
    tokenizer = TiktokenTokenizer(encoding(pattern=r"(?:(?=a)a|aa)+c|a"))
    with pytest.raises(TokenizerError):
        tokenizer.encode_ordinary("a" * 100, at_start=True)
    assert tokenizer.encode_ordinary("a", at_start=True) == [97]


class Failing(tiktoken.Encoding):
    error: BaseException = ValueError("secret text")

    def encode_ordinary(self, text: str) -> list[int]:  # noqa: ARG002  # The signature is tiktoken's.
        raise self.error


def test_any_exception_becomes_an_error_without_the_text() -> None:
    """The message and the chain of a tokenizer's own error may hold the text, so neither is kept."""
    failing = Failing("f", pat_str="a", mergeable_ranks=dict(BYTES), special_tokens={})
    with pytest.raises(TokenizerError, match="ValueError") as caught:
        TiktokenTokenizer(failing).encode_ordinary("secret", at_start=True)
    assert caught.value.__context__ is None
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_what_stops_a_program_goes_through(error: BaseException) -> None:
    """Control-C is nobody's failure to encode."""
    failing = Failing("f", pat_str="a", mergeable_ranks=dict(BYTES), special_tokens={})
    failing.error = error
    with pytest.raises(type(error)):
        TiktokenTokenizer(failing).encode_ordinary("a", at_start=True)


def test_the_fingerprint_covers_what_decides_ids_and_nothing_else() -> None:
    """Pattern, ranks, special and custom tokens each change it; the name does not."""
    tokenizers = [
        TiktokenTokenizer(encoding()),
        TiktokenTokenizer(encoding(pattern=r"[\s\S]")),
        TiktokenTokenizer(encoding(ranks={**BYTES, b"ab": 256})),
        TiktokenTokenizer(encoding(ranks={**BYTES, b"ab": 257})),
        TiktokenTokenizer(encoding(special={**SPECIAL, "<|x|>": 301})),
        TiktokenTokenizer(encoding(), custom_tokens={"<|x|>": 301}),
        TiktokenTokenizer(encoding(), custom_tokens={"<|x|>": 302}),
    ]
    assert len({tokenizer.fingerprint for tokenizer in tokenizers}) == len(tokenizers)
    assert TiktokenTokenizer(encoding(), name="other").fingerprint == tokenizers[0].fingerprint
    assert tokenizers[5].base_fingerprint == tokenizers[0].fingerprint == tokenizers[0].base_fingerprint


def test_the_fingerprint_does_not_depend_on_the_order_of_tables() -> None:
    """Dictionaries that were filled in another order are the same vocabulary."""
    backwards = encoding(ranks=dict(reversed(BYTES.items())), special=dict(reversed(SPECIAL.items())))
    assert TiktokenTokenizer(backwards).fingerprint == TiktokenTokenizer(encoding()).fingerprint


def test_the_fingerprint_can_be_computed_by_hand(vocab: Callable[[str], Tokenizer]) -> None:
    """It is the SHA-256 of a short JSON text that holds the SHA-256 of the rank file."""
    tokenizer = vocab("r50k_base")
    assert isinstance(tokenizer, TiktokenTokenizer)
    facts = {
        "custom_tokens": {},
        "library": "tiktoken",
        "pattern": tokenizer.encoding._pat_str,
        "ranks": "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
        "special_tokens": {"<|endoftext|>": 50256},
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    assert tokenizer.fingerprint == f"sha256:{digest}"


def test_it_is_read_only() -> None:
    """What a ruleset was built on cannot change under it."""
    tokenizer = TiktokenTokenizer(encoding())
    for name in ("name", "encoding", "control_tokens", "reserved_ids", "fingerprint", "base_fingerprint", "n_vocab"):
        with pytest.raises(AttributeError):
            setattr(tokenizer, name, None)


def test_pickling_keeps_everything() -> None:
    """A copy encodes, decodes and identifies itself as the original does."""
    tokenizer = TiktokenTokenizer(encoding(), name="mine", custom_tokens={"<|x|>": 301})
    copy = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301  # It was pickled right here.
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.control_tokens == tokenizer.control_tokens
    assert copy.reserved_ids == tokenizer.reserved_ids
    assert copy.name == "mine"
    assert copy.decode_bytes([97, 301]) == b"a<|x|>"


def test_a_registered_encoding_is_pickled_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an encoding that it has registered tiktoken sends the name, and the ranks stay at home."""
    toy = encoding(ranks={**BYTES, **{b"%06d" % n: 1000 + n for n in range(5000)}})
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "toy", toy)
    pickled = pickle.dumps(TiktokenTokenizer(toy))
    assert len(pickled) < 2000
    assert pickle.loads(pickled).fingerprint == TiktokenTokenizer(toy).fingerprint  # noqa: S301  # As above.


def test_it_reaches_a_spawned_process() -> None:
    """A fresh interpreter encodes with the tokenizer that was sent to it."""
    tokenizer = TiktokenTokenizer(encoding(), custom_tokens={"<|x|>": 301})
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(tokenizer.decode_bytes, [97, 301]).result() == b"a<|x|>"


def test_eight_threads_share_it() -> None:
    """Threads that start together get the same ids and the same fingerprint."""
    tokenizer = TiktokenTokenizer(encoding())
    start = threading.Barrier(8)

    def work(_: int) -> tuple[str, list[int]]:
        start.wait()
        ids = [tokenizer.encode_ordinary(f"word {n} <|im_start|>", at_start=True) for n in range(200)]
        return tokenizer.fingerprint, [id_ for run in ids for id_ in run]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert all(result == results[0] for result in results)
