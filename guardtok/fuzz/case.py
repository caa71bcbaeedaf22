"""`Case`, one input, and what became of it; both travel as JSON between processes and into vectors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from guardtok.fuzz.attacks import ATTACKS, Oracle
from guardtok.fuzz.bodies import BODIES
from guardtok.fuzz.shapes import CHATS

TEXT = "text"
"""The shape of a case that is nothing but a text."""

THREADS = "threads"
"""The shape of a case whose parts are encoded by several threads at once."""

GROWTH = "growth"
"""The shape of a case that is encoded at several lengths, and timed."""

BATCH = "batch"
"""The shape of a case whose parts are one batch."""

IDS = "ids"
"""The shape of a case whose text is encoded, decoded and encoded again."""

SHAPES = (TEXT, THREADS, GROWTH, BATCH, IDS, *BODIES, *CHATS)

MAX_CHARACTERS = 16_000_000
"""Characters of the longest text that a case may stand for: some bytes of JSON could be any number."""


@dataclass(frozen=True, slots=True)
class Case:
    """One input.

    Attributes:
        attack: The attack class, a key of `ATTACKS`.
        shape: Where the parts go: `text`, or a name out of `guardtok.fuzz.shapes`.
        parts: The untrusted text, as it is cut over parts, messages or chunks.
        form: The control token that the text carries; empty where it carries none.
        repeat: How many times the text stands in a row.
    """

    attack: str
    shape: str
    parts: tuple[str, ...]
    form: str = ""
    repeat: int = 1

    @property
    def text(self) -> str:
        """The text in one piece."""
        return "".join(self.parts) * self.repeat

    def inert(self) -> Case:
        """Return a case of the same shape with nothing in it: a letter for each part that is more than white space."""
        parts = tuple("x" if part.strip() else part for part in self.parts)
        return Case(self.attack, self.shape, parts, "", self.repeat)

    def to_dict(self) -> dict[str, Any]:
        """Return the case as plain JSON values."""
        return {
            "attack": self.attack,
            "shape": self.shape,
            "parts": list(self.parts),
            "form": self.form,
            "repeat": self.repeat,
        }

    def to_json(self) -> str:
        r"""Return the case as one line of JSON in which all but letters, digits and blanks of texts is `\uXXXX`.

        So nothing in it can be obeyed, and no form with a sign in it is spelled; the first character of any other is
        an escape too.
        """
        texts = [self.form, *self.parts]
        form, *parts = (_escape(text, self.form) for text in texts)
        return (
            f'{{"attack": {json.dumps(self.attack)}, "shape": {json.dumps(self.shape)}, '
            f'"parts": [{", ".join(parts)}], "form": {form}, "repeat": {self.repeat}}}'
        )

    @classmethod
    def from_dict(cls, values: object) -> Case:
        """Return the case that JSON values describe.

        Raises:
            ValueError: They describe none.
        """
        if not isinstance(values, dict):
            raise ValueError("A case is a mapping.")  # noqa: TRY004 - one error for whatever a file may hold
        attack, shape, parts = str(values.get("attack")), values.get("shape", TEXT), values.get("parts")
        form, repeat = values.get("form", ""), values.get("repeat", 1)
        if attack not in ATTACKS or shape not in SHAPES or not isinstance(form, str):
            raise ValueError("A case names its attack class, its shape and its form.")
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise ValueError("The parts of a case are a list of strings.")
        if type(repeat) is not int or repeat < 1 or repeat * sum(map(len, parts)) > MAX_CHARACTERS:
            raise ValueError(f"A case is repeated once or more, and has no more than {MAX_CHARACTERS:,} characters.")
        if not any(parts) and (shape == GROWTH or not parts):
            raise ValueError("A case has a part, and one that grows has text.")
        return cls(attack, shape, tuple(parts), form, repeat)


def _escape(text: str, form: str) -> str:
    # A form of letters alone is spelled by letters, so all of its letters are escaped.
    spelling = set(form) if form.isalnum() else set()
    made = [
        char if char.isascii() and (char.isalnum() or char == " ") and char not in spelling else _as_escape(char)
        for char in text
    ]
    return '"' + "".join(made) + '"'


def _as_escape(char: str) -> str:
    return "".join(f"\\u{unit:04x}" for unit in memoryview(char.encode("utf-16-le", "surrogatepass")).cast("H"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one oracle found in one case.

    Attributes:
        oracle: Which oracle.
        cause: What is wrong, in words that say nothing of the input: findings with one cause are one finding.
        expected: What should have come out.
        got: What came out.
        ids: The ids that the text became, the first of them.
    """

    oracle: Oracle
    cause: str
    expected: str = ""
    got: str = ""
    ids: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain JSON values."""
        return {
            "oracle": self.oracle.value,
            "cause": self.cause,
            "expected": self.expected,
            "got": self.got,
            "ids": list(self.ids),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Outcome:
        """Return the outcome that `to_dict` wrote."""
        return cls(Oracle(values["oracle"]), values["cause"], values["expected"], values["got"], tuple(values["ids"]))
