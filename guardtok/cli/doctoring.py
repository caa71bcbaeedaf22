"""`guardtok doctor`: whether a checkpoint's parts agree."""

from __future__ import annotations

import dataclasses

import click

from guardtok.cli.options import Format, format_option
from guardtok.cli.streams import write_json
from guardtok.cli.trouble import FOUND
from guardtok.violation import visible


@click.command()
@click.argument("directory", metavar="DIR")
@click.option("--notes/--no-notes", default=True, show_default=True, help="Also show what is only worth knowing.")
@format_option
def doctor(*, directory: str, notes: bool, output: Format) -> None:
    """Find where a checkpoint's tensors, configs and tokenizer disagree.

    DIR is the folder of a checkpoint in safetensors. Nothing is changed. The status is 1 if there is an `error` or a
    `warning`; a `note` is worth knowing.

    \b
    Examples:
      guardtok doctor ./checkpoint
      guardtok doctor ./checkpoint --format json
    """  # noqa: D301 - click looks for this character
    from guardtok.finding import Severity
    from guardtok.resize.doctor import diagnose

    findings = diagnose(directory)
    shown = [each for each in findings if notes or each.severity is not Severity.NOTE]
    if output is Format.JSON:
        write_json({"directory": directory, "findings": list(map(dataclasses.asdict, shown))})
    else:
        for line in map(str, shown) if shown else ["nothing found"]:
            click.echo(visible(line))
    if any(each.severity is not Severity.NOTE for each in findings):
        click.get_current_context().exit(FOUND)
