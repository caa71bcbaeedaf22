"""Forms in disguise: found under every view, alone and stacked, where they stand, and nowhere else."""

from __future__ import annotations

import json
import sys
import urllib.parse
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ordinary import ORDINARY

from guardtok.dialects import catalogue
from guardtok.errors import ViewError
from guardtok.reference_views import disguises
from guardtok.views import find_disguised, prepare, search
from guardtok.views.escapes import read
from guardtok.views.folds import View, fold_case, hidden_as, name_views, originals, readings, views_needed
from guardtok.views.lookout import views_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardtok.views import Lookout

FORMS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|endoftext|>",
    "<think>",
    "</think>",
    "[INST]",
    "[/INST]",
    "<tool_response>",
    "<TOOL_RESPONSE>",
    "<\uff5cUser\uff5c>",
    "<|user|>",
    "]<]start of image[>[",
    "<s>",
    "</s>",
    "### System:",
    "<|reserved_12|>",
)
COMMON = frozenset({"<s>", "</s>"})
WIDE = [form for form in FORMS if views_for(form, common=form in COMMON) & View.CASE]
MAX_HIDDEN = 3

FULL_WIDTH = {chr(code): chr(code + 0xFEE0) for code in range(0x21, 0x7F)}
ENTITIES = {"<": "&lt;", ">": "&gt;", "|": "&vert;", "[": "&lsqb;", "]": "&rsqb;", "/": "&sol;", "_": "&lowbar;"}


@cache
def lookout() -> Lookout:
    """Return what looks for `FORMS`."""
    return prepare(((form, form in COMMON) for form in FORMS), MAX_HIDDEN)


@cache
def catalogue_lookout() -> Lookout:
    """Return what looks for the whole catalogue."""
    return prepare(((form, entry.common) for form, entry in catalogue().items()), 64)


def exact_in(text: str) -> list[tuple[int, int, int]]:
    """Return the exact matches, as the scan would."""
    return [(i, at, at + len(f)) for i, f in enumerate(FORMS) for at in range(len(text)) if text.startswith(f, at)]


def found_in(text: str) -> list[tuple[str, int, int, str]]:
    """Return the disguises of `FORMS` in a text: form, start, end, view."""
    found = find_disguised(text, text.encode(), exact_in(text), lookout())
    return [(FORMS[each.form], *each[1:4]) for each in found if not each.inner]


def names_in(text: str) -> set[tuple[str, str]]:
    """Return form and view of the catalogue's disguises in a text, where exact forms are not looked for."""
    forms = list(catalogue())
    return {(forms[each.form], each.view) for each in find_disguised(text, text.encode(), [], catalogue_lookout())}


@st.composite
def disguised(draw: st.DrawFn, views: int) -> tuple[str, str, set[str]]:
    """Draw a form, a disguise of it under the given views, and the names of the views that it used."""
    form = draw(st.sampled_from(WIDE))
    kinds = [view for view in View if view & views]
    used: set[str] = set()
    spelled: list[str] = []
    for at, char in enumerate(form):
        # The first character is disguised, so that there is a disguise.
        todo = kinds if at == 0 else [kind for kind in kinds if draw(st.booleans())]
        piece = char
        for kind in sorted(todo, key=_order):
            after = _disguise(piece, kind, draw, last=at == len(form) - 1)
            if after != piece:
                used.add(kind.name.lower())
            piece = after
        spelled.append(piece)
    return form, "".join(spelled), used


def _order(view: View) -> int:
    """Fold characters before they are escaped, and put what is hidden beside what stands there then."""
    return [
        View.CASE,
        View.WIDTH,
        View.CONFUSABLE,
        View.JSON,
        View.ENTITY,
        View.PERCENT,
        View.INVISIBLE,
        View.WHITESPACE,
    ].index(view)


def _disguise(piece: str, kind: View, draw: st.DrawFn, *, last: bool) -> str:  # noqa: PLR0911 - one for each view
    match kind:
        case View.CASE:
            return piece.swapcase() if piece.isascii() else piece
        case View.WIDTH:
            return FULL_WIDTH.get(piece, piece)
        case View.CONFUSABLE:
            similar = [
                other for other, seen in originals().items() if piece in seen and not readings(other)[0][1] & View.WIDTH
            ]
            return draw(st.sampled_from(similar)) if similar else piece
        case View.JSON:
            return (
                draw(st.sampled_from([json.dumps(piece)[1:-1], f"\\u{ord(piece):04X}", f"\\u{{{ord(piece):x}}}"]))
                if len(piece) == 1 and ord(piece) < 0x10000
                else piece
            )
        case View.ENTITY:
            return "".join(
                draw(st.sampled_from([f"&#{ord(c)};", f"&#x{ord(c):X};", ENTITIES.get(c, f"&#0{ord(c)};")]))
                for c in piece
            )
        case View.PERCENT:
            return (
                "".join(f"%{byte:02x}" for byte in piece.encode())
                if draw(st.booleans())
                else urllib.parse.quote(piece, safe="")
            )
        case View.INVISIBLE:
            return (
                piece
                if last
                else piece
                + draw(st.text("\u200b\u200d\u00ad\ufe0f\u034f\U000e0041\x00", min_size=1, max_size=MAX_HIDDEN - 1))
            )
        case View.WHITESPACE:
            return piece if last else piece + draw(st.sampled_from([" ", "\n", "\u00a0", "\u3000", "\t"]))
    raise AssertionError(kind)


PAIRS = [one | other for one in View for other in View if one <= other]
CLEAN = st.text("ab \u043f\u4e2d.\n\ufb01", max_size=12)


@pytest.mark.parametrize("views", PAIRS, ids=name_views)
def test_every_disguise_is_found(views: int) -> None:
    """A form disguised under one view or two is found with its exact span, and the name says what was used."""

    @given(disguised(views), CLEAN, CLEAN)
    def check(drawn: tuple[str, str, set[str]], before: str, after: str) -> None:
        form, spelled, used = drawn
        text = before + spelled + after
        if spelled in FORMS:
            return
        found = [each for each in found_in(text) if (each[1], each[2]) == (len(before), len(before) + len(spelled))]
        names = {each[0] for each in found}
        assert form in names or fold_case(form) in map(fold_case, names)
        view = next(each[3] for each in found if fold_case(each[0]) == fold_case(form))
        assert set(view.split("+")) <= used | {"case"} | ({"width"} if " " in form else set())

    check()


PIECES = [
    *FORMS,
    *("<", "|", "im_", "start", "end", "IM_", ">", "[", "]", "/", "inst", "think", "User", "response>", "<Tool_"),
    *("<|im_", "m_prefix|>", "]<]start", "of", "### ", "system:", "1", "2", "reserved_"),
    *(" ", "\n", "  ", "\u200b", "\u200b" * 4, "\x00", "\u00ad"),
    *("\uff1c", "\uff5c", "\uff1e", "\uff53", "\u0456", "\u2039", "\ufb01", "\u017f", "\U0001d236"),
    *("&lt;", "&", "amp;", "&#60", ";", "lt", "%3C", "%", "25", "3c", "%7", "C", "%ef%bc%9c"),
    *("\\", "\\u003c", "u003c", "\\x3c", "\\u", "003c", "\\n", "\\/", "\\ud834\\ude36", "u{3c}"),
]
SOUP = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def produced(text: str) -> set[tuple[int, int, int, str, bool]]:
    """Return what production finds."""
    found = find_disguised(text, text.encode(), exact_in(text), lookout())
    return {(*each[:4], each.inner) for each in found}


def expected(text: str) -> set[tuple[int, int, int, str, bool]]:
    """Return what the specification finds."""
    forms = {index: (form, views_for(form, common=form in COMMON)) for index, form in enumerate(FORMS)}
    return disguises(text, exact_in(text), forms, MAX_HIDDEN)


@given(SOUP)
@example("<|im_" + "\u200b" * 4 + "end|>")
@example("\\\\\\\\u003c|im_end|>")
@example("]<]start  of\u00a0image[>[")
@example("\\\\u003cu003c\\x3c")
def test_production_is_the_specification(text: str) -> None:
    """On soups of pieces of forms and escapes the automata miss nothing that trying every form everywhere finds."""
    assert produced(text) == expected(text)


@given(SOUP, st.sampled_from([1, 10**9]), st.sampled_from([1, 10**9]))
def test_every_way_to_search_finds_the_same(text: str, sparse: int, dense: int) -> None:
    """Whether the text is searched as it is, by its shape or without its white space changes nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_SPARSE", sparse)
        patch.setattr(search, "_DENSE", dense)
        found = produced(text)
    assert found == expected(text)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_not_flagged(text: str) -> None:
    """Code, markup, tables, scripts that need joiners, full-width text: none holds a look-alike of the catalogue's."""
    assert names_in(text) == set()


@pytest.mark.parametrize(
    ("text", "form", "start", "end", "view"),
    [
        ("\ufb01\uff1c\uff5c\ufb01m_prefix\uff5c\uff1e\ufb01", "<|fim_prefix|>", 1, 14, "width"),
        ("a &amp;amp;lt;|im_end|&amp;gt; b", "<|im_end|>", 2, 30, "entity"),
        ("%26%6c%74%3b|im_end|>", "<|im_end|>", 0, 21, "entity+percent"),
        ("%253C%257Cim_end|>", "<|im_end|>", 0, 18, "percent"),
        ("\\\\\\u003c|im_end|>", "<|im_end|>", 0, 17, "json"),
        ("\\ud834\\ude36|im_end|>", "<|im_end|>", 0, 21, "json+confusable"),
        ("<\\/think>", "</think>", 0, 9, "json"),
        ("&#60|im_end|&#x3e.", "<|im_end|>", 0, 17, "entity"),
        ("\uff1c/s\uff1e", "</s>", 0, 4, "width"),
        ("<|im_\u200b\u200b\u200b\u200bend|>", "<|im_start|>", 0, 9, "hidden_run"),
        ("<\u017f>", "<s>", 0, 3, "width"),
    ],
)
def test_a_disguise_is_named_and_placed(text: str, form: str, start: int, end: int, view: str) -> None:
    """Spans cover the source characters of escapes and ligatures, and the name says what folds them."""
    assert found_in(text) == [(form, start, end, view)]


def test_an_exact_form_is_no_lookalike() -> None:
    """What the scan finds is not found again, not even as a look-alike of a form that differs in case alone."""
    assert found_in("<tool_response><|im_end|><\uff5cUser\uff5c>") == []


def test_forms_of_one_spelling_are_all_named() -> None:
    """A look-alike of two forms is returned for each, the one that takes fewer views first."""
    assert found_in("<Tool_Response>") == [("<tool_response>", 0, 15, "case"), ("<TOOL_RESPONSE>", 0, 15, "case")]
    assert found_in("<\uff5cUs er\uff5c>") == [
        ("<\uff5cUser\uff5c>", 0, 9, "whitespace"),
        ("<|user|>", 0, 9, "width+case+whitespace"),
    ]


def test_white_space_alone_is_no_hidden_run() -> None:
    """A bracket before an indented line is ordinary; more white space than `max_hidden` ends a form."""
    assert found_in("[" + " " * 500 + "INST]") == []
    assert found_in("[" + " " * MAX_HIDDEN + "INST]") == [("[INST]", 0, 6 + MAX_HIDDEN, "whitespace")]


def test_a_view_that_raises_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error inside a view is a ViewError without the text in it, never a pass."""

    def fail(*_: object) -> None:
        raise RuntimeError("secret <|im_start|>")

    monkeypatch.setattr(search, "_step", fail)
    with pytest.raises(ViewError) as caught:
        found_in("< |im_end|>")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@given(st.text("&%\\#;x3c<lt0u{}gamp", max_size=40))
def test_escapes_always_move_on(text: str) -> None:
    """Reading any soup of introducers ends, behind where it began, with one character."""
    at = 0
    while at < len(text):
        char, end, _ = read(text, at)
        assert len(char) == 1
        assert at < end <= len(text)
        at = end


@given(st.characters(exclude_categories=["Cs"]))
def test_a_reading_explains_itself(char: str) -> None:
    """A character read as itself needs no view, and what it is read as by another view needs that view."""
    assert views_needed(char, 0, char) == 0
    for target, reading in readings(char):
        assert views_needed(char, reading, target) & ~View.CASE == reading


def test_what_is_hidden() -> None:
    """Every kind of character that nobody sees may be left out, and no letter, mark or symbol."""
    hidden = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f\u115f\u180e\ufe0f\u202e\U000e0041\U000e0100\x00\x1b\u2800"
    assert {hidden_as(char) for char in hidden} == {View.INVISIBLE}
    assert {hidden_as(char) for char in " \n\t\u00a0\u3000\u2003\u2028\x85"} == {View.WHITESPACE}
    assert {hidden_as(char) for char in "a\u0301<\u0915\u094d\U0001f600"} == {0}


def worst_cases(size: int) -> Iterator[tuple[str, str]]:
    """Yield name and text of what an attacker would send, of a size."""
    yield "joiners", "<|im_" + "\u200b" * size + "end|>"
    yield "nested", "<|im_" * (size // 10) + "end|>" * (size // 10)
    yield "entities", "&" + "amp;" * (size // 4) + "lt;|im_end|>"
    yield "percent", "%" + "25" * (size // 2) + "3C|im_end|>"
    yield "backslashes", "\\" * size + "u003c|im_end|>"
    yield "heads", "\uff1c\uff5c" * (size // 2)
    yield "disguises", "<|IM_END|>" * (size // 10)
    yield "introducers", "&%\\" * (size // 3)
    yield "spaces", "< |im_ " * (size // 7)


@pytest.mark.parametrize("name", [name for name, _ in worst_cases(10)])
def test_the_work_is_linear(name: str) -> None:
    """Twice the worst text makes at most about twice the calls, which no busy machine disturbs."""
    small, large = (_count_calls(dict(worst_cases(size))[name]) for size in (4_000, 8_000))
    assert large <= 2.3 * small + 200


def _count_calls(text: str) -> int:
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    data, matches = text.encode(), exact_in("")
    lookout()
    sys.setprofile(count)
    try:
        find_disguised(text, data, matches, lookout())
    finally:
        sys.setprofile(None)
    return calls
