"""How the rows of new tokens begin, as shares of old rows, and what that can do to predictions.

A new row of the head competes with every old one: a random row, or zeros beside negative logits, takes over the
softmax. An average of old rows cannot. If each new row is a convex combination of old rows, then for every input the
mass on new tokens is at most the sum of each one's largest share, so KL(old ‖ new) ≤ log(1 + that sum).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from math import expm1, log1p
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Initial(str, Enum):
    """How the rows of new tokens begin."""

    ROLE_AWARE = "role-aware"
    """In an embedding of its own the mean of the pieces' rows; in a head, or a table that is both, as much of that as
    the KL budget allows, and the mean of all rows for the rest."""
    MEAN = "mean"
    """The mean of all rows."""
    SUBWORD = "subword"
    """The mean of the rows of the pieces that spelled the token so far."""
    ZERO = "zero"
    """Zeros."""

    # Equal to its string, so it must hash like it; `Enum` would hash the name.
    __hash__ = str.__hash__

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Blend:
    """How much of a new row is the mean of its token's pieces; the rest is the mean of all rows.

    Attributes:
        share: Between 0 and 1, or None for rows of zeros.
        bound: KL(old ‖ new) in nats is at most this for every input, in real arithmetic; None where nothing is proven.
    """

    share: float | None
    bound: float | None


def blend(initial: Initial, pieces: Sequence[tuple[int, ...]], padding: int, rows: int, budget: float) -> Blend:
    """Return the share of pieces in the new rows of a table that makes logits.

    Args:
        initial: How rows begin.
        pieces: For each new token the ids that spelled it so far.
        padding: How many more rows are added that no token has yet.
        rows: How many rows the mean is taken over.
        budget: For `ROLE_AWARE`: the largest bound allowed, in nats.
    """
    if initial is Initial.ZERO or not rows:
        return Blend(None, None)
    largest = [max(Counter(each).values()) / len(each) if each else 1 / rows for each in pieces]
    from_mean = (len(pieces) + padding) / rows
    from_pieces = sum(largest) - len(pieces) / rows
    if initial is Initial.SUBWORD:
        share = 1.0
    elif initial is Initial.MEAN or from_pieces <= 0:
        share = 0.0
    else:
        share = min(1.0, max(0.0, (expm1(budget) - from_mean) / from_pieces))
    return Blend(share, log1p(from_mean + share * from_pieces))
