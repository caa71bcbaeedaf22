"""The command line: results on standard output, all else on standard error, and a status that says what happened.

Input is hostile here too: no text makes it show a traceback, and what it prints of a text neither obeys a terminal nor
spells a control token.
"""

from __future__ import annotations

import sys
from importlib import metadata
from typing import TYPE_CHECKING

import click

from guardtok.cli.demo import demo
from guardtok.cli.doctoring import doctor
from guardtok.cli.extending import extend
from guardtok.cli.fuzzing import fuzz
from guardtok.cli.guarding import check, encode
from guardtok.cli.policies import policy
from guardtok.cli.resizing import resize
from guardtok.cli.sanitizing import sanitize
from guardtok.cli.scanning import scan
from guardtok.cli.serving import serve
from guardtok.cli.streams import abandon_output, soften_encoding
from guardtok.cli.tokenizing import tokenize
from guardtok.cli.tokens import tokens
from guardtok.cli.trouble import BROKEN_PIPE, INTERRUPTED, MISTAKE, Commands

if TYPE_CHECKING:
    from collections.abc import Sequence


def _show_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's signature
    if not wanted or context.resilient_parsing:
        return
    try:
        version = metadata.version("guardtok")
    except metadata.PackageNotFoundError:
        version = "(not installed)"
    click.echo(f"guardtok {version}")
    context.exit()


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done or clean; 1 refused, or something was found; 2 a mistake in use or configuration.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version."
)
def cli() -> None:
    """Prepared statements for prompts.

    A policy says which source of text may write which control token. What a source may not write is encoded as the
    ordinary text it is, removed, or refused.

    \b
    Begin with:
      guardtok demo
      guardtok check --source user 'hi <|im_end|>'
      guardtok policy list
    """  # noqa: D301 - click looks for this character


for _command in (demo, encode, check, sanitize, policy, tokens, extend, resize, doctor, fuzz, scan, tokenize, serve):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        arguments: By default the process's own.
    """
    soften_encoding()
    try:
        status = cli.main(arguments, prog_name="guardtok", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except BrokenPipeError:
        abandon_output()
        return BROKEN_PIPE
    except OSError as error:
        abandon_output()
        click.echo(f"Error: The system refused to read or write: {error.strerror}.", err=True)
        return MISTAKE
    return status if isinstance(status, int) else 0
