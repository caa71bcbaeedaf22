"""A campaign: cases from every generator in turn, judged in a child process, until the time is up.

Hypothesis draws the cases and makes them smaller. A round is one generator with one seed, so the same seed gives the
same cases in the same order, however fast the machine is; a cause that is known already ends no round.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter, defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from guardtok.errors import MissingExtraError, TokenizerError
from guardtok.fuzz import corpus_dir
from guardtok.fuzz.attacks import Oracle
from guardtok.fuzz.case import GROWTH, TEXT, Case, Outcome
from guardtok.fuzz.findings import Finding, Report
from guardtok.fuzz.worker import ENDED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from guardtok.fuzz.generators import Generator
    from guardtok.fuzz.profile import Profile

ROUNDS = (20, 50, 100, 200)
"""Cases of a generator's first rounds, and of all that follow."""

MAX_SHRINKS = 500
"""So many cases are tried to make a finding smaller."""

MAX_COSTLY = 8
"""So many of them may end the child."""

TIMED = 3
"""One that is timed counts for so many that end the child."""


class Asked(Protocol):
    """Who judges cases: a `Worker`, or the same in this process."""

    restarts: int

    def open(self) -> tuple[Profile, list[tuple[str, list[str], list[Outcome]]]]:
        """Return the target's profile and what is wrong with its vocabulary."""
        ...

    def ask(self, case: Case) -> tuple[list[str], list[Outcome]]:
        """Return which oracles judged a case, and what they found."""
        ...

    def wake(self) -> None:
        """Wake whoever waits for an answer, which ends in a KeyboardInterrupt. A signal handler may call this."""
        ...

    def close(self) -> None:
        """Let go of the target."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What a campaign is to do.

    Attributes:
        seed: What the cases are made from.
        seconds: How long; None without a bound.
        cases: How many cases; None without a bound.
        corpus: Where findings are kept, or None.
        attacks: The attack classes to try; all where it is empty.
        oracles: The oracles whose findings count; all where it is empty.
        command: What was asked for, as a command line.
    """

    seed: int = 0
    seconds: float | None = 60.0
    cases: int | None = None
    corpus: Path | None = None
    attacks: tuple[str, ...] = ()
    oracles: tuple[Oracle, ...] = ()
    command: str = "guardtok fuzz"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a campaign is."""

    seconds: float
    cases: int
    findings: int
    attack: str


class _Found(Exception):  # noqa: N818 - it is how Hypothesis is told, and no error of anybody's
    """A case with a cause that was not known."""


class _Enough(BaseException):
    """The time or the number of cases is used up."""


@dataclass(slots=True)
class _State:
    cases: int = 0
    vacuous: int = 0
    coverage: dict[str, Counter[Oracle]] = field(default_factory=lambda: defaultdict(Counter))
    findings: dict[tuple[Oracle, str], Finding] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run(asked: Asked, plan: Plan, on_progress: Callable[[Progress], None] = lambda _: None) -> Report:
    """Run a campaign and return its report; Ctrl-C ends it early, and the report says so.

    Raises:
        GuardtokError: The target cannot be opened.
        MissingExtraError: Hypothesis is not installed.
    """
    check_hypothesis()
    return _Campaign(asked, plan, on_progress).run()


def check_hypothesis() -> None:
    """Do nothing where Hypothesis is installed.

    Raises:
        MissingExtraError: It is not.
    """
    try:
        import hypothesis  # noqa: F401
    except ImportError:
        raise MissingExtraError("Fuzzing needs Hypothesis: pip install 'guardtok[fuzz]'.") from None


class _Campaign:
    def __init__(self, asked: Asked, plan: Plan, on_progress: Callable[[Progress], None]) -> None:
        self._asked = asked
        self._plan = plan
        self._on_progress = on_progress
        self._state = _State()
        self._start = time.monotonic()
        self._attack = ""
        self._interrupted = False

    def run(self) -> Report:
        interrupted = False
        try:
            profile, surveyed = self._asked.open()
            self._start = time.monotonic()
            with self._interruptible():
                try:
                    self._survey(surveyed)
                    self._replay()
                    self._draw(profile)
                except _Enough:
                    pass
                except KeyboardInterrupt:
                    interrupted = True
        finally:
            self._asked.close()
        return self._report(profile, interrupted=interrupted)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let Ctrl-C end the campaign between two cases: inside Hypothesis's own callbacks Python would swallow it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _interrupt(self, *_: object) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        self._asked.wake()

    def _report(self, profile: Profile, *, interrupted: bool) -> Report:
        state, plan = self._state, self._plan
        findings = tuple(state.findings.values())
        notes = [*profile.notes, *state.notes]
        if plan.corpus is not None:
            notes += corpus_dir.write(plan.corpus, findings, profile.name)
        if self._asked.restarts > 0:
            notes.append(f"the tokenizer's process was started again {self._asked.restarts} times")
        return Report(
            target=profile.name,
            library=profile.library,
            command=plan.command,
            seed=plan.seed,
            seconds=time.monotonic() - self._start,
            cases=state.cases,
            vacuous=state.vacuous,
            coverage={attack: dict(counts) for attack, counts in state.coverage.items()},
            findings=findings,
            notes=tuple(notes),
            interrupted=interrupted,
        )

    def _survey(self, surveyed: Sequence[tuple[str, list[str], list[Outcome]]]) -> None:
        for form, ran, outcomes in surveyed:
            case = Case("A23", TEXT, (form,), form)
            self._state.coverage["A23"].update(Oracle(name) for name in ran)
            for outcome in self._wanted(outcomes):
                self.keep(case, outcome)

    def _replay(self) -> None:
        if self._plan.corpus is None:
            return
        cases, notes = corpus_dir.read(self._plan.corpus)
        self._state.notes += notes
        for case in cases:
            for outcome in self.judge(case):
                self.keep(case, outcome, known=True)

    def _draw(self, profile: Profile) -> None:
        from guardtok.fuzz.generators import generators

        chosen = [each for each in generators(profile) if not self._plan.attacks or each.attack in self._plan.attacks]
        made = {each.attack for each in chosen}
        self._state.notes += [
            f"{attack} was not tried: this target has no place for it"
            for attack in self._plan.attacks
            if attack not in made and attack not in self._state.coverage
        ]
        number = 0
        while chosen:
            size = ROUNDS[min(number, len(ROUNDS) - 1)]
            for place, generator in enumerate(chosen):
                self._attack = generator.attack
                # The same round again, until nothing new is in it: what is known does not end it.
                while self._round(generator, max(3, size // generator.share), derive(self._plan.seed, number, place)):
                    pass
            number += 1

    def _round(self, generator: Generator, size: int, seed: int) -> bool:
        """Judge one round of cases; return whether there was a cause that was not known, which is known then."""
        hunt = _Hunt(self, generator)
        with suppress(_Found):
            try:
                hunt.run(size, seed)
            finally:
                if hunt.best is not None:
                    self.keep(*hunt.best)
        return hunt.best is not None

    def judge(self, case: Case) -> list[Outcome]:
        """Have a case judged, count it, and return what is wrong."""
        plan, state = self._plan, self._state
        if self._interrupted:
            raise KeyboardInterrupt
        if plan.cases is not None and state.cases >= plan.cases:
            raise _Enough
        if plan.seconds is not None and time.monotonic() - self._start > plan.seconds:
            raise _Enough
        try:
            ran, outcomes = self._asked.ask(case)
        except TokenizerError as error:
            state.notes.append(f"the run ended early: {error}")
            raise _Enough from None
        state.cases += 1
        state.coverage[case.attack].update(Oracle(name) for name in ran)
        self._on_progress(Progress(time.monotonic() - self._start, state.cases, len(state.findings), self._attack))
        return self._wanted(outcomes)

    def _wanted(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        oracles = self._plan.oracles
        return [outcome for outcome in outcomes if not oracles or outcome.oracle in oracles]

    def knows(self, outcome: Outcome) -> bool:
        """Whether there is a finding of the same cause."""
        return (outcome.oracle, outcome.cause) in self._state.findings

    def count_vacuous(self) -> None:
        """Count a case that has lost its payload."""
        self._state.vacuous += 1

    def keep(self, case: Case, outcome: Outcome, *, known: bool = False) -> None:
        """Keep a finding, once for each cause."""
        key = outcome.oracle, outcome.cause
        found = self._state.findings.get(key)
        if found is None:
            seconds = time.monotonic() - self._start
            self._state.findings[key] = Finding(case, outcome, 1, seconds, known)
        else:
            self._state.findings[key] = replace(found, count=found.count + 1)


class _Hunt:
    """One round: Hypothesis draws cases until one shows a cause that is not known, and makes that case smaller."""

    def __init__(self, campaign: _Campaign, generator: Generator) -> None:
        self._campaign = campaign
        self._generator = generator
        self._tried = 0
        self._costly = 0
        self.best: tuple[Case, Outcome] | None = None

    def run(self, size: int, seed: int) -> None:
        """Draw cases.

        Raises:
            _Found: One shows a cause that is not known.
            _Enough: The time is up.
        """
        from hypothesis import HealthCheck, Phase, Verbosity, given, settings
        from hypothesis import seed as seeded
        from hypothesis.errors import Flaky, Unsatisfiable

        options = settings(
            max_examples=size,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
            report_multiple_bugs=False,
            print_blob=False,
        )
        test: Any = seeded(seed)(options(given(self._generator.cases)(self._try)))
        with suppress(Flaky, Unsatisfiable, _Stopped):
            test()

    def _try(self, case: Case) -> None:
        if not self._generator.carries(case):
            self._campaign.count_vacuous()
            return
        # Hypothesis takes failures for the same one only if they are raised on the same line.
        if self._finds(case) if self.best is None else self._stays(case):
            raise _Found

    def _finds(self, case: Case) -> bool:
        """Judge a case; return whether it shows a cause that is not known."""
        for outcome in self._campaign.judge(case):
            if self._campaign.knows(outcome):
                self._campaign.keep(case, outcome)
            elif self.best is None:
                self.best = case, outcome
        return self.best is not None

    def _stays(self, case: Case) -> bool:
        """Judge a case that may be smaller than the best one; return whether it has the same cause."""
        if self.best is None:
            return False
        best, known = self.best
        self._tried += 1
        outcomes = self._campaign.judge(case)
        self._costly += TIMED if case.shape == GROWTH else any(outcome.cause.startswith(ENDED) for outcome in outcomes)
        same = [each for each in outcomes if (each.oracle, each.cause) == (known.oracle, known.cause)]
        if same and _size(case) <= _size(best):
            self.best = case, same[0]
        if self._tried > MAX_SHRINKS or self._costly > MAX_COSTLY:
            raise _Stopped
        return bool(same)


class _Stopped(BaseException):
    """A case is as small as it gets in so many tries."""


def _size(case: Case) -> tuple[int, int]:
    return len(case.text) + len(case.parts), sum(map(ord, case.text[:200]))


def derive(seed: int, *numbers: int) -> int:
    """Return a seed that follows from others, the same in every process."""
    return random.Random(f"{seed} {numbers}").getrandbits(32)  # noqa: S311 - to repeat, no secret
