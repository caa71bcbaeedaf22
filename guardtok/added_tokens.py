"""New tokens in a tokenizer of huggingface's `tokenizers`, under the very ids that they are to have.

The library's own `add_tokens` counts the tokens to find the next id. In a vocabulary with gaps that id is taken, and
two strings share it without a word. So the tokenizer is written out as JSON, changed there and read again, and then
asked where everything lies.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from guardtok.errors import ExtensionError, MissingExtraError, TokenizerError, is_failure
from guardtok.finding import Finding, Severity
from guardtok.placing import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from guardtok.placing import Placed


def is_huggingface(tokenizer: object) -> bool:
    """Return whether an object is a `tokenizers.Tokenizer` or a tokenizer of transformers; imports neither."""
    return any(
        each.__module__.partition(".")[0] in {"tokenizers", "transformers"} and each.__name__.startswith(names)
        for each in type(tokenizer).__mro__
        for names in (("Tokenizer", "PreTrainedTokenizer"),)
    )


def read_tokenizer_file(path: Path) -> Any:  # noqa: ANN401 - a type of a library that may not be installed
    """Return the `tokenizers.Tokenizer` of a `tokenizer.json`.

    Raises:
        MissingExtraError: `tokenizers` is not installed.
        TokenizerError: The file cannot be read.
    """
    return _call("read the file", _library().Tokenizer.from_file, str(path))


def copy_plain(tokenizer: Any) -> Any:  # noqa: ANN401 - as above
    """Return a `tokenizers.Tokenizer` that reads as this one does, but cuts and fills nothing and parses every token.

    Raises:
        MissingExtraError: `tokenizers` is not installed.
        TokenizerError: A slow tokenizer, or one with a part that is written in Python.
    """
    made = _call("read what it wrote", _library().Tokenizer.from_str, _call("write it out", _backend(tokenizer).to_str))
    made.no_truncation()
    made.no_padding()
    return made


def add_tokens(tokenizer: Any, placed: Sequence[Placed]) -> Any:  # noqa: ANN401 - as above
    """Return a tokenizer that has these tokens too, of the same kind; the one that was given stays as it is.

    The new tokens are special, are looked for in the text before it is normalised, swallow no white space and are read
    inside words.

    Args:
        tokenizer: A `tokenizers.Tokenizer`, or a fast tokenizer of transformers.
        placed: The tokens with their ids.

    Raises:
        MissingExtraError: `tokenizers` is not installed.
        TokenizerError: A slow tokenizer, or one with a part that is written in Python.
        ExtensionError: The library cannot give a token its id, or would move another; it is a `TokenizerError`.
    """
    backend = _backend(tokenizer)
    problems = list(_spelled_alike(backend.get_vocab(), placed))
    if problems:
        raise ExtensionError(problems)
    text = _call("write it out", backend.to_str)
    problems = list(_in_use(tokenizer, json.loads(text), placed))
    if problems:
        raise ExtensionError(problems)
    made, problems = _make(text, backend, placed, pinned=False)
    if problems:
        made, problems = _make(text, backend, placed, pinned=True)
    if problems:
        raise ExtensionError(problems)
    # Whether special tokens are parsed at all is a setting of the object and not of its JSON.
    made.encode_special_tokens = backend.encode_special_tokens
    if backend is tokenizer:
        return made
    fast = copy.deepcopy(tokenizer)
    fast._tokenizer = made  # noqa: SLF001 - transformers has no public way to change it
    return fast


def _spelled_alike(vocab: Mapping[str, int], placed: Sequence[Placed]) -> Iterator[Finding]:
    """Yield the tokens whose form is how the model spells an ordinary token.

    The library knows a token by its string alone, so the two would be one. In a byte-level vocabulary the string need
    not even be the text: `§` is the letter for the byte 0xA7.
    """
    for token in placed:
        if vocab.get(token.form, token.id) != token.id:
            fact = f"The model's vocabulary spells its ordinary token {vocab[token.form]} so."
            yield Finding("form-taken", Severity.ERROR, shown(token.form), fact, "Spell the token differently.")


def _in_use(tokenizer: Any, tree: Mapping[str, Any], placed: Sequence[Placed]) -> Iterator[Finding]:  # noqa: ANN401 - as above
    """Yield the new tokens whose reserved slot is somebody's, though its name is only a number.

    A post-processor may write it around every text, a setting may name it as the padding, a chat template may hold it.
    The id would then mean two things.
    """
    said = {key: value for key, value in tree.items() if key not in {"added_tokens", "model"}}
    said |= {key: value for key, value in tree["model"].items() if key not in {"vocab", "merges"}}
    said["special tokens"] = getattr(tokenizer, "special_tokens_map", None)
    said["chat template"] = getattr(tokenizer, "chat_template", None)
    for token in placed:
        where = [] if token.replaces is None else [key for key, value in said.items() if _names(value, token.replaces)]
        if where:
            fact = f"The slot {shown(token.replaces or '')} is in use: the tokenizer's {where[0]} names it."
            mend = "Give the token another id, or take the slot's name out there."
            yield Finding("slot-in-use", Severity.ERROR, shown(token.form), fact, mend)


def _names(value: object, form: str) -> bool:
    """Return whether a form stands in a JSON value."""
    match value:
        case str():
            return form in value
        case list() | tuple():
            return any(_names(each, form) for each in value)
        case dict():
            return any(_names(key, form) or _names(each, form) for key, each in value.items())
        case _:
            # An `AddedToken` is no JSON, and says what it spells.
            return form in str(getattr(value, "content", ""))


def _backend(tokenizer: Any) -> Any:  # noqa: ANN401 - as above
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        return backend
    raise TokenizerError(
        f"A {type(tokenizer).__name__} is a slow tokenizer, whose rules are Python. Load the fast one, with "
        "AutoTokenizer.from_pretrained(…, use_fast=True)."
    )


def _make(text: str, old: Any, placed: Sequence[Placed], *, pinned: bool) -> tuple[Any, list[Finding]]:  # noqa: ANN401 - as above
    """Return the tokenizer with the tokens, and what lies elsewhere in it than it should.

    Args:
        text: The tokenizer's JSON.
        old: The tokenizer.
        placed: The tokens.
        pinned: Whether the model's own vocabulary gets every added token: the library obeys the ids there. Without it
            the library counts, which is right in a vocabulary without gaps.
    """
    tree = json.loads(text)
    added = tree["added_tokens"]
    replaced = {token.replaces: token.form for token in placed if token.replaces is not None}
    for entry in added:
        entry["content"] = replaced.get(entry["content"], entry["content"])
    _rename(tree["model"], replaced)
    declared = {entry["content"] for entry in added}
    added += [_entry(token) for token in placed if token.form not in declared]
    added.sort(key=lambda entry: int(entry["id"]))
    for entry in added if pinned else ():
        _pin(tree["model"], entry["content"], entry["id"])
    made = _call("read what was changed", _library().Tokenizer.from_str, json.dumps(tree))
    return made, list(_misplaced(old, made, placed))


def _entry(token: Placed) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token.id, "content": token.form, **flags, "special": True}


def _pin(model: dict[str, Any], form: str, id_: int) -> None:
    """Give a token its id in the model's own vocabulary.

    Raises:
        ExtensionError: The model's vocabulary is a list, in which there is no place but the next.
    """
    if isinstance(model["vocab"], dict):
        model["vocab"][form] = id_
        return
    fact = f"A {model.get('type')} model numbers its tokens without gaps, so this one cannot have the id {id_}."
    mend = 'Use ids="append" or ids="reserved".'
    raise ExtensionError([Finding("id-unreachable", Severity.ERROR, shown(form), fact, mend)])


def _rename(model: dict[str, Any], replaced: Mapping[str, str]) -> None:
    """Let the new forms stand in the model's vocabulary where the reserved slots stood, if they stood there."""
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {replaced.get(form, form): id_ for form, id_ in vocab.items()}
    else:
        model["vocab"] = [[replaced.get(form, form), score] for form, score in vocab]


def _misplaced(old: Any, new: Any, placed: Sequence[Placed]) -> Iterator[Finding]:  # noqa: ANN401 - as above
    """Ask the new tokenizer where everything lies; yield what lies elsewhere than it should."""
    replaced = {token.replaces for token in placed}
    expected = {form: id_ for form, id_ in old.get_vocab().items() if form not in replaced}
    expected |= {token.form: token.id for token in placed}
    found = new.get_vocab()
    for form, id_ in expected.items():
        if found.get(form) != id_:
            fact = f"The library gives it the id {found.get(form)} where it should have {id_}."
            mend = 'Use ids="append", or give each token its id in a mapping.'
            yield Finding("id-unreachable", Severity.ERROR, shown(form), fact, mend)
    if len(found) > len(expected):
        fact = "The library gave it tokens that nobody added."
        yield Finding("old-ids-changed", Severity.ERROR, "the vocabulary", fact)


def _library() -> Any:  # noqa: ANN401 - a module
    try:
        import tokenizers
    except ImportError:
        raise MissingExtraError("tokenizers is not installed: pip install 'guardtok[hf]'.") from None
    return tokenizers


def _call(what: str, function: Any, *arguments: str) -> Any:  # noqa: ANN401 - what the library takes and gives
    try:
        return function(*arguments)
    except BaseException as error:
        if not is_failure(error):
            raise
        failure = type(error).__name__
    raise TokenizerError(
        f"tokenizers cannot {what}: {failure}. Give a tokenizer of the library's own parts, without any in Python."
    )
