"""What guardtok asks of a tokenizer.

The interface has two doors to ids and no third: text goes through `encode_ordinary`, which must not parse anything, and
a control token is one id out of `control_tokens`. guardtok never hands a tokenizer a text in which something may be
parsed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

Ids: TypeAlias = "list[int] | npt.NDArray[np.uint32]"
"""Ids as a tokenizer gives them: a list, or a NumPy array of uint32 that nobody else holds."""


class Role(str, Enum):
    """What a control token is for; each is a built-in group of a policy (`@turn`, `@eos` …)."""

    TURN = "turn"
    HEADER = "header"
    EOS = "eos"
    BOS = "bos"
    TOOL = "tool"
    FIM = "fim"
    MEDIA = "media"
    THINK = "think"
    RESERVED = "reserved"

    # Equal to its string, so it must hash like it; `Enum` would hash the name.
    __hash__ = str.__hash__

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class ControlToken:
    """A surface form and the id that ordinary text must not produce.

    Attributes:
        form: The string that spells it.
        id: Its id.
        role: What it is for, or None where no family of the catalogue says so.
    """

    form: str
    id: int
    role: Role | None = None


@runtime_checkable
class Tokenizer(Protocol):
    """A tokenizer that guardtok can bind: immutable, picklable, safe to share between threads."""

    @property
    def name(self) -> str:
        """A short name for people and logs."""
        ...

    @property
    def control_tokens(self) -> tuple[ControlToken, ...]:
        """Every control token, in the order of their ids. Two forms may share an id; a form has one id."""
        ...

    @property
    def reserved_ids(self) -> frozenset[int]:
        """Ids that no ordinary text may come out as.

        Those of `control_tokens`, and the base vocabulary's own ids for the same strings.
        """
        ...

    @property
    def fingerprint(self) -> str:
        """`sha256:…` over everything that decides which ids a text becomes."""
        ...

    @property
    def n_vocab(self) -> int:
        """One more than the highest id."""
        ...

    def with_custom_tokens(self, ids: Mapping[str, int]) -> Tokenizer:
        """Return a tokenizer that also has these control tokens, id by form; this one stays as it is.

        Raises:
            TokenizerError: A form or an id that already means something else.
        """
        ...

    def encode_ordinary(self, text: str, *, at_start: bool) -> Ids:
        """Encode text in which nothing is parsed.

        Args:
            text: Well-formed Unicode, no surrogates.
            at_start: Whether this run begins the whole output (SentencePiece writes a prefix there).
        """
        ...

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Decode ids, control tokens included, to the bytes that they stand for.

        Raises:
            KeyError: For an id that is not in the vocabulary.
        """
        ...
