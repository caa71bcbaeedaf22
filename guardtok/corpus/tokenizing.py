"""A corpus as token ids: documents encoded through the guard, with a separator behind each that no document can write.

Most pipelines join documents by the separator's text and encode the result, so a page that quotes the separator ends a
document. Here the separator is an id that code puts in, and a document is text to its last character.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from typing_extensions import assert_never

from guardtok.corpus.documents import read_documents
from guardtok.corpus.engine import engine_of
from guardtok.corpus.files import find_files
from guardtok.corpus.finding import Problem
from guardtok.corpus.output import output_at
from guardtok.corpus.scan import ScanEngine, ScanResult, collect, run_pieces
from guardtok.corpus.work import Piece
from guardtok.errors import (
    CorpusError,
    LimitError,
    MissingExtraError,
    RefusedError,
    SurrogateError,
    TokenizerError,
    VerificationError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt

    from guardtok.corpus.files import FileFormat
    from guardtok.corpus.output import Output
    from guardtok.corpus.result import FileResult
    from guardtok.corpus.scanner import ArrowScanner
    from guardtok.encoded import Encoded
    from guardtok.guard import Guard

MANIFEST = "manifest.json"
"""The file that says what the shards are. It is written last: where it is, all are there."""

_BATCH = 1 << 20
"""So many characters, about, are encoded in one go."""

_NARROW = 1 << 16
"""Ids of a smaller vocabulary have 16 bits."""


class ShardFormat(str, Enum):
    """How ids are stored: arrays of NumPy with an index beside each, or Arrow files with a row for each document."""

    NPY = "npy"
    ARROW = "arrow"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class TokenizeJob:
    """What is to be done with every file.

    Attributes:
        spec: The pickled `EngineSpec`.
        source: Who wrote the documents.
        column: The column with them.
        separator: The id that ends each document, or None.
        width: Bytes of an id: 2 or 4.
        shard: So many ids, about, make a shard; a document is never cut.
        format: How ids are stored.
        output: Where shards go.
    """

    spec: bytes = field(repr=False)
    source: str
    column: str
    separator: int | None
    width: int
    shard: int
    format: ShardFormat
    output: Output

    def do(self, piece: Piece, result: FileResult) -> None:
        """Encode the documents of a file into shards.

        Raises:
            Exception: Whatever went wrong; `do_piece` says what.
        """
        guard = engine_of(self.spec).guard
        shard = _Shard(self, piece.file.name)
        documents = read_documents(piece.file, self.column, guard.policy.limits.max_chars, result)
        try:
            for row, ids in _encode_all(guard, documents, self, result):
                shard.add(row, ids)
                if shard.tokens >= self.shard:
                    result.shards.append(shard.write())
            if shard.rows:
                result.shards.append(shard.write())
        except BaseException:
            # A file that is not whole is not there at all; whoever reads shards cannot tell where it broke off.
            result.texts = 0
            while result.shards:
                shard.remove(result.shards.pop())
            raise
        result.tokens = sum(each["tokens"] for each in result.shards)


def _encode_all(
    guard: Guard, documents: Iterator[tuple[int, str]], job: TokenizeJob, result: FileResult
) -> Iterator[tuple[int, npt.NDArray[np.uint32]]]:
    batch: list[tuple[int, str]] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document[1])
        if size >= _BATCH:
            yield from _encode_batch(guard, batch, job, result)
            batch, size = [], 0
    yield from _encode_batch(guard, batch, job, result)


def _encode_batch(
    guard: Guard, batch: list[tuple[int, str]], job: TokenizeJob, result: FileResult
) -> Iterator[tuple[int, npt.NDArray[np.uint32]]]:
    try:
        encoded = guard.encode_batch([text for _, text in batch], source=job.source)
    except (RefusedError, LimitError, SurrogateError, TokenizerError, VerificationError):
        # Which of them it is shows when they are encoded one by one.
        for row, text in batch:
            one = _encode_one(guard, row, text, job, result)
            if one is not None:
                yield row, _count(text, one, result)
        return
    for (row, text), one in zip(batch, encoded, strict=True):
        yield row, _count(text, one, result)


def _encode_one(guard: Guard, row: int, text: str, job: TokenizeJob, result: FileResult) -> Encoded | None:
    """Encode a document, or note why it is left out."""
    try:
        return guard.encode(text, source=job.source)
    except (RefusedError, LimitError, SurrogateError):
        result.dropped += 1
    except (TokenizerError, VerificationError) as error:
        result.dropped += 1
        fact = f"The document could not be encoded ({type(error).__name__}) and was left out."
        result.trouble(Problem(fact, row, job.column))
    return None


def _count(text: str, encoded: Encoded, result: FileResult) -> npt.NDArray[np.uint32]:
    result.texts += 1
    result.size += len(text.encode("utf-8", "replace"))
    found = len(encoded.violations)
    result.count += found
    result.flagged += found > 0
    return encoded.array


class _Shard:
    """Ids of whole documents on their way into a file."""

    def __init__(self, job: TokenizeJob, name: str) -> None:
        self.job = job
        self.name = name
        self.number = 0
        self._begin()

    def _begin(self) -> None:
        self.rows: list[int] = []
        self.parts: list[npt.NDArray[np.uint32]] = []
        self.tokens = 0

    def add(self, row: int, ids: npt.NDArray[np.uint32]) -> None:
        """Add a document, and the separator behind it."""
        self.rows.append(row)
        self.parts.append(ids)
        self.tokens += len(ids) + (self.job.separator is not None)

    def write(self) -> dict[str, Any]:
        """Write what is there, and say what it is."""
        import numpy as np

        job, kind = self.job, np.dtype(f"<u{self.job.width}")
        end = np.array([] if job.separator is None else [job.separator], kind)
        documents = [np.concatenate([part.astype(kind), end]) for part in self.parts]
        lengths = np.array([len(each) for each in documents], np.int64)
        path = f"{self.name}.{self.number:05}.{job.format}"
        match job.format:
            case ShardFormat.NPY:
                starts = np.cumsum(lengths) - lengths
                index = np.stack([starts, lengths, np.array(self.rows, np.int64)], axis=1)
                _save(job.output, _index_of(path), _npy(index))
                digest = _save(job.output, path, _npy(np.concatenate(documents)))
            case ShardFormat.ARROW:
                digest = _save(job.output, path, _arrow(self.rows, documents))
            case other:
                assert_never(other)
        said = {"path": path, "tokens": self.tokens, "documents": len(self.rows), "sha256": digest}
        self.number += 1
        self._begin()
        return said

    def remove(self, said: dict[str, Any]) -> None:
        """Remove what `write` wrote."""
        self.job.output.remove(said["path"])
        if self.job.format is ShardFormat.NPY:
            self.job.output.remove(_index_of(said["path"]))


def _index_of(path: str) -> str:
    return f"{path.removesuffix('.npy')}.index.npy"


def _npy(array: npt.NDArray[Any]) -> bytes:
    import numpy as np

    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=False)
    return sink.getvalue()


def _arrow(rows: list[int], documents: list[npt.NDArray[Any]]) -> bytes:
    import numpy as np
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum([len(each) for each in documents])])
    ids = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(np.concatenate(documents)))
    table = pa.table({"row": pa.array(rows, pa.int64()), "ids": ids})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _save(output: Output, name: str, data: bytes) -> str:
    with output.create(name) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def find_separator(guard: Guard, form: str | None) -> tuple[str, int] | None:
    """Return the form that ends a document, and its id.

    Args:
        guard: A guard with a tokenizer.
        form: The form; `none` for none; None for the tokenizer's only end of text.

    Raises:
        CorpusError: It is no single token, the policy does not let code (`template`) write it, or several may be meant.
    """
    if guard.tokenizer is None:
        raise CorpusError("Without a tokenizer there are no ids. Name one: --tokenizer T.")
    if form == "none":
        return None
    known = {token.form: token for token in guard.tokenizer.control_tokens}
    if form is None:
        ends = [token.form for token in known.values() if token.role is not None and token.role.value == "eos"]
        if len(ends) != 1:
            raise CorpusError(
                f"The tokenizer has {len(ends)} tokens that end a text. Say which separates documents: "
                "--separator FORM, or none."
            )
        form = ends[0]
    try:
        ids = guard.encode(form, source="template").ids
    except RefusedError:
        ids = []
    if form not in known or ids != [known[form].id]:
        raise CorpusError(
            "The separator is no control token of this tokenizer, or the policy does not let the source `template` "
            "write it. `guardtok tokens` lists them."
        )
    return form, ids[0]


def tokenize_files(  # noqa: PLR0913 - what the command line asks for
    paths: Sequence[str],
    scanner: ArrowScanner,
    *,
    output: str,
    separator: str | None = None,
    shard: int = 1 << 25,
    shard_format: ShardFormat = ShardFormat.NPY,
    resume: bool = False,
    engine: ScanEngine = ScanEngine.LOCAL,
    processes: int | None = None,
    file_format: FileFormat | None = None,
    fail_fast: bool = False,
    begin: Callable[[int], None] = lambda _: None,
    advance: Callable[[int, FileResult], None] = lambda *_: None,
) -> ScanResult:
    """Write the ids of a corpus as shards, with a manifest.

    Args:
        paths: Paths, folders, URLs.
        scanner: What names policy, tokenizer, column and source; its action is not used.
        output: The folder where shards go.
        separator: The form that ends each document; `none`, or None for the tokenizer's only end of text.
        shard: So many ids, about, make a shard.
        shard_format: How ids are stored.
        resume: Whether to go on with what is there.
        engine: What the work is handed to.
        processes: How many at once; by default as many as there are processors, and one for a small corpus.
        file_format: The format of all files, whatever they are called.
        fail_fast: Whether to stop at the first problem.
        begin: Called with the number of bytes of all files, as they are stored.
        advance: Called with the bytes of each file that is done, and its result.

    Raises:
        CorpusError: There is no such file, several columns, no separator, or the output cannot be used.
        MissingExtraError: Something that is needed is not installed.
    """
    _require_numpy()
    if len(scanner.columns) != 1:
        raise CorpusError("Documents are of one column: name it alone.")
    [(column, source)] = scanner.columns.items()
    guard = scanner.engine.guard
    end = find_separator(guard, separator)
    files = find_files(paths, file_format)
    target = output_at(output)
    files = target.take(files)
    tokenizer = guard.tokenizer
    width = 2 if tokenizer is not None and tokenizer.n_vocab <= _NARROW else 4
    settings = {
        "guardtok_tokens": 1,
        "tokenizer": {"name": tokenizer and tokenizer.name, "fingerprint": tokenizer and tokenizer.fingerprint},
        "policy": {"name": guard.policy.name, "digest": guard.policy.digest},
        "source": source,
        "column": column,
        "separator": end and {"form": end[0], "id": end[1]},
        "dtype": f"uint{8 * width}",
        "format": shard_format.value,
        "shard": shard,
    }
    target.prepare(settings, resume=resume)
    job = TokenizeJob(scanner.spec, source, column, end and end[1], width, max(1, shard), shard_format, target)
    pieces = [Piece(file, weight=file.size) for file in files]
    begin(sum(piece.weight for piece in pieces))
    whole = collect(files, run_pieces(engine, job, pieces, processes), advance, fail_fast=fail_fast)
    if not whole.stopped:
        totals = {"documents": whole.total.texts, "tokens": whole.total.tokens, "left_out": whole.total.dropped}
        sources = [
            {"path": file.name, "rows": one.rows, "problems": len(one.problems) + one.unlisted, "shards": one.shards}
            for file, one in zip(files, whole.files, strict=True)
        ]
        manifest = {**settings, **totals, "files": sources}
        _save(target, MANIFEST, json.dumps(manifest, indent=1).encode() + b"\n")
        target.clean()
    return whole


def _require_numpy() -> None:
    try:
        import numpy as np  # noqa: F401 - to know
    except ImportError:
        raise MissingExtraError("To write shards: pip install 'guardtok[corpus]'.") from None
