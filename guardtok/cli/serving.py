"""`guardtok serve`: the policy where all traffic passes."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from guardtok.cli.trouble import MistakeError
from guardtok.errors import MissingExtraError
from guardtok.violation import visible

if TYPE_CHECKING:
    from guardtok.gateway.live import Snapshot
    from guardtok.gateway.proxy.upstream import Upstream

_SECONDS = click.FloatRange(min=0, min_open=True)
_COUNT = click.IntRange(min=1)


@click.command()
@click.option(
    "-u", "--upstream", metavar="URL", help="The model server, as http://HOST:PORT. Without one: only the guardrail service."
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
@click.option("--host", default="127.0.0.1", show_default=True, metavar="H", help="Where to listen.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), metavar="N", help="0 takes a free one.")
@click.option("--workers", default=1, show_default=True, type=_COUNT, metavar="N", help="How many processes.")
@click.option("--max-body", default=8 << 20, show_default=True, type=_COUNT, metavar="BYTES", help="Larger bodies: 413.")
@click.option(
    "--unknown-route",
    type=click.Choice(["refuse", "pass"]),
    default="refuse",
    show_default=True,
    help="Bodies on paths that guardtok does not know.",
)
@click.option("--open-path", "open_paths", multiple=True, metavar="PATH", help="A path that passes unguarded; repeatable.")
@click.option("--decision-log", envvar="GUARDTOK_DECISION_LOG", metavar="FILE", help="Every decision as a line of JSON; `-` is standard output.")
@click.option("--bundle-key", envvar="GUARDTOK_BUNDLE_KEY", metavar="FILE", help="The public key that the policy must be signed with.")
@click.option("--connect-timeout", default=5.0, show_default=True, type=_SECONDS, metavar="S", help="For a connection to the upstream.")
@click.option("--read-timeout", default=600.0, show_default=True, type=_SECONDS, metavar="S", help="For the upstream's next piece.")
@click.option("--total-timeout", type=_SECONDS, metavar="S", help="For a whole answer.  [default: none]")
@click.option("--client-timeout", default=60.0, show_default=True, type=_SECONDS, metavar="S", help="For the client to send or take a piece.")
@click.option("--grace", default=30, show_default=True, type=_COUNT, metavar="S", help="For running requests, after SIGTERM.")
@click.option("--keep-alive", default=75, show_default=True, type=_COUNT, metavar="S", help="For idle connections of clients.")
@click.option("--limit-concurrency", default=1000, show_default=True, type=_COUNT, metavar="N", help="Connections of a process, beyond which: 503.")
def serve(upstream: str | None, host: str, port: int, workers: int, **options: Any) -> None:  # noqa: ANN401 - by click
    """Put the policy where all traffic passes: a guarded reverse proxy, and a guardrail service.

    Every request to a model is walked, string by string, and what its source may not write is broken, removed or
    refused before the upstream sees it. Clients need only another base URL.

    \b
    Two lines to begin with:
      pip install 'guardtok[gateway]'
      guardtok serve --policy strict --upstream http://127.0.0.1:8000

    Its own paths: /healthz, /readyz, /metrics, /v1/policy, and the guardrail service's, as /v1/evaluate. SIGHUP reads
    the policy again, which a change of its file does too; SIGTERM ends it when running requests have ended.

    \b
    Watch before you enforce: a policy with `mode: monitor` decides and logs, and changes nothing.
      guardtok serve --policy ./monitor.yaml --upstream http://127.0.0.1:8000 --decision-log decisions.jsonl
    """  # noqa: D301 - click looks for this character
    try:
        from guardtok.gateway.proxy.process import Running, bind, run
        from guardtok.gateway.proxy.service import Serving, load_guard, make_app
        from guardtok.gateway.proxy.upstream import Patience, Upstream
        from guardtok.gateway.settings import Settings
    except MissingExtraError:
        raise
    except ImportError as error:
        raise MistakeError(f"{error.name} is not installed: pip install 'guardtok[gateway]'.") from None
    if options["policy"] is None:
        raise click.UsageError("No policy is named: --policy strict, or a path. A gateway without one is an open door.")
    patience = Patience(*(options.pop(f"{each}_timeout") for each in ("connect", "read", "total", "client")))
    running = Running(workers, options.pop("grace"), options.pop("keep_alive"), options.pop("limit_concurrency"))
    serving = Serving(Settings(**options), None if upstream is None else Upstream.parse(upstream), patience)
    snapshot = load_guard(serving.settings).current
    with bind(host, port) as listener:
        _announce(listener.getsockname(), serving.upstream, snapshot, workers)
        run(partial(make_app, serving), listener, running)


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
