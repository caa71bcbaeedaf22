"""`guardtok policy lint`, `test` and `explain`: whether a policy says what its author means."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from guardtok.cli.options import Format, format_option, policy_option, source_option, tokenizer_option
from guardtok.cli.streams import shorten, write_json
from guardtok.cli.trouble import FOUND, MistakeError
from guardtok.errors import PolicyError
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from guardtok.explanation import Explanation
    from guardtok.lint import LintFinding
    from guardtok.policy_test import FileResult
    from guardtok.tokenizer import Tokenizer


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@tokenizer_option(default=None)
@format_option
def test(*, paths: tuple[str, ...], tokenizer: str | None, output: Format) -> None:
    """Run the tests of policies.

    Each PATH is a file of tests, a policy (the tests beside it are meant) or a folder. Without one, every `*.test.yaml`
    below the current folder is run. The status is 1 if a test fails.

    \b
    Examples:
      guardtok policy test
      guardtok policy test ./mine.yaml --tokenizer cl100k_im
    """  # noqa: D301 - click looks for this character
    from guardtok.policy_test import run_policy_tests

    chosen = list(paths) or list(_tests_below(Path()))
    if not chosen:
        raise MistakeError("There is no *.test.yaml below the current folder. Name a file, a policy or a folder.")
    results = run_policy_tests(chosen, tokenizer=_load(tokenizer))
    for result in results:
        if output is Format.JSON:
            write_json(dataclasses.asdict(result) | {"passed": result.passed})
        else:
            for line in _report(result):
                click.echo(visible(line))
    if not all(result.passed for result in results):
        click.get_current_context().exit(FOUND)


def _tests_below(folder: Path) -> Iterator[str]:
    """Yield the files of tests below a folder; hidden folders hold environments and caches, not policies."""
    from guardtok.policy_test import SUFFIX

    for path in sorted(folder.rglob(f"*{SUFFIX}")):
        if not any(part.startswith(".") for part in path.parts):
            yield str(path)


def _report(result: FileResult) -> Iterator[str]:
    """Yield what became of a file of tests, line by line."""
    counts = [
        (sum(case.status == status for case in result.cases), status) for status in ("passed", "failed", "skipped")
    ]
    summary = ", ".join(f"{count} {status}" for count, status in counts if count)
    yield f"{result.file}: {summary} (policy {result.policy}, tokenizer {result.tokenizer or 'none'})"
    for case in result.cases:
        if case.status == "failed":
            yield f"  FAILED {case.name} ({case.place})"
        for each in case.mismatches:
            yield f"    {each.key}: expected {each.expected}, got {each.got}"
    for rule in result.untouched:
        yield f"  no test reaches {rule.rule} ({rule.place})"


def _load(tokenizer: str | None) -> Tokenizer | None:
    from guardtok.encodings import load_tokenizer

    return None if tokenizer is None else load_tokenizer(tokenizer)


@click.command()
@click.argument("policies", metavar="NAME|PATH...", nargs=-1, required=True)
@tokenizer_option(default=None)
@format_option
def lint(*, policies: tuple[str, ...], tokenizer: str | None, output: Format) -> None:
    """Find what is wrong or doubtful in policies.

    With a tokenizer, also what does not fit it. A policy that cannot be loaded is a finding too. The status is 1 if
    there is an `error` or a `warning`; `info` is worth knowing and often meant.

    \b
    Examples:
      guardtok policy lint ./mine.yaml
      guardtok policy lint ./mine.yaml --tokenizer cl100k_im --format json
    """  # noqa: D301 - click looks for this character
    from guardtok.lint import Severity

    bound = _load(tokenizer)
    bad = False
    for name in policies:
        findings = _findings(name, bound)
        bad = bad or any(each.severity is not Severity.INFO for each in findings)
        if output is Format.JSON:
            write_json({"policy": name, "findings": list(map(dataclasses.asdict, findings))})
            continue
        for line in map(str, findings) if findings else [f"{name}: nothing found"]:
            click.echo(visible(line))
    if bad:
        click.get_current_context().exit(FOUND)


def _findings(name: str, tokenizer: Tokenizer | None) -> Sequence[LintFinding]:
    """Return what is wrong or doubtful in one policy, the problems of one that cannot be loaded included.

    Raises:
        PolicyError: There is no such policy at all.
    """
    from guardtok.lint import LintFinding, Severity
    from guardtok.lint import lint as find
    from guardtok.policy.files import locate, read_text
    from guardtok.policy.load import load_policy

    read_text(locate(name))
    try:
        return find(load_policy(name), tokenizer)
    except PolicyError as error:
        return [LintFinding("load", Severity.ERROR, each.place, each.fact, each.mend) for each in error.problems]


@click.command()
@click.argument("form", metavar="FORM")
@policy_option
@source_option
@tokenizer_option(default=None)
@format_option
def explain(*, form: str, policy: str, source: str, tokenizer: str | None, output: Format) -> None:
    """Say what a policy does with FORM when a source writes it, and which line decides that.

    \b
    Examples:
      guardtok policy explain --source user '<|im_start|>'
      guardtok policy explain --policy ./mine.yaml --source tool_result --tokenizer qwen '<tool_call>'
    """  # noqa: D301 - click looks for this character
    from guardtok.explanation import explain as reason
    from guardtok.policy.load import load_policy

    explanation = reason(load_policy(policy), source, form, _load(tokenizer))
    if output is Format.JSON:
        write_json(dataclasses.asdict(explanation))
        return
    for line in _reasons(explanation):
        click.echo(visible(line))


def _reasons(explanation: Explanation) -> Iterator[str]:
    """Yield what happens to a form and why, line by line."""
    action = "ordinary text, not looked for" if explanation.action is None else str(explanation.action)
    mode = " (monitor: logged, not enforced)" if explanation.mode.value == "monitor" else ""
    yield f"{explanation.form} from {explanation.source}: {action}{mode}"
    facts = [f"kind {explanation.kind.value}"] if explanation.kind is not None else []
    facts += [f"role {explanation.role}"] if explanation.role is not None else []
    facts += [f"id {explanation.token_id} in {explanation.tokenizer}"] if explanation.token_id is not None else []
    facts += [f"families {shorten(explanation.families)}"] if explanation.families else []
    yield f"  {', '.join(facts)}"
    decided = explanation.decided_by
    if decided is None and explanation.rule is not None:
        yield f"  decided by {explanation.rule}"
    for candidate in explanation.candidates:
        verb = "decided by" if candidate is decided else "overruled "
        yield f"  {verb} {candidate.rule} ({candidate.why}), {candidate.place}"
        if candidate.line is not None:
            yield f"      {candidate.line}"
