"""What the fast engines bring: guarded encode against raw `tiktoken`, paired, in one run.

The policy is `chatml` with every view and every family that it knows; the text is Python's standard library, ASCII
alone. The two sides of a pair are timed one right after the other, in turn, and the figure is the median of the pairs'
ratios. `own µs` is what the guard adds to the engine: the guarded call less the bare engine on the same text.

    python -m benchmarks.engines [--smoke] [--json FILE] [--tokenizer cl100k_base]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.encode import choose_tokenizer, make_text, timed
from guardtok import Guard
from guardtok.engines.gigatoken import GigatokenEngine
from guardtok.errors import EngineError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.adapters.tiktoken import TiktokenTokenizer

ENGINES = ("tiktoken", "riptoken", "gigatoken")
SIZES = {"200 B": 200, "4 KB": 4_096, "64 KB": 65_536, "1 MB": 1_000_000}
AIMS = {("array", "200 B"): None, ("ids", "200 B"): 4.0}
AIM = {"array": 20.0, "ids": 8.0}
MESSAGES = 10_000
BATCH_AIM = 5.0
MEMORY_CHARACTERS = 40_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One line: what is compared, the two median times in microseconds, how many times as fast, and the aim."""

    engine: str
    what: str
    size: str
    raw_us: float
    guarded_us: float
    times: float
    aim: float | None
    own_us: float | None = None
    own_aim_us: float | None = None

    def __str__(self) -> str:
        """Return the line."""
        aim = f"≥ {self.aim:.1f}" if self.aim else ""
        own = f"{self.own_us:10.2f}" if self.own_us is not None else ""
        own_aim = f"≤ {self.own_aim_us:.1f}" if self.own_aim_us is not None else ""
        return (
            f"{self.engine:<10} {self.what:<16} {self.size:>6} {self.raw_us:>12,.1f} {self.guarded_us:>12,.1f} "
            f"{self.times:>7.2f} {aim:>7} {own:>10} {own_aim:>9}"
        )


def main() -> int:
    """Measure, print the table, write it as JSON where asked. A missed aim is a figure: the status is 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a moment per case: does it run, not how fast")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--tokenizer", help="default: cl100k_base, or the embedded one where that is not to be found")
    arguments = parser.parse_args()
    seconds = 0.05 if arguments.smoke else 2.0
    name = arguments.tokenizer or choose_tokenizer()
    versions = {package: metadata.version(package) for package in ("tiktoken", "numpy")}
    guards = {engine: guard for engine in ENGINES if (guard := load_guard(name, engine)) is not None}
    versions |= {engine: metadata.version(engine) for engine in guards}
    print(f"{name}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores")
    print(versions)
    columns = ("raw µs", "guarded µs", "times", "aim", "own µs", "aim")
    print("{:<10} {:<16} {:>6} {:>12} {:>12} {:>7} {:>7} {:>10} {:>9}".format("engine", "to", "size", *columns))
    rows = []
    for guard in guards.values():
        for row in measure(guard, seconds):
            print(row, flush=True)
            rows.append(row)
        for row in measure_batches(guard, 200 if arguments.smoke else MESSAGES, 1 if arguments.smoke else 5):
            print(row, flush=True)
            rows.append(row)
    memory = {} if arguments.smoke else {engine: peak_memory(engine, name) for engine in guards}
    print(f"peak memory above an idle process, {MEMORY_CHARACTERS:,} characters: {memory}")
    if arguments.json:
        figures = {"versions": versions, "tokenizer": name, "rows": [asdict(row) for row in rows], "memory": memory}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def load_guard(name: str, engine: str) -> Guard | None:
    """Return a guard with an engine; None where the engine cannot be used, and say why."""
    try:
        return Guard.load("chatml", name, engine=engine, sinks=())
    except (EngineError, MissingExtraError) as error:
        print(f"{engine} is left out: {error}")
        return None


def tokenizer_of(guard: Guard) -> TiktokenTokenizer:
    """Return the guard's tokenizer, which is tiktoken's."""
    return guard.tokenizer  # type: ignore[return-value]


def measure(guard: Guard, seconds: float) -> list[Row]:
    """Time one engine on texts of every size, to a list and to an array."""
    tokenizer = tokenizer_of(guard)
    encoding, engine = tokenizer.encoding, tokenizer._engine
    rows = []
    for what in ("array", "ids"):
        for size, characters in SIZES.items():
            text = make_text("clean", characters, guard)

            def raw(text: str = text) -> object:
                return encoding.encode(text)

            def bare(text: str = text) -> object:
                if isinstance(engine, GigatokenEngine) and engine._table is not None:
                    return engine._table.encode(text)
                return engine.encode(text) if engine else encoding.encode_ordinary(text)

            def guarded(text: str = text, what: str = what) -> object:
                return getattr(guard.encode(text, source="user"), what)

            if list(guarded()) != raw():
                raise SystemExit("The two sides do not give the same ids: there is nothing to compare.")
            raw_us, guarded_us, times = compare(raw, guarded, seconds)
            own = own_aim = None
            if what == "array" and tokenizer.engine == "gigatoken":
                bare_us, whole_us, _ = compare(bare, guarded, seconds)
                own, own_aim = whole_us - bare_us, 3 + characters / 1000
            aim = AIMS.get((what, size), AIM[what]) if tokenizer.engine == "gigatoken" else None
            rows.append(Row(tokenizer.engine, what, size, raw_us, guarded_us, times, aim, own, own_aim))
    return rows


def measure_batches(guard: Guard, count: int, rounds: int) -> list[Row]:
    """Time batches of short and of longer messages against tiktoken's own batch, a thread for each core."""
    tokenizer = tokenizer_of(guard)
    encoding, rows = tokenizer.encoding, []
    for size, characters in {"200 B": 200, "2 KB": 2_000}.items():
        corpus = make_text("clean", 2_000_000, guard)
        starts = range(0, len(corpus) - characters, max(1, (len(corpus) - characters) // count))
        texts = [corpus[start : start + characters] for start in starts][:count]
        threads = os.cpu_count() or 1

        def raw(texts: list[str] = texts, threads: int = threads) -> object:
            return encoding.encode_batch(texts, num_threads=threads)

        def single(texts: list[str] = texts) -> object:
            return [encoding.encode(text) for text in texts]

        def guarded(texts: list[str] = texts) -> object:
            return guard.encode_batch(texts, source="user")

        def one_by_one(texts: list[str] = texts) -> object:
            return [guard.encode(text, source="user") for text in texts]

        aim = BATCH_AIM if tokenizer.engine == "gigatoken" else None
        rows.append(Row(tokenizer.engine, "batch", size, *compare(raw, guarded, 0, rounds), aim))
        rows.append(Row(tokenizer.engine, "batch scaling", size, *compare(one_by_one, guarded, 0, rounds), None))
        rows.append(Row(tokenizer.engine, "tiktoken scaling", size, *compare(single, raw, 0, rounds), None))
    return rows


def compare(
    first: Callable[[], object], second: Callable[[], object], seconds: float, rounds: int = 5
) -> tuple[float, float, float]:
    """Return the median microseconds of both, and by how many times the second is the faster, pair by pair."""
    loops = max(1, int(0.002 / (timed(second, 3) or 1e-6)))
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(pairs) < rounds:
        if len(pairs) % 2:
            late, early = timed(second, loops), timed(first, loops)
            pairs.append((early, late))
        else:
            pairs.append((timed(first, loops), timed(second, loops)))
    firsts, seconds_taken = zip(*pairs, strict=True)
    times = statistics.median(one / other for one, other in pairs)
    return statistics.median(firsts) * 1e6, statistics.median(seconds_taken) * 1e6, times


def peak_memory(engine: str, name: str) -> dict[str, int]:
    """Return by how many megabytes an encode raises a fresh process's peak, and how many text and ids are."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(grow, (engine, name))


def grow(engine: str, name: str) -> dict[str, int]:
    """Encode a large text in this process, to an array, and return the growth of its peak memory in megabytes."""
    from guardtok import Policy

    policy = Policy.parse(f"guardtok: 1\nname: memory\nextends: chatml\nlimits: {{max_chars: {MEMORY_CHARACTERS}}}\n")
    guard = Guard.load(policy, name, engine=engine, sinks=())
    piece = make_text("clean", 1_000_000, guard)
    guard.encode(piece[:1_000], source="user").array  # noqa: B018 - NumPy and the engine's table count as idle
    text = piece * (MEMORY_CHARACTERS // 1_000_000)
    before = peak_kb()
    ids = guard.encode(text, source="user").array
    return {"mb": (peak_kb() - before) // 1024, "ids_mb": ids.nbytes // 2**20, "text_mb": len(text) // 2**20}


def peak_kb() -> int:
    """Return the peak of this process's memory, in kilobytes.

    Linux hands a parent's peak on in `ru_maxrss`, which hides what a child takes, and keeps the child's own apart.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    raise SystemExit(main())
