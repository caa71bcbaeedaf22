"""What a gateway does, in numbers for Prometheus.

Labels hold what the policy and the code choose from, never a text, a tenant or a name that a caller made up: who could
choose a label could fill the memory of the process and of the store.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

from guardtok.errors import MissingExtraError
from guardtok.gateway.decision import Blame
from guardtok.requests import PROTOCOLS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from guardtok.gateway.decision import Decision
    from guardtok.gateway.live import Reload, Snapshot
    from guardtok.violation import Violation

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the buckets, in seconds: from a short chat to a body of many megabytes."""

OTHER = "other"
"""The label for a protocol or a source that nobody knows."""

_MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """An observer that counts decisions and what was found.

    With several workers, set `PROMETHEUS_MULTIPROC_DIR` to an empty folder before the process starts: then every worker
    shows the sums over all of them, and its own policy.

    Args:
        registry: Where the metrics are registered; by default a registry of their own.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """

    __slots__ = ("_decisions", "_errors", "_findings", "_registry", "_reloads", "_seconds", "_snapshot")

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        try:
            from prometheus_client import CollectorRegistry, Histogram
            from prometheus_client import Counter as Count
        except ImportError:
            raise MissingExtraError("For metrics: pip install 'guardtok[gateway]'.") from None
        self._registry = CollectorRegistry() if registry is None else registry
        self._snapshot: Snapshot | None = None
        self._decisions = Count(
            "guardtok_decisions_total",
            "Bodies that were decided about, by what became of them.",
            ("policy", "stage", "protocol", "action", "mode", "outcome"),
            registry=self._registry,
        )
        self._findings = Count(
            "guardtok_findings_total",
            "Control forms that were found, whatever the policy asks for.",
            ("policy", "rule", "source", "action", "mode"),
            registry=self._registry,
        )
        self._errors = Count(
            "guardtok_errors_total",
            "What failed, by kind; no failure admits anything.",
            ("kind",),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "guardtok_scan_duration_seconds",
            "Seconds that guardtok took for a body.",
            ("stage",),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._reloads = Count(
            "guardtok_policy_reload_total", "Reloads of the policy, by result.", ("result",), registry=self._registry
        )
        for result in ("loaded", "unchanged", "refused"):
            self._reloads.labels(result)
        self._registry.register(self)

    def __call__(self, decision: Decision) -> None:
        """Count a decision."""
        snapshot, refusal = decision.snapshot, decision.refusal
        policy = snapshot.guard.policy
        known = decision.protocol in PROTOCOLS or decision.protocol in snapshot.guard.ruleset.sources
        outcome = "changed" if decision.changed else "passed"
        if refusal is not None:
            outcome = f"refused_{refusal.blame.value}"
            if refusal.blame is Blame.FAILURE:
                self.failed("guard")
        stage = decision.stage.value
        protocol = decision.protocol if known else OTHER
        labels = policy.name, stage, protocol, decision.action.value, policy.mode.value, outcome
        self._decisions.labels(*labels).inc()
        self._seconds.labels(stage).observe(decision.seconds)
        for (rule, source, action, mode), count in _tally(decision.violations).items():
            self._findings.labels(policy.name, rule, source, action, mode).inc(count)
        beyond = decision.count - len(decision.violations)
        if beyond > 0:
            rest = policy.name, "limits.max_violations", OTHER, decision.action.value, policy.mode.value
            self._findings.labels(*rest).inc(beyond)

    def reloaded(self, reload: Reload) -> None:
        """Count a reload, and show the policy that is in force after it."""
        self._reloads.labels(reload.result).inc()
        self._snapshot = reload.snapshot

    def failed(self, kind: str) -> None:
        """Count a failure.

        Args:
            kind: What failed, as a word of the code: `guard`, `decision_log_write`, `upstream` …
        """
        self._errors.labels(kind).inc()

    def render(self) -> tuple[bytes, str]:
        """Return what a scrape gets: the body and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

        registry = self._registry
        if os.environ.get(_MULTIPROCESS):
            from prometheus_client.multiprocess import MultiProcessCollector

            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            registry.register(self)
        return generate_latest(registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterable[Metric]:
        """Yield what is not counted but read: the policy in force, and since when."""
        from prometheus_client.core import GaugeMetricFamily

        info = GaugeMetricFamily(
            "guardtok_policy_info", "The policy in force; always 1.", labels=("policy", "digest", "revision")
        )
        loaded = GaugeMetricFamily(
            "guardtok_policy_loaded_timestamp_seconds",
            "When the policy in force was loaded, in seconds since the epoch.",
        )
        if (snapshot := self._snapshot) is not None:
            policy = snapshot.guard.policy
            revision = "" if snapshot.revision is None else str(snapshot.revision)
            info.add_metric((policy.name, policy.digest, revision), 1)
            loaded.add_metric((), snapshot.loaded)
        yield info
        yield loaded


def _tally(violations: tuple[Violation, ...]) -> Counter[tuple[str, str, str, str]]:
    found: Counter[tuple[str, str, str, str]] = Counter()
    for each in violations:
        # Several sources can be joined in any order and number; the rule says that they were.
        source = OTHER if "+" in each.source else each.source
        found[each.rule, source, each.action.value, each.mode.value] += each.count
    return found
