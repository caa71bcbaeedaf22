"""The new rows themselves: mixtures of old rows, and the certificate that follows from how they are mixed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from typing_extensions import assert_never

from guardtok.errors import ResizeError
from guardtok.resize.census import Role
from guardtok.resize.init import Callback, Mean, Normal, Request, RoleAware, SubwordMean, Zero

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from guardtok.resize.census import VocabTensor
    from guardtok.resize.init import Initialiser
    from guardtok.resize.rows import RowPlan

_CHUNK = 4096
"""Rows that are widened to 64 bits at once: a copy of the whole table would not fit beside it."""

_TRIES = 8
_SOFTENED = 7 / 8
"""Share of the pieces where two tokens have the same ones, so that their halves tell them apart."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """How each new row is mixed from old ones: `share` of the mean of its pieces, the rest of the mean of its members.

    Attributes:
        share: Weight of the pieces.
        pieces: For each new row the old rows that its pieces have, each as often as it occurs.
        members: For each new row which old rows are in its mean.
    """

    share: float
    pieces: tuple[tuple[int, ...], ...]
    members: Tensor

    def peaks(self) -> list[float]:
        """Return for each new row the largest weight that it gives to one old row, or a little more."""
        return [
            share * _most(pieces) + (1 - share) / int(count)
            for pieces, count in zip(self.pieces, self.members.sum(1), strict=True)
            for share in [self.share if pieces else 0.0]
        ]

    def mix(self, table: Tensor) -> Tensor:
        """Return the new rows in 64 bits, from old ones along the first dimension."""
        flat = table.detach().reshape(len(table), -1)
        members = self.members[:, : len(table)]
        mixed = torch.zeros(len(members), flat.shape[1], dtype=torch.float64, device=flat.device)
        for start in range(0, len(flat), _CHUNK):
            weights = members[:, start : start + _CHUNK].to(flat.device, torch.float64)
            # A row that is not live may hold anything, and a NaN times no weight at all is still a NaN.
            mixed += weights @ flat[start : start + _CHUNK].double().nan_to_num(0.0, 0.0, 0.0)
        mixed /= members.sum(1, keepdim=True).to(flat.device)
        for row, pieces in enumerate(self.pieces):
            if pieces and self.share:
                meaning = flat[list(pieces)].double().mean(0)
                mixed[row] = meaning if self.share == 1 else self.share * meaning + (1 - self.share) * mixed[row]
        return mixed.reshape(-1, *table.shape[1:])


def _most(pieces: Sequence[int]) -> float:
    return max((pieces.count(piece) for piece in pieces), default=0) / max(1, len(pieces))


def live_rows(table: Tensor, rows: RowPlan) -> Tensor:
    """Return which old rows may be mixed, on the CPU: those of a token of the base that stay, are finite and not zero.

    Padding is left out, for it was never trained. Where nothing is left, everything that stays is taken.
    """
    kept = kept_mask(rows)[: len(table)]
    flat = table.detach().reshape(len(table), -1)
    filled = torch.cat([(part.ne(0).any(1) & part.isfinite().all(1)).cpu() for part in torch.split(flat, _CHUNK)])
    live = kept & filled
    live[rows.used :] = False
    return live if bool(live.any()) else kept


def kept_mask(rows: RowPlan) -> Tensor:
    """Return which old rows stay as they are."""
    kept = torch.ones(rows.old, dtype=torch.bool)
    kept[rows.new :] = False
    kept[[row for row in rows.overwritten if row < rows.old]] = False
    return kept


def plan_mixture(init: Initialiser, role: Role, table: Tensor, rows: RowPlan, seed: int) -> Mixture | None:
    """Return how the new rows of a table are mixed, or None where the initialiser does not mix.

    The rows are those of the new tokens, in the order of their ids, then one for all the padding.
    """
    mixture = _draw(table, rows, seed)
    match init:
        case Mean():
            return mixture
        case SubwordMean():
            return replace(mixture, share=1.0)
        case RoleAware():
            share = 1.0 if role in {Role.INPUT, Role.TABLE} else _share(mixture, rows, init.kl_budget)
            return replace(mixture, share=share)
        case Normal() | Zero() | Callback():
            return None
        case _:
            assert_never(init)


def _draw(table: Tensor, rows: RowPlan, seed: int) -> Mixture:
    """Return a mixture in which the pieces have no share yet."""
    live = live_rows(table, rows)
    generator = torch.Generator().manual_seed(seed)
    members = [_half(live, generator) for _ in rows.written]
    return Mixture(0.0, (*(token.pieces for token in rows.written), ()), torch.stack([*members, live]))


def _half(live: Tensor, generator: torch.Generator) -> Tensor:
    half = live & torch.randint(2, live.shape, generator=generator, dtype=torch.bool)
    return half if bool(half.any()) else live


def _share(mixture: Mixture, rows: RowPlan, budget: float) -> float:
    """Return the largest share of the pieces for which the certificate is within the budget; it is linear in it."""
    plain, leaning = mass(replace(mixture, share=0.0), rows), mass(replace(mixture, share=1.0), rows)
    room = math.expm1(budget) - plain
    return 1.0 if leaning <= plain + max(0.0, room) else max(0.0, room / (leaning - plain))


def mass(mixture: Mixture, rows: RowPlan, slack: Sequence[float] | None = None) -> float:
    """Return what all new rows together have at most of the old rows' mass in the softmax.

    Args:
        mixture: How they are mixed.
        rows: Which are padding.
        slack: For each row, by how much a logit may be off because the row was rounded.
    """
    peaks = mixture.peaks()
    times = [*([1] * (len(peaks) - 1)), len(rows.padding)]
    off = slack or [0.0] * len(peaks)
    return sum(math.exp(more) * peak * many for peak, many, more in zip(peaks, times, off, strict=True) if many)


@dataclass(frozen=True, slots=True)
class Made:
    """New rows of a table.

    Attributes:
        rows: Of each new token, in the order of their ids, then one for all the padding; in the table's type.
        mixture: How they were mixed; None where they were not.
        losses: The largest error in each that rounding to the type made; empty where they were not mixed.
    """

    rows: Tensor
    mixture: Mixture | None
    losses: tuple[float, ...]


def new_rows(  # noqa: PLR0913 - each is one fact about one table
    init: Initialiser,
    tensor: VocabTensor,
    table: Tensor,
    rows: RowPlan,
    *,
    seed: int,
    mixture: Mixture | None,
) -> Made:
    """Return the new rows of a table.

    Args:
        init: What they begin as.
        tensor: What the table is.
        table: The old rows, along the first dimension.
        rows: Which rows are new.
        seed: The seed; the next ones are taken while two tokens would get the same row.
        mixture: The head's mixture, where the table is a bias that must follow it.

    Raises:
        ResizeError: A callback returned rows of another number or shape.
    """
    if not table.is_floating_point():
        zeros = torch.zeros(len(rows.written) + 1, *table.shape[1:], dtype=table.dtype, device=table.device)
        return Made(zeros, None, ())
    if mixture is not None:
        return _rounded(mixture, table)
    mixture = plan_mixture(init, tensor.role, table, rows, seed)
    if mixture is None:
        return Made(_unmixed(init, tensor, table, rows, seed), None, ())
    made = _rounded(mixture, table)
    for attempt in range(1, _TRIES):
        if are_distinct(made.rows[:-1]):
            break
        mixture = replace(_draw(table, rows, seed + attempt), share=min(mixture.share, _SOFTENED))
        made = _rounded(mixture, table)
    return made


def _rounded(mixture: Mixture, table: Tensor) -> Made:
    exact = mixture.mix(table)
    cast = exact.to(table.dtype)
    losses = (cast.double() - exact).abs().flatten(1).amax(1) if exact.dim() > 1 else (cast.double() - exact).abs()
    return Made(cast, mixture, tuple(losses.tolist()))


def _unmixed(init: Initialiser, tensor: VocabTensor, table: Tensor, rows: RowPlan, seed: int) -> Tensor:
    mean = _draw(table, rows, seed).mix(table)[-1:]
    count = len(rows.written)
    match init:
        case Normal(std=std) if tensor.role != Role.BIAS:
            live = table[live_rows(table, rows).to(table.device)]
            scale = float(live.float().std()) if std is None else std
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(count + 1, *table.shape[1:], generator=generator, dtype=torch.float64)
            return (noise * scale).to(table.device, table.dtype)
        case Normal():
            return mean.expand(count + 1, *mean.shape[1:]).to(table.dtype)
        case Callback(rows=ask):
            given = ask(Request(tensor.name, tensor.role, table, rows.written, seed))
            if tuple(given.shape) != (count, *table.shape[1:]):
                raise ResizeError(
                    f"The callback returned {tuple(given.shape)} for {tensor.name}; {(count, *table.shape[1:])} is "
                    "wanted, one row for each token."
                )
            return torch.cat([given.detach().to(table.device, table.dtype), mean.to(table.dtype)])
        case Zero() | Mean() | SubwordMean() | RoleAware():
            return torch.zeros(count + 1, *table.shape[1:], dtype=table.dtype, device=table.device)
        case _:
            assert_never(init)


def are_distinct(table: Tensor) -> bool:
    """Return whether no two rows are the same."""
    return len(torch.unique(table.reshape(len(table), -1).float(), dim=0)) == len(table) if len(table) else True
