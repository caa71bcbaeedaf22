"""The numbers beside a model that must agree with its tables: config sizes under all their names, and special ids.

A config that keeps the old size loads into another shape, or not at all. So every config is edited with the tensors,
and put back with them.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

from guardtok.finding import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import ExitStack

    from guardtok.resize.rows import RowPlan

_SIZES = ("vocab_size", "n_vocab", "vocabulary_size", "vocab_size_per_layer_input")
_PADDED = ("padded_vocab_size", "embedding_size", "padded_vocab")
"""Sizes of tables; where one of them is there, `vocab_size` may be the tokenizer's, which is smaller."""

_SPECIAL = "_token_id"
_TIE = "tie_word_embeddings"


@dataclass(frozen=True, slots=True)
class ConfigEdit:
    """One number of a config that changes.

    Attributes:
        where: Which: `config.text_config.vocab_size`.
        old: What it is.
        new: What it will be.
    """

    where: str
    old: int
    new: int


class Configs:
    """The configs of a model, nested ones included, each under a name.

    Args:
        model: Its `config`, `cfg` and `generation_config` are taken.
        more: Further ones: dictionaries or objects.
    """

    def __init__(self, model: object, more: Iterable[object]) -> None:
        self._found: dict[str, Any] = {}
        for name in ("config", "cfg", "generation_config"):
            self._add(name, getattr(model, name, None))
        for number, config in enumerate(more):
            self._add(f"configs[{number}]", config)

    def _add(self, name: str, config: Any) -> None:  # noqa: ANN401 - a config may be anything
        if config is None or any(config is other for other in self._found.values()):
            return
        self._found[name] = config
        for key, value in _items(config):
            if isinstance(value, Mapping) or hasattr(value, "to_dict") or is_dataclass(value):
                self._add(f"{name}.{key}", value)

    def plan(self, rows: RowPlan, needed: int, base: int) -> tuple[tuple[ConfigEdit, ...], list[Finding]]:
        """Return the edits, and what is wrong with the numbers that are there.

        Args:
            rows: What becomes of the rows.
            needed: Rows that the extended tokenizer needs.
            base: Rows that the base tokenizer needs.
        """
        edits, findings = [], []
        for name, config in self._found.items():
            values = dict(_items(config))
            padded = any(key in values for key in _PADDED)
            for key in (*_SIZES, *_PADDED):
                value, where = values.get(key), f"{name}.{key}"
                if not isinstance(value, int):
                    continue
                if value == rows.old:
                    edits.append(ConfigEdit(where, value, rows.new))
                elif padded and key not in _PADDED and value == base:
                    edits.append(ConfigEdit(where, value, max(needed, base)))
                elif key == "vocab_size" and "." not in name:
                    fact = f"It says {value}; the tables have {rows.old} rows."
                    mend = "Correct it first, or waive `config-disagrees` if it speaks of another vocabulary."
                    findings.append(Finding("config-disagrees", Severity.ERROR, where, fact, mend))
            findings += _special_problems(name, values, rows)
        return tuple(edit for edit in edits if edit.old != edit.new), findings

    def ties(self) -> Iterator[tuple[str, bool]]:
        """Yield what each config says of input and head being one."""
        for name, config in self._found.items():
            value = dict(_items(config)).get(_TIE)
            if isinstance(value, bool):
                yield f"{name}.{_TIE}", value

    def numbers(self) -> dict[str, object]:
        """Return every size, special id and tie flag of every config, by name."""
        return {
            f"{name}.{key}": value
            for name, config in self._found.items()
            for key, value in _items(config)
            if key in _SIZES or key in _PADDED or key == _TIE or key.endswith(_SPECIAL)
        }

    def apply(self, edits: Iterable[ConfigEdit], undo: ExitStack) -> None:
        """Make the edits; `undo` gets what undoes each, before it is made."""
        for edit in edits:
            name, _, key = edit.where.rpartition(".")
            undo.callback(_write, self._found[name], key, edit.old)
            _write(self._found[name], key, edit.new)


def _items(config: Any) -> list[tuple[str, Any]]:  # noqa: ANN401 - a config may be anything
    if isinstance(config, Mapping):
        return [(key, value) for key, value in config.items() if isinstance(key, str)]
    names = [*getattr(config, "__dataclass_fields__", {}), *getattr(config, "__dict__", {})]
    return [(name, getattr(config, name, None)) for name in dict.fromkeys(names) if not name.startswith("_")]


def _write(config: Any, key: str, value: int) -> None:  # noqa: ANN401 - a config may be anything
    if isinstance(config, MutableMapping):
        config[key] = value
    else:
        setattr(config, key, value)


def _special_problems(name: str, values: Mapping[str, Any], rows: RowPlan) -> Iterator[Finding]:
    written = {token.id for token in rows.written}
    for key, value in values.items():
        if not key.endswith(_SPECIAL):
            continue
        for number in value if isinstance(value, list | tuple) else [value]:
            where = f"{name}.{key}"
            if not isinstance(number, int) or isinstance(number, bool) or number < 0:
                continue
            if number >= rows.new:
                fact = f"It is {number}, but there will be only {rows.new} rows."
                mend = "Set it to an id of this tokenizer first."
                yield Finding("special-id-beyond-rows", Severity.ERROR, where, fact, mend)
            elif number in written and number < rows.old:
                fact = f"It is {number}, whose row a new token takes."
                yield Finding("id-in-use", Severity.WARNING, where, fact, "Is the new token meant to be it?")
