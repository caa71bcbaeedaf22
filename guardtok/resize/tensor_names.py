"""Which stored tensors have a row for each token, by name and by shape.

A resize that knows two names leaves the third table behind, and the model fails, or worse, reads another token's row.
So every tensor with as many rows as the embedding is claimed by a known name, or by whoever asks, or stops the plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from guardtok.resize.checkpoint import Shard
    from guardtok.resize.safetensors_file import StoredTensor


class Role(str, Enum):
    """What a tensor with a row for each token is."""

    EMBEDDING = "embedding"
    """Its row is what a token means when it is read."""
    HEAD = "head"
    """Its row, times the last hidden state, is the token's logit."""
    BIAS = "bias"
    """What is added to the logits."""

    # Equal to its string, so it must hash like it; `Enum` would hash the name.
    __hash__ = str.__hash__

    def __str__(self) -> str:
        return self.value


# Names as the classes of transformers, and plain modules, give them. Compared whole, or as the end after a dot.
_NAMES: Mapping[Role, tuple[str, ...]] = {
    Role.EMBEDDING: (
        "embed_tokens.weight",
        "wte.weight",
        "word_embeddings.weight",
        "shared.weight",
        "embed_in.weight",
        "tok_embeddings.weight",
        "tok_emb.weight",
        "token_embedding.weight",
        "token_embeddings.weight",
        "embedding.weight",
        "embeddings.weight",
        "embed_tokens_per_layer.weight",
    ),
    Role.HEAD: (
        "lm_head.weight",
        "lm_head.decoder.weight",
        "embed_out.weight",
        "output_layer.weight",
        "out_head.weight",
        "predictions.decoder.weight",
    ),
    Role.BIAS: (
        "lm_head.bias",
        "lm_head.decoder.bias",
        "embed_out.bias",
        "output_layer.bias",
        "out_head.bias",
        "predictions.decoder.bias",
        "predictions.bias",
        "final_logits_bias",
    ),
}
# Heads whose names say little, so they count only where nothing stands in front.
_WHOLE_NAMES = {"output.weight": Role.HEAD, "head.weight": Role.HEAD, "output.bias": Role.BIAS, "head.bias": Role.BIAS}


def role_by_name(name: str) -> Role | None:
    """Return what a tensor of this name usually is, or None if the name says nothing."""
    for role, ends in _NAMES.items():
        if any(name == end or name.endswith(f".{end}") for end in ends):
            return role
    return _WHOLE_NAMES.get(name)


def vocabulary_rows(shards: Iterable[Shard], claims: Mapping[str, Role], expected: Iterable[int]) -> tuple[int, ...]:
    """Return how many rows the embeddings have: one number where all is well.

    Args:
        shards: The files of tensors.
        claims: What tensors are, said by whoever asks.
        expected: The sizes of the vocabulary that the config names. Where an embedding has one of them, those that have
            another number of rows belong to something else, as a second table of a text-and-image model does.
    """
    rows = set()
    for shard in shards:
        for tensor in shard.header.tensors:
            role = claims.get(tensor.name, role_by_name(tensor.name))
            if role is Role.EMBEDDING and len(tensor.shape) == 2:  # noqa: PLR2004 - rows and width
                rows.add(tensor.shape[0])
    said = rows.intersection(expected)
    return tuple(sorted(said or rows))


@dataclass(frozen=True, slots=True)
class VocabularyTensor:
    """A tensor with a row for each token.

    Attributes:
        tensor: The tensor.
        shard: The name of its file.
        role: What it is.
        dim: Which of its dimensions counts tokens.
    """

    tensor: StoredTensor
    shard: str
    role: Role
    dim: int

    @property
    def rows(self) -> int:
        """How many tokens it has a row for."""
        return self.tensor.shape[self.dim] if self.tensor.shape else 0

    @property
    def width(self) -> int:
        """Elements of a row."""
        return prod(self.tensor.shape[self.dim + 1 :])

    @property
    def rows_first(self) -> bool:
        """Whether a row's bytes lie together and the rows in order, so that rows can be appended."""
        return prod(self.tensor.shape[: self.dim]) == 1

    def resized(self, rows: int) -> tuple[int, ...]:
        """Return its shape with another number of rows."""
        return (*self.tensor.shape[: self.dim], rows, *self.tensor.shape[self.dim + 1 :])


@dataclass(frozen=True, slots=True)
class Census:
    """Every stored tensor that may have a row for each token.

    Attributes:
        claimed: Those that are known to, in the order of the files.
        unclaimed: Names of those that have as many rows and an unknown name.
        other_rows: Those whose name says that they should, and that have another number of rows.
        packed: Names of tensors that belong to a table whose weights are not plain numbers.
    """

    claimed: tuple[VocabularyTensor, ...]
    unclaimed: tuple[str, ...]
    other_rows: tuple[VocabularyTensor, ...]
    packed: tuple[str, ...]


def take_census(shards: Iterable[Shard], rows: int, claims: Mapping[str, Role], waived: frozenset[str]) -> Census:
    """Return every tensor with a dimension of `rows`, and whether it is known what it is.

    Args:
        shards: The files of tensors.
        rows: How many rows the embedding has.
        claims: What tensors are, said by whoever asks.
        waived: Tensors that have such a dimension by chance, said by whoever asks.
    """
    claimed, unclaimed, other, packed = [], [], [], []
    for shard in shards:
        for tensor in shard.header.tensors:
            if tensor.name in waived:
                continue
            role = claims.get(tensor.name, role_by_name(tensor.name))
            if role is not None and rows in tensor.shape:
                dim = tensor.shape.index(rows)
                claimed.append(VocabularyTensor(tensor, shard.file.name, role, dim))
            elif role is not None:
                dim = max(range(len(tensor.shape)), key=tensor.shape.__getitem__, default=0)
                other.append(VocabularyTensor(tensor, shard.file.name, role, dim if role is Role.BIAS else 0))
            elif _module(tensor.name) and role_by_name(f"{_module(tensor.name)}.weight") is not None:
                packed.append(tensor.name)
            elif rows in tensor.shape:
                unclaimed.append(tensor.name)
    return Census(tuple(claimed), tuple(unclaimed), tuple(other), tuple(packed))


def _module(name: str) -> str:
    return name.rpartition(".")[0]
