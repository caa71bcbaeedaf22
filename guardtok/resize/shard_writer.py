"""One file of tensors, written anew with more rows, and read back to prove it.

safetensors keeps a table row after row, so the old table is a prefix of the new one: its bytes are copied, never
turned into numbers and back. What was read is hashed on its way, and what was written is read again and hashed too.
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
from guardtok.resize.row_bytes import KeptDigest, write_all
from guardtok.resize.safetensors_file import read_header, render_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from guardtok.resize.checkpoint import Shard, SourceFile
    from guardtok.resize.disk_plan import DirectoryPlan, TensorEdit
    from guardtok.resize.row_bytes import Pump
    from guardtok.resize.row_values import RowMean
    from guardtok.resize.safetensors_file import StoredTensor


@dataclass(frozen=True, slots=True)
class TensorProof:
    """What was proven of a tensor that was written: read back, it has these digests.

    Attributes:
        name: Its name.
        kept: SHA-256 over the old rows that stayed, in the old file and in the new one.
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
    if identify(os.fstat(opened.fileno())) != file.identity:
        opened.close()
        raise CheckpointChangedError(f"{shown(file.name)} was changed after the plan was made. Plan again.")
    return opened


def write_shard(shard: Shard, plan: DirectoryPlan, target: Path, pump: Pump) -> tuple[TensorProof, ...]:
    """Write a file of tensors as a plan wants it, and return what was proven of each tensor.

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
        proofs = []
        for tensor in tensors:
            source.seek(shard.header.data_start + tensor.start)
            edit = edits.get(tensor.name)
            if edit is None:
                whole = KeptDigest(1, ())
                pump.move(source, tensor.size, (whole,), written)
                proofs.append(TensorProof(tensor.name, whole.hexdigest()))
            else:
                start = shard.header.data_start + tensor.start
                proofs.append(_write_table(source, start, edit, plan, written, pump))
        written.seek(len(header))
        pump.flush(written, lambda: _read_back(written, tensors, edits, proofs, pump))
    return tuple(proofs)


def _size(edit: TensorEdit) -> int:
    return edit.row_bytes * edit.rows[1]


def _write_table(  # noqa: PLR0913, PLR0917 - two files, their places, and what to do
    source: FileIO, start: int, edit: TensorEdit, plan: DirectoryPlan, written: FileIO, pump: Pump
) -> TensorProof:
    """Copy a table's rows, add the new ones, and overwrite those that get new contents."""
    kept = KeptDigest(edit.row_bytes, edit.fills)
    mean = _mean_of(edit, plan)
    begin = written.tell()
    watchers = (kept,) if mean is None else (kept, mean)
    pump.move(source, edit.row_bytes * edit.kept, watchers, written, edit.row_bytes)
    made, bound = hashlib.sha256(), None
    if edit.fills or edit.rows[1] > edit.rows[0]:
        rows, bound = _new_rows(edit, plan, mean, source, start)
        for row in edit.fills:
            written.seek(begin + row * edit.row_bytes)
            raw = next(rows)
            made.update(raw)
            write_all(written, raw)
        written.seek(begin + edit.kept * edit.row_bytes)
        for raw in rows:
            made.update(raw)
            write_all(written, raw)
        return TensorProof(edit.name, kept.hexdigest(), made.hexdigest(), bound)
    return TensorProof(edit.name, kept.hexdigest())


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


def _read_back(
    written: FileIO,
    tensors: tuple[StoredTensor, ...],
    edits: Mapping[str, TensorEdit],
    proofs: list[TensorProof],
    pump: Pump,
) -> None:
    """Read what was written, and compare it with what was read and made.

    Raises:
        VerificationError: It is something else.
    """
    for tensor, proof in zip(tensors, proofs, strict=True):
        edit = edits.get(tensor.name)
        made = None
        if edit is None:
            kept = KeptDigest(1, ())
            pump.move(written, tensor.size, (kept,))
        else:
            kept, new = KeptDigest(edit.row_bytes, edit.fills), hashlib.sha256()
            begin = written.tell()
            pump.move(written, edit.row_bytes * edit.kept, (kept,), step=edit.row_bytes)
            for row in edit.fills:
                new.update(os.pread(written.fileno(), edit.row_bytes, begin + row * edit.row_bytes))
            for _ in range(*edit.rows):
                new.update(written.read(edit.row_bytes))
            made = new.hexdigest() if proof.made is not None else None
        if (kept.hexdigest(), made) != (proof.kept, proof.made):
            raise VerificationError(
                f"Tensor {shown(tensor.name)!r} was written and reads back otherwise. Check the disk."
            )
