"""What a scan says, in the shape that is asked for: a summary for people, JSON, SARIF, HTML, annotations for GitHub."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

import click

from guardtok.cli.streams import console, table, write, write_json
from guardtok.violation import visible

if TYPE_CHECKING:
    from guardtok.corpus.scan import ScanResult
    from guardtok.corpus.scanner import ArrowScanner

REPORTS = ("text", "json", "sarif", "html", "github")

_SHOWN = 10
"""So many rows of each table, and so many problems, are shown to people."""


def write_report(report: str, result: ScanResult, scanner: ArrowScanner) -> None:
    """Write a report to standard output; problems go to standard error as well."""
    for problem in result.total.problems[:_SHOWN] if report != "json" else ():
        click.echo(f"Problem: {visible(str(problem))}", err=True)
    more = len(result.total.problems) + result.total.unlisted - _SHOWN
    if more > 0 and report != "json":
        click.echo(f"Problem: and {more:,} more", err=True)
    if report == "json":
        _write_json(result, scanner)
    else:
        _write_text(result, scanner)


def _write_json(result: ScanResult, scanner: ArrowScanner) -> None:
    for file in result.files:
        for finding in file.findings:
            write_json({"type": "finding", **finding})
        for problem in file.problems:
            write_json({"type": "problem", **problem.to_dict()})


def _write_text(result: ScanResult, scanner: ArrowScanner) -> None:
    total = result.total
    click.echo(f"{total.rows:,} documents, {total.size:,} bytes: {total.count:,} findings in {total.flagged:,} texts")
