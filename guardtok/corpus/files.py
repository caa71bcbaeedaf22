"""Paths, folders and URLs → the files of a corpus, each with its format.

Everything that can be said of a file before it is read: what it is called, how large it is, and what would have changed
if somebody wrote to it since.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from guardtok.errors import CorpusError, MissingExtraError
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa


class FileFormat(str, Enum):
    """How the rows of a file are written."""

    PARQUET = "parquet"
    ARROW = "arrow"
    JSONL = "jsonl"
    CSV = "csv"
    TEXT = "text"

    def __str__(self) -> str:
        return self.value


_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_FORMATS = {
    ".parquet": FileFormat.PARQUET,
    ".arrow": FileFormat.ARROW,
    ".feather": FileFormat.ARROW,
    ".ipc": FileFormat.ARROW,
    ".jsonl": FileFormat.JSONL,
    ".ndjson": FileFormat.JSONL,
    ".csv": FileFormat.CSV,
    ".tsv": FileFormat.CSV,
}


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A file of a corpus.

    Attributes:
        path: The path as it was named, or the URL.
        place: The same, wherever a process runs: a path from the root, or a URL.
        name: What it is called below the folder that was named, with `/`; its output is called the same.
        format: How its rows are written.
        compression: `gzip`, `zstd` or None.
        size: Bytes, as it is stored.
        stamp: What changes when it is written to: the time, or the store's own mark.
    """

    path: str
    place: str
    name: str
    format: FileFormat
    compression: str | None
    size: int
    stamp: str

    def open(self) -> pa.NativeFile:
        """Open the file to be read, as it is stored.

        Raises:
            OSError: It cannot be opened.
        """
        import pyarrow as pa

        if "://" in self.place:
            filesystem, path = file_system(self.place)
            return pa.PythonFile(filesystem.open(path, "rb"), mode="r")
        try:
            return pa.OSFile(self.place)
        except UnicodeEncodeError:  # Its name is not UTF-8, and Arrow takes no other.
            return pa.PythonFile(open(self.place, "rb"), mode="r")  # noqa: PTH123 - closed with what holds it

    def open_stream(self) -> pa.NativeFile:
        """Open the file to be read from its beginning, decompressed.

        Raises:
            OSError: It cannot be opened.
        """
        import pyarrow as pa

        opened = self.open()
        return pa.CompressedInputStream(opened, self.compression) if self.compression else opened


def find_files(paths: Iterable[str], wanted: FileFormat | None = None) -> list[CorpusFile]:
    """Return the files that are meant, in the order of the paths and of their names.

    A folder means the files below it, hidden ones and links left out. The format follows from the name: `.parquet`,
    `.arrow` (`.feather`, `.ipc`), `.jsonl` (`.ndjson`), `.csv`, `.tsv`, all but the first two also with `.gz` or
    `.zst`; any other file is a text.

    Args:
        paths: Paths, or URLs that fsspec knows.
        wanted: The format of all files, whatever they are called.

    Raises:
        CorpusError: There is no such file.
        MissingExtraError: fsspec, or what it needs for a URL, is not installed.
    """
    found: dict[str, CorpusFile] = {}
    for path in paths:
        for each in _find(path, wanted):
            found.setdefault(each.place, each)
    return list(found.values())


def _find(path: str, wanted: FileFormat | None) -> Iterator[CorpusFile]:
    filesystem, root = file_system(path)
    try:
        info = filesystem.info(root)
    except (OSError, ValueError) as error:
        raise CorpusError(f"{visible(path)}: there is nothing to read there ({type(error).__name__}).") from None
    if info["type"] != "directory":
        yield _describe(filesystem, info, path, root.rstrip("/").rsplit("/", 1)[-1], wanted)
        return
    below = filesystem.find(root, detail=True)
    base = root.rstrip("/") + "/"
    for place in sorted(below):
        name = place.removeprefix(base)
        shown = f"{path.rstrip('/')}/{name}"
        hidden = any(part.startswith(".") for part in name.split("/"))
        if below[place]["type"] == "file" and not below[place].get("islink") and not hidden:
            yield _describe(filesystem, below[place], shown, name, wanted)


def _describe(filesystem: Any, info: dict[str, Any], url: str, name: str, wanted: FileFormat | None) -> CorpusFile:  # noqa: ANN401 - fsspec has no types
    suffixes = PurePosixPath(name.lower()).suffixes[-2:]
    suffix = suffixes[-1] if suffixes else ""
    compression = _COMPRESSIONS.get(suffix)
    kind = _FORMATS.get(suffixes[0] if compression else suffix, FileFormat.TEXT)
    if compression and kind is FileFormat.PARQUET:
        raise CorpusError(f"{visible(url)}: a Parquet file is compressed inside. Decompress it.")
    stamp = info.get("mtime") or info.get("ETag") or info.get("etag") or info.get("last_modified") or ""
    place = info["name"] if is_local(filesystem) else filesystem.unstrip_protocol(info["name"])
    return CorpusFile(url, place, name, wanted or kind, compression, int(info.get("size") or 0), str(stamp))


def file_system(path: str) -> tuple[Any, str]:
    """Return fsspec's file system for a path or a URL, and the path in it.

    Raises:
        MissingExtraError: fsspec, or what it needs for this URL, is not installed.
        CorpusError: It is no URL that fsspec knows.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise MissingExtraError("To read a corpus: pip install 'guardtok[corpus]'.") from None
    try:
        filesystem, place = url_to_fs(path)
    except ImportError as error:
        raise MissingExtraError(f"fsspec needs another package for {visible(path)}: {error.name}.") from None
    except ValueError:
        raise CorpusError(f"{visible(path)}: no URL that fsspec knows.") from None
    return filesystem, place


def is_local(filesystem: Any) -> bool:  # noqa: ANN401 - fsspec has no types
    """Whether a file system is this machine's own."""
    return "file" in ((filesystem.protocol,) if isinstance(filesystem.protocol, str) else filesystem.protocol)
