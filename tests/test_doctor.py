"""The doctor: each accident that is known from issue trackers, built on disk, is found by its code."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from checkpoints import EMBEDDING, HEAD, ROWS, WIDTH, config, llama, numbers, shard, tokenizer, words, write
from command_line import guardtok

from guardtok.errors import CheckpointError
from guardtok.finding import Severity
from guardtok.resize.checkpoint import INDEX
from guardtok.resize.doctor import diagnose

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from checkpoints import Tensor

ADDED = {"<|end|>": ROWS - 2, "<|pad|>": ROWS - 1}


def files() -> dict[str, Any]:
    """Return the files beside the tensors of a checkpoint in which all agrees."""
    return {
        "config.json": config(eos_token_id=ROWS - 2, pad_token_id=ROWS - 1),
        "generation_config.json": {"eos_token_id": [ROWS - 2], "pad_token_id": ROWS - 1},
        "tokenizer.json": tokenizer(words(ROWS - 2), ADDED),
        "tokenizer_config.json": {
            "eos_token": "<|end|>",
            "pad_token": {"content": "<|pad|>"},
            "added_tokens_decoder": {str(token_id): {"content": form} for form, token_id in ADDED.items()},
        },
    }


def set_in(name: str, **values: Any) -> Callable[..., None]:  # noqa: ANN401 - JSON
    """Return an accident: other values in a file."""
    return lambda _tensors, beside: beside[name].update(values)


def stored(name: str, tensor: Tensor) -> Callable[..., None]:
    """Return an accident: a tensor is stored, or another in its place."""
    return lambda tensors, _: tensors.update({name: tensor})


def tied(tensors: dict[str, Tensor], beside: dict[str, Any], *, same: bool) -> None:
    """Store a head beside the embedding that it is tied to."""
    beside["config.json"]["tie_word_embeddings"] = True
    if same:
        tensors[HEAD] = tensors[EMBEDDING]


def zeros(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
    """Leave the row of an added token as it was never trained."""
    dtype, shape, raw = tensors[EMBEDDING]
    tensors[EMBEDDING] = dtype, shape, raw[: -4 * WIDTH] + b"\0" * (4 * WIDTH)


def added(**more: Any) -> Callable[..., None]:  # noqa: ANN401 - JSON
    """Return an accident: one more added token."""
    entry = {"id": ROWS - 1, "content": "<|more|>", "special": True, "normalized": False} | more
    return lambda _, beside: beside["tokenizer.json"]["added_tokens"].append(entry)


def normalised(_: dict[str, Tensor], beside: dict[str, Any]) -> None:
    """Add two tokens that NFKC makes one, as NeMo-Retriever #2501 had."""
    beside["tokenizer.json"]["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}
    beside["tokenizer.json"]["model"]["vocab"] = words(ROWS - 4)
    beside["tokenizer.json"]["added_tokens"] += [
        {"id": ROWS - 4, "content": "\ufb01x", "normalized": True},
        {"id": ROWS - 3, "content": "fix", "normalized": True},
    ]


W, E, N = Severity.WARNING, Severity.ERROR, Severity.NOTE
# What happened, the code that finds it, how bad it is, where it was seen.
ACCIDENTS: dict[str, tuple[Callable[..., Any], str, Severity]] = {
    "a head that was trained apart is tied again (transformers #45127, peft #2777)": (
        lambda tensors, beside: tied(tensors, beside, same=False),
        "false-tie",
        E,
    ),
    "the head is written twice (mergekit #385)": (
        lambda tensors, beside: tied(tensors, beside, same=True),
        "duplicate-head",
        W,
    ),
    "an untied head is lost (transformers #35141)": (lambda tensors, _: tensors.pop(HEAD), "head-missing", E),
    "the head stays small (transformers #45276)": (stored(HEAD, numbers("F32", ROWS - 2, WIDTH)), "rows-disagree", E),
    "the bias stays small": (stored("lm_head.bias", numbers("F32", ROWS - 2)), "rows-disagree", E),
    "a bias appears (the notebook)": (
        lambda tensors, beside: (
            tensors.update({"lm_head.bias": numbers("F32", ROWS)}),
            beside["config.json"].update(model_type="gpt2"),
        ),
        "bias-appeared",
        E,
    ),
    "fewer rows than tokens (unsloth-zoo #923)": (added(id=ROWS), "rows-too-few", E),
    "a second table (transformers #45324)": (stored("model.per_layer.x", numbers("F32", ROWS, 2)), "unclaimed", N),
    "a shard of ZeRO-3 (transformers #26112)": (
        lambda tensors, beside: (
            tensors.update({EMBEDDING: numbers("F32", 0, WIDTH), HEAD: numbers("F32", 0, WIDTH)}),
            beside["config.json"].update(vocab_size=0),
        ),
        "shape-zero",
        E,
    ),
    "the config has the padded size wrong (transformers #25729)": (
        set_in("config.json", vocab_size=ROWS + 27),
        "vocab-size-disagrees",
        E,
    ),
    "the config has no size": (lambda _, beside: beside["config.json"].pop("vocab_size"), "vocab-size-disagrees", E),
    "an id beyond the rows (skeletoken #118)": (
        set_in("generation_config.json", eos_token_id=[ROWS - 2, ROWS]),
        "special-id-out-of-range",
        E,
    ),
    "an id below 0": (set_in("config.json", pad_token_id=-5), "special-id-out-of-range", E),
    "the end of a turn is erased (transformers #48592)": (
        lambda _, beside: (
            beside["config.json"].update(eos_token_id=None),
            beside["generation_config.json"].update(eos_token_id=None),
        ),
        "special-id-none",
        W,
    ),
    "the end is another token": (set_in("config.json", eos_token_id=3), "special-id-differs", W),
    "the end is no token": (
        lambda _, beside: (
            beside["tokenizer.json"]["model"]["vocab"].pop("w7"),
            beside["config.json"].update(eos_token_id=7),
        ),
        "special-id-unknown",
        W,
    ),
    "two configs disagree": (set_in("generation_config.json", pad_token_id=2), "special-ids-disagree", W),
    "two tokens have one id (tiktoken #457)": (added(), "id-twice", E),
    "a token of the model and an added one have one id": (added(id=3), "id-twice", E),
    "two tokens of the model have one id": (
        lambda _, beside: beside["tokenizer.json"]["model"]["vocab"].update(w3=4),
        "id-twice",
        E,
    ),
    "a token has two ids": (added(content="w3"), "token-twice", E),
    "normalised tokens collide (NeMo-Retriever #2501)": (normalised, "normalised-alike", W),
    "a special token takes white space (tokenizers #917)": (added(id=ROWS - 1, lstrip=True), "strip-flags", N),
    "the tokenizer's files disagree": (
        set_in("tokenizer_config.json", added_tokens_decoder={"3": {"content": "<|end|>"}}),
        "tokenizer-files-disagree",
        E,
    ),
    "a reserved row was never trained (llama3 #77)": (zeros, "dead-rows", W),
    "ids have holes": (
        lambda _, beside: beside["tokenizer.json"]["model"]["vocab"].pop("w9"),
        "ids-sparse",
        N,
    ),
    "rows to spare (Qwen #553)": (
        lambda _, beside: (
            beside["tokenizer.json"]["added_tokens"].pop(),
            beside["tokenizer_config.json"].pop("pad_token"),
            beside["tokenizer_config.json"]["added_tokens_decoder"].popitem(),
            beside["config.json"].pop("pad_token_id"),
            beside["generation_config.json"].pop("pad_token_id"),
        ),
        "padding-rows",
        N,
    ),
    "no config": (lambda _, beside: beside.pop("config.json"), "config-missing", W),
}


def codes(folder: Path) -> dict[str, Severity]:
    """Return what the doctor finds."""
    return {each.code: each.severity for each in diagnose(folder)}


def test_a_sound_checkpoint_has_no_findings(tmp_path: Path) -> None:
    """Nothing is found where all agrees, in one file or in shards, and the status is 0."""
    for shards in (1, 3):
        old = write(tmp_path / str(shards), llama(), files(), shards=shards)
        assert diagnose(old) == ()
        ran = guardtok("doctor", old)
        assert (ran.status, ran.out) == (0, "nothing found\n")


@pytest.mark.parametrize("name", ACCIDENTS)
def test_each_accident_is_found(tmp_path: Path, name: str) -> None:
    """An accident has its code and its severity; the command's status is 1, or 0 for a note."""
    accident, code, severity = ACCIDENTS[name]
    tensors, beside = llama(), files()
    accident(tensors, beside)
    old = write(tmp_path / "old", tensors, beside)
    assert codes(old).get(code) is severity
    worst = set(codes(old).values()) - {N}
    ran = guardtok("doctor", old, "--format", "json")
    assert ran.status == (1 if worst else 0)
    found = next(each for each in ran.objects[0]["findings"] if each["code"] == code)
    assert found["severity"] == severity.value
    assert found["fact"]


def text(name: str, value: str) -> Callable[[Path], Any]:
    """Return an accident: a file holds something else."""
    return lambda old: (old / name).write_text(value, encoding="utf-8")


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a missing shard": (lambda old: (old / "model-00002-of-00003.safetensors").unlink(), "shard-missing"),
    "a shard cut off": (lambda old: os.truncate(old / "model-00002-of-00003.safetensors", 30), "header-invalid"),
    "two models": (lambda old: (old / "model.safetensors").write_bytes(shard(llama())), "single-and-sharded"),
    "no index": (lambda old: (old / INDEX).unlink(), "index-missing"),
    "a stale size": (
        lambda old: (old / INDEX).write_text((old / INDEX).read_text().replace('total_size": ', 'total_size": 1')),
        "total-size-stale",
    ),
    "a config cut off": (text("config.json", "{"), "file-invalid"),
    "a config that is a list": (text("config.json", "[]"), "file-invalid"),
    "a tokenizer without a model": (text("tokenizer.json", '{"model": 1}'), "file-invalid"),
    "a tokenizer with ids that are none": (text("tokenizer.json", '{"model": {"vocab": {"a": "b"}}}'), "file-invalid"),
    "an added token that is none": (
        text("tokenizer.json", '{"model": {"vocab": {}}, "added_tokens": [1]}'),
        "file-invalid",
    ),
    "weights in another format": (text("pytorch_model.bin", "x"), "other-weights"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_findings(tmp_path: Path, name: str) -> None:
    """The doctor goes on where a plan would stop."""
    old = write(tmp_path / "old", llama(), files(), shards=3)
    change, code = BROKEN[name]
    change(old)
    assert code in codes(old)


def test_what_a_file_holds_cannot_act_on_a_terminal(tmp_path: Path) -> None:
    """Names out of files are shown with their control characters escaped."""
    tensors = llama() | {"\x1b[31m\u202e": numbers("F32", ROWS)}
    ran = guardtok("doctor", write(tmp_path / "old", tensors, files()))
    assert "\x1b" not in ran.out
    assert "\\x1b[31m\\u202e" in ran.out


@pytest.mark.parametrize("name", ["absent", "."])
def test_what_is_no_checkpoint_is_a_mistake(tmp_path: Path, name: str) -> None:
    """A directory that is not there, or in which nothing is part of a checkpoint, is status 2."""
    with pytest.raises(CheckpointError):
        diagnose(tmp_path / name)
    ran = guardtok("doctor", tmp_path / name)
    assert (ran.status, ran.out) == (2, "")


def test_nothing_is_changed(tmp_path: Path) -> None:
    """The doctor only reads."""
    old = write(tmp_path / "old", llama(), files())
    before = {path: path.stat().st_mtime_ns for path in old.iterdir()}
    diagnose(old)
    assert {path: path.stat().st_mtime_ns for path in old.iterdir()} == before
    assert json.loads((old / "config.json").read_text()) == files()["config.json"]
