"""Looks a model over and writes the plan: all that can be seen without touching it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from guardtok.errors import ResizeError
from guardtok.finding import Finding, Severity
from guardtok.resize.census import Role, take_census
from guardtok.resize.configs import Configs
from guardtok.resize.digest import digest
from guardtok.resize.divergence import certify
from guardtok.resize.fill import live_rows, plan_mixture
from guardtok.resize.grown import kept_rows
from guardtok.resize.optimizer import find_optimizer_problems
from guardtok.resize.places import places
from guardtok.resize.plan import Before, ResizePlan
from guardtok.resize.probe import default_ids, probe
from guardtok.resize.rows import RowAction, plan_rows
from guardtok.resize.scores import prefix_scores
from guardtok.resize.snapshot import Snapshot, take_snapshot
from guardtok.resize.support import find_unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from guardtok.extension import Extension
    from guardtok.resize.census import Census, VocabTensor
    from guardtok.resize.divergence import Certificate
    from guardtok.resize.init import Initialiser
    from guardtok.resize.plan import Probe
    from guardtok.resize.probe import Reading
    from guardtok.resize.rows import RowPlan

_ROUND = 64
"""A number of rows that is divisible by this is so on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the caller of `plan_resize` said, under the same names."""

    multiple_of: int | None
    init: Initialiser
    configs: tuple[object, ...]
    seed: int
    allow_shrink: bool
    waive: frozenset[str]
    embedding: str | None
    head: str | None
    also: frozenset[str]
    probe: Probe


def survey(model: nn.Module, extension: Extension, optimizer: Optimizer | None, wishes: Wishes) -> ResizePlan:
    """Return the plan for a model. Nothing is changed."""
    census = take_census(model, embedding=wishes.embedding, head=wishes.head, also=wishes.also, ignore=wishes.waive)
    found = places(model)
    named = {place.name: place for place in found}
    wide = {place.name for place in found if census.rows in place.tensor.shape and place.name not in wishes.waive}
    rows, unreadable = plan_rows(
        extension, census.rows, multiple_of=wishes.multiple_of, allow_shrink=wishes.allow_shrink
    )
    unsupported = find_unsupported(model, found, wide)
    findings = [*unreadable, *census.findings, *unsupported]
    if wishes.multiple_of is None and rows.old % _ROUND == 0 and rows.new % _ROUND:
        fact = f"{rows.old} is a multiple of {_ROUND}, {rows.new} is not."
        findings.append(Finding("odd-size", Severity.WARNING, "rows", fact, f"Say `multiple_of={_ROUND}`."))
    configs = Configs(model, wishes.configs)
    edits, config_findings = configs.plan(rows, extension.rows, extension.base_rows)
    findings += [*config_findings, *_tie_findings(configs, census)]
    parameters = _parameters(census.tensors, {name: place.tensor for name, place in named.items()})
    if optimizer is not None:
        findings += find_optimizer_problems(optimizer, model, parameters)
    before = Before(Snapshot({}, {}, ()), {}, configs.numbers(), None, None)
    certificate = None
    if census.tensors and not any(finding.severity == Severity.ERROR for finding in (*unreadable, *unsupported)):
        tables = {t.name: named[t.name].tensor.detach().movedim(t.dim, 0) for t in census.tensors}
        reading, trouble = _read(model, census, rows, wishes.probe)
        kept = kept_rows(rows)
        before = Before(
            take_snapshot(model),
            {name: digest(table, kept) for name, table in tables.items()},
            configs.numbers(),
            reading,
            None if optimizer is None else _held(optimizer, parameters),
        )
        certificate, doubts = _certificate(census, tables, rows, wishes)
        findings += [*trouble, *doubts, *_reused_alive(census, tables, rows)]
    plan = ResizePlan(
        extension,
        rows,
        census.tensors,
        census.head,
        edits,
        (),
        wishes.init,
        wishes.seed,
        certificate,
        before,
        wishes.configs,
    )
    findings += _memory_findings(plan, {name: place.tensor for name, place in named.items()})
    return replace(plan, findings=_ordered(findings, wishes.waive))


def _parameters(
    tensors: Iterable[VocabTensor], named: Mapping[str, Tensor]
) -> dict[str, tuple[torch.nn.Parameter, int]]:
    """Return every Parameter of the vocabulary, each once, by a name of it."""
    found: dict[int, tuple[str, torch.nn.Parameter, int]] = {}
    for tensor in tensors:
        for name in tensor.names:
            parameter = named[name]
            if isinstance(parameter, torch.nn.Parameter):
                found.setdefault(id(parameter), (name, parameter, tensor.dim))
    return {name: (parameter, dim) for name, parameter, dim in found.values()}


def _held(optimizer: Optimizer, parameters: Mapping[str, tuple[torch.nn.Parameter, int]]) -> tuple[str, ...]:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return tuple(name for name, (parameter, _) in parameters.items() if id(parameter) in held)


def _tie_findings(configs: Configs, census: Census) -> list[Finding]:
    head = next((tensor for tensor in census.tensors if tensor.role == Role.HEAD), None)
    for where, flag in configs.ties():
        if head is None:
            break
        entry = any(tensor.role == Role.INPUT for tensor in census.tensors)
        if flag and entry:
            fact = f"It says that {head.name} is the input's table, but it has its own."
            mend = "Loading would throw one of them away. Set the flag to what is so."
            return [Finding("tie-flag", Severity.ERROR, where, fact, mend)]
        if not flag and not entry:
            fact = f"It says that {head.name} is a table of its own, but it is the input's."
            mend = "Loading would split them. Set the flag to what is so."
            return [Finding("tie-flag", Severity.ERROR, where, fact, mend)]
        break
    return []


def _read(model: nn.Module, census: Census, rows: RowPlan, ids: Probe) -> tuple[Reading | None, list[Finding]]:
    if ids is False:
        return None, []
    if ids is True:
        ids = default_ids(model, min(rows.used, rows.old, rows.new), skip=rows.overwritten)
    try:
        reading = probe(model, census.head, ids, rows.old)
    except ResizeError as error:
        mend = "Give `probe` a batch that it takes, or `probe=False`. Scores and divergence are not measured."
        return None, [Finding("probe-failed", Severity.WARNING, "model", str(error), mend)]
    if census.head is None or reading.hidden is None:
        return reading, []
    exact = prefix_scores(model.get_submodule(census.head), reading.hidden, min(rows.old, rows.new))
    return replace(reading, exact=exact), []


def _certificate(
    census: Census, tables: Mapping[str, Tensor], rows: RowPlan, wishes: Wishes
) -> tuple[Certificate | None, list[Finding]]:
    head = next((tensor for tensor in census.tensors if tensor.role == Role.HEAD), None)
    if head is None or not (rows.written or rows.padding):
        return None, []
    mixture = plan_mixture(wishes.init, head.role, tables[head.name], rows, wishes.seed)
    if mixture is None:
        return None, []
    certificate = certify(mixture, rows, None, None)
    if certificate.kl <= wishes.init.kl_budget * (1 + 1e-9):
        return certificate, []
    fact = f"Certified are {certificate.kl:.2g} nats, above the budget of {wishes.init.kl_budget:.2g}."
    mend = "What is measured after the resize counts. Fewer tokens, or less of their pieces, certify more."
    return certificate, [Finding("kl-over-budget", Severity.WARNING, head.name, fact, mend)]


def _reused_alive(census: Census, tables: Mapping[str, Tensor], rows: RowPlan) -> list[Finding]:
    """Return a warning for each reserved slot whose row looks as if something had been learned in it."""
    slots = [token for token in rows.written if token.action == RowAction.REUSE]
    entry = tables[census.tensors[0].name]
    if not slots or not entry.is_floating_point():
        return []
    norms = torch.cat([part.flatten(1).float().norm(dim=1) for part in torch.split(entry, 4096)])
    usual = float(norms[live_rows(entry, rows).to(norms.device)].median())
    return [
        Finding(
            "row-looks-alive",
            Severity.WARNING,
            f"row {slot.id}",
            f"Its length is {float(norms[slot.id]):.3g}, like other rows' {usual:.3g}, and it is written anew.",
            "Is the slot really unused?",
        )
        for slot in slots
        if float(norms[slot.id]) > usual / 2
    ]


def _memory_findings(plan: ResizePlan, named: Mapping[str, Tensor]) -> list[Finding]:
    if not plan.tensors or not plan.rows.old:
        return []
    device = named[plan.tensors[0].name].device
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif device.type == "cpu" and hasattr(os, "sysconf"):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return []
    if plan.extra_bytes <= free:
        return []
    fact = f"{plan.extra_bytes} bytes are needed beside the model; {device} has {free}."
    return [Finding("memory", Severity.ERROR, str(device), fact, "Resize on disk: `guardtok.plan_resize_dir`.")]


def _ordered(findings: Iterable[Finding], waive: frozenset[str]) -> tuple[Finding, ...]:
    """Return the findings, the worst first; what the caller waived stops nothing."""
    rank = list(Severity)
    judged = [
        replace(finding, severity=Severity.NOTE, mend="Waived.") if finding.code in waive else finding
        for finding in findings
    ]
    return tuple(sorted(judged, key=lambda finding: rank.index(finding.severity)))
