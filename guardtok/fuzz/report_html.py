"""A report as one HTML file that opens offline: no script, nothing loaded from anywhere."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from guardtok.fuzz.attacks import ATTACKS, MEANING, Oracle
from guardtok.fuzz.findings import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardtok.fuzz.findings import Finding, Report

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c62828; --good: #2e7d32; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; } .wide { overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { vertical-align: bottom; }
td.bad { background: var(--bad); color: #fff; font-weight: 600; } td.none { opacity: .4; }
section { border: 1px solid var(--line); border-left: .4rem solid var(--bad); border-radius: .3rem; margin: 1.5rem 0;
 padding: .2rem 1.2rem 1rem; } dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0; }
code { font: 14px/1.6 ui-monospace, monospace; overflow-wrap: anywhere; background: var(--soft); padding: .1rem .3rem; }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
.esc { background: #f9a825; color: #000; border-radius: .2rem; } .brk { background: #90caf9; color: #000; }
.ok { color: var(--good); font-weight: 600; } .small { font-size: 14px; opacity: .8; }
"""

_ESCAPE = re.compile(r"(\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[nrt\\]))")


def write_html(report: Report) -> str:
    """Return the report as one HTML document."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>guardtok fuzz: {_text(report.target)}</title><style>{_STYLE}</style></head><body>",
            *_head(report),
            *_coverage(report),
            *_all(report),
            *_legend(),
            "</body></html>",
            "",
        ]
    )


def _text(text: str) -> str:
    return html.escape(text)


def _head(report: Report) -> Iterator[str]:
    count = len(report.findings)
    yield f"<h1>{_text(report.target)}</h1>"
    verdict = (
        f"{count} thing{'s' if count != 1 else ''} found"
        if count
        else "<span class=ok>Nothing found</span> in the cases that were tried, which is no proof that there is nothing"
    )
    yield f"<p>{verdict}.</p>"
    ended = ", ended before its time" if report.interrupted else ""
    yield (
        f"<p class=small>{_text(report.library)}; seed {report.seed}; {report.cases:,} cases in {report.seconds:.1f} s"
        f"{ended}; {report.vacuous:,} cases had lost their payload and were not counted.<br>"
        f"<code>{_text(report.command)} --seed {report.seed}</code></p>"
    )
    if report.notes:
        yield "<ul class=small>" + "".join(f"<li>{_text(note)}</li>" for note in report.notes) + "</ul>"


def _coverage(report: Report) -> Iterator[str]:
    rows = report.table()
    used = [oracle for oracle in Oracle if any(counts[oracle] != (0, 0) for _, counts in rows)]
    yield "<h2>What was tried</h2>"
    yield "<p>Each number says how many cases of an attack class an oracle has judged. Red: something was found.</p>"
    yield "<div class=wide><table><thead><tr><th>attack class</th>"
    yield "".join(f'<th title="{_text(MEANING[oracle])}">{_text(oracle)}</th>' for oracle in used)
    yield "</tr></thead><tbody>"
    for attack, counts in rows:
        cells = "".join(_cell(*counts[oracle]) for oracle in used)
        yield f"<tr><td>{_text(attack)}: {_text(ATTACKS[attack])}</td>{cells}</tr>"
    speeds = report.speeds()
    yield "<tr><td>cases a second</td>" + "".join(f"<td>{speeds[oracle]:,.0f}</td>" for oracle in used) + "</tr>"
    yield "</tbody></table></div>"


def _cell(count: int, found: int) -> str:
    if found:
        return f"<td class=bad>{count:,} ({found} found)</td>"
    return f"<td>{count:,}</td>" if count else "<td class=none>&ndash;</td>"


def _all(report: Report) -> Iterator[str]:
    yield "<h2>What was found</h2>"
    if not report.findings:
        yield "<p>Nothing.</p>"
    for number, finding in enumerate(report.findings, start=1):
        yield from _one(number, finding, report)


def _one(number: int, finding: Finding, report: Report) -> Iterator[str]:
    case, outcome = finding.case, finding.outcome
    yield f"<section id=f{number}><h3>{number}. {_text(outcome.oracle)}: {_text(outcome.cause)}</h3>"
    yield f"<p><b>What this means.</b> {_text(MEANING[outcome.oracle])}</p><dl>"
    where = "" if case.shape == "text" else f", in <code>{_text(case.shape)}</code>"
    often = f", {case.repeat:,} times in a row" if case.repeat > 1 else ""
    parts = " + ".join(f"<code>{_seen(part, case.form)}</code>" for part in case.parts)
    yield f"<dt>Input{where}{often}</dt><dd>{parts}</dd>"
    points = " ".join(f"U+{ord(char):04X}" for char in "".join(case.parts)[:64])
    yield f"<dd class=small>{points}</dd>"
    if case.form:
        yield f"<dt>It carries</dt><dd><code>{_seen(case.form, case.form)}</code></dd>"
    if outcome.ids:
        yield f"<dt>Ids</dt><dd><code>{', '.join(map(str, outcome.ids))}</code></dd>"
    yield f"<dt>Expected</dt><dd><code>{_seen(outcome.expected, case.form)}</code></dd>"
    yield f"<dt>Got</dt><dd><code>{_seen(outcome.got, case.form)}</code></dd>"
    known = "a vector of the corpus" if finding.known else f"found after {finding.seconds:.1f} s"
    yield (
        f"<dt>Seen</dt><dd>{known}; {finding.count:,} case{'s' if finding.count != 1 else ''} of class "
        f"{_text(case.attack)} ({_text(ATTACKS[case.attack])}) or others, of which this is the smallest</dd>"
    )
    yield f"<dt>Reproduce</dt><dd><pre>{_text(report.reproduce(finding))}</pre></dd></dl></section>"


def _seen(text: str, form: str) -> str:
    """Return text with its escapes marked; a backslash of its own is written double, so that it is none."""
    pieces = _ESCAPE.split(shown(text.replace("\\", "\\\\"), [form.replace("\\", "\\\\")]))
    return "".join(
        f"<span class=esc>{_text(piece)}</span>" if number % 2 else _text(piece) for number, piece in enumerate(pieces)
    )


def _legend() -> Iterator[str]:
    yield "<h2>How to read it</h2><ul>"
    yield (
        "<li>Control tokens are written <em>broken</em>, with <code>_</code> after the first character, so that this "
        "page can be copied into a prompt or a log. The line to reproduce has the exact text, as JSON escapes.</li>"
        "<li>What cannot be seen, what a terminal obeys and what only looks like ASCII is written as "
        "<span class=esc>\\u200b</span>.</li>"
        "<li>A <em>reserved id</em> is the id of a control token, which ordinary text must not become.</li>"
    )
    yield "".join(f"<li><b>{_text(oracle)}</b>: {_text(MEANING[oracle])}</li>" for oracle in Oracle) + "</ul>"
