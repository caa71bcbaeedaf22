"""One generator for each attack class: a strategy of cases, and a check that a case still carries its payload.

A generator that loses its payload on the way reports success without having attacked. So what is drawn is asked, by
other means than it was made with, whether the token is still in it; cases that are not asked well are counted apart.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from hypothesis import strategies as st

from guardtok.fuzz import strategies as gs
from guardtok.fuzz.attacks import PLAIN
from guardtok.fuzz.bodies import BODIES, PROMPT_IDS
from guardtok.fuzz.case import BATCH, GROWTH, IDS, TEXT, THREADS, Case
from guardtok.fuzz.shapes import FIELDS, PARTED
from guardtok.views.folds import hidden_as, readings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from guardtok.fuzz.profile import Profile

_DEPTH = 4
"""So many times an escape is decoded."""


@dataclass(frozen=True, slots=True)
class Generator:
    """A source of cases.

    Attributes:
        attack: The attack class.
        cases: What draws them.
        carries: Whether a case still carries its payload.
        share: One case of it for so many of the others: what takes seconds is tried less often.
    """

    attack: str
    cases: st.SearchStrategy[Case]
    carries: Callable[[Case], bool]
    share: int = 1


def generators(profile: Profile) -> tuple[Generator, ...]:
    """Return the generators that have something to ask of a target, in the order of the attack classes."""
    return tuple(_generators(profile))


def _generators(profile: Profile) -> Iterator[Generator]:
    own = gs.control_tokens(profile.forms)
    form = st.one_of(own, own, gs.foreign_tokens())
    words = profile.words
    content = ("chat: content", "chat: history", "chat: system") if profile.chats else ()
    parted = PARTED if profile.chats else ()
    bodies = tuple(shape for shape in BODIES if shape != PROMPT_IDS) if profile.requests else ()
    flat = (TEXT, *content, *bodies[:1])
    yield Generator(PLAIN, _plain(words), lambda _: True)
    yield _write("A1", flat, _spells, gs.around(form, words))
    if profile.hidden:
        yield _write("A2", flat, _spells, gs.around(gs.control_tokens(profile.hidden), words))
    yield _write("A3", (TEXT,), _spells, gs.among_words(form, words))
    yield _write("A4", flat, _folds, gs.folded(form, words))
    yield _write("A5", flat, _hides, gs.hidden(form, words))
    yield _write("A6", flat, _spells, gs.spaced(form))
    yield _write("A7", flat, _reassembles, gs.nested(form, words))
    yield _write("A8", flat, _marks, gs.marked(form))
    if profile.chats:
        yield _write("A9", (*content, *parted), _removes, gs.removed(form))
    yield _write("A10", (TEXT, *parted), _spells, gs.cut(form))
    fields = (*(FIELDS if profile.chats else ()), *bodies)
    if fields:
        yield _write("A11", fields, _spells, gs.around(form, words))
    yield _write("A12", flat, _decodes, gs.escaped(form, words))
    yield _write("A13", (TEXT,), _is_odd, gs.odd(form))
    if profile.requests:
        yield _write("A14", (PROMPT_IDS,), _spells, own.map(lambda token: gs.Carrier(token, (token,))))
    yield _write("A15", (IDS,), _spells, gs.around(form, words))
    yield _write("A16", flat, _spells, gs.turns(profile.turns))
    if profile.media:
        yield _write("A18", flat, _spells, gs.around(gs.control_tokens(profile.media), words))
    yield Generator("A19", _long(form), lambda case: case.repeat > 1, share=20)
    yield _write("A20", flat, _obeyed, gs.obeyed(form))
    if profile.reserved:
        yield _write("A21", flat, _spells, gs.around(gs.control_tokens(profile.reserved), words))
    yield _write("A22", (BATCH, TEXT), _spells, gs.documents(form, words))


def _write(
    attack: str, shapes: tuple[str, ...], carries: Callable[[Case], bool], carrier: st.SearchStrategy[gs.Carrier]
) -> Generator:
    cases = st.builds(
        lambda shape, carried: Case(attack, shape, carried.parts, carried.form), st.sampled_from(shapes), carrier
    )
    return Generator(attack, cases, carries)


def _plain(words: tuple[str, ...]) -> st.SearchStrategy[Case]:
    text = gs.plain_text(words)
    return st.one_of(
        st.builds(lambda parts: Case(PLAIN, TEXT, tuple(parts)), st.lists(text, min_size=1, max_size=3)),
        st.builds(lambda row: Case(PLAIN, TEXT, (row,)), gs.code_point_rows()),
        st.builds(
            lambda parts: Case(PLAIN, THREADS, tuple(parts)), st.lists(text, min_size=2, max_size=6, unique=True)
        ),
        st.builds(lambda parts: Case(PLAIN, BATCH, tuple(parts)), st.lists(text, min_size=1, max_size=4)),
    )


def _long(form: st.SearchStrategy[str]) -> st.SearchStrategy[Case]:
    runs = gs.long_runs().map(lambda run: Case("A19", TEXT, (run[0],), "", run[1]))
    forms = form.map(lambda token: Case("A19", TEXT, (token,), token, 500))
    growing = st.one_of(st.sampled_from(gs.RUNS), form).map(lambda unit: Case("A19", GROWTH, (unit,), "", 2))
    return st.one_of(runs, forms, growing)


def _spells(case: Case) -> bool:
    return case.form in case.text


def _folds(case: Case) -> bool:
    """Whether some fold makes the form of the text: NFKC, case, or a table of look-alikes."""
    if case.form in unicodedata.normalize("NFKC", case.text) or case.form.casefold() in case.text.casefold():
        return True
    open_to = [{reading for reading, _ in readings(char)} for char in case.text]
    form = [next(iter(readings(char)))[0] for char in case.form]
    return any(
        all(char in open_to[start + at] for at, char in enumerate(form))
        for start in range(len(open_to) - len(form) + 1)
    )


def _hides(case: Case) -> bool:
    seen = "".join(char for char in case.text if not hidden_as(char))
    form = "".join(char for char in case.form if not hidden_as(char))
    return case.form not in case.text and form in seen


def _reassembles(case: Case) -> bool:
    """Whether the form is there, or taking something out of the text brings it."""
    text = case.text
    return any(
        text.find(case.form[size:], start + size) >= 0
        for size in range(len(case.form))
        for start in [text.find(case.form[:size])]
        if start >= 0
    )


def _marks(case: Case) -> bool:
    return any(sign in case.text for sign in gs.SENTINELS) and _reassembles(case)


def _removes(case: Case) -> bool:
    return any(piece in case.text for piece in gs.REMOVED) and _reassembles(case)


def _decodes(case: Case) -> bool:
    text = case.text
    for _ in range(_DEPTH):
        if case.form in text:
            return True
        text = re.sub(r"\\(?:u(?=....)|x)([0-9a-f]{4}|[0-9a-f]{2})", _unescape, unquote(html.unescape(text)))
    return case.form in text


def _unescape(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))


def _is_odd(case: Case) -> bool:
    return bool(re.search("[\ud800-\udfff\0\ufffe]|<0x[0-9A-F]{2}>", case.text)) or not case.text.isascii()


def _obeyed(case: Case) -> bool:
    return _spells(case) and not case.text.isprintable()
