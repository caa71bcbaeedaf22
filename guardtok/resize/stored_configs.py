"""`config.json` and `generation_config.json`: which of their numbers speak of the vocabulary.

A config that keeps the old size makes a loader refuse the new rows, or drop them. The size stands under several names
and on several levels; ids of special tokens stand beside it, and have to be rows that exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guardtok.finding import Finding, Severity
from guardtok.resize.json_file import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONFIG = "config.json"
GENERATION = "generation_config.json"

SIZES = ("vocab_size", "padded_vocab_size", "embedding_size", "n_vocab")
"""Keys for the size of the vocabulary. `embedding_size` is OLMo's, `padded_vocab_size` litgpt's and ChatGLM's."""

_ID_ENDS = ("_token_id", "_token_ids", "_token_index")
_ID_KEYS = frozenset({"suppress_tokens", "begin_suppress_tokens"})
_MAX_DEPTH = 8


@dataclass(frozen=True, slots=True)
class FileEdit:
    """One value that changes in a file beside the tensors.

    Attributes:
        file: The file's name.
        where: The value's place in it, as a dotted path.
        before: What stands there; None if nothing does.
        after: What will stand there.
    """

    file: str
    where: str
    before: int | str | None
    after: int | str


def sizes(config: Mapping[str, Any]) -> dict[tuple[str, ...], int]:
    """Return every size of a vocabulary in a config, nested ones too, by its path."""
    return {
        (*path, key): level[key]
        for path, level in _levels(config)
        for key in SIZES
        if key in level and type(level[key]) is int
    }


def _levels(
    config: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield a config and each config within it, with its path."""
    yield path, config
    if len(path) < _MAX_DEPTH:
        for key, value in config.items():
            if isinstance(value, dict) and key != "quantization_config":
                yield from _levels(value, (*path, key))


def resized(config: Mapping[str, Any], before: int, after: int, tokens: int) -> dict[tuple[str, ...], int]:
    """Return the sizes that change in a config, by their paths.

    Args:
        config: The config.
        before: How many rows the tensors have.
        after: How many they will have.
        tokens: One more than the highest id of the tokenizer. A `vocab_size` beside a size that counts rows counts
            tokens, and grows only as far.
    """
    found = sizes(config)
    changes = {}
    for path, value in found.items():
        if value == before:
            changes[path] = after
        elif path[-1] == "vocab_size" and any(found.get((*path[:-1], key)) == before for key in SIZES):
            changes[path] = max(value, min(tokens, after))
    return {path: value for path, value in changes.items() if value != found[path]}


def with_sizes(config: dict[str, Any], changes: Mapping[tuple[str, ...], int]) -> dict[str, Any]:
    """Return a config with other sizes."""
    made = dict(config)
    for path, value in changes.items():
        level = made
        for key in path[:-1]:
            level[key] = dict(level[key])
            level = level[key]
        level[path[-1]] = value
    return made


def special_ids(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield dotted path and value of each id of a special token that a config names.

    A config within it that has a vocabulary of another size has tokens of its own, as one for speech does; its ids
    are left out.
    """
    main = next((level["vocab_size"] for _, level in _levels(config) if type(level.get("vocab_size")) is int), None)
    for path, level in _levels(config):
        if type(level.get("vocab_size")) is int and level["vocab_size"] != main:
            continue
        for key, value in level.items():
            if key.endswith(_ID_ENDS) or key in _ID_KEYS:
                for each in value if isinstance(value, list) else [value]:
                    if type(each) is int:
                        yield ".".join((*path, key)), each


def tied_by_flag(config: Mapping[str, Any]) -> bool | None:
    """Return whether a config says that embedding and head are one, or None if it does not say."""
    for _, level in sorted(_levels(config), key=lambda each: len(each[0])):
        flag = level.get("tie_word_embeddings")
        if isinstance(flag, bool):
            return flag
    return None


def is_capped(config: Mapping[str, Any]) -> bool:
    """Return whether the logits are squeezed after the head (`final_logit_softcapping`, as in Gemma 2)."""
    return any(level.get("final_logit_softcapping") for _, level in _levels(config))


def is_quantised(config: Mapping[str, Any]) -> bool:
    """Return whether the weights are stored quantised."""
    return any("quantization_config" in level for _, level in _levels(config))


def check_ids(file: str, config: Mapping[str, Any], rows: int) -> Iterator[Finding]:
    """Yield a finding for each special id that is no row of the embedding."""
    for where, value in special_ids(config):
        place = f"{file}: {shown(where)}"
        if value >= rows:
            fact = f"The id {value} has no row; there are {rows}."
            yield Finding("special-id-out-of-range", Severity.ERROR, place, fact, "Set the id that the tokenizer has.")
        elif value < -1:
            fact = f"The id {value} is below 0."
            yield Finding("special-id-out-of-range", Severity.ERROR, place, fact, "Set the id that the tokenizer has.")
