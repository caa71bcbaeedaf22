"""An extension written down: a JSON file from which the same extended vocabulary is built again, or nothing.

The file decides which strings become control ids, and it travels. So it names its base by fingerprint, holds the
fingerprint that must come out, and has a digest of its own; what does not agree is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guardtok.building import build, resolve
from guardtok.errors import ExtensionError, TokenizerMismatchError, VocabularyError
from guardtok.extension import Extension, NewToken, Placement
from guardtok.finding import Finding, Report, Severity
from guardtok.placing import MAX_FORM_CHARS, MAX_ID, MAX_TOKENS, place
from guardtok.violation import visible
from guardtok.vocabularies import VOCABULARIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from guardtok.extended import Extended
    from guardtok.placing import Placed
    from guardtok.tokenizer import Tokenizer

SUFFIX = ".extension.json"
"""How the name of a manifest ends."""

VERSION = 1
"""Version of the file."""

_CHAINED = "The base of a manifest is no extension itself. Extend the first base by all tokens at once."

_Id = Annotated[int, Field(ge=0, le=MAX_ID)]
_Fingerprint = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
"""As `extend` takes it. A file's name is made of it, and it is printed."""

_Form = Annotated[str, Field(min_length=1, max_length=MAX_FORM_CHARS)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class _Token(_Model):
    form: _Form
    id: _Id
    placement: Literal["append", "gap", "reserved", "present"]
    pieces: list[_Id]
    replaces: _Form | None = None


class _Base(_Model):
    tokenizer: Annotated[str, Field(min_length=1, max_length=4096)]
    name: str
    fingerprint: _Fingerprint
    rows: _Id


class _Finding(_Model):
    code: str
    severity: Literal["error", "warning", "note"]
    where: str
    fact: str
    mend: str = ""


class _Manifest(_Model):
    guardtok_extension: Literal[1]
    name: _Name
    base: _Base
    tokens: Annotated[list[_Token], Field(max_length=MAX_TOKENS)]
    rows: _Id
    fingerprint: _Fingerprint
    report: list[_Finding]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def write_manifest(extended: Extended, folder: str | os.PathLike[str], base: str | None = None) -> Path:
    """Write an extension down as `NAME.extension.json`, whole or not at all; return the path.

    Args:
        extended: What `extend` returned.
        folder: An existing folder.
        base: From what the base is to be loaded again: a name, or a path, which is kept relative to the folder. By
            default its own name.

    Raises:
        VocabularyError: The base is an extension itself.
        OSError: The file cannot be written, or is there already.
    """
    extension = extended.extension
    if base is not None and base.endswith(SUFFIX):
        raise VocabularyError(_CHAINED)
    tree: dict[str, Any] = {
        "guardtok_extension": VERSION,
        "name": extension.name,
        "base": {
            "tokenizer": _relative(base, folder) if base is not None else extension.base,
            "name": extension.base,
            "fingerprint": extension.base_fingerprint,
            "rows": extension.base_rows,
        },
        "tokens": [_token(token) for token in extension.tokens],
        "rows": extension.rows,
        "fingerprint": extension.fingerprint,
        "report": [finding.to_dict() for finding in extended.report],
    }
    tree["sha256"] = _digest(tree)
    path = Path(folder, extension.name + SUFFIX)
    write_new(path, (json.dumps(tree, indent=1) + "\n").encode())
    return path


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, whole or not at all.

    Raises:
        OSError: It cannot be written; a `FileExistsError` where it is there already.
    """
    with path.open("xb") as file:
        try:
            file.write(data)
            file.flush()
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def read_manifest(data: bytes, place_: str) -> tuple[Extension, Report, str]:
    """Return the extension that a manifest holds, what the checks said, and from what its base is loaded.

    Args:
        data: The file.
        place_: Its name, for errors.

    Raises:
        VocabularyError: It is damaged, was changed by hand, or is no manifest.
    """
    try:
        tree = json.loads(data.decode("utf-8"), object_pairs_hook=_once)
        manifest = _Manifest.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        fact = f"{'.'.join(map(str, first['loc']))[:200] or 'the file'}: {first['msg']}"
    except json.JSONDecodeError as error:
        fact = f"{error.msg} in line {error.lineno}, column {error.colno}"
    except UnicodeDecodeError as error:
        fact = f"it is not UTF-8 at byte {error.start}"
    except RecursionError:
        fact = "it is nested too deeply"
    except ValueError as error:
        fact = str(error)
    else:
        if _digest({key: value for key, value in tree.items() if key != "sha256"}) == manifest.sha256:
            return *_extension(manifest), manifest.base.tokenizer
        fact = "its digest is another one, so it was changed after it was written"
    raise VocabularyError(
        f"{place_} is no manifest of an extension: {visible(fact)}. Write it again with `guardtok extend`."
    )


def load_manifest(data: bytes, path: Path, load: Callable[[Any], Tokenizer]) -> Tokenizer:
    """Build the tokenizer that a manifest describes.

    Args:
        data: The file.
        path: Where it lies; a base that is a path is looked for from there.
        load: `load_tokenizer`.

    Raises:
        VocabularyError: It is damaged or forged: what comes out is not what it says.
        TokenizerMismatchError: The base is not the one that was extended.
        GuardtokError: The base cannot be loaded.
    """
    shown = visible(str(path))[:200]
    extension, _, base = read_manifest(data, shown)
    if base.endswith(SUFFIX):
        raise VocabularyError(f"{shown}: {_CHAINED}")
    library, tokenizer = resolve(str(path.parent / base) if _is_path(base) else base, load)
    if tokenizer.fingerprint != extension.base_fingerprint:
        raise TokenizerMismatchError(
            f"{shown}: the base {visible(base)[:200]!r} has the fingerprint {tokenizer.fingerprint}, and "
            f"{extension.base_fingerprint} was extended. Get that vocabulary, or extend this one anew."
        )
    try:
        ids = {token.form: token.id for token in extension.tokens}
        placed = place(tokenizer, [token.form for token in extension.tokens], ids, replace=True)
    except ExtensionError as error:
        raise VocabularyError(f"{shown} names tokens that its base cannot take:\n{error}") from None
    if extension.name in {tokenizer.name, *VOCABULARIES} or not _follows(extension, tokenizer, placed):
        raise VocabularyError(
            f"{shown} says of its tokens what does not follow from them and from the base: a name that is another "
            "vocabulary's, rows, placements or pieces. It was changed by hand. Extend the base anew."
        )
    made = load(build(library, tokenizer, placed, extension.name))
    if made.fingerprint != extension.fingerprint:
        raise VocabularyError(
            f"{shown}: what comes out has the fingerprint {made.fingerprint}, not {extension.fingerprint}. It was "
            "changed, or the library reads it otherwise now. Extend the base anew."
        )
    return made


def _follows(extension: Extension, base: Tokenizer, placed: Sequence[Placed]) -> bool:
    """Return whether what a model is resized for is what the base and the tokens' ids make."""
    tokens = tuple(
        NewToken(
            each.form,
            each.id,
            each.placement,
            tuple(map(int, base.encode_ordinary(each.form, at_start=False))),
            each.replaces,
        )
        for each in placed
    )
    rows = max([base.n_vocab, *(each.id + 1 for each in placed)])
    return (tokens, base.n_vocab, rows) == (extension.tokens, extension.base_rows, extension.rows)


def _token(token: NewToken) -> dict[str, Any]:
    tree = {"form": token.form, "id": token.id, "placement": token.placement.value, "pieces": list(token.pieces)}
    return tree | ({"replaces": token.replaces} if token.replaces is not None else {})


def _extension(manifest: _Manifest) -> tuple[Extension, Report]:
    tokens = tuple(
        NewToken(each.form, each.id, Placement(each.placement), tuple(each.pieces), each.replaces)
        for each in manifest.tokens
    )
    extension = Extension(
        name=manifest.name,
        base=manifest.base.name,
        tokens=tokens,
        base_rows=manifest.base.rows,
        rows=manifest.rows,
        base_fingerprint=manifest.base.fingerprint,
        fingerprint=manifest.fingerprint,
    )
    findings = (
        Finding(each.code, Severity(each.severity), each.where, each.fact, each.mend) for each in manifest.report
    )
    return extension, Report(tuple(findings))


def _digest(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a key is written twice")
    return tree


def _relative(base: str, folder: str | os.PathLike[str]) -> str:
    if not _is_path(base) or Path(base).is_absolute():
        return base
    return os.path.join(os.curdir, os.path.relpath(base, folder))  # noqa: PTH118 - a path would lose its `./`


def _is_path(base: str) -> bool:
    return "/" in base or os.sep in base or base.endswith((".json", ".tiktoken"))
