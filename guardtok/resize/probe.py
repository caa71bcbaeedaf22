"""One forward pass over a few ids, and what can be read off it: whether ids embed, and what the scores are.

A forward pass can change a model: dropout draws, `max_norm` shortens rows in place, buffers are updated. So it runs in
evaluation mode with that switched off, and whatever moved is put back.
"""

from __future__ import annotations

import inspect
import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from guardtok.errors import ResizeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_LOUD = 16384
_LIMIT = 32
"""Positions that are kept: each takes as many numbers as there are ids."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one forward pass showed.

    Attributes:
        ids: The ids that went in.
        hidden: What went into the head, a row for each position; None where no module is the head.
        scores: What came out of the head, the same way.
        logits: What the model returned, a row for each position; None where it returned no scores of ids.
        exact: What the rows of the head that stay give for `hidden`, by a call that later gives the same bits.
    """

    ids: Tensor
    hidden: Tensor | None
    scores: Tensor | None
    logits: Tensor | None
    exact: Tensor | None = None

    @property
    def final(self) -> Tensor | None:
        """The scores as the softmax will see them."""
        return self.scores if self.logits is None else self.logits


def probe(model: nn.Module, head: str | None, ids: Tensor, rows: int, *, loud: bool = False) -> Reading:
    """Run a model once and return what it showed.

    Args:
        model: The model. It is left as it was.
        head: Name of the module that turns hidden states into scores, or None.
        ids: A batch of ids.
        rows: How many ids have a score, by which the scores are told from what else comes out.
        loud: Make the head's scores so large on their way out that whatever bounds them behind the head shows.

    Raises:
        ResizeError: The model does not run on these ids, whatever it raised.
    """
    caught: list[tuple[Tensor, Tensor]] = []

    def catch(_module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        seen = out * _loudness(out) if loud else out
        caught.append((args[0].detach().clone(), seen.detach().clone()))
        return seen

    with _unmoved(model) as stack, torch.no_grad():
        if head is not None:
            stack.callback(model.get_submodule(head).register_forward_hook(catch).remove)
        try:
            out = model(**_arguments(model, ids)) if _arguments(model, ids) else model(ids)
        except Exception as error:
            raise ResizeError(
                f"The model does not run on a batch of shape {tuple(ids.shape)}: {type(error).__name__}."
            ) from error
    logits = _scores_in(out, rows)
    hidden, scores = caught[-1] if caught else (None, None)
    return Reading(ids, _flat(hidden), _flat(scores), _flat(logits))


def _loudness(scores: Tensor) -> float:
    """Return the power of two that brings scores to some ten thousand: it loses no bit, and half precision holds it."""
    largest = float(scores.abs().max())
    return 2.0 ** math.floor(math.log2(_LOUD / largest)) if math.isfinite(largest) and largest else 1.0


def default_ids(model: nn.Module, rows: int, *, skip: tuple[int, ...] = (), last: int | None = None) -> Tensor:
    """Return a small batch of ids, spread over those below `rows`.

    Args:
        model: The model, whose device is taken.
        rows: The first id that is too high.
        skip: Ids that are left out.
        last: An id that shall be among them.
    """
    left_out = frozenset(skip)
    known = [row for row in range(rows) if row not in left_out] or [0]
    spread = [known[len(known) * place // 8] for place in range(8)]
    if last is not None:
        spread[-1] = last
    return torch.tensor(spread, device=next(model.parameters()).device).reshape(2, 4)


def _arguments(model: nn.Module, ids: Tensor) -> dict[str, Any]:
    """Return how a transformers model wants its ids; nothing for one that takes them by place."""
    known = inspect.signature(model.forward).parameters
    if "input_ids" not in known:
        return {}
    wanted = {"input_ids": ids, "decoder_input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    return {name: value for name, value in wanted.items() if name in known}


def _scores_in(out: object, rows: int) -> Tensor | None:
    found = getattr(out, "logits", out)
    for candidate in found if isinstance(found, tuple | list) else [found]:
        if isinstance(candidate, torch.Tensor) and candidate.dim() and candidate.shape[-1] == rows:
            return candidate.detach()
    return None


def _flat(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.reshape(-1, tensor.shape[-1])[:_LIMIT].clone()


@contextmanager
def _unmoved(model: nn.Module) -> Iterator[ExitStack]:
    """Run in evaluation mode, and put back what a forward pass moves: flags, buffers, the state of chance."""
    modules = list(model.modules())
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=sorted(_devices(model))))
        for module in modules:
            stack.callback(setattr, module, "training", module.training)
            module.training = False
            if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
                stack.callback(setattr, module, "max_norm", module.max_norm)
                module.max_norm = None
            for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
                stack.callback(_put_back, module, name, buffer, buffer.clone())
        yield stack


def _put_back(module: nn.Module, name: str, buffer: Tensor, content: Tensor) -> None:
    if getattr(module, name) is not buffer:
        setattr(module, name, buffer)
    with torch.no_grad():
        buffer.copy_(content)


def _devices(model: nn.Module) -> set[int]:
    return {p.device.index for p in model.parameters() if p.device.type == "cuda" and p.device.index is not None}
