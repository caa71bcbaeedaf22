"""`guardtok extend`: add tokens to a vocabulary, see what the checks say, write it down."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from guardtok.cli.options import Format, format_option
from guardtok.cli.streams import console, table, write, write_json
from guardtok.cli.trouble import MISTAKE, MistakeError
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from guardtok.extended import Extended
    from guardtok.finding import Finding
    from guardtok.placing import Scheme

TOKENIZER_JSON, PLUGIN = "tokenizer.json", "tiktoken-plugin"

_MAX_DIGITS = 10


@click.command()
@click.argument("base", metavar="BASE")
@click.option("-a", "--token", "tokens", multiple=True, metavar="FORM", help="A token to add; give it once for each.")
@click.option("--id", "pairs", multiple=True, metavar="FORM=ID", help="A token to add under this id.")
@click.option(
    "--ids",
    type=click.Choice(["auto", "append", "gaps", "reserved"]),
    default="auto",
    show_default=True,
    help="Where the other ids come from: the next free ones, gaps, or reserved slots.",
)
@click.option("--name", metavar="N", help="The new vocabulary's name. Default: the base's, and a digest of the tokens.")
@click.option(
    "--overlap",
    type=click.Choice(["refuse", "longest"]),
    default="refuse",
    show_default=True,
    help="What to do where a token begins with another one; `longest` is a guard's rule and not tiktoken's.",
)
@click.option("-o", "--out", metavar="DIR", help="Write the manifest, NAME.extension.json, into this folder.")
@click.option(
    "-w",
    "--write",
    "others",
    multiple=True,
    type=click.Choice([TOKENIZER_JSON, PLUGIN]),
    help="With --out: also write this, for other programs.",
)
@format_option
def extend(  # noqa: PLR0913 - one word for each option
    *,
    base: str,
    tokens: tuple[str, ...],
    pairs: tuple[str, ...],
    ids: str,
    name: str | None,
    overlap: str,
    out: str | None,
    others: tuple[str, ...],
    output: Format,
) -> None:
    """Add tokens to the vocabulary BASE, under a new name, and say what the checks found.

    BASE is a tokenizer's name, the path of its file, or a `tokenizer.json`. It stays as it is. Without --out nothing is
    written. What is written can be given to every command as a tokenizer: --tokenizer DIR/NAME.extension.json. No file
    is written over another.

    \b
    Examples:
      guardtok extend gpt2 --token MyNewToken_1 --token MyNewToken_2
      guardtok extend cl100k_base --token '<|tool|>' --ids gaps --out ./mine
      guardtok extend qwen --id '<|tool|>=151700' --out ./mine --write tokenizer.json
    """  # noqa: D301 - click looks for this character
    from guardtok.errors import ExtensionError
    from guardtok.extending.extend import extend as add

    if others and out is None:
        raise click.UsageError("--write belongs to --out, which says where.")
    if out is not None and base.endswith(".extension.json"):
        raise MistakeError("BASE is an extension itself. Extend the first base by all tokens at once.")
    pinned = dict(_pinned(pairs))
    if len(pinned) < len(pairs):
        raise click.UsageError("--id names a token twice.")
    forms = [*tokens, *(form for form in pinned if form not in tokens)]
    if not forms:
        raise click.UsageError("Name at least one token, with --token or --id.")
    if pinned and ids != "auto":
        raise click.UsageError(f"--id goes with --ids auto: the tokens without an id are placed so, not by {ids}.")
    scheme = cast("Scheme", pinned or ids)
    how = cast("Literal['refuse', 'longest']", overlap)
    try:
        extended = add(base, forms, scheme, name, overlap=how)
    except ExtensionError as error:
        if output is Format.JSON:
            write_json({"base": base, "findings": [finding.to_dict() for finding in error.findings]})
            raise click.exceptions.Exit(MISTAKE) from None
        raise
    files = [] if out is None else _write(extended, Path(out), base, others)
    if output is Format.JSON:
        write_json(_record(extended, files))
    else:
        _show(extended, files)


def _pinned(pairs: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yield token and id of each `FORM=ID`.

    Raises:
        UsageError: It is none.
    """
    for number, pair in enumerate(pairs, start=1):
        form, sign, digits = pair.rpartition("=")
        if not sign or not digits.isascii() or not digits.isdigit() or len(digits) > _MAX_DIGITS:
            raise click.UsageError(f"--id number {number} is no FORM=ID with a number after the last `=`.")
        yield form, int(digits)


def _write(extended: Extended, folder: Path, base: str, others: Sequence[str]) -> list[Path]:
    """Write what was asked for; the manifest last, so that where it is, the rest is.

    Raises:
        MistakeError: A file is there already, or cannot be written.
        GuardtokError: The vocabulary cannot be written so.
    """
    from guardtok.extending.formats import write_plugin, write_tokenizer_json
    from guardtok.manifest import write_manifest

    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if TOKENIZER_JSON in others:
            files += write_tokenizer_json(extended, folder)
        if PLUGIN in others:
            files += write_plugin(extended, folder)
        files.append(write_manifest(extended, folder, base))
    except FileExistsError as error:
        raise MistakeError(
            f"{error.filename or folder} is there already. Take it away, or name another --out."
        ) from None
    except OSError as error:
        raise MistakeError(f"{error.filename or folder} cannot be written: {error.strerror}.") from None
    return files


def _record(extended: Extended, files: Sequence[Path]) -> dict[str, Any]:
    extension = extended.extension
    return {
        "name": extension.name,
        "fingerprint": extension.fingerprint,
        "rows": extension.rows,
        "base": {"name": extension.base, "fingerprint": extension.base_fingerprint, "rows": extension.base_rows},
        "tokens": [
            {"form": token.form, "id": token.id, "placement": token.placement.value, "replaces": token.replaces}
            for token in extension.tokens
        ],
        "findings": [finding.to_dict() for finding in extended.report],
        "files": list(map(str, files)),
    }


def _show(extended: Extended, files: Sequence[Path]) -> None:
    extension = extended.extension
    made = table("id", "form", "placement", "replaces")
    for token in extension.tokens:
        made.add_row(str(token.id), visible(token.form), token.placement.value, visible(token.replaces or ""))
    click.echo(f"{extension.name}: {extension.rows:,} ids, {visible(extension.base)} has {extension.base_rows:,}")
    write(made, console())
    for finding in extended.report:
        click.echo(_line(finding))
    for file in files:
        click.echo(f"written: {visible(str(file))}")


def _line(finding: Finding) -> str:
    return visible(str(finding))
