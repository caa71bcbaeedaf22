"""What a new row begins as.

An input row should say what its token means; a head row should not take probability from the old tokens. A row that is
a mean of old rows, each with a share of at most `a`, never has more than `a` times the old rows' mass in the softmax,
whatever the input: that is Jensen's inequality, and it is the certificate that a plan states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from guardtok.resize.census import Role
    from guardtok.resize.rows import TokenRow

_BUDGET = 0.01
"""Nats by which new rows may shift an old prediction before that is a finding."""


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of a random half of the old rows, another half for each token.

    The mean of all would be one and the same row for every token, and tokens with one row can never be told apart by
    the gradient of the head. Halves differ by far more than a cast to bfloat16 loses, and cost only a factor of two in
    the certificate.

    Attributes:
        kl_budget: Nats by which old predictions may shift.
    """

    kl_budget: float = _BUDGET


@dataclass(frozen=True, slots=True)
class SubwordMean:
    """The mean of the rows of the pieces that the base made of the token: it says most, and certifies least.

    Attributes:
        kl_budget: Nats by which old predictions may shift.
    """

    kl_budget: float = _BUDGET


@dataclass(frozen=True, slots=True)
class RoleAware:
    """Input rows are the mean of their pieces; head rows lean to their pieces only as far as the budget allows.

    A head row is `share` times the mean of the pieces plus the rest times a `Mean` row, with the largest share for
    which the certificate stays within the budget. Where input and head are one tensor, the head's row is taken.

    Attributes:
        kl_budget: Nats by which old predictions may shift.
    """

    kl_budget: float = _BUDGET


@dataclass(frozen=True, slots=True)
class Normal:
    """Normal noise around zero. There is no certificate: where old logits are far below zero, a new token wins.

    Attributes:
        std: Its standard deviation; None takes that of the old rows.
        kl_budget: Nats by which old predictions may shift.
    """

    std: float | None = None
    kl_budget: float = _BUDGET


@dataclass(frozen=True, slots=True)
class Zero:
    """Zeros: every new token has the logit 0, the rows are all the same, and there is no certificate.

    Attributes:
        kl_budget: Nats by which old predictions may shift.
    """

    kl_budget: float = _BUDGET


@dataclass(frozen=True, slots=True)
class Request:
    """What a callback is asked for.

    Attributes:
        name: The tensor's name.
        role: What the tensor is for.
        old: The old rows, along the first dimension, as a copy; those that will be written anew are zero.
        tokens: The tokens whose rows are wanted, in this order.
        seed: The seed of the plan.
    """

    name: str
    role: Role
    old: Tensor
    tokens: tuple[TokenRow, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Callback:
    """Rows from elsewhere (FOCUS, WECHSEL, a trained table). There is no certificate.

    Attributes:
        rows: Gets a `Request` and returns one row for each token, along the first dimension.
        kl_budget: Nats by which old predictions may shift.
    """

    rows: Callable[[Request], Tensor]
    kl_budget: float = _BUDGET


Initialiser: TypeAlias = Mean | SubwordMean | RoleAware | Normal | Zero | Callback
"""One of the ways to begin."""
