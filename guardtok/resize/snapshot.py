"""What a model is, written down: enough to see afterwards, bit for bit, what somebody changed and what not.

A snapshot holds hashes and not tensors, so it costs no memory, can be compared with a model that was saved and loaded
again, and works for surgery that guardtok did not do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guardtok.resize.digest import digest
from guardtok.resize.places import places, tie_groups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from guardtok.resize.places import Place

_WATCHED = (
    "bias",
    "embedding_dim",
    "in_features",
    "max_norm",
    "nf",
    "norm_type",
    "num_embeddings",
    "nx",
    "out_features",
    "padding_idx",
    "scale_grad_by_freq",
    "sparse",
    "training",
    "_is_hf_initialized",
)
"""Attributes that a layer made anew tends to lose."""

_HOOKS = (
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks",
    "_forward_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_state_dict_hooks",
)


@dataclass(frozen=True, slots=True)
class TensorState:
    """One tensor.

    Attributes:
        kind: As that of its `Place`.
        shape: Its shape.
        dtype: Its type, as torch writes it.
        device: Where it is.
        trainable: Whether it asks for a gradient.
        marks: Names of what was attached to it (`_no_weight_decay`), and how many gradient hooks it has.
        digest: Its hash.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: str
    device: str
    trainable: bool
    marks: tuple[str, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class ModuleState:
    """One module.

    Attributes:
        cls: Its class, in full.
        attributes: Name and value, as `repr`, of those that are watched.
        hooks: How many hooks of each kind it has.
    """

    cls: str
    attributes: Mapping[str, str]
    hooks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A whole model.

    Attributes:
        tensors: Every tensor, by each of its names.
        modules: Every module, by name; the model itself is the empty one.
        ties: Names of one tensor, for each tensor that has several.
    """

    tensors: Mapping[str, TensorState]
    modules: Mapping[str, ModuleState]
    ties: tuple[tuple[str, ...], ...]

    @property
    def fingerprint(self) -> str:
        """A hash of all of it."""
        parts = (sorted(self.tensors.items()), sorted(self.modules.items(), key=lambda item: item[0]), self.ties)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def difference(self, other: Snapshot) -> str | None:
        """Return the name of something that is not the same in another snapshot, or None."""
        for mine, theirs in ((self.tensors, other.tensors), (self.modules, other.modules)):
            for name in [*mine, *theirs]:
                if mine.get(name) != theirs.get(name):
                    return name or "the model"
        return None if self.ties == other.ties else "ties"


def take_snapshot(model: nn.Module) -> Snapshot:
    """Return what a model is. Each tensor is read once, in parts."""
    found = places(model)
    ties = tie_groups(found)
    first = {name: names[0] for names in ties.values() for name in names}
    hashes: dict[str, str] = {}
    for place in found:
        if first[place.name] == place.name:
            hashes[place.name] = digest(place.tensor)
    return Snapshot(
        {place.name: _tensor_state(place, hashes[first[place.name]]) for place in found},
        {name: _module_state(module) for name, module in model.named_modules(remove_duplicate=False)},
        tuple(names for names in ties.values() if len(names) > 1),
    )


def _tensor_state(place: Place, hashed: str) -> TensorState:
    tensor = place.tensor
    return TensorState(
        place.kind,
        tuple(tensor.shape),
        str(tensor.dtype).removeprefix("torch."),
        str(tensor.device),
        tensor.requires_grad,
        _marks(tensor),
        hashed,
    )


def _marks(tensor: Tensor) -> tuple[str, ...]:
    hooks = (tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None))  # noqa: SLF001 - no public way
    return (*sorted(vars(tensor)), *(f"{len(some)} hooks" for some in hooks if some))


def _module_state(module: nn.Module) -> ModuleState:
    kept = {name: getattr(module, name) for name in _WATCHED if hasattr(module, name)}
    return ModuleState(
        f"{type(module).__module__}.{type(module).__qualname__}",
        {name: _show(value) for name, value in kept.items()},
        tuple(len(getattr(module, name, ())) for name in _HOOKS),
    )


def _show(value: object) -> str:
    """Return a value in words that do not depend on its content, where it is a tensor."""
    return repr(value) if isinstance(value, int | float | str | bool | None) else type(value).__name__
