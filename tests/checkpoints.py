"""Small checkpoints in safetensors, made without torch, with rows that can be told apart."""

from __future__ import annotations

import json
import random
import struct
from typing import TYPE_CHECKING, Any

from guardtok.extension import Extension, NewToken, Placement
from guardtok.resize.safetensors_file import DTYPE_BITS, render_header

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ROWS, WIDTH = 37, 6
EMBEDDING, HEAD, OTHER = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.weight"
Tensor = tuple[str, tuple[int, ...], bytes]


def numbers(dtype: str, *shape: int, seed: int = 0) -> Tensor:
    """Return a tensor of random numbers between -1 and 1."""
    count = 1
    for extent in shape:
        count *= extent
    chosen = random.Random(f"{dtype}{shape}{seed}")  # noqa: S311 - numbers to tell apart
    values = [chosen.uniform(-1, 1) for _ in range(count)]
    match dtype:
        case "BF16":
            raw = b"".join(struct.pack("<f", value)[2:] for value in values)
        case "F16" | "F32" | "F64":
            raw = struct.pack(f"<{count}{ {'F16': 'e', 'F32': 'f', 'F64': 'd'}[dtype] }", *values)
        case _:
            raw = chosen.randbytes(count * DTYPE_BITS[dtype] // 8)
    return dtype, shape, raw


def llama(dtype: str = "F32", rows: int = ROWS, *, tied: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a model with an embedding, a layer, and a head if it is not tied."""
    tensors = {EMBEDDING: numbers(dtype, rows, WIDTH), OTHER: numbers(dtype, WIDTH, 4)}
    return tensors if tied else tensors | {HEAD: numbers(dtype, rows, WIDTH, seed=1)}


def shard(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file."""
    header = render_header(
        ((name, dtype, shape, len(raw)) for name, (dtype, shape, raw) in tensors.items()),
        {"format": "pt"} if metadata is None else metadata,
    )
    return header + b"".join(raw for _, _, raw in tensors.values())


def config(rows: int = ROWS, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return a config of a model that is not tied, unless `more` says otherwise."""
    return {"vocab_size": rows, "tie_word_embeddings": False, "architectures": ["LlamaForCausalLM"], **more}


def write(
    folder: Path, tensors: Mapping[str, Tensor], files: Mapping[str, Any] | None = None, *, shards: int = 1
) -> Path:
    """Write a checkpoint: the tensors, dealt out to so many shards, and other files as JSON; by default a config."""
    folder.mkdir()
    if shards == 1:
        (folder / "model.safetensors").write_bytes(shard(tensors))
    else:
        names = [f"model-{number + 1:05}-of-{shards:05}.safetensors" for number in range(shards)]
        places = {name: names[turn % shards] for turn, name in enumerate(tensors)}
        for place in names:
            held = {name: tensor for name, tensor in tensors.items() if places[name] == place}
            (folder / place).write_bytes(shard(held))
        index = {
            "metadata": {"total_size": sum(len(raw) for _, _, raw in tensors.values())},
            "weight_map": places,
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    for name, value in (files or {"config.json": config()}).items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return folder


def extension(*ids: int, base: int = ROWS, rows: int | None = None, placement: Placement | None = None) -> Extension:
    """Return an extension with a token for each id, in a gap where it is below the base's rows and nothing is said."""

    def placed(token_id: int) -> Placement:
        return placement or (Placement.GAP if token_id < base else Placement.APPEND)

    tokens = tuple(
        NewToken(f"<|new_{token_id}|>", token_id, placed(token_id), (1 + turn, 2 + turn, 3))
        for turn, token_id in enumerate(ids)
    )
    return Extension("extended", "base", tokens, base, rows or max((base, *(each + 1 for each in ids))), "", "")


def tokenizer(vocabulary: Mapping[str, int], added: Mapping[str, int], **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a `tokenizer.json` of a word-level model with special tokens added."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token_id, "content": form, **flags} for form, token_id in added.items()],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": dict(vocabulary), "unk_token": "w0"},
        **more,
    }


def words(count: int) -> dict[str, int]:
    """Return a vocabulary of so many words."""
    return {f"w{number}": number for number in range(count)}


def names(folder: Path) -> list[str]:
    """Return the names of what is in a folder, in order."""
    return sorted(each.name for each in folder.iterdir())


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return every file of a folder with its time of change and its contents."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
