"""Doing what a plan for a checkpoint on disk says, whole or not at all.

The old directory is only read. The new one is made beside its place, proven, and renamed; until then nothing has the
new name. If anything fails on the way it is removed, and if the process is killed the next run removes it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from guardtok.errors import (
    CheckpointChangedError,
    CheckpointError,
    CheckpointWriteError,
    ResizeError,
    VerificationError,
)
from guardtok.resize.checkpoint import Checkpoint, SourceFile, identify, open_checkpoint, read_bytes
from guardtok.resize.disk_planning import READ, edited_files, plan_for
from guardtok.resize.disk_verify import structure_findings
from guardtok.resize.initial_rows import Initial
from guardtok.resize.json_file import shown
from guardtok.resize.row_bytes import Pump, Stretch, write_all
from guardtok.resize.shard_writer import TensorProof, check_unchanged, open_source, write_shard
from guardtok.resize.staging import staged, write_error
from guardtok.resize.tensor_names import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.finding import Finding
    from guardtok.resize.disk_plan import DirectoryPlan

_SPARE = 1 << 20
"""Bytes that are left for directories and the like."""


@dataclass(frozen=True, slots=True)
class DirectoryReceipt:
    """What was done to a checkpoint on disk, and what was proven of it.

    Attributes:
        plan: The plan's fingerprint.
        out: The new directory.
        rows: How many rows the vocabulary had and has.
        old_rows_sha256: For each table of the vocabulary, by name, SHA-256 over the old rows that stayed, as they
            read back from the new file, which was compared with the old one byte for byte.
        new_rows_sha256: The same over the new rows, overwritten ones first.
        kl_certified: KL(old ‖ new) is at most so many nats for every input, in real arithmetic; None where nothing is
            proven. Rounding to the tables' type comes on top.
        linked: Files that are the very files of the old checkpoint.
        findings: What the plan had to say.
    """

    plan: str
    out: Path
    rows: tuple[int, int]
    old_rows_sha256: tuple[tuple[str, str], ...]
    new_rows_sha256: tuple[tuple[str, str], ...]
    kl_certified: float | None
    linked: tuple[str, ...]
    findings: tuple[Finding, ...]


def apply_dir(
    plan: DirectoryPlan, out: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None
) -> DirectoryReceipt:
    """Make a resized checkpoint in a new directory; the old one is not touched.

    Args:
        plan: What to do.
        out: The new directory; nothing may be there yet, and the directory that it goes into must be.
        progress: Called with the bytes that were worked through so far, and with how many there are.

    Raises:
        ResizeError: The plan has errors, or a head that should be the embedding is not.
        CheckpointChangedError: The checkpoint is no longer the one that the plan was made for.
        CheckpointError: The checkpoint is broken, or no mean can be taken of its rows.
        CheckpointWriteError: Something is at `out`, there is no space, or the system forbids to write there.
        VerificationError: What was written does not read back as it was.
        MissingExtraError: Means are to be taken, and NumPy is not installed.
    """
    plan.raise_for_errors()
    _require_numbers(plan)
    try:
        checkpoint = open_checkpoint(plan.source)
        if plan_for(checkpoint, plan.request) != plan:
            raise CheckpointChangedError("The checkpoint was changed after the plan was made. Plan again.")
        target = _free_target(plan, Path(out))
        _check_space(plan, target.parent)
        with staged(target) as folder:
            return _fill(checkpoint, plan, folder, target, progress)
    except OSError as error:
        raise error if isinstance(error, CheckpointWriteError) else write_error(error) from error


def _require_numbers(plan: DirectoryPlan) -> None:
    """Do nothing if there is all that the plan takes.

    Raises:
        MissingExtraError: NumPy is not there, and means are to be taken.
    """
    from guardtok.resize.row_values import require_numpy

    if plan.request.initial is not Initial.ZERO and any(
        each.fills or each.rows[1] > each.rows[0] for each in plan.edits
    ):
        require_numpy()


def _free_target(plan: DirectoryPlan, out: Path) -> Path:
    """Return the new directory's path, links followed up to its parent.

    Raises:
        CheckpointWriteError: Something is there, its parent is not, or it would lie in the old checkpoint.
        OSError: The system refused.
    """
    if os.path.lexists(out):
        raise CheckpointWriteError("There is something at the new name already. Remove it, or give another name.")
    parent = out.parent.resolve()
    if not out.name or not parent.is_dir():
        raise CheckpointWriteError("The directory that the new one goes into is not there. Make it first.")
    if plan.source in {parent, *parent.parents}:
        raise CheckpointWriteError("The new directory would lie within the old one. Give a place beside it.")
    return parent / out.name


def _check_space(plan: DirectoryPlan, parent: Path) -> None:
    """Do nothing if there is space for what will be written.

    Raises:
        CheckpointWriteError: There is not.
        OSError: The system refused.
    """
    device = parent.stat().st_dev
    needed = plan.bytes_written + _SPARE
    needed += sum(identity[2] for name, identity, _ in plan.files if name in plan.copied)
    needed += sum(identity[2] for name, identity, _ in plan.files if name in plan.linked and identity[0] != device)
    status = os.statvfs(parent)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise CheckpointWriteError(f"{needed:,} bytes would be written, and {free:,} are free. Make room first.")


def _fill(
    checkpoint: Checkpoint,
    plan: DirectoryPlan,
    folder: Path,
    target: Path,
    progress: Callable[[int, int], None] | None,
) -> DirectoryReceipt:
    """Make the new checkpoint in a directory, and prove it.

    Raises:
        As `apply_dir`.
    """
    done = 0
    # Every byte that is written is read twice: from the old file, and from the new one.
    total = 2 * (plan.bytes_written + sum(checkpoint.files[name].size for name in plan.copied))

    def report(count: int) -> None:
        nonlocal done
        done = min(done + count, total)
        if progress is not None:
            progress(done, total)

    proofs: list[TensorProof] = []
    linked = []
    with Pump(report) as pump:
        for shard in checkpoint.shards:
            name = shard.file.name
            if name not in plan.linked:
                proofs += write_shard(shard, plan, folder / name, pump)
            elif _link(shard.file, folder / name):
                linked.append(name)
            else:
                _copy(shard.file, folder / name, pump)
        for name in plan.copied:
            _copy(checkpoint.files[name], folder / name, pump)
    report(total)
    _check_ties(plan, proofs)
    contents = edited_files(checkpoint, plan.request.extension, plan.edits, plan.rows).contents
    for name, content in contents.items():
        with FileIO(folder / name, "x") as written:
            write_all(written, content)
            os.fsync(written.fileno())
    wrong = list(structure_findings(checkpoint, open_checkpoint(folder), plan))
    if wrong:
        raise VerificationError(f"What was made is not what was planned: {wrong[0]}")
    _still_there(checkpoint, plan)
    # Head and bias must be blended alike, row by row; a mean over other rows would be another bound.
    bounds = {each.bound for each in proofs if each.bound is not None}
    return DirectoryReceipt(
        plan=plan.fingerprint,
        out=target,
        rows=plan.rows,
        old_rows_sha256=tuple((each.name, each.kept) for each in proofs),
        new_rows_sha256=tuple((each.name, each.made) for each in proofs if each.made is not None),
        kl_certified=max(bounds) if len(bounds) == 1 and plan.bounded else None,
        linked=tuple(linked),
        findings=plan.findings,
    )


def _link(file: SourceFile, target: Path) -> bool:
    """Return whether a second name could be given to a file; where not, it has to be copied.

    Raises:
        CheckpointChangedError: It is not the file that was planned for.
        OSError: The system refused to look.
    """
    try:
        os.link(file.path, target)
    except OSError:
        # Another file system, or one without links, or somebody else's file.
        return False
    if identify(target.stat()) != file.identity:
        raise CheckpointChangedError(f"{shown(file.name)} was changed after the plan was made. Plan again.")
    return True


def _copy(file: SourceFile, target: Path, pump: Pump) -> None:
    """Copy a file as it is, and read the copy back.

    Raises:
        CheckpointChangedError: It is not the file that was planned for.
        VerificationError: The copy reads back otherwise.
        OSError: The system refused to read or write.
    """
    same = False

    def compare() -> None:
        nonlocal same
        same = pump.same(Stretch(source, 0), Stretch(written, 0), file.size)

    with open_source(file) as source, FileIO(target, "x+") as written:
        pump.move(source, file.size, written)
        pump.flush(written, compare)
        if not same:
            check_unchanged(file, source)
            raise VerificationError(f"{shown(file.name)} was copied and reads back otherwise. Check the disk.")


def _check_ties(plan: DirectoryPlan, proofs: list[TensorProof]) -> None:
    """Check that a head that is stored beside the embedding it is tied to has the same rows.

    Raises:
        ResizeError: It has not: a loader drops it, and the model says something else than it was trained to.
    """
    digests = {each.name: each.kept for each in proofs}
    tables = {edit.name: digests[edit.name] for edit in plan.edits if edit.role is not Role.BIAS}
    heads = [edit.name for edit in plan.edits if edit.role is Role.HEAD]
    if plan.tied and heads and len(set(tables.values())) > 1:
        raise ResizeError(
            f"The config ties the head to the embedding, and {shown(heads[0])!r} is stored with other rows. Untie the "
            "config, or remove the head, whichever is wrong."
        )


def _still_there(checkpoint: Checkpoint, plan: DirectoryPlan) -> None:
    """Check that nobody changed the old checkpoint meanwhile, as far as its files' times and sizes tell.

    Raises:
        CheckpointChangedError: Somebody did.
        OSError: The system refused.
    """
    digests = {name: digest for name, _, digest in plan.files if name in READ}
    try:
        same = all(identify(file.path.stat()) == file.identity for file in checkpoint.files.values()) and all(
            hashlib.sha256(read_bytes(checkpoint.files[name])).hexdigest() == digest for name, digest in digests.items()
        )
    except (FileNotFoundError, CheckpointError):
        same = False
    if not same:
        raise CheckpointChangedError("The checkpoint was changed while it was copied. Nothing was made; start again.")
