"""The pytest plugin: what it finds, how it says so, and that nobody notices it who does not use it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from guardtok.encodings import load_tokenizer
from guardtok.errors import ConformanceError
from guardtok.fuzz import assert_no_forgery

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "pytest.md").read_text(encoding="utf-8")

POLICY = "guardtok: 1\nname: chat\nforeign: ignore\nsources:\n  template: {default: allow}\n  '*': {default: escape}\n"
TESTS = """\
guardtok_test: 1
tests:
  - name: a user who writes a token writes text
    source: user
    text: "<|im_end|>"
    expect: {action: escape}
  - name: the template writes tokens
    source: template
    text: "<|im_end|>"
    expect: {action: block, tokens: []}
"""
# Where guardtok is installed from these sources the plugin is loaded already.
PLUGIN = [] if any(each.name == "guardtok" for each in entry_points(group="pytest11")) else ["-p", "pytest_guardtok"]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> object:
    """Return a function that runs pytest with these arguments in a folder of its own."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run_pytest(*arguments: str) -> pytest.RunResult:
        # Without the plugins that this project's environment happens to have.
        quiet = ["-p", "no:schemathesis", "-p", "no:cacheprovider"]
        return pytester.runpytest_inprocess(*PLUGIN, *quiet, *arguments)

    return run_pytest


def test_the_example_of_the_page_does_what_it_says(pytester: pytest.Pytester, run: object) -> None:
    """The guarded prompt passes, the one of strings fails, and the report is the one on the page."""
    (example,) = re.findall(r"```python\n# test_prompt.py\n(.*?)```", PAGE, re.DOTALL)
    (report,) = re.findall(r"```text\n(E .*?)```", PAGE, re.DOTALL)
    pytester.makepyfile(test_prompt=example)
    result = run("--tb=short")  # type: ignore[operator]
    result.assert_outcomes(passed=1, failed=1)
    written = [line.partition("…")[0].rstrip() for line in report.splitlines()]
    result.stdout.fnmatch_lines([f"{re.sub(r'[][]', '?', line)}*" for line in written])
    assert "<|endoftext|>" not in result.stdout.str()


def test_the_fixtures_are_what_was_configured(pytester: pytest.Pytester, run: object) -> None:
    """The command line counts more than the ini file, and that more than the defaults."""
    pytester.makepyfile(
        """
        def test_it(guardtok_policy, guardtok_tokenizer):
            print(f"{guardtok_policy.name} {guardtok_tokenizer.name}!")
        """
    )
    run("-s").stdout.fnmatch_lines(["*strict guardtok!*"])  # type: ignore[operator]
    pytester.makeini("[pytest]\nguardtok_policy = corpus\n")
    run("-s").stdout.fnmatch_lines(["*corpus guardtok!*"])  # type: ignore[operator]
    run("-s", "--guardtok-policy", "monitor").stdout.fnmatch_lines(["*monitor guardtok!*"])  # type: ignore[operator]


@pytest.mark.parametrize("asked", [(), ("--guardtok-tests",), ("chat.test.yaml",), ("ini",)], ids=str)
def test_tests_of_policies_are_collected_where_they_are_asked_for(
    pytester: pytest.Pytester, run: object, asked: tuple[str, ...]
) -> None:
    """By an option, the ini file or the file's own name, and not else; other programs' files never are."""
    (pytester.path / "chat.yaml").write_text(POLICY, "utf-8")
    (pytester.path / "chat.test.yaml").write_text(TESTS, "utf-8")
    (pytester.path / "other.test.yaml").write_text("version: 3\n", "utf-8")
    if asked == ("ini",):
        pytester.makeini("[pytest]\nguardtok_tests = true\n")
    result = run(*(word for word in asked if word != "ini"))  # type: ignore[operator]
    result.assert_outcomes(passed=1 if asked else 0, failed=1 if asked else 0)
    if asked:
        result.stdout.fnmatch_lines(
            [
                "*chat.test.yaml:7:5: the template writes tokens",
                "  action",
                "    expected  'block'",
                "    got       'allow'",
                "  tokens",
                "    expected  ??",
            ]
        )
        assert "Traceback" not in result.stdout.str()


def test_a_broken_file_of_tests_is_one_readable_error(pytester: pytest.Pytester, run: object) -> None:
    """It says where, and how to mend it; so does a policy that is not there."""
    (pytester.path / "chat.test.yaml").write_text(TESTS.replace("source", "sauce", 1), "utf-8")
    result = run("--guardtok-tests")  # type: ignore[operator]
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*Unknown key 'sauce'. Did you mean 'source'?*"])
    (pytester.path / "chat.test.yaml").write_text(TESTS, "utf-8")
    result = run("--guardtok-tests")  # type: ignore[operator]
    result.assert_outcomes(failed=2)
    assert "Traceback" not in result.stdout.str()


def test_cases_that_are_about_other_tokens_are_skipped(pytester: pytest.Pytester, run: object) -> None:
    """A tokenizer that is configured has not every family's tokens."""
    (pytester.path / "chat.yaml").write_text(POLICY, "utf-8")
    (pytester.path / "chat.test.yaml").write_text(TESTS.replace("<|im_end|>", "<start_of_turn>"), "utf-8")
    run("--guardtok-tests", "--guardtok-tokenizer", "guardtok").assert_outcomes(skipped=2)  # type: ignore[operator]


def test_a_run_that_asks_for_nothing_imports_nothing(tmp_path: Path) -> None:
    """The plugin is loaded in every project where guardtok is installed, and must cost nothing there."""
    (tmp_path / "test_it.py").write_text(
        "import sys\n\ndef test_it():\n    assert 'guardtok' not in sys.modules\n",
        "utf-8",
    )
    (tmp_path / "chat.test.yaml").write_text(TESTS, "utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV"))}
    environment |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_guardtok", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_the_distribution_names_the_plugin() -> None:
    """Both in the entry point and among the packages of the wheel."""
    written = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points.pytest11]\nguardtok = "pytest_guardtok"' in written
    assert 'packages = ["guardtok", "pytest_guardtok"]' in written


def test_what_swallows_a_token_is_found() -> None:
    """Text before which a program's own token disappears is told from text that makes one."""
    ids = sorted(load_tokenizer("guardtok").reserved_ids)[-2:]

    def swallow(text: str) -> list[int]:
        return ids[:1] if "\u200b" in text else ids

    with pytest.raises(ConformanceError, match="erase: A text hides or swallows a control token"):
        assert_no_forgery(swallow, "guardtok", attacks=["A5"])


def test_a_refusal_is_no_failure_and_another_error_is() -> None:
    """A ValueError refuses a text; a KeyError is a mistake in the program."""

    def refuse(text: str) -> str:
        if text != "x":
            raise ValueError
        return text

    assert_no_forgery(refuse, "guardtok", cases=40)

    def fail(text: str) -> list[int]:
        return {"x": [1]}[text]

    with pytest.raises(ConformanceError, match="crash: the prompt raises KeyError"):
        assert_no_forgery(fail, "guardtok", cases=40)


def test_what_is_no_prompt_is_a_type_error() -> None:
    """Before anything is tried."""
    with pytest.raises(TypeError):
        assert_no_forgery(lambda _: None, "guardtok")
