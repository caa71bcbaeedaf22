"""What an extension adds to a vocabulary: new tokens, where their ids came from, and what they were before.

A model is resized for tokens that somebody else added, perhaps on another machine. So what resizing has to know stands
here, as plain values that can be written down, and no tokenizer is needed to read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Placement(str, Enum):
    """Where a new token's id came from."""

    APPEND = "append"
    """Above every id that the base has."""
    GAP = "gap"
    """An id below the highest one that the base leaves unused."""
    RESERVED = "reserved"
    """The id of a reserved slot (`<|extra_0|>`), whose form the new token replaces."""
    PRESENT = "present"
    """The base has the token already, under this id."""

    # Equal to its string, so it must hash like it; `Enum` would hash the name.
    __hash__ = str.__hash__

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that an extension adds.

    Attributes:
        form: The string that spells it.
        id: Its id.
        placement: Where the id came from.
        pieces: What the base makes of the form as ordinary text: the ids whose rows say what it meant so far.
        replaces: The form of the reserved slot that it takes, or None.
    """

    form: str
    id: int
    placement: Placement
    pieces: tuple[int, ...]
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class Extension:
    """Tokens added to a vocabulary.

    Attributes:
        name: Name of the extended vocabulary.
        base: Name of the vocabulary that was extended.
        tokens: The new tokens, in the order in which they were given.
        base_rows: One more than the base's highest id.
        rows: One more than the highest id now: so many rows a model needs at least.
        base_fingerprint: Fingerprint of the base tokenizer.
        fingerprint: Fingerprint of the extended one.
    """

    name: str
    base: str
    tokens: tuple[NewToken, ...]
    base_rows: int
    rows: int
    base_fingerprint: str
    fingerprint: str
