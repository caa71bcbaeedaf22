"""One file, or a part of one, scanned from its beginning to its end: the piece of work that every engine hands out.

It depends on nothing but its arguments and leaves either all of its output or none, so it can be done again wherever
it failed. Whatever is wrong with a file is said of that file.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from guardtok.corpus.action import CorpusAction
from guardtok.corpus.files import CorpusFile, FileFormat
from guardtok.corpus.finding import Problem, RowFinding
from guardtok.corpus.record_scan import RecordScan
from guardtok.corpus.records import BinaryFileError, read_records, write_records
from guardtok.corpus.result import FileResult
from guardtok.corpus.tables import read_tables, write_tables
from guardtok.errors import CorpusError, GuardtokError, is_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.corpus.output import Output
    from guardtok.corpus.scanner import ArrowScanner

TABLES = (FileFormat.PARQUET, FileFormat.ARROW)
"""The formats that are tables."""

_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class Piece:
    """A file, or some row groups of a Parquet file.

    Attributes:
        file: The file.
        groups: The row groups; None for the whole file.
        first: Number of the first row.
        part: Which part of the file this is, from 0.
        weight: Bytes of the file that it stands for.
    """

    file: CorpusFile
    groups: tuple[int, ...] | None = None
    first: int = 0
    part: int = 0
    weight: int = 0

    @property
    def key(self) -> str:
        """What tells it from every other piece, and from itself once the file has changed."""
        return f"{self.file.name}\n{self.file.size}\n{self.file.stamp}\n{self.part}"


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done with every piece.

    Attributes:
        scanner: What scans.
        output: Where files go, and where it is noted what is done; None for a report alone.
    """

    scanner: ArrowScanner
    output: Output | None

    def do(self, piece: Piece, result: FileResult) -> None:
        """Scan a piece, and note in the result what was found.

        Raises:
            Exception: Whatever went wrong; `do_piece` says what.
        """
        with ExitStack() as stack:
            _scan(self, piece, result, stack)


class Work(Protocol):
    """What can be done with every piece."""

    @property
    def output(self) -> Output | None:
        """Where files go, and where it is noted what is done."""

    def do(self, piece: Piece, result: FileResult) -> None:
        """Do a piece, and note in the result what there is to say."""


def do_piece(job: Work, piece: Piece) -> FileResult:
    """Do a piece of work, unless it is noted that it was done.

    Returns:
        What was found, problems included: this raises nothing but an interrupt.
    """
    if job.output is not None and (noted := job.output.noted(piece.key)) is not None:
        return FileResult.from_dict(noted)
    result = FileResult(piece.file.path, part=piece.part)
    try:
        job.do(piece, result)
        if job.output is not None:
            job.output.note(piece.key, result.to_dict())
    except BinaryFileError:
        result.skipped = "It is no text: it holds NUL."
    except CorpusError as error:
        result.trouble(Problem(str(error)))
    except BaseException as error:
        if not is_failure(error):
            raise
        result.trouble(Problem(_explain(error), piece.first + result.rows))
    return result


def _explain(error: BaseException) -> str:
    """Return what to say of a failure; never its own message, which may quote the file."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return "There is no space left where the output goes. Make room, and resume."
    if isinstance(error, OSError) and error.errno is not None:
        return f"The system refused to read or write: {error.strerror}."
    if isinstance(error, GuardtokError):
        return f"{type(error).__name__}: nothing is known of what follows."
    return (
        f"From here on the file is damaged, cut off, or not what its name says ({type(error).__name__}); what follows "
        "was not read."
    )


def _scan(job: Job, piece: Piece, result: FileResult, stack: ExitStack) -> None:
    rewrites = job.scanner.action is not CorpusAction.REPORT
    sink: Any = None
    if rewrites and job.output is not None:
        sink = stack.enter_context(job.output.create(piece.file.name))
    if piece.file.format in TABLES:
        _scan_tables(job, piece, result, sink)
    else:
        _scan_records(job, piece, result, sink)


def _scan_tables(job: Job, piece: Piece, result: FileResult, sink: Any) -> None:  # noqa: ANN401 - fsspec's files
    file, scanner = piece.file, job.scanner
    columns = (
        None
        if sink
        else list(dict.fromkeys(name for path in scanner.columns for name in (path, path.partition(".")[0])))
    )
    with write_tables(file, sink) if sink else nullcontext(_drop) as write:
        for table in read_tables(file, columns, piece.groups):
            scanned = scanner.scan(table)
            first = piece.first + result.rows
            result.note(replace(each, row=each.row + first) for each in scanned.findings)
            for problem in scanned.problems:
                result.trouble(replace(problem, row=first + (problem.row or 0)))
            result.rows += len(table)
            result.texts += scanned.texts
            result.size += scanned.size
            result.dropped += len(scanned.dropped)
            write(scanned.table)


def _scan_records(job: Job, piece: Piece, result: FileResult, sink: Any) -> None:  # noqa: ANN401 - as above
    file, scanner = piece.file, job.scanner
    scan = RecordScan(scanner, file)
    records = read_records(file, scanner.engine.guard.policy.limits.max_chars)
    with write_records(file, sink) if sink else nullcontext(_drop) as write:
        for batch in scan.batches(records):
            found: list[RowFinding] = list(scan.scan(batch))
            result.note(found)
            result.rows += scan.rows
            result.texts += scan.texts
            result.size += scan.size
            for problem in scan.problems:
                result.trouble(problem)
            result.dropped += len(scan.dropped)
            for record in batch:
                if record.value is not None and record.row not in scan.dropped:
                    write(record)


def _drop(_: object) -> None:
    """Take the place of what writes."""


def plan_pieces(
    files: list[CorpusFile], *, split: bool, count: Callable[[CorpusFile], list[tuple[int, int]]]
) -> list[Piece]:
    """Return the pieces of work that files make: each file one, or large Parquet files several.

    Args:
        files: The files.
        split: Whether a file may be several pieces; it may not where it is written again.
        count: Returns rows and bytes of a Parquet file's row groups.
    """
    pieces: list[Piece] = []
    for file in files:
        if not split or file.format is not FileFormat.PARQUET or file.size < _WORTH_A_SPLIT:
            pieces.append(Piece(file, weight=file.size))
            continue
        try:
            groups = count(file)
        except BaseException as error:
            if not is_failure(error):
                raise
            groups = []  # Whoever reads the file meets the same, and says so.
        pieces += _split(file, groups) if len(groups) > 1 else [Piece(file, weight=file.size)]
    return pieces


_WORTH_A_SPLIT = 16 << 20
"""A smaller file is one piece of work."""

_PIECE = 128 << 20
"""So many bytes, decompressed, make a piece of a large file."""


def _split(file: CorpusFile, groups: list[tuple[int, int]]) -> list[Piece]:
    pieces: list[Piece] = []
    total = sum(size for _, size in groups) or 1
    taken: list[int] = []
    first = rows = size = 0
    for at, (group_rows, group_size) in enumerate(groups):
        taken.append(at)
        rows, size = rows + group_rows, size + group_size
        if size >= _PIECE or at == len(groups) - 1:
            pieces.append(Piece(file, tuple(taken), first, len(pieces), file.size * size // total))
            first, rows, size, taken = first + rows, 0, 0, []
    return pieces
