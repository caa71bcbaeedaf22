"""A tensor with more rows: the old ones as they were, the others zero; in new memory, so nothing old is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from guardtok.resize.rows import RowPlan


def grown(tensor: Tensor, dim: int, rows: RowPlan) -> Tensor:
    """Return a copy whose vocabulary dimension has the new number of rows.

    Rows that are added or will be overwritten are zero. The order of the strides is kept, so a transposed table stays
    one.

    Args:
        tensor: The old one.
        dim: Which dimension is the vocabulary.
        rows: What becomes of the rows.
    """
    shape = [rows.new if place == dim else size for place, size in enumerate(tensor.shape)]
    steps = tensor.stride()
    order = sorted(range(tensor.dim()), key=lambda place: (-steps[place], place))
    back = [order.index(place) for place in range(tensor.dim())]
    new = torch.zeros([shape[place] for place in order], dtype=tensor.dtype, device=tensor.device).permute(back)
    with torch.no_grad():
        kept = min(rows.old, rows.new)
        new.narrow(dim, 0, kept).copy_(tensor.detach().narrow(dim, 0, kept))
        if rows.overwritten:
            gone = torch.tensor([row for row in rows.overwritten if row < rows.new], device=tensor.device)
            new.index_fill_(dim, gone, 0)
    return new


def kept_rows(rows: RowPlan) -> Tensor:
    """Return the indices of the rows that stay as they are."""
    kept = torch.ones(min(rows.old, rows.new), dtype=torch.bool)
    kept[[row for row in rows.overwritten if row < len(kept)]] = False
    return kept.nonzero().flatten()


def fresh_rows(rows: RowPlan) -> Tensor:
    """Return the indices of all rows that are new or written anew."""
    return torch.tensor([token.id for token in rows.written] + list(rows.padding), dtype=torch.long)
