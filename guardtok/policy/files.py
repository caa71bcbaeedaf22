"""Where policies are found, and how their files are read: bounded, and as UTF-8 only."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from guardtok.errors import PolicyError, Problem, near_match
from guardtok.policy.model import Mark

MAX_BYTES = 1_000_000
"""Bytes of the largest file that is read. A policy of four thousand forms has a tenth."""

SUFFIXES = (".yaml", ".yml")


def shipped_policies() -> tuple[str, ...]:
    """Return the names of the policies that come with guardtok."""
    return tuple(sorted(file.stem for file in _shipped_folder().glob("*.yaml") if "." not in file.stem))


def locate(source: str | os.PathLike[str], *, folder: Path | None = None, place: str | None = None) -> Path:
    """Return the path of a policy.

    Args:
        source: A path, or the name of a shipped policy: a string without a separator and without a YAML suffix.
        folder: What a relative path is relative to; by default the working directory.
        place: Where the name was written, for the error; by default the name itself.

    Raises:
        PolicyError: No policy of that name is shipped.
    """
    if not isinstance(source, str) or source.endswith(SUFFIXES) or "/" in source or os.sep in source:
        return (folder or Path()) / source
    if source in shipped_policies():
        return _shipped_folder() / f"{source}.yaml"
    near = near_match(source, shipped_policies()).strip()
    fact = f"No policy {source[:80]!r} is shipped."
    mend = near or f"Shipped are {', '.join(shipped_policies())}; a path has a `/` in it or ends in `.yaml`."
    raise PolicyError([Problem(place or str(Mark(repr(source[:80]), 1, 1)), fact, mend)])


def read_text(path: Path, *, place: str | None = None) -> str:
    """Return the text of a file, without a byte order mark.

    Args:
        path: The file.
        place: Where its name was written, for the error if it cannot be read; by default its own first character.

    Raises:
        PolicyError: There is no such file, it is not a regular one, is larger than `MAX_BYTES`, or not UTF-8.
    """
    start = str(Mark(str(path), 1, 1))
    try:
        # The size is looked at first, and a pipe or a device, which could be read for ever, is not opened.
        status = path.stat()
        regular = stat.S_ISREG(status.st_mode)
        data = b""
        if regular and status.st_size <= MAX_BYTES:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a path"
        fact = f"{str(path)[:200]!r} cannot be read: {reason}."
        mend = f"Shipped policies are named without a suffix: {', '.join(shipped_policies())}."
        raise PolicyError([Problem(place or start, fact, mend)]) from error
    if not regular:
        fact = f"{str(path)[:200]!r} is {'a directory' if path.is_dir() else 'not a file'}."
        raise PolicyError([Problem(place or start, fact, "Name a YAML file.")])
    if status.st_size > MAX_BYTES:
        fact = f"The file has {status.st_size} bytes; a policy has at most {MAX_BYTES}."
        raise PolicyError([Problem(start, fact, "Split it over `extends`, or select by pattern.")])
    return decode(data, path)


def decode(data: bytes, path: Path) -> str:
    """Return the text that a file holds, without a byte order mark.

    Raises:
        PolicyError: It is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        mark = Mark(str(path), before.count("\n") + 1, len(before) - before.rfind("\n"))
        fact = f"The file is not UTF-8: byte 0x{data[error.start]:02X} at offset {error.start}."
        raise PolicyError([Problem(str(mark), fact, "Save it as UTF-8.")]) from None


def same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file; False where either leads nowhere."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def _shipped_folder() -> Path:
    """Return the folder of the shipped policies: inside the package where it is installed, beside it in a checkout."""
    package = Path(__file__).parents[1]  # importlib.resources would cost more than the whole load.
    inside = package / "policies"
    return inside if inside.is_dir() else package.parent / "policies"
