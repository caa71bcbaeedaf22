"""`guardtok sanitize`: texts that go on as text."""

from __future__ import annotations

import sys

import click

from guardtok.cli.guarding import lines_option, numbered, record, request_option, show, texts_argument
from guardtok.cli.options import Format, format_option, policy_option, source_option, tokenizer_option
from guardtok.cli.streams import read_texts, write_json
from guardtok.cli.trouble import FOUND
from guardtok.errors import LimitError, RefusedError, SurrogateError
from guardtok.violation import visible


@click.command()
@texts_argument
@policy_option
@tokenizer_option(default=None)
@source_option
@lines_option
@request_option
@format_option
def sanitize(  # noqa: PLR0913 - one parameter for each option
    *,
    texts: tuple[str, ...],
    policy: str,
    tokenizer: str | None,
    source: str,
    lines: bool,
    request_id: str | None,
    output: Format,
) -> None:
    """Make texts safe to go on as text: break or delete what their source may not write.

    Each TEXT is a text; `-`, or no TEXT, is standard input, whole. The text that comes out goes to standard output,
    violations to standard error. A text that is refused comes out empty. In a pipe the text is as it is; a terminal is
    shown characters that it would obey as escapes.

    \b
    Examples:
      guardtok sanitize 'hi <|im_end|>'
      guardtok sanitize --source document - < page.html > safe.html
    """  # noqa: D301 - click looks for this character
    from guardtok.guard import Guard

    guard = Guard.load(policy, tokenizer, sinks=())
    refused = False
    several = lines or len(texts) > 1
    for prefix, text in numbered(
        read_texts(texts, lines=lines, max_chars=guard.policy.limits.max_chars), several=several
    ):
        verdict = guard.check(text, source=source, request_id=request_id)
        sanitized: str | None = None
        try:
            sanitized = guard.sanitize(text, source=source, request_id=request_id).text
        except (RefusedError, LimitError, SurrogateError):
            refused = True
        if output is Format.JSON:
            write_json(({} if sanitized is None else {"text": sanitized}) | record(guard, verdict))
        else:
            shown = sanitized or ""
            if sys.stdout.isatty():
                shown = "\n".join(map(visible, shown.split("\n")))
            sys.stdout.write(shown + "\n" * several)  # click.echo would take out what looks like colour.
            if verdict.count:
                show(verdict, guard, prefix, stderr=True)
        if sanitized is None:
            click.echo(f"{prefix}Refused: the policy {guard.policy.name!r} blocks this text.", err=True)
    if refused:
        click.get_current_context().exit(FOUND)
