"""Checks by running the resized model: new ids embed, old scores are what they were, new rows take little.

Old scores have two tiers. From the same hidden states, the old rows alone must give the same bits. The full head runs
another matrix product, for which torch promises no bits, so its scores are held to the precision of their type.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from guardtok.errors import ResizeError
from guardtok.finding import Finding, Severity
from guardtok.resize.divergence import logits_are_linear, measured_kl
from guardtok.resize.grown import kept_rows
from guardtok.resize.probe import default_ids, probe

if TYPE_CHECKING:
    from torch import Tensor

    from guardtok.resize.divergence import Certificate
    from guardtok.resize.plan import ResizePlan
    from guardtok.resize.probe import Reading

_ROOM = 1e-9
"""What a sum of doubles may be off."""


def judge_scores(
    plan: ResizePlan, model: nn.Module, certificate: Certificate | None
) -> tuple[list[Finding], float | None, Certificate | None]:
    """Return what running the model showed, the divergence that was measured, and the certificate if it holds.

    Args:
        plan: The plan, with what the model gave before.
        model: The model after it was resized.
        certificate: What the mixture of the rows says.
    """
    before = plan.before.reading
    if before is None:
        return [], None, certificate
    head = plan.head
    try:
        after = probe(model, head, before.ids, plan.rows.new)
        if plan.rows.written:
            highest = max(token.id for token in plan.rows.written)
            ids = default_ids(model, min(plan.rows.used, plan.rows.old), skip=plan.rows.overwritten, last=highest)
            probe(model, head, ids, plan.rows.new)
    except (ResizeError, AttributeError) as error:
        fact = f"It ran before, and does not now: {error}"
        return [Finding("does-not-run", Severity.ERROR, "model", fact)], None, None
    findings = [*_width_findings(plan, before, after)]
    if findings:
        return findings, None, None
    findings += _old_score_findings(plan, model, before, after)
    final = after.final
    if final is None or not (plan.rows.written or plan.rows.padding):
        return findings, None, None
    if certificate is not None and not _is_linear(plan, model, before.ids):
        certificate = None
    kept = torch.zeros(plan.rows.new, dtype=torch.bool)
    kept[kept_rows(plan.rows)] = True
    kl = measured_kl(final, kept)
    if not math.isfinite(kl):
        fact = "The model gives scores that are not finite, so no divergence can be measured."
        return [*findings, Finding("scores-not-finite", Severity.WARNING, head or "model", fact)], None, certificate
    findings += _kl_findings(plan, kl, certificate)
    return findings, kl, certificate


def _is_linear(plan: ResizePlan, model: nn.Module, ids: Tensor) -> bool:
    """Return whether scores leave the model as the head gave them, large ones too."""
    loud = probe(model, plan.head, ids, plan.rows.new, loud=True)
    return loud.scores is not None and loud.logits is not None and logits_are_linear(loud.scores, loud.logits)


def _width_findings(plan: ResizePlan, before: Reading, after: Reading) -> list[Finding]:
    findings = []
    for was, now, where in ((before.scores, after.scores, plan.head), (before.logits, after.logits, "model")):
        if was is not None and (now is None or now.shape[1] != plan.rows.new):
            fact = f"It gave {was.shape[1]} scores, and does not give {plan.rows.new} now."
            findings.append(Finding("scores-width", Severity.ERROR, where or "model", fact))
    return findings


def _old_score_findings(plan: ResizePlan, model: nn.Module, before: Reading, after: Reading) -> list[Finding]:
    kept = kept_rows(plan.rows)
    fact = "Scores of old tokens are not what they were."
    mend = "A bias that was not there, rows out of order, or a cast: other findings say which."
    if before.hidden is not None and before.exact is not None and plan.head is not None:
        exact = prefix_scores(model.get_submodule(plan.head), before.hidden, len(before.exact[0]))
        if exact is not None and not _same_bits(exact[:, kept], before.exact[:, kept]):
            return [Finding("old-scores-moved", Severity.ERROR, plan.head, fact, mend)]
    was, now = before.final, after.final
    if was is None or now is None:
        return []
    where = kept.to(now.device)
    off = float((now[:, where].double() - was[:, where].double()).abs().max()) if len(kept) else 0.0
    size = float(was[:, where].double().abs().max()) if len(kept) else 0.0
    if off > 32 * torch.finfo(was.dtype).eps * max(size, 1.0):
        return [Finding("old-scores-moved", Severity.ERROR, plan.head or "model", f"{fact} By up to {off:.3g}.", mend)]
    return []


def _kl_findings(plan: ResizePlan, kl: float, certificate: Certificate | None) -> list[Finding]:
    """Return what there is to say about how much the new rows take.

    Where a certificate holds it is the bound. Elsewhere it is the budget, but at least what twice an average row takes:
    no row can be asked to take less where the model has learned nothing yet.
    """
    where = plan.head or "model"
    fact = f"Old predictions shift by {kl:.3g} nats where measured."
    if certificate is not None:
        if kl > certificate.kl + _ROOM:
            fact += f" Certified are {certificate.kl:.3g}: the rows are not the mixture that was planned."
            return [Finding("kl-above-certificate", Severity.ERROR, where, fact)]
        return [Finding("kl", Severity.NOTE, where, fact)]
    new = len(plan.rows.written) + len(plan.rows.padding)
    limit = max(plan.init.kl_budget, math.log1p(2 * new / max(1, len(kept_rows(plan.rows)))))
    if kl > limit + _ROOM:
        mend = "Begin the new rows as means (`init.RoleAware()`), or raise `kl_budget`."
        return [Finding("kl-over-budget", Severity.ERROR, where, f"{fact} The limit is {limit:.3g}.", mend)]
    return [Finding("kl", Severity.NOTE, where, fact)]


def prefix_scores(head: nn.Module, hidden: Tensor, count: int) -> Tensor | None:
    """Return what the first rows of a head, and they alone, give for some hidden states; None for another kind of head.

    The same call on the same bits gives the same bits, however many rows follow.
    """
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    if not isinstance(weight, torch.Tensor) or hidden.shape[1] not in weight.shape:
        return None
    turned = type(head).__name__ == "Conv1D"
    with torch.no_grad():
        rows = (weight.t() if turned else weight)[:count].contiguous()
        return nn.functional.linear(hidden, rows, bias[:count] if isinstance(bias, torch.Tensor) else None)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two results are equal; a NaN equals a NaN."""
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
