"""Plans for checkpoints on disk: they change nothing, list everything, and stop where something is not understood."""

from __future__ import annotations

import dataclasses
import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from checkpoints import (
    EMBEDDING,
    HEAD,
    ROWS,
    WIDTH,
    config,
    extension,
    llama,
    numbers,
    snapshot,
    tokenizer,
    words,
    write,
)

import guardtok
from guardtok.errors import ResizeError
from guardtok.extension import Extension, NewToken, Placement

if TYPE_CHECKING:
    from pathlib import Path

    from guardtok.resize.disk_plan import DirectoryPlan


def plan(
    folder: Path,
    tensors: Any = None,  # noqa: ANN401 - as `write` takes them
    files: Any = None,  # noqa: ANN401
    asked: Extension | None = None,
    **more: Any,  # noqa: ANN401 - as `plan_resize_dir` takes them
) -> DirectoryPlan:
    """Return the plan for a checkpoint that is written first."""
    old = write(folder / "old", llama() if tensors is None else tensors, files)
    return guardtok.plan_resize_dir(old, asked or extension(ROWS), **more)


def errors(made: DirectoryPlan) -> set[tuple[str, str]]:
    """Return code and place of what stops a plan."""
    return {(each.code, each.where) for each in made.errors}


def test_a_plan_changes_nothing_and_reads_no_tensor(tmp_path: Path) -> None:
    """With the tensors' bytes gone, a hole in the file in their place, the plan is the same."""
    old = write(tmp_path / "old", llama(), shards=3)
    before = snapshot(tmp_path)
    made = guardtok.plan_resize_dir(old, extension(ROWS))
    assert snapshot(tmp_path) == before
    for shard in old.glob("*.safetensors"):
        data = shard.read_bytes()
        header = 8 + int.from_bytes(data[:8], "little")
        shard.write_bytes(data[:header] + bytes(len(data) - header))
    assert guardtok.plan_resize_dir(old, extension(ROWS)).fingerprint == made.fingerprint


def test_the_fingerprint_follows_what_was_asked_and_found(tmp_path: Path) -> None:
    """Another request, header or config is another plan; another place and time is not."""
    old = write(tmp_path / "old", llama())
    same = write(tmp_path / "same", llama())
    made = guardtok.plan_resize_dir(old, extension(ROWS))
    assert guardtok.plan_resize_dir(same, extension(ROWS)).fingerprint == made.fingerprint
    others = [
        guardtok.plan_resize_dir(old, extension(ROWS + 1)),
        guardtok.plan_resize_dir(old, extension(ROWS), 8),
        guardtok.plan_resize_dir(old, extension(ROWS), init="mean"),
        guardtok.plan_resize_dir(write(tmp_path / "bf16", llama("BF16")), extension(ROWS)),
        guardtok.plan_resize_dir(write(tmp_path / "x", llama(), {"config.json": config(a=1)}), extension(ROWS)),
    ]
    assert len({made.fingerprint, *(each.fingerprint for each in others)}) == 6


def test_a_plan_can_be_kept_and_shown(tmp_path: Path) -> None:
    """It is pickled, written as JSON, and printed with all that it would do."""
    made = plan(tmp_path, multiple_of=8)
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 - its own
    record = json.loads(json.dumps(made.record()))
    assert record["rows"] == [ROWS, 40]
    lines = str(made).splitlines()
    assert lines[0] == f"rows     {ROWS} -> 40"
    assert f"tensor   {EMBEDDING} F32 [{ROWS}, {WIDTH}] -> [40, {WIDTH}] (embedding, model.safetensors)" in lines
    assert f"file     config.json vocab_size: {ROWS} -> 40" in lines


@pytest.mark.parametrize(
    ("change", "code", "where"),
    [
        ({"model.other": numbers("F32", ROWS, 2)}, "unclaimed", "model.other"),
        ({"model.buffer": numbers("F32", 3, ROWS)}, "unclaimed", "model.buffer"),
        ({HEAD: numbers("F32", WIDTH, ROWS)}, "rows-not-first", HEAD),
        ({HEAD: numbers("F32", ROWS - 1, WIDTH)}, "rows-disagree", HEAD),
        ({HEAD: numbers("F8_E4M3", ROWS, WIDTH)}, "dtype", HEAD),
        ({EMBEDDING: numbers("I8", ROWS, WIDTH)}, "dtype", EMBEDDING),
        ({"lm_head.qweight": numbers("I32", 9, 9)}, "packed", "lm_head.qweight"),
        ({"model.embed_tokens.weight_scale": numbers("F32", 9)}, "packed", "model.embed_tokens.weight_scale"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_understood_stops_the_plan(tmp_path: Path, change: Any, code: str, where: str) -> None:  # noqa: ANN401
    """A table that would be left behind, or of which no mean can be taken, is an error that names it."""
    made = plan(tmp_path, llama() | change)
    assert (code, where) in errors(made)
    with pytest.raises(ResizeError, match=code):
        guardtok.apply_dir(made, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_tensors_can_be_claimed_and_waived(tmp_path: Path) -> None:
    """Whoever knows better says so by name; a name that is not there is an error."""
    tensors = llama() | {"odd.table": numbers("F32", ROWS, 2), "odd.chance": numbers("F32", 4, ROWS)}
    made = plan(tmp_path, tensors, claims={"odd.table": "embedding"}, waive=["odd.chance"])
    assert made.errors == ()
    assert {each.name for each in made.edits} == {EMBEDDING, HEAD, "odd.table"}
    assert errors(guardtok.plan_resize_dir(tmp_path / "old", extension(ROWS), waive=["x"])) >= {("no-such-tensor", "x")}


@pytest.mark.parametrize(
    ("settings", "fact"),
    [
        ({"init": "random"}, "no such way"),
        ({"claims": {"x": "tail"}}, "no such role"),
        ({"multiple_of": 0}, "multiple_of"),
        ({"kl_budget": 0.0}, "kl_budget"),
        ({"kl_budget": float("nan")}, "kl_budget"),
    ],
)
def test_an_argument_that_makes_no_sense_is_a_typed_error(tmp_path: Path, settings: Any, fact: str) -> None:  # noqa: ANN401
    """Before anything is read."""
    with pytest.raises(ResizeError, match=fact):
        guardtok.plan_resize_dir(tmp_path, extension(ROWS), **settings)


def token(**values: Any) -> NewToken:  # noqa: ANN401
    """Return a token of the extension that is right, with other values."""
    return dataclasses.replace(extension(ROWS).tokens[0], **values)


@pytest.mark.parametrize(
    ("tokens", "code"),
    [
        ((token(), token(form="other")), "id-twice"),
        ((token(id=ROWS + 5),), "id-out-of-range"),
        ((token(id=-1),), "id-out-of-range"),
        ((token(id=3),), "placement-wrong"),
        ((token(pieces=(ROWS,)),), "pieces-unknown"),
        ((token(pieces=(-1,)),), "pieces-unknown"),
    ],
)
def test_an_extension_that_does_not_fit_stops_the_plan(tmp_path: Path, tokens: tuple[NewToken, ...], code: str) -> None:
    """Two tokens of one id, an id without a row, one of the base's own, and pieces that the model does not have."""
    asked = dataclasses.replace(extension(ROWS), tokens=tokens)
    assert code in {each.code for each in plan(tmp_path, asked=asked).errors}


def test_an_extension_with_fewer_rows_than_its_base_stops_the_plan(tmp_path: Path) -> None:
    """Nobody made it; and what it calls its base is shown without what a terminal obeys."""
    asked = dataclasses.replace(extension(ROWS), base="\x1b[31mbase", base_rows=ROWS + 9)
    made = plan(tmp_path, asked=asked)
    assert "rows-wrong" in {each.code for each in made.errors}
    assert "\x1b" not in str(made)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"vocab_size": ROWS}, {"vocab_size": 40}),
        ({"text_config": {"vocab_size": ROWS}}, {"text_config": {"vocab_size": 40}}),
        (
            {"vocab_size": ROWS, "text_config": {"vocab_size": ROWS}},
            {"vocab_size": 40, "text_config": {"vocab_size": 40}},
        ),
        ({"vocab_size": ROWS - 3, "embedding_size": ROWS}, {"vocab_size": ROWS + 1, "embedding_size": 40}),
        ({"padded_vocab_size": ROWS}, {"padded_vocab_size": 40}),
        (
            {"vocab_size": ROWS, "audio_config": {"vocab_size": 9}},
            {"vocab_size": 40, "audio_config": {"vocab_size": 9}},
        ),
    ],
    ids=str,
)
def test_every_size_of_the_vocabulary_grows(tmp_path: Path, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Under each name and on each level, and nothing else changes."""
    settings = {"tie_word_embeddings": False, "rope": float("inf"), "name": "\u00e9"}
    made = plan(tmp_path, files={"config.json": before | settings}, multiple_of=8)
    guardtok.apply_dir(made, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "config.json").read_text(encoding="utf-8")) == after | settings


def test_a_config_that_disagrees_stops_the_plan(tmp_path: Path) -> None:
    """It would be wrong afterwards too."""
    assert ("vocab-size-disagrees", "config.json") in errors(plan(tmp_path, files={"config.json": config(ROWS - 1)}))


def test_an_id_in_use_is_not_overwritten_in_silence(tmp_path: Path) -> None:
    """A special id whose row gets a new token is a warning; rows that go although an id needs them, an error."""
    files = {"config.json": config(), "generation_config.json": {"eos_token_id": [ROWS - 1]}}
    made = plan(tmp_path, files=files, asked=extension(ROWS - 1, base=ROWS - 1))
    assert "id-in-use" in {each.code for each in made.findings}
    shrunk = guardtok.plan_resize_dir(tmp_path / "old", extension(base=ROWS - 4), shrink=True)
    assert ("special-id-out-of-range", "generation_config.json: eos_token_id") in errors(shrunk)


@pytest.mark.parametrize("rows", [(), (0,), (ROWS, ROWS + 1)])
def test_without_one_embedding_there_is_no_plan(tmp_path: Path, rows: tuple[int, ...]) -> None:
    """None, one without rows, or two that disagree where the config does not choose."""
    tensors = {f"{turn}.wte.weight": numbers("F32", each, WIDTH) for turn, each in enumerate(rows)}
    with pytest.raises(ResizeError, match="embedding"):
        plan(tmp_path, tensors | {"x": numbers("F32", 2)}, {"config.json": config(9)})


def test_other_weights_and_folders_are_left_out_by_name(tmp_path: Path) -> None:
    """What would be stale is not in the new directory, and the plan says so."""
    old = write(tmp_path / "old", llama())
    for name in ("pytorch_model.bin", "optimizer.pt", ".hidden", "other.safetensors"):
        (old / name).write_bytes(b"x")
    (old / "original").mkdir()
    made = guardtok.plan_resize_dir(old, extension(ROWS))
    left = {each.where for each in made.findings if each.code == "left-out"}
    assert left == {"pytorch_model.bin", "optimizer.pt", ".hidden", "other.safetensors", "original"}
    guardtok.apply_dir(made, tmp_path / "new")
    assert {each.name for each in (tmp_path / "new").iterdir()} == {"model.safetensors", "config.json"}


def test_a_missing_tokenizer_is_said(tmp_path: Path) -> None:
    """The new tokens have to get into a tokenizer somehow, so the plan says what to run."""
    found = {each.code: each for each in plan(tmp_path).findings}
    assert "guardtok extend" in found["tokenizer-unchanged"].mend


def test_a_token_of_another_tokenizer_stops_the_plan(tmp_path: Path) -> None:
    """The id has another token here, or the form another id."""
    files = {"config.json": config(), "tokenizer.json": tokenizer(words(ROWS), {"<|new_37|>": ROWS + 1, "x": ROWS})}
    assert {code for code, _ in errors(plan(tmp_path, files=files))} == {"id-taken"}
    asked = extension(5, placement=Placement.GAP)
    assert {code for code, _ in errors(guardtok.plan_resize_dir(tmp_path / "old", asked))} == {"id-taken"}
