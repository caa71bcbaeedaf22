"""Runs the tests of policies: each text through the policy as an encode takes it, without logging."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from guardtok.decide import decide
from guardtok.dialects import catalogue
from guardtok.encode import encode
from guardtok.encodings import load_tokenizer
from guardtok.errors import GuardtokError, LimitError, PolicyError, Problem, SurrogateError
from guardtok.intake import take_in
from guardtok.layout import lay_out
from guardtok.policy.files import locate, read_text
from guardtok.policy.load import load_policy
from guardtok.policy.resolve import sources_of
from guardtok.policy_test.schema import CaseModel, ExpectModel, PartModel, check_cases, check_file
from guardtok.records import Report
from guardtok.ruleset import FormKind, bind
from guardtok.scan import scan
from guardtok.text import Text
from guardtok.violation import Action

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    from guardtok.intake import Intake
    from guardtok.policy.model import Mark, Policy
    from guardtok.ruleset import Ruleset
    from guardtok.tokenizer import Tokenizer
    from guardtok.violation import Match

SUFFIX = ".test.yaml"
"""What the name of a test file ends in."""

_KEY = b"policy tests log nothing"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An expectation that did not hold.

    Attributes:
        key: Which: `action`, `rules`, `tokens`, `text`, `ids`, or `encode` where encoding failed.
        expected: What the test says, as `repr`.
        got: What happened, as `repr`.
    """

    key: str
    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What became of one test.

    Attributes:
        name: Its name.
        place: `file:line:column`.
        status: `passed`, `failed`, or `skipped`: the text holds a form that the tokenizer given has no id for, and the
            file was written without a tokenizer.
        mismatches: Every expectation that did not hold.
    """

    name: str
    place: str
    status: Literal["passed", "failed", "skipped"]
    mismatches: tuple[Mismatch, ...]


@dataclass(frozen=True, slots=True)
class Untouched:
    """A rule of the policy that no test reached.

    Attributes:
        rule: As violations name it: `SOURCE.ACTION[SELECTOR]` or `SOURCE.default`.
        place: `file:line:column`.
    """

    rule: str
    place: str


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one file of tests.

    Attributes:
        file: The file.
        policy: Name of the policy.
        tokenizer: Name of the tokenizer, or None.
        cases: Its tests, in order.
        untouched: Rules that no test reached, inherited ones included, in the order of the policy.
    """

    file: str
    policy: str
    tokenizer: str | None
    cases: tuple[CaseResult, ...]
    untouched: tuple[Untouched, ...]

    @property
    def passed(self) -> bool:
        """Whether no test failed."""
        return all(case.status != "failed" for case in self.cases)


def run_policy_tests(
    paths: Iterable[str | os.PathLike[str]], *, tokenizer: Tokenizer | None = None
) -> tuple[FileResult, ...]:
    """Run the tests of policies.

    Args:
        paths: Each a test file, a policy (the tests beside it are meant), or a folder (all tests in it).
        tokenizer: Bound for the files that name none. Tests in them that are about tokens of others are skipped.

    Raises:
        PolicyError: A file of tests, or its policy, cannot be read or used; holds every problem found.
        UnknownTokenizerError: A tokenizer that a file names is nowhere to be found.
    """
    return tuple(_run(file, tokenizer) for path in paths for file in find_tests(path))


def find_tests(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Return the test files that are meant by a test file, a policy's name or path, or a folder.

    Raises:
        PolicyError: No policy of that name is shipped, or there are no tests in the folder.
    """
    if Path(path).is_dir():
        found = tuple(sorted(Path(path).glob(f"*{SUFFIX}")))
        if not found:
            fact = f"There is no file of tests in {str(path)[:200]!r}."
            raise PolicyError([Problem(f"{path}:1:1", fact, f"Their names end in `{SUFFIX}`.")])
        return found
    if str(path).endswith(SUFFIX):
        return (Path(path),)
    policy = locate(path)
    return (policy.with_name(policy.stem + SUFFIX),)


def list_cases(path: Path) -> tuple[tuple[str, int], ...]:
    """Return name and line of every test in a file, without running any.

    Raises:
        PolicyError: The file cannot be read, or is no file of tests.
    """
    from guardtok.policy.marked import mark_at, read_yaml

    tree, problems = read_yaml(read_text(path), str(path))
    file, root = check_file(tree, problems)
    return tuple((case.name, mark_at(root, ("tests", index)).line) for index, case in enumerate(file.tests))


@dataclass(frozen=True, slots=True)
class _Observed:
    action: str
    rules: list[str]
    tokens: list[str] | None = None
    text: str | None = None
    ids: list[int] | None = None
    failure: str = ""
    touched: frozenset[Mark] = frozenset()


def _run(path: Path, given: Tokenizer | None) -> FileResult:
    from guardtok.policy.marked import mark_at, read_yaml

    tree, problems = read_yaml(read_text(path), str(path))
    file, root = check_file(tree, problems)
    beside = path.with_name(path.name.removesuffix(SUFFIX) + ".yaml")
    place = str(mark_at(root, ("policy",)))
    policy = load_policy(beside if file.policy is None else locate(file.policy, folder=path.parent, place=place))
    problems = list(check_cases(file, root, sources_of(policy)))
    if problems:
        raise PolicyError(problems)
    tokenizer = given if file.tokenizer is None else load_tokenizer(file.tokenizer)
    ruleset = bind(policy, tokenizer)
    # A file that names no tokenizer speaks of tokens as if every family's were bound. What this one lacks is skipped.
    borrowed = given is not None and file.tokenizer is None
    known = {form.text for form in ruleset.forms if form.kind is not FormKind.FOREIGN}
    lacking = catalogue().keys() - known if borrowed else frozenset()
    touched: set[Mark] = set()
    cases = []
    for index, case in enumerate(file.tests):
        mark = str(mark_at(root, ("tests", index)))
        written = "".join(part.text for part in _parts(case))
        if any(form in written for form in lacking):
            cases.append(CaseResult(case.name, mark, "skipped", ()))
            continue
        observed = _observe(case, ruleset)
        touched |= observed.touched
        mismatches = tuple(_compare(case.expect, observed))
        cases.append(CaseResult(case.name, mark, "failed" if mismatches else "passed", mismatches))
    untouched = tuple(Untouched(rule, str(mark)) for rule, mark in _rules(policy) if mark not in touched)
    return FileResult(str(path), policy.name, tokenizer.name if tokenizer else None, tuple(cases), untouched)


def _observe(case: CaseModel, ruleset: Ruleset) -> _Observed:
    policy = ruleset.policy
    text = Text("", source="template").join(Text(part.text, source=part.source) for part in _parts(case))
    try:
        intake = take_in(text, None, known=ruleset.sources, limits=policy.limits, surrogates=policy.surrogates)
    except (LimitError, SurrogateError) as error:
        return _Observed(Action.BLOCK.value, [error.rule])
    matches = scan(intake, ruleset)
    decided = decide(matches, intake, ruleset)
    action = decided.action.value
    rules = list(dict.fromkeys(finding.rule for finding, _ in decided.groups))
    touched = frozenset(_marks(matches, intake, ruleset))
    if decided.refused is not None:
        return _Observed(action, rules, touched=touched)
    ids, failure = None, ""
    if ruleset.tokenizer is not None:
        try:
            ids = encode(Report(intake, decided, ruleset, _KEY, None)).ids
        except GuardtokError as error:
            failure = f"{type(error).__name__}: {error}"
    tokens = [ruleset.forms[form].text for form, _, _ in decided.allowed]
    out = "".join(piece.text for piece in lay_out(intake, decided, ruleset))
    return _Observed(action, rules, tokens, out, ids, failure, touched)


def _parts(case: CaseModel) -> list[PartModel]:
    if case.source is None or case.text is None:
        return case.parts
    return [PartModel(source=case.source, text=case.text)]


def _marks(matches: list[Match], intake: Intake, ruleset: Ruleset) -> Iterator[Mark]:
    """Yield the place of each rule that decided a match for one of the sources that wrote it."""
    for form, start, end in matches:
        for run in intake.runs[intake.run_at(start) : intake.run_at(end - 1) + 1]:
            mark = ruleset.table[run.source][form].mark
            if mark is not None:
                yield mark


def _rules(policy: Policy) -> Iterator[tuple[str, Mark]]:
    for name, rules in policy.sources.items():
        if rules.default is not None:
            yield f"{name}.default", rules.default.mark
        for entry in rules.entries:
            yield f"{name}.{entry.action}[{entry.selector}]", entry.mark


def _compare(expect: ExpectModel, observed: _Observed) -> Iterator[Mismatch]:
    if observed.failure:
        yield Mismatch("encode", "ids", observed.failure)
    for key, expected in expect.model_dump(exclude_none=True).items():
        got = getattr(observed, key)
        same = sorted(expected) == sorted(got) if key == "rules" else expected == got
        if not same and not (key == "ids" and observed.failure):
            yield Mismatch(key, repr(expected), repr(got))
