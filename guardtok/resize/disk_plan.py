"""What a resize of a checkpoint on disk would do, as values: rows, tensors, files, and what speaks against it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from guardtok.errors import ResizeError
from guardtok.finding import Finding, Severity
from guardtok.resize.initial_rows import Initial
from guardtok.resize.json_file import shown
from guardtok.resize.safetensors_file import DTYPE_BITS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from guardtok.extension import Extension
    from guardtok.resize.rows import TokenRow
    from guardtok.resize.stored_configs import FileEdit
    from guardtok.resize.tensor_names import Role

KL_BUDGET = 1e-3
"""Nats that new tokens may shift a prediction by, where `role-aware` has the choice."""


@dataclass(frozen=True, slots=True)
class TensorEdit:
    """A stored tensor whose rows change.

    Attributes:
        name: Its name.
        shard: The file that holds it.
        dtype: Type of its elements, as safetensors names it.
        role: What it is.
        before: Its shape.
        after: Its shape then.
        rows: How many rows it has before and after.
        width: Elements of a row.
        fills: The rows below both that get new contents, ascending. All other old rows stay, bit for bit.
        makes_logits: Whether it is multiplied with hidden states, so that its new rows compete with old ones.
    """

    name: str
    shard: str
    dtype: str
    role: Role
    before: tuple[int, ...]
    after: tuple[int, ...]
    rows: tuple[int, int]
    width: int
    fills: tuple[int, ...]
    makes_logits: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.width * DTYPE_BITS[self.dtype] // 8

    @property
    def kept(self) -> int:
        """How many of the old rows are still there, the overwritten ones counted too."""
        return min(self.rows)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for.

    Attributes:
        extension: The tokens that the rows are for.
        multiple_of: Rows are rounded up to a multiple of this.
        initial: How new rows begin.
        kl_budget: Nats, for `Initial.ROLE_AWARE`.
        shrink: Whether rows that no token needs may go.
        claims: What tensors with unknown names are, by name.
        waive: Tensors that have the vocabulary's size by chance.
    """

    extension: Extension
    multiple_of: int = 1
    initial: Initial = Initial.ROLE_AWARE
    kl_budget: float = KL_BUDGET
    shrink: bool = False
    claims: tuple[tuple[str, Role], ...] = ()
    waive: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class DirectoryPlan:
    """What a resize of a checkpoint on disk will do.

    Attributes:
        source: The checkpoint's directory, links followed.
        request: What was asked for.
        rows: How many rows the vocabulary has before and after.
        live: How many rows, from the first, the mean is taken over: those that the base's tokens have.
        tokens: Where each token's row comes from.
        edits: The tensors that change.
        written: Files that are written anew, by name.
        linked: Files of tensors that stay as they are, and are linked where that is possible.
        copied: All other files, which are copied.
        file_edits: What changes in files beside the tensors.
        bytes_written: Bytes of tensors that are written.
        bytes_linked: Bytes of tensors that are linked.
        tied: Whether embedding and head are one, by the config, though a head is stored; they must then be equal.
        bounded: Whether a bound on KL holds for these rows: none is overwritten, and nothing squeezes the logits.
        findings: What speaks against it, or is worth knowing.
        files: Each file's name and identity, and the SHA-256 of what was read of it: of the header for a file of
            tensors, of the whole for a config or a tokenizer's file, empty for any other.
        fingerprint: SHA-256 over the request and what the plan was made from, without times and places.
    """

    source: Path
    request: Request
    rows: tuple[int, int]
    live: int
    tokens: tuple[TokenRow, ...]
    edits: tuple[TensorEdit, ...]
    written: tuple[str, ...]
    linked: tuple[str, ...]
    copied: tuple[str, ...]
    file_edits: tuple[FileEdit, ...]
    bytes_written: int
    bytes_linked: int
    tied: bool
    bounded: bool
    findings: tuple[Finding, ...]
    files: tuple[tuple[str, tuple[int, int, int, int], str], ...]
    fingerprint: str

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What stops it."""
        return tuple(each for each in self.findings if each.severity is Severity.ERROR)

    def raise_for_errors(self) -> None:
        """Do nothing if the plan can be applied.

        Raises:
            ResizeError: Something stops it; `findings` has all that there is to say.
        """
        if self.errors:
            raise ResizeError("This checkpoint cannot be resized as asked:", self.findings)

    def record(self) -> dict[str, Any]:
        """Return the plan as values that JSON knows, without identities of files."""
        made = asdict(self)
        del made["files"]
        made["source"] = str(self.source)
        made["request"]["waive"] = sorted(self.request.waive)
        made["request"]["claims"] = dict(self.request.claims)
        return made

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _lines(plan: DirectoryPlan) -> Iterator[str]:
    """Yield a plan line by line, for people."""
    before, after = plan.rows
    yield f"rows     {before:,} -> {after:,}" if before != after else f"rows     {before:,}, as before"
    for token in plan.tokens:
        yield f"token    {token.id} {shown(token.form)} ({token.action})"
    for edit in plan.edits:
        shapes = f"{list(edit.before)} -> {list(edit.after)}" if edit.before != edit.after else f"{list(edit.before)}"
        fills = f", {len(edit.fills)} overwritten" if edit.fills else ""
        yield f"tensor   {shown(edit.name)} {edit.dtype} {shapes}{fills} ({edit.role}, {shown(edit.shard)})"
    for change in plan.file_edits:
        old = "" if change.before is None else f"{shown(str(change.before))} -> "
        yield f"file     {change.file} {shown(change.where)}: {old}{shown(str(change.after))}"
    yield f"initial  {plan.request.initial}"
    yield f"written  {plan.bytes_written:,} bytes of tensors; {plan.bytes_linked:,} linked"
    for finding in plan.findings:
        yield str(finding)
    yield f"plan     sha256:{plan.fingerprint}"
