"""Vectors: texts, each with what must be found in them, run against production and against the specification."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from guardtok import Guard, Policy
from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.dialects import catalogue
from guardtok.reference_views import disguises
from guardtok.ruleset import FormKind
from guardtok.views.lookout import views_for
from guardtok.violation import Action, broken

FILES = sorted((Path(__file__).parent / "vectors").glob("lookalikes*.json"))
CASES = [
    pytest.param(document["tokens"], vector, id=f"{path.stem}-{vector['id']}")
    for path in FILES
    for document in [json.loads(path.read_text("utf-8"))]
    for vector in document["vectors"]
]


@cache
def guard(tokens: str, policy: str) -> Guard:
    """Return a guard over a tokenizer of bytes and the given control tokens."""
    ranks = {bytes([code]): code for code in range(256)}
    tokenizer = tiktoken.Encoding("vectors", pat_str="(?s:.)", mergeable_ranks=ranks, special_tokens=json.loads(tokens))
    return Guard(Policy.parse(policy), TiktokenTokenizer(tokenizer), sinks=(), digest_key=b"key")


def by_production(made: Guard, vector: dict[str, Any]) -> tuple[str, list[tuple[str, str, int, int]]]:
    """Return action and findings as the guard gives them."""
    verdict = made.check(vector["text"], source=vector["source"])
    return str(verdict.action), [(each.form, each.token, each.start, each.end) for each in verdict.violations]


def by_specification(made: Guard, vector: dict[str, Any]) -> tuple[str, list[tuple[str, str, int, int]]]:
    """Return action and findings, worked out plainly for a text of one source."""
    ruleset, source, text = made.ruleset, vector["source"], vector["text"]
    exact = [
        (index, at, at + len(form.text))
        for at in range(len(text))
        for index, form in enumerate(ruleset.forms)
        if text.startswith(form.text, at)
    ]
    known = catalogue()
    shapes = {
        index: (form.text, views_for(form.text, common=form.text in known and known[form.text].common))
        for index, form in enumerate(ruleset.forms)
    }
    found = [(*match, "exact", ruleset.table[source][match[0]].action) for match in exact]
    reaction = Action("allow" if str(ruleset.lookalikes[source]) == "ignore" else str(ruleset.lookalikes[source]))
    for form, start, end, view, inner in disguises(text, exact, shapes, ruleset.policy.limits.max_hidden):
        if inner:
            continue
        itself = ruleset.table[source][form].action
        least = (
            [reaction, itself] if ruleset.forms[form].kind is FormKind.FOREIGN or itself is Action.ALLOW else [reaction]
        )
        found.append((form, start, end, view, min(least, key=lambda action: action.severity)))
    told = sorted((each for each in found if each[4] is not Action.ALLOW), key=lambda each: (each[1], -each[2]))
    action = max((each[4] for each in told), key=lambda action: action.severity, default=Action.ALLOW)
    return str(action), [(view, broken(ruleset.forms[form].text), start, end) for form, start, end, view, _ in told]


@pytest.mark.parametrize("decide", [by_production, by_specification])
@pytest.mark.parametrize(("tokens", "vector"), CASES)
def test_vector(tokens: dict[str, int], vector: dict[str, Any], decide: Any) -> None:  # noqa: ANN401 - either function
    """Production and specification find what the vector says, where it says, under the name it says."""
    expected = vector["expected"]
    findings = [(each["form"], broken(each["token"]), each["start"], each["end"]) for each in expected["findings"]]
    assert decide(guard(json.dumps(tokens), vector["policy"]), vector) == (expected["action"], findings)


def test_ids_of_vectors_are_unique() -> None:
    """A vector can be named."""
    names = [case.id for case in CASES]
    assert len(names) == len(set(names)) > 0
