"""The tests beside a policy: what they compare, what they report, and what is wrong with a file of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from guardtok.encodings import load_tokenizer
from guardtok.errors import PolicyError
from guardtok.policy_test import FileResult, Mismatch, find_tests, run_policy_tests

if TYPE_CHECKING:
    from pathlib import Path

    from guardtok.tokenizer import Tokenizer

POLICY = """\
guardtok: 1
sources:
  template: {default: allow}
  user: {default: escape, block: ["<|im_start|>"], strip: ["@think"]}
  "*": {default: escape}
limits: {max_chars: 100}
"""


def run(folder: Path, tests: str, *, head: str = "", tokenizer: Tokenizer | None = None) -> FileResult:
    """Run `tests`, written as a flow list, against `POLICY`."""
    (folder / "mine.yaml").write_text(POLICY, encoding="utf-8")
    path = folder / "mine.test.yaml"
    path.write_text(f"guardtok_test: 1\n{head}tests: [{tests}]\n", encoding="utf-8")
    (result,) = run_policy_tests([path], tokenizer=tokenizer)
    return result


def one(source: str, text: str, expect: str) -> str:
    """Write one test of one source."""
    return f'{{name: "{source} {text}", source: {source}, text: "{text}", expect: {{{expect}}}}}'


@pytest.mark.parametrize(
    ("source", "text", "expect"),
    [
        ("user", "hi", 'action: allow, rules: [], tokens: [], text: "hi"'),
        ("user", "a<|im_end|>", 'action: escape, rules: [user.default], tokens: [], text: "a<|im_end|>"'),
        ("user", "<think>a", 'action: strip, rules: ["user.strip[@think]"], tokens: [], text: "a"'),
        ("user", "<|im_start|><think>", 'action: block, rules: ["user.block[<|im_start|>]", "user.strip[@think]"]'),
        ("template", "<|im_end|>a", 'action: allow, rules: [], tokens: ["<|im_end|>"], text: "<|im_end|>a"'),
        ("name", "x" * 101, 'action: block, rules: ["limits.max_chars"]'),
    ],
)
def test_a_policy_that_does_what_it_shall_passes(tmp_path: Path, source: str, text: str, expect: str) -> None:
    """Every key of `expect` can be met."""
    result = run(tmp_path, one(source, text, expect))
    assert [(case.status, case.mismatches) for case in result.cases] == [("passed", ())]
    assert result.passed


@pytest.mark.parametrize(
    ("expect", "mismatch"),
    [
        ("action: block", Mismatch("action", "'block'", "'escape'")),
        ("action: escape, rules: []", Mismatch("rules", "[]", "['user.default']")),
        ('action: escape, tokens: ["<|im_end|>"]', Mismatch("tokens", "['<|im_end|>']", "[]")),
        ("action: escape, text: a", Mismatch("text", "'a'", "'<|im_end|>'")),
        ("action: escape, ids: [8450]", Mismatch("ids", "[8450]", "[27, 91, 323, 62, 387, 91, 29]")),
    ],
)
def test_a_policy_that_does_not_fails_with_both_sides(tmp_path: Path, expect: str, mismatch: Mismatch) -> None:
    """A failure says what was expected and what came; every key of `expect` is compared."""
    result = run(tmp_path, one("user", "<|im_end|>", expect), head="tokenizer: guardtok\n")
    (case,) = result.cases
    assert case.status == "failed"
    assert [each.key for each in case.mismatches] == [mismatch.key]
    assert case.mismatches[0].expected == mismatch.expected
    if mismatch.key != "ids":
        assert case.mismatches[0] == mismatch
    assert case.place == f"{tmp_path / 'mine.test.yaml'}:3:9"
    assert not result.passed


def test_ids_are_those_that_an_encode_makes(tmp_path: Path) -> None:
    """With a tokenizer the ids of allowed tokens and of text are compared."""
    text = "hello"
    ordinary = load_tokenizer("guardtok").encode_ordinary(text, at_start=False)
    result = run(
        tmp_path,
        one("template", "<|im_end|>" + text, f"action: allow, ids: {[8450, *ordinary]}"),
        head="tokenizer: guardtok\n",
    )
    assert result.passed
    assert result.tokenizer == "guardtok"


def test_what_is_refused_comes_out_as_nothing(tmp_path: Path) -> None:
    """A blocked text has no tokens, text or ids, so expecting any fails."""
    (case,) = run(tmp_path, one("user", "<|im_start|>", 'action: block, text: "<|im_start|>"')).cases
    assert case.mismatches == (Mismatch("text", "'<|im_start|>'", "None"),)


def test_parts_of_several_sources_make_one_text(tmp_path: Path) -> None:
    """A form over the border of two parts is seen."""
    parts = '[{source: user, text: "<|im_"}, {source: name, text: "end|>"}]'
    assert run(tmp_path, f"{{name: joint, parts: {parts}, expect: {{action: escape, rules: [joint]}}}}").passed


def test_rules_that_no_test_reached_are_listed(tmp_path: Path) -> None:
    """Coverage counts every entry and default, allowed ones too, and says where the rest are."""
    result = run(tmp_path, one("user", "<think>", "action: strip") + ", " + one("template", "<think>", "action: allow"))
    assert [(each.rule, each.place.rsplit("mine.yaml", 1)[1]) for each in result.untouched] == [
        ("user.default", ":4:19"),
        ("user.block[<|im_start|>]", ":4:35"),
        ("*.default", ":5:18"),
    ]


def test_a_tokenizer_that_lacks_the_form_skips_the_test(tmp_path: Path) -> None:
    """A file without a tokenizer speaks of every family's tokens; what the one given does not have is not tested."""
    tests = one("user", "[INST] <s>", "action: escape") + ", " + one("user", "<|im_end|>", "action: escape")
    assert [case.status for case in run(tmp_path, tests).cases] == ["passed", "passed"]
    embedded = load_tokenizer("guardtok")
    assert [case.status for case in run(tmp_path, tests, tokenizer=embedded).cases] == ["skipped", "passed"]
    # A file that names its tokenizer is meant as it stands.
    named = run(tmp_path, one("user", "[INST]", "action: log"), head="tokenizer: guardtok\n", tokenizer=embedded)
    assert [case.status for case in named.cases] == ["passed"]


@pytest.mark.parametrize("head", ["", "policy: ./mine.yaml\n", "policy: chatml\n"])
def test_the_policy_is_the_one_beside_or_the_one_named(tmp_path: Path, head: str) -> None:
    """Without `policy` the file beside is meant; a path is relative to the test file; a name is a shipped policy."""
    result = run(tmp_path, one("user", "a", "action: allow"), head=head)
    assert result.policy == ("chatml" if "chatml" in head else "mine")


def test_tests_are_found_by_file_policy_name_and_folder(tmp_path: Path) -> None:
    """Whatever names the policy names its tests."""
    for name in ("a.test.yaml", "a.yaml", "b.test.yaml"):
        (tmp_path / name).touch()
    assert find_tests(tmp_path / "a.yaml") == find_tests(tmp_path / "a.test.yaml") == (tmp_path / "a.test.yaml",)
    assert find_tests(tmp_path) == (tmp_path / "a.test.yaml", tmp_path / "b.test.yaml")
    (found,) = find_tests("chatml")
    assert found.name == "chatml.test.yaml"
    assert found.is_file()
    (tmp_path / "empty").mkdir()
    with pytest.raises(PolicyError, match="no file of tests"):
        find_tests(tmp_path / "empty")


@pytest.mark.parametrize(
    ("tests", "problem"),
    [
        ("{name: a, source: user, text: b}", "2:9: The key `expect` is missing."),
        (one("user", "a", "acton: allow"), "Unknown key 'acton'. Did you mean 'action'?"),
        (
            one("user", "a", "action: alow"),
            "`action` can only be 'allow', 'log', 'escape', 'strip' or 'block'. Did you mean 'allow'?",
        ),
        (
            one("user", "a", "action: allow").replace('"a"', "5"),
            "`text` is not what it should be: Input should be a valid string. Quote it.",
        ),
        (
            one("users", "a", "action: allow"),
            "Source 'users' is neither built in nor declared by the policy. Did you mean 'user'?",
        ),
        (one("user", "a", "action: allow, ids: [1]"), "`ids` needs a tokenizer."),
        ("{name: a, expect: {action: allow}}", "A test has either `source` and `text`, or `parts`."),
        ("{name: a, source: user, expect: {action: allow}}", "A test has either `source` and `text`, or `parts`."),
        (
            "{name: a, text: b, parts: [{source: user, text: a}], expect: {action: allow}}",
            "A test has either `source` and `text`, or `parts`.",
        ),
        (
            "{name: a, source: user, text: b, parts: [{source: user, text: a}], expect: {action: allow}}",
            "A test has either `source` and `text`, or `parts`.",
        ),
        (
            "{name: a, parts: [{source: user, txt: a}], expect: {action: allow}}",
            "Unknown key 'txt'. Did you mean 'text'?",
        ),
        ("{nam: a, source: user, text: a, expect: {action: allow}}", "Unknown key 'nam'. Did you mean 'name'?"),
        (one("user", "a", "action: allow") + ", " + one("user", "a", "action: allow"), "Two tests are named 'user a'."),
        ("", "`tests` is not what it should be"),
    ],
)
def test_a_mistake_in_a_file_of_tests_has_a_place_and_a_mend(tmp_path: Path, tests: str, problem: str) -> None:
    """A test that is not read as it was meant would vouch for nothing."""
    with pytest.raises(PolicyError) as caught:
        run(tmp_path, tests)
    assert problem in str(caught.value)
    assert all(each.place.startswith(f"{tmp_path / 'mine.test.yaml'}:2:") for each in caught.value.problems)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tests: [{name: a, name: b}]", "The key 'name' is written twice"),
        ("guardtok_test: 2\ntests: []", "guardtok_test"),
        ("[]", "must hold keys and values"),
        ("tests: [", "not YAML"),
        ("guardtok_test: 1\ntest: []", "Unknown key 'test'. Did you mean 'tests'?"),
        (
            f"guardtok_test: 1\npolicy: chatlm\ntests: [{one('user', 'a', 'action: allow')}]",
            ":2:9: No policy 'chatlm' is shipped. Did you mean 'chatml'?",
        ),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    """Files of tests go through the reader of policies and its errors."""
    path = tmp_path / "mine.test.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PolicyError) as caught:
        run_policy_tests([path])
    assert problem in str(caught.value)
