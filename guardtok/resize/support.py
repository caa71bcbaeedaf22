"""Models that cannot be resized as they stand: each is refused by name, before anything is touched.

What is in memory may be a part of a tensor, a packed form of it, or nothing at all; rows written there would be lost or
would corrupt it. Each refusal says what to do first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from guardtok.finding import Finding, Severity
from guardtok.resize.places import overlapping

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from torch import Tensor, nn

    from guardtok.resize.places import Place

_WRAPPERS = {
    "DistributedDataParallel": "Resize the model inside, then wrap it anew: the reducer holds the old parameters.",
    "FullyShardedDataParallel": "Resize before it is wrapped, or load and resize a full checkpoint.",
    "DeepSpeedEngine": "Resize before `deepspeed.initialize`: the engine holds the old parameters.",
}
_PLAIN = {torch.float64, torch.float32, torch.bfloat16, torch.float16}


def find_unsupported(model: nn.Module, found: Sequence[Place], vocabulary: Collection[str]) -> list[Finding]:
    """Return an error for everything that cannot be handled.

    Args:
        model: The model.
        found: Its tensors.
        vocabulary: Names of those with a vocabulary dimension.
    """
    findings = [
        Finding("wrapped", Severity.ERROR, name or "model", f"It is a {type(module).__name__}.", mend)
        for name, module in model.named_modules()
        for cls in type(module).__mro__
        if (mend := _WRAPPERS.get(cls.__name__))
    ]
    for place in found:
        wide = place.name in vocabulary
        for code, fact, mend in _problems(place.tensor, floating=wide and place.kind == "parameter"):
            # What a tensor elsewhere is made of is no matter, as long as it can be read and hashed.
            if wide or code in {"meta", "sharded"}:
                findings.append(Finding(code, Severity.ERROR, place.name, fact, mend))
        if wide:
            findings += _layer_problems(place)
    findings += [
        Finding(
            "overlapping",
            Severity.ERROR,
            one,
            f"It shares memory with {other}, but not as the same tensor.",
            "Give each its own memory, or tie them whole.",
        )
        for one, other in overlapping(found)
        if one in vocabulary or other in vocabulary
    ]
    return findings


def _problems(tensor: Tensor, *, floating: bool) -> Iterator[tuple[str, str, str]]:  # noqa: C901 - a list of cases
    kind = type(tensor).__name__
    if hasattr(tensor, "ds_id"):
        yield "sharded", "Its rows are with DeepSpeed ZeRO-3.", "Resize a full checkpoint instead."
    elif kind == "DTensor" or hasattr(tensor, "device_mesh"):
        yield "sharded", "It is a DTensor: its rows are on several devices.", "Resize a full checkpoint instead."
    elif kind == "FlatParameter":
        yield "sharded", "It is a flat parameter of FSDP.", "Resize before the model is wrapped."
    elif tensor.is_meta:
        yield "meta", "It is on the meta device and has no content.", "Load the weights first."
    elif isinstance(tensor, (torch.nn.UninitializedParameter, torch.nn.UninitializedBuffer)):
        yield "uninitialised", "It is not initialised yet.", "Run the model once first."
    elif floating and tensor.numel() == 0:
        yield "sharded", "It is empty, as ZeRO-3 leaves what it holds elsewhere.", "Resize a full checkpoint instead."
    elif kind not in {"Tensor", "Parameter", "Buffer"} or tensor.is_quantized or hasattr(tensor, "quant_state"):
        yield "quantised", f"It is a {kind}, perhaps packed or quantised.", "Resize the full weights, then quantise."
    elif floating and tensor.dtype not in _PLAIN:
        yield "quantised", f"It holds {tensor.dtype}: packed or quantised.", "Resize the full weights, then quantise."
    elif tensor.layout != torch.strided:
        yield "sparse", f"Its layout is {tensor.layout}.", "Make it dense first."
    elif tensor.is_inference():
        yield "inference", "It was made in inference mode, so it cannot be trained.", "Load it outside of that mode."


def _layer_problems(place: Place) -> Iterator[Finding]:
    """Yield what about the layer around a vocabulary tensor stands in the way."""
    if torch.nn.utils.parametrize.is_parametrized(place.owner) or ".parametrizations" in place.module:
        fact = "It is computed by a parametrization."
        mend = "Remove it with `torch.nn.utils.parametrize.remove_parametrizations` first."
        yield Finding("parametrized", Severity.ERROR, place.name, fact, mend)
    if ".base_layer." in f".{place.name}" or "modules_to_save" in place.name or "lora_" in place.name:
        fact = "An adapter is put on it, whose shape must follow."
        yield Finding("adapter", Severity.ERROR, place.name, fact, "Merge or remove the adapter first.")
    if place.kind == "parameter" and place.tensor._backward_hooks:  # noqa: SLF001 - torch has no public way to see it
        yield Finding(
            "gradient-hook",
            Severity.WARNING,
            place.name,
            "It has a hook on its gradient, which is carried over.",
            "The gradient will have more rows: a mask of the old size would fail.",
        )
