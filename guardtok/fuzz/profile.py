"""`Profile`: what those who make up cases know of a tokenizer in another process."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of a target.

    Attributes:
        name: Its name, for people.
        library: The library and its version, or `guardtok` for a guard.
        forms: Its control tokens.
        hidden: Those that the library does not call special.
        reserved: Those that are reserved or unused slots.
        media: Those that stand for media.
        turns: Those that make turns.
        words: Some of its ordinary tokens, as text.
        chats: Whether it encodes conversations.
        requests: Whether it guards whole requests.
        notes: What else there is to say of how it was read.
    """

    name: str
    library: str
    forms: tuple[str, ...]
    hidden: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()
    media: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    chats: bool = False
    requests: bool = False
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Profile:
        """Return the profile that `to_dict` wrote."""
        made: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in values.items()}
        return cls(**made)
