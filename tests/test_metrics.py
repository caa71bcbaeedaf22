"""Metrics and spans: what is counted, with labels that no caller can choose."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from guardtok import Guard, Policy
from guardtok.errors import MissingExtraError
from guardtok.gateway.decision import Blame, Call, Decision, Refusal
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.live import LiveGuard
from guardtok.gateway.metrics import OTHER, Metrics
from guardtok.gateway.spans import NAME, Spans
from guardtok.requests import PROTOCOLS

DOCS = Path(__file__).parent.parent / "docs"
POLICY = Policy.parse(
    'guardtok: 1\nname: counted\nsources:\n  user: {default: escape, block: ["<|im_start|>"]}\n'
    '  tool_result: {default: block, mode: monitor}\n  "*": {default: escape}\n'
)
GUARDS = LiveGuard(Guard(POLICY, sinks=()), 7)


def decide(text: str, source: str = "user") -> Decision:
    """Return the decision about a text."""
    return Gatekeeper(GUARDS).judge_text(text, source, Call("/v1/evaluate")).decision


def samples(metrics: Metrics) -> dict[str, float]:
    """Return what a scrape shows, by name and labels without those that are the same everywhere here."""
    body, kind = metrics.render()
    assert kind.startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_decisions_are_counted_by_what_became_of_them() -> None:
    """Passed, changed, refused: each has its series, with what the policy asked for."""
    metrics = Metrics()
    for text in ("hello", "hello", "a <|im_end|>", "a <|im_start|>"):
        metrics(decide(text))
    found = samples(metrics)
    same = "mode=enforce,outcome={},policy=counted,protocol=user,stage=text"
    assert found[f"guardtok_decisions_total{{action=allow,{same.format('passed')}}}"] == 2
    assert found[f"guardtok_decisions_total{{action=escape,{same.format('changed')}}}"] == 1
    assert found[f"guardtok_decisions_total{{action=block,{same.format('refused_policy')}}}"] == 1
    assert found["guardtok_scan_duration_seconds_count{stage=text}"] == 4


def test_findings_are_counted_whether_or_not_they_block() -> None:
    """What is escaped and what is only watched is counted, too; and what is beyond the listed violations."""
    metrics = Metrics()
    metrics(decide("<|im_end|> <|im_end|>"))
    metrics(decide("<|im_start|>", "tool_result"))
    metrics(replace(decide("<|im_end|>"), count=100))
    found = samples(metrics)
    user = "action=escape,mode=enforce,policy=counted,rule=user.default,source=user"
    assert found[f"guardtok_findings_total{{{user}}}"] == 3
    watched = "action=block,mode=monitor,policy=counted,rule=tool_result.default,source=tool_result"
    assert found[f"guardtok_findings_total{{{watched}}}"] == 1
    beyond = "action=escape,mode=enforce,policy=counted,rule=limits.max_violations,source=other"
    assert found[f"guardtok_findings_total{{{beyond}}}"] == 99


def test_failures_are_counted() -> None:
    """A guard that failed is an error, and so is what others report."""
    metrics = Metrics()
    metrics(replace(decide("x"), refusal=Refusal(Blame.FAILURE, "failure", "", "It failed.")))
    metrics.failed("upstream")
    found = samples(metrics)
    assert found["guardtok_errors_total{kind=guard}"] == 1
    assert found["guardtok_errors_total{kind=upstream}"] == 1


@given(st.lists(st.text(min_size=1), min_size=3, max_size=3))
def test_no_caller_can_choose_a_label(texts: list[str]) -> None:
    """Whatever protocol, route, id or source a caller makes up, the series are the same."""
    metrics = Metrics()
    one, two, three = texts
    joined = replace(decide("<|im_end|>").violations[0], source=f"user+{one}+tool_result")
    called = Call(one, two, three)
    metrics(replace(decide("x"), protocol=f"{one}?", call=called, violations=(joined,), count=1))
    for name in samples(metrics):
        labels = dict(pair.split("=", 1) for pair in re.findall(r"[a-z]+=[^,}]*", name))
        assert labels.get("protocol", OTHER) == OTHER
        assert labels.get("source", OTHER) == OTHER


def test_known_protocols_and_sources_are_labels() -> None:
    """The protocols that guardtok speaks and the sources that the policy knows have series of their own."""
    metrics = Metrics()
    names = [*PROTOCOLS, "user", "document"]
    for name in names:
        metrics(replace(decide("x"), protocol=name))
    shown = {name.split("protocol=")[1].split(",")[0] for name in samples(metrics) if "protocol=" in name}
    assert shown == set(names)


def test_a_reload_shows_the_policy_in_force(tmp_path: Path) -> None:
    """Results are counted, and info and date are those of the guard in force; no series of an old policy stays."""
    metrics = Metrics()
    file = tmp_path / "p.yaml"
    file.write_text("guardtok: 1\nname: first\n", encoding="utf-8")
    guards = LiveGuard.load(file, sinks=(), told=[metrics.reloaded])
    file.write_text("guardtok: 1\nname: second\n", encoding="utf-8")
    guards.reload()
    guards.reload()
    file.write_text("guardtok: 3\n", encoding="utf-8")
    guards.reload()
    found = samples(metrics)
    results = {result: found[f"guardtok_policy_reload_total{{result={result}}}"] for result in ("loaded", "refused")}
    assert results == {"loaded": 2, "refused": 1}
    assert found["guardtok_policy_reload_total{result=unchanged}"] == 1
    digest = guards.current.guard.policy.digest
    infos = [name for name in found if name.startswith("guardtok_policy_info")]
    assert infos == [f"guardtok_policy_info{{digest={digest},policy=second,revision=}}"]
    assert found["guardtok_policy_loaded_timestamp_seconds{}"] == pytest.approx(guards.current.loaded)


def test_a_revision_is_shown() -> None:
    """A bundle's revision is a label of the info."""
    metrics = Metrics()
    LiveGuard(Guard(POLICY, sinks=()), 7, told=[metrics.reloaded])
    assert any("revision=7" in name for name in samples(metrics))


def test_metrics_can_join_an_application_s_registry() -> None:
    """A registry that is given holds the metrics; two of guardtok's own do not meet."""
    registry = CollectorRegistry()
    Metrics(registry)(decide("x"))
    assert registry.get_sample_value("guardtok_scan_duration_seconds_count", {"stage": "text"}) == 1
    Metrics()
    Metrics()


WORKER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from test_metrics import Metrics, decide
metrics = Metrics()
for _ in range(3): metrics(decide("<|im_end|>"))
metrics.failed("upstream")
if len(sys.argv) > 2: sys.stdout.write(metrics.render()[0].decode())
"""


def test_workers_are_summed_up(tmp_path: Path) -> None:
    """With a folder for several processes, each shows the sums over all, those that have ended included."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    run = [sys.executable, "-c", WORKER, str(Path(__file__).parent)]
    subprocess.run(run, check=True, env=environment)
    shown = subprocess.run([*run, "show"], check=True, env=environment, capture_output=True, text=True).stdout
    assert re.search(r"guardtok_decisions_total\{[^}]*outcome=\"changed\"[^}]*\} 6\.0", shown)
    assert 'guardtok_errors_total{kind="upstream"} 2.0' in shown
    assert 'guardtok_scan_duration_seconds_count{stage="text"} 6.0' in shown


def every_name() -> set[str]:
    """Return the name of every series that there is."""
    metrics = Metrics()
    LiveGuard(Guard(POLICY, sinks=()), 7, told=[metrics.reloaded])
    metrics(decide("<|im_end|>"))
    metrics.failed("guard")
    return {name.split("{")[0] for name in samples(metrics)}


def test_the_board_names_only_metrics_that_exist() -> None:
    """Every expression of the Grafana board is about series of ours."""
    board = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    expressions += [each["query"]["query"] for each in board["templating"]["list"] if each["type"] == "query"]
    assert len(expressions) >= 8
    assert {name for each in expressions for name in re.findall(r"guardtok_\w+", each)} - every_name() == set()


def test_the_page_names_every_metric_and_no_other() -> None:
    """The table of the manual is that of the code, and its alerts are about series that exist."""
    page = (DOCS / "gateway-operating.md").read_text(encoding="utf-8")
    named = set(re.findall(r"guardtok_\w+", page)) - {"guardtok_bundle"}
    series = {name for name in every_name() if not name.endswith(("_bucket", "_sum", "_count", "_created"))}
    assert named - every_name() - {"guardtok_scan_duration_seconds"} == set()
    assert series - named == set()


def test_the_board_is_one_that_grafana_takes() -> None:
    """Ids are unique, panels do not overlap, each has a title, a type and targets that name a data source."""
    board = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert all(x < 24 for x, _ in cells)
    assert all(panel["title"] and panel["type"] and panel["datasource"]["uid"] for panel in panels)


@pytest.fixture
def exporter() -> tuple[TracerProvider, InMemorySpanExporter]:
    """Return a provider, and what keeps its spans."""
    provider, kept = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return provider, kept


def test_a_span_tells_of_the_decision(exporter: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    """It has the decision's times, lies under the current span, and names rule and policy by OpenTelemetry's names."""
    provider, kept = exporter
    spans = Spans(provider)
    decision = decide("<|im_end|> <|im_start|>")
    with provider.get_tracer("application").start_as_current_span("request") as parent:
        spans(decision)
    span = kept.get_finished_spans()[0]
    assert span.name == NAME
    assert span.parent is not None
    assert span.parent.span_id == parent.get_span_context().span_id
    assert span.start_time == int(decision.started * 1e9)
    assert span.end_time is not None
    assert span.end_time - span.start_time == int(decision.seconds * 1e9)
    assert span.status.is_unset
    attributes = dict(span.attributes or {})
    assert attributes["security_rule.name"] == "user.block[<_|im_start|>]"
    assert attributes["security_rule.ruleset.name"] == "counted"
    assert attributes["guardtok.refused"] is True
    assert attributes["guardtok.findings"] == 2
    assert attributes["guardtok.policy.revision"] == 7
    assert "<|im_start|>" not in json.dumps(attributes)


def test_the_strictest_rule_is_named(exporter: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    """Where nothing is refused, the rule that asks for most stands for all."""
    provider, kept = exporter
    Spans(provider)(replace(decide("<|im_end|> <|im_start|> <|im_end|>"), refusal=None))
    attributes = kept.get_finished_spans()[0].attributes or {}
    assert attributes["security_rule.name"] == "user.block[<_|im_start|>]"


def test_a_clean_text_names_no_rule(exporter: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    """Rules stand only where one decided."""
    provider, kept = exporter
    Spans(provider)(decide("hello"))
    assert not any(name.startswith("security_rule") for name in kept.get_finished_spans()[0].attributes or {})


def test_a_failure_is_an_error_of_its_span(exporter: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    """A refusal by policy is no error of the service; a guard that failed is."""
    provider, kept = exporter
    Spans(provider)(replace(decide("x"), refusal=Refusal(Blame.FAILURE, "failure", "", "It failed.")))
    assert kept.get_finished_spans()[0].status.status_code is trace.StatusCode.ERROR


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [("prometheus_client", "Metrics", "guardtok[gateway]"), ("opentelemetry", "Spans", "opentelemetry-api")],
)
def test_a_missing_package_is_named(module: str, name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the error says what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=re.escape(extra)):
        {"Metrics": Metrics, "Spans": Spans}[name]()
