"""Small models and hand-made extensions for the tests of resizing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from guardtok.extension import Extension, NewToken, Placement
from guardtok.resize.places import places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# The tensors are tiny, and threads that meet on a busy machine cost more than they do.
torch.set_num_threads(1)

ROWS = 50
WIDTH = 6


class Block(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH, dtype=dtype)
        self.register_buffer("scale", torch.ones(WIDTH, dtype=dtype))

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.inner(hidden)) * self.scale


class Model(nn.Module):
    """A model as in the notebook: `tok_emb`, something between, `out_head`."""

    def __init__(
        self, rows: int = ROWS, *, bias: bool = False, tied: bool = False, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(rows, WIDTH, dtype=dtype)
        self.body = Block(dtype)
        self.out_head = nn.Linear(WIDTH, rows, bias=bias, dtype=dtype)
        if tied:
            self.out_head.weight = self.tok_emb.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out_head(self.body(self.tok_emb(ids)))


def extension(
    count: int = 2, *, base: int = ROWS, tokens: Sequence[NewToken] = (), rows: int | None = None
) -> Extension:
    """Return an extension of appended tokens, or of the ones given."""
    some = tuple(tokens) or tuple(
        NewToken(f"<|new_{n}|>", base + n, Placement.APPEND, (1 + n, 2, 3 + 2 * n)) for n in range(count)
    )
    highest = max([base - 1, *(token.id for token in some)]) + 1
    return Extension("extended", "base", some, base, rows or highest, "sha256:base", "sha256:extended")


def train(model: nn.Module, optimizer: torch.optim.Optimizer, *ids: int) -> None:
    """Take one step on some ids."""
    optimizer.zero_grad()
    model(torch.tensor([ids])).float().logsumexp(-1).sum().backward()
    optimizer.step()


def content(model: nn.Module) -> dict[str, tuple[object, ...]]:
    """Return every tensor's identity, memory and bytes."""
    return {
        place.name: (id(place.tensor), place.tensor.data_ptr(), place.tensor.shape, bits(place.tensor).tolist())
        for place in places(model)
    }


def bits(tensor: Tensor) -> Tensor:
    """Return a tensor's bytes."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)
