"""`guardtok resize`: plan, apply and verify a checkpoint on disk."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
from checkpoints import EMBEDDING, HEAD, ROWS, extension, llama, names, numbers, snapshot, write
from command_line import guardtok

from guardtok.manifest import _digest

if TYPE_CHECKING:
    from pathlib import Path


def manifest(folder: Path, **changes: Any) -> Path:  # noqa: ANN401 - JSON
    """Write an extension as a manifest, with other values and the digest that belongs to them."""
    file = folder / "tokens.extension.json"
    made = extension(ROWS, ROWS + 1)
    tokens = [
        {key: value for key, value in dataclasses.asdict(each).items() if value is not None} for each in made.tokens
    ]
    tree: dict[str, Any] = {
        "guardtok_extension": 1,
        "name": made.name,
        "base": {
            "tokenizer": made.base,
            "name": made.base,
            "fingerprint": f"sha256:{'0' * 64}",
            "rows": made.base_rows,
        },
        "tokens": tokens,
        "rows": made.rows,
        "fingerprint": f"sha256:{'1' * 64}",
        "report": [],
        **changes,
    }
    file.write_text(json.dumps({**tree, "sha256": _digest(tree)}), encoding="utf-8")
    return file


def test_the_three_verbs_fit_together(tmp_path: Path) -> None:
    """What is planned is made, and what was made is as planned."""
    old, new = write(tmp_path / "old", llama(), shards=3), tmp_path / "new"
    asked = ["--extension", manifest(tmp_path), "--multiple-of", "8"]
    planned = guardtok("resize", "plan", old, *asked)
    assert planned.status == 0
    assert f"rows     {ROWS} -> 40" in planned.out
    assert "token    38 <|new_38|> (grow)" in planned.out
    applied = guardtok("resize", "apply", old, *asked, "--out", new)
    assert applied.status == 0
    assert planned.out in applied.out
    assert f"kept     {HEAD} sha256:" in applied.out
    assert "proven   no prediction moves by more than" in applied.out
    assert applied.err == ""
    verified = guardtok("resize", "verify", old, new, *asked)
    assert (verified.status, verified.out.splitlines()[-1]) == (0, "as planned, bit for bit")
    other = guardtok("resize", "verify", old, new, "--rows", "40")
    assert (other.status, other.out.splitlines()[-1]) == (0, "as planned, bit for bit")
    assert guardtok("resize", "verify", old, new, "--rows", "48").status == 1


def test_json_has_the_same_facts(tmp_path: Path) -> None:
    """One object for each verb, with the plan's fingerprint in plan and receipt."""
    old, new = write(tmp_path / "old", llama()), tmp_path / "new"
    asked = ["--rows", "40", "--init", "mean", "--format", "json"]
    plan = guardtok("resize", "plan", old, *asked).objects[0]
    receipt = guardtok("resize", "apply", old, *asked, "--out", new).objects[0]
    check = guardtok("resize", "verify", old, new, *asked).objects[0]
    assert plan["rows"] == receipt["rows"] == [ROWS, 40]
    assert plan["fingerprint"] == receipt["plan"]
    assert {name for name, _ in receipt["old_rows_sha256"]} == {EMBEDDING, HEAD}
    assert check["old_rows_sha256"] == receipt["old_rows_sha256"]


def test_what_stops_a_plan_is_status_1_and_stops_apply(tmp_path: Path) -> None:
    """`plan` shows it with its mend, `apply` makes nothing, and the mend works."""
    old = write(tmp_path / "old", llama() | {"odd": numbers("F32", ROWS)})
    planned = guardtok("resize", "plan", old, "--rows", "40")
    assert planned.status == 1
    assert "error unclaimed at odd" in planned.out
    assert "--claim NAME=head" in planned.out
    applied = guardtok("resize", "apply", old, "--rows", "40", "--out", tmp_path / "new")
    assert (applied.status, applied.out) == (2, "")
    assert "unclaimed" in applied.err
    assert not (tmp_path / "new").exists()
    assert guardtok("resize", "plan", old, "--rows", "40", "--claim", "odd=bias").status == 0
    assert guardtok("resize", "plan", old, "--rows", "40", "--waive", "odd").status == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--rows N"),
        (["--rows", "40", "--extension", "x"], "--rows N"),
        (["--rows", "0"], "0 is not in the range"),
        (["--extension", "absent.json"], "manifest"),
        (["--rows", "40", "--claim", "head"], "NAME=ROLE"),
        (["--rows", "40", "--claim", "x=tail"], "no such role"),
        (["--rows", "40", "--init", "random"], "role-aware"),
    ],
    ids=str,
)
def test_a_mistake_in_use_is_status_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    """With one message, and nothing on standard output."""
    old = write(tmp_path / "old", llama())
    ran = guardtok("resize", "plan", old, *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": 1},
        {"tokens": [1]},
        {"tokens": [{}]},
        {"rows": None},
        {"tokens": [{"form": "x", "id": 1, "placement": "y", "pieces": []}]},
    ],
    ids=str,
)
def test_a_manifest_that_is_none_is_a_mistake(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Whatever is wrong with it: one message, no traceback."""
    old = write(tmp_path / "old", llama())
    ran = guardtok("resize", "plan", old, "--extension", manifest(tmp_path, **changes))
    assert (ran.status, ran.out) == (2, "")
    assert "manifest" in ran.err


def test_an_existing_target_is_a_mistake_and_stays(tmp_path: Path) -> None:
    """The message says what to do."""
    old = write(tmp_path / "old", llama())
    before = snapshot(tmp_path)
    ran = guardtok("resize", "apply", old, "--rows", "40", "--out", old)
    assert (ran.status, ran.out) == (2, "")
    assert "another name" in ran.err
    assert snapshot(tmp_path) == before


def test_a_terminal_sees_a_bar_and_a_pipe_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar goes to standard error, and only where somebody looks."""
    old = write(tmp_path / "old", llama())
    assert guardtok("resize", "apply", old, "--rows", "40", "--out", tmp_path / "a").err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    ran = guardtok("resize", "apply", old, "--rows", "40", "--out", tmp_path / "b")
    assert "resizing" in ran.err
    assert "resizing" not in ran.out
    assert names(tmp_path) == ["a", "b", "old"]
