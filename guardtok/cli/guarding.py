"""`guardtok encode` and `guardtok check`: what a policy makes of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from guardtok.cli.options import Format, format_option, policy_option, source_option, tokenizer_option
from guardtok.cli.streams import console, read_texts, table, write, write_json
from guardtok.cli.trouble import FOUND, MISTAKE
from guardtok.errors import LimitError, RefusedError, SurrogateError, TokenizerError, VerificationError
from guardtok.violation import Mode, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardtok.guard import Guard
    from guardtok.violation import Verdict

lines_option = click.option(
    "-l", "--lines", is_flag=True, help="Take each line of standard input for a text of its own."
)
request_option = click.option("--request-id", metavar="ID", help="Copied into the violations.")
texts_argument = click.argument("texts", metavar="[TEXT|-]...", nargs=-1)


@click.command()
@texts_argument
@policy_option
@tokenizer_option(default="guardtok")
@source_option
@lines_option
@request_option
@format_option
def encode(  # noqa: PLR0913 - one parameter for each option
    *,
    texts: tuple[str, ...],
    policy: str,
    tokenizer: str,
    source: str,
    lines: bool,
    request_id: str | None,
    output: Format,
) -> None:
    """Encode texts to ids, obeying a policy.

    Each TEXT is a text; `-`, or no TEXT, is standard input, whole. The ids of each text are one line. Violations are
    shown on standard error, or are part of the JSON. A text that is refused, or that the tokenizer fails on, has no
    ids: its line is empty.

    \b
    Examples:
      guardtok encode 'hi <|im_end|>'
      guardtok encode --tokenizer cl100k_im --source tool_result - < page.txt
      guardtok encode --policy strict --format json --lines < prompts.txt
    """  # noqa: D301 - click looks for this character
    from guardtok.guard import Guard

    guard = Guard.load(policy, tokenizer, sinks=())
    refused = failed = False
    texts_read = read_texts(texts, lines=lines, max_chars=guard.policy.limits.max_chars)
    for prefix, text in numbered(texts_read, several=lines or len(texts) > 1):
        verdict = guard.check(text, source=source, request_id=request_id)
        ids: list[int] | None = None
        why = f"Refused: the policy {guard.policy.name!r} blocks this text."
        try:
            ids = guard.encode(text, source=source, request_id=request_id).ids
        except (RefusedError, LimitError, SurrogateError):
            refused = True
        except (TokenizerError, VerificationError) as error:
            # One text on which a tokenizer fails must not keep the others from being encoded.
            failed = True
            why = f"Not encoded: {visible(str(error))}"
        if output is Format.JSON:
            write_json(({} if ids is None else {"ids": ids}) | record(guard, verdict))
        else:
            click.echo(" ".join(map(str, ids or ())))
            if verdict.count:
                show(verdict, guard, prefix, stderr=True)
        if ids is None:
            click.echo(f"{prefix}{why}", err=True)
    if refused or failed:
        click.get_current_context().exit(MISTAKE if failed else FOUND)


@click.command()
@texts_argument
@policy_option
@tokenizer_option(default=None)
@source_option
@lines_option
@request_option
@format_option
def check(  # noqa: PLR0913 - one parameter for each option
    *,
    texts: tuple[str, ...],
    policy: str,
    tokenizer: str | None,
    source: str,
    lines: bool,
    request_id: str | None,
    output: Format,
) -> None:
    """Say what a policy makes of texts, without encoding them.

    Each TEXT is a text; `-`, or no TEXT, is standard input, whole. The status is 1 if anything was found, be it only
    logged.

    \b
    Examples:
      guardtok check 'hi <|im_end|>'
      guardtok check --source document - < page.html
      tail -f chat.log | guardtok check --lines --format json
    """  # noqa: D301 - click looks for this character
    from guardtok.guard import Guard

    guard = Guard.load(policy, tokenizer, sinks=())
    found = False
    texts_read = read_texts(texts, lines=lines, max_chars=guard.policy.limits.max_chars)
    for prefix, text in numbered(texts_read, several=lines or len(texts) > 1):
        verdict = guard.check(text, source=source, request_id=request_id)
        found = found or verdict.count > 0
        if output is Format.JSON:
            write_json(record(guard, verdict))
        elif verdict.count:
            show(verdict, guard, prefix)
        else:
            click.echo(f"{prefix}clean")
    if found:
        click.get_current_context().exit(FOUND)


def show(verdict: Verdict, guard: Guard, prefix: str, *, stderr: bool = False) -> None:
    """Show the violations of a text: as a table, or line by line where it is one text of several.

    Every form is written broken, in the name of a rule too.
    """
    from guardtok.records import defuse

    hidden = verdict.count - len(verdict.violations)
    more = f"and {hidden:,} more, beyond limits.max_violations" if hidden else None
    rows = [
        (
            f"{each.action} (monitor)" if each.mode is Mode.MONITOR else str(each.action),
            each.token,
            "" if each.token_id is None else str(each.token_id),
            each.source,
            each.place(),
            defuse(each.rule, guard.ruleset),
        )
        for each in verdict.violations
    ]
    if prefix:
        for action, token, _, source, place, rule in rows:
            click.echo(f"{prefix}{action} {token or 'the text'} from {source} at {place}, rule {rule}", err=stderr)
        if more:
            click.echo(f"{prefix}{more}", err=stderr)
        return
    findings = f"{verdict.count:,} finding{'s' if verdict.count != 1 else ''}"
    made = table("action", "token", "id", "source", "place", "rule", title=f"{verdict.action}: {findings}")
    made.caption = more
    for row in rows:
        made.add_row(*row)
    write(made, console(stderr=stderr))


def numbered(texts: Iterator[str], *, several: bool) -> Iterator[tuple[str, str]]:
    """Yield each text with what its lines begin with: nothing where there is only one text."""
    for number, text in enumerate(texts, start=1):
        yield (f"Text {number}: " if several else ""), text


def record(guard: Guard, verdict: Verdict) -> dict[str, Any]:
    """Return what every JSON object says of a text: the verdict, the policy, the tokenizer."""
    made: dict[str, Any] = {
        "action": verdict.action.value,
        "violations": [each.to_dict() for each in verdict.violations],
        "policy": {"name": guard.policy.name, "digest": guard.policy.digest},
    }
    tokenizer = guard.tokenizer
    if tokenizer is not None:
        made["tokenizer"] = {"name": tokenizer.name, "fingerprint": tokenizer.fingerprint}
    return made
