"""`extend`: a vocabulary and new tokens → a vocabulary that has them, checked before it is built and after."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Literal

from guardtok.building import build, resolve
from guardtok.encodings import load_tokenizer, tokenizer_names
from guardtok.errors import ExtensionError
from guardtok.extended import Extended
from guardtok.extending.built import check_contexts, check_old_ids, check_ordinary
from guardtok.extending.forms import check_base, check_ids, check_overlaps, check_spelling
from guardtok.extending.reading import reading
from guardtok.extension import Extension, NewToken
from guardtok.finding import Finding, Report, Severity
from guardtok.placing import MAX_TOKENS, Scheme, place
from guardtok.violation import visible

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from guardtok.placing import Placed
    from guardtok.tokenizer import Tokenizer

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def extend(
    base: object | str | os.PathLike[str],
    tokens: Iterable[str],
    ids: Scheme = "auto",
    name: str | None = None,
    *,
    overlap: Literal["refuse", "longest"] = "refuse",
) -> Extended:
    """Add tokens to a vocabulary: a new one under a new name, and what the checks found. The base stays as it is.

    Args:
        base: A `tiktoken.Encoding`, a `tokenizers.Tokenizer`, a fast tokenizer of transformers, a guardtok tokenizer,
            a name or a path as `load_tokenizer` takes it, or the path of a `tokenizer.json`.
        tokens: What spells them, each once, at most 256 characters.
        ids: How they get their ids. `auto`: a token that the base has keeps its id, any other gets the next free one
            above all others. `append`: the same, and no token may be there already. `gaps`: the lowest ids that the
            base leaves unused. `reserved`: the ids of its reserved slots (`<|extra_0|>`), whose forms are then no
            tokens any more. A mapping from token to id: these ids, `auto` for a token that it leaves out.
        name: The new vocabulary's name: letters, digits, `.`, `_`, `+`, `-`. By default the base's, `+`, and eight
            digits of a digest of the new tokens.
        overlap: What to do where a token begins with another one, which tiktoken reads in no order: `refuse`; or
            `longest`, if text is only ever parsed by a guard, which reads the longest.

    Raises:
        ExtensionError: Something stands against it: a token or an id that cannot be had, a text that is read
            differently afterwards. Holds every finding; nothing was built.
        TokenizerError: The base is no tokenizer that can be extended, or its library fails.
        UnknownTokenizerError: No tokenizer has the base's name.
        MissingExtraError: The base needs a library that is not installed.
    """
    library, tokenizer = resolve(base, load_tokenizer)
    if overlap not in {"refuse", "longest"}:
        fact, mend = "There is no such way to treat overlaps.", "Say refuse or longest."
        raise ExtensionError([Finding("overlap-invalid", Severity.ERROR, "overlap", fact, mend)])
    longest = overlap == "longest"
    placed = place(tokenizer, _listed(tokens), ids, replace=True)
    named = _check_name(name, tokenizer, placed)
    news = tuple(
        NewToken(each.form, each.id, each.placement, _pieces(tokenizer, each.form), each.replaces) for each in placed
    )
    normalize = getattr(getattr(library, "backend_tokenizer", library), "normalizer", None)
    findings = [
        *check_base(tokenizer),
        *check_spelling(tokenizer, news, None if normalize is None else normalize.normalize_str),
        *check_overlaps(tokenizer, news, longest=longest),
        *check_ids(tokenizer, news),
    ]
    _raise_for(findings)
    made = build(library, tokenizer, placed, named)
    bound = load_tokenizer(made)
    before, after = reading(library), reading(made)
    findings += check_old_ids(named, tokenizer, bound, news)
    findings += check_ordinary(named, before, after, news)
    findings += check_contexts(named, before, after, news, longest=longest)
    _raise_for(findings)
    extension = Extension(
        name=named,
        base=tokenizer.name,
        tokens=news,
        base_rows=tokenizer.n_vocab,
        rows=max([tokenizer.n_vocab, *(token.id + 1 for token in news)]),
        base_fingerprint=tokenizer.fingerprint,
        fingerprint=bound.fingerprint,
    )
    return Extended(extension, bound, made, Report(tuple(findings)))


def _check_name(name: str | None, base: Tokenizer, placed: Sequence[Placed]) -> str:
    """Return the new name.

    Raises:
        ExtensionError: It is no name, or another vocabulary has it.
    """
    if name is None:
        facts = json.dumps([base.fingerprint, [(each.form, each.id) for each in placed]])
        stem = re.sub(r"[^A-Za-z0-9._+-]", "-", base.name.rpartition("/")[2])[:48].lstrip("._+-") or "extended"
        return f"{stem}+{hashlib.sha256(facts.encode()).hexdigest()[:8]}"
    if not _NAME.fullmatch(name):
        fact = f"{visible(name[:64])!r} is no name."
        mend = "Use up to 64 letters, digits, `.`, `_`, `+` and `-`, the first a letter or a digit."
        raise ExtensionError([Finding("name-invalid", Severity.ERROR, "name", fact, mend)])
    if name == base.name or name in tokenizer_names():
        fact = f"{name!r} is the name of a vocabulary that is there, and two that differ must not share one."
        raise ExtensionError([Finding("name-taken", Severity.ERROR, "name", fact, "Choose another one.")])
    return name


def _listed(tokens: object) -> Sequence[str]:
    """Return the tokens as a list, however many there are; a string stays one, to be refused.

    Raises:
        ExtensionError: There are none.
    """
    if isinstance(tokens, (str, bytes)):
        return tokens  # type: ignore[return-value]  # It is refused.
    some = list(islice(tokens, MAX_TOKENS + 1)) if isinstance(tokens, Iterable) else []
    if not some:
        fact, mend = "There is no token to add.", "Give a list with at least one string."
        raise ExtensionError([Finding("form-invalid", Severity.ERROR, "the tokens", fact, mend)])
    return some


def _pieces(tokenizer: Tokenizer, form: str) -> tuple[int, ...]:
    return tuple(map(int, tokenizer.encode_ordinary(form, at_start=False)))


def _raise_for(findings: Iterable[Finding]) -> None:
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        raise ExtensionError(errors)
