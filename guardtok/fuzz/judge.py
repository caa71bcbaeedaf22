"""The judge: what every oracle says of one case. It runs beside the tokenizer, in its process.

Nothing of the tokenizer's is trusted: it may raise anything, return anything and change its mind. What a judge says
holds words of its own and ids; what it quotes of a text it quotes in `got` and `expected`, which reports break.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from guardtok.errors import is_failure
from guardtok.fuzz.attacks import Oracle
from guardtok.fuzz.case import Outcome
from guardtok.fuzz.doors import as_ids
from guardtok.fuzz.findings import shown as legible
from guardtok.fuzz.shapes import CHATS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from guardtok.fuzz.case import Case
    from guardtok.fuzz.shapes import Conversation
    from guardtok.tokenizer import RuledTokenizer

SHOWN = 64
"""So many ids of an outcome are kept."""

MAX_SHOWN_TEXT = 400

_Made = TypeVar("_Made")

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_LONE = re.compile("[\ud800-\udfff]")


@dataclass(slots=True)
class Judgement:
    """What became of one case: which oracles were asked, and what they found."""

    ran: set[Oracle] = field(default_factory=set)
    outcomes: list[Outcome] = field(default_factory=list)

    def report(
        self, oracle: Oracle, cause: str, expected: object = "", got: object = "", ids: Sequence[int] = ()
    ) -> None:
        """Keep a finding."""
        self.ran.add(oracle)
        shown = str(expected)[:MAX_SHOWN_TEXT], str(got)[:MAX_SHOWN_TEXT]
        # A class may be called anything, and a cause goes to terminals as it is.
        self.outcomes.append(Outcome(oracle, legible(cause), *shown, tuple(ids[:SHOWN])))

    def call(self, door: str, declared: tuple[type[BaseException], ...], call: Callable[[], _Made]) -> _Made | None:
        """Return what a door returns, or None where it fails; a failure that is not declared is a finding."""
        self.ran.add(Oracle.CRASH)
        try:
            return call()
        except BaseException as error:
            if not is_failure(error):
                raise
            if isinstance(error, MemoryError) or not isinstance(error, declared):
                name = type(error).__name__
                self.report(Oracle.CRASH, f"{door} raises {name}", "ids or a declared error", name)
            return None

    def encode(self, door: str, declared: tuple[type[BaseException], ...], call: Callable[[], Any]) -> list[int] | None:
        """Return the ids that a door makes, or None where it makes none."""
        made = self.call(door, declared, lambda: (call(),))
        return None if made is None else self.listed(door, made[0])

    def listed(self, door: str, made: Any) -> list[int] | None:  # noqa: ANN401 - whatever a door returned
        """Return what a door returned as ids, or None where it is none; a generator may fail only now."""
        try:
            return as_ids(made)
        except BaseException as error:
            if not is_failure(error):
                raise
            name = type(made).__name__
            self.report(Oracle.CRASH, f"{door} returns something else than ids", "a sequence of ints", name)
            return None


def conversation(case: Case) -> Conversation | None:
    """Return the conversation that a case stands for, or None where it is none."""
    build = CHATS.get(case.shape)
    if build is None:
        return None
    return build(tuple(part * case.repeat for part in case.parts))


def leftmost_longest(text: str, forms: Sequence[str]) -> list[tuple[int, str]]:
    """Return where which control token stands in a text: the leftmost first, of those at one place the longest."""
    found: list[tuple[int, str]] = []
    at = 0
    starts = {form[0] for form in forms if form}
    while at < len(text):
        here = [form for form in forms if text.startswith(form, at)] if text[at] in starts else []
        if here:
            longest = max(here, key=len)
            found.append((at, longest))
            at += len(longest)
        else:
            at += 1
    return found


def readings(text: str, rules: RuledTokenizer | None) -> set[bytes]:
    """Return what the ids of a text may decode to: the text, or what the tokenizer's own normaliser leaves of it."""
    if rules is None:
        return {repair(text).encode(), text.encode("utf-8", "surrogatepass")}
    normal = rules.normalize(repair(text)).encode()
    # U+2581 is a blank to SentencePiece and its kin, and a character of its own to all others.
    spaced = normal.replace("\u2581".encode(), b" ")
    return {reading for data in (normal, spaced) for reading in (data, b" " + data, data.removeprefix(b" "))}


def repair(text: str) -> str:
    """Return text with surrogate pairs joined and each lone surrogate replaced by U+FFFD."""
    return _LONE.sub("\ufffd", _PAIR.sub(_join, text))


def _join(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le")
