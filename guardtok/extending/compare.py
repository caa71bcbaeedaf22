"""Two tokenizers, text for text: the shortest string that they read differently, or none that was found.

One vocabulary lives in several libraries: tiktoken in the data pipeline, tokenizers in training, a third in serving.
Where they disagree the model reads what nobody wrote. The search goes where they do: around the forms of tokens.
"""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guardtok.extending.built import CONTEXTS
from guardtok.extending.corpus import CORPUS
from guardtok.extending.reading import reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_PAIRED = 48
"""So many forms are tried in pairs; of more, a sample."""

_RANDOM = 3000
_PIECES = 6
_TRIED = 20_000
_SWEEP = 512
_PLANES = (range(0x40000), range(0xE0000, 0xE1000), range(0xF0000, 0xF0200))
"""Where Unicode has characters, or may soon, and some of the private ones; planes 4 to 13 are empty."""

_SURROGATES = range(0xD800, 0xE000)


@dataclass(frozen=True, slots=True)
class Difference:
    """A text that two tokenizers read differently, and from which no character can be taken.

    Attributes:
        text: The text. It may spell control tokens.
        left: The ids that the first one makes.
        right: The ids that the second one makes.
        names: What the two are called.
    """

    text: str
    left: tuple[int, ...]
    right: tuple[int, ...]
    names: tuple[str, str]

    def __str__(self) -> str:
        one, other = self.names
        return f"{json.dumps(self.text)} is {list(self.left)} to {one} and {list(self.right)} to {other}"


def compare(left: object, right: object, *, every_character: bool = False) -> Difference | None:
    """Look for a text that two tokenizers read differently when every token is parsed.

    What is tried: each form, alone, doubled, without its first or last character, in 16 contexts, with white space and
    letters beside it; pairs of up to 48 forms, whole and run into each other; samples of ordinary text; three thousand
    random strings of such pieces, the same ones each time. None is a proof over these, not over all strings.

    Args:
        left: A `tiktoken.Encoding`, a `tokenizers.Tokenizer`, a fast tokenizer of transformers, or a guardtok
            tokenizer, which is read leftmost-longest.
        right: Another one.
        every_character: Also try every character of Unicode's planes 0 to 3 and 14 between letters, digits and spaces;
            takes seconds.

    Raises:
        TokenizerError: One of them is no tokenizer, or its library fails.
    """
    one, other = reading(left), reading(right)

    def differ(text: str) -> bool:
        return one.encode(text) != other.encode(text)

    forms = sorted({*one.forms, *other.forms})
    for text in itertools.chain(_texts(forms), _characters() if every_character else ()):
        if differ(text):
            short = _shrink(text, differ)
            return Difference(short, tuple(one.encode(short)), tuple(other.encode(short)), (one.name, other.name))
    return None


def _texts(forms: Sequence[str]) -> Iterator[str]:
    yield from CORPUS
    for form in forms:
        yield from (form, form + form, form[1:], form[:-1], form[:-1] + form, form + form[1:])
        yield from (left + form + right for left, right in CONTEXTS)
    step = max(1, -(-len(forms) // _PAIRED))
    for first, second in itertools.product(forms[::step], repeat=2):
        yield from (first + second, first + " " + second, first[: len(first) // 2] + second, first + second[1:])
    chance = random.Random(0)  # noqa: S311 - the same strings each time
    halves = [form[:cut] for form in forms[::step] for cut in (1, len(form) // 2)]
    pieces = [*forms, *halves, *(text[:9] for text in CORPUS), *(side for pair in CONTEXTS for side in pair)]
    for _ in range(_RANDOM):
        yield "".join(chance.choices(pieces, k=_PIECES))


def _characters() -> Iterator[str]:
    for first in itertools.chain(*(range(plane.start, plane.stop, _SWEEP) for plane in _PLANES)):
        characters = [chr(point) for point in range(first, first + _SWEEP) if point not in _SURROGATES]
        yield "".join(f"a{char}b 1{char}2 {char} {char}{char}\n" for char in characters)


def _shrink(text: str, differ: Callable[[str], bool]) -> str:
    """Return what is left when nothing more can be taken out, or a shorter string of the same characters."""
    size = len(text) // 2
    while size:
        at = 0
        while at < len(text):
            without = text[:at] + text[at + size :]
            if differ(without):
                text = without
            else:
                at += size
        size //= 2
    # Taking out one character can make a difference vanish that comes back with the next: once more, until it stays.
    for at in range(len(text)):
        if differ(text[:at] + text[at + 1 :]):
            return _shrink(text[:at] + text[at + 1 :], differ)
    alphabet = sorted(set(text))
    for length in range(1, len(text)):
        if len(alphabet) ** length > _TRIED:
            break
        for letters in itertools.product(alphabet, repeat=length):
            if differ("".join(letters)):
                return "".join(letters)
    return text
