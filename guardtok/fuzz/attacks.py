"""The attack classes that are tried, the oracles that judge, and what a finding of each means to whoever reads one."""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PLAIN = "plain"
"""The class of text without an attack in it."""

ATTACKS: Mapping[str, str] = MappingProxyType(
    {
        PLAIN: "ordinary text, no attack",
        "A1": "a control token as it is",
        "A2": "tokens that are not special, yet parsed",
        "A3": "tokens among vocabulary words",
        "A4": "tokens that a normaliser makes",
        "A5": "invisible characters inside a token",
        "A6": "white space around a token",
        "A7": "a token that appears when another is removed",
        "A8": "placeholders and sentinels",
        "A9": "a token that appears when a template removes text",
        "A10": "a token cut over parts, messages, chunks",
        "A11": "names, keys and other fields beside the content",
        "A12": "entities, percent and backslash escapes",
        "A13": "surrogates, NUL, spelled bytes",
        "A14": "ids given by the caller",
        "A15": "ids decoded and encoded again",
        "A16": "forged turns, also of other families",
        "A18": "media placeholders",
        "A19": "long runs",
        "A20": "terminal escapes and bidirectional marks",
        "A21": "reserved and unused slots",
        "A22": "documents with separators in them",
        "A23": "the vocabulary itself",
    }
)
"""Every class by its number in the design's threat model. A17, words that merely resemble a token, makes no id."""


class Oracle(str, Enum):
    """What judges a case."""

    LEAK = "leak"
    FORGE = "forge"
    ERASE = "erase"
    ROUND_TRIP = "round trip"
    DRIFT = "drift"
    SPLIT = "split"
    OVERLAP = "overlap"
    CRASH = "crash"
    LOG = "log"

    # Equal to its string, so it must hash like it; `Enum` would hash the name.
    __hash__ = str.__hash__

    def __str__(self) -> str:
        return self.value


MEANING: Mapping[Oracle, str] = MappingProxyType(
    {
        Oracle.LEAK: "Text that was encoded as ordinary text came out with a reserved id: whoever can write this text "
        "can write a control token.",
        Oracle.FORGE: "Where a harmless text of the same shape gives one sequence of control tokens, this text gives "
        "more of them: it can forge a turn or another control token.",
        Oracle.ERASE: "A control token that trusted code wrote is missing beside this text: the text can hide or "
        "swallow it.",
        Oracle.ROUND_TRIP: "The ids do not decode to the text, nor to the tokenizer's own normalised text: something "
        "was lost, added or named by an id that is not in the vocabulary.",
        Oracle.DRIFT: "Two encoders that should agree make different ids of this text, so a model is fed what it was "
        "not trained on, or a check in one is no check in the other.",
        Oracle.SPLIT: "The same text gives other ids or another verdict in a batch, in chunks, in threads, or when it "
        "is asked again.",
        Oracle.OVERLAP: "A registered token is read as another one, or two share an id: what is written is not what "
        "the model gets.",
        Oracle.CRASH: "The text makes the tokenizer fail with an error that it does not declare, end its process, "
        "hang, or take time or memory that grows faster than the text.",
        Oracle.LOG: "What is printed or recorded because of this text holds a control token or something that a "
        "terminal obeys, and logs end up in terminals and prompts.",
    }
)
"""For each oracle, what a finding means."""


def check_attacks(attacks: Iterable[str]) -> tuple[str, ...]:
    """Return attack classes as a tuple.

    Raises:
        ValueError: There is none of such a name: a typing mistake would try nothing and find nothing.
    """
    chosen = (attacks,) if isinstance(attacks, str) else tuple(attacks)
    if unknown := set(chosen).difference(ATTACKS):
        raise ValueError(f"There is no attack class {min(unknown)!r}; there are {', '.join(ATTACKS)}.")
    return chosen
