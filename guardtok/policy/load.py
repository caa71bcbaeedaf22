"""YAML text → frozen `Policy`.

A policy with a mistake in it is not a weaker policy but none: every mistake that can be seen is collected, with its
file, line and column (the first hundred of each kind), and nothing is returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guardtok.errors import PolicyError, Problem
from guardtok.policy.files import locate, same_file
from guardtok.policy.model import Lock, Policy
from guardtok.policy.resolve import builtin_universe, conflicts, is_contested
from guardtok.policy.shelf import DISK, Sealed, name_of
from guardtok.violation import visible

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from guardtok.policy.marked import Mapped
    from guardtok.policy.schema import PolicyModel
    from guardtok.policy.shelf import Shelf

MAX_ANCESTORS = 16
"""Policies in one chain of `extends`."""


def load_policy(source: str | os.PathLike[str]) -> Policy:
    """Load a policy.

    A lock file that lies beside it (`NAME.lock.json` beside `NAME.yaml`) is read with it.

    Args:
        source: The name of a shipped policy, or a path: a string with a separator or a YAML suffix, or a `PathLike`.

    Raises:
        PolicyError: Something is wrong with it, or with a policy that it extends; holds every problem found.
    """
    return _load(locate(source), (), DISK)


def load_sealed(files: Mapping[str, bytes], chain: Sequence[str], place: Path) -> Policy:
    """Load a policy from files in memory. No other file is looked at: what it extends is among them.

    Args:
        files: The contents of policies and of lock files beside them, by path.
        chain: The paths of the policies, each extended by the one before it; each in a folder of its own.
        place: What holds the files, for errors and marks.

    Raises:
        PolicyError: Something is wrong with one of them, or the chain is not what they extend.
    """
    sealed = Sealed({place / name: data for name, data in files.items()}, tuple(place / name for name in chain))
    policy = _load(place / chain[0], (), sealed)
    used, parent = 1, policy.extends
    while parent is not None:
        used, parent = used + 1, parent.extends
    if used != len(chain):
        fact = "The policy before this one does not extend it."
        raise PolicyError([Problem(f"{place / chain[used]}:1:1", fact, "Make the bundle again.")])
    return policy


def parse_policy(text: str, *, place: str = "<string>") -> Policy:
    """Load a policy from its text. A policy without a name is called `unnamed`.

    Args:
        text: The YAML.
        place: What to call the text in errors. A relative path after `extends` is relative to the folder of this.

    Raises:
        PolicyError: Something is wrong with it, or with a policy that it extends; holds every problem found.
    """
    return _build(text.removeprefix("\ufeff"), _Origin(place, "unnamed", Path(place).parent, None, (), DISK))


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a policy's text comes from.

    Attributes:
        place: What errors call it.
        name: The policy's name if it gives none.
        folder: What paths in it are relative to.
        lock: The lock file beside it.
        chain: The files that led to it by `extends`, itself last.
        shelf: Where files are read from.
    """

    place: str
    name: str
    folder: Path
    lock: Path | None
    chain: tuple[Path, ...]
    shelf: Shelf


def _load(path: Path, chain: tuple[Path, ...], shelf: Shelf, *, place: str | None = None) -> Policy:
    text = shelf.read(path, place=place)
    lock = path.with_name(f"{path.stem}.lock.json")
    found = lock if shelf.holds(lock) else None
    return _build(text, _Origin(str(path), name_of(path), path.parent, found, (*chain, path), shelf))


def _build(text: str, origin: _Origin) -> Policy:
    # The YAML reader and the schema are wanted only here; importing them costs more than loading a policy.
    from guardtok.policy.explain import check_policy
    from guardtok.policy.marked import read_yaml
    from guardtok.policy.meaning import check_meaning, check_size
    from guardtok.policy.merge import merge

    tree, problems = read_yaml(text, origin.place)
    file, kept = check_policy(tree, problems)
    parent, lock = None, None
    try:
        parent = _parent(file, kept, origin)
    except PolicyError as error:
        problems.extend(error.problems)
    orphan = file.extends is not None and parent is None
    problems.extend(check_meaning(file, kept, parent, orphan=orphan))
    if origin.lock is not None:
        try:
            lock = _read_lock(origin.lock, origin.shelf)
        except PolicyError as error:
            problems.extend(error.problems)
    if not problems:
        policy = merge(file, kept, origin.name, parent, lock)
        problems.extend(check_size(policy))
        # The catalogue is large, and most policies have no two entries that could disagree.
        if not problems and is_contested(policy):
            problems.extend(conflicts(policy, builtin_universe(policy)))
        if not problems:
            return policy
    raise PolicyError(sorted(problems, key=lambda problem: _position(problem, origin.place)))


def _position(problem: Problem, own: str) -> tuple[str, int, int]:
    """Return a sort key: the problems of the file itself in its order, then those of each other file."""
    file, line, column = problem.place.rsplit(":", 2)
    return "" if file == own else file, int(line), int(column)


def _parent(file: PolicyModel, tree: Mapped, origin: _Origin) -> Policy | None:
    """Load what a file extends.

    Raises:
        PolicyError: It cannot be loaded, or extends in a circle.
    """
    from guardtok.policy.marked import mark_at

    if file.extends is None:
        return None
    place = str(mark_at(tree, ("extends",)))
    path = origin.shelf.locate(file.extends, folder=origin.folder, place=place)
    chain = [*origin.chain, path]
    if any(same_file(path, ancestor) for ancestor in origin.chain):
        fact = f"`extends` goes in a circle: {' → '.join(visible(str(each)) for each in chain)}."
        raise PolicyError([Problem(place, fact, "Take one of them out.")])
    if len(chain) > MAX_ANCESTORS:
        fact = f"More than {MAX_ANCESTORS} policies extend one another."
        raise PolicyError([Problem(place, fact, "Merge some of them.")])
    return _load(path, origin.chain, origin.shelf, place=place)


def _read_lock(path: Path, shelf: Shelf) -> Lock:
    """Read a lock file: `{"guardtok_lock": 1, "tokenizer": …, "fingerprint": "sha256:…", "ids": {FORM: ID}}`.

    Raises:
        PolicyError: It is not one.
    """
    from guardtok.policy.explain import check_lock
    from guardtok.policy.marked import read_yaml

    # JSON is YAML, and this reader knows lines and columns and refuses a key that is written twice.
    lock = check_lock(*read_yaml(shelf.read(path), str(path)))
    return Lock(str(path), lock.tokenizer, lock.fingerprint, lock.ids)
