"""What was compared: which version of an engine agrees with which of tiktoken, on which vocabulary, and where not.

An engine that makes other ids than tiktoken does would change what a model reads, and nobody would see it. So an engine
is used for a vocabulary only if `scripts/compare_engines.py` compared the two, in these versions, on this kind of
machine.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import os
import platform
import re
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardtok.errors import EngineError, MissingExtraError
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    import tiktoken

RESULTS = "GUARDTOK_ENGINES"
"""The environment variable that names a folder of results which the user's own comparison wrote."""

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """One engine, compared with tiktoken on one vocabulary.

    Attributes:
        scheme: The engine's own name for the vocabulary's pattern; empty where it takes the pattern itself.
        differ: Ranges of code points, both ends included, that make a difference. Text that holds one takes tiktoken's
            way.
    """

    scheme: str
    differ: tuple[tuple[int, int], ...]

    def pattern(self) -> re.Pattern[str] | None:
        """Return what finds a code point that makes a difference, or None where none does."""
        if not self.differ:
            return None
        return re.compile("[" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in self.differ) + "]")


def rank_file(encoding: tiktoken.Encoding) -> bytes:
    """Return the rank file of an encoding, written from the very ranks that tiktoken encodes with."""
    ranks = sorted(encoding._mergeable_ranks.items(), key=itemgetter(1))
    return b"".join([b"%b %d\n" % (binascii.b2a_base64(token, newline=False), rank) for token, rank in ranks])


def find_comparison(engine: str, encoding: tiktoken.Encoding) -> Comparison:
    """Return the comparison that holds for the installed versions, this machine and this vocabulary.

    Raises:
        MissingExtraError: The engine is not installed.
        EngineError: There is no such comparison, or the user's own results cannot be read.
    """
    from importlib import metadata

    try:
        version = metadata.version(engine)
    except metadata.PackageNotFoundError:
        raise MissingExtraError(f"The engine {engine} is not installed: pip install 'guardtok[fast]'.") from None
    here = {
        "format": FORMAT,
        "engine": engine,
        "engine_version": version,
        "tiktoken_version": metadata.version("tiktoken"),
        "machine": platform.machine().lower(),
    }
    vocabulary = {
        "ranks": hashlib.sha256(rank_file(encoding)).hexdigest(),
        "pattern": hashlib.sha256(encoding._pat_str.encode()).hexdigest(),
    }
    for result in _results(engine):
        if not here.items() <= result.items():
            continue
        for entry in result["vocabularies"]:
            if vocabulary.items() <= entry.items():
                return Comparison(entry["scheme"], tuple(map(_range, entry["differ"])))
    raise EngineError(
        f"{engine} {version} was not compared with tiktoken {here['tiktoken_version']} on this vocabulary "
        f"({encoding.name}) and this kind of machine ({here['machine']}). Compare them: "
        f"`python -m scripts.compare_engines --out FOLDER` in guardtok's repository, then {RESULTS}=FOLDER; or use "
        "engine='tiktoken'."
    )


def _results(engine: str) -> Iterator[dict[str, Any]]:
    """Yield the results that guardtok ships, then those in the user's folder."""
    name = f"engine_{engine}.json"
    shipped = Path(__file__).parents[1].joinpath(f"data/{name}")
    if shipped.is_file():
        yield json.loads(shipped.read_text(encoding="utf-8"))
    folder = os.environ.get(RESULTS)
    if not folder:
        return
    path = Path(folder, name)
    try:
        if path.is_file():
            yield _check(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{visible(str(path))[:200]} is no result of a comparison ({type(error).__name__}). Write it again with "
            f"`python -m scripts.compare_engines`, or unset {RESULTS}."
        ) from None


def _check(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result whose entries can be read; raise whatever comes where they cannot."""
    for entry in result["vocabularies"]:
        Comparison(str(entry["scheme"]), tuple(map(_range, entry["differ"]))).pattern()
    return result


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first, 16), int(last or first, 16)
