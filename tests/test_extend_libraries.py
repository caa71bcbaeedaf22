"""The same tokens in several libraries: placed in `tokenizers`, compared, and written for other programs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import tiktoken
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import APART, PIECEWISE, encoding
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from guardtok import Guard, extend
from guardtok.adapters.hf import HfTokenizer
from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.added_tokens import add_tokens, is_huggingface
from guardtok.encodings import load_tokenizer
from guardtok.errors import ExtensionError, MissingExtraError, TokenizerError
from guardtok.extending.compare import _shrink, compare
from guardtok.extending.formats import to_onig, to_tokenizers, write_plugin, write_tokenizer_json
from guardtok.extension import Placement
from guardtok.manifest import write_manifest
from guardtok.placing import Placed
from guardtok.vocabularies import EMBEDDED_PATTERN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BASE = encoding([form for form in APART if len(form) > 1])


def placed(**ids: int) -> list[Placed]:
    """Return tokens named `<NAME>` under these ids."""
    return [Placed(f"<{name}>", id_, Placement.APPEND) for name, id_ in ids.items()]


def sparse() -> Tokenizer:
    """Return a tokenizer whose ids are 0, 1, 2, 5, of which the library thinks that 4 comes next."""
    return Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "c": 5}, merges=[("a", "b")]))


def test_the_librarys_own_way_gives_one_id_twice() -> None:
    """The accident that this is for: tokens are counted, and the second new one gets the id of `c`."""
    careless = sparse()
    careless.add_special_tokens(["<x>", "<y>"])
    assert careless.token_to_id("<y>") == careless.token_to_id("c") == 5


@pytest.mark.parametrize("ids", [{"x": 6, "y": 7}, {"x": 3, "y": 4}, {"x": 4, "y": 9}, {"y": 100, "x": 3}], ids=str)
def test_tokens_lie_where_they_were_put(ids: dict[str, int]) -> None:
    """In a vocabulary with gaps too, the old ids stay, and the tokenizer that was given is not changed."""
    base = sparse()
    made = add_tokens(base, placed(**ids))
    assert made.get_vocab() == {"a": 0, "b": 1, "ab": 2, "c": 5} | {f"<{name}>": id_ for name, id_ in ids.items()}
    assert made.encode("ab<x>c<y>").ids == [2, ids["x"], 5, ids["y"]]
    assert base.get_vocab_size() == 4


def test_added_tokens_of_the_base_stay_where_they_are() -> None:
    """A token that goes into the model's vocabulary moves none that the library only counted."""
    base = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    base.add_special_tokens(["<s>", "</s>"])
    made = add_tokens(base, placed(x=9))
    assert made.get_vocab() == {"a": 0, "b": 1, "<s>": 2, "</s>": 3, "<x>": 9}


@pytest.mark.parametrize("inside", [False, True])
def test_a_slot_is_renamed(*, inside: bool) -> None:
    """Whether the slot is an added token alone or stands in the model's vocabulary, its old form is gone."""
    base = Tokenizer(models.BPE(vocab={"a": 0, **({"<unused0>": 1} if inside else {})}, merges=[]))
    base.add_special_tokens(["<unused0>"])
    made = add_tokens(base, [Placed("<x>", 1, Placement.RESERVED, "<unused0>")])
    assert made.get_vocab() == {"a": 0, "<x>": 1}
    assert made.encode("a<x>").ids == [0, 1]
    assert 1 not in made.encode("<unused0>").ids


@pytest.mark.parametrize("form", ["ab", "§"])
def test_a_form_that_the_model_spells_ordinary_text_with_is_refused(form: str) -> None:
    """The library would make the two one; in a byte-level vocabulary `§` is the letter of a byte, and no text."""
    base = to_tokenizers(BASE)
    assert form in base.get_vocab()
    with pytest.raises(ExtensionError, match="form-taken"):
        add_tokens(base, [Placed(form, 2000, Placement.APPEND)])


def test_a_model_without_gaps_cannot_have_one() -> None:
    """A Unigram vocabulary is a list: the next id is to be had, another one is an error."""
    base = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    assert add_tokens(base, placed(x=2)).token_to_id("<x>") == 2
    with pytest.raises(ExtensionError, match="id-unreachable"):
        add_tokens(base, placed(x=5))


def test_what_cannot_be_written_out_is_refused() -> None:
    """A part in Python has no JSON, and a slow tokenizer has no `tokenizers.Tokenizer`."""

    class Upper:
        def normalize(self, text: tokenizers.NormalizedString) -> None:
            text.uppercase()

    base = sparse()
    base.normalizer = normalizers.Normalizer.custom(Upper())  # type: ignore[attr-defined]
    with pytest.raises(TokenizerError, match="cannot write it out"):
        add_tokens(base, placed(x=6))
    with pytest.raises(TokenizerError, match="slow"):
        add_tokens(transformers.PreTrainedTokenizer, placed(x=6))


def test_without_the_library_the_extra_is_named() -> None:
    """A missing package is an error that says what to install."""
    with mock.patch.dict(sys.modules, {"tokenizers": None}):
        with pytest.raises(MissingExtraError, match="hf"):
            to_tokenizers(BASE)
        with pytest.raises(MissingExtraError, match="hf"):
            add_tokens(sparse(), placed(x=6))


def test_fast_tokenizers_of_transformers_keep_their_class(tmp_path: Path) -> None:
    """The copy has the token, the original has not, and what is saved is loaded again under the same id."""
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=to_tokenizers(BASE), bos_token="<|endoftext|>")  # noqa: S106 - no password
    made = add_tokens(fast, placed(x=1010))
    assert is_huggingface(made)
    assert type(made) is type(fast)
    assert (made.convert_tokens_to_ids("<x>"), made.bos_token) == (1010, "<|endoftext|>")
    assert "<x>" not in fast.get_vocab()
    made.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again.encode("a<x>b") == made.encode("a<x>b") == [97, 1010, 98]


def test_both_sides_tokenise_alike() -> None:
    """A tiktoken encoding and its twin in `tokenizers`, extended by the same tokens, are not told apart."""
    tokens = ["<|tool|>", "<|/tool|>"]
    left = extend(BASE, tokens)
    fresh = [Placed(token.form, token.id, token.placement) for token in left.extension.tokens]
    right = add_tokens(to_tokenizers(BASE), fresh)
    assert compare(left.encoding, right) is None
    assert compare(left.tokenizer, right) is None
    only = compare(BASE, right)
    assert only is not None
    assert (only.text, only.right) in {("<|tool|>", (1006,)), ("<|/tool|>", (1007,))}


def twin(*tokens: AddedToken) -> Tokenizer:
    """Return the twin of `BASE` without its tokens, with these."""
    plain = to_tokenizers(encoding(()))
    plain.add_special_tokens(list(tokens))
    return plain


@pytest.mark.parametrize("flags", [{"single_word": True}, {"lstrip": True}, {"rstrip": True}], ids=str)
def test_a_rule_of_one_side_is_shown_by_a_minimal_text(flags: dict[str, Any]) -> None:
    """A token that swallows white space or stands in no word differs in a text of the form and one character."""
    found = compare(twin(AddedToken("<X>", normalized=False)), twin(AddedToken("<X>", normalized=False, **flags)))
    assert found is not None
    assert len(found.text) == len("<X>") + 1
    assert "<X>" in found.text
    assert found.left != found.right


def test_overlaps_differ_in_the_longer_form() -> None:
    """Of `X1` … `X199` tiktoken reads some as a shorter one, and the text that shows it is one of the forms."""
    forms = [f"X{i}" for i in range(1, 200)]
    many = encoding(forms)
    found = compare(many, TiktokenTokenizer(many))
    assert found is not None
    assert found.text in forms
    assert len(found.right) == 1 < len(found.left)
    assert str(found).startswith(f'"{found.text}" is [')


@settings(max_examples=20)
@given(st.lists(st.sampled_from(["<a>", "<b>", "[é]", "<漢>", "||x||"]), min_size=1, unique=True), st.data())
def test_a_planted_difference_is_found(forms: list[str], data: st.DataObject) -> None:
    """Whichever token has another id on one side, a text is found, and no character of it can be left out."""
    ids = {form: 2000 + i for i, form in enumerate(forms)}
    wrong = data.draw(st.sampled_from(forms))

    def made(special: dict[str, int]) -> tiktoken.Encoding:
        return tiktoken.Encoding("x", pat_str=PIECEWISE, mergeable_ranks=BASE._mergeable_ranks, special_tokens=special)

    left, right = made(ids), made(ids | {wrong: 3000})
    found = compare(left, right)
    assert found is not None
    assert found.text == wrong
    assert compare(left, made(ids)) is None


def test_a_shorter_text_of_the_same_characters_is_found() -> None:
    """Where nothing can be taken out of a text, another order of its characters may still do with fewer."""
    assert _shrink("xxabcdxx", lambda text: "abcd" in text or "da" in text) == "da"


def test_what_cuts_and_fills_a_text_is_no_difference() -> None:
    """Truncation and padding are settings of a run; two tokenizers would look alike, or differ, for nothing."""
    plain, cut = to_tokenizers(BASE), to_tokenizers(BASE)
    cut.enable_truncation(1)
    cut.enable_padding(length=7)
    assert compare(plain, cut) is None
    changed = add_tokens(cut, placed(x=2000))
    found = compare(cut, changed)
    assert found is not None
    assert found.text == "<x>"


def test_what_cannot_be_compared() -> None:
    """Something that is no tokenizer is a typed error."""
    with pytest.raises(TokenizerError, match="is no tokenizer"):
        compare(BASE, 5)


@pytest.mark.parametrize(
    ("pattern", "onig"),
    [
        (r"\p{N}{1,3}+", r"(?>\p{N}{1,3})"),
        (r" ?[^\s\p{L}]{1,32}+[\r\n]{0,8}+", r" ?(?>[^\s\p{L}]{1,32})(?>[\r\n]{0,8})"),
        (r"[^\]]{2}+a{1,}+", r"(?>[^\]]{2})(?>a{1,})"),
        (r"\p{L}++|\s+(?!\S)|\p{N}{1,3}", r"\p{L}++|\s+(?!\S)|\p{N}{1,3}"),
    ],
)
def test_possessive_intervals_are_rewritten(pattern: str, onig: str) -> None:
    """`{1,3}+` repeats in Oniguruma; all else is left as it is."""
    assert to_onig(pattern) == onig


def test_digits_are_cut_alike() -> None:
    """Without the rewriting a long number would be one piece; with it both sides cut it in threes."""
    base = load_tokenizer("guardtok")
    assert isinstance(base, TiktokenTokenizer)
    text = "12345678 1234"
    assert to_tokenizers(base.encoding).encode(text).ids == base.encoding.encode(text)
    cut = pre_tokenizers.Split(tokenizers.Regex(EMBEDDED_PATTERN), behavior="isolated")
    assert ("12345678", (0, 8)) in cut.pre_tokenize_str(text)


def test_a_tokenizer_json_is_written_only_if_it_reads_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compared first, here over fewer characters; a converter that errs writes nothing and shows the text."""
    monkeypatch.setattr("guardtok.extending.compare._PLANES", (range(0x1000),))
    made = extend(BASE, ["<|tool|>"], {"<|tool|>": 999})
    with (
        mock.patch("guardtok.extending.formats.to_onig", lambda pattern: pattern.replace(r"\p{L}+", r"\p{L}{1,2}")),
        pytest.raises(TokenizerError, match="would read text differently: "),
    ):
        write_tokenizer_json(made, tmp_path)
    assert list(tmp_path.iterdir()) == []
    [path] = write_tokenizer_json(made, tmp_path)
    assert compare(Tokenizer.from_file(str(path)), made.encoding) is None
    with pytest.raises(FileExistsError):
        write_tokenizer_json(made, tmp_path)


def test_a_plug_in_works_in_a_fresh_process(tmp_path: Path) -> None:
    """With its folder on sys.path tiktoken knows the encoding by name, ids and all; without guardtok."""
    made = extend(BASE, ["<|tool|>", "'\"\\\u2028}{"], name="mine-1.0+x")
    module, ranks = "guardtok_mine_1_0_x.py", "guardtok_mine_1_0_x.tiktoken"
    assert {path.name for path in write_plugin(made, tmp_path)} == {module, ranks}
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import tiktoken; e = tiktoken.get_encoding('mine-1.0+x');"
        "print(e.encode('a<|tool|>\\'\"\\\\\\u2028}{<|endoftext|>', allowed_special='all'), 'guardtok' in sys.modules)"
    )
    run = [sys.executable, "-c", script]
    ids = made.encoding.encode("a<|tool|>'\"\\\u2028}{<|endoftext|>", allowed_special="all")
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == f"{ids} False\n"
    folder = tmp_path / "tiktoken_ext"
    folder.joinpath(ranks).write_bytes(folder.joinpath(ranks).read_bytes()[:-10])
    failed = subprocess.run(run, capture_output=True, text=True, check=False)
    assert "is not the file that was written with this plug-in" in failed.stderr


def test_extend_takes_a_tokenizer_of_huggingfaces() -> None:
    """`extend` checks and places as for tiktoken, guards it, and both sides read alike."""
    tokens = ["<|tool|>", "<|/tool|>"]
    left, right = extend(BASE, tokens), extend(to_tokenizers(BASE), tokens)
    assert left.extension.tokens == right.extension.tokens
    assert compare(left.encoding, right.encoding) is None
    guard = Guard.load("chatml", right, sinks=())
    assert guard.encode("<|tool|>", source="template").ids == [1006]
    assert 1006 not in guard.encode("a<|tool|>b", source="user").ids


def test_a_normaliser_that_makes_two_forms_one_is_found() -> None:
    """Two tokens that are the same text once it is normalised are refused."""
    base = to_tokenizers(BASE)
    base.normalizer = normalizers.NFKC()
    with pytest.raises(ExtensionError, match="form-twice"):
        extend(base, ["<\uff5cab\uff5c>"])


def test_a_tokenizer_json_is_a_base_and_its_manifest_a_tokenizer(tmp_path: Path) -> None:
    """By the file's path or its folder's, and found again from the manifest."""
    to_tokenizers(BASE).save(str(tmp_path / "tokenizer.json"))
    for base, name in ((tmp_path, "one"), (tmp_path / "tokenizer.json", "two")):
        made = extend(base, ["<|tool|>"], name=name)
        again = load_tokenizer(write_manifest(made, tmp_path, str(base)))
        assert again.fingerprint == made.extension.fingerprint
        assert again.control_tokens[-1].form == "<|tool|>"


SLOT = "<|reserved_0|>"


def with_slot() -> Tokenizer:
    """Return a tokenizer with an end of text, 1, and a reserved slot, 2."""
    made = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    made.add_special_tokens(["<|end|>", SLOT])
    return made


def begins_with_slot() -> Tokenizer:
    """Return one that writes its slot in front of every text."""
    made = with_slot()
    made.post_processor = processors.TemplateProcessing(f"{SLOT} $A", None, [(SLOT, 2)])
    return made


def fast(**named: Any) -> Any:  # noqa: ANN401 - as above
    """Return a tokenizer of transformers with these settings."""
    made: Any = transformers.PreTrainedTokenizerFast
    return made(tokenizer_object=with_slot(), **{"eos_token": "<|end|>", **named})


@pytest.mark.parametrize(
    "base",
    [
        begins_with_slot,
        lambda: fast(pad_token=SLOT),
        lambda: fast(chat_template="{{ '" + SLOT + "' }}"),
        lambda: fast(chat_template={"tools": SLOT}),
    ],
    ids=["post-processor", "padding", "template", "templates"],
)
def test_a_slot_that_is_in_use_is_nobodys_to_take(base: Callable[[], Any]) -> None:
    """Its id would mean what it meant and the new token too: the template would write it, the padding would be lost."""
    with pytest.raises(ExtensionError) as caught:
        extend(base(), ["<|tool|>"], "reserved")
    assert [finding.code for finding in caught.value.findings] == ["slot-in-use"]
    assert SLOT not in str(caught.value)


def test_a_slot_that_is_not_in_use_can_be_taken() -> None:
    """In either kind of object."""
    for base in (with_slot(), fast()):
        assert extend(base, ["<|tool|>"], "reserved").extension.tokens[0].replaces == SLOT


def test_a_bound_tokenizer_of_the_library_is_a_base() -> None:
    """It gives what the library's own object gives. What guardtok alone knows of it would be lost, and is refused."""
    bound = HfTokenizer(with_slot())
    made = extend(bound, ["<|tool|>"])
    assert made.extension == extend(with_slot(), ["<|tool|>"]).extension
    assert made.encoding.encode("a<|tool|>").ids == [0, 3]
    for other in (bound.with_custom_tokens({"<|mine|>": 9}), bound.with_text_tokens(["<|end|>"])):
        with pytest.raises(TokenizerError, match="knows nothing of them"):
            extend(other, ["<|tool|>"])
