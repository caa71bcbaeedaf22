"""Planning a resize of a checkpoint on disk, which changes nothing.

The headers of the tensors are read, the configs and the tokenizer's files, and no tensor. A plan follows from what was
found alone: whoever plans again, and finds the same, gets the same plan. That is how `apply_dir` sees that a
checkpoint is still the one that was planned for.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from guardtok.errors import ResizeError
from guardtok.finding import Finding, Severity
from guardtok.resize.checkpoint import INDEX, Checkpoint, open_checkpoint, read_bytes
from guardtok.resize.disk_checks import (
    census_findings,
    companion_findings,
    config_findings,
    extension_findings,
    left_out,
)
from guardtok.resize.disk_plan import KL_BUDGET, DirectoryPlan, Request, TensorEdit
from guardtok.resize.initial_rows import Initial
from guardtok.resize.json_file import render, shown
from guardtok.resize.rows import RowAction, TokenRow, action_of
from guardtok.resize.stored_configs import (
    CONFIG,
    GENERATION,
    FileEdit,
    check_ids,
    is_capped,
    resized,
    sizes,
    special_ids,
    tied_by_flag,
    with_sizes,
)
from guardtok.resize.tensor_names import Role, VocabularyTensor, take_census, vocabulary_rows
from guardtok.resize.tokenizer_file import FORMS, SETTINGS, SPECIAL, TEMPLATE, TOKENIZER, with_tokens

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping

    from guardtok.extension import Extension

READ = frozenset({CONFIG, GENERATION, INDEX, TOKENIZER, SETTINGS, FORMS, SPECIAL, TEMPLATE})
"""Files beside the tensors that plans follow from, or change."""


def plan_resize_dir(  # noqa: PLR0913 - each is a decision of the caller's own
    path: str | os.PathLike[str],
    extension: Extension,
    multiple_of: int | None = None,
    init: Initial | str = Initial.ROLE_AWARE,
    *,
    kl_budget: float = KL_BUDGET,
    shrink: bool = False,
    claims: Mapping[str, Role | str] | None = None,
    waive: Iterable[str] = (),
) -> DirectoryPlan:
    """Return what a resize of a checkpoint on disk would do; nothing is changed, and no tensor is read.

    Args:
        path: The directory of a checkpoint in safetensors, in one file or in shards.
        extension: The tokens that the rows are for.
        multiple_of: Round the rows up to a multiple of this.
        init: How new rows begin: `role-aware`, `mean`, `subword` or `zero`; see `Initial`.
        kl_budget: For `role-aware`: nats that the new tokens may shift any prediction by.
        shrink: Let rows go that no token needs. Without it there are never fewer rows than before.
        claims: For tensors whose names are not known: `embedding`, `head` or `bias`, by name.
        waive: Names of tensors that have the vocabulary's size by chance.

    Raises:
        CheckpointError: The directory is no checkpoint, or a broken or forged one.
        ResizeError: An argument makes no sense, or it cannot be told how many rows the vocabulary has.
        OSError: The system refused to read.
    """
    try:
        roles = tuple(sorted((name, Role(role)) for name, role in (claims or {}).items()))
        initial = Initial(init)
    except ValueError:
        known = f"{', '.join(map(str, Initial))}; roles are {', '.join(map(str, Role))}"
        raise ResizeError(f"There is no such way to begin a row, or no such role. There are {known}.") from None
    if multiple_of is not None and (type(multiple_of) is not int or multiple_of < 1):
        raise ResizeError("`multiple_of` must be a whole number from 1.")
    if not 0 < kl_budget < 1:
        raise ResizeError("`kl_budget` must be above 0 and below 1 nat.")
    request = Request(extension, multiple_of or 1, initial, kl_budget, shrink, roles, frozenset(waive))
    return plan_for(open_checkpoint(path), request)


def plan_for(checkpoint: Checkpoint, request: Request) -> DirectoryPlan:
    """Return what a resize of an open checkpoint would do.

    Raises:
        CheckpointError: A file beside the tensors is broken.
        ResizeError: It cannot be told how many rows the vocabulary has.
        OSError: The system refused to read.
    """
    config = checkpoint.object_in(CONFIG) or {}
    extension = request.extension
    claims = dict(request.claims)
    before = _rows_of(checkpoint, config, claims)
    after = _rounded_up(extension.rows, request.multiple_of)
    if not request.shrink:
        after = max(after, _rounded_up(before, request.multiple_of))
    census = take_census(checkpoint.shards, before, claims, request.waive)
    tokens = tuple(TokenRow(each.form, each.id, action_of(each, before), each.pieces) for each in extension.tokens)
    taken = {each.id for each in tokens if each.action in {RowAction.REUSE, RowAction.FILL}}
    fills = tuple(sorted(each for each in taken if 0 <= each < after))
    edits = _edits(census.claimed, config, after, fills)
    files = edited_files(checkpoint, extension, edits, (before, after))
    left = left_out(checkpoint)
    findings = [
        *extension_findings(extension, before),
        *census_findings(census, before),
        *config_findings(config if CONFIG in checkpoint.files else None, before, census),
        *_unknown_names(checkpoint, request),
        *_id_findings(checkpoint, config, (before, after), fills),
        *_row_findings(request, before, after),
        *files.findings,
        *companion_findings(checkpoint, left),
    ]
    touched = {each.shard for each in edits}
    held = {each.file.name: sum(tensor.size for tensor in each.header.tensors) for each in checkpoint.shards}
    written = set(files.contents) | touched
    witnesses = tuple(_witnesses(checkpoint, left))
    return DirectoryPlan(
        source=checkpoint.path,
        request=request,
        rows=(before, after),
        live=min(before, extension.base_rows or before),
        tokens=tokens,
        edits=edits,
        written=tuple(sorted(written)),
        linked=tuple(sorted(set(held) - touched)),
        copied=tuple(sorted(set(checkpoint.files) - written - set(held) - set(left))),
        file_edits=files.edits,
        bytes_written=sum(size for name, size in held.items() if name in touched) + _grown(edits),
        bytes_linked=sum(size for name, size in held.items() if name not in touched),
        tied=bool(tied_by_flag(config)),
        bounded=not fills and after > before and not is_capped(config),
        findings=tuple(findings),
        files=witnesses,
        fingerprint=_fingerprint(request, witnesses),
    )


def _rows_of(checkpoint: Checkpoint, config: Mapping[str, Any], claims: Mapping[str, Role]) -> int:
    rows = vocabulary_rows(checkpoint.shards, claims, sizes(config).values())
    if len(rows) != 1 or rows[0] < 1:
        found = f"several embeddings, of {', '.join(map(str, rows))} rows" if rows else "none by its name"
        if rows == (0,):
            found = "one of 0 rows, as a model saved in parts has"
        raise ResizeError(
            f"An embedding is looked for, and there is {found}. Name it (`claims`, `--claim NAME=embedding`)."
        )
    return rows[0]


def _rounded_up(rows: int, multiple: int) -> int:
    return -(-rows // multiple) * multiple


def _edits(
    tensors: tuple[VocabularyTensor, ...], config: Mapping[str, Any], rows: int, fills: tuple[int, ...]
) -> tuple[TensorEdit, ...]:
    """Return what becomes of each tensor of the vocabulary; nothing where its rows stay as they are."""
    tied = bool(tied_by_flag(config)) or not any(each.role is Role.HEAD for each in tensors)
    return tuple(
        TensorEdit(
            name=each.tensor.name,
            shard=each.shard,
            dtype=each.tensor.dtype,
            role=each.role,
            before=each.tensor.shape,
            after=each.resized(rows),
            rows=(each.rows, rows),
            width=each.width,
            fills=fills,
            makes_logits=tied or each.role is not Role.EMBEDDING,
        )
        for each in tensors
        if rows != each.rows or fills
    )


def _grown(edits: tuple[TensorEdit, ...]) -> int:
    """Return how many bytes the tensors have more afterwards."""
    return sum(each.row_bytes * (each.rows[1] - each.rows[0]) for each in edits)


@dataclass(frozen=True, slots=True)
class EditedFiles:
    """What becomes of the files beside the tensors.

    Attributes:
        contents: The files that change, by name, as they will be.
        edits: What changes in them.
        findings: What cannot be changed, and why.
    """

    contents: Mapping[str, bytes]
    edits: tuple[FileEdit, ...]
    findings: tuple[Finding, ...]


def edited_files(
    checkpoint: Checkpoint, extension: Extension, edits: tuple[TensorEdit, ...], rows: tuple[int, int]
) -> EditedFiles:
    """Return the config, the index and the tokenizer's files as they will be, where they change.

    Raises:
        CheckpointError: One of them is broken.
        OSError: The system refused to read.
    """
    tokenizer = with_tokens(checkpoint, extension.tokens)
    contents = dict(tokenizer.contents)
    changed = []
    config = checkpoint.object_in(CONFIG)
    changes = {} if config is None else resized(config, *rows, extension.rows)
    if config is not None and changes:
        contents[CONFIG] = render(with_sizes(config, changes))
        old = sizes(config)
        changed = [FileEdit(CONFIG, ".".join(path), old[path], value) for path, value in changes.items()]
    if checkpoint.index is not None:
        index = dict(checkpoint.index)
        said = index.get("metadata")
        index["metadata"] = metadata = dict(said) if isinstance(said, dict) else {}
        total = sum(tensor.size for _, tensor in checkpoint.tensors()) + _grown(edits)
        if metadata.get("total_size") != total:
            changed.append(FileEdit(INDEX, "metadata.total_size", metadata.get("total_size"), total))
            metadata["total_size"] = total
        more = sum((each.rows[1] - each.rows[0]) * each.width for each in edits)
        if type(metadata.get("total_parameters")) is int and more:
            changed.append(
                FileEdit(
                    INDEX, "metadata.total_parameters", parameters := metadata["total_parameters"], parameters + more
                )
            )
            metadata["total_parameters"] += more
        if index != checkpoint.index:
            contents[INDEX] = render(index)
    return EditedFiles(contents, (*changed, *tokenizer.edits), tokenizer.findings)


def _unknown_names(checkpoint: Checkpoint, request: Request) -> Iterator[Finding]:
    """Yield a finding for each tensor that the caller names and that is not there."""
    names = {tensor.name for _, tensor in checkpoint.tensors()}
    for name in sorted({*request.waive, *(name for name, _ in request.claims)} - names):
        yield Finding("no-such-tensor", Severity.ERROR, shown(name), "There is no tensor of this name.", "Correct it.")


def _id_findings(
    checkpoint: Checkpoint, config: Mapping[str, Any], rows: tuple[int, int], fills: tuple[int, ...]
) -> Iterator[Finding]:
    """Yield where a special id has no row afterwards, or its row would be overwritten."""
    for name, each in ((CONFIG, config), (GENERATION, checkpoint.object_in(GENERATION) or {})):
        broken = {finding.where for finding in check_ids(name, each, rows[0])}
        for finding in check_ids(name, each, rows[1]):
            # What was wrong before is worth a word, and no reason not to resize.
            yield replace(finding, severity=Severity.WARNING) if finding.where in broken else finding
        for where, value in special_ids(each):
            if value in fills:
                fact = f"It names the id {value}, whose row gets a new token."
                mend = "Give the token another id, or this key another token."
                yield Finding("id-in-use", Severity.WARNING, f"{name}: {shown(where)}", fact, mend)


def _row_findings(request: Request, before: int, after: int) -> Iterator[Finding]:
    """Yield what is to be said of the number of rows."""
    rows = request.extension.rows
    if after < before:
        fact = f"{before - after} rows go, as asked."
        yield Finding("shrinks", Severity.WARNING, "rows", fact, "Leave `shrink` out to keep them.")
    elif before > rows:
        yield Finding("padding-kept", Severity.NOTE, "rows", f"{before - rows} rows more than tokens; they stay.")
    if request.initial is Initial.ZERO and after >= before:
        fact = "A row of zeros in a head gives the logit 0, which is above most of the old ones."
        yield Finding("zero-rows", Severity.WARNING, "rows", fact, "Use `role-aware` or `mean`.")


def _witnesses(checkpoint: Checkpoint, left: tuple[str, ...]) -> Iterator[tuple[str, tuple[int, int, int, int], str]]:
    """Yield name, identity and digest of each file that the resized checkpoint will have."""
    digests = {shard.file.name: shard.header.digest for shard in checkpoint.shards}
    for name, file in sorted(checkpoint.files.items()):
        if name in READ and name not in digests:
            digests[name] = hashlib.sha256(read_bytes(file)).hexdigest()
        if name not in left:
            yield name, file.identity, digests.get(name, "")


def _fingerprint(request: Request, witnesses: tuple[tuple[str, tuple[int, int, int, int], str], ...]) -> str:
    """Return what a plan follows from, as one digest."""
    files = [[name, identity[2], digest] for name, identity, digest in witnesses]
    asked = asdict(request) | {"waive": sorted(request.waive)}
    return hashlib.sha256(json.dumps([asked, files], sort_keys=True).encode()).hexdigest()
