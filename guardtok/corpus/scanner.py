"""`ArrowScanner`, the one callable: `pa.Table -> pa.Table`, for every engine that hands out tables.

It is what an application calls in a loop, what `ray.data.Dataset.map_batches` and Spark's `mapInArrow` call on each
block, and what `guardtok scan` calls on each batch of a file. Each row is judged for itself, so how rows are cut into
blocks changes nothing.
"""

from __future__ import annotations

import pickle
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guardtok.corpus.action import CorpusAction, to_corpus_action
from guardtok.corpus.columns import open_column, steps_to
from guardtok.corpus.engine import Engine, EngineSpec, Judged, engine_of
from guardtok.corpus.finding import Problem, RowFinding
from guardtok.corpus.sift import read_buffers
from guardtok.errors import CorpusError, MissingExtraError
from guardtok.policy.model import Policy

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    import pyarrow as pa
    import tiktoken

    from guardtok.extended import Extended
    from guardtok.tokenizer import Tokenizer

ANNOTATIONS = ("guardtok_action", "guardtok_count", "guardtok_tokens")
"""The columns that `annotate` adds."""

NOT_UTF8 = "The text is not UTF-8: what is ill-formed in it was replaced by U+FFFD."


@dataclass(frozen=True, slots=True)
class Scanned:
    """What became of a table.

    Attributes:
        table: The table after the action; under `report` as it was.
        findings: What was found, by column and row.
        problems: What could not be judged as it is.
        texts: How many texts were scanned; a null is none.
        size: Their bytes.
        dropped: The rows that were left out, ascending.
    """

    table: pa.Table
    findings: tuple[RowFinding, ...]
    problems: tuple[Problem, ...]
    texts: int
    size: int
    dropped: tuple[int, ...]


class ArrowScanner:
    """Finds control tokens in the text columns of a table, and does about them what is asked.

    Its pickle holds the policy and what the tokenizer is built from; each process builds one guard from that.

    Args:
        policy: A shipped policy's name, a path, or a policy.
        columns: The columns with text, or a mapping from each to the source that wrote it. `messages.content` is a
            field of a structure, or of the structures in a list.
        action: `report`, `annotate`, `escape`, `strip` or `drop`; see `CorpusAction`.
        tokenizer: Whose control tokens are looked for, as `Guard.load` takes it; None for every family that guardtok
            knows.
        source: Who wrote the columns that do not say.
        digest_key: Key of the digests in findings, 1 to 64 bytes; by default a random one, which copies share. Give one
            where a cache is to know the scanner again (`datasets.Dataset.map`).

    Raises:
        CorpusError: No such action, or no columns.
        MissingExtraError: pyarrow is not installed.
        UnknownSourceError: A source that the policy does not know.
        GuardtokError: Whatever else `Guard.load` raises.
    """

    __slots__ = ("action", "columns", "spec")

    def __init__(  # noqa: PLR0913 - what a guard takes, and the columns
        self,
        policy: str | os.PathLike[str] | Policy = "corpus",
        columns: str | Iterable[str] | Mapping[str, str] = ("text",),
        action: str | CorpusAction = CorpusAction.REPORT,
        *,
        tokenizer: str | os.PathLike[str] | tiktoken.Encoding | Tokenizer | Extended | None = None,
        source: str = "document",
        digest_key: bytes | None = None,
    ) -> None:
        require_pyarrow()
        names = [columns] if isinstance(columns, str) else columns
        self.columns = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, source)
        if not self.columns:
            raise CorpusError("Name at least one column with text.")
        self.action = to_corpus_action(action)
        wanted = EngineSpec(
            policy if isinstance(policy, Policy) else Policy.load(policy),
            tokenizer,
            self.action,
            frozenset(self.columns.values()),
            secrets.token_bytes(32) if digest_key is None else digest_key,
        )
        self.spec = pickle.dumps(wanted)
        engine_of(self.spec)

    def __repr__(self) -> str:
        policy = self.engine.guard.policy.name
        return f"<ArrowScanner policy={policy!r} columns={list(self.columns)} action={self.action.value!r}>"

    def __getstate__(self) -> tuple[dict[str, str], CorpusAction, bytes]:
        return self.columns, self.action, self.spec

    def __setstate__(self, state: tuple[dict[str, str], CorpusAction, bytes]) -> None:
        self.columns, self.action, self.spec = state

    @property
    def engine(self) -> Engine:
        """This process's engine."""
        return engine_of(self.spec)

    def __call__(self, table: pa.Table | pa.RecordBatch) -> pa.Table:
        """Scan a table, and return what the action makes of it.

        `report` returns a row for each violation: `row`, `column`, `item` and the fields of `Violation`. `annotate`
        returns the table with `guardtok_action` (the strictest), `guardtok_count` and `guardtok_tokens` (the forms,
        broken). The others return the table with other texts, or with fewer rows.

        Raises:
            CorpusError: A column is missing or no text, or the guard failed on a row; nothing is returned.
        """
        scanned = self.scan(table)
        for problem in scanned.problems:
            if problem.fact != NOT_UTF8:
                raise CorpusError(str(problem))
        return violations_table(scanned.findings) if self.action is CorpusAction.REPORT else scanned.table

    def scan(self, table: pa.Table | pa.RecordBatch) -> Scanned:
        """Scan a table, and return what was found with what the action makes of it.

        Raises:
            CorpusError: A column is missing or no text, or `annotate` would overwrite one.
        """
        import pyarrow as pa

        if isinstance(table, pa.RecordBatch):
            table = pa.Table.from_batches([table])
        ways = {path: steps_to(table.schema, path) for path in self.columns}
        if self.action is CorpusAction.ANNOTATE and not set(ANNOTATIONS).isdisjoint(table.schema.names):
            raise CorpusError(f"The table has a column {', '.join(ANNOTATIONS)} already: it was annotated before.")
        run = _Run(self)
        for path, (name, *names) in ways.items():
            index, row = table.schema.get_field_index(name), 0
            chunks = []
            for chunk in table.column(index).chunks:
                chunks.append(run.scan_chunk(chunk, names, path, row))
                row += len(chunk)
            if run.changed:
                table = table.set_column(index, table.schema.field(index), pa.chunked_array(chunks, chunks[0].type))
                run.changed = False
        return run.finish(table)


class _Run:
    """One table on its way through a scanner."""

    __slots__ = ("changed", "column", "dropped", "findings", "problems", "scanner", "size", "source", "texts")

    def __init__(self, scanner: ArrowScanner) -> None:
        self.scanner = scanner
        self.changed = False
        self.findings: list[RowFinding] = []
        self.problems: list[Problem] = []
        self.dropped: set[int] = set()
        self.texts = self.size = 0
        self.column = self.source = ""

    def scan_chunk(self, chunk: pa.Array, names: list[str], path: str, first: int) -> pa.Array:
        """Scan a chunk of a column whose first row has this number, and return what it becomes."""
        import pyarrow as pa

        self.column, self.source = path, self.scanner.columns[path]
        leaf = open_column(chunk, names)
        values = leaf.values
        if pa.types.is_dictionary(values.type):
            return leaf.rebuild(self._scan_dictionary(values, leaf.rows, first)) if len(values) else chunk
        replaced: dict[int, str] = {}
        for position, judged, ill_formed in self._judge_all(values):
            row, item = leaf.rows(position)
            self._note(judged, ill_formed, first + row, item)
            if (text := self._replacement(judged, values, position, ill_formed)) is not None:
                replaced[position] = text
        self.texts += len(values) - values.null_count
        self.size += _size(values)
        if not replaced:
            return chunk
        self.changed = True
        return leaf.rebuild(_replace(values, replaced))

    def _scan_dictionary(self, values: pa.DictionaryArray, rows: Any, first: int) -> pa.Array:  # noqa: ANN401 - Leaf.rows
        """Scan each value of a dictionary once, and say what was found of each row that has it."""
        import pyarrow as pa

        kind = values.dictionary.type
        words = values.dictionary.cast(pa.large_string()) if pa.types.is_string_view(kind) else values.dictionary
        judged = {position: (said, ill_formed) for position, said, ill_formed in self._judge_all(words)}
        lengths = {index: len(data) for index, data in _texts(words, range(len(words)))}
        replaced: dict[int, str] = {}
        for position, index in enumerate(values.indices.to_pylist()):
            if index not in lengths:
                continue
            self.texts += 1
            self.size += lengths[index]
            if index in judged:
                row, item = rows(position)
                self._note(*judged[index], first + row, item)
        for index, (said, ill_formed) in judged.items():
            if (text := self._replacement(said, words, index, ill_formed)) is not None:
                replaced[index] = text
        if not replaced:
            return values
        self.changed = True
        changed = _replace(words, replaced).cast(kind)
        return pa.DictionaryArray.from_arrays(values.indices, changed, ordered=values.type.ordered)

    def _judge_all(self, values: pa.Array) -> Iterator[tuple[int, Judged, bool]]:
        """Yield number and judgement of each text in which something is to be found, and whether it is ill-formed."""
        engine = self.scanner.engine
        ill_formed = _find_ill_formed(values)
        sifter = engine.sifters[self.source]
        rows = sorted({*range(len(values))} if ill_formed else sifter.sift(values))
        for position, data in _texts(values, rows):
            if ill_formed and position not in ill_formed and not sifter.is_suspect(data):
                continue
            judged = engine.judge(data, self.source)
            if judged.verdict is None or judged.verdict.count or position in ill_formed:
                yield position, judged, position in ill_formed

    def _note(self, judged: Judged, ill_formed: bool, row: int, item: int | None) -> None:  # noqa: FBT001 - inner
        verdict, action = judged.verdict, self.scanner.action
        if ill_formed:
            self.problems.append(Problem(NOT_UTF8, row, self.column))
        if verdict is None:
            self.problems.append(Problem(judged.failure or "", row, self.column))
            self.dropped.add(row)
            return
        refused = action.rewrites and judged.text is None
        if verdict.count:
            self.findings.append(RowFinding(row, self.column, item, verdict, refused))
        if refused or (action is CorpusAction.DROP and self.scanner.engine.is_acted_on(verdict)):
            self.dropped.add(row)

    def _replacement(self, judged: Judged, values: pa.Array, position: int, ill_formed: bool) -> str | None:  # noqa: FBT001 - inner
        """Return what a text is to be replaced by, or None where it stays."""
        if judged.text is not None and judged.verdict is not None:
            return judged.text
        if not ill_formed:
            return None
        return next(_texts(values, [position]))[1].decode("utf-8", "replace")

    def finish(self, table: pa.Table) -> Scanned:
        """Return what became of the table."""
        dropped = tuple(sorted(self.dropped)) if self.scanner.action not in _KEEPERS else ()
        if self.scanner.action is CorpusAction.ANNOTATE:
            table = annotate(table, self.findings, self.problems)
        if dropped:
            table = _without(table, dropped)
        return Scanned(table, tuple(self.findings), tuple(self.problems), self.texts, self.size, dropped)


_KEEPERS = (CorpusAction.REPORT, CorpusAction.ANNOTATE)
"""The actions that leave out no row."""


def annotate(table: pa.Table, findings: Iterable[RowFinding], problems: Iterable[Problem]) -> pa.Table:
    """Return a table with what was found in each row. Of a row on which the guard failed nothing is known: nulls."""
    import pyarrow as pa

    actions: list[str | None] = ["allow"] * len(table)
    counts: list[int | None] = [0] * len(table)
    tokens: list[list[str] | None] = [[] for _ in actions]
    severity = [0] * len(table)
    for finding in findings:
        row, verdict = finding.row, finding.verdict
        if verdict.action.severity > severity[row]:
            severity[row], actions[row] = verdict.action.severity, verdict.action.value
        counts[row] = (counts[row] or 0) + verdict.count
        tokens[row] = list(dict.fromkeys([*(tokens[row] or ()), *(each.token for each in verdict.violations)]))
    for problem in problems:
        if problem.row is not None and problem.fact != NOT_UTF8:
            actions[problem.row] = counts[problem.row] = tokens[problem.row] = None
    columns = (pa.array(actions, pa.string()), pa.array(counts, pa.int64()), pa.array(tokens, pa.list_(pa.string())))
    for name, column in zip(ANNOTATIONS, columns, strict=True):
        table = table.append_column(name, column)
    return table


def violations_table(findings: Iterable[RowFinding]) -> pa.Table:
    """Return findings as a table with a row for each violation."""
    import pyarrow as pa

    fields = {"rule": pa.string(), "token": pa.string(), "token_id": pa.int64(), "role": pa.string()}
    fields |= {"source": pa.string(), "start": pa.int64(), "end": pa.int64(), "form": pa.string()}
    fields |= {"action": pa.string(), "digest": pa.string()}
    rows = [
        {"row": each.row, "column": each.column, "item": each.item}
        | {name: getattr(violation, name) for name in fields}
        | {"action": violation.action.value}
        for each in findings
        for violation in each.verdict.violations
    ]
    schema = pa.schema({"row": pa.int64(), "column": pa.string(), "item": pa.int64(), **fields})
    return pa.Table.from_pylist(rows, schema=schema)


def require_pyarrow() -> None:
    """Raise a MissingExtraError where pyarrow is not installed."""
    try:
        import pyarrow as pa  # noqa: F401 - to know
    except ImportError:
        raise MissingExtraError("To scan a corpus: pip install 'guardtok[corpus]'.") from None


def _without(table: pa.Table, dropped: tuple[int, ...]) -> pa.Table:
    """Return a table without these rows, ascending."""
    import pyarrow as pa

    kept = [True] * len(table)
    for row in dropped:
        kept[row] = False
    try:
        return table.filter(pa.array(kept))
    except pa.ArrowNotImplementedError:  # Some types, views of strings among them, can be sliced and not filtered.
        bounds = zip((0, *(row + 1 for row in dropped)), (*dropped, len(table)), strict=True)
        return pa.concat_tables([table.slice(start, end - start) for start, end in bounds])


def _texts(values: pa.Array, positions: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of the texts at these positions; a null is left out."""
    offsets, data = read_buffers(values)
    valid = values.is_valid() if values.null_count else None
    for position in positions:
        if valid is None or valid[position].as_py():
            yield position, bytes(data[offsets[position] : offsets[position + 1]])


def _size(values: pa.Array) -> int:
    offsets, _ = read_buffers(values)
    return int(offsets[-1] - offsets[0])


def _find_ill_formed(values: pa.Array) -> frozenset[int]:
    """Return the positions of the texts that are not UTF-8. Arrow's own check is quick, and says no more than that."""
    import pyarrow as pa

    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return frozenset(position for position, data in _texts(values, range(len(values))) if not _is_utf8(data))
    return frozenset()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _replace(values: pa.Array, replaced: Mapping[int, str]) -> pa.Array:
    """Return strings with some of them replaced."""
    import pyarrow as pa
    import pyarrow.compute as pc

    mask = [False] * len(values)
    for position in replaced:
        mask[position] = True
    texts = pa.array([replaced[position] for position in sorted(replaced)], values.type)
    return pc.replace_with_mask(values, pa.array(mask), texts)
