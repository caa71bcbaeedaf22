"""The checks after a resize: that what was to stay has stayed, and that what is new is sound.

They hold a model against the plan and its hashes, not against what guardtok remembers of its own work. So they judge
surgery by hand, and a checkpoint that was saved and loaded again, by the same measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from guardtok.errors import ResizeError
from guardtok.finding import Finding, Severity
from guardtok.resize.census import Role
from guardtok.resize.configs import Configs
from guardtok.resize.digest import digest
from guardtok.resize.fill import are_distinct
from guardtok.resize.grown import kept_rows
from guardtok.resize.optimizer import find_membership_problems
from guardtok.resize.places import places
from guardtok.resize.scores import judge_scores
from guardtok.resize.snapshot import take_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from guardtok.resize.divergence import Certificate
    from guardtok.resize.plan import ResizePlan
    from guardtok.resize.snapshot import ModuleState, Snapshot, TensorState

_SIZES = {"num_embeddings", "out_features", "in_features", "nf", "nx"}
_LONGER = 2.0
"""Noise may make a row somewhat longer than every old one; an explosion is more than that."""

_RUNTIME = {"training", "_is_hf_initialized"}


@dataclass(frozen=True, slots=True)
class Verified:
    """What the checks found.

    Attributes:
        findings: All of it; those of severity `error` undo a resize.
        kl: Largest shift of an old prediction, in nats; None where no scores could be read.
        certificate: What bounds it; None where nothing does.
    """

    findings: tuple[Finding, ...]
    kl: float | None
    certificate: Certificate | None


def verify(
    plan: ResizePlan,
    model: nn.Module,
    optimizer: Optimizer | None,
    *,
    reloaded: bool = False,
    certificate: Certificate | None = None,
) -> Verified:
    """Hold a model against the plan for it.

    Args:
        plan: The plan.
        model: The model after it was resized.
        optimizer: Its optimizer, if training goes on.
        reloaded: It was saved and loaded again: devices, hooks and flags of training are its own.
        certificate: What the rows that were written certify.
    """
    named = {place.name: place.tensor for place in places(model)}
    after = take_snapshot(model)
    findings = [
        *_tensor_findings(plan, after, reloaded=reloaded),
        *_old_row_findings(plan, named),
        *_tie_findings(plan, after),
        *_module_findings(plan, after, reloaded=reloaded),
        *_config_findings(plan, model),
        *_new_row_findings(plan, named),
    ]
    if optimizer is not None:
        findings += find_membership_problems(optimizer, model, plan.before.optimized or ())
    kl = None
    if not any(finding.code == "wrong-shape" for finding in findings):
        judged, kl, certificate = judge_scores(plan, model, certificate)
        findings += judged
    order = list(Severity)
    return Verified(tuple(sorted(findings, key=lambda f: order.index(f.severity))), kl, certificate)


def raise_for_errors(findings: tuple[Finding, ...]) -> None:
    """Raise if there is an error among the findings.

    Raises:
        ResizeError: There is one.
    """
    if any(finding.severity == Severity.ERROR for finding in findings):
        raise ResizeError("The resized model is not what was planned:", findings)


def _error(code: str, where: str, fact: str, mend: str = "") -> Finding:
    return Finding(code, Severity.ERROR, where, fact, mend)


def _tensor_findings(plan: ResizePlan, after: Snapshot, *, reloaded: bool) -> Iterator[Finding]:
    """Yield where tensors came, went or changed that had no reason to."""
    wide = {name: tensor for tensor in plan.tensors for name in tensor.names}
    before = plan.before.model.tensors
    for name in after.tensors.keys() - before.keys():
        if after.tensors[name].kind in {"parameter", "buffer"}:
            what = "bias" if name.rpartition(".")[2] == "bias" else "tensor"
            yield _error(
                f"{what}-appeared",
                name,
                f"The model had no such {what}; every score that it is added to moves."
                if what == "bias"
                else "The model had no such tensor.",
                "Make the layer with `bias=False`, as the old one was." if what == "bias" else "",
            )
    for name, old in before.items():
        new = after.tensors.get(name)
        if reloaded and old.kind in {"passing", "attribute"}:
            continue  # It is not saved: it was computed anew.
        if new is None:
            if old.kind in {"parameter", "buffer"}:
                yield _error("tensor-missing", name, "The model has it no more.")
            continue
        if name in wide:
            tensor = wide[name]
            shape = tuple(plan.rows.new if d == tensor.dim else size for d, size in enumerate(tensor.shape))
            if new.shape != shape:
                yield _error("wrong-shape", name, f"Its shape is {new.shape}; planned is {shape}.")
        elif new.digest != old.digest:
            yield _error("other-tensor-changed", name, "It has no vocabulary dimension, and it changed.")
        yield from _kind_findings(name, old, new, reloaded=reloaded)


def _kind_findings(name: str, old: TensorState, new: TensorState, *, reloaded: bool) -> Iterator[Finding]:
    if new.dtype != old.dtype:
        yield _error("dtype-changed", name, f"It was {old.dtype} and is {new.dtype}.", "Pass `dtype=`.")
    if reloaded:
        return
    if new.device != old.device:
        yield _error("device-changed", name, f"It was on {old.device} and is on {new.device}.", "Pass `device=`.")
    if new.trainable != old.trainable:
        was, now = ("trainable", "frozen") if old.trainable else ("frozen", "trainable")
        yield _error("trainable-changed", name, f"It was {was} and is {now}.", "Set `requires_grad` as it was.")
    if new.marks != old.marks:
        yield _error("marks-lost", name, f"What was attached to it was {old.marks} and is {new.marks}.")


def _old_row_findings(plan: ResizePlan, named: Mapping[str, Tensor]) -> Iterator[Finding]:
    """Yield the tensors whose old rows are not, bit for bit, what they were."""
    kept = kept_rows(plan.rows)
    for tensor in plan.tensors:
        now = named.get(tensor.name)
        if now is None or now.dim() <= tensor.dim or now.shape[tensor.dim] < len(kept):
            continue  # Said already: it is missing, or its shape is wrong.
        if digest(now.movedim(tensor.dim, 0), kept) != plan.before.kept[tensor.name]:
            fact = f"At least one of the {len(kept)} old rows is not what it was."
            yield _error("old-rows-changed", tensor.name, fact, "Copy them without a cast, all of them.")


def _tie_findings(plan: ResizePlan, after: Snapshot) -> Iterator[Finding]:
    was, now = set(plan.before.model.ties), set(after.ties)
    for names in sorted(was - now):
        fact = f"{', '.join(names)} were one tensor and are not any more."
        yield _error("tie-lost", names[0], fact, "Assign one Parameter to both.")
    for names in sorted(now - was):
        if not any(set(names) < set(others) for others in was):
            yield _error("tie-appeared", names[0], f"{', '.join(names)} were not one tensor and are now.")


def _module_findings(plan: ResizePlan, after: Snapshot, *, reloaded: bool) -> Iterator[Finding]:
    """Yield the modules that are not what they were, but for their number of rows."""
    for name, old in plan.before.model.modules.items():
        new, where = after.modules.get(name), name or "model"
        if new is None:
            yield _error("module-missing", where, "The model has it no more.")
            continue
        if new.cls != old.cls:
            yield _error("layer-changed", where, f"It was a {old.cls} and is a {new.cls}.")
        if new.hooks != old.hooks and not reloaded:
            fact = f"It had {sum(old.hooks)} hooks and has {sum(new.hooks)}."
            yield _error("hooks-lost", where, fact, "Keep the module and exchange its parameter only.")
        yield from _attribute_findings(plan, where, old, new, reloaded=reloaded)
        yield from _size_findings(plan, name, new)


def _attribute_findings(
    plan: ResizePlan, where: str, old: ModuleState, new: ModuleState, *, reloaded: bool
) -> Iterator[Finding]:
    for key in sorted(old.attributes.keys() | new.attributes.keys()):
        was, now = old.attributes.get(key), new.attributes.get(key)
        resized = key in _SIZES and (was, now) == (repr(plan.rows.old), repr(plan.rows.new))
        if was != now and not resized and not (reloaded and key in _RUNTIME):
            yield _error("layer-changed", where, f"Its `{key}` was {was} and is {now}.", "Make it as the old one was.")


def _size_findings(plan: ResizePlan, module: str, new: ModuleState) -> Iterator[Finding]:
    """Yield a layer that says another number of rows than its table has."""
    for tensor in plan.tensors:
        for name in tensor.names:
            if name.rpartition(".")[0] != module or name.rpartition(".")[2] != "weight":
                continue
            keys = ("num_embeddings", "out_features") if tensor.dim == 0 else ("nf", "in_features")
            for key in keys:
                said = new.attributes.get(key)
                if said is not None and said != repr(plan.rows.new):
                    fact = f"Its `{key}` is {said}, its table has {plan.rows.new} rows."
                    yield _error("size-attribute", module or "model", fact, f"Set `{key}`.")


def _config_findings(plan: ResizePlan, model: nn.Module) -> Iterator[Finding]:
    numbers = Configs(model, plan.more).numbers()
    edits = {edit.where: edit.new for edit in plan.edits}
    for where, was in plan.before.numbers.items():
        now = numbers.get(where)
        if where in edits:
            if now != edits[where]:
                fact = f"It says {now}; the tables have {plan.rows.new} rows."
                yield _error("config-stale", where, fact, f"Set it to {edits[where]}.")
        elif now is None and was is not None:
            yield _error("special-id-erased", where, f"It was {was} and is gone.", "Set it as it was.")
        elif now != was:
            yield _error("config-changed", where, f"It was {was} and is {now}.", "Set it as it was.")


def _new_row_findings(plan: ResizePlan, named: Mapping[str, Tensor]) -> Iterator[Finding]:
    """Yield new rows that are not finite, longer than any old one, nothing at all, or twice the same."""
    fresh = torch.tensor([token.id for token in plan.rows.written], dtype=torch.long)
    kept = kept_rows(plan.rows)
    for tensor in plan.tensors:
        now = named.get(tensor.name)
        if now is None or not now.is_floating_point() or now.dim() <= tensor.dim or not len(fresh) or not len(kept):
            continue
        table = now.detach().movedim(tensor.dim, 0).flatten(1) if now.dim() > 1 else now.detach()[:, None]
        if len(table) <= max(int(fresh.max()), int(kept.max())):
            continue
        rows = table[fresh.to(table.device)]
        if not bool(rows.isfinite().all()):
            yield _error("not-finite", tensor.name, "A new row has an infinity or a NaN.")
            continue
        if tensor.role == Role.BIAS:
            continue
        lengths = torch.cat([part.float().norm(dim=1) for part in torch.split(table, 4096)])
        longest = float(lengths[kept.to(lengths.device)].nan_to_num(0.0, 0.0).max())
        news = lengths[fresh.to(lengths.device)]
        if float(news.max()) > longest * _LONGER:
            fact = f"A new row has length {float(news.max()):.3g}; the longest old one has {longest:.3g}."
            yield _error("new-rows-too-long", tensor.name, fact, "Scale the initialiser down.")
        if not bool(news.all()):
            yield Finding("new-rows-zero", Severity.WARNING, tensor.name, "A new row is zero.")
        if not are_distinct(rows):
            fact = "Two new tokens have the same row in this type, so the head cannot learn to tell them apart."
            yield Finding("new-rows-equal", Severity.WARNING, tensor.name, fact, "Use another initialiser.")
