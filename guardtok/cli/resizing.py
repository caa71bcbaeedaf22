"""`guardtok resize`: a checkpoint on disk gets rows for new tokens."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from guardtok.cli.options import Format, format_option
from guardtok.cli.streams import console, write_json
from guardtok.cli.trouble import FOUND, Commands, MistakeError
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from guardtok.extension import Extension
    from guardtok.resize.disk_plan import DirectoryPlan

_Command = TypeVar("_Command", bound="Callable[..., Any]")


@click.group(cls=Commands)
def resize() -> None:
    """Give a checkpoint on disk rows for new tokens: planned, done, verified.

    The checkpoint is safetensors, in one file or in shards. It is only read; the resized one is a new directory, which
    appears whole or not at all.

    \b
    Begin with:
      guardtok doctor ./checkpoint
      guardtok resize plan ./checkpoint --extension tokens.json
    """  # noqa: D301 - click looks for this character


def _what_option(command: _Command) -> _Command:
    """Add the options that say what is asked for; the command gets them as `asked`."""
    options = (
        click.option("--extension", metavar="FILE", help="A manifest, as `guardtok extend` writes it."),
        click.option("--rows", type=click.IntRange(1), metavar="N", help="Without a manifest: so many rows at least."),
        click.option("--multiple-of", type=click.IntRange(1), metavar="N", help="Round rows up to a multiple of N."),
        click.option(
            "--init",
            "initial",
            type=click.Choice(["role-aware", "mean", "subword", "zero"]),
            default="role-aware",
            show_default=True,
            help="How new rows begin.",
        ),
        click.option("--shrink", is_flag=True, help="Let rows go that no token needs."),
        click.option("--claim", "claims", multiple=True, metavar="NAME=ROLE", help="What a tensor is: `head`, say."),
        click.option("--waive", multiple=True, metavar="NAME", help="A tensor of the vocabulary's size by chance."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@resize.command()
@click.argument("directory", metavar="DIR")
@_what_option
@format_option
def plan(*, directory: str, output: Format, **asked: Any) -> None:  # noqa: ANN401 - the options of `_what_option`
    """Say what a resize of the checkpoint DIR would do, and change nothing.

    The status is 1 if something stops it.

    \b
    Examples:
      guardtok resize plan ./checkpoint --extension tokens.json
      guardtok resize plan ./checkpoint --rows 32064 --multiple-of 64
    """  # noqa: D301 - click looks for this character
    made = _plan(directory, **asked)
    if output is Format.JSON:
        write_json(made.record())
    else:
        _show(str(made))
    if made.errors:
        click.get_current_context().exit(FOUND)


@resize.command()
@click.argument("directory", metavar="DIR")
@click.option("--out", required=True, metavar="NEW", help="The directory to make; nothing may be there.")
@_what_option
@format_option
def apply(*, directory: str, out: str, output: Format, **asked: Any) -> None:  # noqa: ANN401 - as above
    """Make a resized copy of the checkpoint DIR.

    Old rows are copied as bytes, and compared with what they were. Files without a row for each token are linked, not
    copied.

    \b
    Example:
      guardtok resize apply ./checkpoint --extension tokens.json --out ./checkpoint-2
    """  # noqa: D301 - click looks for this character
    from guardtok.resize.disk_apply import apply_dir

    made = _plan(directory, **asked)
    with _progress("resizing") as report:
        receipt = apply_dir(made, out, report)
    if output is Format.JSON:
        write_json(dataclasses.asdict(receipt) | {"out": str(receipt.out)})
        return
    _show(str(made))
    for name, digest in receipt.old_rows_sha256:
        _show(f"kept     {name} sha256:{digest}")
    if receipt.kl_certified is not None:
        _show(f"proven   no prediction moves by more than {receipt.kl_certified:.2e} nats, rounding apart")
    _show(f"made     {receipt.out}")


@resize.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@_what_option
@format_option
def verify(*, old: str, new: str, output: Format, **asked: Any) -> None:  # noqa: ANN401 - as above
    """Compare the resized checkpoint NEW with OLD, from which it was made, byte for byte.

    Give the options that it was made with. The status is 1 if anything is not as planned.

    \b
    Example:
      guardtok resize verify ./checkpoint ./checkpoint-2 --extension tokens.json
    """  # noqa: D301 - click looks for this character
    from guardtok.resize.disk_verify import verify_dir

    made = _plan(old, **asked)
    made.raise_for_errors()
    with _progress("comparing") as report:
        check = verify_dir(old, new, made, report)
    if output is Format.JSON:
        write_json(dataclasses.asdict(check))
    else:
        for finding in check.findings:
            _show(str(finding))
        _show("not as planned" if check.errors else "as planned, bit for bit")
    if check.errors:
        click.get_current_context().exit(FOUND)


def _plan(  # noqa: PLR0913 - one parameter for each option
    directory: str,
    *,
    extension: str | None,
    rows: int | None,
    multiple_of: int | None,
    initial: str,
    shrink: bool,
    claims: tuple[str, ...],
    waive: tuple[str, ...],
) -> DirectoryPlan:
    from guardtok.resize.disk_planning import plan_resize_dir

    pairs = [claim.rpartition("=") for claim in claims]
    if not all(name for name, _, _ in pairs):
        raise MistakeError("A claim is NAME=ROLE, with a role of embedding, head or bias.")
    return plan_resize_dir(
        directory,
        _extension(extension, rows),
        multiple_of,
        initial,
        shrink=shrink,
        claims={name: role for name, _, role in pairs},
        waive=waive,
    )


def _extension(file: str | None, rows: int | None) -> Extension:
    """Return what rows are for: the manifest's tokens, or so many rows that no token has yet."""
    from guardtok.extension import Extension

    if (file is None) == (rows is None):
        raise MistakeError("Say what the rows are for: `--extension FILE`, or `--rows N`.")
    if file is not None:
        return _read_manifest(Path(file))
    return Extension("rows", "", (), 0, rows or 0, "", "")


def _read_manifest(file: Path) -> Extension:
    """Return the extension that a manifest holds.

    Raises:
        MistakeError: There is no such file, or it is no manifest.
    """
    from guardtok.errors import VocabularyError
    from guardtok.manifest import read_manifest

    try:
        extension, _, _ = read_manifest(file.read_bytes(), visible(str(file)))
    except OSError as error:
        raise MistakeError(f"The manifest cannot be read: {error.strerror}.") from None
    except VocabularyError as error:
        raise MistakeError(str(error)) from None
    return extension


def _show(text: str) -> None:
    for line in text.split("\n"):
        click.echo(visible(line))


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar on standard error while the block runs, if that is a terminal."""
    on = console(stderr=True)
    if not on.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=on, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
