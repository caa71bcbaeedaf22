"""By how much new rows shift old predictions: measured exactly, and certified for every input where that can be.

With `m` the probability that goes to new rows, the old rows' probabilities are scaled by `1 - m` and by nothing else.
So the divergence KL(old || new) over the rows that stay is `-log(1 - m)` at each position: one forward pass tells it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from guardtok.resize.fill import mass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from guardtok.resize.fill import Mixture
    from guardtok.resize.rows import RowPlan

_BEYOND = 2.0
"""The certificate holds for hidden states up to this many times the largest that the probe saw."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A bound on KL(old || new) that holds for every input, in exact arithmetic on the stored rows.

    Attributes:
        kl: The bound, in nats.
        hidden: The largest sum of absolute values of a hidden state for which it holds: what a row lost when it was
            rounded to its type grows with that. None: it holds for the rows before they were rounded.
    """

    kl: float
    hidden: float | None


def measured_kl(logits: Tensor, kept: Tensor) -> float:
    """Return the largest KL(old || new) over the positions, in nats.

    Args:
        logits: A row of scores for each position, in the order of ids.
        kept: Which ids stay as they were; every other one is new.
    """
    scores = logits.detach().double()
    whole = torch.logsumexp(scores, 1)
    old = torch.logsumexp(scores[:, kept.to(scores.device)], 1)
    return float((whole - old).max().clamp_min(0))


def certify(mixture: Mixture, rows: RowPlan, losses: Sequence[float] | None, hidden: Tensor | None) -> Certificate:
    """Return the bound that follows from a mixture.

    Args:
        mixture: How the head's rows, and its bias with them, were mixed.
        rows: Which are new.
        losses: For each of them the largest error that rounding made in one number of it; None before it was made.
        hidden: Hidden states that a probe saw, one a row.
    """
    if losses is None or hidden is None:
        return Certificate(math.log1p(mass(mixture, rows)), None)
    reach = _BEYOND * float(hidden.double().abs().sum(1).max())
    slack = [loss * (reach + 1) for loss in losses]  # The bias is a weight of an input that is always one.
    return Certificate(math.log1p(mass(mixture, rows, slack)), reach)


def logits_are_linear(scores: Tensor, logits: Tensor) -> bool:
    """Return whether what the softmax sees is a positive multiple of what the head gave, so that a certificate holds.

    Soft-capping is not, nor is a bias that another module adds.
    """
    if scores.shape != logits.shape:
        return False
    ours, theirs = scores.double(), logits.double()
    square = float((ours * ours).sum())
    factor = float((ours * theirs).sum()) / square if square else 0.0
    off = float((theirs - factor * ours).abs().max())
    return factor > 0 and off <= torch.finfo(scores.dtype).eps * 4 * max(1e-30, float(theirs.abs().max()))
