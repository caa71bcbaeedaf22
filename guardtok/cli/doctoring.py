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
@format_option
def doctor(*, directory: str, output: Format) -> None:
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
    if output is Format.JSON:
        write_json({"directory": directory, "findings": list(map(dataclasses.asdict, findings))})
    else:
        for line in map(str, findings) if findings else ["nothing found"]:
            click.echo(visible(line))
    if any(each.severity is not Severity.NOTE for each in findings):
        click.get_current_context().exit(FOUND)
