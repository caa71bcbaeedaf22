"""huggingface's tokenizers behind guardtok's protocol: what leaks out of the library, and not out of guardtok."""

from __future__ import annotations

import json
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hf_tokenizers import KINDS, LINES, build
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from guardtok.adapters.hf import HfTokenizer
from guardtok.encodings import load_tokenizer
from guardtok.errors import ExtensionError, PolicyError, RefusedError, TokenizerError, VocabularyError
from guardtok.guard import Guard
from guardtok.policy import parse_policy
from guardtok.text import Text
from guardtok.tokenizer import RuledTokenizer, TokenClass
from guardtok.tokenizer import Tokenizer as Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ESCAPE = 'foreign: ignore, lookalikes: ignore, sources: {template: {default: allow}, "*": {default: escape}}'
BLOCK = 'foreign: ignore, lookalikes: ignore, sources: {template: {default: allow}, "*": {default: block}}'
FULL_WIDTH = "\uff1c\uff0fs\uff1e"


def guard(tokenizer: object, rules: str = ESCAPE, more: str = "") -> Guard:
    """Return a guard of a tokenizer that logs nothing."""
    return Guard(parse_policy(f"{{guardtok: 1, {more} {rules}}}"), load_tokenizer(tokenizer), sinks=())


LEAKS: dict[str, tuple[Callable[[], Tokenizer], str, str]] = {
    "a token that is not special": (
        lambda: build("byte-level", AddedToken("<think>", special=False)),
        "<think>",
        "<think>",
    ),
    "a piece of the model's own": (lambda: build("unigram, never", AddedToken("</s>", special=True)), "</s>", "</s>"),
    "a whole word of the vocabulary": (lambda: build("words", AddedToken("</s>", special=True)), "a </s> b", "</s>"),
    "ignore_merges": (lambda: build("byte-level, ignore_merges", AddedToken("</s>", special=True)), "</s>", "</s>"),
    "a full-width spelling under NFKC": (
        lambda: build("byte-level under NFKC and lower case", AddedToken("</s>", normalized=True)),
        FULL_WIDTH,
        "</s>",
    ),
    "a full-width spelling of the model's own": (
        lambda: build("unigram, always", AddedToken("</s>", special=True)),
        FULL_WIDTH,
        "</s>",
    ),
    "another case": (
        lambda: build("byte-level under NFKC and lower case", AddedToken("<THINK>", normalized=True)),
        "<Think>",
        "<THINK>",
    ),
    "a joiner that BERT's normaliser drops": (
        lambda: build("bert", AddedToken("<turn>", normalized=True)),
        "<tu\u200drn>",
        "<turn>",
    ),
    "an accent that BERT's normaliser drops": (
        lambda: build("bert", AddedToken("<turn>", normalized=True)),
        "<t\u00farn>",
        "<turn>",
    ),
}


@pytest.mark.parametrize("name", LEAKS)
def test_what_the_library_parses_with_its_flag_set_guardtok_does_not(name: str) -> None:
    """`encode_special_tokens=True` is not enough, and each of these is found as an exact form, and can be blocked."""
    make, text, form = LEAKS[name]
    tokenizer = make()
    token_id = tokenizer.token_to_id(form)
    raw = make()
    raw.encode_special_tokens = True
    assert token_id in raw.encode(text, add_special_tokens=False).ids
    out = guard(tokenizer).encode(text, source="user")
    assert token_id not in out.ids
    assert [violation.form for violation in out.violations] == ["exact"]
    with pytest.raises(RefusedError):
        guard(tokenizer, BLOCK).encode(text, source="user")


@pytest.mark.parametrize("kind", KINDS)
def test_the_caller_s_tokenizer_is_not_touched(kind: str) -> None:
    """Nor does what happens to it later change what was bound."""
    tokenizer = build(kind, AddedToken("<think>"), AddedToken("</s>", special=True))
    tokenizer.enable_truncation(2)
    before = tokenizer.to_str()
    bound = guard(tokenizer)
    text = Text("<think>", source="template") + Text(LINES[1], source="user")
    ids = bound.encode(text).ids
    assert tokenizer.to_str() == before
    assert tokenizer.encode_special_tokens is False
    assert len(ids) > 2
    tokenizer.add_tokens(["hello", "the"])
    tokenizer.normalizer = normalizers.Lowercase()
    assert bound.encode(text).ids == ids


def test_every_added_token_has_its_class() -> None:
    """The unknown id and white space are no control tokens; what the policy calls text is none either."""
    tokenizer = build("llama", AddedToken("<div>"), AddedToken("\n\n"), AddedToken("▁▁"), AddedToken("<think>"))
    wrapped = HfTokenizer(tokenizer, text_tokens=["<div>", "<absent>"])
    kinds = {token.form: token.kind for token in wrapped.added_tokens}
    assert kinds == {
        "<unk>": TokenClass.UNKNOWN,
        "<s>": TokenClass.CONTROL,
        "</s>": TokenClass.CONTROL,
        "<div>": TokenClass.TEXT,
        "\n\n": TokenClass.SPACE,
        "▁▁": TokenClass.SPACE,
        "<think>": TokenClass.CONTROL,
    }
    assert [token.form for token in wrapped.control_tokens] == ["<unk>", "<s>", "</s>", "<think>"]
    assert wrapped.reserved_ids == {tokenizer.token_to_id(form) for form in ("<s>", "</s>", "<think>")}


def test_in_a_byte_level_vocabulary_the_unknown_token_is_reserved() -> None:
    """Nothing is unknown there, and GPT-2's file names its end of text."""
    tree = json.loads(build("byte-level", AddedToken("<|endoftext|>", special=True)).to_str())
    tree["model"]["unk_token"] = "<|endoftext|>"  # noqa: S105 - no password
    (token,) = HfTokenizer.from_json(json.dumps(tree), name="tiny").control_tokens
    assert token.kind is TokenClass.CONTROL


def test_the_spelling_of_a_byte_does_not_become_the_byte() -> None:
    """A Unigram model holds `<0x09>` as a piece, and would make a tab of these six characters."""
    tokenizer = build("unigram, bytes")
    byte = tokenizer.token_to_id("<0x09>")
    assert byte in tokenizer.encode("a<0x09>b", add_special_tokens=False).ids
    out = guard(tokenizer).encode("a<0x09>b", source="user")
    assert byte not in out.ids
    # The byte itself stays text, and no id of a byte is reserved.
    assert byte in guard(tokenizer).encode("a\tb", source="user").ids


def test_text_tokens_are_parsed_for_everybody() -> None:
    """The policy says that they are text, so they are no forms, and the ids are the library's."""
    tokenizer = build("byte-level", AddedToken("<div>"), AddedToken("<think>"))
    bound = guard(tokenizer, more="text_tokens: ['<div>', '<p>'],")
    out = bound.encode("x <div><think>", source="user")
    assert tokenizer.token_to_id("<div>") in out.ids
    assert tokenizer.token_to_id("<think>") not in out.ids
    assert [violation.token_id for violation in out.violations] == [tokenizer.token_to_id("<think>")]
    copied = pickle.loads(pickle.dumps(bound))  # noqa: S301 - our own bytes
    assert copied.encode("x <div><think>", source="user").ids == out.ids


def test_a_policy_cannot_call_a_token_of_tiktoken_text() -> None:
    """There no token can be parsed as text; a marker that is declared twice is a mistake."""
    with pytest.raises(TokenizerError, match="text_tokens"):
        guard("guardtok", more="text_tokens: ['<|im_start|>'],")
    with pytest.raises(PolicyError, match="declared as a form too"):
        guard("guardtok", more="text_tokens: ['<div>'], forms: ['<div>'],")


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_the_protocol_asks_for(kind: str) -> None:
    """Picklable, with a fingerprint that follows what decides ids; eight threads get the same ids."""
    wrapped = HfTokenizer(build(kind, AddedToken("<think>")), name="tiny")
    assert isinstance(wrapped, Protocol)
    assert isinstance(wrapped, RuledTokenizer)
    copy = pickle.loads(pickle.dumps(wrapped))  # noqa: S301 - our own bytes
    assert (copy.fingerprint, copy.control_tokens) == (wrapped.fingerprint, wrapped.control_tokens)
    assert wrapped.with_text_tokens(["<think>"]).fingerprint != wrapped.fingerprint
    custom = wrapped.with_custom_tokens({"<new>": wrapped.n_vocab})
    assert custom.fingerprint != wrapped.fingerprint == custom.base_fingerprint
    assert custom.n_vocab == wrapped.n_vocab + 1
    assert custom.decode_bytes([wrapped.n_vocab]) == b"<new>"
    texts = [line * 20 for line in LINES] * 8
    alone = [wrapped.encode_ordinary(text, at_start=True) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: wrapped.encode_ordinary(text, at_start=True), texts)) == alone


@pytest.mark.parametrize(
    ("form", "id_", "code"),
    [
        ("<think>", 5000, "form-taken"),
        ("<new>", 3, "id-taken"),
        ("", 5000, "form-invalid"),
        (" ", 5000, "form-invalid"),
        ("x" * 257, 5000, "form-invalid"),
        ("\ud800", 5000, "form-invalid"),
        ("<new>", -1, "id-invalid"),
        ("<new>", 2**32, "id-invalid"),
        ("<new>", True, "id-invalid"),
    ],
)
def test_a_custom_token_means_one_thing(form: str, id_: int, code: str) -> None:
    """A form or an id that is taken, or is none, is refused, by the rules that hold for every library."""
    with pytest.raises(ExtensionError) as caught:
        HfTokenizer(build("byte-level", AddedToken("<think>"))).with_custom_tokens({form: id_})
    assert [finding.code for finding in caught.value.findings] == [code]


def test_the_model_s_own_id_of_a_custom_token_is_reserved_too() -> None:
    """The model would write the string with an id of its own, and what that means to a model is the same."""
    tokenizer = build("unigram, never")
    own = tokenizer.token_to_id("</s>")
    assert own in tokenizer.encode("a</s>", add_special_tokens=False).ids
    bound = guard(tokenizer, more='custom_tokens: {"</s>": 5000},')
    assert own not in bound.encode("a</s>", source="user").ids
    assert bound.encode("</s>", source="template").ids == [5000]


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (None, ((), ())),
        (processors.ByteLevel(), ((), ())),
        (processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)), ((2,), (3,))),
        (processors.RobertaProcessing(("</s>", 3), ("<s>", 2)), ((2,), (3,))),
        (processors.TemplateProcessing("<s> <s> $A </s>", None, [("<s>", 2), ("</s>", 3)]), ((2, 2), (3,))),
        (
            processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing("<s> $A", None, [("<s>", 2)])]),
            ((2,), ()),
        ),
    ],
)
def test_affixes_are_what_the_post_processor_puts_around_a_text(
    processor: object, expected: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    """So a drop-in can add them; the tokens that it names are control tokens, whether they were added or not."""
    tokenizer = build("byte-level")
    tokenizer.post_processor = processor
    wrapped = HfTokenizer(tokenizer)
    assert wrapped.affixes == expected
    plain = tokenizer.encode("hello", add_special_tokens=False).ids
    assert tokenizer.encode("hello").ids == [*expected[0], *plain, *expected[1]]
    assert {token.id for token in wrapped.control_tokens} == {*expected[0], *expected[1]}


def test_a_post_processor_that_repeats_the_text_has_no_affixes() -> None:
    """Rather an error than half of what it does."""
    tokenizer = build("byte-level")
    tokenizer.post_processor = processors.TemplateProcessing("$A $A", None, [])
    with pytest.raises(TokenizerError, match="2 times"):
        _ = HfTokenizer(tokenizer).affixes


def test_it_is_loaded_from_whatever_holds_one(tmp_path: Path) -> None:
    """An object of either library, a file, a folder."""
    tokenizer = build("byte-level", AddedToken("<think>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = [load_tokenizer(each) for each in (tokenizer, fast, tmp_path, tmp_path / "tokenizer.json")]
    assert len({each.fingerprint for each in found}) == 1
    assert found[2].name == tmp_path.name


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"model": {"type": "Magic", "vocab": {}}}', '{"model": {"type": "BPE"}}']
)
def test_what_is_no_tokenizer_json_is_refused(tmp_path: Path, text: str) -> None:
    """With a typed error that quotes nothing of it."""
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerError):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff")
    with pytest.raises(VocabularyError, match="UTF-8"):
        load_tokenizer(tmp_path)


class Slow:
    """What a Python tokenizer of transformers looks like."""

    def apply_chat_template(self) -> None: ...


class Shout:
    def normalize(self, text: object) -> None: ...


def test_what_cannot_be_proven_is_refused() -> None:
    """A slow tokenizer, a normaliser in Python, dropout, and what is no tokenizer at all."""
    Slow.__module__ = "transformers.slow"
    with pytest.raises(TokenizerError, match="slow"):
        load_tokenizer(Slow())
    with pytest.raises(TokenizerError, match="not a tokenizer"):
        load_tokenizer(object())
    tokenizer = build("byte-level")
    tokenizer.normalizer = normalizers.Normalizer.custom(Shout())
    with pytest.raises(TokenizerError, match="Python"):
        HfTokenizer(tokenizer)
    with pytest.raises(TokenizerError, match="dropout"):
        HfTokenizer(Tokenizer(models.BPE(dropout=0.1)))


def test_a_token_swallows_white_space_whoever_wrote_it() -> None:
    """As in the library; the id still counts for the source that wrote the token."""
    tokenizer = build("byte-level", AddedToken("<think>", lstrip=True, rstrip=True))
    text = Text("a \u3000", source="user") + Text("<think>", source="template") + Text("\n b", source="user")
    out = guard(tokenizer).encode(text)
    assert out.ids == tokenizer.encode(str(text), add_special_tokens=False).ids
    assert out.sources[out.ids.index(tokenizer.token_to_id("<think>"))] == {"template"}


def test_a_neighbour_cannot_unmake_a_token() -> None:
    """A word beside a `single_word` token, and a mark that NFC would compose with it: the token stays."""
    tokenizer = build("byte-level under NFC", AddedToken("<x>", single_word=True), AddedToken("<y>", normalized=True))
    for form, after in (("<x>", "abc"), ("<y>", "\u0338")):
        text = Text(form, source="template") + Text(after, source="user")
        token_id = tokenizer.token_to_id(form)
        assert token_id not in tokenizer.encode(form + after, add_special_tokens=False).ids
        assert guard(tokenizer).encode(text).ids[0] == token_id
        # What the template itself writes beside it means what it means in the library.
        both = Text(form + after, source="template")
        assert guard(tokenizer).encode(both).ids == tokenizer.encode(form + after, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
def test_many_long_runs_are_encoded_as_the_library_does(kind: str) -> None:
    """They go through it in one call, and each is checked all the same."""
    tokenizer = build(kind, AddedToken("<|a|>", special=True), AddedToken("</s>", special=True))
    prose = re.sub(r"</?s>|\[[A-Z]+\]", "", " ".join(LINES)) * 8
    turns = [Text("<|a|>", source="template") + Text(prose, source="user") for _ in range(9)]
    text = Text("", source="user").join(turns)
    bound = guard(tokenizer)
    assert bound.encode(text).ids == tokenizer.encode(str(text), add_special_tokens=False).ids
    forged = text + Text("</s>", source="user") + Text("<|a|>x", source="template")
    out = bound.encode(forged)
    assert tokenizer.token_to_id("</s>") not in out.ids
    assert out.ids.count(tokenizer.token_to_id("<|a|>")) == 10


def test_text_that_goes_on_is_broken_where_a_normaliser_makes_a_form() -> None:
    """Whole, and in chunks."""
    tokenizer = build("byte-level under NFKC and lower case", AddedToken("</s>", normalized=True))
    text = f"a {FULL_WIDTH} </s> b"
    broken = guard(tokenizer).sanitize(text, source="user").text
    assert broken == "a \uff1c_\uff0fs\uff1e <_/s> b"
    for cut in range(len(text)):
        stream = guard(tokenizer).stream(source="user")
        assert stream.feed(text[:cut]) + stream.feed(text[cut:]) + stream.finish() == broken


@pytest.mark.parametrize("kind", ["byte-level", "byte-level with a prefix", "llama", "unigram, first"])
def test_each_id_counts_for_those_who_wrote_it(kind: str) -> None:
    """The prefix that a tokenizer writes before a run does not blur who wrote what in it."""
    text = Text("hello", source="user") + Text(" world", source="document")
    out = guard(build(kind)).encode(text)
    assert out.sources[0] == {"user"}
    assert out.sources[-1] == {"document"}


def test_a_run_that_is_not_at_the_start_gets_no_prefix() -> None:
    """`first` is the first of the whole text, and `always` is after each token."""
    for kind in ("unigram, first", "unigram, always", "unigram, never", "llama"):
        tokenizer = build(kind, AddedToken("<think>", special=True))
        text = Text("<think>", source="template") + Text("hello", source="user")
        assert guard(tokenizer).encode(text).ids == tokenizer.encode("<think>hello", add_special_tokens=False).ids


def test_a_form_is_cut_apart_without_a_prefix() -> None:
    """What the parts spell is what came in, in words after them too."""
    tokenizer = build("unigram, first", AddedToken("</s>", special=True))
    wrapped = HfTokenizer(tokenizer)
    ids = guard(tokenizer).encode("a</s> hello</s>the", source="user").ids
    assert wrapped.decode_bytes(ids) == b" a</s> hello</s>the"
    each = Tokenizer.from_str(tokenizer.to_str())
    each.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    ids = guard(each).encode("a</s> hello</s>the", source="user").ids
    assert HfTokenizer(each).decode_bytes(ids) == b" a</s> hello</s>the"


@pytest.mark.parametrize("name", ["gpt2", "qwen"])
def test_a_real_vocabulary_encodes_as_the_library_does(vocab: Callable[[str], Protocol], name: str) -> None:
    """A vocabulary of tiktoken's, converted as transformers converts it, on chat-like text."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    encoding = vocab(name).encoding  # type: ignore[attr-defined]
    table = bytes_to_unicode()
    spelled = {"".join(table[byte] for byte in token): rank for token, rank in encoding._mergeable_ranks.items()}
    merges = []
    for token, rank in sorted(encoding._mergeable_ranks.items(), key=lambda each: each[1]):
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [
            pair for pair in pairs if pair[0] in encoding._mergeable_ranks and pair[1] in encoding._mergeable_ranks
        ]
        merges += [
            (rank, pair) for pair in sorted(known, key=lambda pair: tuple(map(encoding._mergeable_ranks.get, pair)))
        ]
    pairs = [tuple("".join(table[byte] for byte in part) for part in pair) for _, pair in merges]
    tokenizer = Tokenizer(models.BPE(spelled, pairs, ignore_merges=True))
    split = {"type": "Split", "pattern": {"Regex": encoding._pat_str}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tree = json.loads(tokenizer.to_str()) | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}}
    tokenizer = Tokenizer.from_str(json.dumps(tree))
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>")])
    chat = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n"
    prompt = "naïve 漢字 🎉 it's 12345  x\n\n" * 3
    left, right = chat.split("{}")
    text = Text(left, source="template") + Text(prompt, source="user") + Text(right, source="template")
    bound = guard(tokenizer)
    ids = bound.encode(text).ids
    assert ids == tokenizer.encode(chat.format(prompt), add_special_tokens=False).ids
    assert bound.tokenizer is not None
    assert bound.tokenizer.decode_bytes(ids).decode() == chat.format(prompt)
    plain = bound.tokenizer.encode_ordinary(prompt, at_start=True)
    assert plain == encoding.encode_ordinary(prompt)
