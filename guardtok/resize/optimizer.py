"""An optimizer in the middle of training follows its parameters: groups point to the new ones, moments get zeros.

An optimizer that still holds the old parameters trains tensors that no model uses, without an error. One whose moments
have the old shape fails at the next step, or loses what it knew of the old rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from guardtok.finding import Finding, Severity
from guardtok.resize.grown import grown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import ExitStack

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from guardtok.resize.rows import RowPlan

_ROW_FACTORS = {"exp_avg_sq_row": 0, "exp_avg_sq_col": 1}
"""What Adafactor of transformers keeps of a table, by the dimension that is left."""


def find_optimizer_problems(
    optimizer: Optimizer, model: nn.Module, vocabulary: Mapping[str, tuple[nn.Parameter, int]]
) -> list[Finding]:
    """Return what stands in the way of an optimizer following its model.

    Args:
        optimizer: The optimizer.
        model: The model.
        vocabulary: The vocabulary's parameters by name, each with its vocabulary dimension.
    """
    findings = find_membership_problems(optimizer, model, ())
    if isinstance(optimizer, torch.optim.LBFGS):
        fact = "LBFGS keeps its past as one flat vector."
        findings.append(Finding("optimizer-state", Severity.ERROR, "optimizer", fact, "Start it anew."))
    for name, (parameter, dim) in vocabulary.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            where = f"optimizer.state[{name}].{key}"
            if isinstance(value, torch.Tensor):
                findings += _state_problems(where, key, value, parameter, dim)
    return findings


def _state_problems(where: str, key: str, value: Tensor, parameter: nn.Parameter, dim: int) -> list[Finding]:
    if value.numel() > 1 and not value.is_floating_point():
        fact = f"It holds {value.dtype}: packed or quantised."
        return [Finding("optimizer-state", Severity.ERROR, where, fact, "Start the optimizer anew.")]
    if value.shape == parameter.shape and _is_copy(value, parameter):
        fact = "It is a copy of the weights, not a moment of the gradient."
        mend = "Resize the master copy by itself, or let the optimizer make it anew."
        return [Finding("master-copy", Severity.ERROR, where, fact, mend)]
    if _vocabulary_dim(key, value, parameter, dim) is None and value.numel() > 1:
        fact = f"Its shape {tuple(value.shape)} does not follow from the parameter's {tuple(parameter.shape)}."
        return [Finding("optimizer-state", Severity.ERROR, where, fact, "Start the optimizer anew.")]
    return []


def _is_copy(value: Tensor, parameter: nn.Parameter) -> bool:
    """Return whether a state tensor is the weights in another type; all zeros say nothing."""
    return bool(value.any()) and torch.equal(value.to(parameter.dtype), parameter.detach().to(value.device))


def _vocabulary_dim(key: str, value: Tensor, parameter: Tensor, dim: int) -> int | None:
    """Return the vocabulary dimension of a state tensor; -1 where it has none; None where its shape is a riddle."""
    if value.numel() <= 1:
        return -1
    if value.dim() == parameter.dim() and all(
        mine in {1, theirs} for mine, theirs in zip(value.shape, parameter.shape, strict=True)
    ):
        return dim if value.shape[dim] == parameter.shape[dim] else -1
    left = _ROW_FACTORS.get(key)
    if left is not None and value.shape == parameter.shape[left : left + 1]:
        return 0 if left == dim else -1
    return None


def migrate(
    optimizer: Optimizer, new: Mapping[Tensor, tuple[nn.Parameter, int]], rows: RowPlan, undo: ExitStack
) -> None:
    """Point an optimizer to new parameters and give its state their shape.

    Args:
        optimizer: The optimizer, whose groups and state are changed in place.
        new: For each old parameter the new one and its vocabulary dimension.
        rows: What becomes of the rows.
        undo: Gets what undoes each change, before it is made.
    """
    for group in optimizer.param_groups:
        undo.callback(group["params"].__setitem__, slice(None), list(group["params"]))
        group["params"][:] = [new[p][0] if p in new else p for p in group["params"]]
    state = list(optimizer.state.items())
    undo.callback(optimizer.state.update, state)
    undo.callback(optimizer.state.clear)
    moved = [(new[p][0], _grow_state(s, p, new[p][1], rows)) if p in new else (p, s) for p, s in state]
    optimizer.state.clear()
    optimizer.state.update(moved)


def _grow_state(state: Mapping[str, object], parameter: Tensor, dim: int, rows: RowPlan) -> dict[str, object]:
    grown_state: dict[str, object] = {}
    for key, value in state.items():
        along = _vocabulary_dim(key, value, parameter, dim) if isinstance(value, torch.Tensor) else None
        if isinstance(value, torch.Tensor) and along is not None and along >= 0:
            grown_state[key] = grown(value, along, rows)
        else:
            # A step counter is copied: the old one must be what it was if the model is put back after a step.
            grown_state[key] = value.clone() if isinstance(value, torch.Tensor) else value
    return grown_state


def find_membership_problems(optimizer: Optimizer, model: nn.Module, expected: Iterable[str]) -> list[Finding]:
    """Return what is wrong with which parameters an optimizer holds.

    Args:
        optimizer: The optimizer.
        model: The model that it trains.
        expected: Names of parameters that it must hold.
    """
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    named = dict(model.named_parameters(remove_duplicate=False))
    ours = {id(parameter) for parameter in named.values()}
    findings = []
    orphans = sum(parameter not in ours for parameter in held)
    if orphans:
        fact = f"It holds {orphans} parameters that the model does not use: their training is lost."
        mend = "Build it from `model.parameters()`, or let guardtok move it along."
        findings.append(Finding("optimizer-orphan", Severity.ERROR, "optimizer", fact, mend))
    if len(set(held)) != len(held):
        fact = "It holds a parameter twice, which would be stepped twice."
        findings.append(Finding("optimizer-twice", Severity.ERROR, "optimizer", fact))
    for name in expected:
        if name in named and id(named[name]) not in held:
            fact = "It is trained no more: the optimizer does not hold it."
            findings.append(Finding("optimizer-lost", Severity.ERROR, name, fact, "Add it to a parameter group."))
    return findings


def find_state_problems(
    optimizer: Optimizer,
    new: Mapping[Tensor, tuple[nn.Parameter, int]],
    old: Mapping[Tensor, object],
    rows: RowPlan,
) -> list[Finding]:
    """Return where an optimizer's state is not what it was, extended by zeros.

    Args:
        optimizer: The optimizer, after it was moved.
        new: For each old parameter the new one and its vocabulary dimension.
        old: The state of each parameter, as it was.
        rows: What became of the rows.
    """
    findings = []
    for parameter, before in old.items():
        target, dim = new.get(parameter, (parameter, 0))
        after = optimizer.state.get(target, {})
        if not isinstance(before, dict) or before.keys() != after.keys():
            findings.append(Finding("optimizer-state", Severity.ERROR, "optimizer", "State is missing or was added."))
            continue
        for key, value in before.items():
            if not isinstance(value, torch.Tensor):
                same = value == after[key]
            else:
                along = _vocabulary_dim(key, value, parameter, dim) if parameter in new else -1
                wanted = value if along is None or along < 0 else grown(value, along, rows)
                same = wanted.shape == after[key].shape and bool(torch.equal(wanted, after[key]))
            if not same:
                fact = "The optimizer's state is not what it was, extended by zeros."
                findings.append(Finding("optimizer-state", Severity.ERROR, f"optimizer.{key}", fact))
    return findings
