"""Every broken guard is found by its own attack class alone, and what is not broken is not."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

from guardtok.fuzz import ATTACKS, Oracle, fuzz
from tests.mutants import MUTANTS, Mutant, chats, encoding, hunt, text

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok import Guard

WHOLE = {(mutant.whole, mutant.attack): mutant.cases for mutant in sorted(MUTANTS, key=lambda each: each.cases)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_killed_by_its_own_class(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """A campaign of that class alone finds it, by the oracle that is there for it."""
    report = hunt(mutant, monkeypatch.setattr)
    assert [str(finding.outcome.oracle) for finding in report.findings] == [mutant.oracle]
    assert {finding.case.attack for finding in report.findings} == {mutant.attack}


@pytest.mark.parametrize(("whole", "attack"), WHOLE, ids=lambda value: getattr(value, "__name__", value))
def test_nothing_is_found_without_the_fault(whole: Callable[[], Guard], attack: str) -> None:
    """The same campaign over the same guard, unbroken, finds nothing by any oracle."""
    report = fuzz(whole(), cases=WHOLE[whole, attack], seconds=None, attacks=[attack])
    assert report.findings == ()
    assert report.cases == WHOLE[whole, attack]


def test_every_class_and_every_oracle_has_a_mutant() -> None:
    """But A23: the vocabulary itself is asked of tokenizers, and a guard has the one that it was given."""
    assert {mutant.attack for mutant in MUTANTS} == ATTACKS.keys() - {"A23"}
    assert {mutant.oracle for mutant in MUTANTS} == {oracle.value for oracle in Oracle}


def test_no_mutant_is_forgotten() -> None:
    """Each function that breaks a guard is in the list."""
    found = {
        function
        for module in (chats, encoding, text)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    assert {mutant.build for mutant in MUTANTS} == found
