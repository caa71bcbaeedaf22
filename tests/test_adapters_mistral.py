"""mistral-common's vocabularies, as the installed package carries them, behind guardtok's interface."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import pickle
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mistral_common
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer as MistralSentencePiece
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from guardtok import Guard, Policy, Text, testing
from guardtok.adapters.sentencepiece import SentencePieceTokenizer
from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.encodings import load_tokenizer
from guardtok.errors import GuardtokError, MissingExtraError, TokenizerError, UnknownTokenizerError
from guardtok.tokenizer import Role, RuledTokenizer, TokenClass, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DATA = Path(mistral_common.__file__).parent / "data"
TEKKEN = "tekken_240911.json"
V1 = "tokenizer.model.v1"
V2 = "mistral_instruct_tokenizer_240216.model.v2"
V3 = "mistral_instruct_tokenizer_240323.model.v3"
V7 = "mistral_instruct_tokenizer_241114.model.v7"
MODELS = (V1, V2, V3, V7)

CHAT = 'guardtok: 1\nname: t\nsources:\n  template: {default: allow}\n  "*": {default: escape}\n'


@functools.cache
def load(name: str) -> Tokenizer:
    """Return guardtok's tokenizer of a file that mistral-common carries."""
    return load_tokenizer(DATA / name)


@functools.cache
def original(name: str) -> Any:  # noqa: ANN401 - one of two that have no type in common
    """Return mistral-common's own tokenizer of the same file."""
    return Tekkenizer.from_file(DATA / name) if name == TEKKEN else MistralSentencePiece(DATA / name)


@functools.cache
def guard(name: str) -> Guard:
    """Return a silent guard under which only the template writes control tokens."""
    return Guard(Policy.parse(CHAT), load(name), sinks=())


@pytest.mark.parametrize("name", [TEKKEN, *MODELS])
def test_it_conforms(name: str) -> None:
    """Every vocabulary keeps every promise of the interface, and lists every id that mistral-common calls special."""
    theirs = original(name)
    special = [theirs.id_to_piece(id_) for id_ in sorted(theirs.special_ids)]
    report = testing.check_tokenizer(load(name), forms=special)
    assert report.refused == 0
    assert (report.parsed > 0) == (name in {V3, V7})  # These have user-defined pieces, which are parsed from any text.


@pytest.mark.parametrize("name", [TEKKEN, *MODELS])
def test_special_ids_are_mistral_commons(name: str) -> None:
    """A form has the id that mistral-common writes for it, and its vocabulary the same size."""
    ours, theirs = load(name), original(name)
    ids = {token.form: token.id for token in ours.control_tokens}
    assert set(theirs.special_ids) <= set(ids.values())
    assert all(theirs.get_special_token(form) == id_ for form, id_ in ids.items())
    assert ours.n_vocab == theirs.n_words


@pytest.mark.parametrize("name", MODELS)
def test_a_model_says_what_its_library_does(name: str) -> None:
    """A SentencePiece model is a tokenizer with a library's own ways, and Mistral's normalise nothing."""
    ours = load(name)
    assert isinstance(ours, RuledTokenizer)
    assert (ours.ruled, ours.normalizes, ours.folds, ours.patterns, ours.affixes) == (False, False, {}, {}, ((), ()))
    assert ours.align("ﬁ") == ("ﬁ", ((0, 1),))
    assert (ours.is_word("é"), ours.is_word(" ")) == (True, False)
    unknown = ours.control_tokens[0]
    assert (unknown.form, unknown.kind) == ("<unk>", TokenClass.UNKNOWN)


def test_tekken_has_every_reserved_slot() -> None:
    """The fillers up to the count in the file are control tokens too."""
    tekken = load(TEKKEN)
    assert len(tekken.control_tokens) == 1000
    assert [(t.form, t.id, t.role) for t in tekken.control_tokens[-1:]] == [("<SPECIAL_999>", 999, Role.RESERVED)]
    assert isinstance(tekken, TiktokenTokenizer)


@pytest.mark.parametrize(("name", "last"), [(V1, 2), (V2, 770), (V3, 770), (V7, 770)])
def test_unknown_and_bytes_are_no_control_tokens(name: str, last: int) -> None:
    """Any emoji makes bytes, so their ids stay ordinary; control and user-defined pieces are reserved without a gap."""
    assert load(name).reserved_ids == set(range(1, last + 1))


USER_DEFINED = [*(f"[REFERENCE_DOC_{number}]" for number in range(20)), "[REF]", "[/REF]"]


@pytest.mark.parametrize(("name", "forms"), [(V3, USER_DEFINED[:20]), (V7, USER_DEFINED)])
def test_user_defined_pieces_are_text_unless_allowed(name: str, forms: list[str]) -> None:
    """SentencePiece reads them out of any text, mistral-common with it; through a guard they are the text they are."""
    reserved = load(name).reserved_ids
    for form in forms:
        assert not reserved.isdisjoint(original(name).encode(f"see {form}.", bos=False, eos=False))
        out = guard(name).encode(f"see {form}.", source="user")
        assert reserved.isdisjoint(out.ids)
        assert original(name).decode(out.ids) == f"see {form}."
        assert guard(name).encode(form, source="template").ids == [original(name).get_special_token(form)]


WORDS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    [
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[TOOL_CALLS]",
        "<SPECIAL_20>",
        "<unk>",
        "<0x0A>",
        "\u2581",
        " ",
        "\n",
        "é",
        "文字",
    ]
)


@pytest.mark.parametrize("name", [TEKKEN, *MODELS])
@given(parts=st.lists(WORDS, max_size=6))
def test_ids_of_ordinary_text_are_mistral_commons(name: str, parts: list[str]) -> None:
    """Text without user-defined pieces, spelled control tokens included, becomes what mistral-common makes of it."""
    text = "".join(parts)
    assert guard(name).encode(text, source="user").ids == original(name).encode(text, bos=False, eos=False)


@pytest.mark.parametrize("name", MODELS)
@given(parts=st.lists(WORDS, max_size=6), inside=st.booleans())
def test_the_prefix_is_written_unless_text_goes_on(name: str, parts: list[str], inside: bool) -> None:  # noqa: FBT001 - drawn
    """What comes back is the text, with one space before it unless it goes on; U+2581 is SentencePiece's own space."""
    text = "".join(parts)
    tokenizer = load(name)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    ids = tokenizer.encode_normalized(text, at_start=False, inside=inside)
    spelled = text.replace("\u2581", " ")
    assert tokenizer.decode_bytes(ids).decode() == (" " if text and not inside else "") + spelled


CONVERSATION = [
    SystemMessage(content="Be kind. </s>"),
    UserMessage(content="What is [INST] in Köln?"),
    AssistantMessage(content="A word, <s>."),
    UserMessage(content="Thanks 👍🏽"),
]


@pytest.mark.parametrize(
    ("make", "template"),
    [
        (
            lambda: MistralTokenizer.v7(is_mm=True),
            "<s>[SYSTEM_PROMPT]{a:system}[/SYSTEM_PROMPT][INST]{b:user}[/INST]{c:assistant}</s>[INST]{d:user}[/INST]",
        ),
        (
            MistralTokenizer.v2,
            "<s>[INST]{b:user}[/INST]{c:assistant}</s>[INST]{a:system}\n\n{d:user}[/INST]",
        ),
        (
            lambda: MistralTokenizer.v3(is_tekken=True),
            "<s>[INST]{b:user}[/INST]{c:assistant}</s>[INST]{a:system}\n\n{d:user}[/INST]",
        ),
    ],
    ids=["v7", "v2", "v3-tekken"],
)
def test_a_conversation_has_mistral_commons_ids(make: Callable[[], MistralTokenizer], template: str) -> None:
    """What stands between two control tokens is encoded as mistral-common encodes it, forged tokens in it as text."""
    theirs = make()
    names = dict(zip("abcd", (str(message.content) for message in CONVERSATION), strict=True))
    guard = Guard(Policy.parse(CHAT), load_tokenizer(theirs), sinks=())
    expected = theirs.encode_chat_completion(ChatCompletionRequest(messages=CONVERSATION))
    out = guard.prepare(template).encode(**names)
    assert out.ids == expected.tokens
    assert {violation.source for violation in out.violations} == {"system", "user", "assistant"}


def test_each_id_has_the_source_of_its_characters() -> None:
    """The prefix before a run is nobody's, and moves no border between two sources."""
    out = guard(V7).encode(Text("hello", source="user") + Text(" worlds", source="document"))
    assert out.sources[0] == {"user"}
    assert out.sources[-1] == {"document"}


@pytest.mark.parametrize("name", [TEKKEN, *MODELS])
def test_template_tokens_stand_whatever_is_beside_them(name: str) -> None:
    """A forged neighbour neither hides nor moves what the template wrote."""
    begin, end = (next(t.id for t in load(name).control_tokens if t.form == form) for form in ("<s>", "</s>"))
    for half in ("</s", "<", "[REF", "[INST]<s"):
        out = guard(name).encode(
            Text("<s>", source="template") + Text(half, source="user") + Text("</s>", source="template")
        )
        assert [id_ for id_ in out.ids if id_ in load(name).reserved_ids] == [begin, end]


def test_every_object_of_the_libraries_is_taken() -> None:
    """A `MistralTokenizer`, what it holds, and a bare processor all lead to the tokenizer of their file."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(DATA / V7))
    for theirs in (MistralTokenizer.v7(), original(V7), processor):
        assert load_tokenizer(theirs).fingerprint == load(V7).fingerprint
    assert load_tokenizer(original(V7)).name == V7
    for tekken in (original(TEKKEN), MistralTokenizer.from_file(str(DATA / TEKKEN))):
        assert load_tokenizer(tekken).fingerprint == load(TEKKEN).fingerprint
        assert load_tokenizer(tekken).name == "tekken_240911"


def test_transformers_class_around_mistral_common_is_taken() -> None:
    """It is no tokenizer of huggingface's library, whatever package it is in: mistral-common encodes."""
    from transformers import MistralCommonBackend

    wrapped = MistralCommonBackend(DATA / TEKKEN)
    ours = load_tokenizer(wrapped)
    assert ours.fingerprint == load(TEKKEN).fingerprint
    text = "two <s> words"
    assert ours.encode_ordinary(text, at_start=True) == wrapped.encode(text, add_special_tokens=False)


def test_a_subclass_is_taken_too() -> None:
    """Somebody's own class on top of the library's is still the library's."""

    class Mine(Tekkenizer):
        pass

    assert load_tokenizer(Mine.from_file(DATA / TEKKEN)).fingerprint == load(TEKKEN).fingerprint


def test_what_a_processor_was_told_to_add_does_not_count() -> None:
    """No token is added, nothing is reversed or sampled, whatever the caller's own processor does."""
    told = sentencepiece.SentencePieceProcessor(model_file=str(DATA / V3), add_bos=True, add_eos=True, reverse=True)
    assert told.encode("two words") != original(V3).encode("two words", bos=False, eos=False)
    ours = load_tokenizer(told)
    assert ours.encode_ordinary("two words", at_start=True) == original(V3).encode("two words", bos=False, eos=False)


def test_paths_are_strings_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A string that ends as such a file does is a path, relative or not; one that is not there says so."""
    monkeypatch.chdir(DATA)
    assert load_tokenizer(V1).fingerprint == load(V1).fingerprint
    assert load_tokenizer(str(DATA / V1)).fingerprint == load(V1).fingerprint
    for absent in ("tekken_1.json", "tokenizer.model", "tokenizer.model.v3m1"):
        with pytest.raises(UnknownTokenizerError, match="There is no file"):
            load_tokenizer(absent)


def test_the_fingerprint_can_be_computed_by_hand() -> None:
    """It holds the SHA-256 of the model file, so that anybody can check it with sha256sum."""
    facts = {
        "custom_tokens": {},
        "library": "sentencepiece",
        "model": hashlib.sha256((DATA / V3).read_bytes()).hexdigest(),
        "text_tokens": [],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    assert load(V3).fingerprint == f"sha256:{digest}"
    assert len({load(name).fingerprint for name in (TEKKEN, *MODELS)}) == 5


def test_a_damaged_file_is_an_error_without_its_content(tmp_path: Path) -> None:
    """Truncated, empty or something else altogether: one typed error, and nothing of the file in it."""
    whole = (DATA / V3).read_bytes()
    for name, data in {
        "a.model": whole[:1000],
        "b.model": b"",
        "c.model": b"secret" * 100,
        "tekken.json": b'{"secret": 1}',
        "tekken_b.json": (DATA / TEKKEN).read_bytes()[:5000],
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(GuardtokError) as caught:
            load_tokenizer(tmp_path / name)
        assert "secret" not in str(caught.value)
        assert caught.value.__context__ is None or caught.value.__suppress_context__


def varint(number: int) -> bytes:
    """Return a number as protocol buffers write it."""
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + varint(number >> 7)


def field(number: int, value: bytes | int) -> bytes:
    """Return a field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text: str, kind: int = 1) -> bytes:
    """Return an entry of a model's list of pieces."""
    return field(1, field(1, text.encode()) + b"\x15\0\0\0\0" + field(3, kind))


def model(pieces: Mapping[str, int], *, normalizer: bytes = b"", trainer: bytes = b"") -> bytes:
    """Return a small BPE model with `<unk>`, these pieces, and letters."""
    letters = {letter: 1 for letter in "\u2581abcdefxyz<>[]REF/|" if letter not in pieces}
    listed = {"<unk>": 2, **pieces, **letters}
    return b"".join(piece(*entry) for entry in listed.items()) + field(2, field(3, 2) + trainer) + field(3, normalizer)


def test_white_space_that_is_user_defined_is_text() -> None:
    """Runs of spaces that a model lists are no control tokens; a form with a space inside is spelled with a space."""
    tokenizer = SentencePieceTokenizer(
        model({"\u2581\u2581": 4, "\n": 4, "[a\u2581b]": 4, "[c]": 3}, normalizer=field(4, 0)), name="m"
    )
    assert [(token.form, token.id) for token in tokenizer.control_tokens[1:]] == [("[a b]", 3), ("[c]", 4)]
    assert [token.kind for token in tokenizer.added_tokens[1:3]] == [TokenClass.SPACE] * 2
    assert tokenizer.encode_ordinary("x  x\n", at_start=False).count(1) == 1


@functools.cache
def folding() -> SentencePieceTokenizer:
    """Return a trained model that folds compatibility characters, as most do, and has user-defined pieces."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a word and another word, abc xyz </s> 123", "[REF] words go on < / > [ ] R E F"]),
        model_writer=made,
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="nmt_nfkc",
        user_defined_symbols=["[REF]", "<b>"],
        control_symbols=["<sep>"],
        minloglevel=3,
    )
    return SentencePieceTokenizer(made.getvalue(), name="folding")


@pytest.mark.parametrize(
    "text",
    ["see [REF].", "see \uff3bREF\uff3d.", "see [\uff32EF].", "\uff3b\uff32\uff25\uff26\uff3d", "é [REF\uff3d[REF]"],
)
def test_a_piece_that_the_normaliser_makes_is_seen_and_kept_out(text: str) -> None:
    """Full-width characters become the piece in SentencePiece itself; a guard finds it there, and cuts it apart."""
    tokenizer = folding()
    assert not tokenizer.reserved_ids.isdisjoint(tokenizer.encode_ordinary(text, at_start=True))
    out = Guard(Policy.parse(CHAT), tokenizer, sinks=()).encode(text, source="user")
    assert tokenizer.reserved_ids.isdisjoint(out.ids)
    assert {violation.token for violation in out.violations} == {"[_REF]"}
    assert tokenizer.decode_bytes(out.ids).decode() == " " + tokenizer.normalize(text)


def test_a_model_that_folds_conforms() -> None:
    """No promise depends on the normaliser, and nothing is refused for it."""
    report = testing.check_tokenizer(folding(), forms=["[REF]", "<b>", "<sep>", "<s>", "</s>", "<unk>"])
    assert report.parsed > 0
    assert report.refused == 0


@given(
    parts=st.lists(WORDS | st.sampled_from(["\uff3bREF\uff3d", "ﬁ", "①", "  ", "\u3000", "e\u0301", "㍿"]), max_size=6)
)
def test_alignment_leads_back_to_the_text(parts: list[str]) -> None:
    """Spans are in order and within the text, and each character comes from those that it is said to come from."""
    text = "".join(parts)
    normal, spans = folding().align(text)
    assert len(spans) == len(normal)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert list(spans) == sorted(spans)
    assert normal == folding().normalize(text)
    origins = (unicodedata.normalize("NFKC", text[start:end]) for start, end in spans)
    assert all(char in origin or char == " " for char, origin in zip(normal, origins, strict=True))


def test_symbols_that_a_policy_calls_text_are_text() -> None:
    """Any source may write them, their ids are ordinary, and the fingerprint says so."""
    text = folding().with_text_tokens(["<b>", "<none>"])
    assert "<b>" not in [token.form for token in text.control_tokens]
    assert TokenClass.TEXT in [token.kind for token in text.added_tokens]
    assert text.fingerprint != folding().fingerprint
    assert text.with_text_tokens(["<b>"]) is text
    assert pickle.loads(pickle.dumps(text)).fingerprint == text.fingerprint  # noqa: S301 - it was pickled right here
    policy = Policy.parse(CHAT + 'text_tokens: ["<b>"]\n')
    out = Guard(policy, folding(), sinks=()).encode("a <b> c", source="user")
    assert out.violations == ()
    assert out.ids == folding().encode_ordinary("a <b> c", at_start=True)


def test_a_model_without_prefix_gets_none() -> None:
    """Where the model says `add_dummy_prefix: false`, the start is like any other place."""
    tokenizer = SentencePieceTokenizer(model({}, normalizer=field(3, 0)), name="m")
    assert tokenizer.encode_ordinary("ab", at_start=True) == tokenizer.encode_ordinary("ab", at_start=False)


def test_the_unknown_piece_is_decoded_as_the_model_shows_it() -> None:
    """A model without bytes makes one id of all that it does not know, and that id is not reserved."""
    tokenizer = SentencePieceTokenizer(model({"[c]": 3}), name="m")
    assert tokenizer.encode_ordinary("a文", at_start=False)[-1] == 0
    assert tokenizer.decode_bytes([0]) == " \u2047 ".encode()
    out = Guard(Policy.parse(CHAT), tokenizer, sinks=()).encode("a文[c]", source="user")
    assert 1 not in out.ids


def test_a_model_that_writes_white_space_behind_words_is_refused() -> None:
    """There, what a text becomes depends on what follows it."""
    with pytest.raises(TokenizerError, match="behind words"):
        SentencePieceTokenizer(model({}, trainer=field(24, 1)), name="m")


@pytest.mark.parametrize(
    ("custom", "fact"),
    [
        ({"<|x|>": 97}, "97, which is taken. Use a free id, from 32768 up"),
        ({"<|x|>": 32768, "<|y|>": 32768}, "32768, which is taken. Use a free id, from 32769 up"),
        ({"[REF]": 40000}, "is a token of the model with the id 750"),
        ({"": 40000}, "empty"),
        ({"\ud800": 40000}, "not valid Unicode"),
        ({"<|x|>": -1}, "no room"),
        ({"<|x|>": 2**31}, "no room"),
        ({"<|x|>": True}, "no room"),
    ],
)
def test_a_custom_token_that_collides_is_refused(custom: dict[str, int], fact: str) -> None:
    """Taken ids and forms, and ids that there is no room for, are errors that say what to do."""
    with pytest.raises(TokenizerError, match=fact) as caught:
        load(V7).with_custom_tokens(custom)
    assert "<|x|>" not in str(caught.value)


def test_custom_tokens_add_up_and_their_ordinary_twin_is_reserved() -> None:
    """A second id for one form is refused; a piece of the model that spells the form is as good as the token."""
    first = load(V7).with_custom_tokens({"<|x|>": 32768, "[REF]": 750})
    second = first.with_custom_tokens({"hi": 32769, "<|x|>": 32768})
    assert [token.form for token in second.control_tokens[-2:]] == ["<|x|>", "hi"]
    assert second.reserved_ids == load(V7).reserved_ids | {32768, 32769, original(V7).get_special_token("hi")}
    assert second.decode_bytes([12782, 32768]) == b" hi<|x|>"
    with pytest.raises(TokenizerError, match="has the id 32768 and cannot have 32770 too"):
        first.with_custom_tokens({"<|x|>": 32770})


def test_a_failure_is_one_error_without_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the library raises, the caller sees guardtok's error; what stops a program goes through."""
    tokenizer = SentencePieceTokenizer((DATA / V1).read_bytes(), name="m")

    class Broken:
        error: BaseException = RuntimeError("secret")

        def encode(self, _: str) -> list[int]:
            raise self.error

    monkeypatch.setattr(tokenizer, "_prefixed", Broken())
    with pytest.raises(TokenizerError, match="RuntimeError on a text of 3 characters") as caught:
        tokenizer.encode_ordinary("abc", at_start=True)
    assert caught.value.__context__ is None
    monkeypatch.setattr(Broken, "error", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode_ordinary("abc", at_start=True)


@pytest.mark.parametrize(
    ("module", "name"), [("sentencepiece", V1), ("mistral_common.tokens.tokenizers.tekken", TEKKEN)]
)
def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    """Whoever has not installed it is told what to install."""
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtraError, match=r"guardtok\[mistral\]"):
        load_tokenizer(DATA / name)


def test_a_pickled_tokenizer_is_its_model_and_little_else() -> None:
    """What goes to a worker is the model once, not two processors and tables."""
    buffer = io.BytesIO()
    pickle.dump(load(V3), buffer)
    assert buffer.tell() < len((DATA / V3).read_bytes()) + 1000
