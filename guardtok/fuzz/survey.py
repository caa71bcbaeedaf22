"""What can be said of a vocabulary without any text: tokens that are other tokens, ids that are nobody's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardtok.fuzz.attacks import Oracle
from guardtok.fuzz.judge import Judgement
from guardtok.tokenizer import TokenClass

if TYPE_CHECKING:
    from guardtok.fuzz.doors import Doors


def survey(doors: Doors) -> list[tuple[str, Judgement]]:
    """Judge every control token by itself; return the form of each that something is wrong with, and what.

    The first is of no form and counts what ran.
    """
    whole = Judgement(ran={Oracle.OVERLAP, Oracle.ROUND_TRIP})
    found: list[tuple[str, Judgement]] = [("", whole)]
    owners: dict[int, str] = {}
    for token in doors.tokens:
        made = Judgement()
        first = owners.setdefault(token.id, token.form)
        if first != token.form:
            made.report(
                Oracle.OVERLAP, "two tokens share an id", f"an id of its own for {token.form}", first, [token.id]
            )
        elif token.kind is TokenClass.CONTROL:
            _judge_token(token.form, token.id, doors, made)
        whole.ran |= made.ran
        if made.outcomes:
            found.append((token.form, made))
    return found


def _judge_token(form: str, id_: int, doors: Doors, made: Judgement) -> None:
    if doors.n_vocab is not None and not 0 <= id_ < doors.n_vocab:
        made.report(Oracle.ROUND_TRIP, "a token's id is beyond the vocabulary", f"below {doors.n_vocab}", id_, [id_])
        return
    spelled = made.call("decode", doors.declared, lambda: doors.decode([id_]))
    text = spelled.decode(errors="replace") if isinstance(spelled, bytes) else spelled
    if spelled is None:
        made.report(Oracle.ROUND_TRIP, "a token's id does not decode", form, "an error", [id_])
    elif doors.rules is None and text != form:
        made.report(Oracle.ROUND_TRIP, "a token's id decodes to something else", form, text, [id_])
    if doors.parse is None or made.outcomes:
        return
    parse = doors.parse
    ids = made.encode("encode with control tokens", doors.declared, lambda: parse(form))
    if ids is None:
        return
    if doors.rules is None and ids != [id_]:
        made.report(Oracle.OVERLAP, "a token is read as another that it begins with or overlaps", [id_], ids, ids)
    elif id_ not in ids and not doors.reserved.isdisjoint(ids):
        made.report(Oracle.OVERLAP, "a token is read as another", [id_], ids, ids)
