"""A checkpoint's directory: what is read, and what a hostile one cannot make guardtok read."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from checkpoints import HEAD, config, llama, shard, write

from guardtok.errors import CheckpointError
from guardtok.resize.checkpoint import INDEX, SINGLE, open_checkpoint, survey

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_is_found(tmp_path: Path, shards: int) -> None:
    """In one file or in several, each tensor is found with the file that holds it."""
    found = open_checkpoint(write(tmp_path / "old", llama(), shards=shards))
    assert {tensor.name for _, tensor in found.tensors()} == set(llama())
    assert len(found.shards) == shards
    assert found.problems == ()


def index(folder: Path, **changes: object) -> None:
    """Change an index."""
    value = json.loads((folder / INDEX).read_text())
    value["weight_map"] |= changes
    (folder / INDEX).write_text(json.dumps(value))


def with_pipe(folder: Path) -> None:
    """Put a pipe that never ends in the place of a shard."""
    (folder / "model-00001-of-00003.safetensors").unlink()
    os.mkfifo(folder / "model-00001-of-00003.safetensors")


def with_link(folder: Path) -> None:
    """Put a link to a file elsewhere in the place of a shard."""
    place = folder / "model-00001-of-00003.safetensors"
    place.rename(folder.parent / "elsewhere.safetensors")
    place.symlink_to(folder.parent / "elsewhere.safetensors")


def with_loop(folder: Path) -> None:
    """Put a link to itself in the place of a shard."""
    place = folder / "model-00001-of-00003.safetensors"
    place.unlink()
    place.symlink_to(place.name)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing shard": (lambda old: (old / "model-00002-of-00003.safetensors").unlink(), "shard-missing"),
    "a shard that is a pipe": (with_pipe, "shard-missing"),
    "a shard that is a link elsewhere": (with_link, "shard-missing"),
    "a link to itself": (with_loop, "shard-missing"),
    "a path above": (lambda old: index(old, x="../elsewhere.safetensors"), "shard-outside"),
    "an absolute path": (lambda old: index(old, x="/etc/x.safetensors"), "shard-outside"),
    "a path below": (lambda old: index(old, x="below/x.safetensors"), "shard-outside"),
    "a path of another system": (lambda old: index(old, x="..\\x.safetensors"), "shard-outside"),
    "a file of another kind": (lambda old: index(old, x="config.json"), "shard-outside"),
    "a tensor that is not there": (lambda old: index(old, x="model-00001-of-00003.safetensors"), "tensor-missing"),
    "a shard that is no string": (lambda old: index(old, x=7), "index-invalid"),
    "an index that is no JSON": (lambda old: (old / INDEX).write_text("{"), "index-invalid"),
    "an index that says a name twice": (
        lambda old: (old / INDEX).write_text('{"weight_map": {}, "weight_map": {}}'),
        "index-invalid",
    ),
    "no index": (lambda old: (old / INDEX).unlink(), "index-missing"),
    "a whole model beside the shards": (lambda old: (old / SINGLE).write_bytes(shard(llama())), "single-and-sharded"),
    "a tensor in two shards": (
        lambda old: (old / "model-00002-of-00003.safetensors").write_bytes(shard(llama())),
        "tensor-twice",
    ),
    "a shard cut off": (
        lambda old: os.truncate(old / "model-00003-of-00003.safetensors", 20),
        "header-invalid",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_directory_is_a_typed_error(tmp_path: Path, name: str) -> None:
    """What is wrong is found, has its code, and stops whoever wants to work with the checkpoint."""
    old = write(tmp_path / "old", llama(), shards=3)
    change, code = BROKEN[name]
    change(old)
    assert code in {each.code for each in survey(old).problems}
    with pytest.raises(CheckpointError):
        open_checkpoint(old)


def test_a_tensor_that_the_index_forgot_is_found(tmp_path: Path) -> None:
    """Loaders differ on a tensor that is in a shard and not in the index, so it is an error."""
    old = write(tmp_path / "old", llama(), shards=2)
    value = json.loads((old / INDEX).read_text())
    del value["weight_map"][HEAD]
    (old / INDEX).write_text(json.dumps(value))
    assert [each.code for each in survey(old).problems] == ["tensor-stray"]


def test_the_cache_of_hugging_face_is_read(tmp_path: Path) -> None:
    """Its snapshots are links to `blobs` beside them; those are followed."""
    blobs = tmp_path / "models--x" / "blobs"
    snapshot = tmp_path / "models--x" / "snapshots" / "0a"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "1").write_bytes(shard(llama()))
    (blobs / "2").write_text(json.dumps(config()))
    (snapshot / SINGLE).symlink_to("../../blobs/1")
    (snapshot / "config.json").symlink_to("../../blobs/2")
    (snapshot / "README.md").symlink_to("/etc/hostname")
    found = open_checkpoint(snapshot)
    assert set(found.files) == {SINGLE, "config.json"}
    assert found.skipped == ("README.md",)


@pytest.mark.parametrize("path", ["absent", "file", "\0"])
def test_what_is_no_directory_is_a_typed_error(tmp_path: Path, path: str) -> None:
    """A path of nothing, of a file, or that no system takes."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="directory"):
        open_checkpoint(tmp_path / path)


def test_a_directory_without_tensors_is_a_typed_error(tmp_path: Path) -> None:
    """There is nothing to resize."""
    with pytest.raises(CheckpointError, match="safetensors"):
        open_checkpoint(tmp_path)
