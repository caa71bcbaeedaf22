"""Who kills whom: the broken guards of `tests/mutants`, and the attack class and the oracle that find each.

`--all` tries every class on every mutant and prints the table; it takes minutes. The status is 1 if one survives.

    python -m benchmarks.mutants [--all]
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import pytest

from guardtok.fuzz import ATTACKS
from guardtok.fuzz.findings import shown
from tests.mutants import MUTANTS, hunt

if TYPE_CHECKING:
    from guardtok.fuzz import Report
    from tests.mutants import Mutant


def main() -> int:
    """Hunt every mutant, print what became of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every class on every mutant")
    parser.add_argument("--smoke", action="store_true", help="what is done without --all")
    if parser.parse_args().all:
        print_table()
        return 0
    killed = 0
    print(f"{'mutant':<34} {'class':<6} {'oracle':<11} {'cases':>5} {'s':>5}  by")
    for mutant in MUTANTS:
        start = time.process_time()
        report = chase(mutant)
        seconds = time.process_time() - start
        killed += bool(report.findings)
        by = shown(report.findings[0].case.text[:60], [report.findings[0].case.form]) if report.findings else "SURVIVED"
        print(f"{mutant.name:<34} {mutant.attack:<6} {mutant.oracle:<11} {report.cases:>5} {seconds:>5.1f}  {by}")
    print(f"{killed} of {len(MUTANTS)} killed")
    return 0 if killed == len(MUTANTS) else 1


def print_table() -> None:
    """Print which classes find each mutant, in as many cases as its own class is given."""
    attacks = [attack for attack in ATTACKS if attack not in {"A19", "A23"}]
    print(f"{'':<34}", *(f"{attack:>5}" for attack in attacks))
    for mutant in MUTANTS:
        cells = [chase(mutant, attack) for attack in attacks]
        print(f"{mutant.name:<34}", *(f"{cell.cases if cell.findings else '.':>5}" for cell in cells), flush=True)


def chase(mutant: Mutant, attack: str | None = None) -> Report:
    """Hunt a mutant, and mend afterwards what it broke."""
    patch = pytest.MonkeyPatch()
    try:
        return hunt(mutant, patch.setattr, attack)
    finally:
        patch.undo()


if __name__ == "__main__":
    raise SystemExit(main())
