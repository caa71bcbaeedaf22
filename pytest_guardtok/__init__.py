"""guardtok's pytest plugin: fixtures that say whether a prompt can be forged, and `*.test.yaml` as tests.

It is a package beside guardtok, for pytest imports it wherever guardtok is installed: it imports nothing but pytest
until a test asks for a fixture, and collects nothing unless it is told to.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from guardtok import Policy
    from guardtok.policy_test import CaseResult, FileResult
    from guardtok.tokenizer import Tokenizer

SUFFIX = ".test.yaml"
KEY = b"guardtok_test"
"""What a file of tests has near its top; other programs have files of the same name."""

_HEAD = 4_096

POLICY, TOKENIZER = "strict", "guardtok"
"""The defaults: a shipped policy, and the tokenizer that guardtok brings along."""


class NoForgery(Protocol):
    """What the fixture `assert_no_forgery` is."""

    def __call__(
        self,
        build: Callable[[str], Any],
        *,
        cases: int = 300,
        seed: int = 0,
        attacks: Iterable[str] = (),
    ) -> None:
        """Raise an AssertionError if a text makes a control token; see `guardtok.fuzz.assert_no_forgery`."""
        ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, each as an entry of the ini file and on the command line, where it counts more."""
    group = parser.getgroup("guardtok")
    group.addoption("--guardtok-policy", metavar="P", help=f"policy of `guardtok_policy`: {POLICY} by default")
    group.addoption("--guardtok-tokenizer", metavar="T", help="tokenizer of `guardtok_tokenizer`: a name or a path")
    group.addoption("--guardtok-tests", action="store_true", help=f"collect *{SUFFIX}, the tests of policies")
    parser.addini("guardtok_policy", "policy of the fixture `guardtok_policy`: a shipped policy's name, or a path")
    parser.addini("guardtok_tokenizer", "tokenizer of the fixture `guardtok_tokenizer`: a name or a path")
    parser.addini("guardtok_tests", f"collect *{SUFFIX}, the tests of policies", type="bool", default=False)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> PolicyTests | None:
    """Collect a file of tests, if that was asked for, or if it is named on the command line."""
    if not file_path.name.endswith(SUFFIX):
        return None
    config = parent.config
    asked = config.getoption("guardtok_tests") or config.getini("guardtok_tests")
    if not (asked or parent.session.isinitpath(file_path)) or not _is_ours(file_path):
        return None
    tests: PolicyTests = PolicyTests.from_parent(parent, path=file_path)
    return tests


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return KEY in file.read(_HEAD)


@pytest.fixture(scope="session")
def guardtok_policy(pytestconfig: pytest.Config) -> Policy:
    """The policy of `--guardtok-policy`, or of the ini file; `strict` by default."""
    from guardtok import Policy

    return Policy.load(_option(pytestconfig, "guardtok_policy") or POLICY)


@pytest.fixture(scope="session")
def guardtok_tokenizer(pytestconfig: pytest.Config) -> Tokenizer:
    """The tokenizer of `--guardtok-tokenizer`, or of the ini file; by default the one that guardtok brings along."""
    from guardtok.encodings import load_tokenizer

    return load_tokenizer(_option(pytestconfig, "guardtok_tokenizer") or TOKENIZER)


@pytest.fixture
def assert_no_forgery(guardtok_tokenizer: Tokenizer) -> NoForgery:
    """A function that takes one that makes a prompt of a text, and fails if a text makes a control token in it."""
    from guardtok.fuzz import assert_no_forgery as check

    return partial(check, tokenizer=guardtok_tokenizer)


def _option(config: pytest.Config, name: str) -> str:
    return str(config.getoption(name) or config.getini(name) or "")


class PolicyTests(pytest.File):
    """A file of tests: its cases are items, and the file is run when the first of them is."""

    _result: FileResult | None = None

    def collect(self) -> Iterator[PolicyTest]:
        """Yield an item for each case.

        Raises:
            CollectError: The file is not what it should be; the error says where and how to mend it.
        """
        from guardtok.errors import PolicyError
        from guardtok.policy_test import list_cases

        try:
            cases = list_cases(self.path)
        except PolicyError as error:
            raise self.CollectError(str(error)) from None
        for index, (name, line) in enumerate(cases):
            item: PolicyTest = PolicyTest.from_parent(self, name=name)
            item.index, item.line = index, line
            yield item

    def result(self, index: int) -> CaseResult:
        """Return what became of a case."""
        if self._result is None:
            from guardtok.encodings import load_tokenizer
            from guardtok.policy_test import run_policy_tests

            name = _option(self.config, "guardtok_tokenizer")
            (self._result,) = run_policy_tests([self.path], tokenizer=load_tokenizer(name) if name else None)
        return self._result.cases[index]


class PolicyTest(pytest.Item):
    """One case of a file of tests."""

    parent: PolicyTests
    index: int
    line: int

    def runtest(self) -> None:
        """Fail if an expectation does not hold.

        Raises:
            MismatchError: One does not.
        """
        result = self.parent.result(self.index)
        if result.status == "skipped":
            pytest.skip("the text holds a token that this tokenizer does not have")
        if result.status == "failed":
            raise MismatchError(result)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:  # noqa: ANN401 - as pytest has them
        """Say what was expected and what was got, or what is wrong with the policy, without a traceback."""
        from guardtok.errors import GuardtokError

        if isinstance(excinfo.value, (MismatchError, GuardtokError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return the file, the line and the name."""
        return self.path, self.line - 1, self.name


class MismatchError(Exception):
    """A policy does not make of a text what its test says."""

    def __init__(self, result: CaseResult) -> None:
        lines = [f"{result.place}: {result.name}"]
        for each in result.mismatches:
            lines += [f"  {each.key}", f"    expected  {each.expected}", f"    got       {each.got}"]
        super().__init__("\n".join(lines))
