"""Where a model keeps its tensors, and which of them are one: ties are read off the storage, not off a config.

A config says what somebody meant. What two names share is memory, so that is what is compared; one Parameter under two
names and two Parameters over one storage are both ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Place:
    """One name of one tensor.

    Attributes:
        name: Its dotted name from the model down.
        module: The dotted name of the module that owns it; empty for the model itself.
        owner: That module.
        attribute: Its name there.
        tensor: The tensor.
        kind: `parameter`, `buffer`, `passing` for a buffer that is not saved, or `attribute` for a tensor that is not
            registered at all.
    """

    name: str
    module: str
    owner: nn.Module
    attribute: str
    tensor: Tensor
    kind: str


def places(model: nn.Module) -> list[Place]:
    """Return every name of every tensor of a model, in the order of its modules."""
    return list(_places(model))


def _places(model: nn.Module) -> Iterator[Place]:
    for module, owner in model.named_modules(remove_duplicate=False):
        prefix = f"{module}." if module else ""
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            yield Place(prefix + name, module, owner, name, parameter, "parameter")
        for name, buffer in owner.named_buffers(recurse=False, remove_duplicate=False):
            passing = name in owner._non_persistent_buffers_set  # noqa: SLF001 - torch has no public way to see it
            yield Place(prefix + name, module, owner, name, buffer, "passing" if passing else "buffer")
        for name, value in vars(owner).items():
            if isinstance(value, torch.Tensor):
                yield Place(prefix + name, module, owner, name, value, "attribute")


def tie_groups(found: Iterable[Place]) -> Mapping[str, tuple[str, ...]]:
    """Return for each tensor all its names, under the first of them.

    Two names are tied where device, memory, offset, shape and strides are the same.
    """
    groups: dict[object, list[str]] = {}
    for place in found:
        groups.setdefault(_memory(place.tensor), []).append(place.name)
    return {names[0]: tuple(names) for names in groups.values()}


def overlapping(found: Iterable[Place]) -> list[tuple[str, str]]:
    """Return the pairs of names whose tensors share memory without being the same: a transpose, a slice."""
    spans: dict[object, list[tuple[int, int, object, str]]] = {}
    for place in found:
        tensor = place.tensor
        if not _has_memory(tensor):
            continue
        start = tensor.data_ptr()
        last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
        end = start + (last + 1) * tensor.element_size()
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        spans.setdefault(storage, []).append((start, end, _memory(tensor), place.name))
    return [
        (one[3], other[3])
        for group in spans.values()
        for one, other in combinations(group, 2)
        if one[2] != other[2] and one[0] < other[1] and other[0] < one[1]
    ]


def _memory(tensor: Tensor) -> object:
    if not _has_memory(tensor):
        return id(tensor)
    return (str(tensor.device), tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _has_memory(tensor: Tensor) -> bool:
    return (
        tensor.layout == torch.strided
        and not tensor.is_meta
        and type(tensor) in {torch.Tensor, torch.nn.Parameter}
        and tensor.numel() > 0
    )
