"""Whether time and memory grow as the text does: the same unit, four times as often each step."""

from __future__ import annotations

import sys
from time import process_time
from typing import TYPE_CHECKING

from guardtok.fuzz.attacks import Oracle

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.fuzz.judge import Judgement

STEP = 4
FIRST, LAST = 1_000, 1_024_000
"""Characters of the shortest and of the longest text."""

MEASURABLE = 0.25
"""Seconds of processor time from which on a measurement says something."""

MOST = 3 * STEP
"""So many times as long the text of four times the length may take: noise and caches are not what is looked for."""

MEMORY = 64 * 2**20
"""Bytes from which on it says something how they grew."""

ENOUGH = 1.0
"""Seconds after which no longer text is tried."""


def judge_growth(
    unit: str, encode: Callable[[str], object], made: Judgement, declared: tuple[type[BaseException], ...]
) -> None:
    """Encode a unit over and over, ever longer, and judge the time and the memory."""
    size, before, held = FIRST, 0.0, 0
    peak = _peak()
    while size <= LAST:
        text = unit * (size // len(unit) + 1)
        seconds = _time(text, encode, made, declared)
        if seconds is None:
            return
        if before >= MEASURABLE / MOST and seconds >= MEASURABLE and seconds > MOST * before:
            # Once more, both: a machine that stalled is no finding.
            shorter = _time(unit * (size // STEP // len(unit) + 1), encode, made, declared)
            again = _time(text, encode, made, declared)
            if shorter is not None and again is not None and again > MOST * shorter:
                made.report(
                    Oracle.CRASH,
                    "time grows faster than the text",
                    f"{STEP} times the time for {STEP} times the text",
                    f"{shorter:.2g} s for {size // STEP:,} characters, {again:.2g} s for {size:,}",
                )
                return
        grown = _peak() - peak
        if held > MEMORY and grown > MOST * held:
            made.report(
                Oracle.CRASH,
                "memory grows faster than the text",
                f"{STEP} times the memory for {STEP} times the text",
                f"{held >> 20} MiB for {size // STEP:,} characters, {grown >> 20} MiB for {size:,}",
            )
            return
        if seconds > ENOUGH:
            return
        before, held, size = seconds, grown, size * STEP


def _time(
    text: str, encode: Callable[[str], object], made: Judgement, declared: tuple[type[BaseException], ...]
) -> float | None:
    start = process_time()
    if made.call("encode of a long run", declared, lambda: (encode(text),)) is None:
        return None
    return process_time() - start


def _peak() -> int:
    """Return the most bytes that the process has held so far; 0 where the system does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
