"""A directory of vectors: findings are written there, and tried first the next time.

The format is that of `tests/vectors`: a JSON document with `about`, `kind` and `vectors`, of which each names its
class, its parts and what was found. Anything else in the directory is reported and left alone.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from guardtok.fuzz.case import Case
from guardtok.fuzz.findings import shown
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from guardtok.fuzz.findings import Finding

KIND = "fuzz"
MAX_BYTES = 16_000_000
MAX_NOTES = 20
FILE = "fuzz-{}.json"


def read(folder: Path) -> tuple[list[Case], list[str]]:
    """Return the cases of a directory, and what in it is none.

    A directory that is not there yet has no cases.
    """
    cases: dict[Case, None] = {}
    notes: list[str] = []
    try:
        paths = sorted(folder.iterdir()) if folder.exists() else []
    except OSError as error:
        return [], [f"the corpus cannot be read: {error.strerror}"]
    for path in paths:
        if path.name.startswith("."):
            continue
        try:
            found = _cases(path)
        except (OSError, ValueError, RecursionError) as error:
            notes.append(f"corpus: {visible(path.name)[:80]} is no file of vectors ({type(error).__name__}); left out")
            continue
        for case in found:
            cases[case] = None
    more = [f"corpus: {len(notes) - MAX_NOTES:,} more are left out"] if len(notes) > MAX_NOTES else []
    return list(cases), notes[:MAX_NOTES] + more


def _cases(path: Path) -> list[Case]:
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise ValueError("no file, or far too large a one")
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise ValueError("another kind of document")
    vectors = document.get("vectors")
    if not isinstance(vectors, list):
        raise ValueError("no list of vectors")  # noqa: TRY004 - one error for whatever a file may hold
    return [Case.from_dict(_as_case(vector)) for vector in vectors]


def _as_case(vector: object) -> object:
    return {**vector, "attack": vector.get("class")} if isinstance(vector, dict) else vector


def write(folder: Path, findings: Sequence[Finding], target: str) -> list[str]:
    """Write a file of one vector for each finding that is not there yet; return what could not be written."""
    notes: list[str] = []
    for finding in findings:
        vector = as_vector(finding, target)
        document = {
            "kind": KIND,
            "about": "Found by `guardtok fuzz`. `parts` is the text as it was cut.",
            "vectors": [vector],
        }
        text = json.dumps(document, indent=1)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FILE.format(vector["id"])).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            notes.append(f"corpus: a finding cannot be written: {error.strerror}")
            break
    return notes


def vector_name(finding: Finding, target: str) -> str:
    """Return the name of a finding's vector, the same on every run; targets may share a directory."""
    case, outcome = finding.case, finding.outcome
    digest = hashlib.sha256(f"{target}\n{outcome.oracle}\n{outcome.cause}\n{case.to_json()}".encode()).hexdigest()
    return f"{outcome.oracle.value.replace(' ', '-')}-{digest[:12]}"


def as_vector(finding: Finding, target: str) -> dict[str, Any]:
    """Return a finding as a vector."""
    case, outcome = finding.case, finding.outcome
    return {
        "id": vector_name(finding, target),
        "class": case.attack,
        "target": target,
        "shape": case.shape,
        "parts": list(case.parts),
        "form": case.form,
        "repeat": case.repeat,
        "found": {
            "oracle": outcome.oracle.value,
            "cause": outcome.cause,
            "ids": list(outcome.ids),
            "expected": shown(outcome.expected, [case.form]),
            "got": shown(outcome.got, [case.form]),
        },
    }
