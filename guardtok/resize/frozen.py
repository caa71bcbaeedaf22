"""Whether the old rows of a model are still what a receipt says they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from guardtok.finding import Finding, Severity
from guardtok.resize.digest import digest
from guardtok.resize.places import places

if TYPE_CHECKING:
    from torch import nn

    from guardtok.resize.receipt import Receipt


def find_changed(receipt: Receipt, model: nn.Module) -> list[Finding]:
    """Return a finding for each tensor whose old rows changed, or which is not there any more."""
    named = {place.name: place.tensor for place in places(model)}
    staying = torch.ones(min(receipt.rows_before, receipt.rows_after), dtype=torch.bool)
    staying[[row for row in receipt.overwritten if row < len(staying)]] = False
    rows = staying.nonzero().flatten()
    findings = []
    for known in receipt.tensors:
        # A wrapper (torch.compile, DDP) puts a name of its own before that of each tensor.
        fitting = [t for name, t in named.items() if f".{name}".endswith(f".{known.name}")]
        if len(fitting) != 1:
            fact = f"The model has {len(fitting)} tensors of that name."
            findings.append(Finding("tensor-missing", Severity.ERROR, known.name, fact))
        elif fitting[0].dim() <= known.dim or fitting[0].shape[known.dim] < len(staying):
            fact = f"Its shape {tuple(fitting[0].shape)} has not all the old rows."
            findings.append(Finding("old-rows-missing", Severity.ERROR, known.name, fact))
        elif digest(fitting[0].movedim(known.dim, 0), rows) != known.kept_sha256:
            fact = f"At least one of its {len(rows)} old rows changed."
            mend = "Weight decay moves rows whose gradient is masked: put the table into a group without it."
            findings.append(Finding("old-rows-changed", Severity.ERROR, known.name, fact, mend))
    return findings
