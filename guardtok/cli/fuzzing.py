"""`guardtok fuzz`: can text make a reserved id?"""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import click
from typing_extensions import assert_never

from guardtok.cli.streams import console, write_json
from guardtok.cli.trouble import FOUND, MistakeError
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.fuzz import Report
    from guardtok.fuzz.campaign import Progress

_STEP = 0.1
"""Seconds between two looks of the progress line."""


class ReportFormat(str, Enum):
    """How a report is written."""

    TEXT = "text"
    HTML = "html"
    JSON = "json"
    SARIF = "sarif"
    JUNIT = "junit"


@click.command()
@click.argument("tokenizer", metavar="TOKENIZER")
@click.option("-p", "--policy", metavar="P", help="Put a guard with this policy before it, and judge that.")
@click.option("--against", metavar="OTHER", help="Another tokenizer, gigatoken or riptoken, that should give the same.")
@click.option("--time", "seconds", type=click.FloatRange(min=0), default=60, show_default=True, help="Seconds to run.")
@click.option("--cases", type=click.IntRange(min=0), metavar="N", help="Cases to try, in place of a time.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="The same seed gives the same cases.")
@click.option(
    "--report",
    "output",
    type=click.Choice([each.value for each in ReportFormat]),
    callback=lambda _context, _parameter, value: ReportFormat(value),
    default=ReportFormat.TEXT.value,
    show_default=True,
    help="How the report is written.",
)
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the report to this file.")
@click.option(
    "--corpus",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Try the vectors in DIR first, and write findings there.",
)
@click.option("--attack", "attacks", multiple=True, metavar="A1", help="Only this attack class; may be given again.")
@click.option("--oracle", "oracles", multiple=True, metavar="O", help="Only findings of this oracle; as --attack.")
@click.option("--case", metavar="JSON", help="Judge only this case, as a report gives it.")
def fuzz(  # noqa: PLR0913 - the options
    *,
    tokenizer: str,
    policy: str | None,
    against: str | None,
    seconds: float,
    cases: int | None,
    seed: int,
    output: ReportFormat,
    out: Path | None,
    corpus: Path | None,
    attacks: tuple[str, ...],
    oracles: tuple[str, ...],
    case: str | None,
) -> None:
    """Look for text that a tokenizer or a guard handles wrongly, above all text that makes a reserved id.

    TOKENIZER is a name, the path of a file (tiktoken, tokenizer.json, Tekken, SentencePiece), or module:attribute of
    anything with `encode` and `decode`. It runs in a process of its own. With --policy a guard is judged in its place.
    The status is 1 if something was found. Ctrl-C ends it with the report so far.

    \b
    Examples:
      guardtok fuzz cl100k_base
      guardtok fuzz ./tokenizer.json --time 300 --report html --out report.html
      guardtok fuzz guardtok --policy strict --cases 2000
    """  # noqa: D301 - click looks for this character
    from guardtok.fuzz import ATTACKS, Oracle
    from guardtok.fuzz import fuzz as look

    for given, known in ((attacks, list(ATTACKS)), (oracles, [each.value for each in Oracle])):
        if unknown := [word for word in given if word not in known]:
            raise click.UsageError(f"There is no {visible(unknown[0][:64])!r}; there are {', '.join(known)}.")
    if case is not None:
        _judge_one(case, tokenizer, policy, against)
        return
    if seconds != seconds:  # noqa: PLR0124 - which only NaN is, and it is no range's
        raise click.UsageError("--time is a number of seconds.")
    _check_writable(out)
    with console(stderr=True).status("") as line:
        report = look(
            tokenizer,
            policy=policy,
            against=against,
            seconds=None if cases is not None else seconds,
            cases=cases,
            seed=seed,
            corpus=corpus,
            attacks=attacks,
            oracles=oracles,
            on_progress=_progress(line.update),
        )
    _put(_write(report, output), out)
    if report.findings:
        click.get_current_context().exit(FOUND)


def _progress(update: Callable[[str], None]) -> Callable[[Progress], None]:
    """Return what shows how far a campaign is, a few times a second."""
    last = 0.0

    def show(progress: Progress) -> None:
        nonlocal last
        if progress.seconds - last >= _STEP:
            last = progress.seconds
            update(
                f"{progress.seconds:.0f} s, {progress.cases:,} cases, {progress.findings} findings, {progress.attack}"
            )

    return show


def _write(report: Report, output: ReportFormat) -> str:
    match output:
        case ReportFormat.TEXT:
            from guardtok.fuzz.report_text import write_text

            return write_text(report)
        case ReportFormat.HTML:
            from guardtok.fuzz.report_html import write_html

            return write_html(report)
        case ReportFormat.JSON:
            return json.dumps(report.to_dict(), indent=1) + "\n"
        case ReportFormat.SARIF:
            from guardtok.fuzz.report_machines import write_sarif

            return write_sarif(report)
        case ReportFormat.JUNIT:
            from guardtok.fuzz.report_machines import write_junit

            return write_junit(report)
    assert_never(output)


def _check_writable(out: Path | None) -> None:
    """Learn before the run, not after it, that its report has no place."""
    if out is not None:
        try:
            out.open("a", encoding="utf-8").close()
        except OSError as error:
            raise MistakeError(f"{visible(str(out))} cannot be written: {error.strerror}.") from error


def _put(text: str, out: Path | None) -> None:
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MistakeError(f"{visible(str(out))} cannot be written: {error.strerror}.") from error


def _judge_one(text: str, tokenizer: str, policy: str | None, against: str | None) -> None:
    """Judge one case, and print an object for each thing that is wrong."""
    from guardtok.fuzz import Case, judge
    from guardtok.fuzz.findings import shown

    try:
        case = Case.from_dict(json.loads(text))
    except (ValueError, RecursionError):
        raise click.UsageError("--case is one case as JSON, as a report gives it.") from None
    outcomes = judge(tokenizer, case, policy=policy, against=against)
    for outcome in outcomes:
        values = outcome.to_dict()
        write_json({**values, **{key: shown(values[key], [case.form]) for key in ("expected", "got")}})
    if outcomes:
        click.get_current_context().exit(FOUND)
