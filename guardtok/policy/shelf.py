"""Where the files of a policy are: on the disk, or sealed in a bundle, where nothing outside of it is looked at."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from guardtok.errors import PolicyError, Problem
from guardtok.policy.files import decode, locate, read_text

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path


class Shelf(Protocol):
    """Holds policies and lock files."""

    def locate(self, source: str | os.PathLike[str], /, *, folder: Path, place: str) -> Path:
        """Return the path of the policy that one in `folder` extends as `source`."""

    def read(self, path: Path, /, *, place: str | None = None) -> str:
        """Return the text of a file; the error is at `place`."""

    def holds(self, path: Path, /) -> bool:
        """Return whether there is such a file."""


class _Disk:
    """The file system, and the shipped policies by name."""

    locate = staticmethod(locate)
    read = staticmethod(read_text)

    @staticmethod
    def holds(path: Path) -> bool:
        return path.exists()


DISK: Shelf = _Disk()


@dataclass(frozen=True, slots=True)
class Sealed:
    """Files in memory.

    Attributes:
        files: Their contents by path.
        chain: The policies, each extended by the one before it and in a folder of its own, whatever name it is extended
            by: a name would mean another file elsewhere.
    """

    files: Mapping[Path, bytes] = field(repr=False)
    chain: tuple[Path, ...]

    def locate(self, _: str | os.PathLike[str], /, *, folder: Path, place: str) -> Path:
        """Return the next policy of the chain.

        Raises:
            PolicyError: There is none.
        """
        after = [policy.parent for policy in self.chain].index(folder) + 1
        if after == len(self.chain):
            raise PolicyError([Problem(place, "What it extends is not in the bundle.", "Make the bundle again.")])
        return self.chain[after]

    def read(self, path: Path, /, *, place: str | None = None) -> str:
        """Return the text of a file.

        Raises:
            PolicyError: There is no such file, or it is not UTF-8.
        """
        if path not in self.files:
            raise PolicyError([Problem(place or f"{path}:1:1", "There is no such file.", "Make the bundle again.")])
        return decode(self.files[path], path)

    def holds(self, path: Path, /) -> bool:
        """Return whether there is such a file."""
        return path in self.files


def name_of(path: Path) -> str:
    """Return what a policy without a name of its own is called."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", path.stem)[:64].lstrip("._-") or "unnamed"
