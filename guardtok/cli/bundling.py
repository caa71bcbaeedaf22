"""`guardtok policy bundle` and `verify`: a policy in one file, signed by those who may change it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from guardtok.cli.options import Format, format_option
from guardtok.cli.streams import write_json
from guardtok.cli.trouble import MistakeError
from guardtok.violation import visible


@click.command()
@click.argument("policy", metavar="NAME|PATH")
@click.option("--key", required=True, type=click.Path(dir_okay=False), help="The private Ed25519 key, a PEM file.")
@click.option("--revision", required=True, type=click.IntRange(min=0), help="Higher than that of the last bundle.")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="Where to write the bundle.")
def bundle(*, policy: str, key: str, revision: int, output: str) -> None:
    """Sign a policy, with all that it extends, into one file.

    SOURCE_DATE_EPOCH sets its date: then the same policy makes the same bytes.

    \b
    Example:
      openssl genpkey -algorithm ed25519 -out key.pem
      openssl pkey -in key.pem -pubout -out key.pub.pem
      guardtok policy bundle ./mine.yaml --key key.pem --revision 1 -o mine.tar.gz
      guardtok policy verify mine.tar.gz --key key.pub.pem
    """  # noqa: D301 - click looks for this character
    from guardtok.bundles import make_bundle, read_key

    made = make_bundle(policy, read_key(key), revision, _created())
    target = Path(output)
    # Whoever reads meanwhile gets the old bundle or the new one, whole.
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_bytes(made)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    click.echo(f"{visible(output)}: revision {revision}, {len(made):,} bytes", err=True)


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False))
@click.option("--key", required=True, type=click.Path(dir_okay=False), help="The public Ed25519 key, a PEM file.")
@click.option("--min-revision", default=0, type=click.IntRange(min=0), help="The lowest revision that is taken.")
@format_option
def verify(*, file: str, key: str, min_revision: int, output: Format) -> None:
    """Verify a bundle as a gateway does, and load its policy.

    \b
    Example:
      guardtok policy verify mine.tar.gz --key key.pub.pem --min-revision 7
    """  # noqa: D301 - click looks for this character
    from guardtok.bundles import open_bundle, read_key

    opened = open_bundle(file, read_key(key), min_revision)
    policy, manifest = opened.policy(), opened.manifest
    if output is Format.JSON:
        facts = {"name": manifest.name, "revision": manifest.revision, "created": manifest.created}
        write_json({**facts, "digest": policy.digest, "files": dict(manifest.files)})
        return
    click.echo(f"policy    {manifest.name}\nrevision  {manifest.revision}\ncreated   {manifest.created}")
    click.echo(f"digest    {policy.digest}")
    for name, digest in manifest.files.items():
        click.echo(f"file      {name} {digest}")


def _created() -> float:
    """Return the time that the bundle shall bear: reproducible-builds.org's variable, or now."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return time.time()
    if not (given.isascii() and given.isdigit() and len(given) < 12):  # noqa: PLR2004 - seconds up to the year 5138
        raise MistakeError("SOURCE_DATE_EPOCH is no number of seconds. Unset it, or take `git log -1 --format=%ct`.")
    return float(given)
