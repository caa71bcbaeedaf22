"""A report for machines: SARIF 2.1.0 for code scanning, JUnit for test runners. No form is spelled in either."""

from __future__ import annotations

import json
import re
from importlib import metadata
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET  # Written with, never read.

from guardtok.fuzz.attacks import ATTACKS, MEANING, Oracle
from guardtok.fuzz.corpus_dir import vector_name
from guardtok.fuzz.findings import shown

if TYPE_CHECKING:
    from guardtok.fuzz.findings import Finding, Report

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"

_LEVELS = {Oracle.LEAK: "error", Oracle.FORGE: "error", Oracle.ERASE: "error", Oracle.LOG: "error"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_sarif(report: Report) -> str:
    """Return the report as SARIF 2.1.0: a rule for each oracle, a result for each finding."""
    rules = [
        {
            "id": _rule(oracle),
            "name": oracle.value.title().replace(" ", ""),
            "shortDescription": {"text": oracle.value},
            "fullDescription": {"text": MEANING[oracle]},
            "defaultConfiguration": {"level": _LEVELS.get(oracle, "warning")},
        }
        for oracle in Oracle
    ]
    run = {
        "tool": {
            "driver": {
                **_version(),
                "name": "guardtok fuzz",
                "informationUri": "https://pypi.org/project/guardtok/",
                "rules": rules,
            }
        },
        "invocations": [{"executionSuccessful": not report.interrupted, "commandLine": report.command}],
        "results": [_result(finding, report) for finding in report.findings],
        "properties": {
            "seed": report.seed,
            "cases": report.cases,
            "seconds": round(report.seconds, 3),
            "notes": list(report.notes),
        },
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _version() -> dict[str, str]:
    try:
        return {"version": metadata.version("guardtok")}
    except metadata.PackageNotFoundError:
        return {}


def _rule(oracle: Oracle) -> str:
    return f"guardtok/{oracle.value.replace(' ', '-')}"


def _result(finding: Finding, report: Report) -> dict[str, Any]:
    oracle = finding.outcome.oracle
    return {
        "ruleId": _rule(oracle),
        "ruleIndex": list(Oracle).index(oracle),
        "level": _LEVELS.get(oracle, "warning"),
        "message": {"text": _message(finding, report)},
        "locations": [{"logicalLocations": [{"fullyQualifiedName": report.target, "kind": "module"}]}],
        "partialFingerprints": {"guardtokFinding/v1": vector_name(finding, report.target)},
        "properties": {
            "attack": finding.case.attack,
            "attackTitle": ATTACKS[finding.case.attack],
            "count": finding.count,
            "case": finding.case.to_json(),
        },
    }


def _message(finding: Finding, report: Report) -> str:
    case, outcome = finding.case, finding.outcome
    return (
        f"{outcome.oracle}: {outcome.cause}. Input: {shown(case.text, [case.form])}. "
        f"Expected {shown(outcome.expected, [case.form])}, got {shown(outcome.got, [case.form])}. "
        f"{MEANING[outcome.oracle]} Again: {report.reproduce(finding)}"
    )


def write_junit(report: Report) -> str:
    """Return the report as JUnit's XML: a test for each attack class and oracle that was tried; findings fail it."""
    cases: list[ET.Element] = []
    for attack, counts in report.table():
        for oracle, (count, found) in counts.items():
            if not count and not found:
                continue
            element = ET.Element("testcase", classname=f"guardtok.fuzz.{attack}", name=oracle.value, time="0")
            for finding in report.findings:
                if (finding.case.attack, finding.outcome.oracle) == (attack, oracle):
                    failure = ET.SubElement(element, "failure", type=_rule(oracle), message=_xml(finding.outcome.cause))
                    failure.text = _xml(_message(finding, report))
            cases.append(element)
    failures = sum(element.find("failure") is not None for element in cases)
    seconds = f"{report.seconds:.3f}"
    suite = ET.Element(
        "testsuite",
        name=_xml(f"guardtok fuzz {report.target}"),
        tests=str(len(cases)),
        failures=str(failures),
        errors="0",
        skipped="0",
        time=seconds,
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in (("seed", report.seed), ("cases", report.cases), ("library", report.library)):
        ET.SubElement(properties, "property", name=name, value=_xml(str(value)))
    suite.extend(cases)
    root = ET.Element("testsuites", tests=str(len(cases)), failures=str(failures), errors="0", time=seconds)
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
