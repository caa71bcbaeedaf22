"""A plan: what a resize would do to a model, written down before anything is touched.

Adding tokens goes wrong in silence, so the order is always the same: look at everything, say what is found, let
somebody read it, change all of it or nothing, and prove afterwards that what was to stay has stayed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from guardtok.errors import MissingExtraError, ResizeError
from guardtok.finding import Severity
from guardtok.resize.init import RoleAware

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from guardtok.extension import Extension
    from guardtok.finding import Finding
    from guardtok.resize.census import VocabTensor
    from guardtok.resize.configs import ConfigEdit
    from guardtok.resize.divergence import Certificate
    from guardtok.resize.init import Initialiser
    from guardtok.resize.probe import Reading
    from guardtok.resize.rows import RowPlan
    from guardtok.resize.snapshot import Snapshot
    from guardtok.resize.transaction import Transaction

Probe: TypeAlias = "Tensor | bool"
"""A batch of ids to run the model on; True for eight that are spread over the vocabulary; False not to run it."""


@dataclass(frozen=True, slots=True)
class Before:
    """What a model was when it was planned for.

    Attributes:
        model: All of it, as hashes.
        kept: For each vocabulary tensor the hash of the rows that stay.
        numbers: Every size, special id and tie flag of the configs.
        reading: What a forward pass showed; None where none was made.
        optimized: Names of the vocabulary's parameters that an optimizer held; None where no optimizer was given.
    """

    model: Snapshot
    kept: Mapping[str, str]
    numbers: Mapping[str, object]
    reading: Reading | None
    optimized: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, eq=False)
class ResizePlan:
    """What resizing a model for an extension does. `print` shows it.

    Attributes:
        extension: The tokens that are added.
        rows: Which rows stay, are filled, are added.
        tensors: Every tensor that grows.
        head: Name of the module that gives scores, or None.
        edits: What changes in configs.
        findings: What was found, errors first. An error stops `apply`.
        init: What new rows begin as.
        seed: Seed of what is drawn.
        certificate: By how much old predictions can shift at most, whatever the input; None where nothing bounds that.
        before: The model as it was.
        more: The configs that were given.
    """

    extension: Extension
    rows: RowPlan
    tensors: tuple[VocabTensor, ...]
    head: str | None
    edits: tuple[ConfigEdit, ...]
    findings: tuple[Finding, ...]
    init: Initialiser
    seed: int
    certificate: Certificate | None
    before: Before = field(repr=False)
    more: tuple[object, ...] = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """A hash of the model as it was and of what is to be done; a receipt names its plan by it."""
        parts = (
            self.before.model.fingerprint,
            self.extension,
            self.rows,
            self.tensors,
            self.edits,
            self.init,
            self.seed,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    @property
    def added_bytes(self) -> int:
        """Bytes by which the model grows."""
        return sum(tensor.size // self.rows.old * (self.rows.new - self.rows.old) for tensor in self.tensors)

    @property
    def extra_bytes(self) -> int:
        """Bytes that are needed beside the model while the old tensors are still there."""
        return sum(tensor.size // self.rows.old * self.rows.new for tensor in self.tensors)

    def raise_for_errors(self) -> None:
        """Raise if the plan cannot be applied.

        Raises:
            ResizeError: There are findings of severity `error`, which it lists.
        """
        if any(finding.severity == Severity.ERROR for finding in self.findings):
            raise ResizeError("The model cannot be resized as it stands:", self.findings)

    def apply(self, model: nn.Module, optimizer: Optimizer | None = None) -> Transaction:
        """Resize the model, verify it, and return the transaction, which holds the receipt.

        Everything is done and checked when this returns. Within `with plan.apply(model) as done:` an exception puts
        the model back, so that a check of one's own can decide; `done.rollback()` does the same.

        Args:
            model: The model that was planned for. Its modules stay the same objects; vocabulary parameters are new.
            optimizer: Its optimizer, which follows.

        Raises:
            ResizeError: The plan has errors, or a check failed; the model, its configs and the optimizer are exactly
                what they were: the same objects, in the same memory.
            ModelChangedError: Something is not as it was planned for; nothing was touched.
        """
        from guardtok.resize.transaction import apply

        return apply(self, model, optimizer)

    def verify(
        self, model: nn.Module, optimizer: Optimizer | None = None, *, reloaded: bool = False
    ) -> tuple[Finding, ...]:
        """Return what is not as this plan says, in a model that anybody resized.

        Args:
            model: The model after it was resized, by guardtok or by hand.
            optimizer: Its optimizer.
            reloaded: It was saved and loaded again, so that devices, hooks and flags of training are its own.
        """
        from guardtok.resize.verify import verify

        return tuple(verify(self, model, optimizer, reloaded=reloaded).findings)

    def __str__(self) -> str:
        from guardtok.resize.report import show_plan

        return show_plan(self)


def plan_resize(  # noqa: PLR0913 - each is one thing to say about one model, by name
    model: nn.Module,
    extension: Extension,
    optimizer: Optimizer | None = None,
    *,
    multiple_of: int | None = None,
    init: Initialiser | None = None,
    configs: Collection[object] = (),
    seed: int = 0,
    allow_shrink: bool = False,
    waive: Collection[str] = (),
    embedding: str | None = None,
    head: str | None = None,
    also: Collection[str] = (),
    probe: Probe = True,
) -> ResizePlan:
    """Plan how a model gets rows for new tokens. Nothing is changed.

    Every tensor is hashed, so this takes about as long as reading the model once.

    Args:
        model: A torch module; a transformers model says itself where its layers are.
        extension: The tokens, from `guardtok.extend`.
        optimizer: The optimizer that trains the model, if training goes on.
        multiple_of: What the number of rows shall be divisible by.
        init: What new rows begin as, from `guardtok.resize.init`; `RoleAware()` if None.
        configs: Configs beside those that the model holds: dictionaries or objects. `apply` edits them.
        seed: Seed of what is drawn.
        allow_shrink: Cut rows that no token needs. Otherwise rows are never taken away.
        waive: Codes of findings that shall not stop `apply`, and names of tensors that are as long as the vocabulary by
            chance.
        embedding: Name of the module that takes ids, where guardtok does not find it.
        head: Name of the module that gives scores, where guardtok does not find it.
        also: Names of further tensors that grow with the vocabulary.
        probe: Ids to run the model on, True for some, False not to run it. It is run in evaluation mode and left as it
            was; without it scores and divergence are not measured.

    Raises:
        MissingExtraError: torch is not installed.
        ValueError: `multiple_of` is not positive.
    """
    try:
        from guardtok.resize.survey import Wishes, survey
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("To resize a model in memory: pip install 'guardtok[torch]'.") from None
    if multiple_of is not None and multiple_of < 1:
        raise ValueError(f"multiple_of is {multiple_of}; it must be at least 1.")
    wishes = Wishes(
        multiple_of=multiple_of,
        init=init or RoleAware(),
        configs=tuple(configs),
        seed=seed,
        allow_shrink=allow_shrink,
        waive=frozenset(waive),
        embedding=embedding,
        head=head,
        also=frozenset(also),
        probe=probe,
    )
    return survey(model, extension, optimizer, wishes)
