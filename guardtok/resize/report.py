"""A plan and a receipt, as text to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardtok.violation import broken

if TYPE_CHECKING:
    from guardtok.resize.plan import ResizePlan
    from guardtok.resize.receipt import Receipt

_SHOWN = 12


def show_plan(plan: ResizePlan) -> str:
    """Return a plan as lines of text."""
    rows = plan.rows
    grows = f"{plan.added_bytes:+,} bytes; {plan.extra_bytes:,} beside the model meanwhile"
    lines = [f"Resize for {plan.extension.name}: {rows.old} rows become {rows.new} ({grows})"]
    lines += [f"  {token.action:5} row {token.id}: {broken(token.form)}" for token in rows.tokens[:_SHOWN]]
    if len(rows.tokens) > _SHOWN:
        lines.append(f"  … and {len(rows.tokens) - _SHOWN} tokens more")
    if rows.padding:
        lines.append(f"  grow  {len(rows.padding)} rows of padding")
    lines.append("Tensors:")
    for tensor in plan.tensors:
        shape = " × ".join(map(str, tensor.shape))
        tied = f", tied with {', '.join(tensor.names[1:])}" if tensor.names[1:] else ""
        lines.append(f"  {tensor.role:5} {tensor.name}: {shape} {tensor.dtype}, rows along {tensor.dim}{tied}")
    lines.append(f"New rows: {plan.init}, seed {plan.seed}")
    if plan.certificate is not None:
        lines.append(f"Old predictions shift by at most {plan.certificate.kl:.3g} nats, whatever the input")
    if plan.edits:
        lines.append("Configs:")
        lines += [f"  {edit.where}: {edit.old} becomes {edit.new}" for edit in plan.edits]
    lines.append("Findings:" if plan.findings else "Findings: none")
    lines += [f"  {finding}" for finding in plan.findings]
    return "\n".join(lines)


def show_receipt(receipt: Receipt) -> str:
    """Return a receipt as lines of text."""
    lines = [f"Resized for {receipt.extension}: {receipt.rows_before} rows became {receipt.rows_after}"]
    lines += [
        f"  {tensor.name}: {receipt.rows_kept} old rows bit for bit, SHA-256 {tensor.kept_sha256[:16]}…"
        for tensor in receipt.tensors
    ]
    if receipt.kl_measured is not None:
        lines.append(f"Old predictions shifted by {receipt.kl_measured:.3g} nats where measured")
    if receipt.kl_certified is not None:
        reach = "" if receipt.kl_hidden is None else f" for hidden states of 1-norm up to {receipt.kl_hidden:.3g}"
        lines.append(f"They shift by at most {receipt.kl_certified:.3g} nats on any input{reach}")
    lines += [f"  {finding}" for finding in receipt.findings]
    return "\n".join(lines)
