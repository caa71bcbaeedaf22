"""Run tiktoken's own tests, unchanged, on guarded encodings: `python -m tests.tiktoken_suite`.

Whoever hands a `GuardedEncoding` to code that was written for tiktoken relies on what tiktoken's tests state. So they
are taken from the sdist of the installed version and run as they are; only `tiktoken.get_encoding` and
`tiktoken.encoding_for_model` are replaced, by ones that return the encoding of a guard whose policy allows everything.

The exit status is pytest's; 2 if there are no tests to be had. pytest collects nothing from this file. In the process
that runs tiktoken's tests it is a plugin.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import tiktoken

from guardtok.encodings import load_tokenizer
from guardtok.errors import UnknownTokenizerError
from guardtok.guard import Guard
from guardtok.policy.model import Policy

if TYPE_CHECKING:
    import pytest

    from guardtok.guarded_encoding import GuardedEncoding

NO_TESTS = 2
POLICY = '{guardtok: 1, name: everything, sources: {"*": {default: allow}}}'


def main() -> int:
    """Fetch tiktoken's tests, run them in a process of their own, and return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        if not fetch(Path(folder)):
            return NO_TESTS
        here = Path(__file__).parent
        # The plugin is imported by its bare name: in that process `tests` are tiktoken's.
        paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
        command = [sys.executable, "-m", "pytest", "-p", Path(__file__).stem, "-p", "no:cacheprovider", "-ra", "tests"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTEST_ADDOPTS": ""}
        return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


def fetch(folder: Path) -> bool:
    """Put the tests of the installed tiktoken into `folder`, and return whether there are any."""
    wanted = f"tiktoken=={version('tiktoken')}"
    options = ["--quiet", "--no-deps", "--no-binary", "tiktoken", "--dest", str(folder)]
    if subprocess.run([sys.executable, "-m", "pip", "download", *options, wanted], check=False).returncode:
        say(f"pip cannot get the sdist of {wanted}.")
        return False
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        for member in sdist.getmembers():
            _, _, member.name = member.name.partition("/")
            if member.name.startswith("tests/"):
                sdist.extract(member, folder, filter="data")
    if not list(folder.glob("tests/test_*.py")):
        say(f"The sdist of {wanted} carries no tests.")
        return False
    return True


def say(fact: str) -> None:
    """Print a line at once, so that it stands before what pytest prints."""
    sys.stdout.write(f"tiktoken_suite: {fact}\n")
    sys.stdout.flush()


# The plugin.


@cache
def get_encoding(name: str) -> GuardedEncoding:
    """Stand for `tiktoken.get_encoding`."""
    return Guard(Policy.parse(POLICY), load_tokenizer(name), sinks=()).encoding


def encoding_for_model(model: str) -> GuardedEncoding:
    """Stand for `tiktoken.encoding_for_model`."""
    return get_encoding(tiktoken.encoding_name_for_model(model))


def is_here(name: str) -> bool:
    """Return whether a tokenizer's vocabulary is to be had, and say so where it is not."""
    try:
        load_tokenizer(name)
    except UnknownTokenizerError:
        say(f"The vocabulary of {name} is nowhere to be found, so list_encoding_names leaves it out.")
        return False
    return True


def pytest_configure(config: pytest.Config) -> None:
    """Replace what tiktoken's tests get their encodings from."""
    names = [name for name in tiktoken.list_encoding_names() if is_here(name)]
    tiktoken.list_encoding_names = lambda: list(names)
    tiktoken.get_encoding = get_encoding
    tiktoken.encoding_for_model = encoding_for_model
    say(f"tiktoken {version('tiktoken')}, guarded encodings of {', '.join(names)}.")


if __name__ == "__main__":
    sys.exit(main())
