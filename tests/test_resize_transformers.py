"""Models of transformers, small and from configs, through the whole cycle."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

from guardtok import plan_resize
from guardtok.errors import ResizeError
from guardtok.extension import NewToken, Placement
from guardtok.finding import Severity
from guardtok.resize.receipt import Receipt
from tests.resizable import extension

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from guardtok.extension import Extension

ROWS = 53
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    **SPECIAL,
}


def gpt2() -> transformers.PreTrainedModel:
    """Return a model with tied tables."""
    config = transformers.GPT2Config(vocab_size=ROWS, n_embd=16, n_layer=1, n_head=2, n_positions=24, **SPECIAL)
    return transformers.GPT2LMHeadModel(config)


def llama(*, tied: bool) -> transformers.PreTrainedModel:
    """Return a model with or without a table of its own in the head."""
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=ROWS, tie_word_embeddings=tied, **SMALL))


def qwen2() -> transformers.PreTrainedModel:
    """Return a model with padding: 64 rows for 53 ids."""
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(vocab_size=64, **SMALL))


def gemma2() -> transformers.PreTrainedModel:
    """Return a model that caps its scores."""
    return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(vocab_size=ROWS, **SMALL))


def t5() -> transformers.PreTrainedModel:
    """Return a model with one table under four names."""
    config = transformers.T5Config(
        vocab_size=ROWS, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config)


def bart() -> transformers.PreTrainedModel:
    """Return a model with a bias of scores in a buffer."""
    sides = {
        f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("attention_heads", 2))
    }
    sides |= {"encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "decoder_start_token_id": 2}
    config = transformers.BartConfig(vocab_size=ROWS, d_model=16, max_position_embeddings=32, **sides, **SPECIAL)
    return transformers.BartForConditionalGeneration(config)


def bert() -> transformers.PreTrainedModel:
    """Return a model whose head has a bias that two modules own."""
    small = {
        name: SMALL[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    }
    return transformers.BertForMaskedLM(
        transformers.BertConfig(vocab_size=ROWS, max_position_embeddings=32, pad_token_id=0, **small)
    )


def gemma3() -> transformers.PreTrainedModel:
    """Return a model whose text config is nested."""
    text = {"vocab_size": ROWS, **SMALL}
    vision = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 28,
    }
    config = transformers.Gemma3Config(
        text_config=text, vision_config={**vision, "patch_size": 14}, mm_tokens_per_image=1, image_token_index=5,
        boi_token_index=6, eoi_token_index=7,
    )  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(config)


MODELS: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "gpt2": gpt2,
    "llama, tied": lambda: llama(tied=True),
    "llama, untied": lambda: llama(tied=False),
    "qwen2, padded": qwen2,
    "gemma2": gemma2,
    "t5": t5,
    "bart": bart,
    "bert": bert,
    "gemma3": gemma3,
}


def tokens() -> Extension:
    """Return two tokens beyond the ids of every model."""
    return extension(2, base=ROWS)


def step(model: transformers.PreTrainedModel, optimizer: torch.optim.Optimizer, *ids: int) -> None:
    """Train on some ids."""
    batch = torch.tensor([ids])
    optimizer.zero_grad()
    model(input_ids=batch, labels=batch).loss.backward()
    optimizer.step()


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Let transformers keep its advice, and its bars, to itself."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_passes_through_the_whole_cycle(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Planned, applied, run, trained, saved, loaded and verified again: nothing old is lost at any point."""
    torch.manual_seed(0)
    model = MODELS[name]().to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step(model, optimizer, 5, 6, 7, 8)
    plan = plan_resize(model, tokens(), optimizer)
    assert [f for f in plan.findings if f.severity == Severity.ERROR] == []
    done = plan.apply(model, optimizer)
    rows = plan.rows.new
    assert rows == (64 if "qwen2" in name else 55)
    assert model.get_input_embeddings().weight.shape[0] == rows
    assert model.get_output_embeddings().weight.shape[0] == rows
    assert model.config.get_text_config().vocab_size == rows
    assert done.receipt.kl_measured is not None
    assert (done.receipt.kl_certified is None) == (name == "gemma2")  # It caps its scores.
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=dtype)
    assert [f for f in plan.verify(again, reloaded=True) if f.severity == Severity.ERROR] == []
    Receipt.from_json(done.receipt.to_json()).assert_frozen(again)
    step(model, optimizer, 5, ROWS, ROWS + 1, 6)
    grown = again.get_input_embeddings().weight
    assert not torch.equal(model.get_input_embeddings().weight[ROWS], grown[ROWS])


@pytest.mark.parametrize("name", MODELS)
def test_transformers_own_resize_agrees_on_old_rows(name: str) -> None:
    """Verification passes what `resize_token_embeddings` did to old rows, sizes, ties and configs."""
    torch.manual_seed(0)
    model = MODELS[name]()
    plan = plan_resize(model, tokens())
    model.resize_token_embeddings(plan.rows.new, mean_resizing=False)
    errors = {f.code for f in plan.verify(model) if f.severity == Severity.ERROR}
    # What it leaves behind: its new head is another module, and lacks what was attached to the old one.
    assert errors <= {"layer-changed", "hooks-lost", "marks-lost", "size-attribute", "config-stale"}


def test_rows_cut_by_the_usual_call_are_found() -> None:
    """`resize_token_embeddings(len(tokenizer))` on a padded model takes rows away (unsloth-zoo 923)."""
    model = qwen2()
    plan = plan_resize(model, tokens())
    model.resize_token_embeddings(55, mean_resizing=False)
    assert ("wrong-shape", "lm_head.weight") in {(f.code, f.where) for f in plan.verify(model)}


def test_a_head_is_not_initialised_again() -> None:
    """The flag by which transformers knows what it has initialised stays on the resized layers (35141)."""
    model = llama(tied=False)
    plan_resize(model, tokens()).apply(model)
    old = model.lm_head.weight.detach().clone()
    model.init_weights()
    model.post_init()
    assert torch.equal(model.lm_head.weight, old)


def test_a_false_tie_on_reload_is_found(tmp_path: Path) -> None:
    """A flag that says tied over two tables is a disagreement, whatever a version makes of it (45127)."""
    model = llama(tied=False)
    plan = plan_resize(model, tokens())
    plan.apply(model)
    model.config.tie_word_embeddings = True
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    found = {(f.code, f.where) for f in plan.verify(again, reloaded=True) if f.severity == Severity.ERROR}
    assert ("config-changed", "config.tie_word_embeddings") in found


def test_a_stale_special_id_is_refused() -> None:
    """The defaults of GPT-2's config name id 50256, which a small model does not have."""
    model = gpt2()
    model.generation_config.eos_token_id = 50256
    with pytest.raises(ResizeError, match=r"special-id-beyond-rows at generation_config\.eos_token_id"):
        plan_resize(model, tokens()).apply(model)


def test_a_new_token_that_takes_a_special_slot_is_said() -> None:
    """Where a reserved slot is EOS already, a warning says so."""
    model = llama(tied=True)
    added = extension(base=ROWS, tokens=[NewToken("<|stop|>", 2, Placement.RESERVED, (5, 6), replaces="<|extra_0|>")])
    found = {(f.code, f.where) for f in plan_resize(model, added).findings}
    assert ("id-in-use", "config.eos_token_id") in found


def test_a_copy_of_the_model_can_be_resized_by_the_same_plan() -> None:
    """A plan is about what a model is, not about which object it is."""
    model = llama(tied=True)
    twin = copy.deepcopy(model)
    plan = plan_resize(model, tokens())
    plan.apply(twin)
    assert twin.config.vocab_size == 55
    assert model.config.vocab_size == ROWS
