"""What a guard costs: guarded encode against the raw `tiktoken` encode of the same text, paired, in one run.

The two sides of a pair are timed one right after the other, so that a drift of the machine's speed hits both, and the
figure is the median of the pairs' ratios. Violations go to the default sink, with structlog set up as a service would:
JSON lines with a time stamp, to the null device. The raw side is tiktoken with its own special tokens alone, which is
its quickest. Clean text is Python's standard library; `forms` is nothing but the policy's 300 forms in turn. `300
forms` looks for exact forms, `views` for disguised ones too; `chatml` is the shipped policy: every family, every view.

    python -m benchmarks.encode [--smoke] [--json FILE] [--tokenizer cl100k_base]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import sysconfig
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import structlog
import tiktoken

from guardtok import Guard, Policy
from guardtok.encodings import load_tokenizer
from guardtok.errors import UnknownTokenizerError

if TYPE_CHECKING:
    from collections.abc import Callable

FORMS = 300
SIZES = {"200 B": 200, "4 KB": 4_096, "1 MB": 1_000_000}
IMPORT_AIM_MS = 150.0
MEMORY_CHARACTERS = 10_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a text, its median times in microseconds, the median of the paired ratios, and the aim."""

    policy: str
    text: str
    size: str
    raw_us: float
    guarded_us: float
    ratio: float
    aim: float | None

    def __str__(self) -> str:
        """Return the line."""
        aim = f"≤ {self.aim:.2f}" if self.aim else ""
        return (
            f"{self.policy:<22} {self.text:<9} {self.size:>6} {self.raw_us:>11,.1f} {self.guarded_us:>12,.1f} "
            f"{self.ratio:>7.3f} {aim:>7}"
        )


CASES = [
    ("300 forms", "clean", "200 B", 1.25),
    ("300 forms", "clean", "4 KB", 1.08),
    ("300 forms", "clean", "1 MB", 1.08),
    ("300 forms", "forms", "200 B", None),
    ("300 forms", "forms", "4 KB", 3.0),
    ("300 forms", "forms", "1 MB", 1.5),
    ("300 forms", "one form", "4 KB", 3.0),
    ("300 forms", "one form", "1 MB", 1.5),
    ("300 forms, views", "clean", "200 B", None),
    ("300 forms, views", "clean", "4 KB", None),
    ("300 forms, views", "clean", "1 MB", None),
    ("300 forms, views", "forms", "4 KB", None),
    ("300 forms, views", "forms", "1 MB", None),
    ("chatml", "clean", "200 B", None),
    ("chatml", "clean", "4 KB", None),
    ("chatml", "clean", "1 MB", None),
]


def main() -> int:
    """Measure, print the table, write it as JSON where asked. A missed aim is a figure, not a failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a moment per case: does it run, not how fast")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--tokenizer", help="default: cl100k_base, or the embedded one where that is not to be found")
    arguments = parser.parse_args()
    seconds = 0.05 if arguments.smoke else 5.0
    name = arguments.tokenizer or choose_tokenizer()
    print(f"{name}, tiktoken {tiktoken.__version__}, Python {platform.python_version()}, {platform.machine()}")
    print(f"{'policy':<22} {'text':<9} {'size':>6} {'raw µs':>11} {'guarded µs':>12} {'ratio':>7} {'aim':>7}")
    with Path(os.devnull).open("w") as sink:
        configure_logging(sink)
        guards = {
            "300 forms": build_guard(name),
            "300 forms, views": build_guard(name, lookalikes="log"),
            "chatml": Guard.load("chatml", name),
        }
        rows = []
        for policy, text, size, aim in CASES:
            rows.append(measure(guards[policy], name, (policy, text, size, aim), seconds))
            print(rows[-1], flush=True)
    memory = {side: peak_memory(side, name) for side in ("raw", "guarded")}
    print(f"peak memory above an idle process, {MEMORY_CHARACTERS:,} characters: {memory} MB")
    imports = import_cost(1 if arguments.smoke else 15)
    print(f"import guardtok, more than tiktoken and pydantic: {imports:.0f} ms (aim: ≤ {IMPORT_AIM_MS:.0f})")
    if arguments.json:
        figures = {"rows": [asdict(row) for row in rows], "peak_memory_mb": memory, "import_ms": imports}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def choose_tokenizer() -> str:
    """Return `cl100k_base` if it is here, else the embedded tokenizer's name."""
    try:
        return load_tokenizer("cl100k_base").name
    except UnknownTokenizerError:
        return "guardtok"


def configure_logging(sink: TextIO) -> None:
    """Set structlog up as a service would."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(sink),
        cache_logger_on_first_use=True,
    )


def build_guard(name: str, lookalikes: str = "ignore") -> Guard:
    """Return a guard that knows exactly 300 forms: the tokenizer's own, and custom tokens for the rest."""
    own = len(load_tokenizer(name).control_tokens)
    custom = "".join(f'  "<|form_{index}|>": auto\n' for index in range(FORMS - own))
    policy = Policy.parse(
        f"guardtok: 1\nname: benchmark\nforeign: ignore\nlookalikes: {lookalikes}\n"
        f'custom_tokens:\n{custom}sources:\n  template: {{default: allow}}\n  "*": {{default: escape}}\n'
    )
    guard = Guard.load(policy, name)
    if len(guard.ruleset.forms) != FORMS:
        raise SystemExit(f"The guard knows {len(guard.ruleset.forms)} forms, not {FORMS}.")
    return guard


def make_text(kind: str, size: int, guard: Guard) -> str:
    """Return ASCII text of a kind and a size in characters."""
    forms = [form.text for form in guard.ruleset.forms]
    if kind == "one form":
        forms = forms[-1:]
    if kind != "clean":
        return ("".join(forms) * (size // sum(map(len, forms)) + 1))[:size]
    library = Path(sysconfig.get_path("stdlib"))
    text = ""
    for path in sorted(library.glob("*.py")):
        text += path.read_text(encoding="utf-8", errors="ignore").encode("ascii", "ignore").decode()
        if len(text) >= size:
            break
    return text[-size:]


def measure(guard: Guard, name: str, case: tuple[str, str, str, float | None], seconds: float) -> Row:
    """Time one case, pair by pair, for about so many seconds."""
    policy, kind, size, aim = case
    text = make_text(kind, SIZES[size], guard)
    encoding = load_tokenizer(name).encoding  # type: ignore[attr-defined]
    disallowed: str | tuple[()] = "all" if kind == "clean" else ()

    def raw() -> object:
        return encoding.encode(text, disallowed_special=disallowed)

    def guarded() -> object:
        return guard.encode(text, source="user").ids

    if kind == "clean" and raw() != guarded():
        raise SystemExit("The two sides do not give the same ids: there is nothing to compare.")
    loops = max(1, int(0.002 / (timed(raw, 1) or 1e-6)))
    pairs = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(pairs) < 3:
        # Each side goes first in turn: the second of a pair finds warmer caches.
        if len(pairs) % 2:
            other, own = timed(guarded, loops), timed(raw, loops)
            pairs.append((own, other))
        else:
            pairs.append((timed(raw, loops), timed(guarded, loops)))
    raws, guardeds = zip(*pairs, strict=True)
    ratio = statistics.median(other / own for own, other in pairs)
    return Row(policy, kind, size, statistics.median(raws) * 1e6, statistics.median(guardeds) * 1e6, ratio, aim)


def timed(function: Callable[[], object], loops: int) -> float:
    """Return the seconds that one call takes, as the mean of so many."""
    start = time.perf_counter()
    for _ in range(loops):
        function()
    return (time.perf_counter() - start) / loops


def peak_memory(side: str, name: str) -> int:
    """Return by how many megabytes an encode of a large text raises a fresh process's peak."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(grow, (side, name))


def grow(side: str, name: str) -> int:
    """Encode a large text in this process and return the growth of its peak memory, in megabytes."""
    guard = build_guard(name)
    text = make_text("clean", 1_000_000, guard) * (MEMORY_CHARACTERS // 1_000_000)
    encoding = load_tokenizer(name).encoding  # type: ignore[attr-defined]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ids = encoding.encode(text) if side == "raw" else guard.encode(text, source="user").ids
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (after - before) // 1024 if ids else 0


def import_cost(rounds: int) -> float:
    """Return the milliseconds that `import guardtok` adds to `import tiktoken, pydantic`: a median of pairs."""

    def start(statement: str) -> float:
        return timed(lambda: subprocess.run([sys.executable, "-c", statement], check=True), 1)

    start("import guardtok")
    costs = [start("import tiktoken, pydantic, guardtok") - start("import tiktoken, pydantic") for _ in range(rounds)]
    return statistics.median(costs) * 1e3


if __name__ == "__main__":
    raise SystemExit(main())
