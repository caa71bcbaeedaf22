"""Directories made by an enemy: whatever is in their files, plan, doctor and apply end in a result or a typed error."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from checkpoints import ROWS, config, extension, llama, names, snapshot, tokenizer, words, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import guardtok
from guardtok.errors import GuardtokError
from guardtok.resize.doctor import diagnose

if TYPE_CHECKING:
    from pathlib import Path

FILES: dict[str, Any] = {
    "config.json": config(
        eos_token_id=3, text_config={"vocab_size": ROWS, "tie_word_embeddings": False}, quantization_config={"bits": 4}
    ),
    "generation_config.json": {"eos_token_id": [3], "pad_token_id": 4, "suppress_tokens": [1]},
    "tokenizer.json": tokenizer(
        words(ROWS - 1), {"<|end|>": ROWS - 1}, normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}]}
    ),
    "tokenizer_config.json": {
        "eos_token": {"content": "<|end|>"},
        "additional_special_tokens": ["<|end|>"],
        "added_tokens_decoder": {"36": {"content": "<|end|>"}},
        "chat_template": "{{ messages }}",
    },
    "added_tokens.json": {"<|end|>": ROWS - 1},
    "special_tokens_map.json": {"eos_token": "<|end|>", "additional_special_tokens": [{"content": "<|end|>"}]},
}
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.sampled_from([-1, 0, 1, 3, ROWS - 1, ROWS, 2**63, 2**70, 0.5, -2.0]),
        st.sampled_from(["", "F32", "<|end|>", "../x", "model.safetensors", "lm_head.weight", "\ud800", "\x1b[31m"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["vocab_size", "content", "id", "type", "\ud800", "36"]), inner, max_size=3),
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # noqa: ANN401 - JSON
    """Return the path of every node of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a JSON value with another node at a path."""
    if not path:
        return new
    made = dict(value) if isinstance(value, dict) else list(value)
    made[path[0]] = replaced(value[path[0]], path[1:], new)
    return made


def survive(old: Path, new: Path) -> None:
    """Do all that can be done with a directory; nothing but a typed error may come of it, and it is not changed."""
    before = snapshot(old)
    with contextlib.suppress(GuardtokError):
        diagnose(old)
    try:
        plan = guardtok.plan_resize_dir(old, extension(ROWS, ROWS + 1))
        str(plan)
        json.dumps(plan.record())
        guardtok.apply_dir(plan, new)
        assert guardtok.verify_dir(old, new, plan).errors == ()
    except GuardtokError:
        assert not new.exists()
    assert snapshot(old) == before
    assert set(names(old.parent)) <= {"old", "new"}


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a hostile checkpoint may be, on a disk that is never waited for."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return tmp_path / "old"


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_any_value_in_any_place_of_a_json_file(hostile: Path, data: st.DataObject) -> None:
    """One or two values of a config, an index or a tokenizer's file are something else."""
    for folder in (hostile, hostile.with_name("new")):
        shutil.rmtree(folder, ignore_errors=True)
    write(hostile, llama(), FILES, shards=3)
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from([*FILES, "model.safetensors.index.json"]))
        value = json.loads((hostile / name).read_text())
        path = data.draw(st.sampled_from(places(value)))
        (hostile / name).write_text(json.dumps(replaced(value, path, data.draw(JSON))))
    survive(hostile, hostile.with_name("new"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("depth", [90, 900, 100_000])
def test_any_depth(hostile: Path, name: str, depth: int) -> None:
    """A file of nothing but brackets exhausts nobody's stack."""
    write(hostile, llama(), FILES)
    (hostile / name).write_text('{"x":' * depth + "1" + "}" * depth)
    survive(hostile, hostile.with_name("new"))


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
def test_any_bytes_in_any_file(hostile: Path, data: st.DataObject) -> None:
    """Bytes of a file are changed, cut out or put in."""
    for folder in (hostile, hostile.with_name("new")):
        shutil.rmtree(folder, ignore_errors=True)
    write(hostile, llama(), FILES, shards=data.draw(st.sampled_from([1, 3])))
    place = hostile / data.draw(st.sampled_from(names(hostile)))
    content = bytearray(place.read_bytes())
    at = data.draw(st.integers(0, min(len(content) - 1, 400)))
    cut = data.draw(st.integers(0, 4))
    content[at : at + cut] = data.draw(st.one_of(st.binary(max_size=4), st.sampled_from([b'"', b"9" * 30, b"{", b"["])))
    place.write_bytes(content)
    survive(hostile, hostile.with_name("new"))
