"""JSON inside JSON: the arguments of a call, which one template prints as they are and another one reads first.

So both have to be safe: the string as it stands, and what it decodes to. Nothing is decoded twice.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from guardtok.decide import Finding
    from guardtok.records import Report

_MAX_DIGITS = 4_000
"""Digits of an integer: Python reads no more than 4,300, so what has more is not JSON here and is for others."""


_LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
"""A string of JSON, as it is spelled."""


_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})|\\([^\w\s])")


class UnreadableError(Exception):
    """A string is JSON, but not such that it could be written again as it was. Never leaves this package."""


class Inner(NamedTuple):
    """What a string of JSON holds.

    Attributes:
        value: The value.
        repeated: Whether a mapping in it has one key twice: readers differ in which of them counts.
    """

    value: Any
    repeated: bool


def read_json(text: str) -> Inner | None:
    """Return what a string of JSON holds, or None where it is none.

    Raises:
        UnreadableError: It is JSON that could not be written again: too deep, or a number beyond all bounds.
    """
    repeated = False

    def pair(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        made = dict(pairs)
        repeated = repeated or len(made) < len(pairs)
        return made

    try:
        value = json.loads(
            text.lstrip("\ufeff"), strict=False, object_pairs_hook=pair, parse_int=_whole, parse_float=_finite
        )
    except RecursionError:
        too_deep = True
    except ValueError:
        return None
    else:
        return Inner(value, repeated)
    del too_deep
    raise UnreadableError("its JSON has too many lists and mappings inside one another. Flatten it.")


def read_escapes(text: str) -> str:
    """Return what a parser that takes more than JSON may read in a string: every escape, wherever it is."""

    def read(found: re.Match[str]) -> str:
        number = found[1] or found[2]
        return chr(int(number, 16)) if number else found[3]

    return _ESCAPE.sub(read, text)


def write_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return a value as JSON, with characters as they are."""
    return json.dumps(value, ensure_ascii=False)


def only_across(report: Report) -> Report:
    """Return the report of a string of JSON without what lies inside one string of it, for that was reported there."""
    decided, text = report.decided, report.intake.text
    if not decided.groups:
        return report
    spans = [found.span(1) for found in _LITERAL.finditer(text)]
    starts = [start for start, _ in spans]

    def is_inside(finding: Finding) -> bool:
        form, start, end = finding.match
        index = bisect_right(starts, start) - 1
        if index < 0 or end > spans[index][1]:
            return False
        if finding.view != "exact":
            return True
        # Behind a backslash, what looks like a form may be none.
        low, high = spans[index]
        return report.ruleset.forms[form].text in json.loads(f'"{text[low:high]}"', strict=False)

    findings = tuple(finding for finding in decided.findings if not is_inside(finding))
    groups = tuple((finding, 1) for finding in findings)
    return replace(report, decided=replace(decided, findings=findings, groups=groups))


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise UnreadableError(f"its JSON has an integer of more than {_MAX_DIGITS:,} digits. Send it as a string.")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise UnreadableError("its JSON has a number that no float can hold. Send it as a string.")
    return number
