"""`guardtok policy`: the shipped policies, and what a policy says; see `judging` for whether it is any good."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from guardtok.cli.bundling import bundle, verify
from guardtok.cli.judging import explain, lint, test
from guardtok.cli.options import Format, format_option
from guardtok.cli.streams import console, table, write, write_json
from guardtok.cli.trouble import Commands
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from guardtok.policy.model import Policy
    from guardtok.policy.resolve import Decision


@click.group(cls=Commands)
def policy() -> None:
    """Read, lint, test and explain policies.

    A policy is named as a shipped one is (`chatml`), or by a path (`./mine.yaml`).

    \b
    Begin your own with:
      guardtok policy show chatml > mine.yaml
      guardtok policy lint mine.yaml
    """  # noqa: D301 - click looks for this character


@policy.command(name="list")
@format_option
def list_policies(*, output: Format) -> None:
    """List the shipped policies, and who should take which.

    \b
    Example:
      guardtok policy list
    """  # noqa: D301 - click looks for this character
    from guardtok.policy.files import shipped_policies
    from guardtok.policy.model import Policy

    made = table("policy", "who should take it")
    for name in shipped_policies():
        loaded = Policy.load(name)
        if output is Format.JSON:
            write_json({"name": name, "description": loaded.description, "digest": loaded.digest})
        made.add_row(name, visible(" ".join(loaded.description.split())))
    if output is Format.TEXT:
        write(made, console())


@policy.command()
@click.argument("name", metavar="NAME|PATH")
@click.option("--merged", is_flag=True, help="Show what holds for each source, over everything that it extends.")
def show(*, name: str, merged: bool) -> None:
    """Show a policy as it is written, or what it comes to.

    \b
    Examples:
      guardtok policy show chatml > mine.yaml
      guardtok policy show --merged ./mine.yaml
    """  # noqa: D301 - click looks for this character
    from guardtok.policy.files import locate, read_text
    from guardtok.policy.model import Policy

    if merged:
        loaded = Policy.load(name)
        for line in _summary(loaded):
            click.echo(visible(line))
        write(_effective(loaded), console())
        return
    text = read_text(locate(name))
    # A pipe gets the file as it is; a terminal nothing that it would obey.
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    click.echo("\n".join(map(visible, text.split("\n"))) if on_terminal else text, nl=False)


@policy.command()
def schema() -> None:
    """Print the JSON Schema of a policy, for editors.

    \b
    Example:
      guardtok policy schema > policy.schema.json
      # then, as the first line of a policy:
      # yaml-language-server: $schema=policy.schema.json
    """  # noqa: D301 - click looks for this character
    from guardtok.policy.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


policy.add_command(lint)
policy.add_command(test)
policy.add_command(explain)
policy.add_command(bundle)
policy.add_command(verify)


def _summary(policy: Policy) -> Iterator[str]:
    """Yield a policy's single values, one a line."""
    chain = [policy.name]
    parent = policy.extends
    while parent is not None:
        chain.append(parent.name)
        parent = parent.extends
    yield f"policy      {' extends '.join(chain)}"
    yield f"digest      {policy.digest}"
    bound = policy.tokenizer
    if bound is not None:
        yield f"tokenizer   {bound.name or 'any'} {bound.fingerprint or ''}".rstrip()
    yield f"mode        {policy.mode}"
    yield f"foreign     {policy.foreign}"
    yield f"lookalikes  {policy.lookalikes}"
    yield f"surrogates  {policy.surrogates.value}"
    limits = policy.limits
    yield f"limits      max_chars: {limits.max_chars}, max_violations: {limits.max_violations}"
    yield f"            max_hidden: {limits.max_hidden}"
    yield f"log         text: {policy.log.value}"
    for token in policy.custom_tokens:
        pinned = policy.lock.ids.get(token.form) if policy.lock is not None and token.id is None else token.id
        yield f"custom      {token.form} {'auto' if pinned is None else pinned}"
    for form in policy.forms:
        yield f"form        {form.form}"


def _effective(policy: Policy) -> Table:
    """Return what holds for each source: how many of the known forms each rule decides, and where it is written."""
    from guardtok.policy.model import ANY_SOURCE
    from guardtok.policy.resolve import builtin_universe, resolve, sources_of

    universe = builtin_universe(policy)
    made = table("source", "action", "forms", "rule", "place")
    made.caption = f"* is {', '.join(source for source in sources_of(policy) if source not in policy.sources)}"
    for source in (*(source for source in sources_of(policy) if source in policy.sources), ANY_SOURCE):
        name = source
        decisions = sorted(resolve(policy, source, universe).values(), key=_order)
        for decision, decided in groupby(decisions):
            mark = decision.mark
            place = f"{Path(mark.file).name}:{mark.line}:{mark.column}" if mark is not None else ""
            made.add_row(name, str(decision.action), f"{len(list(decided)):,}", visible(decision.rule), place)
            name = ""
    return made


def _order(decision: Decision) -> tuple[int, str, str]:
    return decision.action.severity, decision.rule, str(decision.mark)
