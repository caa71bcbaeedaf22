"""A checkpoint's directory as it is found: its files, its shards' headers, its index.

A directory that was downloaded is hostile input. An index may name a file elsewhere, a link may lead to somebody's
keys, a file may be a pipe that never ends. So only regular files of the directory itself are read; a link may lead
out of it only where Hugging Face's cache puts its files.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from guardtok.errors import CheckpointError
from guardtok.finding import Finding, Severity
from guardtok.resize.json_file import MAX_BYTES, parse_object, shown
from guardtok.resize.safetensors_file import Header, StoredTensor, read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SUFFIX = ".safetensors"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A regular file of a checkpoint's directory, and how to see later that it is still the same.

    Attributes:
        name: Its name in the directory.
        path: Where it lies, links followed.
        identity: Device, inode, bytes, and time of the last change in nanoseconds.
    """

    name: str
    path: Path
    identity: tuple[int, int, int, int]

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.identity[2]


def identify(status: os.stat_result) -> tuple[int, int, int, int]:
    """Return what tells a file from another and from itself after a change: device, inode, bytes, time of change."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of tensors.

    Attributes:
        file: The file.
        header: What it says of itself.
    """

    file: SourceFile
    header: Header


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is in a checkpoint's directory.

    Attributes:
        path: The directory, links followed.
        files: Its regular files by name.
        skipped: What else is in it by name: folders, and links that lead out of it.
        shards: The files of tensors that belong to the model, in order of their names.
        strays: Files of tensors that do not, by name.
        index: The index as it stands in the file, or None without one.
        problems: What is wrong with shards and index. Where a shard cannot be read it is not among `shards`.
    """

    path: Path
    files: Mapping[str, SourceFile]
    skipped: tuple[str, ...]
    shards: tuple[Shard, ...]
    strays: tuple[str, ...]
    index: Mapping[str, Any] | None
    problems: tuple[Finding, ...]

    def tensors(self) -> Iterator[tuple[Shard, StoredTensor]]:
        """Yield each tensor with its shard."""
        for shard in self.shards:
            for tensor in shard.header.tensors:
                yield shard, tensor

    def object_in(self, name: str) -> dict[str, Any] | None:
        """Return the object that a JSON file of the directory holds, or None if there is no such file.

        Raises:
            CheckpointError: The file is no JSON, holds no object, or is too large.
            OSError: The system refused to read.
        """
        file = self.files.get(name)
        return None if file is None else parse_object(read_bytes(file), shown(name))


def read_bytes(file: SourceFile) -> bytes:
    """Return what is in a small file.

    Raises:
        CheckpointError: It is not small.
        OSError: The system refused to read.
    """
    if file.size > MAX_BYTES:
        raise CheckpointError(f"{shown(file.name)} has {file.size:,} bytes; at most {MAX_BYTES:,} are read.")
    with file.path.open("rb") as opened:
        return opened.read(MAX_BYTES)


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Return what is in a checkpoint's directory, with headers and index read and found to agree.

    Raises:
        CheckpointError: They do not, or there is no such directory, or no file of tensors in it.
        OSError: The system refused to read.
    """
    found = survey(path)
    bad = [each for each in found.problems if each.severity is Severity.ERROR]
    if bad:
        more = f" ({len(bad) - 1} more; `guardtok doctor` lists them)" if len(bad) > 1 else ""
        raise CheckpointError(f"{bad[0].where}: {bad[0].fact} {bad[0].mend}".rstrip() + more)
    return found


def survey(path: str | os.PathLike[str]) -> Checkpoint:
    """Return what is in a checkpoint's directory, with all that is wrong with shards and index as findings.

    Raises:
        CheckpointError: There is no such directory.
        OSError: The system refused to read.
    """
    try:
        root = Path(path).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise CheckpointError("There is no such directory. Give the folder that holds the checkpoint.") from None
    if not root.is_dir():
        raise CheckpointError("This is no directory. Give the folder that holds the checkpoint.")
    files, skipped = _list_files(root)
    problems: list[Finding] = []

    def problem(code: str, where: str, fact: str, mend: str = "", severity: Severity = Severity.ERROR) -> None:
        problems.append(Finding(code, severity, shown(where), fact, mend))

    index = None
    if INDEX in files:
        try:
            index = parse_object(read_bytes(files[INDEX]), INDEX)
        except CheckpointError as error:
            problem("index-invalid", INDEX, str(error))
    stored = sorted(name for name in (*files, *skipped) if name.endswith(SUFFIX))
    names = _named_shards(index, stored, problem)
    shards = tuple(filter(None, (_read_shard(name, files, problem) for name in names)))
    _check_tensors(shards, index, problem)
    if not shards and not problems:
        problem("no-tensors", root.name, f"There is no {SUFFIX} file.", "Save the model as safetensors.")
    return Checkpoint(
        path=root,
        files=MappingProxyType(files),
        skipped=tuple(sorted(skipped)),
        shards=shards,
        strays=tuple(name for name in stored if name not in names),
        index=index,
        problems=tuple(problems),
    )


def _list_files(root: Path) -> tuple[dict[str, SourceFile], list[str]]:
    """Return the regular files of a directory by name, and the names of all else in it."""
    files: dict[str, SourceFile] = {}
    skipped = []
    homes = [root]
    if root.parent.name == "snapshots":
        # Hugging Face's cache: snapshots/<revision>/ holds links to blobs/ beside snapshots/.
        homes.append(root.parent.parent / "blobs")
    for entry in sorted(os.scandir(root), key=lambda each: each.name):
        try:
            real = Path(entry.path).resolve(strict=True)
            status = real.stat()
        except (OSError, RuntimeError):
            skipped.append(entry.name)
            continue
        if stat.S_ISREG(status.st_mode) and real.parent in homes:
            files[entry.name] = SourceFile(entry.name, real, identify(status))
        else:
            skipped.append(entry.name)
    return files, skipped


def _named_shards(index: Mapping[str, Any] | None, stored: list[str], problem: Callable[..., None]) -> list[str]:
    """Return the names of the files of tensors that belong to the model, all of them plain."""
    if index is None:
        if SINGLE in stored:
            return [SINGLE]
        if len(stored) > 1:
            mend = "Fetch or write the index, or keep one file."
            problem("index-missing", INDEX, f"There are {len(stored)} files of tensors and no index.", mend)
        return stored
    weights = _weights(index)
    if weights is None:
        problem("index-invalid", INDEX, "`weight_map` does not map tensors to files.")
        return []
    if SINGLE in stored and SINGLE not in weights.values():
        fact = f"There are both {SINGLE} and an index of other files, and loaders take the former."
        problem("single-and-sharded", SINGLE, fact, "Remove the one that is stale.")
    names = sorted(set(weights.values()))
    plain = [name for name in names if is_plain(name) and name.endswith(SUFFIX)]
    for name in names:
        if name not in plain:
            fact = f"The index names {shown(name)!r}, which is no {SUFFIX} file in the directory itself."
            problem("shard-outside", INDEX, fact, "Do not load this checkpoint before you know who made it.")
    return plain


def _weights(index: Mapping[str, Any]) -> dict[str, str] | None:
    """Return which file holds which tensor, or None if the index does not say it right."""
    weights = index.get("weight_map")
    if not isinstance(weights, dict) or not all(isinstance(each, str) for each in weights.values()):
        return None
    return weights


def is_plain(name: str) -> bool:
    """Return whether a name is that of an entry of a directory, and leads nowhere else."""
    return bool(name) and name not in {".", ".."} and not any(char in name for char in "/\\\0:")


def _read_shard(name: str, files: Mapping[str, SourceFile], problem: Callable[..., None]) -> Shard | None:
    file = files.get(name)
    if file is None:
        fact = "It is not there, or is no regular file of this directory."
        problem("shard-missing", name, fact, "Fetch it again.")
        return None
    try:
        with file.path.open("rb") as opened:
            return Shard(file, read_header(opened, file.size, shown(name)))
    except CheckpointError as error:
        problem("header-invalid", name, str(error))
    return None


def _check_tensors(shards: tuple[Shard, ...], index: Mapping[str, Any] | None, problem: Callable[..., None]) -> None:
    """Report tensors that are stored twice, and where shards and index disagree."""
    places: dict[str, str] = {}
    for shard in shards:
        for tensor in shard.header.tensors:
            other = places.setdefault(tensor.name, shard.file.name)
            if other != shard.file.name:
                fact = f"It is both in {shown(other)} and in {shown(shard.file.name)}, and loaders take either."
                problem("tensor-twice", tensor.name, fact, "Save the model again.")
    weights = None if index is None else _weights(index)
    if index is None or weights is None:
        return
    read = {shard.file.name for shard in shards}
    for name, place in weights.items():
        if place in read and places.get(name) != place:
            problem("tensor-missing", name, f"The index says that {shown(place)} has it, and it has not.")
    for name, place in places.items():
        if name not in weights:
            fact = f"It is in {shown(place)}, and the index does not name it, so loaders differ on it."
            problem("tensor-stray", name, fact, "Write the index again.")
    metadata = index.get("metadata")
    said = metadata.get("total_size") if isinstance(metadata, dict) else None
    total = sum(tensor.size for shard in shards for tensor in shard.header.tensors)
    if said is not None and said != total and len(read) == len(set(weights.values())):
        fact = "`total_size` is not the sum of the tensors' bytes."
        problem("total-size-stale", INDEX, fact, f"Set it to {total}.", Severity.WARNING)
