"""Every finding, again: the library still does it, guardtok does not, and the specification says what guardtok says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import findings
from benchmarks.known import KNOWN, Known
from guardtok import Guard, Policy
from guardtok.encodings import load_tokenizer
from guardtok.fuzz import Case, Oracle, Outcome, fuzz
from guardtok.fuzz.case import GROWTH
from guardtok.fuzz.local import Local
from guardtok.fuzz.targets import open_target
from guardtok.tokenizer import RuledTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
VECTORS = json.loads((ROOT / "tests" / "vectors" / "findings.json").read_text("utf-8"))["vectors"]
PAGE = (ROOT / "docs" / "findings.md").read_text("utf-8")
REAL = {"o200k_harmony", "cl100k_base"}
POLICY = (
    "guardtok: 1\nname: findings\nlookalikes: ignore\nforeign: ignore\n"
    "sources:\n  template: {default: allow}\n  '*': {default: escape}\n"
)

vectors = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])


@pytest.fixture
def opened(vocab: Callable[[str], Any]) -> Callable[[str], None]:
    """Return a function that skips a test whose target is a vocabulary that is not here."""
    return lambda target: vocab(target) if target in REAL else None


def case_of(vector: dict[str, Any]) -> Case:
    """Return the case of a vector."""
    return Case.from_dict({**vector, "attack": vector["class"]})


@vectors
def test_the_library_still_does_it(vector: dict[str, Any], opened: Callable[[str], None]) -> None:
    """The oracle that found it finds it again. If this fails, a library was mended: say so in docs/findings.md."""
    opened(vector["target"])
    asked = Local(vector["target"], None, vector.get("against"))
    _, surveyed = asked.open()
    outcomes: list[Outcome] = [each for form, _, found in surveyed if form == vector["form"] for each in found]
    if vector["class"] != "A23" or not outcomes:
        outcomes = asked.ask(case_of(vector))[1]
    found = vector["found"]
    assert (found["oracle"], found["cause"]) in {(str(each.oracle), each.cause) for each in outcomes}


@vectors
def test_a_guard_does_not(vector: dict[str, Any], opened: Callable[[str], None]) -> None:
    """Nothing is found in a guard before the same tokenizer, and where the specification knows it, it was asked."""
    opened(vector["target"])
    doors = open_target(vector["target"]).doors
    assert doors.adapter is not None
    guard = Guard(Policy.parse(POLICY), doors.adapter, sinks=())
    case = case_of(vector)
    ran, outcomes = Local(guard).ask(case)
    assert outcomes == []
    if case.shape == "text" and not isinstance(doors.adapter, RuledTokenizer):
        assert Oracle.DRIFT.value in ran
        assert Oracle.LEAK.value in ran
    elif case.shape == GROWTH:
        assert ran == [Oracle.CRASH.value]


@pytest.mark.parametrize("vector", [each for each in VECTORS if each.get("against")], ids=lambda vector: vector["id"])
def test_an_engine_in_guardtok_gives_the_same_ids(vector: dict[str, Any], opened: Callable[[str], None]) -> None:
    """Where an engine's library differs from tiktoken, guardtok takes tiktoken's way."""
    opened(vector["target"])
    text = "".join(vector["parts"])
    plain, fast = (
        Guard(Policy.parse(POLICY), load_tokenizer(vector["target"], engine), sinks=())
        for engine in ("tiktoken", vector["against"])
    )
    assert fast.encode(text, source="user").ids == plain.encode(text, source="user").ids


def test_every_known_finding_is_a_vector() -> None:
    """With the oracle and the cause that are looked for."""
    written = {(vector["target"], vector["found"]["oracle"], vector["found"]["cause"]) for vector in VECTORS}
    assert {(known.target, known.oracle, known.cause) for known in KNOWN} <= written


def test_every_vector_is_on_the_page() -> None:
    """By its id, which says nothing that anybody could paste."""
    assert [vector["id"] for vector in VECTORS if f"`{vector['id']}`" not in PAGE] == []


def test_the_page_spells_no_attack() -> None:
    """Control tokens are broken there: a page ends up in prompts."""
    forms = {form for vector in VECTORS for form in (vector["form"], "".join(vector["parts"])) if len(form) > 3}
    assert {form for form in forms if form in PAGE} == set()


@pytest.mark.parametrize("known", [each for each in KNOWN if each.cases <= 120], ids=lambda known: known.name)
def test_what_is_known_is_found_unaided(known: Known, opened: Callable[[str], None]) -> None:
    """All classes and all oracles are on; the fuzzer is told the target and nothing else."""
    opened(known.target)
    assert findings.find(findings.run(known, None, 0), known) is not None


def test_what_is_missed_is_said() -> None:
    """A campaign that does not find it is no success."""
    known = Known("nothing", "benchmarks.known:words", "leak", "a cause that there is not")
    report = fuzz(known.target, cases=5, seconds=None)
    assert findings.find(report, known) is None
    assert "NOT FOUND" in findings.describe(known, report, None)
