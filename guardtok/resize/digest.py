"""Hashes of tensors, bit for bit: a NaN equals itself, and a zero does not equal minus zero."""

from __future__ import annotations

import ctypes
import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_CHUNK = 1 << 26
"""Bytes that are brought to the CPU at once."""


def digest(tensor: Tensor, rows: Tensor | None = None) -> str:
    """Return the SHA-256 of a tensor's type, shape and bytes, as hexadecimal digits.

    Args:
        tensor: Any strided tensor.
        rows: The indices along its first dimension that count, in this order; None for all.
    """
    table = tensor.detach().reshape(1) if tensor.dim() == 0 else tensor.detach()
    count = len(table) if rows is None else len(rows)
    hashed = hashlib.sha256(f"{table.dtype} {(count, *table.shape[1:])}".encode())
    for part in _parts(table, rows):
        plain = part.resolve_conj().resolve_neg().cpu().contiguous()
        if plain.numel():
            # The bytes are read in place, so neither NumPy nor a copy is needed; `plain` keeps them alive.
            size = plain.numel() * plain.element_size()
            hashed.update((ctypes.c_char * size).from_address(plain.data_ptr()))
    return hashed.hexdigest()


def _parts(table: Tensor, rows: Tensor | None) -> Iterator[Tensor]:
    step = max(1, _CHUNK // max(1, table[:1].numel() * table.element_size()))
    if rows is None:
        yield from torch.split(table, step)
    else:
        for some in torch.split(rows.to(table.device), step):
            yield table.index_select(0, some)
