"""What a scan says, in the shape that is asked for: a summary for people, JSON, annotations for GitHub, SARIF, HTML."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from typing_extensions import assert_never

from guardtok.cli.streams import console, table, write, write_json
from guardtok.corpus.report import Report, to_html, to_sarif
from guardtok.violation import visible

if TYPE_CHECKING:
    from guardtok.corpus.scan import ScanResult

_SHOWN = 10
"""So many rows of each table, and so many problems, are shown to people."""


def write_report(report: Report, result: ScanResult) -> None:
    """Write a report to standard output. Problems go to standard error, but for JSON and SARIF, which hold them."""
    match report:
        case Report.TEXT:
            show_problems(result)
            _write_text(result)
        case Report.JSON:
            _write_json(result)
        case Report.GITHUB:
            show_problems(result)
            _write_annotations(result)
        case Report.SARIF:
            write_json(to_sarif(result))
        case Report.HTML:
            show_problems(result)
            sys.stdout.write(to_html(result))
        case other:
            assert_never(other)


def show_problems(result: ScanResult) -> None:
    """Show the first problems on standard error, and how many more there are."""
    total = result.total
    for problem in total.problems[:_SHOWN]:
        click.echo(f"Problem: {visible(str(problem))}", err=True)
    more = len(total.problems) + total.unlisted - _SHOWN
    if more > 0:
        click.echo(f"Problem: and {more:,} more.", err=True)


def _write_json(result: ScanResult) -> None:
    """Write a line for each finding and problem that is listed, one for each file, and the summary last."""
    for file in result.files:
        for finding in file.findings:
            write_json({"type": "finding", **finding})
        for problem in file.problems:
            write_json({"type": "problem", **problem.to_dict()})
        write_json({"type": "file", "path": file.path, "skipped": file.skipped, **_counts(file)})
    write_json({"type": "summary", "stopped": result.stopped, **_counts(result.total), "by": result.tallies()})


def _counts(file: Any) -> dict[str, int]:  # noqa: ANN401 - FileResult, imported late
    counts = {"documents": file.rows, "texts": file.texts, "bytes": file.size, "flagged": file.flagged}
    problems = len(file.problems) + file.unlisted
    return counts | {"findings": file.count, "dropped": file.dropped, "problems": problems}


def _write_annotations(result: ScanResult) -> None:
    """Write GitHub's workflow commands, which show a finding at its line."""
    for file in result.files:
        for finding in file.findings:
            for at, violation in enumerate(finding["violations"]):
                lines = finding.get("lines")
                line = lines[at] if lines else finding.get("line")
                where = f"file={_property(finding['path'])}" + (f",line={line}" if line else "")
                what = f"{violation['token']} ({violation['form']}): {violation['action']}, rule {violation['rule']}"
                row = "" if line else f", row {finding['row']}, column {finding['column']}"
                kind = "notice" if violation["action"] == "log" else "error"
                click.echo(f"::{kind} {where},title=guardtok::{_data(what + row)}")
        for problem in file.problems:
            click.echo(f"::error file={_property(problem.path)},title=guardtok::{_data(visible(problem.fact))}")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(visible(text)).replace(":", "%3A").replace(",", "%2C")


def _write_text(result: ScanResult) -> None:
    total = result.total
    skipped = sum(file.skipped is not None for file in result.files)
    beside = f", {skipped:,} skipped" if skipped else ""
    click.echo(f"{len(result.files):,} files{beside}, {total.rows:,} documents, {total.size:,} bytes of text")
    if result.stopped:
        click.echo("Stopped at the first problem; what follows was not read.")
    if not total.count:
        click.echo("Nothing was found.")
        return
    left_out = f"; {total.dropped:,} documents left out" if total.dropped else ""
    click.echo(f"{total.count:,} findings in {total.flagged:,} texts{left_out}")
    for heading, counts in result.tallies().items():
        made = table(heading, "findings")
        for name, count in list(counts.items())[:_SHOWN]:
            made.add_row(visible(name), f"{count:,}")
        click.echo()
        write(made, console())
        if len(counts) > _SHOWN:
            click.echo(f"and {len(counts) - _SHOWN:,} more")
    made = table("file", "findings", "texts")
    for file in result.worst:
        made.add_row(visible(file.path), f"{file.count:,}", f"{file.flagged:,}")
    click.echo()
    write(made, console())
