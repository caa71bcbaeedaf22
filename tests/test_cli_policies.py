"""`guardtok policy`: list, show, schema, lint, test and explain."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from command_line import guardtok

from guardtok.policy.files import shipped_policies

SHIPPED = Path(__file__).parent.parent / "policies"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Return a policy that extends a shipped one and has a rule of its own."""
    file = tmp_path / "below" / "mine.yaml"
    file.parent.mkdir()
    lines = ["guardtok: 1", "extends: chatml", "sources:", '  user: {default: escape, block: ["<|im_start|>"]}']
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def tested(policy: Path) -> Path:
    """Return the same policy with a test that holds and one that does not."""
    lines = [
        "guardtok_test: 1",
        "tests:",
        '  - {name: blocked, source: user, text: "<|im_start|>", expect: {action: block}}',
        '  - {name: wrong, source: user, text: "</think>", expect: {action: block}}',
    ]
    policy.with_name("mine.test.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return policy


def test_every_shipped_policy_is_listed_with_whom_it_is_for() -> None:
    """The list has a row, and the JSON an object, for each shipped policy; each has a description."""
    listed = guardtok("policy", "list", "--format", "json").objects
    assert tuple(each["name"] for each in listed) == shipped_policies()
    assert all(each["description"] for each in listed)
    table = guardtok("policy", "list").out
    assert [name for name in shipped_policies() if f"\n{name} " not in table] == []


def test_show_prints_the_file_as_it_is() -> None:
    """In a pipe `policy show` gives the bytes of the file, so that it can be the beginning of another."""
    ran = guardtok("policy", "show", "chatml")
    assert ran.out.encode() == (SHIPPED / "chatml.yaml").read_bytes()


def test_show_merged_names_the_rule_and_its_place(policy: Path) -> None:
    """`--merged` shows for each source what decides, and `*` for the others."""
    ran = guardtok("policy", "show", "--merged", policy)
    rows = [line.split() for line in ran.out.splitlines()]
    assert ran.status == 0
    assert ["policy", "mine", "extends", "chatml"] in rows
    assert ["block", "1", "user.block[<|im_start|>]", "mine.yaml:4:35"] in rows
    assert any(row[:2] == ["*", "escape"] and row[3] == "*.default" for row in rows)


def test_the_schema_accepts_what_is_shipped_and_refuses_a_typo() -> None:
    """`policy schema` is a JSON Schema that holds for every shipped policy."""
    from ruamel.yaml import YAML

    schema = json.loads(guardtok("policy", "schema").out)
    for name in shipped_policies():
        jsonschema.validate(YAML(typ="safe").load(SHIPPED / f"{name}.yaml"), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"guardtok": 1, "surces": {}}, schema)


def test_explain_names_the_line_that_decides(policy: Path) -> None:
    """The answer has the action, the rule, its place and its line, and then what it overrules."""
    ran = guardtok(
        "policy", "explain", "--policy", policy, "--source", "user", "--tokenizer", "guardtok", "<|im_start|>"
    )
    lines = ran.out.splitlines()
    assert ran.status == 0
    assert lines[0] == "<|im_start|> from user: block"
    assert "id 8449 in guardtok" in lines[1]
    assert lines[2].startswith("  decided by user.block[<|im_start|>] (literal form), ")
    assert lines[2].endswith("mine.yaml:4:35")
    assert lines[3].strip() == 'user: {default: escape, block: ["<|im_start|>"]}'
    assert [line.split()[1] for line in lines if line.startswith("  overruled")] == ["user.default", "*.default"]


def test_explain_as_json(policy: Path) -> None:
    """The same as an object."""
    arguments = ["policy", "explain", "--policy", policy, "--format", "json", "</think>"]
    explanation = guardtok(*arguments).objects[0]
    assert (explanation["action"], explanation["rule"], explanation["kind"]) == ("escape", "user.default", "control")


def test_explain_of_an_unknown_form_suggests_one() -> None:
    """A form that nobody knows is status 2, with the near match; an escape sequence is not passed on."""
    ran = guardtok("policy", "explain", "<|im_strt|>")
    assert (ran.status, ran.out) == (2, "")
    assert "Did you mean '<|im_start|>'?" in ran.err
    assert "\x1b" not in guardtok("policy", "explain", "\x1b[31m").err


def test_lint_finds_nothing_in_a_sound_policy() -> None:
    """A policy without a doubt is status 0, and the line says so."""
    ran = guardtok("policy", "lint", "chatml")
    assert (ran.status, ran.out) == (0, "chatml: nothing found\n")


def test_lint_shows_place_and_code(policy: Path) -> None:
    """A finding begins with its place, as an editor reads it, and makes the status 1."""
    policy.write_text("guardtok: 1\nextends: chatml\nsources:\n  user: {default: allow}\n", encoding="utf-8")
    ran = guardtok("policy", "lint", policy)
    assert ran.status == 1
    assert f"{policy}:4:19: warning[allow-untrusted]: " in ran.out
    found = guardtok("policy", "lint", "--format", "json", policy).objects[0]["findings"]
    assert "allow-untrusted" in {each["code"] for each in found}
    assert len(found) == len(ran.out.splitlines())


def test_lint_of_a_policy_that_cannot_be_loaded_is_a_finding(policy: Path) -> None:
    """Every problem of the file is a line, and the next policy is still looked at."""
    policy.write_text("guardtok: 1\nsurces: {}\nsources: {user: {default: alow}}\n", encoding="utf-8")
    ran = guardtok("policy", "lint", policy, "chatml")
    assert ran.status == 1
    assert [line.count("error[load]") for line in ran.out.splitlines()] == [1, 1, 0]


def test_lint_passes_where_there_is_only_information(policy: Path) -> None:
    """What is worth knowing and often meant is shown, and is no failure."""
    policy.write_text('guardtok: 1\nextends: chatml\nsources:\n  user: {block: ["<|eot_id|>"]}\n', encoding="utf-8")
    ran = guardtok("policy", "lint", "--tokenizer", "guardtok", policy)
    assert "info[" in ran.out
    assert ran.status == 0


def test_lint_of_what_is_not_there_is_status_2(tmp_path: Path) -> None:
    """A name or a path that leads nowhere is a mistake in use and no finding."""
    assert guardtok("policy", "lint", "chatlm").status == 2
    assert guardtok("policy", "lint", tmp_path / "absent.yaml").status == 2
    assert guardtok("policy", "lint").status == 2


def test_a_failing_test_is_status_1(tested: Path) -> None:
    """Each failure is shown with its place, what was expected and what came, and counted."""
    ran = guardtok("policy", "test", tested)
    assert ran.status == 1
    assert "mine.test.yaml: 1 passed, 1 failed (policy mine, tokenizer none)" in ran.out
    assert "FAILED wrong" in ran.out
    assert "action: expected 'block', got 'escape'" in ran.out
    assert "no test reaches template.default" in ran.out


def test_tests_as_json(tested: Path) -> None:
    """An object for each file, with every case."""
    result = guardtok("policy", "test", "--format", "json", tested).objects[0]
    assert result["passed"] is False
    assert [case["status"] for case in result["cases"]] == ["passed", "failed"]


def test_tests_are_found_below_the_current_folder(tested: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path every `*.test.yaml` below counts, those in hidden folders not."""
    hidden = tested.parent / ".venv"
    hidden.mkdir()
    (hidden / "other.test.yaml").write_text("broken", encoding="utf-8")
    monkeypatch.chdir(tested.parent.parent)
    ran = guardtok("policy", "test")
    assert ran.status == 1
    assert ran.out.count(" passed") == 1


def test_no_tests_at_all_is_status_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that runs nothing does not pass."""
    monkeypatch.chdir(tmp_path)
    assert guardtok("policy", "test").status == 2


def test_the_shipped_policies_pass_their_tests() -> None:
    """A folder stands for all tests in it."""
    ran = guardtok("policy", "test", SHIPPED)
    assert ran.status == 0
    assert ran.out.count(" passed") == len(shipped_policies())
