"""`guardtok tokens` and the lock file that it writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from command_line import guardtok

from guardtok import Guard
from guardtok.encodings import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from guardtok.tokenizer import Tokenizer


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Return a policy with two `auto` tokens."""
    return write(tmp_path / "mine.yaml", '"<|a|>": auto, "<|b|>": auto')


def write(file: Path, custom: str) -> Path:
    """Write a policy with these custom tokens."""
    file.write_text(f"guardtok: 1\nextends: chatml\ncustom_tokens: {{{custom}}}\n", encoding="utf-8")
    return file


def pins(policy: Path) -> dict[str, int]:
    """Return the ids in the lock file beside a policy."""
    return json.loads(policy.with_name("mine.lock.json").read_text(encoding="utf-8"))["ids"]


def test_every_control_token_is_listed() -> None:
    """The table has a row for each control token, with its id, its form as it is, and its role."""
    ran = guardtok("tokens", "guardtok")
    tokenizer = load_tokenizer("guardtok")
    assert ran.status == 0
    assert tokenizer.fingerprint in ran.out
    for token in tokenizer.control_tokens:
        row = next(line for line in ran.out.splitlines() if line.split()[:1] == [str(token.id)])
        assert row.split()[1:4] == [token.form, str(token.role), "control"]


def test_cl100k_base_is_listed(vocab: Callable[[str], Tokenizer]) -> None:
    """`guardtok tokens cl100k_base` names its five special tokens."""
    vocab("cl100k_base")
    listed = guardtok("tokens", "cl100k_base", "--format", "json").objects[0]["tokens"]
    assert {row["form"]: row["id"] for row in listed} == {
        "<|endoftext|>": 100257,
        "<|fim_prefix|>": 100258,
        "<|fim_middle|>": 100259,
        "<|fim_suffix|>": 100260,
        "<|endofprompt|>": 100276,
    }


def test_tokens_of_a_policy_are_custom(policy: Path) -> None:
    """With `--policy` the tokens that it adds are listed too, and told apart."""
    record = guardtok("tokens", "guardtok", "--policy", policy, "--format", "json").objects[0]
    custom = {row["form"]: row["id"] for row in record["tokens"] if row["class"] == "custom"}
    assert custom == {"<|a|>": 8460, "<|b|>": 8461}
    assert record["policy"]["name"] == "mine"
    assert record["tokenizer"]["fingerprint"] == load_tokenizer("guardtok").fingerprint


def test_a_lock_is_read_with_its_policy(policy: Path) -> None:
    """The file has the tokenizer's own fingerprint, and the guard takes the ids from it."""
    assert guardtok("tokens", "guardtok", "--policy", policy, "--lock").status == 0
    lock = json.loads(policy.with_name("mine.lock.json").read_text(encoding="utf-8"))
    assert lock == {
        "guardtok_lock": 1,
        "tokenizer": "guardtok",
        "fingerprint": load_tokenizer("guardtok").fingerprint,
        "ids": {"<|a|>": 8460, "<|b|>": 8461},
    }
    guard = Guard.load(policy, "guardtok", sinks=())
    assert guard.encode("<|b|>", source="template").ids == [8461]


def test_a_new_token_leaves_the_pinned_ids_alone(policy: Path) -> None:
    """A token that is put in front of others gets the next free id; without a lock it would have moved them."""
    guardtok("tokens", "guardtok", "--policy", policy, "--lock")
    write(policy, '"<|new|>": auto, "<|a|>": auto, "<|b|>": auto, "<|fixed|>": 8470')
    assert guardtok("tokens", "guardtok", "--policy", policy, "--lock").status == 0
    assert pins(policy) == {"<|new|>": 8462, "<|a|>": 8460, "<|b|>": 8461}


def test_a_pinned_id_does_not_go_unsaid(policy: Path) -> None:
    """A lock whose token is gone is left as it is, until `--update` is said."""
    guardtok("tokens", "guardtok", "--policy", policy, "--lock")
    write(policy, '"<|b|>": auto')
    ran = guardtok("tokens", "guardtok", "--policy", policy, "--lock")
    assert ran.status == 2
    assert "--update" in ran.err
    assert pins(policy) == {"<|a|>": 8460, "<|b|>": 8461}
    assert guardtok("tokens", "guardtok", "--policy", policy, "--lock", "--update").status == 0
    assert pins(policy) == {"<|b|>": 8460}


def test_a_lock_of_another_tokenizer_is_kept(policy: Path) -> None:
    """A lock that was written for another fingerprint is only replaced with `--update`."""
    guardtok("tokens", "guardtok", "--policy", policy, "--lock")
    file = policy.with_name("mine.lock.json")
    other = file.read_text(encoding="utf-8").replace(load_tokenizer("guardtok").fingerprint, "sha256:" + "0" * 64)
    file.write_text(other, encoding="utf-8")
    assert guardtok("tokens", "guardtok", "--policy", policy, "--lock").status == 2
    assert file.read_text(encoding="utf-8") == other
    assert guardtok("tokens", "guardtok", "--policy", policy, "--lock", "--update").status == 0
    assert file.read_text(encoding="utf-8") != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lock"], "--policy"),
        (["--update", "--policy", "chatml"], "--lock"),
        (["--lock", "--policy", "chatml"], "shipped"),
        (["--lock", "--policy", "plain.yaml"], "nothing to pin"),
    ],
)
def test_what_cannot_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    """A lock needs a policy file of one's own with an `auto` token."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "plain.yaml", '"<|a|>": 9000')
    ran = guardtok("tokens", "guardtok", *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err


def test_a_lock_that_cannot_be_written_is_status_2(policy: Path) -> None:
    """What the system says against writing is the message."""
    target = policy.with_name("mine.lock.json")
    target.symlink_to(policy.with_name("absent") / "mine.lock.json")
    ran = guardtok("tokens", "guardtok", "--policy", policy, "--lock")
    assert (ran.status, ran.out) == (2, "")
    assert "cannot be written" in ran.err
