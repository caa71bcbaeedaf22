"""A corpus scanned: the files found, the work handed out, the answers put together."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING

from typing_extensions import assert_never

from guardtok.corpus.action import CorpusAction
from guardtok.corpus.files import CorpusFile, find_files
from guardtok.corpus.local import run_here
from guardtok.corpus.on_ray import run_on_ray
from guardtok.corpus.output import output_at
from guardtok.corpus.result import FileResult
from guardtok.corpus.tables import count_groups
from guardtok.corpus.work import Job, Piece, Work, plan_pieces
from guardtok.dialects import catalogue
from guardtok.errors import CorpusError
from guardtok.violation import broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from guardtok.corpus.files import FileFormat
    from guardtok.corpus.scanner import ArrowScanner


_LISTED = 100_000
"""So many findings and problems of all files are listed, about, each file's share at least one."""

_WORTH_PROCESSES = 64 << 20
"""Fewer bytes are scanned in this process, before others would have started, unless a number is given."""


class ScanEngine(str, Enum):
    """What the work is handed to."""

    LOCAL = "local"
    RAY = "ray"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What a scan says of a corpus.

    Attributes:
        files: A result for each file, in the order of the files.
        total: All of them together.
        stopped: Whether `fail_fast` ended the scan at a problem.
    """

    files: tuple[FileResult, ...] = field(repr=False)
    total: FileResult
    stopped: bool

    @property
    def worst(self) -> tuple[FileResult, ...]:
        """The files with the most findings, at most ten."""
        return tuple(sorted((each for each in self.files if each.count), key=lambda each: -each.count)[:10])

    def tallies(self) -> dict[str, dict[str, int]]:
        """Return how many findings there are by form, token, family, role, source, column and action, most first.

        A form counts for each family that has it.
        """
        counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("form", "token", "family", "role", "source", "column", "action")
        }
        known = _families()
        for kind, count in self.total.kinds.items():
            for name in ("form", "token", "source", "column", "action"):
                counts[name][getattr(kind, name)] += count
            counts["role"][kind.role or "none"] += count
            for family in known.get(kind.token, ("none",)):
                counts["family"][family] += count
        return {name: dict(each.most_common()) for name, each in counts.items()}


@cache
def _families() -> dict[str, tuple[str, ...]]:
    """Return the families of each form that the catalogue knows, as a record spells the form: broken."""
    return {broken(form): entry.families for form, entry in catalogue().items()}


def scan_files(  # noqa: PLR0913 - what the command line asks for
    paths: Sequence[str],
    scanner: ArrowScanner,
    *,
    output: str | None = None,
    resume: bool = False,
    engine: ScanEngine = ScanEngine.LOCAL,
    processes: int | None = None,
    file_format: FileFormat | None = None,
    fail_fast: bool = False,
    begin: Callable[[int], None] = lambda _: None,
    advance: Callable[[int, FileResult], None] = lambda *_: None,
) -> ScanResult:
    """Scan files, and do about them what the scanner's action says.

    Args:
        paths: Paths, folders, URLs.
        scanner: What scans.
        output: The folder where the result goes; every action but `report` needs one.
        resume: Whether to go on with what is there.
        engine: What the work is handed to.
        processes: How many at once; by default as many as there are processors, and one for a small corpus.
        file_format: The format of all files, whatever they are called.
        fail_fast: Whether to stop at the first problem.
        begin: Called with the number of bytes of all files, as they are stored.
        advance: Called with the bytes of each piece that is done, and its result.

    Raises:
        CorpusError: There is no such file, two are to be written under one name, or the output cannot be used.
        MissingExtraError: Something that is needed is not installed.
    """
    if scanner.action is not CorpusAction.REPORT and output is None:
        raise CorpusError(f"--action {scanner.action} writes files. Say where to: --output DIR.")
    files = find_files(paths, file_format)
    target = None if output is None else output_at(output)
    if target is not None:
        files = target.take(files)
        target.prepare(_settings(scanner), resume=resume)
    pieces = plan_pieces(files, split=scanner.action is CorpusAction.REPORT, count=count_groups)
    begin(sum(piece.weight for piece in pieces))
    answers = run_pieces(engine, Job(scanner, target), pieces, processes)
    result = collect(files, answers, advance, fail_fast=fail_fast)
    if target is not None and not result.stopped:
        target.clean()
    return result


def collect(
    files: Sequence[CorpusFile],
    answers: Iterable[tuple[Piece, FileResult]],
    advance: Callable[[int, FileResult], None],
    *,
    fail_fast: bool,
) -> ScanResult:
    """Put together the results of pieces, in whatever order they come; at a problem stop, if that is asked."""
    done: dict[str, list[FileResult]] = {file.path: [] for file in files}
    room = max(1, _LISTED // max(1, len(files)))
    stopped = False
    for piece, result in answers:
        result.cut(room)
        done[piece.file.path].append(result)
        advance(piece.weight, result)
        if fail_fast and result.failed:
            stopped = True
            break
    results = tuple(_join(file, done[file.path]) for file in files)
    total = FileResult("")
    for result in results:
        total.add(result)
    return ScanResult(results, total, stopped)


def run_pieces(
    engine: ScanEngine, job: Work, pieces: list[Piece], processes: int | None
) -> Iterator[tuple[Piece, FileResult]]:
    """Do pieces of work with an engine, and yield each with its result as it is done."""
    match engine:
        case ScanEngine.LOCAL:
            small = sum(piece.weight for piece in pieces) < _WORTH_PROCESSES
            return run_here(job, pieces, processes or (1 if small else available_processors()))
        case ScanEngine.RAY:
            return run_on_ray(job, pieces, processes)
        case other:
            assert_never(other)


def _join(file: CorpusFile, parts: list[FileResult]) -> FileResult:
    joined = FileResult(file.path)
    for part in sorted(parts, key=lambda part: part.part):
        joined.add(part)
        joined.skipped = part.skipped
    return joined


def _settings(scanner: ArrowScanner) -> dict[str, object]:
    """Return what the output depends on, besides the input."""
    ruleset = scanner.engine.guard.ruleset
    return {
        "version": 1,
        "action": scanner.action.value,
        "columns": scanner.columns,
        "policy": scanner.engine.guard.policy.digest,
        "rules": ruleset.fingerprint,
    }


def available_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
