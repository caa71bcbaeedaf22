"""What holds for every resize: over models, types, ties, optimizers, initialisers and extensions that chance picks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from guardtok import plan_resize
from guardtok.errors import ResizeError
from guardtok.extension import NewToken, Placement
from guardtok.resize import init
from guardtok.resize.digest import digest
from guardtok.resize.divergence import measured_kl
from guardtok.resize.grown import grown
from guardtok.resize.receipt import Receipt
from guardtok.resize.rows import RowPlan
from tests.resizable import Model, bits, content, extension, train

if TYPE_CHECKING:
    from guardtok.extension import Extension

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
INITS: list[init.Initialiser] = [
    init.RoleAware(),
    init.RoleAware(kl_budget=0.2),
    init.Mean(),
    init.SubwordMean(),
    init.Normal(kl_budget=50),
    init.Zero(kl_budget=50),
    init.Callback(lambda request: request.old[: len(request.tokens)].clone(), kl_budget=50),
]


@st.composite
def extensions(draw: st.DrawFn, rows: int) -> Extension:
    """Draw tokens that take reserved slots, gaps, padding and new rows, or are there already."""
    base = draw(st.integers(12, rows))
    ids = draw(st.lists(st.integers(4, rows + 6), min_size=1, max_size=4, unique=True))
    tokens = [
        NewToken(
            f"<|{number}|>",
            number,
            draw(st.sampled_from([Placement.RESERVED, Placement.GAP, Placement.PRESENT]))
            if number < base
            else Placement.APPEND,
            tuple(draw(st.lists(st.integers(0, rows + 3), max_size=3))),
        )
        for number in ids
    ]
    return extension(base=base, tokens=tokens)


def optimizer_for(kind: str, model: nn.Module) -> torch.optim.Optimizer | None:
    """Return an optimizer by name, or None."""
    options: dict[str, Any] = {"lr": 0.01}
    # In half precision the usual epsilon is zero, and the first step a division by it.
    small = {"eps": 1e-4}
    match kind:
        case "none":
            return None
        case "sgd":
            return torch.optim.SGD(model.parameters(), momentum=0.9, **options)
        case "adam":
            return torch.optim.Adam(model.parameters(), **options, **small)
        case _:
            return torch.optim.AdamW(model.parameters(), amsgrad=True, **options, **small)


@given(data=st.data(), rows=st.integers(12, 40), seed=st.integers(0, 5))
def test_old_rows_are_the_same_bits_after_every_resize(data: st.DataObject, rows: int, seed: int) -> None:
    """Rows that no token takes keep every bit, NaN and infinity too; nothing else changes; rolling back is exact."""
    torch.manual_seed(seed)
    tied, bias = data.draw(st.booleans()), data.draw(st.booleans())
    model = Model(rows, tied=tied, bias=bias, dtype=data.draw(st.sampled_from(DTYPES)))
    optimizer = optimizer_for(data.draw(st.sampled_from(["none", "sgd", "adam", "adamw"])), model)
    if optimizer is not None:
        train(model, optimizer, 1, 2)
    added = data.draw(extensions(rows))
    taken = {token.id for token in added.tokens if token.placement != Placement.PRESENT}
    plan = plan_resize(
        model,
        added,
        optimizer,
        init=data.draw(st.sampled_from(INITS)),
        multiple_of=data.draw(st.sampled_from([None, 4, 64])),
        seed=seed,
    )
    before = content(model)
    old = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    done = plan.apply(model, optimizer)
    kept = [row for row in range(rows) if row not in taken]
    for name, parameter in model.named_parameters():
        if parameter.shape == old[name].shape and not taken & set(range(rows)):
            assert torch.equal(bits(parameter), bits(old[name]))
        elif len(old[name]) == rows:
            assert torch.equal(bits(parameter[kept]), bits(old[name][kept]))
            assert len(parameter) == plan.rows.new >= max(rows, added.rows)
            assert parameter[rows:].isfinite().all()
    assert (model.out_head.weight is model.tok_emb.weight) == tied
    receipt = done.receipt
    assert Receipt.from_json(receipt.to_json()) == receipt
    receipt.assert_frozen(model)
    if receipt.kl_certified is not None and receipt.kl_measured is not None:
        assert receipt.kl_measured <= receipt.kl_certified + 1e-9
    done.rollback()
    assert content(model) == before
    if optimizer is not None:
        train(model, optimizer, 3)


@given(data=st.data(), rows=st.integers(12, 40), seed=st.integers(0, 5))
def test_the_certificate_holds_for_every_input(data: st.DataObject, rows: int, seed: int) -> None:
    """Whatever hidden state comes, up to the size that it names, old predictions shift by no more than certified."""
    torch.manual_seed(seed)
    model = Model(rows, tied=data.draw(st.booleans()), bias=data.draw(st.booleans()))
    with torch.no_grad():
        model.out_head.weight *= data.draw(st.sampled_from([1.0, 30.0]))
    added = extension(data.draw(st.integers(1, 3)), base=rows)
    plan = plan_resize(model, added, init=data.draw(st.sampled_from(INITS[:4])), seed=seed)
    receipt = plan.apply(model).receipt
    assert receipt.kl_certified is not None
    assert receipt.kl_hidden is not None
    hidden = torch.randn(200, model.out_head.in_features)
    hidden *= receipt.kl_hidden / hidden.abs().sum(1, keepdim=True)
    kept = torch.arange(plan.rows.new) < rows
    logits = model.out_head.double()(hidden.double())
    assert measured_kl(logits, kept) <= receipt.kl_certified + 1e-9


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 3))
def test_the_measured_divergence_is_the_divergence(old: int, new: int, seed: int) -> None:
    """It equals the sum that defines KL(old || new), computed from two softmaxes."""
    logits = torch.randn(3, old + new, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 4
    before, after = logits[:, :old].log_softmax(1), logits.log_softmax(1)[:, :old]
    wanted = float((before.exp() * (before - after)).sum(1).max())
    assert measured_kl(logits, torch.arange(old + new) < old) == pytest.approx(wanted, abs=1e-9)


@given(rows=st.integers(20, 60), budget=st.floats(0.01, 2), count=st.integers(1, 3))
def test_role_aware_heads_take_the_largest_share_within_the_budget(rows: int, budget: float, count: int) -> None:
    """The certificate meets the budget exactly, unless means alone are above it or pieces alone below."""
    model = Model(rows, tied=True)
    added = extension(count, base=rows)
    bounds = [
        plan_resize(model, added, init=choice, probe=False).certificate
        for choice in (init.Mean(), init.RoleAware(kl_budget=budget), init.SubwordMean())
    ]
    least, ours, most = (bound.kl for bound in bounds if bound is not None)
    assert ours == pytest.approx(min(max(budget, least), most))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("choice", [init.Mean(), init.SubwordMean(), init.RoleAware()])
def test_rows_of_tokens_with_the_same_pieces_stay_apart(dtype: torch.dtype, choice: init.Initialiser) -> None:
    """Tokens that the base cuts into the same pieces get different rows, and they differ after the cast."""
    torch.manual_seed(2)
    model = Model(dtype=dtype)
    with torch.no_grad():
        model.tok_emb.weight.normal_(std=0.02)
        model.out_head.weight.normal_(std=0.02)
    tokens = [NewToken(f"<|{n}|>", 50 + n, Placement.APPEND, (3, 4)) for n in range(6)]
    found = plan_resize(model, extension(tokens=tokens), init=choice).apply(model).receipt.findings
    assert "new-rows-equal" not in {finding.code for finding in found}
    for table in (model.tok_emb.weight, model.out_head.weight):
        assert len(torch.unique(table[50:].float(), dim=0)) == 6


def test_input_rows_mean_their_pieces() -> None:
    """A row-aware input row is the mean of its pieces, each as often as it occurs; the head leans less."""
    model = Model()
    tokens = [NewToken("<|a|>", 50, Placement.APPEND, (3, 4, 4)), NewToken("<|b|>", 51, Placement.APPEND, (5,))]
    plan_resize(model, extension(tokens=tokens)).apply(model)
    table = model.tok_emb.weight
    assert torch.allclose(table[50], (table[3] + 2 * table[4]) / 3)
    assert torch.equal(table[51], table[5])
    assert not torch.equal(model.out_head.weight[51], model.out_head.weight[5])


def test_dead_rows_have_no_share() -> None:
    """Zero rows, padding, NaN and rows that are written anew are in no mean."""
    model = Model(60)
    with torch.no_grad():
        model.out_head.weight[:] = 1
        model.out_head.weight[3] = 0
        model.out_head.weight[4] = torch.nan
        model.out_head.weight[50:] = 100
        model.out_head.weight[6] = 100
    tokens = [NewToken("<|a|>", 6, Placement.RESERVED, ()), NewToken("<|b|>", 60, Placement.APPEND, ())]
    plan_resize(model, extension(tokens=tokens), init=init.Mean(), probe=False, multiple_of=62).apply(model)
    for row in (6, 60, 61):
        assert torch.allclose(model.out_head.weight[row], torch.ones(()))


def test_the_seed_decides() -> None:
    """One seed gives one result, another another."""
    torch.manual_seed(4)
    state = Model().state_dict()

    def resized(seed: int) -> torch.Tensor:
        model = Model()
        model.load_state_dict(state)
        plan_resize(model, extension(), seed=seed).apply(model)
        return model.out_head.weight

    assert torch.equal(resized(1), resized(1))
    assert not torch.equal(resized(1)[50:], resized(2)[50:])


def test_rows_of_another_shape_from_a_callback_are_refused() -> None:
    """The error says what came and what is wanted."""
    model = Model()
    with pytest.raises(ResizeError, match=r"returned \(1, 2\) .* \(2, 6\) is wanted"):
        plan_resize(model, extension(), init=init.Callback(lambda _: torch.zeros(1, 2))).apply(model)


@given(
    st.lists(st.floats(width=32), min_size=1, max_size=12), st.integers(0, 11), st.sampled_from(["sign", "bit", "none"])
)
def test_a_hash_sees_every_bit(values: list[float], place: int, change: str) -> None:
    """Any bit that changes changes the hash, that of a zero's sign too; a copy with NaN has the same."""
    assume(place < len(values))
    one = torch.tensor(values)
    other = one.clone()
    if change == "sign":
        other[place] = -other[place]
    elif change == "bit":
        bits(other)[4 * place] ^= 1
    same = torch.equal(bits(one), bits(other))
    assert (digest(one) == digest(other)) == same
    assert digest(one.half()) != digest(one)
    assert digest(one[:, None]) != digest(one)


@given(st.integers(1, 5), st.integers(0, 4), st.integers(0, 2), st.permutations([0, 1, 2]))
def test_growing_keeps_content_and_order_of_strides(rows: int, more: int, dim: int, order: list[int]) -> None:
    """The old part is copied bit for bit along any dimension, for any layout; the rest is zero."""
    shape = [rows if place == dim else 2 + place for place in range(3)]
    tensor = torch.randn([shape[place] for place in order]).permute([order.index(place) for place in range(3)])
    bigger = grown(tensor, dim, RowPlan(rows, rows + more, rows, ()))
    assert torch.equal(bigger.narrow(dim, 0, rows), tensor)
    assert not bigger.narrow(dim, rows, more).any()
    assert bigger.data_ptr() != tensor.data_ptr()
    wide = sorted(range(3), key=tensor.stride) if 1 not in shape else None
    if wide is not None:
        assert sorted(range(3), key=bigger.stride) == wide


def test_a_large_tensor_is_hashed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts in which a tensor is read do not matter."""
    tensor = torch.randn(40, 3)
    whole = digest(tensor), digest(tensor, torch.tensor([1, 5, 39]))
    monkeypatch.setattr("guardtok.resize.digest._CHUNK", 24)
    assert (digest(tensor), digest(tensor, torch.tensor([1, 5, 39]))) == whole
