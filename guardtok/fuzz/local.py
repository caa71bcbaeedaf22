"""The judge in this process, for targets that are objects: a test's own guard, a tokenizer that was just built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardtok.fuzz.bench import Bench
from guardtok.fuzz.targets import open_target

if TYPE_CHECKING:
    from guardtok.fuzz.case import Case, Outcome
    from guardtok.fuzz.judge import Judgement
    from guardtok.fuzz.profile import Profile


class Local:
    """Judges cases here. What ends the process ends it, and a hang is one."""

    restarts = 0

    def __init__(self, target: object, policy: str | None = None, against: object = None) -> None:
        self._bench = Bench(open_target(target, policy, against))

    def open(self) -> tuple[Profile, list[tuple[str, list[str], list[Outcome]]]]:
        """Return the target's profile and what is wrong with its vocabulary."""
        return self._bench.profile(), [(form, *_read(made)) for form, made in self._bench.survey()]

    def ask(self, case: Case) -> tuple[list[str], list[Outcome]]:
        """Return which oracles judged a case, and what they found."""
        return _read(self._bench.judge(case))

    def wake(self) -> None:
        """Do nothing: nobody waits."""

    def close(self) -> None:
        """Do nothing: the object is the caller's."""


def _read(made: Judgement) -> tuple[list[str], list[Outcome]]:
    return sorted(oracle.value for oracle in made.ran), made.outcomes
