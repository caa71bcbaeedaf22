"""Real transformers models from small configs through the whole cycle on disk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from checkpoints import extension, snapshot
from torch.nn import functional

import guardtok

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS = 211
SMALL: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}


def gpt2() -> transformers.PreTrainedModel:
    """Return a GPT-2, whose head is its embedding."""
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=ROWS, n_embd=24, n_layer=2, n_head=2))


def llama(*, tied: bool) -> transformers.PreTrainedModel:
    """Return a Llama."""
    settings = transformers.LlamaConfig(
        vocab_size=ROWS, hidden_size=24, intermediate_size=40, tie_word_embeddings=tied, **SMALL
    )
    return transformers.LlamaForCausalLM(settings)


def qwen2() -> transformers.PreTrainedModel:
    """Return a Qwen2, with rows that no token has."""
    settings = transformers.Qwen2Config(
        vocab_size=ROWS, hidden_size=24, intermediate_size=40, tie_word_embeddings=True, **SMALL
    )
    return transformers.Qwen2ForCausalLM(settings)


def gemma() -> transformers.PreTrainedModel:
    """Return a Gemma, which scales its embedding."""
    settings = transformers.GemmaConfig(vocab_size=ROWS, hidden_size=24, intermediate_size=40, head_dim=12, **SMALL)
    return transformers.GemmaForCausalLM(settings)


def t5(*, tied: bool) -> transformers.PreTrainedModel:
    """Return a T5, of which encoder, decoder and perhaps head share one table."""
    settings = transformers.T5Config(
        vocab_size=ROWS, d_model=24, d_kv=12, d_ff=40, num_layers=2, num_heads=2, tie_word_embeddings=tied
    )
    return transformers.T5ForConditionalGeneration(settings)


MODELS: dict[str, tuple[Callable[[], transformers.PreTrainedModel], int]] = {
    "GPT-2": (gpt2, ROWS),
    "Llama, tied": (lambda: llama(tied=True), ROWS),
    "Llama, untied": (lambda: llama(tied=False), ROWS),
    "Qwen2, padded": (qwen2, ROWS - 5),
    "Qwen2, padded, more tokens than padding": (qwen2, ROWS - 1),
    "Gemma": (gemma, ROWS),
    "T5, tied": (lambda: t5(tied=True), ROWS),
    "T5, untied": (lambda: t5(tied=False), ROWS),
}


def inputs(model: transformers.PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return something for a model to read, of old tokens."""
    ids = torch.randint(0, ROWS - 8, (2, 9), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})


def last_hidden(model: transformers.PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a model's head is given for the inputs, and its logits."""
    seen: list[torch.Tensor] = []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _module, given, _result: seen.append(given[0]))
    with torch.no_grad():
        logits = model(**inputs(model)).logits
    handle.remove()
    return seen[0], logits


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_goes_through_the_whole_cycle(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    """Saved in shards, resized on disk and loaded again it says of old tokens what it said, and knows the new ones.

    Old logits are the same bits where the head's old rows are applied to the same hidden states, and within the type's
    tolerance in the whole width, whose product the library may compute otherwise.
    """
    make, base = MODELS[name]
    torch.manual_seed(0)
    made = make().to(dtype)
    made.save_pretrained(tmp_path / "old", max_shard_size="8KB")
    old = type(made).from_pretrained(tmp_path / "old", dtype=dtype).eval()
    assert len(list((tmp_path / "old").glob("*.safetensors"))) > 1
    before = snapshot(tmp_path / "old")
    plan = guardtok.plan_resize_dir(tmp_path / "old", extension(base, base + 1, base + 2, base=base), multiple_of=4)
    assert [each.code for each in plan.errors] == []
    guardtok.apply_dir(plan, tmp_path / "new")
    assert guardtok.verify_dir(tmp_path / "old", tmp_path / "new", plan).errors == ()
    assert snapshot(tmp_path / "old") == before
    new = type(old).from_pretrained(tmp_path / "new", dtype=dtype).eval()
    rows = plan.rows[1]
    assert new.config.vocab_size == rows
    assert new.get_input_embeddings().num_embeddings == rows
    here, there = new.get_input_embeddings().weight, new.get_output_embeddings().weight
    assert (here.data_ptr() == there.data_ptr()) == bool(old.config.tie_word_embeddings)
    hidden, logits = last_hidden(old)
    same_hidden, wide = last_hidden(new)
    assert torch.equal(hidden, same_hidden)
    narrow = functional.linear(same_hidden, there[:base])
    assert torch.equal(narrow, functional.linear(hidden, old.get_output_embeddings().weight[:base]))
    torch.testing.assert_close(wide[..., :base], logits[..., :base])
    for table in (here, there):
        assert len({tuple(row) for row in table[base : base + 3].tolist()}) == 3
        assert torch.isfinite(table).all()


@pytest.mark.filterwarnings("ignore")
def test_a_tied_model_keeps_one_copy(tmp_path: Path) -> None:
    """No head is stored, before and after."""
    gpt2().save_pretrained(tmp_path / "old")
    plan = guardtok.plan_resize_dir(tmp_path / "old", extension(ROWS, base=ROWS))
    assert [each.name for each in plan.edits] == ["transformer.wte.weight"]
    guardtok.apply_dir(plan, tmp_path / "new")
    again = guardtok.plan_resize_dir(tmp_path / "new", extension(base=ROWS + 1))
    assert again.edits == ()
    assert json.loads((tmp_path / "new" / "config.json").read_text())["vocab_size"] == ROWS + 1


@pytest.mark.filterwarnings("ignore")
def test_the_bias_of_the_notebook_is_caught_by_name(tmp_path: Path) -> None:
    """A GPT-2 to whose head somebody gave a bias, as a new `nn.Linear` has one, is told so by plan and doctor."""
    from guardtok.resize.doctor import diagnose

    model = gpt2()
    model.lm_head = torch.nn.Linear(24, ROWS)
    model.save_pretrained(tmp_path / "old")
    plan = guardtok.plan_resize_dir(tmp_path / "old", extension(ROWS, base=ROWS))
    assert "lm_head.bias" in {each.where for each in plan.errors if each.code == "bias-appeared"}
    assert "bias-appeared" in {each.code for each in diagnose(tmp_path / "old")}
