"""What a review of huggingface's tokenizers behind guardtok found, each as the fact that holds now."""

from __future__ import annotations

import pytest
from hf_tokenizers import build
from tokenizers import AddedToken, normalizers

from guardtok.adapters.hf import HfTokenizer
from guardtok.errors import RefusedError
from guardtok.guard import Guard
from guardtok.policy import parse_policy
from guardtok.text import Text

QUIET = "foreign: ignore, lookalikes: ignore, surrogates: replace"
ALLOW = parse_policy(f'{{guardtok: 1, {QUIET}, sources: {{"*": {{default: allow}}}}}}')
ESCAPE = parse_policy(f'{{guardtok: 1, {QUIET}, sources: {{template: {{default: allow}}, "*": {{default: escape}}}}}}')
BLOCK = parse_policy(f'{{guardtok: 1, {QUIET}, sources: {{template: {{default: allow}}, "*": {{default: block}}}}}}')
STRIP = parse_policy(f'{{guardtok: 1, {QUIET}, sources: {{template: {{default: allow}}, "*": {{default: strip}}}}}}')


def test_a_form_that_is_normal_already_is_the_token() -> None:
    """Where case is folded and `<T>` was added, the library parses `<t>` too, which no normaliser changes."""
    tokenizer = build("byte-level under NFKC and lower case", AddedToken("<T>", normalized=True))
    wrapped = HfTokenizer(tokenizer)
    ids = tokenizer.encode("a <t>", add_special_tokens=False).ids
    assert ids[-1] == tokenizer.token_to_id("<T>")
    assert Guard(ALLOW, wrapped, sinks=()).encode("a <t>", source="user").ids == ids
    text = Text("a ", source="user") + Text("<t>", source="template")
    assert Guard(ESCAPE, wrapped, sinks=()).encode(text).ids == ids
    assert Guard(ESCAPE, wrapped, sinks=()).sanitize("a <t>", source="user").text == "a <_t>"
    with pytest.raises(RefusedError):
        Guard(BLOCK, wrapped, sinks=()).encode("a <t>", source="user")


def test_parts_of_one_source_are_one_stretch() -> None:
    """How a source's text is cut changes nothing: here a token that Llama's normaliser hides behind other text."""
    tokenizer = build("llama", AddedToken("<T>", normalized=True))
    guard = Guard(ESCAPE, HfTokenizer(tokenizer), sinks=())
    parts = Text("> a", source="template", path="a") + Text("<T>", source="template", path="b")
    expected = tokenizer.encode(str(parts), add_special_tokens=False).ids
    assert tokenizer.token_to_id("<T>") not in expected
    assert guard.encode(parts + Text("", source="user")).ids == expected


def test_a_neighbour_cannot_put_a_shorter_token_in_the_place_of_a_longer() -> None:
    """The mark would unmake `<ab>`, and leave the `ab` in it, which is a token too."""
    tokenizer = build("byte-level under NFC", AddedToken("<ab>", normalized=True), AddedToken("ab", normalized=True))
    text = Text("<ab>", source="template") + Text("\u0338", source="user")
    ids = tokenizer.encode(str(text), add_special_tokens=False).ids
    assert tokenizer.token_to_id("ab") in ids
    out = Guard(ESCAPE, HfTokenizer(tokenizer), sinks=()).encode(text)
    assert out.ids[0] == tokenizer.token_to_id("<ab>")
    assert tokenizer.token_to_id("ab") not in out.ids


@pytest.mark.parametrize("form", ["</s>\n", "\n</s>"])
def test_a_token_swallows_no_white_space_out_of_another_s_token(form: str) -> None:
    """Both may be written; the one that strips is looked for first, and would leave the other one incomplete."""
    strips = AddedToken("<think>", lstrip=True, rstrip=True)
    tokenizer = build("byte-level", AddedToken(form, normalized=True), strips)
    token_id, think = tokenizer.token_to_id(form), tokenizer.token_to_id("<think>")
    own, other = Text(form, source="template"), Text("<think>", source="assistant")
    guard = Guard(ALLOW, HfTokenizer(tokenizer), sinks=())
    assert guard.encode(own + other).ids == [token_id, think]
    assert guard.encode(other + own).ids == [think, token_id]
    # What one source writes itself means what it means in the library.
    for text in (form + "<think>", "<think>" + form):
        assert guard.encode(text, source="user").ids == tokenizer.encode(text, add_special_tokens=False).ids


def test_a_token_is_found_between_many_cuts() -> None:
    """What is stripped beside it, with U+FFFD in some gaps, moves it; marks would unmake it."""
    tokenizer = build("byte-level under NFC", AddedToken("<T>", normalized=True), AddedToken("<x>", normalized=True))
    guard = Guard(STRIP, HfTokenizer(tokenizer), sinks=())
    turn = Text("<T>", source="template") + Text("\u0338a<<x>b<x>", source="user")
    out = guard.encode(Text("", source="user").join([turn] * 9))
    token_id = tokenizer.token_to_id("<T>")
    between = tokenizer.encode("\u0338a<\ufffdb", add_special_tokens=False).ids
    assert out.ids == [token_id, *between] * 9
    assert [source for id_, source in zip(out.ids, out.sources, strict=True) if id_ == token_id] == [{"template"}] * 9


@pytest.mark.parametrize(
    ("kind", "normalizer", "form", "text"),
    [
        ("bert", None, "<turn>", "a <t\u00farn> b"),
        ("bert", None, "<turn>", "a <tu\u0301rn> b"),
        ("bert", None, "<turn>", "<turn\u0327>"),
        ("byte-level under NFKC and lower case", None, "<\u00e9>", "a <E\u0301>"),
        ("byte-level", normalizers.Replace("@", "<"), "<s>", "a @s>"),
        ("byte-level", normalizers.Replace("~", ""), "<s>", "a <~~s>"),
    ],
)
def test_a_stream_holds_back_what_the_normaliser_may_make_a_form_of(
    kind: str, normalizer: normalizers.Normalizer | None, form: str, text: str
) -> None:
    """An accent, a mark, a letter that no other fold would take for the form's own: however it is cut."""
    tokenizer = build(kind, AddedToken(form, normalized=True))
    tokenizer.normalizer = normalizer or tokenizer.normalizer
    assert tokenizer.token_to_id(form) in tokenizer.encode(text).ids
    guard = Guard(ESCAPE, HfTokenizer(tokenizer), sinks=())
    whole = guard.sanitize(text, source="user").text
    assert tokenizer.token_to_id(form) not in tokenizer.encode(whole).ids
    for chunks in [(text[:cut], text[cut:]) for cut in range(len(text))] + [tuple(text)]:
        stream = guard.stream(source="user")
        assert "".join(map(stream.feed, chunks)) + stream.finish() == whole


def test_a_stream_holds_no_more_back_than_what_may_become_a_form() -> None:
    """Whole words go on at once, and so does what a form cannot go on from."""
    tokenizer = build("bert", AddedToken("<turn>", normalized=True))
    stream = Guard(ESCAPE, HfTokenizer(tokenizer), sinks=()).stream(source="user")
    assert stream.feed("a word, \u00e9t\u00e9 ") == "a word, \u00e9t\u00e9 "
    assert stream.feed("<t\u00fa") == ""
    assert stream.feed("be> ") == "<t\u00fabe> "


@pytest.mark.parametrize("dropped", [0, 1, 5, 50, 5000])
def test_a_form_over_a_seam_is_found_however_much_the_normaliser_drops_in_it(dropped: int) -> None:
    """Two clean texts that together become a token are no clean text."""
    tokenizer = build("byte-level", AddedToken("<s>", normalized=True))
    tokenizer.normalizer = normalizers.Replace("~", "")
    guard = Guard(ESCAPE, HfTokenizer(tokenizer), sinks=())
    left, right = "x" * 400 + "<" + "~" * dropped, "~" * dropped + "s>" + "y" * 400
    assert tokenizer.token_to_id("<s>") in tokenizer.encode(left + right).ids
    joined = guard.sanitize(left, source="user") + guard.sanitize(right, source="user")
    assert tokenizer.token_to_id("<s>") not in tokenizer.encode(joined.text).ids
    assert joined.restore() == left + right


def test_who_may_write_the_unknown_token_has_it_as_the_library_does() -> None:
    """Here the model makes it, for a word stands beside it; for anybody else it is cut apart."""
    tokenizer = build("unigram, never", AddedToken("<unk>", single_word=True))
    ids = tokenizer.encode("a<unk>", add_special_tokens=False).ids
    assert ids[-1] == tokenizer.token_to_id("<unk>")
    wrapped = HfTokenizer(tokenizer)
    assert Guard(ALLOW, wrapped, sinks=()).encode("a<unk>", source="user").ids == ids
    guard = Guard(ESCAPE, wrapped, sinks=())
    assert guard.encode("a<unk>", source="template").ids == ids
    assert ids[-1] not in guard.encode("a<unk>", source="user").ids
    both = Text("a", source="user") + Text("<unk>", source="template")
    assert guard.encode(both).ids == ids
