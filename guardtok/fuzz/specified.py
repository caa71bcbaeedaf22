"""A guard held against the specification: the whole decision and encode once more, slow and plain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guardtok import reference
from guardtok.errors import GuardtokError
from guardtok.fuzz.attacks import Oracle
from guardtok.tokenizer import RuledTokenizer

if TYPE_CHECKING:
    from guardtok.fuzz.judge import Judgement
    from guardtok.policy.model import Policy
    from guardtok.text import Text
    from guardtok.tokenizer import Tokenizer

WORK = 60_000
"""Forms times characters: so much the specification, which tries each form at each character, is asked to do."""


def is_specified(policy: Policy, tokenizer: Tokenizer) -> bool:
    """Return whether the specification knows all that decides: it knows no rules of tokenizers, and adds `auto` ids."""
    return not isinstance(tokenizer, RuledTokenizer) and all(token.id is not None for token in policy.custom_tokens)


def judge_specified(text: Text, out: Any, guard: Any, made: Judgement) -> None:  # noqa: ANN401 - a Guard's own
    """Judge the ids of a text, None where it was refused, by those that the specification gives."""
    policy, tokenizer = guard.policy, guard.tokenizer
    if len(text) * len(guard.ruleset.forms) > WORK:
        return
    try:
        expected = reference.encode(text, policy, tokenizer)
    except GuardtokError:
        return
    made.ran.add(Oracle.DRIFT)
    want, got = None if expected.refused else expected.ids, None if out is None else list(out)
    ordinary = [piece.text for piece in expected.pieces if piece.form is None]
    leaks = any(
        not tokenizer.reserved_ids.isdisjoint(tokenizer.encode_ordinary(run, at_start=False)) for run in ordinary
    )
    # Where the tokenizer makes a reserved id of plain text a guard cuts it apart; the specification does not.
    if want != got and not leaks:
        made.report(Oracle.DRIFT, "a guard and the specification differ", want, got, got or ())
