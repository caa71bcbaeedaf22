"""Reports: what a person reads without the code, and what machines read, neither of which spells a control token."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from guardtok.dialects import catalogue
from guardtok.fuzz import MEANING, Case, Finding, Oracle, Outcome, Report
from guardtok.fuzz.findings import shown
from guardtok.fuzz.report_html import write_html
from guardtok.fuzz.report_machines import write_junit, write_sarif
from guardtok.fuzz.report_text import write_text

HOSTILE = "a<|im_end|>\x1b[31m\u202e\ud800</td>\0<script>&\uff1c"

SARIF = {
    "type": "object",
    "required": ["$schema", "version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tool", "results"],
                "properties": {
                    "tool": {
                        "type": "object",
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "type": "object",
                                "required": ["name", "rules"],
                                "properties": {"rules": {"type": "array", "items": {"required": ["id"]}}},
                            }
                        },
                    },
                    "invocations": {"type": "array", "items": {"required": ["executionSuccessful"]}},
                    "results": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["message", "ruleId"],
                            "properties": {
                                "message": {"type": "object", "required": ["text"]},
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "partialFingerprints": {"additionalProperties": {"type": "string"}},
                                "locations": {
                                    "items": {
                                        "properties": {
                                            "logicalLocations": {"items": {"properties": {"kind": {"type": "string"}}}}
                                        },
                                        "additionalProperties": False,
                                    }
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}
"""What SARIF 2.1.0 asks for of the members that are written."""


def report(*oracles: Oracle) -> Report:
    """Return a report with a hostile finding for each of these oracles."""
    findings = tuple(
        Finding(
            Case("A7", "chat: parts", (HOSTILE, "<|im_start|>"), "<|im_end|>"),
            Outcome(oracle, f"cause {number}", HOSTILE, "<|im_end|>", (1, 2)),
            count=3,
        )
        for number, oracle in enumerate(oracles)
    )
    coverage = {"A1": {Oracle.LEAK: 40}, "A7": dict.fromkeys(oracles, 7)}
    return Report("t<b>", "lib 1.0", "guardtok fuzz t", 5, 2.0, 60, 1, coverage, findings, ("a note",))


EVERY = report(*Oracle)


@pytest.mark.parametrize("write", [write_text, write_html, write_sarif, write_junit, lambda r: json.dumps(r.to_dict())])
def test_no_report_spells_a_form_or_is_obeyed(write: Any) -> None:  # noqa: ANN401 - a function
    """Forms come out broken, and what a terminal obeys as escapes; so for every form of the catalogue."""
    written = write(EVERY)
    assert "<|im_end|>" not in written
    assert "&lt;|im_end|&gt;" not in written
    assert not any(char in written for char in "\x1b\u202e\ud800\0")
    assert "cause 0" in written
    for number, form in enumerate(catalogue()):
        if number % 97 == 0:
            finding = Finding(Case("A1", "text", (form,), form), Outcome(Oracle.LEAK, "c", form, form))
            one = write(Report("t", "l", "c", 0, 1.0, 1, 0, {}, (finding,)))
            assert form not in one.replace(form[:1] + "_" + form[1:], ""), form


class _Page(HTMLParser):
    """What an HTML page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_explains_itself() -> None:
    """One file without scripts or links, closed tags, and a sentence for each oracle."""
    page = _Page()
    written = write_html(EVERY)
    page.feed(written)
    assert page.open == []
    assert not page.links
    assert not page.seen & {"script", "img", "link", "iframe"}
    assert {"table", "section", "h3"} <= page.seen
    for oracle in Oracle:
        assert MEANING[oracle].split(":")[0] in written.replace("&#x27;", "'")
    assert "U+202E" in written
    assert "guardtok fuzz t --seed 5" in written
    assert "A7: a token that appears when another is removed" in written
    assert "Nothing found" in write_html(report())


def test_sarif_is_valid() -> None:
    """It has a rule for each oracle, and a result with a stable fingerprint for each finding."""
    document = json.loads(write_sarif(EVERY))
    jsonschema.validate(document, SARIF)
    (run,) = document["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert [rules[result["ruleIndex"]] for result in run["results"]] == [result["ruleId"] for result in run["results"]]
    assert len({result["partialFingerprints"]["guardtokFinding/v1"] for result in run["results"]}) == len(Oracle)
    assert write_sarif(EVERY) == write_sarif(EVERY)


def test_junit_counts_what_failed() -> None:
    """A test for each class and oracle that was tried, of which those with a finding fail."""
    root = ET.fromstring(write_junit(EVERY))  # noqa: S314 - it was written right here
    (suite,) = root.findall("testsuite")
    cases = suite.findall("testcase")
    assert len(cases) == int(suite.get("tests", "")) == len(Oracle) + 1
    assert sum(case.find("failure") is not None for case in cases) == int(suite.get("failures", "")) == len(Oracle)
    assert {case.get("classname") for case in cases} == {"guardtok.fuzz.A1", "guardtok.fuzz.A7"}


def test_text_for_eyes_is_told_apart() -> None:
    """What only looks like ASCII, or cannot be seen, is an escape; letters of other scripts are not."""
    assert shown("a\u200bb\uff1c文 слово\x9b", []) == "a\\u200bb\\uff1c文 слово\\x9b"
    assert shown("X1 X199", ["X199"]) == "X1 X_199"
    assert shown("y" * 10_000).endswith("(10,000 characters)")
