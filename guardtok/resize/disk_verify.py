"""Whether a resized checkpoint is the old one with the rows that the plan says, and nothing else.

It is checked from the files alone, so it can be done by somebody else, later, on another machine: every old row bit
for bit, every other tensor too, each file beside them, and new rows that are finite and distinct.
"""

from __future__ import annotations

import hashlib
import os
import sys
from array import array
from dataclasses import dataclass
from io import FileIO
from typing import TYPE_CHECKING

from guardtok.errors import ResizeError
from guardtok.finding import Finding, Severity
from guardtok.resize.checkpoint import Checkpoint, Shard, SourceFile, open_checkpoint, read_bytes
from guardtok.resize.disk_planning import edited_files, plan_for
from guardtok.resize.json_file import shown
from guardtok.resize.row_bytes import CHUNK, Pump, Stretch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from guardtok.resize.disk_plan import DirectoryPlan, TensorEdit
    from guardtok.resize.safetensors_file import StoredTensor

_EXPONENTS = {"F16": ("H", 0x7C00), "BF16": ("H", 0x7F80), "F32": ("I", 0x7F800000), "F64": ("Q", 0x7FF << 52)}
"""For each type the unsigned integer of its size, and the bits that are all set where a number is not finite."""


@dataclass(frozen=True, slots=True)
class DirectoryCheck:
    """What a comparison of two checkpoints found.

    Attributes:
        findings: What is wrong, and as notes what was proven.
        old_rows_sha256: For each tensor of the vocabulary, by name, SHA-256 over the old rows that stayed.
    """

    findings: tuple[Finding, ...]
    old_rows_sha256: tuple[tuple[str, str], ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What is wrong."""
        return tuple(each for each in self.findings if each.severity is Severity.ERROR)

    def raise_for_errors(self) -> None:
        """Do nothing if nothing is wrong.

        Raises:
            ResizeError: Something is; `findings` has all that there is to say.
        """
        if self.errors:
            raise ResizeError("This is not the old checkpoint, resized as planned:", self.findings)


def verify_dir(
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    plan: DirectoryPlan,
    progress: Callable[[int, int], None] | None = None,
) -> DirectoryCheck:
    """Compare a resized checkpoint with the one that it was made from, byte for byte.

    Args:
        old: The checkpoint that the plan was made for, or a copy of it.
        new: The resized one.
        plan: What was to be done.
        progress: Called with the bytes that were compared so far, and with how many there are.

    Raises:
        CheckpointError: One of them is no checkpoint, or a broken or forged one.
        OSError: The system refused to read.
    """
    before, after = open_checkpoint(old), open_checkpoint(new)
    findings: list[Finding] = []
    if plan_for(before, plan.request).fingerprint != plan.fingerprint:
        fact = "It is not the checkpoint that the plan was made for."
        findings.append(Finding("source-changed", Severity.ERROR, "the old directory", fact, "Plan again."))
        return DirectoryCheck(tuple(findings), ())
    findings += structure_findings(before, after, plan)
    digests = []
    for name, digest, wrong in _compare_tensors(before, after, plan, {each.where for each in findings}, progress):
        findings += wrong
        if digest is not None and not any(each.severity is Severity.ERROR for each in wrong):
            digests.append((name, digest))
            fact = f"All old rows that stay are the same bytes, sha256:{digest}."
            findings.append(Finding("old-rows-kept", Severity.NOTE, shown(name), fact))
    for name in plan.copied:
        if name in after.files and _digest(before.files[name]) != _digest(after.files[name]):
            fact = "It does not hold what it held."
            findings.append(Finding("file-differs", Severity.ERROR, shown(name), fact, "Apply again."))
    return DirectoryCheck(tuple(findings), tuple(digests))


def _compare_tensors(
    before: Checkpoint,
    after: Checkpoint,
    plan: DirectoryPlan,
    wrong: set[str],
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[str, str | None, list[Finding]]]:
    """Yield for each tensor its name, the digest of its old rows if it is a table that changes, and what is wrong.

    Args:
        before: The old checkpoint.
        after: The new one.
        plan: What was to be done.
        wrong: Tensors that are not as planned by their headers alone; they are passed over.
        progress: Told of the bytes that were compared.
    """
    edits = {edit.name: edit for edit in plan.edits}
    there = {tensor.name: (shard, tensor) for shard, tensor in after.tensors()}
    tokens = frozenset(each.id for each in plan.tokens)
    total = sum(tensor.size for _, tensor in before.tensors())
    done = 0
    with Pump(lambda _: None) as pump:
        for shard, tensor in before.tensors():
            if shown(tensor.name) in wrong:
                continue
            other, resized = there[tensor.name]
            # The very same file needs no reading.
            if not os.path.samestat(shard.file.path.stat(), other.file.path.stat()):
                yield tensor.name, *_compare(pump, shard, tensor, other, resized, edits.get(tensor.name), tokens)
            done += tensor.size
            if progress is not None:
                progress(done, total)


def _digest(file: SourceFile) -> str:
    """Return the SHA-256 of a file.

    Raises:
        OSError: The system refused to read.
    """
    found = hashlib.sha256()
    with file.path.open("rb") as opened:
        while piece := opened.read(CHUNK):
            found.update(piece)
    return found.hexdigest()


def structure_findings(before: Checkpoint, after: Checkpoint, plan: DirectoryPlan) -> Iterator[Finding]:
    """Yield where headers and the files beside the tensors are not as planned; no tensor is read.

    Raises:
        CheckpointError: A file beside the tensors is broken.
        OSError: The system refused to read.
    """
    edits = {edit.name: edit for edit in plan.edits}
    planned = {
        tensor.name: (shard.file.name, tensor.dtype, edits[tensor.name].after if tensor.name in edits else tensor.shape)
        for shard, tensor in before.tensors()
    }
    there = {tensor.name: (shard.file.name, tensor.dtype, tensor.shape) for shard, tensor in after.tensors()}
    for name in sorted(planned.keys() | there.keys()):
        if name not in there:
            yield Finding("tensor-lost", Severity.ERROR, shown(name), "It is not there any more.", "Apply again.")
        elif name not in planned:
            fact = "The old checkpoint has no such tensor."
            yield Finding("tensor-appeared", Severity.ERROR, shown(name), fact, "Apply again.")
        elif planned[name] != there[name]:
            fact = "Its file, type or shape is not the one that was planned."
            yield Finding("tensor-differs", Severity.ERROR, shown(name), fact, "Apply again.")
    contents = edited_files(before, plan.request.extension, plan.edits, plan.rows).contents
    for name in sorted(contents):
        file = after.files.get(name)
        if file is None or read_bytes(file) != contents[name]:
            what = "is missing" if file is None else "does not hold what was planned"
            yield Finding("file-differs", Severity.ERROR, shown(name), f"The file {what}.", "Apply again.")
    for name in plan.copied:
        if name not in after.files or after.files[name].size != before.files[name].size:
            fact = "The file is missing, or has another size."
            yield Finding("file-differs", Severity.ERROR, shown(name), fact, "Apply again.")


def _compare(  # noqa: PLR0913, PLR0917 - two tensors, each in its file
    pump: Pump,
    shard: Shard,
    tensor: StoredTensor,
    other: Shard,
    resized: StoredTensor,
    edit: TensorEdit | None,
    tokens: frozenset[int],
) -> tuple[str | None, list[Finding]]:
    """Return the digest of a table's old rows, None for another tensor, and what is wrong with it."""
    findings: list[Finding] = []
    with FileIO(shard.file.path) as old, FileIO(other.file.path) as new:
        before = Stretch(old, shard.header.data_start + tensor.start)
        after = Stretch(new, other.header.data_start + resized.start)
        if edit is None:
            digest, same = None, pump.same(before, after, tensor.size)
        else:
            size = edit.row_bytes * edit.kept
            digest = pump.digest(after, size, edit.row_bytes, edit.fills)
            same = pump.same(before, after, size, edit.row_bytes, edit.fills)
            findings += _check_new_rows(new, after.start, edit, tokens)
    if not same:
        what = "The tensor is not the same bytes." if edit is None else "Its old rows are not the same bytes."
        code = "tensor-changed" if edit is None else "old-rows-changed"
        findings.insert(0, Finding(code, Severity.ERROR, shown(tensor.name), what, "Apply again."))
    return None if digest is None else digest.result(), findings


def _check_new_rows(new: FileIO, start: int, edit: TensorEdit, tokens: frozenset[int]) -> Iterator[Finding]:
    """Yield what is wrong with a table's new rows: not finite, or those of two tokens alike."""
    seen: set[bytes] = set()
    kind, bits = _EXPONENTS[edit.dtype]
    finite, alike = True, 0
    for row in (*edit.fills, *range(*edit.rows)):
        raw = os.pread(new.fileno(), edit.row_bytes, start + row * edit.row_bytes)
        numbers = array(kind, raw)
        if sys.byteorder == "big":
            numbers.byteswap()
        finite = finite and not any(number & bits == bits for number in numbers)
        if row in tokens:
            digest = hashlib.blake2b(raw, digest_size=16).digest()
            alike += digest in seen
            seen.add(digest)
    where = shown(edit.name)
    if not finite:
        yield Finding("new-rows-not-finite", Severity.ERROR, where, "A new row is not finite.", "Mend the old ones.")
    if alike and edit.width > 1:
        fact = f"The rows of {alike} new tokens are the same as another's, so the model cannot tell them apart."
        yield Finding("new-rows-equal", Severity.WARNING, where, fact, "Begin them in another way than `zero`.")
