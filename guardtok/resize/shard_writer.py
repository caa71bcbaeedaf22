"""One file of tensors, written anew with more rows, and read back to prove it.

safetensors keeps a table row after row, so the old table is a prefix of the new one: its bytes are copied, never
turned into numbers and back. When the file is whole, old and new are read again and compared byte for byte. Of a
table a digest is taken, too, from the new file.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from io import FileIO
from typing import TYPE_CHECKING

from guardtok.errors import CheckpointChangedError, VerificationError
from guardtok.resize.checkpoint import identify
from guardtok.resize.initial_rows import Blend, Initial, blend
from guardtok.resize.json_file import shown
from guardtok.resize.row_bytes import Stretch, write_all
from guardtok.resize.safetensors_file import read_header, render_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from guardtok.resize.checkpoint import Shard, SourceFile
    from guardtok.resize.disk_plan import DirectoryPlan, TensorEdit
    from guardtok.resize.row_bytes import Pump
    from guardtok.resize.row_values import RowMean


@dataclass(frozen=True, slots=True)
class TensorProof:
    """What was proven of a table that was written: read back, it has these digests.

    Attributes:
        name: Its name.
        kept: SHA-256 over the old rows that stayed, which are the same bytes in the old file and in the new one.
        made: SHA-256 over the new rows, overwritten ones first; None where there is none.
        bound: KL(old ‖ new) in nats is at most this for every input, as far as this table goes; None if nothing is
            known.
    """

    name: str
    kept: str
    made: str | None = None
    bound: float | None = None


def open_source(file: SourceFile) -> FileIO:
    """Open a file of the checkpoint, unbuffered, and make sure that it is the one that was planned for.

    Raises:
        CheckpointChangedError: It is another one, or was changed.
        OSError: The system refused to read.
    """
    opened = FileIO(file.path, "r")
    try:
        check_unchanged(file, opened)
    except CheckpointChangedError:
        opened.close()
        raise
    return opened


def check_unchanged(file: SourceFile, opened: FileIO) -> None:
    """Check that an open file is the one that was planned for, as far as its time and size tell.

    Raises:
        CheckpointChangedError: It is not.
        OSError: The system refused to look.
    """
    if identify(os.fstat(opened.fileno())) != file.identity:
        raise CheckpointChangedError(f"{shown(file.name)} was changed after the plan was made. Plan again.")


def write_shard(shard: Shard, plan: DirectoryPlan, target: Path, pump: Pump) -> tuple[TensorProof, ...]:
    """Write a file of tensors as a plan wants it, and return what was proven of each table in it.

    Args:
        shard: The file.
        plan: What becomes of its tensors.
        target: Where to write; nothing may be there.
        pump: Moves the bytes.

    Raises:
        CheckpointChangedError: The file is not the one that was planned for.
        CheckpointError: Its rows are not finite, or all zeros.
        VerificationError: What was read back is not what was written.
        OSError: The system refused to read or write.
    """
    edits = {edit.name: edit for edit in plan.edits if edit.shard == shard.file.name}
    tensors = shard.header.tensors
    planned = [
        (each.name, each.dtype, edits[each.name].after, _size(edits[each.name]))
        if each.name in edits
        else (each.name, each.dtype, each.shape, each.size)
        for each in tensors
    ]
    header = render_header(planned, shard.header.metadata)
    with open_source(shard.file) as source, FileIO(target, "x+") as written:
        if read_header(source, shard.file.size, shown(shard.file.name)) != shard.header:
            raise CheckpointChangedError(f"{shown(shard.file.name)} was changed after the plan was made. Plan again.")
        write_all(written, header)
        made: dict[str, _Made] = {}
        for tensor in tensors:
            start = shard.header.data_start + tensor.start
            source.seek(start)
            edit = edits.get(tensor.name)
            if edit is None:
                pump.move(source, tensor.size, written)
            else:
                made[tensor.name] = _write_table(source, start, edit, plan, written, pump)
        pump.flush(written, lambda: _read_back(shard, source, written, len(header), edits, made, pump))
    return tuple(TensorProof(name, each.kept.result(), each.digest, each.bound) for name, each in made.items())


@dataclass(frozen=True, slots=True)
class _Made:
    """What becomes known of a table while it is written.

    Attributes:
        kept: Will have the digest of its old rows in the new file.
        digest: The digest of its new rows; None where there is none.
        bound: The bound on KL that holds for them.
    """

    kept: Future[str]
    digest: str | None = None
    bound: float | None = None


def _size(edit: TensorEdit) -> int:
    return edit.row_bytes * edit.rows[1]


def _write_table(  # noqa: PLR0913, PLR0917 - two files, their places, and what to do
    source: FileIO, start: int, edit: TensorEdit, plan: DirectoryPlan, written: FileIO, pump: Pump
) -> _Made:
    """Copy a table's rows, add the new ones, and overwrite those that get new contents."""
    mean = _mean_of(edit, plan)
    begin, size = written.tell(), edit.row_bytes * edit.kept
    pump.move(source, size, written, mean, edit.row_bytes)
    kept = pump.digest(Stretch(written, begin), size, edit.row_bytes, edit.fills)
    if not edit.fills and edit.rows[1] <= edit.rows[0]:
        return _Made(kept)
    made = hashlib.sha256()
    rows, bound = _new_rows(edit, plan, mean, source, start)
    for row in edit.fills:
        written.seek(begin + row * edit.row_bytes)
        raw = next(rows)
        made.update(raw)
        write_all(written, raw)
    written.seek(begin + size)
    for raw in rows:
        made.update(raw)
        write_all(written, raw)
    return _Made(kept, made.hexdigest(), bound)


def _mean_of(edit: TensorEdit, plan: DirectoryPlan) -> RowMean | None:
    """Return what sums up a table's rows, or None where no row is made of them."""
    if plan.request.initial is Initial.ZERO or (not edit.fills and edit.rows[1] <= edit.rows[0]):
        return None
    from guardtok.resize.row_values import RowMean

    return RowMean(edit, plan.live)


def _new_rows(
    edit: TensorEdit, plan: DirectoryPlan, mean: RowMean | None, source: FileIO, start: int
) -> tuple[Iterator[bytes], float | None]:
    """Return the new rows, overwritten ones first, and the bound on KL that holds for them."""
    ids = (*edit.fills, *range(*edit.rows))
    if mean is None:
        return (bytes(edit.row_bytes) for _ in ids), None
    from guardtok.resize.row_values import RowMaker

    wanted = set(ids)
    pieces = {each.id: each.pieces for each in plan.request.extension.tokens if each.id in wanted}
    means = mean.mean()
    if edit.makes_logits:
        chosen = blend(
            plan.request.initial, list(pieces.values()), len(ids) - len(pieces), mean.count, plan.request.kl_budget
        )
    else:
        chosen = Blend(0.0 if plan.request.initial is Initial.MEAN else 1.0, None)

    def fetch(row: int) -> bytes:
        raw = os.pread(source.fileno(), edit.row_bytes, start + row * edit.row_bytes)
        if len(raw) < edit.row_bytes:
            raise CheckpointChangedError("A file of the checkpoint became shorter while it was read. Start again.")
        return raw

    return RowMaker(edit, means, chosen.share or 0.0, pieces, fetch).rows(ids), chosen.bound


def _read_back(  # noqa: PLR0913, PLR0917 - two files, and what was done
    shard: Shard,
    source: FileIO,
    written: FileIO,
    at: int,
    edits: Mapping[str, TensorEdit],
    made: Mapping[str, _Made],
    pump: Pump,
) -> None:
    """Read both files, and compare old with new.

    Args:
        shard: The old file's header.
        source: The old file.
        written: The new file.
        at: Where its first tensor lies.
        edits: What became of tables, by name.
        made: Their new rows, by name.
        pump: Reads and compares.

    Raises:
        CheckpointChangedError: The old file was changed meanwhile.
        VerificationError: What was written is something else.
    """
    for tensor in shard.header.tensors:
        old, new = Stretch(source, shard.header.data_start + tensor.start), Stretch(written, at)
        edit = edits.get(tensor.name)
        if edit is None:
            same = pump.same(old, new, tensor.size)
            at += tensor.size
        else:
            same = pump.same(old, new, edit.row_bytes * edit.kept, edit.row_bytes, edit.fills)
            digest = made[tensor.name].digest
            same = same and (digest is None or _digest_new(written, at, edit) == digest)
            at += _size(edit)
        if not same:
            check_unchanged(shard.file, source)
            raise VerificationError(
                f"Tensor {shown(tensor.name)!r} was written and reads back otherwise. Check the disk."
            )


def _digest_new(written: FileIO, start: int, edit: TensorEdit) -> str:
    """Return SHA-256 over a table's new rows as they read back, overwritten ones first."""
    found = hashlib.sha256()
    for row in (*edit.fills, *range(*edit.rows)):
        found.update(os.pread(written.fileno(), edit.row_bytes, start + row * edit.row_bytes))
    return found.hexdigest()
