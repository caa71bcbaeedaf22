"""A text examined: taken in, searched, decided, reported to the sinks, and refused if the policy says so.

Here, and in streams, is where findings leave the core. What refuses a text is reported before it is raised, and what
the sinks do changes no decision.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from guardtok.decide import decide
from guardtok.errors import LimitError, RefusedError, SurrogateError
from guardtok.intake import take_in
from guardtok.lookalikes import add_lookalikes
from guardtok.records import Report, refuse_intake
from guardtok.scan import scan
from guardtok.sinks import emit
from guardtok.text import UNKNOWN, Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.ruleset import Ruleset
    from guardtok.sinks import Sink
    from guardtok.violation import Verdict


@dataclass(frozen=True, slots=True)
class Examiner:
    """Where violations go, and the key of their digests.

    Attributes:
        sinks: Where violations go.
        key: Key of the digests.
    """

    sinks: tuple[Sink, ...]
    key: bytes = field(repr=False)

    def inspect(self, ruleset: Ruleset, text: str, source: str | None, request_id: str | None) -> Report:
        """Return what is found in a text, and what the rules say of it; nothing is emitted.

        Raises:
            GuardtokError: The text cannot be taken in (see `take_in`), or a view failed.
        """
        policy = ruleset.policy
        intake = take_in(text, source, known=ruleset.sources, limits=policy.limits, surrogates=policy.surrogates)
        matches = scan(intake, ruleset)
        decided = add_lookalikes(decide(matches, intake, ruleset), matches, intake, ruleset)
        return Report(intake, decided, ruleset, self.key, request_id)

    def examine(
        self,
        ruleset: Ruleset,
        text: str,
        source: str | None,
        request_id: str | None,
        look: Callable[[], Report] | None = None,
    ) -> Report:
        """Inspect a text, or have `look` do so, emit what was found, and raise if the policy refuses it.

        Raises:
            RefusedError: The policy blocks a form that the text holds.
            GuardtokError: The text cannot be taken in, or a view failed.
        """
        try:
            report = look() if look else self.inspect(ruleset, text, source, request_id)
        except (LimitError, SurrogateError) as error:
            self._record_refusal(error, ruleset, text, source, request_id)
            raise
        if report.decided.groups or report.others:
            emit(report.groups(), self.sinks)
        if report.decided.refused is not None:
            raise RefusedError(*report.refusal())
        return report

    def check(self, ruleset: Ruleset, text: str, source: str | None, request_id: str | None) -> Verdict:
        """Inspect a text, emit what was found, and return the verdict; `block` where the text cannot be taken in."""
        try:
            report = self.inspect(ruleset, text, source, request_id)
        except (LimitError, SurrogateError) as error:
            return self._record_refusal(error, ruleset, text, source, request_id)
        emit(report.groups(), self.sinks)
        return report.verdict()

    def _record_refusal(
        self,
        error: LimitError | SurrogateError,
        ruleset: Ruleset,
        text: str,
        source: str | None,
        request_id: str | None,
    ) -> Verdict:
        """Emit that a text was refused before it could be scanned, and return that as a verdict."""
        labelled = text if isinstance(text, Text) else Text(text, source=source or UNKNOWN)
        verdict = refuse_intake(error, labelled, ruleset, self.key, request_id)
        emit(verdict.violations, self.sinks)
        return verdict
