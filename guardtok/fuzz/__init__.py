"""A fuzzer for tokenizers and guards: can text make a reserved id?

    from guardtok.fuzz import fuzz

    report = fuzz("cl100k_base", seconds=60)
    print(report.findings)

The target lives in a process of its own, so that one which hangs or crashes is a finding and not the end. Needs
`guardtok[fuzz]`; `guardtok fuzz` is the same on the command line.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from guardtok.fuzz.attacks import ATTACKS, MEANING, Oracle, check_attacks
from guardtok.fuzz.campaign import Plan, Progress, check_hypothesis, run
from guardtok.fuzz.case import Case, Outcome
from guardtok.fuzz.findings import Finding, Report
from guardtok.fuzz.local import Local
from guardtok.fuzz.prompts import assert_no_forgery
from guardtok.fuzz.worker import HANG_SECONDS, Worker
from guardtok.violation import visible

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from guardtok.fuzz.campaign import Asked

__all__ = [
    "ATTACKS",
    "MEANING",
    "Case",
    "Finding",
    "Oracle",
    "Outcome",
    "Report",
    "assert_no_forgery",
    "fuzz",
    "fuzz_one_input",
    "judge",
]


def fuzz(  # noqa: PLR0913 - the options of the command
    target: object,
    *,
    policy: str | None = None,
    against: object = None,
    seconds: float | None = 60.0,
    cases: int | None = None,
    seed: int = 0,
    corpus: str | os.PathLike[str] | None = None,
    attacks: Iterable[str] = (),
    oracles: Iterable[str] = (),
    hang_seconds: float = HANG_SECONDS,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Report:
    """Look for texts that a tokenizer or a guard handles wrongly.

    Args:
        target: A tokenizer's name, the path of its file, or `module:attribute`, each opened in a process of its own; or
            an object, which is judged in this process, so that a crash of it ends this one.
        policy: Puts a guard with this policy before the tokenizer and judges that.
        against: Another target, or `gigatoken` or `riptoken`, that should give the same ids.
        seconds: How long; None without a bound.
        cases: How many cases; None without a bound.
        seed: The same seed gives the same cases in the same order.
        corpus: A directory of vectors: tried first, and findings are written there.
        attacks: Attack classes, keys of `ATTACKS`; all by default.
        oracles: Names of oracles whose findings count; all by default.
        hang_seconds: So long one case may take.
        on_progress: Called after each case.

    Raises:
        GuardtokError: The target cannot be opened.
        MissingExtraError: Hypothesis is not installed.
        ValueError: No such attack class or oracle.
    """
    plan = Plan(
        seed=seed,
        seconds=seconds,
        cases=cases,
        corpus=None if corpus is None else Path(corpus),
        attacks=check_attacks(attacks),
        oracles=tuple(map(Oracle, oracles)),
        command=visible(shlex.join(_command(target, policy, against))),
    )
    return run(_open(target, policy, against, hang_seconds), plan, on_progress)


def judge(target: object, case: Case, *, policy: str | None = None, against: object = None) -> list[Outcome]:
    """Return what the oracles find in one case.

    Args:
        target: As for `fuzz`.
        case: The case.
        policy: As for `fuzz`.
        against: As for `fuzz`.

    Raises:
        GuardtokError: The target cannot be opened.
    """
    asked = _open(target, policy, against, HANG_SECONDS)
    try:
        _, surveyed = asked.open()
        # What is wrong with the vocabulary itself was seen when it was opened.
        known = [
            each for form, _, outcomes in surveyed if case.attack == "A23" and form == case.form for each in outcomes
        ]
        return known + [each for each in asked.ask(case)[1] if each not in known]
    finally:
        asked.close()


def fuzz_one_input(
    target: object, *, policy: str | None = None, against: object = None
) -> Callable[[bytes], bytes | None]:
    """Return a function for fuzzers that are guided by coverage, which turns bytes into a case and judges it.

        atheris.Setup(sys.argv, fuzz_one_input("cl100k_base"))
        atheris.Fuzz()

    It judges in this process, and raises a `ConformanceError`, whose `check` is the oracle and whose `fact` the cause,
    for the first thing that it finds. It returns the bytes that were used, or None where they make no case.

    Args:
        target: As for `fuzz`.
        policy: As for `fuzz`.
        against: As for `fuzz`.

    Raises:
        GuardtokError: The target cannot be opened.
        MissingExtraError: Hypothesis is not installed.
    """
    check_hypothesis()
    from guardtok.fuzz.bridge import make_one_input

    return make_one_input(target, policy, against)


def _command(target: object, policy: str | None, against: object) -> list[str]:
    """Return the command line that judges the same target; an object has none, and stands there by its class."""
    options = (("--policy", policy), ("--against", against))
    given = [word for name, value in options if value is not None for word in (name, _word(value))]
    return ["guardtok", "fuzz", _word(target), *given]


def _word(value: object) -> str:
    return value if isinstance(value, str) else type(value).__name__


def _open(target: object, policy: str | None, against: object, hang_seconds: float) -> Asked:
    if isinstance(target, str) and (against is None or isinstance(against, str)):
        return Worker({"target": target, "policy": policy, "against": against}, hang_seconds)
    return Local(target, policy, against)
