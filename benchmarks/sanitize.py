"""What the text level costs: sanitizing and streaming, clean text and the worst that there is, and how it grows.

For each case the text is taken once and twice as long, one right after the other, so that a drift of the machine's
speed hits both; times are medians, in processor time. `growth` is the least time of the longer text over the least
of the shorter one, Python's collector of cycles switched off: 2 is linear.

    python -m benchmarks.sanitize [--smoke] [--json FILE]
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sysconfig
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guardtok import Guard, Policy
from guardtok.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 240_000
GROWTH_AIM = 2.3


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: times in milliseconds for 240,000 characters, growth, and the aim for the time if any."""

    what: str
    text: str
    ms: float
    mb_per_s: float
    growth: float
    aim_ms: float | None

    def __str__(self) -> str:
        """Return the line."""
        aim = f"≤ {self.aim_ms:.0f} ms" if self.aim_ms else ""
        return f"{self.what:<22} {self.text:<22} {self.ms:>9.1f} {self.mb_per_s:>9.1f} {self.growth:>7.2f} {aim:>9}"


def repeated(unit: str) -> Callable[[int], str]:
    """Return a function from a size to so much of a unit."""
    return lambda size: (unit * (size // len(unit) + 1))[:size]


def clean(size: int) -> str:
    """Return Python's standard library, so much of it."""
    text = ""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_text(encoding="utf-8", errors="ignore")
        if len(text) >= size:
            break
    return text[:size]


TEXTS: dict[str, Callable[[int], str]] = {
    "clean": clean,
    "forms": repeated("<|im_end|>"),
    "nested": repeated("<|im_<|im_end|>start|>"),
    "nested deep": lambda size: "<|im_" * (size // 11) + "<|im_end|>" + "end|>" * (size // 11),
    "gaps after one": repeated("<" * 44 + "x<|im_end|>"),
    "almost forms": repeated("<|reserved_special_token_"),
    "brackets": repeated("<"),
    "disguised": repeated("＜|im_end|＞"),  # noqa: RUF001 - a disguise
}

ACTIONS = {
    "escape": "default: escape",
    "strip": "default: strip",
    "strip, exact only": "default: strip, lookalikes: ignore",
    "block": "default: block",
    "escape, look-alikes": "default: escape, lookalikes: escape",
}


def main() -> int:
    """Measure, print the table, write it as JSON where asked. A missed aim is a figure, no failure: the status is 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="short texts, once each: does it run, not how fast")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    size, rounds = (4_000, 1) if arguments.smoke else (SIZE, 3)
    print(f"Python {platform.python_version()}, {platform.machine()}, {size:,} characters, the whole catalogue")
    print(f"{'what':<22} {'text':<22} {'ms':>9} {'MB/s':>9} {'growth':>7} {'aim':>9}")
    rows: list[Row] = []
    for name, rules in ACTIONS.items():
        policy = Policy.parse(f'guardtok: 1\nname: benchmark\nsources: {{"*": {{{rules}}}}}\n')
        guard = Guard(policy, sinks=())
        for text in TEXTS:
            aim = 30.0 if (name, text) == ("strip, exact only", "nested") else None
            rows.append(measure(name, text, lambda t, g=guard: whole(g, t), size, rounds, aim))
            print(rows[-1], flush=True)
    guard = Guard.load("chatml", sinks=())
    for width, length in ((1, size // 20), (4_096, size)):
        for text in TEXTS:
            run = lambda t, w=width: stream(guard, t, w)  # noqa: E731 - one line of a table
            rows.append(measure(f"stream, by {width:,}", text, run, length, rounds, None))
            print(rows[-1], flush=True)
    missed = [row for row in rows if row.growth > GROWTH_AIM]
    print(f"growth above {GROWTH_AIM}: {len(missed)} of {len(rows)}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2) + "\n")
    return 0


def whole(guard: Guard, text: str) -> None:
    """Sanitize a text; a refusal is a result too."""
    with suppress(RefusedError):
        guard.sanitize(text, source="user")


def stream(guard: Guard, text: str, width: int) -> None:
    """Sanitize a text in chunks of a width."""
    poured = guard.stream(source="user")
    for start in range(0, len(text), width):
        poured.feed(text[start : start + width])
    poured.finish()


def measure(  # noqa: PLR0913, PLR0917 - the columns of a table
    what: str, text: str, run: Callable[[str], None], size: int, rounds: int, aim: float | None
) -> Row:
    """Time one case, and the same twice as long."""
    single, double = TEXTS[text](size), TEXTS[text](2 * size)
    run(single)
    seconds = statistics.median(timed(run, single) for _ in range(rounds))
    # The collector goes through all that is alive at moments of its own: one of two sizes pays, the other does not.
    gc.collect()
    gc.disable()
    pairs = [(timed(run, single), timed(run, double)) for _ in range(rounds)]
    gc.enable()
    growth = min(two for _, two in pairs) / min(one for one, _ in pairs)
    return Row(what, text, seconds * 1e3, len(single) / seconds / 1e6, growth, aim)


def timed(run: Callable[[str], None], text: str) -> float:
    """Return the seconds of processor time that one call takes; other processes of a busy machine do not count."""
    start = time.process_time()
    run(text)
    return time.process_time() - start


if __name__ == "__main__":
    raise SystemExit(main())
