"""Decided text → the stretches of the output: ordinary runs, as long as can be, and allowed tokens between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardtok.pieces import Piece, Reader
from guardtok.placement import place

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from guardtok.decide import Decided
    from guardtok.intake import Intake
    from guardtok.ruleset import Ruleset


def lay_out(intake: Intake, decided: Decided, ruleset: Ruleset) -> Iterable[Piece]:
    """Return the stretches of the output in order. No two ordinary runs follow each other."""
    rules = ruleset.rules
    if rules is not None and rules.places and decided.candidates:
        return place(intake, decided, ruleset, rules)
    if decided.allowed or decided.cuts:
        return _read_pieces(intake, decided, ruleset)
    return (Piece(intake.text, ((0, 0),), None),) if intake.text else ()


def _read_pieces(intake: Intake, decided: Decided, ruleset: Ruleset) -> Iterator[Piece]:
    reader = Reader(intake.text, decided.cuts, ruleset)
    last = 0
    for form, start, end in decided.allowed:
        if start > last and (run := reader.read(last, start)).text:
            yield run
        yield reader.take(start, end, ruleset.forms[form].token_id)
        last = end
    if last < len(intake.text) and (run := reader.read(last, len(intake.text))).text:
        yield run
