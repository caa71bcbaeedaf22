"""The conformance suite passes what is right, and each of its checks fails for what it is there to find."""

from __future__ import annotations

import itertools
import pickle
import time
from typing import TYPE_CHECKING, Any

import pytest
from hf_tokenizers import KINDS, build
from tokenizers import AddedToken

from guardtok import testing
from guardtok.adapters.hf import HfTokenizer
from guardtok.encodings import load_tokenizer
from guardtok.errors import ConformanceError, TokenizerError
from guardtok.tokenizer import ControlToken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from guardtok.tokenizer import Tokenizer

RIGHT = load_tokenizer("guardtok")


class PanicException(BaseException):
    """What pyo3 raises for a panic, as far as Python can tell."""


class Delegate:
    """The embedded tokenizer at one remove, for faults to be added to."""

    def __init__(self, inner: Tokenizer = RIGHT) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def control_tokens(self) -> tuple[ControlToken, ...]:
        return self.inner.control_tokens

    @property
    def reserved_ids(self) -> frozenset[int]:
        return self.inner.reserved_ids

    @property
    def fingerprint(self) -> str:
        return self.inner.fingerprint

    @property
    def n_vocab(self) -> int:
        return self.inner.n_vocab

    def with_custom_tokens(self, ids: Mapping[str, int]) -> Delegate:
        return type(self)(self.inner.with_custom_tokens(ids))

    def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:
        ids = self.inner.encode_ordinary(text, at_start=at_start)
        assert isinstance(ids, list)
        return ids

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return self.inner.decode_bytes(ids)


TOOL_CALL = next(token for token in RIGHT.control_tokens if token.form == "<tool_call>")


class Parses(Delegate):
    """Parses one control token out of text, and says so: guardtok cuts the form apart."""

    def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:
        first, *rest = (super(Parses, self).encode_ordinary(p, at_start=at_start) for p in text.split(TOOL_CALL.form))
        return first + [id_ for part in rest for id_ in (TOOL_CALL.id, *part)]


class Hides(Parses):
    """Parses a control token that it does not list."""

    @property
    def control_tokens(self) -> tuple[ControlToken, ...]:
        return tuple(token for token in super().control_tokens if token != TOOL_CALL)

    @property
    def reserved_ids(self) -> frozenset[int]:
        return super().reserved_ids - {TOOL_CALL.id}


class Leaks(Delegate):
    """Makes a reserved id of a single character, so that no cut keeps it out."""

    def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:
        ids = super().encode_ordinary(text, at_start=at_start)
        return [TOOL_CALL.id if self.decode_bytes([id_]).endswith(b">") else id_ for id_ in ids]


class Unreserved(Delegate):
    """Lists its control tokens and does not reserve the id of one."""

    @property
    def reserved_ids(self) -> frozenset[int]:
        return super().reserved_ids - {TOOL_CALL.id}


class Unsorted(Delegate):
    @property
    def control_tokens(self) -> tuple[ControlToken, ...]:
        return super().control_tokens[::-1]


class Twice(Delegate):
    @property
    def control_tokens(self) -> tuple[ControlToken, ...]:
        return (*super().control_tokens, ControlToken(TOOL_CALL.form, self.n_vocab - 1))


class Renames(Delegate):
    """Lists a form that its id does not stand for."""

    @property
    def control_tokens(self) -> tuple[ControlToken, ...]:
        return (*super().control_tokens[:-1], ControlToken("<|other|>", super().control_tokens[-1].id))


class TooSmall(Delegate):
    @property
    def n_vocab(self) -> int:
        return super().n_vocab - 1


class BeyondItself(Delegate):
    """Makes ids of text that are not in its vocabulary."""

    def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:
        return [*super().encode_ordinary(text, at_start=at_start), 2**20]


class Loses(Delegate):
    """Drops what nobody sees."""

    def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:
        return super().encode_ordinary(text.replace("\u200b", ""), at_start=at_start)


class LosesAtTheStart(Delegate):
    def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:
        return super().encode_ordinary(text.lstrip() if at_start else text, at_start=at_start)


class Shares(Delegate):
    """Keeps the text where another thread can put its own."""

    def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:
        self.text = text
        time.sleep(0)
        return super().encode_ordinary(self.text, at_start=at_start)


class Panics(Delegate):
    def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:
        if len(text) > 5_000:
            raise PanicException
        return super().encode_ordinary(text, at_start=at_start)


class Quotes(Delegate):
    """Raises guardtok's error with what it must not say."""

    def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:
        if len(text) > 5_000:
            raise TokenizerError(text)
        return super().encode_ordinary(text, at_start=at_start)


class Chains(Delegate):
    """Raises guardtok's error on top of one that holds the text."""

    def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:
        if len(text) > 5_000:
            try:
                int(text)
            except ValueError:
                raise TokenizerError("failed") from None
        return super().encode_ordinary(text, at_start=at_start)


class Remembers(Delegate):
    """Is another tokenizer once a long text went through it."""

    long = False

    def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:
        self.long = self.long or len(text) > 500_000
        return super().encode_ordinary(text + self.long * "!", at_start=at_start)


class ForgetsOnTheWay(Delegate):
    def __reduce__(self) -> tuple[type[Delegate], tuple[Tokenizer]]:
        return Delegate, (RIGHT.with_custom_tokens({"<|more|>": RIGHT.n_vocab}),)


class Unpicklable(Delegate):
    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("secret text")


class EncodesOtherwiseElsewhere(Delegate):
    def __reduce__(self) -> tuple[type[Delegate], tuple[Tokenizer]]:
        return Loses, (self.inner,)


class Nameless(Delegate):
    @property
    def fingerprint(self) -> str:
        return "sha256:unknown"


class Restless(Delegate):
    """Has a new fingerprint each time."""

    numbers = itertools.count()

    @property
    def fingerprint(self) -> str:
        return f"sha256:{next(self.numbers):064}"


class Blind(Delegate):
    """Has one fingerprint, whatever was added."""

    @property
    def fingerprint(self) -> str:
        return RIGHT.fingerprint


class GuessesIds(Delegate):
    """Decodes ids that nobody has."""

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return super().decode_bytes([id_ for id_ in ids if 0 <= id_ < self.n_vocab])


class TidiesUp(Delegate):
    """Decodes a sequence to other bytes than its ids."""

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        data = super().decode_bytes(ids)
        return data.replace(b"  ", b" ") if len(ids) > 1 else data


class Mutates(Delegate):
    """Adds custom tokens to itself."""

    def with_custom_tokens(self, ids: Mapping[str, int]) -> Delegate:
        self.inner = self.inner.with_custom_tokens(ids)
        return self


class TakesAnything(Delegate):
    """Lets a custom token have an id that is taken."""

    def with_custom_tokens(self, ids: Mapping[str, int]) -> Delegate:
        return super().with_custom_tokens({form: id_ for form, id_ in ids.items() if id_ >= self.n_vocab})


FAULTS: dict[type[Delegate], str] = {
    Hides: "control tokens",
    Unreserved: "control tokens",
    Unsorted: "control tokens",
    Twice: "control tokens",
    Renames: "control tokens",
    TooSmall: "control tokens",
    Leaks: "ordinary",
    BeyondItself: "ordinary",
    Loses: "lossless",
    LosesAtTheStart: "lossless",
    GuessesIds: "bytes",
    TidiesUp: "bytes",
    Shares: "threads",
    Panics: "failures",
    Quotes: "failures",
    Chains: "failures",
    Remembers: "failures",
    ForgetsOnTheWay: "pickle",
    Unpicklable: "pickle",
    EncodesOtherwiseElsewhere: "pickle",
    Nameless: "fingerprint",
    Restless: "fingerprint",
    Blind: "fingerprint",
    Mutates: "custom tokens",
    TakesAnything: "custom tokens",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found_by_the_check_that_is_for_it(fault: type[Delegate]) -> None:
    """Each broken tokenizer fails the check that names what is broken in it, without a text in the message."""
    with pytest.raises(ConformanceError) as caught:
        testing.check_tokenizer(fault(), checks=[FAULTS[fault]])
    assert caught.value.check == FAULTS[fault]
    assert str(caught.value).startswith(f"{FAULTS[fault]}: ")
    assert "secret" not in str(caught.value)
    assert not any(token.form in str(caught.value) for token in RIGHT.control_tokens)
    assert caught.value.__context__ is None


def test_every_check_has_a_fault() -> None:
    """A check that nothing fails would be decoration."""
    assert set(FAULTS.values()) == set(testing.CHECKS)


@pytest.mark.parametrize("check", testing.CHECKS)
@pytest.mark.parametrize("tokenizer", [Delegate(), Parses()], ids=["delegate", "parses"])
def test_what_is_right_passes(tokenizer: Tokenizer, check: str) -> None:
    """One check at a time, as a test of somebody's own would run it; parsing is no fault where guardtok can undo it."""
    testing.check_tokenizer(tokenizer, checks=[check])


def test_the_report_says_what_was_done() -> None:
    """How many texts there were, and in how many guardtok had to step in."""
    report = testing.check_tokenizer(Parses(), seed=7, cases=100)
    assert (report.tokenizer, report.checks, report.seed) == ("guardtok", tuple(testing.CHECKS), 7)
    assert report.texts == len(RIGHT.control_tokens) + 100
    assert report.parsed > 1
    assert report.refused == 0
    assert testing.check_tokenizer(RIGHT, cases=10).parsed == 0


def test_a_seed_repeats_its_texts() -> None:
    """The number in an error leads back to the text, and another seed makes others."""
    cases = testing.make_cases(RIGHT, seed=1)
    assert testing.make_cases(Delegate(), seed=1) == cases
    assert testing.make_cases(RIGHT, seed=2) != cases
    with pytest.raises(ConformanceError, match=r"text (\d+) of seed 1") as caught:
        testing.check_tokenizer(Loses(), seed=1, checks=["lossless"])
    number = int(str(caught.value).split()[2])
    assert "\u200b" in cases[number].text
    assert cases[number].shape in str(caught.value)


def test_forms_known_from_elsewhere_must_be_listed() -> None:
    """A configuration file names tokens; one that the tokenizer keeps to itself is found without the catalogue."""
    forms = [token.form for token in RIGHT.control_tokens]
    testing.check_tokenizer(RIGHT, forms=forms, checks=["control tokens"])
    with pytest.raises(ConformanceError, match="known form 12 is not listed"):
        testing.check_tokenizer(RIGHT, forms=[*forms, "<|mine|>"], checks=["control tokens"])


def test_a_tokenizer_without_control_tokens_passes() -> None:
    """There is nothing to forge in it, and everything else still has to hold."""
    import tiktoken

    ranks = {bytes([byte]): byte for byte in range(256)}
    bare = tiktoken.Encoding("bare", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={})
    testing.check_tokenizer(load_tokenizer(bare), checks=set(testing.CHECKS) - {"failures"})


def test_an_unknown_check_is_an_error() -> None:
    """A check with a typing error in its name would otherwise pass for ever."""
    with pytest.raises(ValueError, match="No check is named 'lossles'"):
        testing.check_tokenizer(RIGHT, checks=["lossles"])


def test_control_c_goes_through() -> None:
    """What stops a program is no finding."""

    class Stops(Delegate):
        def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:  # noqa: ARG002 - the protocol's names
            raise KeyboardInterrupt

    for check in ("ordinary", "failures", "threads"):
        with pytest.raises(KeyboardInterrupt):
            testing.check_tokenizer(Stops(), checks=[check])


def test_the_error_is_picklable() -> None:
    """It comes out of worker processes, as test runners have them."""
    error = pickle.loads(pickle.dumps(ConformanceError("bytes", "fact")))  # noqa: S301 - it was pickled right here
    assert (error.check, error.fact, str(error)) == ("bytes", "fact", "bytes: fact")
    assert isinstance(error, AssertionError)


@pytest.mark.parametrize("name", ["guardtok", "gpt2", "p50k_edit", "cl100k_im", "o200k_harmony", "qwen"])
def test_the_named_tokenizers_conform(vocab: Callable[[str], Tokenizer], name: str) -> None:
    """Every vocabulary that guardtok builds itself keeps every promise."""
    testing.check_tokenizer(vocab(name))


# Decoders of the library that do not give back what was encoded: white space is lost, a byte stays `<0x58>`.
LOSSY = {"bert": {"lossless", "bytes"}, "words": {"lossless"}, "unigram, bytes": {"lossless"}}
ADDED = (
    AddedToken("</s>", special=True),
    AddedToken("<think>", special=False, normalized=True),
    AddedToken("[X y]", special=True, normalized=False, lstrip=True),
    AddedToken("<|ab|>", special=True, rstrip=True),
    AddedToken("<T>", special=False, normalized=True, single_word=True),
)


@pytest.mark.parametrize("kind", KINDS)
def test_huggingfaces_tokenizers_conform(kind: str) -> None:
    """Every kind that the library makes keeps every promise, with added tokens of every sort."""
    checks = [check for check in testing.CHECKS if check not in LOSSY.get(kind, ())]
    report = testing.check_tokenizer(
        HfTokenizer(build(kind, *ADDED)), forms=[token.content for token in ADDED], checks=checks
    )
    assert report.refused == 0


@pytest.mark.parametrize("kind", LOSSY)
def test_a_decoder_that_loses_is_found(kind: str) -> None:
    """What is left out above is left out because it is so."""
    with pytest.raises(ConformanceError, match="does not come back"):
        testing.check_tokenizer(HfTokenizer(build(kind, *ADDED)), checks=["lossless"])
