"""A report for a terminal: findings first, then what was tried. No form is spelled, and nothing is obeyed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardtok.fuzz.attacks import ATTACKS, MEANING, Oracle
from guardtok.fuzz.findings import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardtok.fuzz.findings import Finding, Report


def write_text(report: Report) -> str:
    """Return the report as lines of text."""
    return "\n".join([*_summary(report), *_findings(report), "", *_table(report)]) + "\n"


def _summary(report: Report) -> Iterator[str]:
    speed = report.cases / (report.seconds or 1.0)
    yield f"{report.target} ({report.library}), seed {report.seed}"
    yield f"{report.cases:,} cases in {report.seconds:.1f} s ({speed:,.0f} a second)" + (
        ", interrupted" if report.interrupted else ""
    )
    if report.vacuous:
        yield f"{report.vacuous:,} cases had lost their payload and were not counted"
    yield from report.notes


def _findings(report: Report) -> Iterator[str]:
    yield f"{len(report.findings)} finding{'s' if len(report.findings) != 1 else ''}"
    told: set[Oracle] = set()
    for number, finding in enumerate(report.findings, start=1):
        yield ""
        yield from _one(number, finding, report)
        if finding.outcome.oracle not in told:
            told.add(finding.outcome.oracle)
            yield f"     means: {MEANING[finding.outcome.oracle]}"


def _one(number: int, finding: Finding, report: Report) -> Iterator[str]:
    case, outcome = finding.case, finding.outcome
    known = "from the corpus" if finding.known else f"after {finding.seconds:.1f} s"
    yield f"{number}. {outcome.oracle}: {outcome.cause} ({case.attack}, {ATTACKS[case.attack]}; {known})"
    where = f" in {case.shape}" if case.shape != "text" else ""
    often = f", {case.repeat:,} times" if case.repeat > 1 else ""
    parts = " + ".join(f"'{shown(part, [case.form])}'" for part in case.parts)
    yield f"     input{where}: {parts}{often}"
    if outcome.ids:
        yield f"     ids: {', '.join(map(str, outcome.ids[:16]))}{' …' if len(outcome.ids) > 16 else ''}"  # noqa: PLR2004
    yield f"     expected {shown(outcome.expected, [case.form])}, got {shown(outcome.got, [case.form])}"
    yield f"     again: {report.reproduce(finding)}"


def _table(report: Report) -> Iterator[str]:
    """Yield how many cases of each class each oracle judged; `!` is a class in which something was found."""
    rows = report.table()
    used = [oracle for oracle in Oracle if any(counts[oracle] != (0, 0) for _, counts in rows)]
    yield "  ".join([f"{'class':<6}", *(f"{oracle.value:>10}" for oracle in used)])
    for attack, counts in rows:
        cells = [f"{counts[oracle][0]:,}{'!' if counts[oracle][1] else ''}" for oracle in used]
        yield "  ".join([f"{attack:<6}", *(f"{cell:>10}" for cell in cells), ATTACKS[attack]])
    speeds = report.speeds()
    yield "  ".join([f"{'a sec.':<6}", *(f"{speeds[oracle]:>10,.0f}" for oracle in used)])
