"""Checkpoints resized on disk: old rows bit for bit, new rows as asked, and nothing half-made whatever happens."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from checkpoints import EMBEDDING, HEAD, OTHER, ROWS, WIDTH, config, extension, llama, names, numbers, snapshot, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import guardtok
from guardtok.errors import (
    CheckpointChangedError,
    CheckpointError,
    CheckpointWriteError,
    MissingExtraError,
    ResizeError,
    VerificationError,
)
from guardtok.extension import Placement
from guardtok.resize import disk_apply, row_bytes
from guardtok.resize.checkpoint import Checkpoint, open_checkpoint
from guardtok.resize.row_values import to_numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def rows_of(folder: Path, name: str) -> NDArray[Any]:
    """Return a stored table as numbers."""
    dtype, shape, raw = stored(open_checkpoint(folder), name)
    return to_numbers(raw, dtype).astype(np.float64).reshape(shape)


def stored(found: Checkpoint, name: str) -> tuple[str, tuple[int, ...], bytes]:
    """Return type, shape and bytes of a stored tensor."""
    shard, tensor = next((shard, tensor) for shard, tensor in found.tensors() if tensor.name == name)
    data = shard.file.path.read_bytes()[shard.header.data_start :]
    return tensor.dtype, tensor.shape, data[tensor.start : tensor.end]


@given(
    dtype=st.sampled_from(["F64", "F32", "F16", "BF16"]),
    shards=st.sampled_from([1, 3]),
    tied=st.booleans(),
    padding=st.integers(0, 5),
    more=st.integers(1, 6),
    multiple=st.sampled_from([None, 1, 8, 64]),
    initial=st.sampled_from(["role-aware", "mean", "subword", "zero"]),
    step=st.sampled_from([WIDTH * 8, 1000, 1 << 20]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_old_rows_stay_bit_for_bit(  # noqa: PLR0913, PLR0917 - one for each thing that varies
    tmp_path: Path,
    dtype: str,
    shards: int,
    tied: bool,  # noqa: FBT001
    padding: int,
    more: int,
    multiple: int | None,
    initial: str,
    step: int,
) -> None:
    """Whatever is asked: old tables are prefixes of the new ones, rows overwritten apart; the source is untouched."""
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(new, ignore_errors=True)
    tensors = llama(dtype, tied=tied)
    write(
        old,
        tensors,
        {"config.json": config(tie_word_embeddings=tied), "README.json": {}},
        shards=min(shards, len(tensors)),
    )
    before = snapshot(old)
    asked = extension(*range(ROWS - padding, ROWS - padding + more), base=ROWS - padding)
    plan = guardtok.plan_resize_dir(old, asked, multiple, initial)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_bytes, "CHUNK", step)
        receipt = guardtok.apply_dir(plan, new)
    after = plan.rows[1]
    assert after >= max(ROWS, asked.rows)
    assert after % (multiple or 1) == 0
    found = open_checkpoint(new)
    for name, (_, shape, raw) in tensors.items():
        size = len(raw) // shape[0]
        _, now, data = stored(found, name)
        if name == OTHER:
            assert (now, data) == (shape, raw)
            continue
        assert now == (after, WIDTH)
        kept = [row for row in range(ROWS) if row < ROWS - padding or row >= ROWS - padding + more]
        assert all(data[row * size :][:size] == raw[row * size :][:size] for row in kept)
        made = {data[each.id * size :][:size] for each in asked.tokens}
        assert len(made) == (1 if initial == "zero" else more)
    assert snapshot(old) == before
    assert set(names(new)) == set(names(old))
    check = guardtok.verify_dir(old, new, plan)
    assert check.errors == ()
    assert dict(check.old_rows_sha256) == dict(receipt.old_rows_sha256)
    assert [each for each in names(tmp_path) if "guardtok" in each] == []


def test_files_without_rows_are_linked_and_small_files_copied(tmp_path: Path) -> None:
    """A shard without a table of the vocabulary is the same file; a config, which may be edited, is one of its own."""
    old = write(tmp_path / "old", llama(), {"config.json": config(), "extra.json": {}}, shards=3)
    receipt = guardtok.apply_dir(guardtok.plan_resize_dir(old, extension(ROWS)), tmp_path / "new")
    assert len(receipt.linked) == 1
    for name in receipt.linked:
        assert (old / name).samefile(tmp_path / "new" / name)
    assert not (old / "extra.json").samefile(tmp_path / "new" / "extra.json")


def test_without_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no second name to a file, its bytes are copied and read back."""
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "no")))
    old = write(tmp_path / "old", llama(), shards=3)
    plan = guardtok.plan_resize_dir(old, extension(ROWS))
    assert guardtok.apply_dir(plan, tmp_path / "new").linked == ()
    assert guardtok.verify_dir(old, tmp_path / "new", plan).errors == ()


def test_new_rows_are_what_was_asked_for(tmp_path: Path) -> None:
    """An embedding's row is the mean of its pieces, a head's is a blend as the budget allows; or as asked."""
    old = write(tmp_path / "old", llama("F64", rows := 64), {"config.json": config(rows)})
    asked = extension(rows, base=rows)
    pieces = list(asked.tokens[0].pieces)
    means = {name: rows_of(old, name).mean(axis=0) for name in (EMBEDDING, HEAD)}
    subword = {name: rows_of(old, name)[pieces].mean(axis=0) for name in (EMBEDDING, HEAD)}
    expected = {
        "role-aware": (subword[EMBEDDING], None),
        "subword": (subword[EMBEDDING], subword[HEAD]),
        "mean": (means[EMBEDDING], means[HEAD]),
        "zero": (np.zeros(WIDTH), np.zeros(WIDTH)),
    }
    for initial, (embedding, head) in expected.items():
        plan = guardtok.plan_resize_dir(old, asked, init=initial, kl_budget=0.1)
        receipt = guardtok.apply_dir(plan, tmp_path / initial)
        np.testing.assert_allclose(rows_of(tmp_path / initial, EMBEDDING)[rows], embedding, rtol=1e-12)
        row = rows_of(tmp_path / initial, HEAD)[rows]
        if head is None:
            share = (row - means[HEAD]) / (subword[HEAD] - means[HEAD])
            assert share.std() < 1e-9
            assert 0 < share[0] < 1
            assert receipt.kl_certified == pytest.approx(0.1)
        else:
            np.testing.assert_allclose(row, head, rtol=1e-12)


@pytest.mark.parametrize("initial", ["role-aware", "mean", "subword"])
def test_the_certificate_holds(tmp_path: Path, initial: str) -> None:
    """For random hidden states, large ones too, KL between old and new predictions is never above what is certified."""
    tensors = llama("F64") | {"lm_head.bias": numbers("F64", ROWS)}
    old = write(tmp_path / "old", tensors)
    receipt = guardtok.apply_dir(guardtok.plan_resize_dir(old, extension(ROWS, ROWS + 1), 8, initial), tmp_path / "new")
    assert receipt.kl_certified is not None
    bias = stored(open_checkpoint(tmp_path / "new"), "lm_head.bias")
    head, added = rows_of(tmp_path / "new", HEAD), to_numbers(bias[2], "F64")
    states = np.random.default_rng(0).normal(size=(2000, WIDTH)) * np.geomspace(0.1, 100, 2000)[:, None]
    logits = states @ head.T + added
    top = logits.max(axis=1, keepdims=True)
    odds = np.exp(logits - top)
    kl = np.log1p(odds[:, ROWS:].sum(axis=1) / odds[:, :ROWS].sum(axis=1))
    assert kl.max() <= receipt.kl_certified
    assert kl.max() > receipt.kl_certified / 100


def test_rows_of_zeros_and_padding_are_not_in_the_mean(tmp_path: Path) -> None:
    """Rows that nobody trained do not pull the mean to themselves."""
    table = np.arange(1, ROWS * WIDTH + 1, dtype=np.float64).reshape(ROWS, WIDTH)
    table[5] = 0
    tensors = {EMBEDDING: ("F64", (ROWS, WIDTH), table.tobytes())}
    old = write(tmp_path / "old", tensors, {"config.json": config(tie_word_embeddings=True)})
    plan = guardtok.plan_resize_dir(old, extension(ROWS - 3, base=ROWS - 3), init="mean")
    guardtok.apply_dir(plan, tmp_path / "new")
    live = np.delete(table[: ROWS - 3], 5, axis=0)
    np.testing.assert_allclose(rows_of(tmp_path / "new", EMBEDDING)[ROWS - 3], live.mean(axis=0))


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_a_row_that_is_overwritten_is_not_in_the_mean(tmp_path: Path, dtype: str) -> None:
    """What a reserved slot's row held says nothing of the tokens that are alive."""
    old = write(tmp_path / "old", llama(dtype))
    plan = guardtok.plan_resize_dir(old, extension(7, placement=Placement.RESERVED), init="mean")
    guardtok.apply_dir(plan, tmp_path / "new")
    table = rows_of(old, HEAD)
    with_it, without = table.mean(axis=0), np.delete(table, 7, axis=0).mean(axis=0)
    row = rows_of(tmp_path / "new", HEAD)[7]
    assert np.abs(row - without).max() < np.abs(row - with_it).max()
    np.testing.assert_allclose(row, without, rtol=2**-8)


def test_a_bias_of_zeros_stays_one(tmp_path: Path) -> None:
    """BART stores `final_logits_bias`, a row of zeros; it grows, and the certificate holds with it."""
    bias = {"final_logits_bias": ("F32", (1, ROWS), bytes(4 * ROWS))}
    old = write(tmp_path / "old", llama() | bias)
    receipt = guardtok.apply_dir(guardtok.plan_resize_dir(old, extension(ROWS)), tmp_path / "new")
    assert stored(open_checkpoint(tmp_path / "new"), "final_logits_bias") == ("F32", (1, ROWS + 1), bytes(4 * ROWS + 4))
    assert receipt.kl_certified is not None


def test_nothing_is_certified_where_head_and_bias_are_not_blended_alike(tmp_path: Path) -> None:
    """A row of zeros is in the bias's mean and not in the head's."""
    dtype, shape, raw = llama()[HEAD]
    tensors = llama() | {
        HEAD: (dtype, shape, bytes(4 * WIDTH) + raw[4 * WIDTH :]),
        "lm_head.bias": numbers("F32", ROWS),
    }
    old = write(tmp_path / "old", tensors)
    receipt = guardtok.apply_dir(guardtok.plan_resize_dir(old, extension(ROWS)), tmp_path / "new")
    assert receipt.kl_certified is None


def test_a_table_of_zeros_has_no_mean(tmp_path: Path) -> None:
    """It is refused by name, and nothing is made."""
    old = write(tmp_path / "old", llama() | {HEAD: ("F16", (ROWS, WIDTH), bytes(2 * ROWS * WIDTH))})
    with pytest.raises(CheckpointError, match="nothing but zeros"):
        guardtok.apply_dir(guardtok.plan_resize_dir(old, extension(ROWS)), tmp_path / "new")
    assert names(tmp_path) == ["old"]


def test_rows_go_without_new_ones(tmp_path: Path) -> None:
    """A shrink that overwrites nothing makes no row and takes no mean."""
    old = write(tmp_path / "old", llama())
    plan = guardtok.plan_resize_dir(old, extension(base=ROWS - 4), shrink=True)
    assert guardtok.apply_dir(plan, tmp_path / "new").new_rows_sha256 == ()
    assert guardtok.verify_dir(old, tmp_path / "new", plan).errors == ()


def test_a_head_that_is_not_the_embedding_is_refused(tmp_path: Path) -> None:
    """Where the config ties them and other rows are stored, a loader would drop the head; nothing is made."""
    old = write(tmp_path / "old", llama(), {"config.json": config(tie_word_embeddings=True)}, shards=3)
    plan = guardtok.plan_resize_dir(old, extension(ROWS))
    with pytest.raises(ResizeError, match="ties"):
        guardtok.apply_dir(plan, tmp_path / "new")
    assert names(tmp_path) == ["old"]


def test_rows_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """No mean is taken of them, and the tensor is named."""
    tensors = llama("F16")
    dtype, shape, raw = tensors[HEAD]
    tensors[HEAD] = (dtype, shape, b"\x00\x7c" + raw[2:])
    old = write(tmp_path / "old", tensors)
    with pytest.raises(CheckpointError, match=HEAD):
        guardtok.apply_dir(guardtok.plan_resize_dir(old, extension(ROWS)), tmp_path / "new")
    assert names(tmp_path) == ["old"]


def touch(old: Path) -> None:
    """Set a file's time."""
    os.utime(old / "model.safetensors", ns=(1, 1))


def replace(old: Path) -> None:
    """Put another file with the same time and size in its place."""
    place = old / "model.safetensors"
    status = place.stat()
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.unlink()
    place.write_bytes(data)
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))


def edit_config(old: Path) -> None:
    """Change what a config says and leave its size and time."""
    place = old / "config.json"
    status = place.stat()
    place.write_text(place.read_text().replace("Llama", "Gemma"))
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [touch, replace, edit_config, lambda old: (old / "new.txt").write_text("x")])
def test_a_checkpoint_that_changed_after_planning_is_refused(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    """The plan was made for another one."""
    old = write(tmp_path / "old", llama())
    (old / "keep").hardlink_to(old / "model.safetensors")  # So that the inode is not given out again.
    plan = guardtok.plan_resize_dir(old, extension(ROWS))
    change(old)
    with pytest.raises(CheckpointChangedError):
        guardtok.apply_dir(plan, tmp_path / "new")
    assert names(tmp_path) == ["old"]


@pytest.mark.parametrize("shards", [1, 3])
def test_a_checkpoint_that_changes_meanwhile_is_refused(tmp_path: Path, shards: int) -> None:
    """A file that is written while others are copied is seen at the end, and what was made is thrown away."""
    old = write(tmp_path / "old", llama(), shards=shards)
    plan = guardtok.plan_resize_dir(old, extension(ROWS))
    place = min(old.glob("*.safetensors"))

    def change(done: int, total: int) -> None:
        if done == total:
            os.utime(place, ns=(1, 1))

    with pytest.raises(CheckpointChangedError):
        guardtok.apply_dir(plan, tmp_path / "new", change)
    assert names(tmp_path) == ["old"]


def test_a_file_that_becomes_shorter_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end comes before the header said."""
    monkeypatch.setattr(row_bytes, "CHUNK", 64)
    old = write(tmp_path / "old", llama())
    plan = guardtok.plan_resize_dir(old, extension(ROWS))
    with pytest.raises(CheckpointChangedError):
        guardtok.apply_dir(plan, tmp_path / "new", lambda *_: os.truncate(old / "model.safetensors", 600))
    assert names(tmp_path) == ["old"]


@pytest.mark.parametrize("what", ["directory", "empty", "file", "link"])
def test_an_existing_target_is_left_alone(tmp_path: Path, what: str) -> None:
    """Whatever is there stays, a link to nowhere too."""
    old, new = write(tmp_path / "old", llama()), tmp_path / "new"
    match what:
        case "directory":
            shutil.copytree(old, new)
        case "empty":
            new.mkdir()
        case "file":
            new.write_text("x")
        case _:
            new.symlink_to("nowhere")
    before = snapshot(tmp_path)
    with pytest.raises(CheckpointWriteError, match="already"):
        guardtok.apply_dir(guardtok.plan_resize_dir(old, extension(ROWS)), new)
    assert snapshot(tmp_path) == before


def test_a_target_that_appears_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """Somebody else made it first."""
    old, new = write(tmp_path / "old", llama()), tmp_path / "new"
    plan = guardtok.plan_resize_dir(old, extension(ROWS))
    with pytest.raises(CheckpointWriteError, match="appeared"):
        guardtok.apply_dir(plan, new, lambda *_: new.mkdir(exist_ok=True))
    assert names(tmp_path) == ["new", "old"]
    assert names(new) == []


def test_a_target_within_the_source_or_nowhere_is_refused(tmp_path: Path) -> None:
    """The old directory is not written to, and no directory is made on the way."""
    old = write(tmp_path / "old", llama())
    plan = guardtok.plan_resize_dir(old, extension(ROWS))
    for out, fact in ((old / "new", "within"), (tmp_path / "absent" / "new", "not there")):
        with pytest.raises(CheckpointWriteError, match=fact):
            guardtok.apply_dir(plan, out)
    assert names(tmp_path) == ["old"]


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes that would be written are counted first."""
    old = write(tmp_path / "old", llama())
    real = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((real.f_bsize, 1, 9, 9, 9, *real[5:])))
    with pytest.raises(CheckpointWriteError, match="are free"):
        guardtok.apply_dir(guardtok.plan_resize_dir(old, extension(ROWS)), tmp_path / "new")
    assert names(tmp_path) == ["old"]


@pytest.mark.parametrize(
    ("number", "fact"),
    [(errno.ENOSPC, "no space"), (errno.EROFS, "forbids"), (errno.EACCES, "forbids"), (errno.EIO, "refused")],
)
@pytest.mark.parametrize("call", [1, 2, 5])
def test_a_write_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fact: str, call: int
) -> None:
    """Wherever the system refuses to write on, it is one typed error, and nothing is left."""
    old = write(tmp_path / "old", llama(), shards=3)
    before = snapshot(old)
    calls = 0

    def refuse(target: Any, view: Any) -> None:  # noqa: ANN401
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(number, os.strerror(number))
        target.write(view)

    monkeypatch.setattr(row_bytes, "write_all", refuse)
    monkeypatch.setattr("guardtok.resize.shard_writer.write_all", refuse)
    with pytest.raises(CheckpointWriteError, match=fact) as caught:
        guardtok.apply_dir(guardtok.plan_resize_dir(old, extension(ROWS)), tmp_path / "new")
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == number
    assert names(tmp_path) == ["old"]
    assert snapshot(old) == before


def test_a_file_beyond_the_limit_of_the_system_leaves_nothing(tmp_path: Path) -> None:
    """With a real limit on the size of files, as `ulimit -f` sets it."""
    old = write(tmp_path / "old", llama())
    plan = guardtok.plan_resize_dir(old, extension(ROWS))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(CheckpointWriteError, match="ulimit"):
            guardtok.apply_dir(plan, tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["old"]


def test_a_disk_that_gives_back_other_bytes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written is read again, so a bit that flips on its way is found, in old rows and in new ones."""
    old = write(tmp_path / "old", llama())
    plan = guardtok.plan_resize_dir(old, extension(ROWS))
    from guardtok.resize import shard_writer

    read_back = shard_writer._read_back
    size = (old / "model.safetensors").stat().st_size
    for at in (size - 300, size - 30, size + 40):

        def flip(shard: Any, source: Any, file: Any, *rest: Any, at: int = at) -> None:  # noqa: ANN401
            byte = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), at)
            read_back(shard, source, file, *rest)

        monkeypatch.setattr(shard_writer, "_read_back", flip)
        with pytest.raises(VerificationError, match="reads back otherwise"):
            guardtok.apply_dir(plan, tmp_path / "new")
        assert names(tmp_path) == ["old"]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C on the way."""
    old = write(tmp_path / "old", llama())

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guardtok.apply_dir(guardtok.plan_resize_dir(old, extension(ROWS)), tmp_path / "new", interrupt)
    assert names(tmp_path) == ["old"]


def test_without_numpy_zeros_can_be_added_and_means_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy is an extra."""
    monkeypatch.setitem(sys.modules, "numpy", None)
    old = write(tmp_path / "old", llama())
    with pytest.raises(MissingExtraError, match=r"guardtok\[disk\]"):
        guardtok.apply_dir(guardtok.plan_resize_dir(old, extension(ROWS)), tmp_path / "new")
    plan = guardtok.plan_resize_dir(old, extension(ROWS), init="zero")
    guardtok.apply_dir(plan, tmp_path / "new")
    assert guardtok.verify_dir(old, tmp_path / "new", plan).errors == ()


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import guardtok
from checkpoints import extension, ROWS
from guardtok.resize import row_bytes
row_bytes.CHUNK = 512
print("ready", flush=True)
plan = guardtok.plan_resize_dir(sys.argv[2], extension(ROWS * 50, base=ROWS * 50))
guardtok.apply_dir(plan, sys.argv[3])
"""


def test_killed_at_any_point_it_leaves_the_old_one_whole_and_nothing_half_made(tmp_path: Path) -> None:
    """A process that is killed while it works leaves no directory under the new name, or a whole one."""
    rows = ROWS * 50
    # Large enough to be caught at work.
    tensors = {name: numbers("F32", rows, 512, seed=turn) for turn, name in enumerate((EMBEDDING, HEAD))}
    tensors[OTHER] = numbers("F32", 64, 64)
    old, new = write(tmp_path / "old", tensors, {"config.json": config(rows)}, shards=3), tmp_path / "new"
    before = snapshot(old)
    asked = extension(rows, base=rows)
    arguments = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(old), str(new)]
    chosen = random.Random(5)  # noqa: S311 - when to kill
    killed = leftovers = 0
    for turn in range(8):
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            deadline = time.monotonic() + 20
            # Half of them as soon as something is there, the others at any time.
            while turn % 2 and not any("guardtok-resize" in name for name in names(tmp_path)):
                if child.poll() is not None or time.monotonic() > deadline:
                    break
            time.sleep(0 if turn % 2 else chosen.random() * 0.1)
            child.send_signal(signal.SIGKILL)
            child.communicate()
            killed += child.returncode == -signal.SIGKILL
        assert snapshot(old) == before
        left = [name for name in names(tmp_path) if name not in {"old", "new"}]
        assert all(name.startswith(".new.guardtok-resize-") for name in left)
        # What the one before left was removed by this one, so there is never more than one.
        assert len(left) <= 1
        leftovers += len(left)
        if new.exists():
            plan = guardtok.plan_resize_dir(old, asked)
            assert guardtok.verify_dir(old, new, plan).errors == ()
            shutil.rmtree(new)
    assert killed
    assert leftovers
    plan = guardtok.plan_resize_dir(old, asked)
    guardtok.apply_dir(plan, new)
    assert names(tmp_path) == ["new", "old"]
    assert guardtok.verify_dir(old, new, plan).errors == ()


def test_a_run_that_is_still_going_is_no_leftover(tmp_path: Path) -> None:
    """Two runs beside each other do not remove each other's work."""
    old = write(tmp_path / "old", llama())
    plan = guardtok.plan_resize_dir(old, extension(ROWS))
    other: list[object] = []

    def start_another(*_: int) -> None:
        if not other:
            other.append(None)
            other.append(guardtok.apply_dir(plan, tmp_path / "other"))

    guardtok.apply_dir(plan, tmp_path / "new", start_another)
    assert names(tmp_path) == ["new", "old", "other"]


def test_padding_rows_are_filled_and_nothing_shrinks(tmp_path: Path) -> None:
    """A model with rows to spare keeps all of them, and its config."""
    old = write(tmp_path / "old", llama())
    plan = guardtok.plan_resize_dir(old, extension(ROWS - 4, base=ROWS - 4))
    assert plan.rows == (ROWS, ROWS)
    assert [each.action.value for each in plan.tokens] == ["fill"]
    guardtok.apply_dir(plan, tmp_path / "new")
    assert (tmp_path / "new" / "config.json").read_bytes() == (old / "config.json").read_bytes()


def test_rows_go_only_when_asked(tmp_path: Path) -> None:
    """With `shrink` the rows above the last token go, and the others stay bit for bit."""
    old = write(tmp_path / "old", llama())
    asked = extension(ROWS - 4, base=ROWS - 4)
    plan = guardtok.plan_resize_dir(old, asked, shrink=True)
    assert plan.rows == (ROWS, ROWS - 3)
    guardtok.apply_dir(plan, tmp_path / "new")
    assert guardtok.verify_dir(old, tmp_path / "new", plan).errors == ()


def test_reserved_rows_are_reused(tmp_path: Path) -> None:
    """A reserved slot's row is overwritten, the rows beside it are not."""
    old = write(tmp_path / "old", llama("BF16"), shards=3)
    plan = guardtok.plan_resize_dir(old, extension(7, 20, placement=Placement.RESERVED))
    assert [each.action.value for each in plan.tokens] == ["reuse", "reuse"]
    guardtok.apply_dir(plan, tmp_path / "new")
    changed = (rows_of(old, HEAD) != rows_of(tmp_path / "new", HEAD)).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [7, 20]


def test_the_module_is_what_the_package_offers() -> None:
    """The public names are those of the issue."""
    assert guardtok.apply_dir is disk_apply.apply_dir
    with pytest.raises(AttributeError, match="no attribute"):
        guardtok.absent  # noqa: B018 - that it is looked for is all
