"""The comparison of two checkpoints: any byte that is not as planned is found."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from checkpoints import EMBEDDING, HEAD, ROWS, extension, llama, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import guardtok
from guardtok.errors import CheckpointError, ResizeError
from guardtok.resize.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path, Any]:
    """Return an old checkpoint, the resized one with files of its own, and the plan."""
    old = write(tmp_path / "old", llama(), shards=2)
    plan = guardtok.plan_resize_dir(old, extension(ROWS, 5, ROWS - 1, base=ROWS - 1))
    guardtok.apply_dir(plan, tmp_path / "linked")
    return old, shutil.copytree(tmp_path / "linked", tmp_path / "new"), plan


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_changed_byte_of_an_old_row_is_found(made: tuple[Path, Path, Any], data: st.DataObject) -> None:
    """Whichever bit flips in whichever tensor: an error that names it, unless it lies in a new row."""
    old, new, plan = made
    found = open_checkpoint(new)
    shard, tensor = data.draw(st.sampled_from(list(found.tensors())))
    at = data.draw(st.integers(0, tensor.size - 1))
    place = shard.file.path
    kept = place.read_bytes()
    changed = bytearray(kept)
    changed[shard.header.data_start + tensor.start + at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        place.write_bytes(changed)
        named = {each.where for each in guardtok.verify_dir(old, new, plan).errors}
    finally:
        place.write_bytes(kept)
    row = at // (tensor.size // tensor.shape[0])
    is_new = tensor.name in {EMBEDDING, HEAD} and row in {5, ROWS - 1, ROWS}
    assert named == {tensor.name} or (is_new and not named)
    assert guardtok.verify_dir(old, new, plan).errors == ()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_changed_file_is_found(made: tuple[Path, Path, Any], name: str) -> None:
    """A config that is not as planned is an error that names it, and `raise_for_errors` raises."""
    old, new, plan = made
    value = json.loads((new / name).read_text())
    (new / name).write_text(json.dumps(value | {"more": 1}))
    check = guardtok.verify_dir(old, new, plan)
    assert [(each.code, each.where) for each in check.errors] == [("file-differs", name)]
    with pytest.raises(ResizeError, match=name):
        check.raise_for_errors()


def test_another_old_checkpoint_is_found(made: tuple[Path, Path, Any], tmp_path: Path) -> None:
    """The plan was made for something else."""
    _, new, plan = made
    other = write(tmp_path / "other", llama("F16"), shards=2)
    assert [each.code for each in guardtok.verify_dir(other, new, plan).errors] == ["source-changed"]


def test_a_lost_shard_is_a_typed_error(made: tuple[Path, Path, Any]) -> None:
    """The new directory is no checkpoint then."""
    old, new, plan = made
    next(new.glob("*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="not there"):
        guardtok.verify_dir(old, new, plan)


def test_another_shape_is_found(made: tuple[Path, Path, Any], tmp_path: Path) -> None:
    """Fewer rows than planned, in a file that is sound by itself."""
    old, _, plan = made
    found = guardtok.verify_dir(old, old, plan)
    assert {(each.code, each.where) for each in found.errors} >= {
        ("tensor-differs", HEAD),
        ("tensor-differs", EMBEDDING),
    }


def test_rows_that_are_alike_are_a_warning(tmp_path: Path) -> None:
    """Zeros are what was asked for, and the model cannot tell two tokens apart by them."""
    old = write(tmp_path / "old", llama())
    plan = guardtok.plan_resize_dir(old, extension(ROWS, ROWS + 1), init="zero")
    guardtok.apply_dir(plan, tmp_path / "new")
    check = guardtok.verify_dir(old, tmp_path / "new", plan)
    assert check.errors == ()
    assert "new-rows-equal" in {each.code for each in check.findings}


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_a_new_row_that_is_not_finite_is_found(tmp_path: Path, dtype: str) -> None:
    """Not a number, or infinite, in any type."""
    old = write(tmp_path / "old", llama(dtype))
    plan = guardtok.plan_resize_dir(old, extension(ROWS))
    guardtok.apply_dir(plan, tmp_path / "new")
    found = open_checkpoint(tmp_path / "new")
    shard, tensor = next(each for each in found.tensors() if each[1].name == HEAD)
    data = bytearray(shard.file.path.read_bytes())
    end = shard.header.data_start + tensor.end
    data[end - 2 : end] = b"\xf0\x7f" if dtype == "F64" else b"\x80\x7f" if dtype != "F16" else b"\x00\x7c"
    shard.file.path.write_bytes(data)
    errors = guardtok.verify_dir(old, tmp_path / "new", plan).errors
    assert [(each.code, each.where) for each in errors] == [("new-rows-not-finite", HEAD)]
