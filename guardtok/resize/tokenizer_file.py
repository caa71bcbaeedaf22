"""`tokenizer.json` and the files that repeat parts of it: which form has which id, and how new tokens get into them.

The `tokenizers` library gives ids to added tokens by counting, whatever the file says. So a token is written into a
file only where counting comes to the id that it has. Where it does not, no file is changed, and the plan says what to
run.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guardtok.errors import CheckpointError
from guardtok.extension import Placement
from guardtok.finding import Finding, Severity
from guardtok.resize.checkpoint import read_bytes
from guardtok.resize.json_file import render, shown
from guardtok.resize.stored_configs import FileEdit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from guardtok.extension import NewToken
    from guardtok.resize.checkpoint import Checkpoint

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
FORMS = "added_tokens.json"
SPECIAL = "special_tokens_map.json"
TEMPLATE = "chat_template.jinja"

_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """An entry of `added_tokens`.

    Attributes:
        form: The string that spells it.
        id: Its id.
        special: Whether decoding may leave it out.
        normalized: Whether it is looked for in the normalised text.
        strips: Whether it takes white space beside it, or stands only as a word of its own.
    """

    form: str
    id: int
    special: bool
    normalized: bool
    strips: bool


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """What a `tokenizer.json` says.

    Attributes:
        vocabulary: The model's own tokens with their ids.
        added: The tokens added to it, in the order of the file.
        normalizers: The types of its normalisers, in their order.
        raw: All of the file.
    """

    vocabulary: Mapping[str, int]
    added: tuple[AddedToken, ...]
    normalizers: tuple[str, ...]
    raw: dict[str, Any]

    @property
    def max_id(self) -> int:
        """The highest id; -1 if there is no token at all."""
        return max((*self.vocabulary.values(), *(each.id for each in self.added)), default=-1)

    def forms(self) -> dict[int, str]:
        """Return a form for each id; an added token's own where there is one."""
        found = {token_id: form for form, token_id in self.vocabulary.items()}
        return found | {each.id: each.form for each in self.added}


def read_tokenizer(checkpoint: Checkpoint) -> TokenizerFile | None:
    """Return what a checkpoint's `tokenizer.json` says, or None if there is none.

    Raises:
        CheckpointError: It is no JSON, or not of the format.
        OSError: The system refused to read.
    """
    raw = checkpoint.object_in(TOKENIZER)
    if raw is None:
        return None
    model, added = raw.get("model"), raw.get("added_tokens") or []
    if not isinstance(model, dict) or not isinstance(added, list):
        raise CheckpointError(f"{TOKENIZER} has no `model`, or its `added_tokens` are no list.")
    normalizers = tuple(_types(raw.get("normalizer")))
    return TokenizerFile(_vocabulary(model.get("vocab")), tuple(map(_added, added)), normalizers, raw)


def _vocabulary(vocab: object) -> dict[str, int]:
    """Return the model's tokens, from an object with ids or from a list of pairs whose places are the ids."""
    if isinstance(vocab, list):
        if not all(isinstance(each, list) and each and isinstance(each[0], str) for each in vocab):
            raise CheckpointError(f"{TOKENIZER} has a vocabulary that is no list of pieces with scores.")
        return {each[0]: token_id for token_id, each in enumerate(vocab)}
    if not isinstance(vocab, dict) or not all(type(each) is int and each >= 0 for each in vocab.values()):
        raise CheckpointError(f"{TOKENIZER} has a vocabulary that does not map tokens to ids.")
    return vocab


def _added(entry: Any) -> AddedToken:  # noqa: ANN401 - whatever the file holds
    form, token_id = (entry.get("content"), entry.get("id")) if isinstance(entry, dict) else (None, None)
    if not isinstance(form, str) or type(token_id) is not int or token_id < 0:
        raise CheckpointError(f"{TOKENIZER} has an added token without `content` or without an id.")
    strips = any(entry.get(flag) for flag in ("single_word", "lstrip", "rstrip"))
    return AddedToken(form, token_id, bool(entry.get("special")), bool(entry.get("normalized")), strips)


def _types(normalizer: object) -> Iterator[str]:
    match normalizer:
        case {"normalizers": list(parts)}:
            for part in parts:
                yield from _types(part)
        case {"type": str(kind)}:
            yield kind
        case _:
            return


def counted_ids(vocabulary: Mapping[str, int], forms: Iterable[str]) -> list[int]:
    """Return the ids that the `tokenizers` library gives to added tokens when it reads them in this order."""
    given: dict[str, int] = {}
    highest = -1
    for form in forms:
        known = given.get(form, vocabulary.get(form))
        given[form] = max(highest + 1, len(vocabulary)) if known is None else known
        highest = max(highest, given[form])
    return [given[form] for form in forms]


@dataclass(frozen=True, slots=True)
class TokenizerEdit:
    """What becomes of a checkpoint's tokenizer files.

    Attributes:
        contents: The files that change, as they will be.
        edits: What changes in them.
        findings: Why they cannot be changed, or what is wrong with the tokens that are to be written.
    """

    contents: Mapping[str, bytes]
    edits: tuple[FileEdit, ...] = ()
    findings: tuple[Finding, ...] = ()


def with_tokens(checkpoint: Checkpoint, tokens: tuple[NewToken, ...]) -> TokenizerEdit:
    """Return a checkpoint's tokenizer files with new tokens in them.

    Raises:
        CheckpointError: A file is no JSON, or not of its format.
        OSError: The system refused to read.
    """
    tokenizer = read_tokenizer(checkpoint)
    wanted = [each for each in tokens if each.placement is not Placement.PRESENT]
    if tokenizer is None:
        return TokenizerEdit({}, findings=(_untouched(f"There is no {TOKENIZER} here."),) if wanted else ())
    here = tokenizer.forms()
    known = {form: token_id for token_id, form in here.items()} | dict(tokenizer.vocabulary)
    known |= {each.form: each.id for each in tokenizer.added}
    findings = []
    missing = []
    for token in wanted:
        have = known.get(token.form)
        other = here.get(token.id)
        if have == token.id:
            continue
        if have is not None:
            fact = f"The tokenizer has the form already, as {have}; the extension says {token.id}."
        elif other is not None and other != token.replaces:
            fact = f"The tokenizer has another token at {token.id}."
        else:
            missing.append(token)
            continue
        mend = "Extend the tokenizer that this checkpoint has."
        findings.append(Finding("id-taken", Severity.ERROR, f"{TOKENIZER}: {shown(token.form)}", fact, mend))
    if findings or not missing:
        return TokenizerEdit({}, findings=tuple(findings))
    reason = _why_not(checkpoint, tokenizer, missing)
    if reason:
        return TokenizerEdit({}, findings=(_untouched(reason),))
    contents = {TOKENIZER: render(_extended(tokenizer.raw, missing))}
    for name, write in ((SETTINGS, _extended_settings), (FORMS, _extended_forms), (SPECIAL, _renamed)):
        value = checkpoint.object_in(name)
        changed = None if value is None else write(value, missing)
        if changed is not None and changed != value:
            contents[name] = render(changed)
    edits = [FileEdit(TOKENIZER, f"added_tokens.{each.id}", each.replaces, each.form) for each in missing]
    return TokenizerEdit(contents, tuple(edits))


def _untouched(fact: str) -> Finding:
    mend = "Write the tokenizer with `guardtok extend` and put it beside the resized checkpoint."
    return Finding("tokenizer-unchanged", Severity.WARNING, TOKENIZER, fact, mend)


def _why_not(checkpoint: Checkpoint, tokenizer: TokenizerFile, tokens: list[NewToken]) -> str | None:
    """Return why tokens cannot be written into the files, or None if they can."""
    extended = _extended(tokenizer.raw, tokens)["added_tokens"]
    counted = counted_ids(tokenizer.vocabulary, [each["content"] for each in extended])
    if counted != [each["id"] for each in extended]:
        return "Its ids would not come out of the tokenizers library as the extension has them."
    replaced = {each.replaces for each in tokens if each.replaces is not None}
    if any(form in tokenizer.vocabulary for form in replaced):
        return "A reserved slot is part of the model's own vocabulary."
    settings, special = checkpoint.object_in(SETTINGS) or {}, checkpoint.object_in(SPECIAL) or {}
    speaking = [tokenizer.raw.get(part) for part in _PARTS]
    speaking += [value for key, value in settings.items() if key not in {"added_tokens_decoder", *_LISTS}]
    speaking += [value for key, value in special.items() if key not in _LISTS]
    if replaced & set().union(*map(_strings, speaking)):
        return "A reserved slot that is to be taken is named elsewhere in the tokenizer's files."
    templates = _strings(settings.get("chat_template"))
    if TEMPLATE in checkpoint.files:
        templates.add(read_bytes(checkpoint.files[TEMPLATE]).decode("utf-8", errors="replace"))
    if any(form in text for text in templates for form in replaced):
        return "The chat template writes a reserved slot that is to be taken."
    return None


_LISTS = ("additional_special_tokens", "extra_special_tokens")


def _strings(value: object) -> set[str]:
    """Return every string in a JSON value, keys too."""
    match value:
        case str():
            return {value}
        case list():
            return set().union(*map(_strings, value))
        case dict():
            return set(value).union(*map(_strings, value.values()))
        case _:
            return set()


def _extended(raw: dict[str, Any], tokens: list[NewToken]) -> dict[str, Any]:
    """Return a `tokenizer.json` with tokens added, or in the place of the slots that they take; ids ascend."""
    taken = {each.id: each for each in tokens if each.replaces is not None}
    entries = [
        entry | {"content": taken[entry["id"]].form, "special": True} if entry["id"] in taken else entry
        for entry in raw.get("added_tokens") or []
    ]
    there = {entry["id"] for entry in entries}
    entries += [{"id": each.id, "content": each.form, **_FLAGS} for each in tokens if each.id not in there]
    return raw | {"added_tokens": sorted(entries, key=lambda entry: entry["id"])}


def _extended_settings(settings: dict[str, Any], tokens: list[NewToken]) -> dict[str, Any]:
    """Return a `tokenizer_config.json` whose `added_tokens_decoder`, if it has one, knows the tokens."""
    made = _renamed(settings, tokens)
    decoder = made.get("added_tokens_decoder")
    if isinstance(decoder, dict):
        for each in tokens:
            entry = decoder.get(str(each.id))
            decoder[str(each.id)] = (entry if isinstance(entry, dict) else _FLAGS) | {
                "content": each.form,
                "special": True,
            }
    return made


def _extended_forms(forms: dict[str, Any], tokens: list[NewToken]) -> dict[str, Any]:
    """Return an `added_tokens.json`, which maps forms to ids, that knows the tokens."""
    replaced = {each.replaces for each in tokens}
    return {form: value for form, value in forms.items() if form not in replaced} | {
        each.form: each.id for each in tokens
    }


def _renamed(settings: dict[str, Any], tokens: list[NewToken]) -> dict[str, Any]:
    """Return settings whose lists of special tokens name each taken slot by its new form."""
    names = {each.replaces: each.form for each in tokens if each.replaces is not None}
    made = deepcopy(settings)
    for key in _LISTS:
        if isinstance(made.get(key), list):
            made[key] = [names.get(each, each) if isinstance(each, str) else _named(each, names) for each in made[key]]
    return made


def _named(entry: Any, names: Mapping[str, str]) -> Any:  # noqa: ANN401 - whatever the file holds
    if isinstance(entry, dict) and isinstance(entry.get("content"), str):
        return entry | {"content": names.get(entry["content"], entry["content"])}
    return entry
