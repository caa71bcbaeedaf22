"""A scan's result for other programs: SARIF for code hosts, and a page of HTML that holds all it needs.

What is written names forms broken and quotes no text, as every record does; and a page obeys nothing that a file is
called.
"""

from __future__ import annotations

from enum import Enum
from html import escape
from importlib import metadata
from typing import TYPE_CHECKING, Any

from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from guardtok.corpus.scan import ScanResult

MAX_RESULTS = 5_000
"""So many results a SARIF file holds at most; code hosts refuse larger ones. The summary counts all."""

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {"log": "note", "escape": "warning", "strip": "warning", "block": "error"}
_SHOWN = 50


class Report(str, Enum):
    """How a scan's result is said."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    HTML = "html"
    GITHUB = "github"

    def __str__(self) -> str:
        return self.value


def to_sarif(result: ScanResult) -> dict[str, Any]:
    """Return the result as SARIF 2.1.0: a rule for each rule of the policy, a result for each violation that is listed.

    A row of a table has no line: its place is a logical location, `row 7, column text`.
    """
    results = [each for file in result.files for finding in file.findings for each in _results(finding)]
    rules = sorted({each["ruleId"] for each in results})
    notices = [{"level": "error", "message": {"text": visible(str(problem))}} for problem in result.total.problems]
    driver = {
        "name": "guardtok",
        "version": _version(),
        "rules": [{"id": rule, "shortDescription": {"text": f"A control token that {rule} names."}} for rule in rules],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": results[:MAX_RESULTS],
        "invocations": [{"executionSuccessful": not result.total.failed, "toolExecutionNotifications": notices}],
        "properties": {"findings": result.total.count, "documents": result.total.rows},
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _results(finding: dict[str, Any]) -> Iterable[dict[str, Any]]:
    lines = finding.get("lines")
    for at, violation in enumerate(finding["violations"]):
        place: dict[str, Any] = {"artifactLocation": {"uri": _uri(finding["path"])}}
        line = lines[at] if lines else finding.get("line")
        if line:
            place["region"] = {"startLine": line}
        item = f", item {finding['item']}" if "item" in finding else ""
        where = f"row {finding['row']}, column {finding['column']}{item}"
        what = f"{violation['token']} ({violation['form']}) at characters {violation['start']} to {violation['end']}"
        yield {
            "ruleId": violation["rule"],
            "level": _LEVELS.get(violation["action"], "warning"),
            "message": {"text": f"{what} of {where}; the policy says {violation['action']}."},
            "locations": [{"physicalLocation": place, "logicalLocations": [{"name": where}]}],
            "partialFingerprints": {"guardtok/v1": violation["digest"]},
        }


def _uri(path: str) -> str:
    from urllib.parse import quote

    uri = quote(path, safe="/:@", errors="surrogateescape")
    return uri if "://" in uri or ":" not in uri.partition("/")[0] else f"./{uri}"


def _version() -> str:
    try:
        return metadata.version("guardtok")
    except metadata.PackageNotFoundError:
        return "0"


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}code{font-family:ui-monospace,monospace}"
)


def to_html(result: ScanResult) -> str:
    """Return the result as a page: the counts, the worst files, the first findings and problems."""
    total = result.total
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>guardtok scan</title>",
        f"<style>{_STYLE}</style><h1>guardtok scan</h1>",
        f"<p>{len(result.files):,} files, {total.rows:,} documents, {total.size:,} bytes of text.</p>",
        (
            f"<p>{total.count:,} findings in {total.flagged:,} texts, {total.dropped:,} documents left out, and "
            f"{len(total.problems) + total.unlisted:,} problems.</p>"
        ),
    ]
    for heading, counts in result.tallies().items():
        if counts:
            parts.append(_table([heading, "findings"], list(counts.items())[:_SHOWN]))
    if result.worst:
        parts += ["<h2>The worst files</h2>", _table(["file", "findings"], [(f.path, f.count) for f in result.worst])]
    listed = [
        (finding["path"], finding["row"], finding["column"], violation["token"], violation["form"], violation["action"])
        for finding in total.findings
        for violation in finding["violations"]
    ]
    if listed:
        parts += ["<h2>The first findings</h2>"]
        parts.append(_table(["file", "row", "column", "token", "form", "action"], listed[:_SHOWN]))
    if total.problems:
        problems = [(str(problem),) for problem in total.problems[:_SHOWN]]
        parts += ["<h2>Problems</h2>", _table(["problem"], problems)]
    return "\n".join(parts) + "</html>\n"


def _table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>\n" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _cell(value: object) -> str:
    return f"<td class=n>{value:,}</td>" if isinstance(value, int) else f"<td>{escape(visible(str(value)))}</td>"
