"""`guardtok serve`: the policy where all traffic passes."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from guardtok.cli.trouble import MistakeError
from guardtok.errors import MissingExtraError, TemplateError
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.gateway.live import Snapshot
    from guardtok.gateway.proxy.upstream import Upstream
    from guardtok.gateway.rendering.app import Rendering
    from guardtok.guard import Guard

_F = TypeVar("_F", bound="Callable[..., Any]")
_SECONDS = click.FloatRange(min=0, min_open=True)
_COUNT = click.IntRange(min=1)


def _number(
    name: str, default: float | None, kind: click.IntRange | click.FloatRange, unit: str, help_: str
) -> Callable[[_F], _F]:
    return click.option(name, default=default, show_default=True, type=kind, metavar=unit, help=help_)


@click.command()
@click.option(
    "-u",
    "--upstream",
    metavar="URL",
    help="The model server, as http://HOST:PORT. Without one: the guardrail service alone.",
)
@click.option(
    "-p", "--policy", envvar="GUARDTOK_POLICY", metavar="P", help="A shipped policy's name, a path, or a signed bundle."
)
@click.option(
    "-t",
    "--tokenizer",
    envvar="GUARDTOK_TOKENIZER",
    metavar="T",
    help="The model's tokenizer, by name or path. Without one: every family that guardtok knows.",
)
@click.option(
    "--render",
    type=click.Choice(["text", "ids"]),
    default="text",
    show_default=True,
    help="What the upstream is sent: the caller's texts, or the ids of a chat that is rendered and proven here.",
)
@click.option(
    "--ids-api",
    type=click.Choice(["completions", "llama.cpp"]),
    default="completions",
    show_default=True,
    help="With `--render ids`: how ids are sent, at /v1/completions or at llama.cpp's /completion.",
)
@click.option(
    "--chat-template",
    type=click.File(encoding="utf-8"),
    metavar="FILE",
    help="With `--render ids`: the Jinja template; by default the tokenizer's own.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="With `--render ids`: a model that may be asked for; needed where the upstream has other tokenizers, too.",
)
@_number("--max-tokens", None, _COUNT, "N", "With `--render ids`: for callers who name none; vLLM and SGLang take 16.")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="H", help="Where to listen.")
@_number("--port", 8080, click.IntRange(0, 65535), "N", "Where to listen; 0 takes a free port.")
@_number("--workers", 1, _COUNT, "N", "How many processes.")
@_number("--max-body", 8 << 20, _COUNT, "BYTES", "The largest body that is let in.")
@click.option(
    "--unknown-route",
    type=click.Choice(["refuse", "pass"]),
    default="refuse",
    show_default=True,
    help="Bodies on paths that guardtok does not know.",
)
@click.option("--open-path", "open_paths", multiple=True, metavar="PATH", help="A path that passes unguarded.")
@click.option(
    "--decision-log",
    envvar="GUARDTOK_DECISION_LOG",
    metavar="FILE",
    help="Every decision as a line of JSON; `-` is standard output.",
)
@click.option(
    "--bundle-key",
    envvar="GUARDTOK_BUNDLE_KEY",
    metavar="FILE",
    help="The public key that the policy must be signed with.",
)
@_number("--connect-timeout", 5.0, _SECONDS, "S", "For a connection to the upstream.")
@_number("--read-timeout", 600.0, _SECONDS, "S", "For the upstream's next piece.")
@_number("--total-timeout", None, _SECONDS, "S", "For a whole answer; by default there is no limit.")
@_number("--client-timeout", 60.0, _SECONDS, "S", "For the client to send, or to take, the next piece.")
@_number("--grace", 30, _COUNT, "S", "For running requests, after SIGTERM.")
@_number("--keep-alive", 75, _COUNT, "S", "For idle connections of clients.")
@_number("--limit-concurrency", 1000, _COUNT, "N", "Connections of a process, beyond which it answers 503.")
def serve(upstream: str | None, host: str, port: int, workers: int, **options: Any) -> None:  # noqa: ANN401 - by click
    """Put the policy where all traffic passes: a guarded reverse proxy, and a guardrail service.

    Every request to a model is walked, string by string, and what its source may not write is broken, removed or
    refused before the upstream sees it. Clients need only another base URL: http://127.0.0.1:8080/v1.

    \b
    Two lines to begin with:
      pip install 'guardtok[gateway]'
      guardtok serve --policy strict --upstream http://127.0.0.1:8000

    Its own paths: /healthz, /readyz, /metrics, /v1/policy, and the guardrail service's, as /v1/evaluate. SIGHUP reads
    the policy again, which a change of its file does too; SIGTERM ends it when running requests have ended.

    \b
    Watch before you enforce (`mode: monitor` in a policy decides and logs, and changes nothing):
      guardtok serve --policy ./monitor.yaml --upstream http://127.0.0.1:8000 --decision-log decisions.jsonl

    \b
    Send ids, so that nothing behind it parses a text again:
      guardtok serve --policy chatml --tokenizer ./tokenizer.json --upstream http://127.0.0.1:8000 --render ids
    """  # noqa: D301 - click looks for this character
    try:
        from guardtok.gateway.proxy.process import Processes, bind, run
        from guardtok.gateway.proxy.service import Serving, make_app
        from guardtok.gateway.proxy.upstream import Patience, Upstream
        from guardtok.gateway.rendering.app import Rendering
        from guardtok.gateway.settings import Settings, refuse_empty_key
    except MissingExtraError:
        raise
    except ImportError as error:
        raise MistakeError(f"{error.name} is not installed: pip install 'guardtok[gateway]'.") from None
    if options["policy"] is None:
        raise click.UsageError("No policy is named: --policy strict, or a path. A gateway without one is an open door.")
    if options["bundle_key"] is None:
        refuse_empty_key(os.environ)
    patience = Patience(*(options.pop(f"{each}_timeout") for each in ("connect", "read", "total", "client")))
    grace, keep_alive, limit = (options.pop(each) for each in ("grace", "keep_alive", "limit_concurrency"))
    processes = Processes(workers, grace, keep_alive, limit, patience.client)
    _check_log(options["decision_log"])
    names = ("render", "ids_api", "chat_template", "models", "max_tokens")
    render, api, template, models, length = (options.pop(each) for each in names)
    if (template is not None or models or length) and render != "ids":
        raise click.UsageError("--chat-template, --model and --max-tokens are for `--render ids`.")
    if render == "ids" and (options["open_paths"] or options["unknown_route"] != "refuse"):
        raise click.UsageError("With `--render ids` no path is open: what is sent there would be parsed.")
    rendering = Rendering(api, template and _read(template), frozenset(models), length) if render == "ids" else None
    behind = None if upstream is None else Upstream.parse(upstream)
    if rendering is not None and behind is None:
        raise click.UsageError("`--render ids` needs an `--upstream` to send ids to.")
    serving = Serving(Settings(**options), behind, patience, rendering)
    snapshot = serving.settings.load_guard().current
    if rendering is not None:
        _check_rendering(rendering, snapshot.guard)
    with bind(host, port) as listener:
        _announce(listener.getsockname(), serving.upstream, snapshot, workers)
        run(partial(make_app, serving), listener, processes)


def _read(template: TextIO) -> str:
    try:
        return template.read()
    except ValueError:
        raise MistakeError("The chat template is not text in UTF-8.") from None


def _check_rendering(rendering: Rendering, guard: Guard) -> None:
    try:
        rendering.check(guard)
    except TemplateError as error:
        raise MistakeError(f"{error} Here it is named by --chat-template FILE.") from None


def _check_log(path: str | None) -> None:
    """Refuse to start without the log that was asked for; later, a log that fails stops no request."""
    if path is None or path == "-":
        return
    try:
        with Path(path).open("ab"):
            pass
    except OSError as error:
        raise MistakeError(f"The decision log {path!r} cannot be written: {error.strerror}.") from None


def _announce(address: tuple[Any, ...], upstream: Upstream | None, snapshot: Snapshot, workers: int) -> None:
    """Say on standard error what is served and by which policy; to a program as one JSON object."""
    host, port = address[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    policy, tokenizer = snapshot.guard.policy, snapshot.guard.tokenizer
    facts = {
        "event": "guardtok.serving",
        "url": url,
        "upstream": None if upstream is None else str(upstream),
        "policy": policy.name,
        "digest": policy.digest,
        "mode": policy.mode.value,
        "tokenizer": tokenizer and tokenizer.name,
        "workers": workers,
    }
    if not sys.stderr.isatty():
        click.echo(json.dumps(facts), err=True)
        return
    what = f"in front of {upstream}" if upstream else "as a guardrail service alone"
    by = f"policy {policy.name!r} ({policy.digest}), mode {policy.mode.value}, "
    by += f"tokenizer {tokenizer.name!r}" if tokenizer else "no tokenizer: every family that guardtok knows"
    click.echo(visible(f"guardtok listens on {url}, {what}."), err=True)
    click.echo(visible(f"Guarded by {by}."), err=True)
