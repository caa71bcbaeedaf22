"""Records scanned in batches: their texts are put side by side, and only those that hold something are judged."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from guardtok.corpus.action import CorpusAction
from guardtok.corpus.files import CorpusFile, FileFormat
from guardtok.corpus.finding import Problem, RowFinding
from guardtok.corpus.records import CsvColumn, JsonColumn, Record
from guardtok.corpus.scanner import ANNOTATIONS, NOT_UTF8
from guardtok.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from guardtok.corpus.engine import Judged
    from guardtok.corpus.scanner import ArrowScanner

_BATCH = 4 << 20
"""So many bytes of records, about, are scanned in one go."""

_RECORD = 256
"""So many bytes a record counts for at least."""

WHOLE = "text"
"""What the column of a file is called that is one text."""


class _Text(NamedTuple):
    record: Record
    path: str
    item: int | None
    text: str | bytes
    replace: Callable[[str], None]


class RecordScan:
    """Scans the records of one file.

    Attributes:
        rows: Documents of the batch that was scanned last; so with what follows.
        texts: Texts that were scanned.
        size: Their bytes.
        problems: What could not be read or judged.
        dropped: Rows that the output leaves out.
    """

    __slots__ = ("_columns", "_file", "_scanner", "dropped", "problems", "rows", "size", "texts")

    def __init__(self, scanner: ArrowScanner, file: CorpusFile) -> None:
        """Prepare to scan.

        Raises:
            CorpusError: A text file is to be annotated, or has columns.
        """
        self._scanner = scanner
        self._file = file
        if file.format is FileFormat.TEXT and scanner.action is CorpusAction.ANNOTATE:
            raise CorpusError("A text file has no columns that could be annotated. Report, or choose another action.")
        self._columns: dict[str, Any] = {path: JsonColumn(path) for path in scanner.columns}
        self._reset()

    def _reset(self) -> None:
        self.rows = self.texts = self.size = 0
        self.problems: list[Problem] = []
        self.dropped: set[int] = set()

    def batches(self, records: Iterable[Record]) -> Iterator[list[Record]]:
        """Yield records in lists that are scanned in one go; the last one is there where the rest cannot be read.

        Raises:
            OSError: Whatever `records` raises, after what was read before.
        """
        batch: list[Record] = []
        size = 0
        try:
            for record in records:
                batch.append(record)
                size += _RECORD + len(record.raw)
                if self._file.format is FileFormat.CSV:
                    size += sum(map(len, record.value or ()))
                if size >= _BATCH:
                    yield batch
                    batch, size = [], 0
        except GeneratorExit:
            raise
        except BaseException:
            if batch:
                yield batch
            raise
        if batch:
            yield batch

    def scan(self, batch: list[Record]) -> list[RowFinding]:
        """Scan a batch, change its records as the action asks, and return what was found."""
        self._reset()
        engine = self._scanner.engine
        texts = list(self._texts(batch))
        findings: list[RowFinding] = []
        by_source: dict[str, list[_Text]] = {}
        for each in texts:
            by_source.setdefault(self._source(each.path), []).append(each)
        for source, own in by_source.items():
            for at in engine.sifters[source].sift_texts([each.text for each in own]):
                each = own[at]
                data = each.text
                judged = engine.judge(data, source) if isinstance(data, bytes) else engine.judge_text(data, source)
                finding = self._take(each, judged)
                if finding is not None:
                    findings.append(finding)
        findings.sort(key=lambda finding: finding.row)
        if self._scanner.action is CorpusAction.ANNOTATE:
            self._annotate(batch, findings)
        return findings

    def _source(self, path: str) -> str:
        columns = self._scanner.columns
        return columns[path] if path in columns else next(iter(columns.values()))

    def _texts(self, batch: list[Record]) -> Iterator[_Text]:
        """Yield the texts of a batch; note what a record lacks."""
        for record in batch:
            if record.row < 0:  # The names of CSV's columns.
                self._columns = {path: CsvColumn(path, record.value) for path in self._scanner.columns}
                continue
            self.rows += 1
            if record.problem is not None:
                self.problems.append(record.problem)
            if record.value is None:
                self.dropped.add(record.row)
                continue
            for each in self._texts_of(record):
                self.texts += 1
                self.size += len(each.text) if isinstance(each.text, bytes) else _size(each.text)
                yield each

    def _texts_of(self, record: Record) -> Iterator[_Text]:
        if self._file.format is FileFormat.TEXT:
            yield _Text(record, WHOLE, None, record.value, lambda text: setattr(record, "value", text))
            return
        for path, column in self._columns.items():
            try:
                found = column.texts(record.value)
            except CorpusError as error:
                self.problems.append(Problem(str(error), record.row, path))
                self.dropped.add(record.row)
                continue
            for item, (text, put) in enumerate(found):
                yield _Text(record, path, item if len(found) > 1 else None, text, put)

    def _take(self, each: _Text, judged: Judged) -> RowFinding | None:
        """Do about a text what is asked, and return what was found in it."""
        scanner, record, verdict = self._scanner, each.record, judged.verdict
        if isinstance(each.text, bytes) and not _is_utf8(each.text):
            self.problems.append(Problem(NOT_UTF8, record.row, each.path))
        if verdict is None:
            self.problems.append(Problem(judged.failure or "", record.row, each.path))
            self.dropped.add(record.row)
            return None
        refused = scanner.action.rewrites and judged.text is None
        if judged.text is not None and judged.text != each.text:
            each.replace(judged.text)
            record.changed = True
        if refused or (scanner.action is CorpusAction.DROP and scanner.engine.is_acted_on(verdict)):
            self.dropped.add(record.row)
        if not verdict.count:
            return None
        whole = self._file.format is FileFormat.TEXT
        finding = RowFinding(record.row, each.path, each.item, verdict, refused, None if whole else record.line)
        return replace(finding, lines=_lines(each.text, [v.start for v in verdict.violations])) if whole else finding

    def _annotate(self, batch: list[Record], findings: list[RowFinding]) -> None:
        by_row: dict[int, list[RowFinding]] = {}
        for finding in findings:
            by_row.setdefault(finding.row, []).append(finding)
        for record in batch:
            value = record.value
            if record.row < 0:
                self._refuse_annotated(value)
                record.value = [*value, *ANNOTATIONS]
            elif isinstance(value, (dict, list)):
                own = by_row.get(record.row, [])
                action = max((each.verdict.action for each in own), key=lambda action: action.severity, default=None)
                count = sum(each.verdict.count for each in own)
                tokens = list(dict.fromkeys(v.token for each in own for v in each.verdict.violations))
                said = (action.value if action else "allow", count, tokens)
                if isinstance(value, dict):
                    self._refuse_annotated(value)
                    value.update(zip(ANNOTATIONS, said, strict=True))
                else:
                    record.value = [*value, said[0], str(count), " ".join(tokens)]
                record.changed = True

    @staticmethod
    def _refuse_annotated(names: Iterable[str]) -> None:
        if not set(ANNOTATIONS).isdisjoint(names):
            raise CorpusError(f"There is a column {', '.join(ANNOTATIONS)} already: the file was annotated before.")


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _lines(text: str | bytes, starts: Iterable[int]) -> tuple[int, ...]:
    """Return the line of each position in a text, from 1."""
    whole = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    lines, line, last = [], 1, 0
    for start in starts:
        line += whole.count("\n", last, start) if start >= last else -whole.count("\n", start, last)
        last = start
        lines.append(line)
    return tuple(lines)
