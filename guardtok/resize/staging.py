"""A directory that appears whole or not at all.

It is made under a name of its own beside the place where it belongs, and renamed at the end. Who is killed on the way
leaves such a directory behind. It can be told by its name and by its lock, which dies with the process, and the next
run removes it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from guardtok.errors import CheckpointWriteError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LEFTOVER = re.compile(r"\..+\.guardtok-resize-[0-9a-f]{16}", re.DOTALL)
_ATTEMPTS = 8
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def write_error(error: OSError) -> CheckpointWriteError:
    """Return what to tell of a system that refused, without naming anybody's path."""
    if error.errno in _FULL:
        fact = "There is no space left on the device. Make room, or write elsewhere."
    elif error.errno == errno.EFBIG:
        fact = "A file would be larger than the system allows (see `ulimit -f`)."
    elif error.errno in _FORBIDDEN:
        fact = "The system forbids to read or write there. Write to a directory that is yours."
    else:
        fact = f"The system refused to read or write: {error.strerror}."
    made = CheckpointWriteError(f"Nothing was made, and the source is as it was. {fact}")
    made.errno = error.errno
    return made


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Make a directory that becomes `target` when the block ends, and vanishes when it fails.

    Args:
        target: Where the directory belongs; nothing may be there.

    Yields:
        The directory to fill. What is in it must be on the disk when the block ends.

    Raises:
        CheckpointWriteError: Something is there, or the system refused.
    """
    try:
        remove_leftovers(target.parent)
        folder, lock = _make(target)
    except OSError as error:
        raise write_error(error) from error
    try:
        yield folder
        flush_directory(folder)
        _publish(folder, target)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise error if isinstance(error, CheckpointWriteError) else write_error(error) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.close(lock)
    # It is there now; if this fails it is only not yet certain that a power cut leaves it there.
    with suppress(OSError):
        flush_directory(target.parent)


def _publish(folder: Path, target: Path) -> None:
    """Give the directory its name.

    Raises:
        CheckpointWriteError: Something has it.
        OSError: The system refused.
    """
    if os.path.lexists(target):
        raise CheckpointWriteError("Something appeared under the new name meanwhile. It was left alone.")
    folder.rename(target)


def _make(target: Path) -> tuple[Path, int]:
    """Make the directory, and lock it for as long as this process lives; return it and the lock.

    Raises:
        OSError: The system refused.
    """
    for _ in range(_ATTEMPTS):
        folder = target.with_name(f".{target.name}.guardtok-resize-{secrets.token_hex(8)}")
        folder.mkdir()
        # Another run may take the directory for a leftover before it is locked here. Then it removes it, and this one
        # begins again.
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if _lock(lock) and os.path.lexists(folder):
                return folder, lock
            os.close(lock)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _lock(descriptor: int) -> bool:
    """Return whether a directory was locked: nobody else has it."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_leftovers(parent: Path) -> tuple[str, ...]:
    """Remove what runs that were killed left in a directory, and return their names.

    Raises:
        OSError: The directory cannot be read.
    """
    removed = []
    with os.scandir(parent) as entries:
        names = [each.name for each in entries if _LEFTOVER.fullmatch(each.name) and each.is_dir(follow_symlinks=False)]
    for name in names:
        with suppress(OSError):
            lock = os.open(parent / name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if _lock(lock):
                    shutil.rmtree(parent / name, ignore_errors=True)
                    removed.append(name)
            finally:
                os.close(lock)
    return tuple(removed)


def flush_directory(folder: Path) -> None:
    """Bring a directory's entries to the disk.

    Raises:
        OSError: The system refused.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
