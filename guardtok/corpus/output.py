"""The folder where a corpus goes, in which a file is whole or not there, and from which a run goes on that was cut off.

Each file is written under another name inside `.guardtok`, brought to the disk, and renamed. What was found in it is
noted only after that. So whatever happens in between, the next run sees either a file and its note, or does it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from guardtok.corpus.files import file_system, is_local
from guardtok.errors import CorpusError
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from guardtok.corpus.files import CorpusFile

_STATE = ".guardtok"


def output_at(url: str) -> Output:
    """Return the output at a path or a URL, which means the same wherever a process runs.

    Raises:
        CorpusError: It is no URL that fsspec knows.
    """
    filesystem, root = file_system(url)
    return Output(root if is_local(filesystem) else url)


@dataclass(frozen=True, slots=True)
class Output:
    """A folder for output, local or behind fsspec.

    Attributes:
        url: The path, or the URL.
    """

    url: str

    def prepare(self, settings: Mapping[str, object], *, resume: bool) -> None:
        """Make the folder, or find it as a run with the same settings left it.

        Args:
            settings: What the output depends on, besides the input.
            resume: Whether to go on with what is there.

        Raises:
            CorpusError: The folder is not empty, or, on `resume`, was made with other settings.
        """
        filesystem, root = file_system(self.url)
        place = f"{root}/{_STATE}/run.json"
        there = filesystem.exists(root) and (not filesystem.isdir(root) or bool(filesystem.ls(root, detail=False)))
        if there and not resume:
            raise CorpusError(
                f"{visible(self.url)} is there already, and not empty. Name another folder; or, to go on with a run "
                "that was cut off, say --resume."
            )
        wanted = json.loads(json.dumps(settings))
        if there:
            kept = self._read(place)
            if kept is None:
                raise CorpusError(f"{visible(self.url)} holds no run of guardtok that could be resumed.")
            changed = sorted(key for key in {*kept, *wanted} if kept.get(key) != wanted.get(key))
            if changed:
                raise CorpusError(
                    f"{visible(self.url)} was made with another {', '.join(changed)}. Name another folder."
                )
        filesystem.makedirs(f"{root}/{_STATE}/done", exist_ok=True)
        with suppress(OSError):
            filesystem.rm(f"{root}/{_STATE}/part", recursive=True)
        filesystem.makedirs(f"{root}/{_STATE}/part", exist_ok=True)
        self._write(place, wanted)

    def take(self, files: Sequence[CorpusFile]) -> list[CorpusFile]:
        """Return the files that are to be written here again: all but those that a run wrote here.

        Raises:
            CorpusError: Two of them have one name.
        """
        filesystem, root = file_system(self.url)
        inside = (root if is_local(filesystem) else filesystem.unstrip_protocol(root)).rstrip("/") + "/"
        taken = {}
        for file in files:
            if file.place.startswith(inside):
                continue
            if file.name in taken:
                raise CorpusError(f"Two files are called {visible(file.name)!r} below the folders that were named.")
            taken[file.name] = file
        return list(taken.values())

    def remove(self, name: str) -> None:
        """Remove a file that is there, or is not.

        Raises:
            OSError: The system refuses.
        """
        filesystem, root = file_system(self.url)
        with suppress(FileNotFoundError):
            filesystem.rm_file(f"{root}/{name}")

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Open a file that appears under its name when the block ends, and vanishes when the block fails.

        Args:
            name: Its name below the folder, with `/`.

        Raises:
            OSError: The system refuses.
        """
        filesystem, root = file_system(self.url)
        part, final = f"{root}/{_STATE}/part/{_key(name)}.{os.getpid()}", f"{root}/{name}"
        try:
            with filesystem.open(part, "wb") as file:
                yield file
                file.flush()
                if is_local(filesystem):
                    os.fsync(file.fileno())
            filesystem.makedirs(final.rsplit("/", 1)[0], exist_ok=True)
            if is_local(filesystem):
                os.replace(part, final)  # noqa: PTH105 - fsspec's paths are strings
            else:
                filesystem.mv(part, final)
        finally:
            with suppress(OSError):
                filesystem.rm_file(part)

    def note(self, key: str, value: Mapping[str, Any]) -> None:
        """Note that a part of the work is done.

        Raises:
            OSError: The system refuses.
        """
        _, root = file_system(self.url)
        self._write(f"{root}/{_STATE}/done/{_key(key)}.json", value)

    def noted(self, key: str) -> dict[str, Any] | None:
        """Return what was noted of a part of the work, or None."""
        _, root = file_system(self.url)
        return self._read(f"{root}/{_STATE}/done/{_key(key)}.json")

    def clean(self) -> None:
        """Remove what a run that ended leaves behind: parts of files that were cut off."""
        filesystem, root = file_system(self.url)
        if is_local(filesystem):
            shutil.rmtree(f"{root}/{_STATE}/part", ignore_errors=True)

    def _write(self, place: str, value: Mapping[str, Any]) -> None:
        filesystem, _ = file_system(self.url)
        if not is_local(filesystem):
            filesystem.pipe_file(place, json.dumps(value).encode())
            return
        part = f"{place}.{os.getpid()}"
        try:
            with open(part, "w", encoding="ascii") as file:  # noqa: PTH123 - as above
                json.dump(value, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, place)  # noqa: PTH105 - as above
        except BaseException:
            with suppress(OSError):
                os.unlink(part)  # noqa: PTH108 - as above
            raise

    def _read(self, place: str) -> dict[str, Any] | None:
        filesystem, _ = file_system(self.url)
        try:
            read = json.loads(filesystem.cat_file(place))
        except (OSError, ValueError):
            return None
        return read if isinstance(read, dict) else None


def _key(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
