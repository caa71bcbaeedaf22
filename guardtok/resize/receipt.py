"""A receipt: what was done to a model and what was proven, to keep beside it and to hold it against later.

Rows that were meant to stay frozen do not always: weight decay moves them though their gradient is masked. The receipt
has their hashes, so one call after the training says whether they are still what they were.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from guardtok.errors import FrozenRowsError, ResizeError
from guardtok.finding import Finding, Severity

if TYPE_CHECKING:
    from torch import nn

VERSION = 1
"""Of the JSON."""


@dataclass(frozen=True, slots=True)
class TensorReceipt:
    """One tensor that was resized.

    Attributes:
        name: Its name.
        dim: Which dimension is the vocabulary.
        kept_sha256: Hash of the rows that stayed, as `guardtok.resize.digest` takes it.
    """

    name: str
    dim: int
    kept_sha256: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a resize did. `print` shows it; `to_json` and `from_json` keep it.

    Attributes:
        plan: Fingerprint of the plan.
        extension: Name of the extended vocabulary.
        tokenizer: Fingerprint of the extended tokenizer.
        rows_before: Rows there were.
        rows_after: Rows there are.
        overwritten: Old rows that new tokens took.
        tensors: Every tensor that was resized.
        kl_measured: Largest shift of an old prediction on the probe, in nats; None where no scores could be read.
        kl_certified: Bound on that shift for any input, in nats; None where nothing bounds it.
        kl_hidden: Largest 1-norm of a hidden state for which the bound holds; None: before rows were rounded.
        findings: What the checks had to say.
    """

    plan: str
    extension: str
    tokenizer: str
    rows_before: int
    rows_after: int
    overwritten: tuple[int, ...]
    tensors: tuple[TensorReceipt, ...]
    kl_measured: float | None
    kl_certified: float | None
    kl_hidden: float | None
    findings: tuple[Finding, ...]

    @property
    def rows_kept(self) -> int:
        """How many old rows stayed."""
        kept = min(self.rows_before, self.rows_after)
        return kept - sum(row < kept for row in self.overwritten)

    def to_json(self) -> str:
        """Return the receipt as one JSON object."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Receipt:
        """Return the receipt that `to_json` wrote.

        Raises:
            ResizeError: The text is no receipt, or one of another version.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            version = fields.pop("version")
            fields["overwritten"] = tuple(map(int, fields["overwritten"]))
            fields["tensors"] = tuple(TensorReceipt(**tensor) for tensor in fields["tensors"])
            fields["findings"] = tuple(
                Finding(**{**finding, "severity": Severity(finding["severity"])}) for finding in fields["findings"]
            )
            receipt = cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ResizeError("The text is not a receipt as `Receipt.to_json` writes it.") from None
        if version != VERSION:
            raise ResizeError(
                f"The receipt is of another version than {VERSION}. Read it with the guardtok of its time."
            )
        return receipt

    def assert_frozen(self, model: nn.Module) -> None:
        """Raise unless every old row is still, bit for bit, what it was when the model was resized.

        Args:
            model: The model later: trained, loaded again, or wrapped, which puts something before its names.

        Raises:
            FrozenRowsError: Old rows changed, or their tensor is gone; its findings name each tensor.
        """
        from guardtok.resize.frozen import find_changed

        changed = find_changed(self, model)
        if changed:
            raise FrozenRowsError("Old rows are not what they were:", changed)

    def __str__(self) -> str:
        from guardtok.resize.report import show_receipt

        return show_receipt(self)
