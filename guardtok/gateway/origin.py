"""Where a policy comes from, a file with those that it extends or a signed bundle, and what to watch for changes."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guardtok.bundles import load_bundle
from guardtok.errors import BundleError
from guardtok.policy.files import locate
from guardtok.policy.load import load_policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from guardtok.policy.model import Policy

SUFFIXES = (".tar.gz", ".tgz")
"""What the name of a bundle ends in."""

_MAX_LINKS = 40
"""Symbolic links on the way to one file, as Linux follows them."""

_MAX_BYTES = 16 << 20
"""Bytes of a file that are looked at for changes: more than any policy or bundle may have."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a policy is read from.

    Attributes:
        path: The file, absolute, its links not followed: whoever swaps one means another file.
        key: The public key, as PEM, that it must be signed with; None for a bare policy.
    """

    path: Path
    key: bytes | None

    @classmethod
    def of(cls, policy: str | os.PathLike[str], key: bytes | None) -> Origin:
        """Return the origin of a policy, by name or by path.

        Raises:
            PolicyError: No policy of that name is shipped.
            BundleError: A bundle without a key.
        """
        bundled = str(policy).endswith(SUFFIXES)
        if bundled and key is None:
            fact = f"{str(policy)[:200]!r} is a bundle, and no key says who may sign it."
            raise BundleError(f"{fact} Configure the public key, or name the bare policy.")
        # A shipped policy's name is the name of a file where a key is asked for: nobody signed that policy.
        path = Path(policy) if bundled or key is not None else locate(policy)
        return cls(path.absolute(), key)

    def read(self, min_revision: int) -> tuple[Policy, int | None]:
        """Return the policy, and the revision of its bundle.

        Raises:
            PolicyError: It cannot be used.
            BundleError: It is not signed with the key, not what was signed, or of a revision below `min_revision`.
        """
        if self.key is None:
            return load_policy(self.path), None
        return load_bundle(self.path, self.key, min_revision)

    def files(self, policy: Policy) -> tuple[Path, ...]:
        """Return the files that a policy was made of, and where a lock file of it would be."""
        files = [self.path]
        parent = policy if self.key is None else None
        while parent is not None:
            place = Path(parent.place)
            files += [place, place.with_name(f"{place.stem}.lock.json")]
            parent = parent.extends
        return tuple(dict.fromkeys(files))


def fingerprint(files: Iterable[Path]) -> dict[Path, bytes | None]:
    """Return a hash of each file's content; None where there is none that could be read."""
    return {file: _hash(file) for file in files}


def _hash(file: Path) -> bytes | None:
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # A pipe would be waited for.
            return None
        with file.open("rb") as opened:
            return hashlib.sha256(opened.read(_MAX_BYTES)).digest()
    except (OSError, ValueError):
        return None


def folders_of(files: Iterable[Path]) -> Mapping[Path, tuple[int, int]]:
    """Return the folders in which a change can change one of the files, each with its device and inode.

    Those are the folder of each file and of each symbolic link on the way to it; in place of one that is gone, the
    nearest above it.
    """
    found: dict[Path, tuple[int, int]] = {}
    for folder in {folder for file in files for folder in _folders_on_the_way(file)}:
        nearest = folder
        while not nearest.is_dir() and nearest != nearest.parent:
            nearest = nearest.parent
        try:
            status = nearest.stat()
        except OSError:  # It went this moment; the next look sees what there is then.
            continue
        found[nearest] = status.st_dev, status.st_ino
    return found


def _folders_on_the_way(file: Path) -> set[Path]:
    folders: set[Path] = set()
    path = file
    for _ in range(_MAX_LINKS):
        link = next((part for part in (*reversed(path.parents), path) if part.is_symlink()), None)
        if link is None:
            break
        folders.add(link.parent)
        try:
            target = link.readlink()
        except OSError:
            break
        path = Path(os.path.normpath(link.parent / target)) / path.relative_to(link)
    folders.add(path.parent)
    return folders
