"""What is known to be wrong with tokenizers of the field, found again by `guardtok fuzz`, unaided, in a minute each.

Every class and every oracle is on, and the fuzzer is told nothing but the target. `--smoke` gives each so many cases as
are known to be enough; the status is 1 if one is missed.

    python -m benchmarks.findings [--time 60] [--seed 0] [--smoke] [--corpus DIR]
"""

from __future__ import annotations

import argparse
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.known import KNOWN
from guardtok.errors import UnknownTokenizerError
from guardtok.fuzz import fuzz
from guardtok.fuzz.findings import shown

if TYPE_CHECKING:
    from benchmarks.known import Known
    from guardtok.fuzz import Finding, Report

LIBRARIES = ("tiktoken", "tokenizers", "transformers", "gigatoken", "hypothesis")


def main() -> int:
    """Run every campaign, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", type=float, default=60, help="seconds for each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="as few cases as are enough with seed 0")
    parser.add_argument("--corpus", type=Path, help="write every finding here as a vector")
    options = parser.parse_args()
    print(", ".join(f"{name} {version(name)}" for name in LIBRARIES), f"seed {options.seed}", sep="; ")
    missed = 0
    for known in KNOWN:
        try:
            report = run(known, None if options.smoke else options.time, options.seed, options.corpus)
        except UnknownTokenizerError as error:
            print(f"{known.name}: left out, {error}")
            continue
        found = find(report, known)
        missed += found is None
        print(describe(known, report, found), flush=True)
    return 1 if missed else 0


def run(known: Known, seconds: float | None, seed: int, corpus: Path | None = None) -> Report:
    """Run a campaign: for so many seconds, or for the cases that are enough."""
    return fuzz(
        known.target,
        against=known.against,
        seconds=seconds,
        cases=known.cases if seconds is None else None,
        seed=seed,
        corpus=corpus,
    )


def find(report: Report, known: Known) -> Finding | None:
    """Return the finding that is known, if it is there."""
    wanted = known.oracle, known.cause
    return next((each for each in report.findings if (str(each.outcome.oracle), each.outcome.cause) == wanted), None)


def describe(known: Known, report: Report, found: Finding | None) -> str:
    """Return what a campaign came to in two lines; control tokens are broken, as in every report."""
    head = f"{known.name}: "
    if found is None:
        return f"{head}NOT FOUND in {report.cases:,} cases, {report.seconds:.1f} s"
    text = shown(found.case.text, [found.case.form])
    return (
        f"{head}found after {found.seconds:.1f} s ({report.cases:,} cases in {report.seconds:.1f} s, "
        f"{len(report.findings)} findings)\n    {found.case.attack}, {found.case.shape}, {text!r}: "
        f"expected {shown(found.outcome.expected)}, got {shown(found.outcome.got)}"
    )


if __name__ == "__main__":
    start = time.perf_counter()
    status = main()
    print(f"{time.perf_counter() - start:.0f} s")
    raise SystemExit(status)
