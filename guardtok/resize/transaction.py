"""Does what a plan says, all of it or nothing.

Nothing old is ever written to: tables are made anew in memory of their own, and every place that held an old one is
pointed to the new one. So undoing is pointing back, exact and without a copy, and each step says how it is undone
before it is done.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from guardtok.errors import ModelChangedError
from guardtok.finding import Finding, Severity
from guardtok.resize.census import Role
from guardtok.resize.configs import Configs
from guardtok.resize.divergence import certify
from guardtok.resize.fill import new_rows
from guardtok.resize.grown import fresh_rows, grown
from guardtok.resize.init import Callback
from guardtok.resize.optimizer import find_membership_problems, find_state_problems, migrate
from guardtok.resize.places import places
from guardtok.resize.receipt import Receipt, TensorReceipt
from guardtok.resize.snapshot import take_snapshot
from guardtok.resize.verify import raise_for_errors, verify

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from torch import Tensor
    from torch.optim import Optimizer
    from typing_extensions import Self

    from guardtok.resize.census import VocabTensor
    from guardtok.resize.divergence import Certificate
    from guardtok.resize.fill import Mixture
    from guardtok.resize.places import Place
    from guardtok.resize.plan import ResizePlan
    from guardtok.resize.rows import RowPlan

_COUNTS = {"vocab_size", "padded_vocab_size", "n_vocab", "org_vocab_size"}
"""Attributes of modules that say how many ids there are."""


class Transaction:
    """A resize that was done and verified, and can still be undone.

    The old tensors are kept until the `with` block ends, or this object is gone.

    Attributes:
        receipt: What was done and proven.
    """

    def __init__(self, receipt: Receipt, undo: ExitStack) -> None:
        self.receipt = receipt
        self._undo = undo

    def rollback(self) -> None:
        """Put everything back exactly: the same objects, in the same memory. A second call does nothing."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._undo.pop_all()
        else:
            self.rollback()


@dataclass(frozen=True, slots=True)
class _Table:
    """A table that was made anew, and what its rows certify."""

    content: Tensor
    mixture: Mixture | None
    losses: tuple[float, ...]


def apply(plan: ResizePlan, model: nn.Module, optimizer: Optimizer | None) -> Transaction:
    """Do what a plan says and verify it; see `ResizePlan.apply`."""
    plan.raise_for_errors()
    _refuse_another(plan, model, optimizer)
    found = places(model)
    untouched = _untouched(plan, found)
    tables = _make_tables(plan, {place.name: place.tensor for place in found})
    state: dict[Tensor, object] = {} if optimizer is None else dict(optimizer.state)
    with ExitStack() as undo:
        moved = _swap(plan, found, tables, undo)
        _set_sizes(plan, model, found, undo)
        Configs(model, plan.more).apply(plan.edits, undo)
        if optimizer is not None:
            migrate(optimizer, moved, plan.rows, undo)
        checked = verify(plan, model, optimizer, certificate=_certificate(plan, tables))
        findings = (*checked.findings, *_moved_findings(untouched, model))
        if optimizer is not None:
            findings += tuple(find_state_problems(optimizer, moved, state, plan.rows))
        raise_for_errors(findings)
        bound = checked.certificate
        receipt = Receipt(
            plan=plan.fingerprint,
            extension=plan.extension.name,
            tokenizer=plan.extension.fingerprint,
            rows_before=plan.rows.old,
            rows_after=plan.rows.new,
            overwritten=plan.rows.overwritten,
            tensors=tuple(TensorReceipt(t.name, t.dim, plan.before.kept[t.name]) for t in plan.tensors),
            kl_measured=checked.kl,
            kl_certified=None if bound is None else bound.kl,
            kl_hidden=None if bound is None else bound.hidden,
            findings=findings,
        )
        return Transaction(receipt, undo.pop_all())


def _refuse_another(plan: ResizePlan, model: nn.Module, optimizer: Optimizer | None) -> None:
    """Raise where the model, its configs or its optimizer are not those that were planned for."""
    name = plan.before.model.difference(take_snapshot(model))
    numbers = Configs(model, plan.more).numbers()
    if name is None and numbers != plan.before.numbers:
        name = next(
            (key for key in {**plan.before.numbers, **numbers} if plan.before.numbers.get(key) != numbers.get(key)),
            "configs",
        )
    if name is not None:
        raise ModelChangedError(f"The model changed since the plan was made, at {name}. Plan again.")
    if (optimizer is None) != (plan.before.optimized is None):
        given, planned = ("none", "one") if optimizer is None else ("one", "none")
        raise ModelChangedError(f"The plan was made with {planned} optimizer, and {given} is given. Plan again.")
    if optimizer is not None:
        problems = find_membership_problems(optimizer, model, plan.before.optimized or ())
        if problems:
            raise ModelChangedError("The optimizer changed since the plan was made:", problems)


def _untouched(plan: ResizePlan, found: list[Place]) -> dict[str, tuple[Tensor, int]]:
    """Return the tensors that the resize must leave alone, each with its memory."""
    wide = {name for tensor in plan.tensors for name in tensor.names}
    return {p.name: (p.tensor, p.tensor.data_ptr()) for p in found if p.name not in wide and p.kind != "attribute"}


def _moved_findings(untouched: Mapping[str, tuple[Tensor, int]], model: nn.Module) -> list[Finding]:
    now = {place.name: place.tensor for place in places(model)}
    return [
        Finding("other-tensor-changed", Severity.ERROR, name, "It is another object, or in other memory.")
        for name, (tensor, memory) in untouched.items()
        if now.get(name) is not tensor or tensor.data_ptr() != memory
    ]


def _make_tables(plan: ResizePlan, named: Mapping[str, Tensor]) -> dict[str, _Table]:
    """Return every table with its new rows, by name. The head comes first, for its bias follows its mixture."""
    tables: dict[str, _Table] = {}
    head: Mixture | None = None
    for tensor in plan.tensors:
        content = grown(named[tensor.name], tensor.dim, plan.rows)
        rows = content.movedim(tensor.dim, 0)
        old = named[tensor.name].detach().movedim(tensor.dim, 0)
        mixture, losses = _fill(plan, tensor, rows, old, head if tensor.role == Role.BIAS else None)
        if tensor.role == Role.HEAD:
            head = mixture
        tables[tensor.name] = _Table(content, mixture, losses)
    return tables


def _fill(
    plan: ResizePlan, tensor: VocabTensor, table: Tensor, old: Tensor, head: Mixture | None
) -> tuple[Mixture | None, tuple[float, ...]]:
    """Write the new rows of a table; return how they were mixed, and what each lost when it was rounded."""
    # A callback gets the rows that were copied: whatever it does to them, the old table stays, and the checks see it.
    source = table[: min(plan.rows.old, plan.rows.new)] if isinstance(plan.init, Callback) else old
    made = new_rows(plan.init, tensor, source, plan.rows, seed=plan.seed, mixture=head)
    padding = made.rows[-1:].expand(len(plan.rows.padding), *made.rows.shape[1:])
    with torch.no_grad():
        table.index_copy_(0, fresh_rows(plan.rows).to(table.device), torch.cat([made.rows[:-1], padding]))
    return made.mixture, made.losses


def _certificate(plan: ResizePlan, tables: Mapping[str, _Table]) -> Certificate | None:
    """Return what bounds the shift of old predictions: how the head was mixed, and what rounding cost."""
    parts = [(t.role, tables[t.name]) for t in plan.tensors if t.role in {Role.HEAD, Role.BIAS}]
    mixture = next((table.mixture for role, table in parts if role == Role.HEAD), None)
    if mixture is None or any(table.mixture is not mixture for _, table in parts):
        return None
    losses = [max(several) for several in zip(*(table.losses for _, table in parts), strict=True)]
    reading = plan.before.reading
    return certify(mixture, plan.rows, losses, None if reading is None else reading.hidden)


def _swap(
    plan: ResizePlan, found: list[Place], tables: Mapping[str, _Table], undo: ExitStack
) -> dict[Tensor, tuple[nn.Parameter, int]]:
    """Point every owner of an old tensor to the new one; return which Parameter became which."""
    wide = {name: tensor for tensor in plan.tensors for name in tensor.names}
    successors: dict[int, Tensor] = {}
    moved: dict[Tensor, tuple[nn.Parameter, int]] = {}
    for place in found:
        tensor = wide.get(place.name)
        if tensor is None:
            continue
        old = place.tensor
        if id(old) not in successors:
            successors[id(old)] = _successor(old, tables[tensor.name].content, tensor.dim, plan.rows)
        new = successors[id(old)]
        if isinstance(old, nn.Parameter) and isinstance(new, nn.Parameter):
            moved[old] = (new, tensor.dim)
        undo.callback(setattr, place.owner, place.attribute, old)
        setattr(place.owner, place.attribute, new)
    return moved


def _successor(old: Tensor, content: Tensor, dim: int, rows: RowPlan) -> Tensor:
    """Return what takes the place of a tensor: of its kind, with its gradient, hooks and marks."""
    new = nn.Parameter(content, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else content.detach()
    vars(new).update(vars(old))
    if old.grad is not None:
        new.grad = grown(old.grad, dim, rows)
    # The very dictionaries, so that the handles by which hooks are removed still do that.
    for hooks in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        if getattr(old, hooks, None) is not None:
            setattr(new, hooks, getattr(old, hooks))
    return new


def _set_sizes(plan: ResizePlan, model: nn.Module, found: list[Place], undo: ExitStack) -> None:
    """Set the attributes of modules that say how many rows there are."""
    wide = {name: tensor for tensor in plan.tensors for name in tensor.names}
    wanted = [(module, name) for module in model.modules() for name in _COUNTS]
    for place in found:
        if place.name in wide and place.attribute == "weight":
            names = ("num_embeddings", "out_features") if wide[place.name].dim == 0 else ("nf", "in_features")
            wanted += [(place.owner, name) for name in names]
    for module, name in wanted:
        if vars(module).get(name) == plan.rows.old:
            undo.callback(setattr, module, name, plan.rows.old)
            setattr(module, name, plan.rows.new)
