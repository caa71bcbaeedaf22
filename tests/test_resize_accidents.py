"""The accidents that people had when they added tokens, each built small, and the check that catches it.

Two tables: surgery by hand that went wrong, judged by `verify`; and models on which a resize would go wrong, refused by
the plan. Numbers are those of issues in the repositories that are named.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from guardtok import plan_resize
from guardtok.errors import FrozenRowsError, ResizeError
from guardtok.extension import Extension, NewToken, Placement
from guardtok.finding import Severity
from guardtok.resize.init import Callback, Normal, Request, RoleAware, Zero
from tests.resizable import ROWS, WIDTH, Model, bits, content, extension, train

if TYPE_CHECKING:
    from collections.abc import Callable

NEW = ROWS + 2


class Bench:
    """A model with its optimizer and configs, for somebody to operate on."""

    def __init__(self, *, tied: bool = False, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(3)
        self.model = Model(tied=tied, dtype=dtype)
        self.model.tok_emb.padding_idx = 0
        self.model.out_head.register_forward_hook(lambda *_: None)
        self.model.tok_emb.weight.requires_grad_(requires_grad=tied)
        self.config = {"vocab_size": ROWS, "padded_vocab_size": ROWS, "bos_token_id": 1}
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad])
        train(self.model, self.optimizer, 1, 2)
        self.plan = plan_resize(self.model, extension(), self.optimizer, configs=[self.config])

    def operate(self) -> None:
        """Do it right, by hand: what every accident below departs from."""
        model = self.model
        tied = model.out_head.weight is model.tok_emb.weight
        for layer in (model.tok_emb, model.out_head):
            old = layer.weight
            new = nn.Parameter(torch.empty(NEW, WIDTH, dtype=old.dtype), requires_grad=old.requires_grad)
            with torch.no_grad():
                new[:ROWS] = old
                new[ROWS:] = old[5:7] * 0.5 + old[8:9] * 0.25
            layer.weight = new
            for group in self.optimizer.param_groups:
                group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
        if tied:
            model.out_head.weight = model.tok_emb.weight
        model.tok_emb.num_embeddings = model.out_head.out_features = NEW
        self.config.update(vocab_size=NEW, padded_vocab_size=NEW)

    def found(self) -> set[tuple[str, str]]:
        """Return code and place of every finding that is no note."""
        findings = self.plan.verify(self.model, self.optimizer)
        return {(f.code, f.where) for f in findings if f.severity != Severity.NOTE}


def test_surgery_that_went_well_passes() -> None:
    """By hand or not: where nothing went wrong, nothing is found."""
    bench = Bench()
    bench.operate()
    assert bench.found() == set()


def new_linear_with_bias(bench: Bench) -> None:
    """Make the head anew, as the notebook does."""
    old = bench.model.out_head
    torch.manual_seed(5)
    bench.model.out_head = nn.Linear(WIDTH, NEW)
    with torch.no_grad():
        bench.model.out_head.weight.copy_(old.weight)


def new_embedding(bench: Bench) -> None:
    """Make the input anew, without its options."""
    old = bench.model.tok_emb.weight
    bench.model.tok_emb = nn.Embedding(NEW, WIDTH)
    bench.model.tok_emb.weight = old


def cast_through_bfloat16(bench: Bench) -> None:
    """Let the head pass through a narrower type."""
    with torch.no_grad():
        bench.model.out_head.weight.copy_(bench.model.out_head.weight.bfloat16())


def other_type(bench: Bench) -> None:
    """Give the input another type."""
    bench.model.tok_emb.weight = nn.Parameter(bench.model.tok_emb.weight.detach().double(), requires_grad=False)


def initialised_again(bench: Bench) -> None:
    """Initialise the head after its rows were copied."""
    bench.model.out_head.reset_parameters()


def rows_swapped(bench: Bench) -> None:
    """Exchange two rows of the input."""
    with torch.no_grad():
        bench.model.tok_emb.weight[[3, 4]] = bench.model.tok_emb.weight[[4, 3]]


def one_bit(bench: Bench) -> None:
    """Flip one bit of the head."""
    bits(bench.model.out_head.weight)[17] ^= 1


def trained_again(bench: Bench) -> None:
    """Let a frozen table train."""
    bench.model.tok_emb.weight.requires_grad_()


def head_left_small(bench: Bench) -> None:
    """Forget the head."""
    bench.model.out_head.weight = nn.Parameter(bench.model.out_head.weight[:ROWS].detach().clone())


def cut(bench: Bench) -> None:
    """Take rows away."""
    bench.model.tok_emb.weight = nn.Parameter(bench.model.tok_emb.weight[: ROWS - 8].detach(), requires_grad=False)


def optimizer_forgotten(bench: Bench) -> None:
    """Leave a parameter in the optimizer that the model does not use."""
    bench.optimizer.param_groups[0]["params"][-1] = nn.Parameter(torch.zeros(ROWS, WIDTH))


def parameter_not_trained(bench: Bench) -> None:
    """Take the head out of the optimizer."""
    head = bench.model.out_head.weight
    group = bench.optimizer.param_groups[0]
    group["params"] = [parameter for parameter in group["params"] if parameter is not head]


def config_kept(bench: Bench) -> None:
    """Forget one name of the size."""
    bench.config["padded_vocab_size"] = ROWS


def bos_erased(bench: Bench) -> None:
    """Overwrite an id with None."""
    bench.config["bos_token_id"] = None  # type: ignore[assignment]


def body_touched(bench: Bench) -> None:
    """Change a number elsewhere."""
    with torch.no_grad():
        bench.model.body.inner.weight[0, 0] += 1e-6


def max_norm_set(bench: Bench) -> None:
    """Give the input an option that it did not have."""
    bench.model.tok_emb.max_norm = 1.0


def out_features_kept(bench: Bench) -> None:
    """Forget what the layer says of itself."""
    bench.model.out_head.out_features = ROWS


def norms_too_long(bench: Bench) -> None:
    """Make a new row far longer than any old one."""
    with torch.no_grad():
        bench.model.tok_emb.weight[ROWS] *= 1000


def not_finite(bench: Bench) -> None:
    """Put a NaN into a new row."""
    with torch.no_grad():
        bench.model.tok_emb.weight[ROWS, 0] = torch.nan


def rows_never_initialised(bench: Bench) -> None:
    """Leave a new row zero."""
    with torch.no_grad():
        bench.model.tok_emb.weight[ROWS] = 0


def rows_all_the_same(bench: Bench) -> None:
    """Give both new tokens the mean of all rows."""
    with torch.no_grad():
        bench.model.out_head.weight[ROWS:] = bench.model.out_head.weight[:ROWS].mean(0)


# What happened; where it happened to somebody; how; what is found, and where.
SURGERY: list[tuple[str, str, Callable[[Bench], None], str, str]] = [
    (
        "a random bias in the new head",
        "LLMs-from-scratch, extend-tiktoken",
        new_linear_with_bias,
        "bias-appeared",
        "out_head.bias",
    ),
    ("… which moves every old score", "LLMs-from-scratch", new_linear_with_bias, "old-scores-moved", "out_head"),
    ("hooks went with the old head", "transformers, new nn.Linear", new_linear_with_bias, "hooks-lost", "out_head"),
    ("padding_idx went with the old table", "skeletoken 118", new_embedding, "layer-changed", "tok_emb"),
    (
        "rows cast to another type and back",
        "FOCUS, float32 result",
        cast_through_bfloat16,
        "old-rows-changed",
        "out_head.weight",
    ),
    ("a table in another type", "LLMs-from-scratch, no dtype", other_type, "dtype-changed", "tok_emb.weight"),
    (
        "the head initialised again after the resize",
        "transformers 35141",
        initialised_again,
        "old-rows-changed",
        "out_head.weight",
    ),
    ("rows out of order", "mergekit 425", rows_swapped, "old-rows-changed", "tok_emb.weight"),
    ("one bit", "", one_bit, "old-rows-changed", "out_head.weight"),
    (
        "a frozen table trains again",
        "transformers 26861, qlora 214",
        trained_again,
        "trainable-changed",
        "tok_emb.weight",
    ),
    ("the head left small", "transformers 45276", head_left_small, "wrong-shape", "out_head.weight"),
    ("rows cut off while tokens were added", "unsloth-zoo 923, peft 2415", cut, "wrong-shape", "tok_emb.weight"),
    ("the optimizer trains the old table", "transformers 3532", optimizer_forgotten, "optimizer-orphan", "optimizer"),
    (
        "the new table is trained by nobody",
        "OpenNMT-py 2030",
        parameter_not_trained,
        "optimizer-lost",
        "out_head.weight",
    ),
    (
        "a config keeps the padded size",
        "transformers 25729, OLMo 501",
        config_kept,
        "config-stale",
        "configs[0].padded_vocab_size",
    ),
    ("BOS erased", "transformers 48592", bos_erased, "special-id-erased", "configs[0].bos_token_id"),
    ("another tensor touched", "", body_touched, "other-tensor-changed", "body.inner.weight"),
    ("max_norm set", "", max_norm_set, "layer-changed", "tok_emb"),
    ("out_features says the old size", "vLLM 15124", out_features_kept, "size-attribute", "out_head"),
    ("a new row explodes", "transformers 17690", norms_too_long, "new-rows-too-long", "tok_emb.weight"),
    ("a new row is NaN", "", not_finite, "not-finite", "tok_emb.weight"),
    (
        "a row in the padding was never initialised",
        "LlamaFactory 10547",
        rows_never_initialised,
        "new-rows-zero",
        "tok_emb.weight",
    ),
    (
        "identical rows that stop learning",
        "transformers 35075, axolotl 2000",
        rows_all_the_same,
        "new-rows-equal",
        "out_head.weight",
    ),
]


@pytest.mark.parametrize(("what", "seen", "accident", "code", "where"), SURGERY, ids=[f"{row[0]}" for row in SURGERY])
def test_surgery_that_went_wrong_is_found(
    what: str, seen: str, accident: Callable[[Bench], None], code: str, where: str
) -> None:
    """Each accident is named with its place, on a model on which the same surgery without it passes."""
    bench = Bench()
    bench.operate()
    accident(bench)
    assert (code, where) in bench.found()


def test_a_tie_that_is_lost_is_found() -> None:
    """Input and head were one tensor and are two: the head would be saved twice, or thrown away (mergekit 385)."""
    bench = Bench(tied=True)
    bench.operate()
    assert bench.found() == set()
    bench.model.out_head.weight = nn.Parameter(bench.model.out_head.weight.detach().clone())
    assert ("tie-lost", "tok_emb.weight") in bench.found()


def test_a_tie_that_appears_is_found() -> None:
    """Two tables became one (transformers 45127)."""
    bench = Bench()
    bench.operate()
    bench.model.out_head.weight = bench.model.tok_emb.weight
    assert ("tie-appeared", "tok_emb.weight") in bench.found()


def embedding_beside(rows: int = ROWS) -> nn.Module:
    """Return a model with a second table by id."""
    model = Model()
    model.per_layer = nn.Embedding(rows, 3)
    return model


def with_attribute(**attributes: object) -> nn.Module:
    """Return a model with something attached to it."""
    model = Model()
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def with_head(parameter: torch.Tensor) -> nn.Module:
    """Return a model whose head holds something else."""
    model = Model()
    model.out_head.weight = nn.Parameter(parameter, requires_grad=False)
    return model


def in_inference_mode() -> nn.Module:
    """Return a model made in inference mode."""
    with torch.inference_mode():
        return Model()


def sharded_by_zero3() -> nn.Module:
    """Return a model as DeepSpeed leaves it, marks included."""
    model = with_head(torch.zeros(0))
    model.out_head.weight.ds_id = 7
    return model


def emptied() -> nn.Module:
    """Return a model whose table is elsewhere."""
    model = Model()
    model.tok_emb.weight = nn.Parameter(torch.zeros(0))
    return model


def parametrized() -> nn.Module:
    """Return a model whose head is computed from two tensors."""
    model = Model()
    nn.utils.parametrizations.weight_norm(model.out_head)
    return model


class FullyShardedDataParallel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = Model()


class DTensor(nn.Parameter):
    pass


class Packed(nn.Parameter):
    pass


def transposed_tie() -> nn.Module:
    """Return a model whose head is a transposed view of its input."""
    model = Model()
    model.proj = nn.Parameter(model.tok_emb.weight.detach().t())
    return model


class LoraEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Embedding(ROWS, WIDTH)
        self.lora_embedding_A = nn.Parameter(torch.zeros(2, ROWS))


def with_adapter() -> nn.Module:
    """Return a model with LoRA on its input."""
    model = Model()
    model.tok_emb = LoraEmbedding()  # type: ignore[assignment]
    return model


def config(**values: object) -> nn.Module:
    """Return a model with a config of these values."""
    return with_attribute(config=SimpleNamespace(**values))


# What would go wrong; where it did; a model; what the plan says, and where.
PLANS: list[tuple[str, str, Callable[[], nn.Module], str, str]] = [
    ("a per-layer table", "transformers 45276", embedding_beside, "unclaimed", "per_layer.weight"),
    ("a tensor that is no buffer", "", lambda: with_attribute(mask=torch.ones(ROWS)), "unclaimed", "mask"),
    ("a copy of the model inside", "EMA", lambda: with_attribute(ema=Model()), "unclaimed", "ema.out_head.weight"),
    (
        "a head of another size",
        "transformers 33819",
        lambda: with_head(torch.zeros(48, WIDTH)),
        "head-differs",
        "out_head.weight",
    ),
    ("ZeRO-3", "transformers 26112", sharded_by_zero3, "sharded", "out_head.weight"),
    ("an empty shard", "transformers 32021", emptied, "sharded", "tok_emb.weight"),
    ("FSDP", "transformers 40382", FullyShardedDataParallel, "wrapped", "model"),
    ("DTensor", "", lambda: with_attribute(head=nn.Module(), x=DTensor(torch.zeros(ROWS, 2))), "sharded", "x"),
    ("a packed type", "", lambda: with_attribute(x=Packed(torch.zeros(ROWS, 2))), "quantised", "x"),
    ("eight bits", "", lambda: with_head(torch.zeros(ROWS, WIDTH, dtype=torch.int8)), "quantised", "out_head.weight"),
    ("meta", "", lambda: Model().to("meta"), "meta", "tok_emb.weight"),
    ("inference tensors", "unsloth-zoo 137", in_inference_mode, "inference", "tok_emb.weight"),
    ("a sparse table", "", lambda: with_head(torch.eye(ROWS, WIDTH).to_sparse()), "sparse", "out_head.weight"),
    ("a parametrization", "", parametrized, "parametrized", "out_head.parametrizations.weight.original1"),
    ("LoRA on the table", "peft 2290", with_adapter, "adapter", "tok_emb.lora_embedding_A"),
    ("memory shared in another shape", "", transposed_tie, "overlapping", "proj"),
    (
        "tied by flag, not by memory",
        "transformers 45127",
        lambda: config(tie_word_embeddings=True),
        "tie-flag",
        "config.tie_word_embeddings",
    ),
    (
        "a config of another size",
        "transformers 25729",
        lambda: config(vocab_size=48),
        "config-disagrees",
        "config.vocab_size",
    ),
    (
        "EOS beyond the table",
        "llama.cpp 3442",
        lambda: config(eos_token_id=[1, 60]),
        "special-id-beyond-rows",
        "config.eos_token_id",
    ),
]


@pytest.mark.parametrize(("what", "seen", "make", "code", "where"), PLANS, ids=[row[0] for row in PLANS])
def test_what_would_go_wrong_is_refused(
    what: str, seen: str, make: Callable[[], nn.Module], code: str, where: str
) -> None:
    """Each is an error of the plan, by name; applying it changes nothing."""
    model = make()
    plan = plan_resize(model, extension())
    assert (code, where) in {(f.code, f.where) for f in plan.findings if f.severity == Severity.ERROR}
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    with pytest.raises(ResizeError, match=code):
        plan.apply(model)
    assert {name: parameter.shape for name, parameter in model.named_parameters()} == shapes


def test_what_was_unclear_can_be_said() -> None:
    """A further table grows once it is named, and a tensor that is so long by chance stays."""
    model = embedding_beside()
    model.register_buffer("counts", torch.ones(ROWS, dtype=torch.long))
    model.chance = nn.Linear(2, ROWS)
    plan = plan_resize(model, extension(), also=["per_layer.weight", "counts"], waive=["chance.weight", "chance.bias"])
    plan.apply(model)
    assert model.per_layer.weight.shape == (NEW, 3)
    assert model.counts.tolist() == [1] * ROWS + [0, 0]
    assert model.chance.weight.shape == (ROWS, 2)


def test_tied_by_memory_alone() -> None:
    """Two Parameters over one memory stay two over one; the flag that denies it is an error that can be waived."""
    model = Model()
    model.out_head.weight = nn.Parameter(model.tok_emb.weight.detach())
    model.config = SimpleNamespace(tie_word_embeddings=False)
    assert "tie-flag" in {f.code for f in plan_resize(model, extension()).findings if f.severity == Severity.ERROR}
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 1)
    plan_resize(model, extension(), optimizer, waive=["tie-flag"]).apply(model, optimizer)
    assert model.out_head.weight is not model.tok_emb.weight
    assert model.out_head.weight.data_ptr() == model.tok_emb.weight.data_ptr()
    train(model, optimizer, NEW - 1)


def trained_head(model: Model) -> None:
    """Give the model scores as trained ones have them: far below zero, but for one."""
    with torch.no_grad():
        model.body.inner.bias += 3
        model.out_head.weight.copy_(-6 * torch.ones(ROWS, WIDTH) + torch.randn(ROWS, WIDTH))


@pytest.mark.parametrize("init", [Normal(), Normal(std=0.02), Zero()])
def test_new_rows_that_would_win_are_undone(init: Normal | Zero) -> None:
    """Where old scores are near -35, small new rows take all the probability (transformers 17690): measured, undone."""
    model = Model()
    trained_head(model)
    old = content(model)
    with pytest.raises(ResizeError, match="kl-over-budget"):
        plan_resize(model, extension(), init=init).apply(model)
    assert content(model) == old
    receipt = plan_resize(model, extension(), init=RoleAware()).apply(model).receipt
    assert receipt.kl_measured is not None
    assert receipt.kl_certified is not None
    assert receipt.kl_measured <= receipt.kl_certified


def test_frozen_rows_that_decay_are_found() -> None:
    """With its gradient masked a row still shrinks under AdamW; the receipt says so (diffusers 1009)."""
    model = Model(tied=True)
    receipt = plan_resize(model, extension()).apply(model).receipt

    def mask(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * (torch.arange(NEW) >= ROWS)[:, None]

    model.tok_emb.weight.register_hook(mask)
    train(model, torch.optim.AdamW(model.parameters(), weight_decay=0.0), 1, NEW - 1)
    receipt.assert_frozen(model)
    train(model, torch.optim.AdamW(model.parameters(), weight_decay=0.1), 1, NEW - 1)
    with pytest.raises(FrozenRowsError, match=r"old-rows-changed at tok_emb\.weight"):
        receipt.assert_frozen(model)


def test_soft_capping_voids_the_certificate() -> None:
    """Capped scores are not linear in the head's rows, so nothing is certified; what is measured stands."""

    class Capped(Model):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return 3 * torch.tanh(super().forward(ids) / 3)

    class Scaled(Model):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) / 3

    capped = plan_resize(model := Capped(), extension()).apply(model).receipt
    assert capped.kl_certified is None
    assert capped.kl_measured is not None
    scaled = plan_resize(model2 := Scaled(), extension()).apply(model2).receipt
    assert scaled.kl_certified is not None


def test_too_little_memory_is_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resize that cannot fit is refused, not begun (VILA 262)."""
    monkeypatch.setattr(os, "sysconf", lambda _name: 8)
    plan = plan_resize(Model(), extension())
    assert "memory" in {finding.code for finding in plan.findings if finding.severity == Severity.ERROR}


def test_a_size_that_will_not_shard_is_said() -> None:
    """64 rows become 66: a warning that names the multiple (WizardLM 123)."""
    assert "odd-size" in {f.code for f in plan_resize(Model(64), extension(base=64)).findings}
    assert "odd-size" not in {f.code for f in plan_resize(Model(64), extension(base=64), multiple_of=64).findings}


def test_a_callback_that_writes_to_old_rows_is_undone() -> None:
    """It gets a copy, so the old table stays; the copy is checked, and what it spoilt is thrown away."""

    def spoil(request: Request) -> torch.Tensor:
        request.old[3] = 0
        return request.old[: len(request.tokens)].clone()

    model = Model()
    old = content(model)
    with pytest.raises(ResizeError, match="old-rows-changed"):
        plan_resize(model, extension(), init=Callback(spoil)).apply(model)
    assert content(model) == old


@pytest.mark.parametrize(
    "broken",
    [
        Extension(
            "x", "b", (NewToken("a", 50, Placement.APPEND, ()), NewToken("b", 50, Placement.APPEND, ())), 50, 51, "", ""
        ),
        Extension("x", "b", (NewToken("a", 51, Placement.APPEND, ()),), 50, 51, "", ""),
        Extension("x", "b", (NewToken("a", -1, Placement.GAP, ()),), 50, 50, "", ""),
        Extension("x", "b", (NewToken("a", 3, Placement.APPEND, ()),), 50, 50, "", ""),
        Extension("x", "b", (), 50, 49, "", ""),
    ],
)
def test_an_extension_that_is_none_is_refused(broken: Extension) -> None:
    """Two tokens with one id (tiktoken 457), an id beyond the rows, or an appended id of the base."""
    model = Model()
    with pytest.raises(ResizeError, match="extension-broken"):
        plan_resize(model, broken).apply(model)


def test_an_optimizer_that_cannot_follow_is_refused() -> None:
    """Orphans, a flat past, packed moments, riddles of shape and master copies are errors of the plan."""

    def codes(model: nn.Module, optimizer: torch.optim.Optimizer) -> set[tuple[str, str]]:
        plan = plan_resize(model, extension(), optimizer)
        return {(f.code, f.where) for f in plan.findings if f.severity == Severity.ERROR}

    assert ("optimizer-orphan", "optimizer") in codes(Model(), torch.optim.Adam(Model().parameters()))
    model = Model()
    assert ("optimizer-state", "optimizer") in codes(model, torch.optim.LBFGS(model.parameters()))
    where = "optimizer.state[tok_emb.weight].x"
    for value, code in (
        (torch.zeros(ROWS, WIDTH, dtype=torch.uint8), "optimizer-state"),
        (torch.zeros(ROWS * WIDTH), "optimizer-state"),
        (model.tok_emb.weight.detach().double(), "master-copy"),
    ):
        optimizer = torch.optim.SGD(model.parameters())
        optimizer.state[model.tok_emb.weight]["x"] = value
        assert (code, where) in codes(model, optimizer)
    optimizer.state[model.tok_emb.weight]["x"] = torch.ones(ROWS, WIDTH)
    assert codes(model, optimizer) == set()


def test_a_model_that_cannot_be_run_is_resized_without_scores() -> None:
    """A forward pass that fails before fails no check after; the plan warns that nothing will be measured."""

    class Picky(Model):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) * mask

    model = Picky()
    plan = plan_resize(model, extension())
    assert "probe-failed" in {finding.code for finding in plan.findings}
    receipt = plan.apply(model).receipt
    assert receipt.kl_measured is None
    assert receipt.kl_hidden is None
    assert plan_resize(Model(), extension(), probe=False).before.reading is None


def test_a_model_that_gives_no_numbers_is_said_to() -> None:
    """Scores that are NaN compare with nothing, so they must not pass for a divergence of nothing."""
    model = Model()
    with torch.no_grad():
        model.body.inner.bias[0] = torch.nan
    receipt = plan_resize(model, extension()).apply(model).receipt
    assert "scores-not-finite" in {finding.code for finding in receipt.findings}
    assert receipt.kl_measured is None
