"""Options that several commands share, spelled once."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_Command = TypeVar("_Command", bound="Callable[..., Any]")


class Format(str, Enum):
    """How results are written."""

    TEXT = "text"
    JSON = "json"


def format_option(command: _Command) -> _Command:
    """Add `--format`; the command gets `output`."""
    return click.option(
        "--format",
        "output",
        type=click.Choice([each.value for each in Format]),
        callback=lambda _context, _parameter, value: Format(value),
        default=Format.TEXT.value,
        show_default=True,
        help="For people, or one JSON object a line.",
    )(command)


def policy_option(command: _Command) -> _Command:
    """Add `--policy`, by default `chatml`."""
    return click.option(
        "-p", "--policy", default="chatml", show_default=True, metavar="P", help="A shipped policy's name, or a path."
    )(command)


def source_option(command: _Command) -> _Command:
    """Add `--source`, by default `user`."""
    return click.option("-s", "--source", default="user", show_default=True, metavar="S", help="Who wrote the text.")(
        command
    )


def tokenizer_option(default: str | None) -> Callable[[_Command], _Command]:
    """Add `--tokenizer`; without a default the command may do without one."""
    return click.option(
        "-t",
        "--tokenizer",
        default=default,
        show_default=default is not None,
        metavar="T",
        help="A tokenizer's name, or the path of its file."
        + ("" if default else " Without one: every family that guardtok knows."),
    )
