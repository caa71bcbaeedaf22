"""Every tensor of a model that has a dimension as long as its vocabulary, and what it is for.

A resize that knows two attributes misses the third: a per-layer table, a bias that another module owns, a mask. So all
are listed, each must be claimed by a role, and one that nobody claims stops the resize until somebody says what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from torch import nn

from guardtok.finding import Finding, Severity
from guardtok.resize.places import places, tie_groups

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from guardtok.resize.places import Place


class Role(str, Enum):
    """What a vocabulary tensor is for."""

    INPUT = "input"
    """Ids go in; rows come out."""
    HEAD = "head"
    """A score for each id comes out, perhaps from the input's own table."""
    BIAS = "bias"
    """Added to the scores."""
    TABLE = "table"
    """Another table by id: of a layer, of an encoder, of a mask."""

    # Equal to its string, so it must hash like it; `Enum` would hash the name.
    __hash__ = str.__hash__

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class VocabTensor:
    """A tensor with a vocabulary dimension.

    Attributes:
        names: All its names; the first is used to speak of it.
        role: What it is for.
        dim: Which dimension is the vocabulary.
        shape: Its shape.
        dtype: Its type, as torch writes it.
        kind: As that of its `Place`.
        size: Bytes it takes.
    """

    names: tuple[str, ...]
    role: Role
    dim: int
    shape: tuple[int, ...]
    dtype: str
    kind: str
    size: int

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0]


@dataclass(frozen=True, slots=True)
class Census:
    """The vocabulary tensors of a model.

    Attributes:
        rows: How many rows the vocabulary has.
        tensors: Those that are claimed: the head first, if there is one, since others follow it.
        head: Name of the module that turns hidden states into scores, or None: the model does it by itself.
        findings: What is unclear.
    """

    rows: int
    tensors: tuple[VocabTensor, ...]
    head: str | None
    findings: tuple[Finding, ...]


_INPUTS = (
    "tok_emb",
    "wte",
    "embed_tokens",
    "tok_embeddings",
    "token_embedding",
    "token_embeddings",
    "word_embeddings",
    "embed_in",
    "shared",
)
_HEADS = ("out_head", "lm_head", "embed_out", "output_projection", "unembed")
_PERHAPS_HEADS = ("decoder", "output", "head")
"""Names that other layers have too, so the shape must say the same."""
_TABLES = {*_INPUTS, "embed_tokens_per_layer"}
_BIASES = {"final_logits_bias"}


def take_census(
    model: nn.Module, *, embedding: str | None, head: str | None, also: Collection[str], ignore: Collection[str]
) -> Census:
    """Return every tensor with a vocabulary dimension.

    Args:
        model: The model; it is only looked at.
        embedding: Name of the module that takes ids, or of its tensor; None to look for it.
        head: Name of the module that gives scores, or of its tensor; None to look for it.
        also: Names of further tensors that grow with the vocabulary.
        ignore: Names of tensors that are as long as the vocabulary by chance, and stay.
    """
    found = [place for place in places(model) if place.name not in ignore]
    named = {place.name: place for place in found}
    findings = [
        Finding("no-such-tensor", Severity.ERROR, name, "The model has no tensor or module of that name.")
        for name in (embedding, head, *also)
        if name is not None and _weight_of(name, named) is None
    ]
    entry = _find_input(model, embedding, named)
    if entry is None:
        fact = "Nothing in this model can be told to be its token embedding."
        lacking = Finding("embedding-unknown", Severity.ERROR, "model", fact, "Name it: `embedding='…'`.")
        return Census(0, (), None, (*findings, lacking))
    rows = entry.tensor.shape[0] if entry.tensor.dim() else 0
    exit_ = _find_head(model, head, named, rows)
    if exit_ is not None and rows not in exit_.tensor.shape:
        findings.append(
            Finding(
                "head-differs",
                Severity.ERROR,
                exit_.name,
                f"Its shape {tuple(exit_.tensor.shape)} has no dimension of {rows}, which {entry.name} has rows.",
                "Which ids the head leaves out is not known here; make both one size first.",
            )
        )
        exit_ = None
    claims = _claim(found, entry, exit_, also, rows)
    findings += _unclaimed(found, claims, rows)
    groups = tie_groups(found)
    tensors = [
        VocabTensor(
            names,
            *claims[name],
            tuple(named[name].tensor.shape),
            str(named[name].tensor.dtype).removeprefix("torch."),
            named[name].kind,
            named[name].tensor.numel() * named[name].tensor.element_size(),
        )
        for name, names in groups.items()
        if name in claims
    ]
    tensors.sort(key=lambda tensor: [Role.HEAD, Role.BIAS, Role.INPUT, Role.TABLE].index(tensor.role))
    return Census(rows, tuple(tensors), exit_.module if exit_ is not None and exit_.module else None, tuple(findings))


def _weight_of(name: str, named: Mapping[str, Place]) -> Place | None:
    return named.get(name) or named.get(f"{name}.weight")


def _find_input(model: nn.Module, name: str | None, named: Mapping[str, Place]) -> Place | None:
    if name is not None:
        return _weight_of(name, named)
    asked = _ask(model, "get_input_embeddings", named)
    if asked is not None:
        return asked
    return _by_name(_INPUTS, named) or _only(
        [p for p in named.values() if isinstance(p.owner, nn.Embedding) and p.attribute == "weight"]
    )


def _find_head(model: nn.Module, name: str | None, named: Mapping[str, Place], rows: int) -> Place | None:
    if name is not None:
        return _weight_of(name, named)
    asked = _ask(model, "get_output_embeddings", named)
    if asked is not None:
        return asked
    layers = {n: p for n, p in named.items() if p.tensor.dim() > 1 and not isinstance(p.owner, nn.Embedding)}
    fitting = {n: p for n, p in layers.items() if rows in p.tensor.shape}
    return (
        _by_name(_HEADS, layers)
        or _by_name(_PERHAPS_HEADS, fitting)
        or _only([p for p in fitting.values() if isinstance(p.owner, nn.Linear) and p.tensor.shape[0] == rows])
    )


def _ask(model: nn.Module, method: str, named: Mapping[str, Place]) -> Place | None:
    """Return the weight that a transformers model names, or None where it names none."""
    ask = getattr(model, method, None)
    try:
        module = ask() if callable(ask) else None
    except (NotImplementedError, AttributeError):  # What transformers raises for a model that has no such layer.
        return None
    return next((p for p in named.values() if p.owner is module and p.attribute == "weight"), None)


def _by_name(names: Sequence[str], named: Mapping[str, Place]) -> Place | None:
    for wanted in names:
        for place in named.values():
            if place.attribute == "weight" and place.module.rpartition(".")[2] == wanted:
                return place
    return None


def _only(fitting: Sequence[Place]) -> Place | None:
    return fitting[0] if len({id(place.tensor) for place in fitting}) == 1 else None


def _claim(
    found: Sequence[Place], entry: Place, exit_: Place | None, also: Collection[str], rows: int
) -> dict[str, tuple[Role, int]]:
    """Return role and vocabulary dimension of each tensor that has them, by the first of its names."""
    first = {name: names[0] for names in tie_groups(found).values() for name in names}
    claims: dict[str, tuple[Role, int]] = {}
    if exit_ is not None:
        # A square head says nothing by its shape; `Conv1D` of transformers alone keeps its outputs second.
        turned = exit_.tensor.shape[0] != rows or type(exit_.owner).__name__ == "Conv1D"
        claims[first[exit_.name]] = (Role.HEAD, 1 if turned else 0)
    claims.setdefault(first[entry.name], (Role.INPUT, 0))
    around = exit_.module.rpartition(".")[0] if exit_ is not None else None
    for place in found:
        if rows not in place.tensor.shape or place.kind == "attribute":
            continue
        dim = tuple(place.tensor.shape).index(rows)
        beside = exit_ is not None and (place.owner is exit_.owner or (around and place.module == around))
        if place.attribute in _BIASES or (beside and place.attribute == "bias"):
            claims.setdefault(first[place.name], (Role.BIAS, dim))
        elif place.name in also or (
            isinstance(place.owner, nn.Embedding) and place.module.rpartition(".")[2] in _TABLES
        ):
            claims.setdefault(first[place.name], (Role.TABLE, dim))
    return claims


def _unclaimed(found: Sequence[Place], claims: Mapping[str, object], rows: int) -> list[Finding]:
    groups = tie_groups(found)
    claimed = {name for first in claims for name in groups[first]}
    return [
        Finding(
            "unclaimed",
            Severity.ERROR,
            place.name,
            f"This {place.kind} of shape {tuple(place.tensor.shape)} is as long as the vocabulary, and nothing says "
            "what it is for.",
            "If it grows with the vocabulary, name it in `also`; if it is so long by chance, in `waive`."
            if place.kind != "attribute"
            else "Register it as a buffer and name it in `also`; if it is so long by chance, name it in `waive`.",
        )
        for place in found
        if rows in place.tensor.shape and place.name not in claimed
    ]
