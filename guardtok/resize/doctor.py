"""Whether a checkpoint's tensors, configs and tokenizer agree with each other.

Most accidents with vocabularies are made in one file and hurt in another: rows that no token has, tokens that have no
row, a head that is stored and ignored, an id that ends no turn. All of it can be seen from headers and small files.
"""

from __future__ import annotations

import os
import re
import unicodedata
from typing import TYPE_CHECKING, Any, TypeVar

from guardtok.errors import CheckpointError
from guardtok.finding import Finding, Severity
from guardtok.resize.checkpoint import Checkpoint, survey
from guardtok.resize.disk_checks import census_findings, config_findings, left_out
from guardtok.resize.json_file import shown
from guardtok.resize.stored_configs import CONFIG, GENERATION, check_ids, sizes, special_ids, tied_by_flag
from guardtok.resize.tensor_names import Role, VocabularyTensor, take_census, vocabulary_rows
from guardtok.resize.tokenizer_file import FORMS, SETTINGS, TOKENIZER, read_tokenizer

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from guardtok.resize.tokenizer_file import TokenizerFile

_Value = TypeVar("_Value")

_NAMED = ("bos", "eos", "pad")
_MAX_LISTED = 8


def diagnose(path: str | os.PathLike[str]) -> tuple[Finding, ...]:
    """Return what is wrong or doubtful in a checkpoint's directory, and as notes what is worth knowing.

    The headers and the small files are read, of the tensors only the rows of added tokens, and a head that is stored
    beside the embedding it is tied to. Nothing is changed.

    Args:
        path: The directory.

    Raises:
        CheckpointError: There is no such directory, or nothing in it that is part of a checkpoint.
        OSError: The system refused to read.
    """
    found = survey(path)
    if not found.shards and not {CONFIG, TOKENIZER, GENERATION} & found.files.keys() and not found.index:
        raise CheckpointError(
            "There is no checkpoint in this directory: neither safetensors, nor config, nor tokenizer."
        )
    findings = list(found.problems)
    objects = {name: _lenient(found.object_in, name, findings) for name in (CONFIG, GENERATION, SETTINGS, FORMS)}
    tokenizer = _lenient(lambda _: read_tokenizer(found), TOKENIZER, findings)
    tables, rows = _tables(found, objects[CONFIG], findings)
    rows = rows or max(sizes(objects[CONFIG] or {}).values(), default=0)
    if rows:
        for name in (CONFIG, GENERATION):
            findings += check_ids(name, objects[name] or {}, rows)
    findings += _special_findings(objects, tokenizer)
    if tokenizer is not None:
        findings += _tokenizer_findings(tokenizer, rows)
        findings += _repeated_findings(tokenizer, objects)
        findings += _dead_findings(found, tables, tokenizer)
    findings += (
        Finding("other-weights", Severity.NOTE, shown(name), "It is not read: no safetensors of this model.")
        for name in left_out(found)
        if name in found.files and not name.startswith(".")
    )
    return tuple(findings)


def _lenient(read: Callable[[str], _Value | None], name: str, findings: list[Finding]) -> _Value | None:
    """Return what a file holds; None, and a finding, if it is broken."""
    try:
        return read(name)
    except CheckpointError as error:
        findings.append(Finding("file-invalid", Severity.ERROR, name, str(error), "Fetch it again."))
    return None


def _tables(
    found: Checkpoint, config: Mapping[str, Any] | None, findings: list[Finding]
) -> tuple[tuple[VocabularyTensor, ...], int]:
    """Return the vocabulary's tensors and how many rows they have, and report where they and the config disagree."""
    if not found.shards:
        return (), 0
    rows = vocabulary_rows(found.shards, {}, sizes(config or {}).values())
    if rows == (0,):
        fact = "The embedding has no rows, as a model that is saved in parts has."
        findings.append(Finding("shape-zero", Severity.ERROR, "embedding", fact, "Gather the parts, and save again."))
    elif len(rows) != 1:
        fact = f"There are embeddings of {', '.join(map(str, rows))} rows." if rows else "None is known by its name."
        findings.append(Finding("embedding-unknown", Severity.WARNING, "embedding", fact, "Check the size by hand."))
    if len(rows) != 1 or not rows[0]:
        return (), 0
    census = take_census(found.shards, rows[0], {}, frozenset())
    for each in (*census_findings(census, rows[0]), *config_findings(config, rows[0], census)):
        # What only a resize would stumble over is worth knowing here, and no more.
        minor = each.code in {"unclaimed", "dtype", "packed", "rows-not-first", "quantised"}
        findings.append(Finding(each.code, Severity.NOTE, each.where, each.fact, each.mend) if minor else each)
    if config and tied_by_flag(config):
        findings += _tie_findings(found, census.claimed)
    return census.claimed, rows[0]


def _tie_findings(found: Checkpoint, tables: tuple[VocabularyTensor, ...]) -> Iterator[Finding]:
    """Yield a finding if a head is stored that is tied to the embedding, and is not the embedding."""
    inputs = [each for each in tables if each.role is Role.EMBEDDING]
    for head in (each for each in tables if each.role is Role.HEAD):
        if inputs and all(_differs(found, head, each) for each in inputs):
            fact = "The config ties it to the embedding, and it is stored with other rows, which a loader drops."
            mend = "Set `tie_word_embeddings` to false if it was trained apart; else leave it out."
            yield Finding("false-tie", Severity.ERROR, shown(head.tensor.name), fact, mend)


def _differs(found: Checkpoint, one: VocabularyTensor, other: VocabularyTensor) -> bool:
    if (one.tensor.dtype, one.tensor.shape) != (other.tensor.dtype, other.tensor.shape):
        return True
    step = 1 << 20
    return any(_read(found, one, at, step) != _read(found, other, at, step) for at in range(0, one.tensor.size, step))


def _read(found: Checkpoint, table: VocabularyTensor, at: int, size: int) -> bytes:
    """Return some bytes of a table.

    Raises:
        OSError: The system refused to read.
    """
    shard = next(each for each in found.shards if each.file.name == table.shard)
    with shard.file.path.open("rb") as opened:
        opened.seek(shard.header.data_start + table.tensor.start + at)
        return opened.read(min(size, table.tensor.size - at))


def _special_findings(
    objects: Mapping[str, Mapping[str, Any] | None], tokenizer: TokenizerFile | None
) -> Iterator[Finding]:
    """Yield where special ids are absent, or are not the tokens that the tokenizer's settings name."""
    config, generation, settings = (objects[name] or {} for name in (CONFIG, GENERATION, SETTINGS))
    forms = {} if tokenizer is None else tokenizer.forms()
    for kind in _NAMED:
        key = f"{kind}_token_id"
        named = settings.get(f"{kind}_token")
        form = named.get("content") if isinstance(named, dict) else named
        known = dict(_ids_of(key, config, generation))
        for where, ids in known.items():
            unknown = [each for each in ids if forms and each >= 0 and each not in forms]
            if unknown:
                fact = f"The tokenizer has no token {unknown[0]}."
                yield Finding("special-id-unknown", Severity.WARNING, where, fact, "Set the id that it has.")
            if (
                isinstance(form, str)
                and forms
                and ids
                and not unknown
                and form not in {forms.get(each) for each in ids}
            ):
                fact = f"It is not the id of the token that {SETTINGS} names as `{kind}_token`."
                yield Finding("special-id-differs", Severity.WARNING, where, fact, "Make the two agree.")
        if isinstance(form, str) and kind == "eos" and (config or generation) and not any(known.values()):
            fact = f"{SETTINGS} names an `{kind}_token`, and no config has its id, so nothing ends a generation."
            yield Finding("special-id-none", Severity.WARNING, f"{GENERATION}: {key}", fact, "Set the id.")
        if len(known) > 1 and kind != "eos" and len(set(map(frozenset, known.values()))) > 1:
            fact = f"{CONFIG} and {GENERATION} have different ids."
            yield Finding("special-ids-disagree", Severity.WARNING, f"{GENERATION}: {key}", fact, "Make them agree.")


def _ids_of(key: str, *configs: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, config in zip((CONFIG, GENERATION), configs, strict=True):
        ids = tuple(value for where, value in special_ids(config) if where == key)
        if ids:
            yield f"{name}: {key}", ids


def _tokenizer_findings(tokenizer: TokenizerFile, rows: int) -> Iterator[Finding]:
    """Yield what is wrong with a tokenizer's ids, by themselves and for so many rows."""
    top = tokenizer.max_id
    if rows and top >= rows:
        fact = f"The tokenizer has ids up to {top}, and the model has {rows} rows."
        yield Finding("rows-too-few", Severity.ERROR, TOKENIZER, fact, "Resize the model with `guardtok resize`.")
    elif rows > top + 1:
        fact = f"The model has {rows - top - 1} rows that no token has; never size it by the tokenizer."
        yield Finding("padding-rows", Severity.NOTE, TOKENIZER, fact)
    ids: dict[int, str] = {token_id: form for form, token_id in tokenizer.vocabulary.items()}
    if len(ids) < len(tokenizer.vocabulary):
        yield Finding(
            "id-twice", Severity.ERROR, TOKENIZER, "Two tokens of the model have one id.", "Give each its own."
        )
    forms: dict[str, int] = {}
    for added in tokenizer.added:
        where = f"{TOKENIZER}: {shown(added.form)}"
        if ids.setdefault(added.id, added.form) != added.form:
            fact = f"The id {added.id} has another token too."
            yield Finding("id-twice", Severity.ERROR, where, fact, "Give each its own.")
        have = forms.setdefault(added.form, tokenizer.vocabulary.get(added.form, added.id))
        if have != added.id:
            fact = f"It has the ids {have} and {added.id}."
            yield Finding("token-twice", Severity.ERROR, where, fact, "Keep the one that the model was trained with.")
        if added.special and added.strips:
            fact = "It is special, and takes white space beside it or stands only as a word of its own."
            yield Finding("strip-flags", Severity.NOTE, where, fact, "Make sure that the template was trained so.")
    if len(ids) != top + 1:
        fact = f"There are {len(ids)} tokens and ids up to {top}: the number of tokens is not the number of rows."
        yield Finding("ids-sparse", Severity.NOTE, TOKENIZER, fact)
    yield from _collisions(tokenizer)


def _collisions(tokenizer: TokenizerFile) -> Iterator[Finding]:
    """Yield added tokens that are looked for in normalised text and are the same there."""
    seen: dict[str, str] = {}
    for added in tokenizer.added:
        if not added.normalized:
            continue
        form = added.form
        for kind in tokenizer.normalizers:
            match kind:
                case "NFC" | "NFD" | "NFKC" | "NFKD":
                    form = unicodedata.normalize(kind, form)
                case "Lowercase":
                    form = form.lower()
                case _:
                    pass
        other = seen.setdefault(form, added.form)
        if other != added.form:
            fact = "To the tokenizer's normaliser it is the same as another added token."
            mend = "Add it with `normalized` false, or remove one."
            yield Finding("normalised-alike", Severity.WARNING, f"{TOKENIZER}: {shown(added.form)}", fact, mend)


def _repeated_findings(tokenizer: TokenizerFile, objects: Mapping[str, Mapping[str, Any] | None]) -> Iterator[Finding]:
    """Yield where another file gives an added token another id or another form."""
    forms = tokenizer.forms()
    ids = dict(tokenizer.vocabulary) | {each.form: each.id for each in tokenizer.added}
    decoder = (objects[SETTINGS] or {}).get("added_tokens_decoder")
    said: dict[str, Mapping[str, Any]] = {FORMS: objects[FORMS] or {}}
    if isinstance(decoder, dict):
        said[SETTINGS] = {
            entry["content"]: int(key)
            for key, entry in decoder.items()
            if re.fullmatch("[0-9]{1,12}", key) and isinstance(entry, dict) and isinstance(entry.get("content"), str)
        }
    for name, pairs in said.items():
        wrong = sum(
            ids.get(form) != each and (type(each) is not int or forms.get(each) != form) for form, each in pairs.items()
        )
        if wrong:
            fact = f"It gives {wrong} tokens another id than {TOKENIZER} does, or does not have there."
            yield Finding("tokenizer-files-disagree", Severity.ERROR, name, fact, "Save the tokenizer again.")


def _dead_findings(
    found: Checkpoint, tables: tuple[VocabularyTensor, ...], tokenizer: TokenizerFile
) -> Iterator[Finding]:
    """Yield the added tokens whose rows are all zeros: they were never trained, and do not train well."""
    for table in tables:
        if not table.rows_first or table.role is Role.BIAS or not table.rows:
            continue
        size = table.tensor.size // table.rows
        dead = [
            each.form
            for each in tokenizer.added
            if each.id < table.rows and size and not any(_read(found, table, each.id * size, size))
        ]
        if dead:
            names = ", ".join(map(shown, dead[:_MAX_LISTED])) + (" …" if len(dead) > _MAX_LISTED else "")
            fact = f"The rows of {len(dead)} added tokens are zeros: {names}."
            mend = "Give those that you use a row, with `guardtok resize` over a reserved slot."
            yield Finding("dead-rows", Severity.WARNING, shown(table.tensor.name), fact, mend)
