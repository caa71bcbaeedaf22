"""Texts that a tokenizer is tried on: control forms whole, cut, nested, at borders, disguised, and ordinary text."""

from __future__ import annotations

from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from guardtok.tokenizer import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from guardtok.tokenizer import Tokenizer

_PLAIN = (
    *("a", "word", "Zeilen", "слово", "文字", "\u0e01\u0e33", "e\u0301", "42", "3.14", "ﬁ"),
    *("\U0001f44d\U0001f3fd", "\U0001f469\u200d\U0001f467", "\u200b", "\u00ad", "\ufeff"),
    *(" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\0"),
    *("<", "|", ">", "[", "]", "_", "/", "</", "{'a': [1]}", "<b>", "https://example.org/?q=1"),
)


class Case(NamedTuple):
    """A text that a tokenizer is tried on.

    Attributes:
        shape: How its form is hidden in it.
        text: The text.
        exact: Whether the text spells the form as it is, so that guardtok can find and cut it.
    """

    shape: str
    text: str
    exact: bool


def make_cases(tokenizer: Tokenizer, *, seed: int = 0, cases: int = 200) -> list[Case]:
    """Return the texts that `check_tokenizer` tries: each control form alone, then forms in every shape, then none.

    `ConformanceError` names a text by its place in this list.
    """
    random = Random(seed)  # noqa: S311 - texts to repeat, no secrets
    forms = [token.form for token in tokenizer.control_tokens]
    # Most vocabularies are full of reserved slots, all alike; every second text is about one of the others.
    used = [token.form for token in tokenizer.control_tokens if token.role is not Role.RESERVED] or forms
    made = [Case("alone", form, exact=True) for form in forms]
    shapes = list(_SHAPES.items())
    for number in range(cases):
        shape, write = shapes[number % len(shapes)]
        form = random.choice(random.choice((forms, used))) if forms else "<|no form|>"
        text = write(random, form)
        made.append(Case(shape, text, exact=form in text or shape in {"cut", "half", "plain"}))
    return made


def _plain(random: Random) -> str:
    return "".join(random.choices(_PLAIN, k=random.randrange(9)))


def _cut(random: Random, form: str) -> tuple[str, str]:
    place = random.randrange(len(form)) if len(form) > 1 else 0
    return form[:place], form[place:]


def _around(random: Random, form: str) -> str:
    return _plain(random) + form + _plain(random)


def _nested(random: Random, form: str) -> str:
    left, right = _cut(random, form)
    return left + form + right


def _insert(random: Random, form: str) -> str:
    left, right = _cut(random, form)
    return _plain(random) + left + random.choice(("\u200b", "\u00ad", "\ufe0f", "\u2060", "\U000e0041")) + right


def _widen(_: Random, form: str) -> str:
    return "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in form)


_SHAPES: Mapping[str, Callable[[Random, str], str]] = MappingProxyType(
    {
        "around": _around,
        "in a word": lambda random, form: random.choice("aé文") + form + random.choice("aé文"),
        "between spaces": lambda random, form: random.choice(" \t\n\u3000") + form + random.choice(" \t\n\u3000"),
        "doubled": lambda _, form: form + form,
        "nested": _nested,
        "cut": lambda random, form: (random.choice(_PLAIN)).join(_cut(random, form)) + _plain(random),
        "half": lambda random, form: _plain(random) + _cut(random, form)[0],
        "invisible inside": _insert,
        "full-width": _widen,
        "other case": lambda _, form: form.swapcase(),
        "plain": lambda random, _: _plain(random) + _plain(random),
    }
)
