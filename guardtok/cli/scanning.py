"""`guardtok scan`: control tokens in a corpus, found, reported, and done something about."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from guardtok.cli.options import tokenizer_option
from guardtok.cli.streams import console
from guardtok.cli.trouble import FOUND, MISTAKE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardtok.corpus.result import FileResult
    from guardtok.corpus.scan import ScanResult

_REPORTS = ("text", "json", "sarif", "html", "github")
_ACTIONS = ("report", "annotate", "escape", "strip", "drop")
INPUT_FORMATS = ("parquet", "arrow", "jsonl", "csv", "text")
"""The formats of files."""


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("-p", "--policy", default="corpus", show_default=True, metavar="P", help="A shipped policy, or a path.")
@tokenizer_option(default=None)
@click.option(
    "-c",
    "--column",
    "columns",
    multiple=True,
    metavar="PATH[=SOURCE]",
    help="A column with text: text, messages.content. Again for each.  [default: text]",
)
@click.option("-s", "--source", default="document", show_default=True, metavar="S", help="Who wrote the texts.")
@click.option("-a", "--action", type=click.Choice(_ACTIONS), default="report", show_default=True, help="What to do.")
@click.option("-o", "--output", metavar="DIR", help="Where files are written, under their names.")
@click.option("--resume", is_flag=True, help="Go on with what a run that was cut off left in --output.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Who works.")
@click.option("-j", "--processes", type=click.IntRange(1), metavar="N", help="So many at once.  [default: all]")
@click.option("--input-format", type=click.Choice(INPUT_FORMATS), help="Of all files, whatever they are called.")
@click.option(
    "--report", "report", type=click.Choice(_REPORTS), default="text", show_default=True, help="How to say it."
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first problem.")
@click.option("--exit-zero", is_flag=True, help="Findings make no status 1.")
@click.option("--no-progress", is_flag=True, help="Show no progress bar on a terminal.")
def scan(**options: Any) -> None:  # noqa: ANN401 - one for each option
    """Find control tokens in a corpus.

    PATHs are files, folders or URLs: Parquet, Arrow, JSON lines and CSV, whose columns are named, and anything else,
    which is a text. The report goes to standard output. The status is 1 if anything was found, 2 if something could not
    be read.

    \b
    Examples:
      guardtok scan crawl/ --column text
      guardtok scan chats.parquet --column messages.content --tokenizer cl100k_im
      guardtok scan crawl/ --action escape --output clean/
      guardtok scan docs/ --report sarif > findings.sarif
    """  # noqa: D301 - click looks for this character
    from guardtok.cli.scan_report import write_report
    from guardtok.corpus.files import FileFormat
    from guardtok.corpus.report import Report
    from guardtok.corpus.scan import ScanEngine, scan_files
    from guardtok.corpus.scanner import ArrowScanner

    scanner = ArrowScanner(
        options["policy"],
        columns_of(options["columns"], options["source"]),
        options["action"],
        tokenizer=options["tokenizer"],
    )
    wanted = options["input_format"]
    with progress(shown=not options["no_progress"]) as bar:
        result = scan_files(
            options["paths"],
            scanner,
            output=options["output"],
            resume=options["resume"],
            engine=ScanEngine(options["engine"]),
            processes=options["processes"],
            file_format=FileFormat(wanted) if wanted else None,
            fail_fast=options["fail_fast"],
            begin=bar.begin,
            advance=bar.advance,
        )
    write_report(Report(options["report"]), result)
    status = status_of(result, found_is_bad=not options["exit_zero"])
    if status:
        click.get_current_context().exit(status)


def status_of(result: ScanResult, *, found_is_bad: bool) -> int:
    """Return the exit status: 2 for a problem, 1 for a finding."""
    if result.total.failed:
        return MISTAKE
    return FOUND if result.total.count and found_is_bad else 0


def columns_of(named: tuple[str, ...], source: str) -> dict[str, str]:
    """Return the source of each column: `text`, unless others are named; `prompt=user` names its source."""
    columns: dict[str, str] = {}
    for each in named or ("text",):
        path, _, own = each.partition("=")
        columns[path] = own or source
    return columns


class Bar:
    """A progress bar, or nothing."""

    def __init__(self, shown: Any) -> None:  # noqa: ANN401 - rich is imported where it is used
        self._shown = shown
        self._task: Any = None

    def begin(self, total: int) -> None:
        """Begin with so many bytes to do."""
        if self._shown is not None:
            self._task = self._shown.add_task("scanning", total=total, found=0)

    def advance(self, size: int, result: FileResult) -> None:
        """Note that so many bytes are done, and what was found."""
        if self._shown is not None:
            found = self._shown.tasks[0].fields["found"] + result.count
            self._shown.update(self._task, advance=size, found=found)


@contextmanager
def progress(*, shown: bool) -> Iterator[Bar]:
    """Show a bar with rate and time left, on a terminal only, on standard error."""
    if not shown or sys.stderr is None or not sys.stderr.isatty():
        yield Bar(None)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[found]} found"),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as made:
        yield Bar(made)
