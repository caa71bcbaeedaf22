from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from guardtok import plan_resize
from guardtok.errors import FrozenRowsError, ModelChangedError, ResizeError
from guardtok.extension import NewToken, Placement
from guardtok.finding import Severity
from guardtok.resize import transaction
from guardtok.resize.init import Zero
from guardtok.resize.receipt import Receipt
from guardtok.resize.rows import RowAction
from tests.resizable import ROWS, WIDTH, Model, content, extension, train

if TYPE_CHECKING:
    from collections.abc import Callable


def errors(findings: object) -> list[tuple[str, str]]:
    """Return code and place of each error."""
    assert isinstance(findings, tuple)
    return [(f.code, f.where) for f in findings if f.severity == Severity.ERROR]


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer for all of a model."""
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def test_planning_changes_nothing() -> None:
    """Every tensor, flag, config, moment and the state of chance are what they were."""
    model = Model().train()
    model.tok_emb.max_norm = 0.1  # A forward pass would shorten rows in place.
    model.body = nn.Sequential(model.body, nn.Dropout(0.5), nn.BatchNorm1d(4))
    optimizer = adam(model)
    config = {"vocab_size": ROWS}
    before = (content(model), repr(optimizer.state_dict()), dict(config), torch.get_rng_state().tolist())
    plan_resize(model, extension(), optimizer, configs=[config])
    assert (content(model), repr(optimizer.state_dict()), config, torch.get_rng_state().tolist()) == before
    assert model.training
    assert model.body[1].training
    assert model.tok_emb.max_norm == 0.1


def test_a_plan_lists_what_it_will_do() -> None:
    """The text names rows, tensors, ties, configs and findings, with forms broken."""
    plan = plan_resize(Model(tied=True), extension(), configs=[{"vocab_size": ROWS}], multiple_of=8)
    text = str(plan)
    for words in ("50 rows become 56", "grow  row 50: <_|new_0|>", "tied with out_head.weight", "4 rows of padding"):
        assert words in text
    assert "configs[0].vocab_size: 50 becomes 56" in text
    assert plan.rows.padding == (52, 53, 54, 55)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_resize_in_training_loses_nothing(*, tied: bool, bias: bool) -> None:
    """Old rows, moments and steps stay; new rows are there; ties and modules too; training goes on."""
    torch.manual_seed(1)
    model = Model(tied=tied, bias=bias)
    optimizer = adam(model)
    train(model, optimizer, 1, 2, 3)
    modules, old = list(model.modules()), {n: p.detach().clone() for n, p in model.named_parameters()}
    moments = {n: optimizer.state[p]["exp_avg"].clone() for n, p in model.named_parameters()}
    logits = model(torch.tensor([[4, 5]])).detach()
    with plan_resize(model, extension(), optimizer).apply(model, optimizer):
        pass
    assert list(model.modules()) == modules
    for name, parameter in model.named_parameters():
        wide = "tok_emb" in name or "out_head" in name
        assert parameter.shape[0] == old[name].shape[0] + (2 if wide else 0)
        assert torch.equal(parameter[: len(old[name])], old[name])
        state = optimizer.state[parameter]
        assert torch.equal(state["exp_avg"][: len(old[name])], moments[name])
        assert not state["exp_avg"][len(old[name]) :].any()
        assert state["step"] == 1
    assert (model.tok_emb.num_embeddings, model.out_head.out_features) == (52, 52)
    assert (model.out_head.weight is model.tok_emb.weight) == tied
    assert torch.allclose(model(torch.tensor([[4, 5]]))[..., :ROWS], logits, rtol=0, atol=1e-6)
    before = model.tok_emb.weight.detach().clone()
    train(model, optimizer, 50, 51)
    assert not torch.equal(model.tok_emb.weight[50:], before[50:])


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adafactor])
def test_optimizers_follow(make: Callable[..., torch.optim.Optimizer]) -> None:
    """Momentum, both moments of Adam with AMSGrad, and Adafactor's factors get rows of zeros."""
    model = Model()
    options: dict[str, Any] = {"momentum": 0.9} if make is torch.optim.SGD else {}
    if make in {torch.optim.Adam, torch.optim.AdamW}:
        options = {"amsgrad": True}
    optimizer = make(
        [{"params": model.tok_emb.parameters()}, {"params": model.out_head.parameters()}], lr=0.01, **options
    )
    train(model, optimizer, 1, 2)
    plan_resize(model, extension(), optimizer).apply(model, optimizer)
    assert [group["params"][0] for group in optimizer.param_groups] == [model.tok_emb.weight, model.out_head.weight]
    assert set(optimizer.state) == {model.tok_emb.weight, model.out_head.weight}
    train(model, optimizer, 50, 2)
    copy = make([{"params": model.tok_emb.parameters()}, {"params": model.out_head.parameters()}], lr=0.01, **options)
    copy.load_state_dict(optimizer.state_dict())


def test_gradients_hooks_and_marks_follow() -> None:
    """A gradient that waits gets rows of zeros; hooks stay and can be removed; marks and frozen layers stay."""
    model = Model()
    model.tok_emb.weight.requires_grad_(requires_grad=False)
    head = model.out_head.weight
    head.no_weight_decay = True
    calls: list[int] = []
    handle = head.register_hook(lambda gradient: calls.append(len(gradient)))
    model.out_head.register_forward_hook(lambda *_: calls.append(-1))
    model(torch.tensor([[1]])).sum().backward()
    gradient = head.grad
    assert gradient is not None
    plan = plan_resize(model, extension())
    assert [f.code for f in plan.findings if f.severity == Severity.WARNING] == ["gradient-hook", "kl-over-budget"]
    plan.apply(model)
    new = model.out_head.weight
    assert new.grad is not None
    assert torch.equal(new.grad[:ROWS], gradient)
    assert not new.grad[ROWS:].any()
    assert new.no_weight_decay is True
    assert not model.tok_emb.weight.requires_grad
    calls.clear()
    model(torch.tensor([[51]])).sum().backward()
    assert calls == [-1, 52]
    handle.remove()
    calls.clear()
    model(torch.tensor([[51]])).sum().backward()
    assert calls == [-1]


def test_padding_and_reserved_slots_are_used_before_rows_are_added() -> None:
    """A token takes the row it has an id for; rows that no token takes are not touched, and none is cut off."""
    model = Model(64)
    with torch.no_grad():
        model.out_head.weight[50:] = 0
    old = model.out_head.weight.detach().clone()
    tokens = [
        NewToken("<|reused|>", 7, Placement.RESERVED, (1, 2), replaces="<|extra_0|>"),
        NewToken("<|there|>", 8, Placement.PRESENT, (1,)),
        NewToken("<|padding|>", 50, Placement.APPEND, (3, 4)),
    ]
    plan = plan_resize(model, extension(tokens=tokens))
    assert [token.action for token in plan.rows.tokens] == [RowAction.REUSE, RowAction.KEEP, RowAction.FILL]
    assert {finding.code for finding in plan.findings} >= {"padding-kept", "row-looks-alive"}
    receipt = plan.apply(model).receipt
    changed = (model.out_head.weight != old).any(1).nonzero().flatten().tolist()
    assert changed == [7, 50]
    assert receipt.overwritten == (7, 50)
    assert receipt.rows_kept == 62


def test_rows_are_cut_only_when_told() -> None:
    """`allow_shrink` cuts padding, with a warning; moments and configs follow; without it the rows stay."""
    model, config = Model(64), {"vocab_size": 64}
    assert plan_resize(model, extension()).rows.new == 64
    optimizer = adam(model)
    train(model, optimizer, 1)
    plan = plan_resize(model, extension(), optimizer, allow_shrink=True, multiple_of=4, configs=[config])
    assert "shrinks" in {finding.code for finding in plan.findings}
    plan.apply(model, optimizer)
    assert (len(model.tok_emb.weight), model.out_head.out_features, config["vocab_size"]) == (52, 52, 52)
    train(model, optimizer, 51)


class Interrupted(BaseException):
    pass


def steps_of(model: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, int]) -> int:
    """Return how many steps one resize takes, and undo it."""
    count = 0

    class Counting(ExitStack):
        def callback(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as ExitStack has it
            nonlocal count
            count += 1
            return super().callback(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "ExitStack", Counting)
        plan_resize(model, extension(), optimizer, configs=[config]).apply(model, optimizer).rollback()
    return count


@pytest.mark.parametrize("before", [True, False])
def test_a_failure_at_any_step_leaves_everything_as_it_was(*, before: bool) -> None:
    """Whatever step fails, objects, memory, bytes, moments, configs and sizes are exactly the old ones."""
    model, config = Model(tied=True, bias=True), {"vocab_size": ROWS}
    model.vocab_size = ROWS
    optimizer = adam(model)
    train(model, optimizer, 1, 2)

    def state() -> object:
        return (
            content(model),
            [[id(p) for p in group["params"]] for group in optimizer.param_groups],
            {id(p): (id(s), {k: (id(v), v.tolist()) for k, v in s.items()}) for p, s in optimizer.state.items()},
            dict(config),
            (model.tok_emb.num_embeddings, model.out_head.out_features, model.vocab_size),
        )

    old = state()
    steps = steps_of(model, optimizer, config)
    assert state() == old
    assert steps >= 8
    for fatal in range(steps):
        count = 0

        class Failing(ExitStack):
            def callback(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as ExitStack has it
                nonlocal count
                count += 1
                if before and count > fatal:  # noqa: B023 - it is used within this round
                    raise Interrupted
                if count > fatal + 1:  # noqa: B023 - as above
                    raise Interrupted
                return super().callback(*args, **kwargs)

        plan = plan_resize(model, extension(), optimizer, configs=[config])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transaction, "ExitStack", Failing)
            if before or fatal + 1 < steps:
                with pytest.raises(Interrupted):
                    plan.apply(model, optimizer)
            else:
                plan.apply(model, optimizer).rollback()
        assert state() == old


@pytest.mark.parametrize(
    "broken", ["grown", "new_rows", "migrate", "verify", "find_state_problems", "certify", "Receipt"]
)
def test_a_failure_in_any_part_leaves_everything_as_it_was(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making rows, moving the optimizer, verifying and writing the receipt may each fail."""
    model = Model()
    optimizer = adam(model)
    train(model, optimizer, 1, 2)
    old = content(model)
    plan = plan_resize(model, extension(), optimizer)

    def fail(*_args: object, **_kwargs: object) -> None:
        raise Interrupted

    monkeypatch.setattr(transaction, broken, fail)
    with pytest.raises(Interrupted):
        plan.apply(model, optimizer)
    assert content(model) == old
    assert set(optimizer.state) == set(model.parameters())
    train(model, optimizer, 1)


def test_an_exception_in_the_block_puts_the_model_back() -> None:
    """A check of one's own decides, even after a step of training."""
    model = Model()
    optimizer = adam(model)
    train(model, optimizer, 1, 2)
    old = content(model)
    table = model.tok_emb.weight
    steps = optimizer.state[table]["step"].clone()
    plan = plan_resize(model, extension(), optimizer)
    with pytest.raises(Interrupted), plan.apply(model, optimizer):  # noqa: PT012 - the block is what is tested
        train(model, optimizer, 51)
        raise Interrupted
    for name in ("tok_emb.weight", "out_head.weight"):
        assert content(model)[name] == old[name]
    assert optimizer.state[table]["step"] == steps


def test_a_model_that_changed_is_refused() -> None:
    """A step of training, another config or another optimizer after planning: plan again."""
    model, config = Model(), {"vocab_size": ROWS}
    optimizer = adam(model)
    plan = plan_resize(model, extension(), optimizer, configs=[config])
    with pytest.raises(ModelChangedError, match="none is given"):
        plan.apply(model)
    with pytest.raises(ModelChangedError, match=r"error optimizer-(orphan|lost)"):
        plan.apply(model, adam(Model()))
    config["vocab_size"] = 51
    with pytest.raises(ModelChangedError, match=r"configs\[0\].vocab_size"):
        plan.apply(model, optimizer)
    config["vocab_size"] = ROWS
    with torch.no_grad():
        model.body.inner.bias[0] += 1
    with pytest.raises(ModelChangedError, match=r"body\.inner\.bias"):
        plan.apply(model, optimizer)
    assert len(model.tok_emb.weight) == ROWS


def test_a_receipt_can_be_kept_and_names_what_changed() -> None:
    """It comes back from JSON as it was; after training it names the table whose old rows moved, and only that."""
    model = Model()
    receipt = plan_resize(model, extension()).apply(model).receipt
    kept = Receipt.from_json(receipt.to_json())
    assert kept == receipt
    assert "50 old rows bit for bit" in str(kept)
    kept.assert_frozen(model)
    kept.assert_frozen(torch.nn.Sequential(model))
    with torch.no_grad():
        model.tok_emb.weight[51] += 1
    kept.assert_frozen(model)
    with torch.no_grad():
        model.tok_emb.weight[49, 2] = -model.tok_emb.weight[49, 2]
    with pytest.raises(FrozenRowsError, match=r"tok_emb\.weight") as caught:
        kept.assert_frozen(model)
    assert [finding.where for finding in caught.value.findings] == ["tok_emb.weight"]
    with pytest.raises(FrozenRowsError, match="has 0 tensors"):
        kept.assert_frozen(nn.Linear(2, 2))


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"version": 1}', "[" * 5000])
def test_what_is_no_receipt_is_refused(text: str) -> None:
    """Anything else than a receipt is a typed error."""
    with pytest.raises(ResizeError, match="not a receipt"):
        Receipt.from_json(text)


def test_a_receipt_of_another_version_is_refused() -> None:
    """A later format is not guessed at."""
    model = Model()
    fields = json.loads(plan_resize(model, extension()).apply(model).receipt.to_json())
    with pytest.raises(ResizeError, match="another version"):
        Receipt.from_json(json.dumps({**fields, "version": 2}))


def test_layers_can_be_named() -> None:
    """A model whose names say nothing is resized once somebody says which layers they are."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Embedding(ROWS, WIDTH)
            self.b = nn.Embedding(9, WIDTH)
            self.c = nn.Linear(WIDTH, ROWS)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.c(self.a(ids))

    model = Odd()
    assert errors(plan_resize(model, extension()).findings)[0][0] == "embedding-unknown"
    assert errors(plan_resize(model, extension(), embedding="x").findings)[0] == ("no-such-tensor", "x")
    plan = plan_resize(model, extension(), embedding="a", head="c")
    plan.apply(model)
    assert model.c.bias.shape == (52,)


def test_a_transposed_head_grows_along_its_columns() -> None:
    """A head whose table is stored as width by rows keeps its orientation, its old columns and its strides."""

    class Turned(Model):
        def __init__(self) -> None:
            super().__init__()
            del self.out_head
            self.proj = nn.Parameter(torch.randn(WIDTH, ROWS))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.body(self.tok_emb(ids)) @ self.proj

    model = Turned()
    old = model.proj.detach().clone()
    optimizer = adam(model)
    train(model, optimizer, 1)
    old = model.proj.detach().clone()
    plan = plan_resize(model, extension(), optimizer, head="proj")
    plan.apply(model, optimizer)
    assert model.proj.shape == (WIDTH, 52)
    assert torch.equal(model.proj[:, :ROWS], old)
    train(model, optimizer, 51)


def test_a_wrong_row_count_is_an_error_of_the_caller() -> None:
    """`multiple_of` must be positive."""
    with pytest.raises(ValueError, match="at least 1"):
        plan_resize(Model(), extension(), multiple_of=0)


def test_zero_rows_are_reported() -> None:
    """An initialiser that makes equal rows of nothing is used, and said to."""
    model = Model()
    found = plan_resize(model, extension(), init=Zero(kl_budget=5)).apply(model).receipt.findings
    assert {(f.code, f.where) for f in found} >= {
        ("new-rows-zero", "tok_emb.weight"),
        ("new-rows-equal", "out_head.weight"),
    }
