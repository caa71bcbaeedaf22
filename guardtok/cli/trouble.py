"""What the command line does when something goes wrong: one clear message on standard error, and a status.

A message may quote what stands in a file, so what a terminal would obey is written as an escape.
"""

from __future__ import annotations

from typing import Any

import click

from guardtok.cli.streams import abandon_output
from guardtok.errors import GuardtokError, near_match
from guardtok.violation import visible

FOUND = 1
"""Exit status where a text was refused, or something was found."""

MISTAKE = 2
"""Exit status after a mistake in use or configuration."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as a shell gives it."""

BROKEN_PIPE = 141
"""Exit status when nobody reads the output any more (`| head`), as a shell gives it."""


class MistakeError(click.ClickException):
    """A mistake in use or configuration."""

    exit_code = MISTAKE

    def format_message(self) -> str:
        """Return the message without unprintable characters, line by line."""
        return "\n".join(map(visible, self.message.split("\n")))


class Commands(click.Group):
    """A group of commands that suggests the nearest one, and in which no error of guardtok's ends in a traceback."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant, or suggest one."""
        word = args[0]
        if not word.startswith("-") and self.get_command(ctx, word) is None:
            known = self.list_commands(ctx)
            mend = near_match(word, known) or f" There are {', '.join(known)}."
            raise click.UsageError(f"No command {visible(word[:64])!r}.{mend}", ctx)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they were added, which is the order to learn them in."""
        del ctx
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run the command that is meant."""
        try:
            return super().invoke(ctx)
        except GuardtokError as error:
            raise MistakeError(str(error).rstrip()) from error
        except BrokenPipeError:
            # Click would make this status 1, which here means that something was found.
            abandon_output()
            ctx.exit(BROKEN_PIPE)
