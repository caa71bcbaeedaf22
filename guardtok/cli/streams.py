"""Standard input and output as the command line uses them: bytes in, strictly UTF-8; lines and tables out.

A terminal obeys what it is sent, and a pipe passes everything on. So what is read is decoded before anything else is
done with it, nothing is read without a bound, and what is printed is markup-free text.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from typing import TYPE_CHECKING, BinaryIO

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console, RenderableType
    from rich.table import Table

MAX_UTF8 = 4
"""Bytes of the longest character."""

NUMBERS = frozenset({"id", "forms", "turn"})
"""Columns that are justified to the right."""

PIPE_WIDTH = 10_000
"""Columns where there is no terminal: a table takes what it needs, and nothing is wrapped."""


def read_texts(arguments: Sequence[str], *, lines: bool, max_chars: int) -> Iterator[str]:
    """Yield the texts that are meant: the arguments, with standard input for `-` or for none.

    Args:
        arguments: As given.
        lines: Whether each line of standard input is a text of its own, without its line ending.
        max_chars: A text longer than this is refused anyway, so of one that is, only so much is read that it shows.

    Raises:
        UsageError: An argument or the input is not UTF-8, or the input is asked for twice.
    """
    if arguments.count("-") > 1:
        raise click.UsageError("Standard input can be read once: give `-` once.")
    for number, argument in enumerate(arguments or ("-",), start=1):
        if argument == "-":
            yield from _read_lines(max_chars) if lines else [_read_all(max_chars)]
            continue
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise click.UsageError(f"TEXT number {number} is not UTF-8.") from None
        yield argument


def _read_all(max_chars: int) -> str:
    return _decode(_input().read(_bound(max_chars)), max_chars, "Standard input")


def _read_lines(max_chars: int) -> Iterator[str]:
    stream, bound, number = _input(), _bound(max_chars), 0
    while line := stream.readline(bound):
        number += 1
        rest = line
        while len(rest) == bound and not rest.endswith(b"\n"):
            rest = stream.readline(bound)
        text = _decode(line, max_chars, f"Line {number} of standard input")
        yield text.removesuffix("\n").removesuffix("\r")


def _bound(max_chars: int) -> int:
    """Return how many bytes hold more than `max_chars` characters, whatever they are, even if the last one is cut."""
    return (max_chars + 2) * MAX_UTF8


def _input() -> BinaryIO:
    if sys.stdin is None:
        raise click.UsageError("There is no standard input. Give the text as an argument.")
    if sys.stdin.isatty():
        click.echo("Reading from the terminal; end with Ctrl-D.", err=True)
    return sys.stdin.buffer


def _decode(data: bytes, max_chars: int, what: str) -> str:
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data, final=len(data) < _bound(max_chars))
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise click.UsageError(
            f"{what} is not UTF-8: byte 0x{byte:02X} at offset {error.start}. Convert it first, with iconv for example."
        ) from None


def console(*, stderr: bool = False, pipe_width: int = PIPE_WIDTH) -> Console:
    """Return a console that takes text for what it is: no markup, no emoji names, colour on a terminal only.

    Args:
        stderr: Whether it writes to standard error.
        pipe_width: Columns where there is no terminal, unless the environment variable `COLUMNS` says how many.
    """
    from rich.console import Console

    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = pipe_width
    return made


def write(what: RenderableType, on: Console) -> None:
    """Print a table or a text without the white space that only pads it."""
    with on.capture() as captured:
        on.print(what)
    on.file.write("\n".join(line.rstrip() for line in captured.get().split("\n")))


def table(*headings: str, title: str | None = None) -> Table:
    """Return an empty table. What does not fit is folded, never left out."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        caption_style="dim",
    )
    for heading in headings:
        made.add_column(heading, overflow="fold", justify="right" if heading in NUMBERS else "left")
    return made


def shorten(words: Sequence[str]) -> str:
    """Return the first few words, and how many more there are."""
    few = 4
    more = f" and {len(words) - few} more" if len(words) > few else ""
    return ", ".join(words[:few]) + more


def write_json(value: object) -> None:
    """Print one line of JSON, in ASCII: no character in it can be obeyed or misread."""
    click.echo(json.dumps(value))


def soften_encoding() -> None:
    """Make a terminal or a pipe that cannot show a character show its escape, where Python would raise an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def abandon_output() -> None:
    """Let what is still to be written vanish, so that nothing fails again when Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
    finally:
        os.close(nowhere)
