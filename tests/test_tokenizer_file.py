"""New tokens in a checkpoint's tokenizer files: written where the library then gives them their ids, or not at all."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
from checkpoints import ROWS, config, extension, llama, tokenizer, words, write
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

import guardtok
from guardtok.extension import Extension, Placement
from guardtok.resize.tokenizer_file import counted_ids

if TYPE_CHECKING:
    from pathlib import Path

BASE = {"<|end|>": ROWS - 2, "<|reserved_0|>": ROWS - 1}


def beside(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return the files of a checkpoint with a tokenizer."""
    return {
        "config.json": config(),
        "tokenizer.json": tokenizer(words(ROWS - 2), BASE),
        "tokenizer_config.json": {
            "eos_token": "<|end|>",
            "additional_special_tokens": ["<|reserved_0|>"],
            "added_tokens_decoder": {str(token_id): {"content": form} for form, token_id in BASE.items()},
        },
        "added_tokens.json": BASE,
        "special_tokens_map.json": {"additional_special_tokens": [{"content": "<|reserved_0|>"}]},
    } | more


def reserved() -> Extension:
    """Return an extension that takes the reserved slot."""
    made = extension(ROWS - 1, placement=Placement.RESERVED)
    return dataclasses.replace(made, tokens=(dataclasses.replace(made.tokens[0], replaces="<|reserved_0|>"),))


def resized(folder: Path, files: dict[str, Any], asked: Extension) -> dict[str, Any]:
    """Return the JSON files of a resized checkpoint."""
    old = write(folder / "old", llama(), files)
    guardtok.apply_dir(guardtok.plan_resize_dir(old, asked), folder / "new")
    return {path.name: json.loads(path.read_text()) for path in (folder / "new").glob("*.json")}


@given(
    st.lists(st.sampled_from([f"w{number}" for number in range(4)] + list("abcdef")), unique=True), st.integers(1, 6)
)
def test_ids_are_counted_as_the_library_counts(forms: list[str], size: int) -> None:
    """For any order of new and known forms, the library gives the ids that are foretold."""
    vocabulary = words(size)
    foretold = counted_ids(vocabulary, forms)
    read = Tokenizer.from_str(json.dumps(tokenizer(vocabulary, dict(zip(forms, foretold, strict=True)))))
    assert [read.token_to_id(form) for form in forms] == foretold


def test_appended_tokens_get_into_every_file(tmp_path: Path) -> None:
    """The library reads them from the new directory with the ids of the extension, and so do the files beside."""
    files = resized(tmp_path, beside(), extension(ROWS, ROWS + 1))
    read = Tokenizer.from_file(str(tmp_path / "new" / "tokenizer.json"))
    assert read.encode("w1<|new_38|>w2<|new_37|>").ids[1::2] == [ROWS + 1, ROWS]
    assert read.token_to_id("<|end|>") == ROWS - 2
    assert files["added_tokens.json"] == BASE | {"<|new_37|>": ROWS, "<|new_38|>": ROWS + 1}
    assert files["tokenizer_config.json"]["added_tokens_decoder"]["37"]["content"] == "<|new_37|>"


def test_a_reserved_slot_gets_its_new_form_everywhere(tmp_path: Path) -> None:
    """Its old form is gone, and its id is the new form's."""
    files = resized(tmp_path, beside(), reserved())
    read = Tokenizer.from_file(str(tmp_path / "new" / "tokenizer.json"))
    assert read.token_to_id("<|new_36|>") == ROWS - 1
    assert "<|reserved_0|>" not in json.dumps(files)
    assert files["tokenizer_config.json"]["additional_special_tokens"] == ["<|new_36|>"]


def test_what_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    """A tokenizer that was extended before stays byte for byte."""
    known = tokenizer(words(ROWS - 2), BASE | {"<|new_37|>": ROWS})
    old = write(tmp_path / "old", llama(), beside(**{"tokenizer.json": known}))
    plan = guardtok.plan_resize_dir(old, extension(ROWS))
    assert "tokenizer.json" in plan.copied
    assert not any(each.code == "tokenizer-unchanged" for each in plan.findings)


@pytest.mark.parametrize(
    ("files", "asked"),
    [
        (beside(), extension(ROWS + 3)),
        (beside(**{"tokenizer.json": tokenizer(words(ROWS - 2) | {"<|reserved_0|>": ROWS - 1}, BASE)}), reserved()),
        (beside(**{"chat_template.jinja": "{{ '<|reserved_0|>' }}"}), reserved()),
        (beside(**{"tokenizer_config.json": {"pad_token": "<|reserved_0|>"}}), reserved()),
        (beside(**{"tokenizer_config.json": {"chat_template": "a<|reserved_0|>b"}}), reserved()),
        (beside(**{"special_tokens_map.json": {"pad_token": {"content": "<|reserved_0|>"}}}), reserved()),
        (
            beside(
                **{
                    "tokenizer.json": tokenizer(
                        words(ROWS - 2), BASE, post_processor={"special_tokens": {"<|reserved_0|>": {}}}
                    )
                }
            ),
            reserved(),
        ),
    ],
    ids=["a hole", "in the model", "template", "setting", "old template", "special", "post-processor"],
)
def test_what_cannot_be_written_right_is_left_alone(tmp_path: Path, files: dict[str, Any], asked: Extension) -> None:
    """No file of the tokenizer changes, the plan says why and what to run, and the tensors are resized all the same."""
    old = write(tmp_path / "old", llama(), files)
    plan = guardtok.plan_resize_dir(old, asked)
    found = {each.code: each for each in plan.findings}
    assert "guardtok extend" in found["tokenizer-unchanged"].mend
    assert plan.errors == ()
    guardtok.apply_dir(plan, tmp_path / "new")
    for name in files:
        if name != "config.json":
            assert (tmp_path / "new" / name).read_bytes() == (old / name).read_bytes()
