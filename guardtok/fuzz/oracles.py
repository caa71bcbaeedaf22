"""The oracles for a tokenizer as its library offers it."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from guardtok.errors import is_failure
from guardtok.fuzz.attacks import Oracle
from guardtok.fuzz.case import BATCH, IDS, TEXT, THREADS
from guardtok.fuzz.doors import as_ids
from guardtok.fuzz.judge import Judgement, conversation, leftmost_longest, readings, repair
from guardtok.fuzz.shapes import CHATS
from guardtok.tokenizer import TokenClass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from guardtok.fuzz.case import Case
    from guardtok.fuzz.doors import Doors

MAX_PARSED = 2_000
"""Characters of a text that is read token by token in Python."""

_WORKERS = 4
_ROUNDS = 8


class Reader:
    """A tokenizer's tables, made ready for the oracles."""

    def __init__(self, doors: Doors) -> None:
        control = [token for token in doors.tokens if token.kind is TokenClass.CONTROL]
        self.doors = doors
        self.by_id = {token.id: token for token in control}
        self.ids = {token.form: token.id for token in control}
        self.simple = doors.rules is None
        self.by_first: dict[str, list[str]] = {}
        for form in self.ids:
            self.by_first.setdefault(form[:1], []).append(form)

    def spelled(self, text: str) -> list[int]:
        """Return the ids of the control tokens that a text spells, the leftmost and longest first."""
        firsts = {char for char in text if char in self.by_first}
        forms = [form for char in firsts for form in self.by_first[char]]
        return [self.ids[form] for _, form in leftmost_longest(text, forms)]

    def describe(self, id_: int, text: str) -> str:
        """Say what kind of token a leaked id is, and whether the text spells it."""
        token = self.by_id.get(id_)
        if token is None:
            return "an id that spells a control token and is none of its own"
        kind = "a special token" if token.special else "a token that is not special"
        return f"{kind} that the text {'spells' if token.form in text else 'does not spell'}"


def judge_tokenizer(case: Case, reader: Reader, other: Doors | None) -> Judgement:
    """Ask every oracle that has something to say of a case."""
    made = Judgement()
    if case.shape in CHATS:
        if reader.doors.chat is not None:
            _judge_chat(case, reader, made)
        return made
    texts = [part * case.repeat for part in case.parts] if case.shape in {BATCH, THREADS} else [case.text]
    encoded = [_judge_text(text, reader, other, made) for text in texts]
    if case.shape == BATCH:
        _judge_batch(texts, encoded, reader, made)
    if case.shape == THREADS:
        _judge_threads(texts, encoded, reader, made)
    if case.shape == IDS and encoded[0] is not None:
        _judge_again(encoded[0], reader, other, made)
    if case.shape in {TEXT, IDS} and len(texts[0]) <= MAX_PARSED:
        _judge_parsed(texts[0], reader, made)
    return made


def _judge_text(text: str, reader: Reader, other: Doors | None, made: Judgement) -> list[int] | None:
    """Judge an ordinary text: leak, round trip, drift, and whether it is the same a second time."""
    doors = reader.doors
    # Half a surrogate pair is no text, and a library may refuse it in any words that it likes; a panic is no refusal.
    declared = doors.declared if text == repair(text) else (Exception,)
    ids = made.encode("encode", declared, lambda: doors.encode(text))
    if other is not None:
        _judge_drift(text, ids, doors, other, made)
    if ids is None:
        return None
    made.ran |= {Oracle.LEAK, Oracle.SPLIT}
    leaked = sorted(doors.reserved.intersection(ids))
    for id_ in leaked[:1]:
        made.report(Oracle.LEAK, reader.describe(id_, text), "no reserved id", f"the reserved id {id_}", ids)
    again = made.encode("encode", doors.declared, lambda: doors.encode(text))
    if again != ids:
        made.report(Oracle.SPLIT, "the second time gives other ids", list(ids), again, ids)
    _judge_round_trip(text, ids, doors, made)
    if doors.twin is not None and not leaked:
        twin = doors.twin
        made.ran.add(Oracle.DRIFT)
        same = made.encode("encode with nothing disallowed", doors.declared, lambda: twin(text))
        if same is not None and same != ids:
            made.report(Oracle.DRIFT, "the library's two doors for ordinary text differ", ids, same, ids)
    return ids


def _judge_round_trip(text: str, ids: list[int], doors: Doors, made: Judgement) -> None:
    made.ran.add(Oracle.ROUND_TRIP)
    if doors.n_vocab is not None and any(not 0 <= id_ < doors.n_vocab for id_ in ids):
        made.report(
            Oracle.ROUND_TRIP, "an id that the vocabulary does not have", f"ids below {doors.n_vocab}", ids, ids
        )
        return
    if not doors.lossy.isdisjoint(ids):
        return
    decoded = made.call("decode", doors.declared, lambda: _decode(ids, doors))
    if decoded is None:
        if not any(outcome.oracle is Oracle.CRASH for outcome in made.outcomes):
            made.report(Oracle.ROUND_TRIP, "its own ids do not decode", "text", "an error", ids)
        return
    if decoded not in readings(text, doors.rules):
        fact = (
            "white space is lost or added"
            if _squeeze(decoded) == _squeeze(repair(text).encode())
            else "other text comes back"
        )
        made.report(Oracle.ROUND_TRIP, fact, text, decoded.decode(errors="replace"), ids)


def _decode(ids: list[int], doors: Doors) -> bytes:
    decode = doors.decode if doors.adapter is None else doors.adapter.decode_bytes
    spelled = decode(ids)
    return spelled.encode("utf-8", "surrogatepass") if isinstance(spelled, str) else bytes(spelled)


def _squeeze(data: bytes) -> str:
    return "".join(data.decode(errors="replace").replace("\u2581", " ").split())


def _judge_drift(text: str, ids: list[int] | None, doors: Doors, other: Doors, made: Judgement) -> None:
    made.ran.add(Oracle.DRIFT)
    theirs = made.encode(f"the other ({other.name})", (*other.declared, *doors.declared), lambda: other.encode(text))
    if (ids is None) != (theirs is None):
        fails = other.name if theirs is None else doors.name
        made.report(Oracle.DRIFT, f"only {fails} refuses it", ids, theirs, ids or ())
    elif ids is not None and theirs is not None and ids != theirs:
        reserved = doors.reserved | other.reserved
        control = [id_ for id_ in ids if id_ in reserved] != [id_ for id_ in theirs if id_ in reserved]
        made.report(Oracle.DRIFT, "other control tokens" if control else "other ids", ids, theirs, ids)


def _judge_batch(texts: list[str], encoded: Sequence[list[int] | None], reader: Reader, made: Judgement) -> None:
    batch = reader.doors.batch
    if batch is None or any(ids is None for ids in encoded):
        return
    door = "encode of a batch"
    together = made.call(door, reader.doors.declared, lambda: list(batch(texts)))
    if together is None:
        return
    made.ran.add(Oracle.SPLIT)
    listed = [made.listed(door, ids) for ids in together]
    if None not in listed and listed != list(encoded):
        made.report(Oracle.SPLIT, "a batch gives other ids than its texts alone", encoded, listed, encoded[0] or ())


def _judge_threads(texts: list[str], encoded: Sequence[list[int] | None], reader: Reader, made: Judgement) -> None:
    doors, start = reader.doors, threading.Barrier(_WORKERS)

    def work(shift: int) -> bool:
        start.wait()
        places = [(at + shift) % len(texts) for at in range(len(texts))] * _ROUNDS
        return all(encoded[at] is None or as_ids(doors.encode(texts[at])) == encoded[at] for at in places)

    made.ran.add(Oracle.SPLIT)
    try:
        with ThreadPoolExecutor(_WORKERS) as pool:
            same = all(pool.map(work, range(_WORKERS)))
    except BaseException as error:
        if not is_failure(error):
            raise
        same = False
    if not same:
        made.report(
            Oracle.SPLIT, "threads that share it get other ids than one alone", "the ids of one thread", "others"
        )


def _judge_again(ids: list[int], reader: Reader, other: Doors | None, made: Judgement) -> None:
    """Judge the text that ids decode to: it may spell what the first text did not."""
    decoded = made.call("decode", reader.doors.declared, lambda: _decode(ids, reader.doors))
    if decoded is not None:
        _judge_text(decoded.decode(errors="replace"), reader, other, made)


def _judge_parsed(text: str, reader: Reader, made: Judgement) -> None:
    """Judge whether the control tokens that are parsed are those that the text spells."""
    parse = reader.doors.parse
    if parse is None or not reader.simple:
        return
    expected = reader.spelled(text)
    ids = made.encode("encode with control tokens", reader.doors.declared, lambda: parse(text))
    if ids is None:
        return
    made.ran.add(Oracle.OVERLAP)
    got = [id_ for id_ in ids if id_ in reader.by_id]
    if got != expected and set(expected) <= set(reader.by_id):
        made.report(Oracle.OVERLAP, "a token is read as another that it begins with or overlaps", expected, got, ids)


def _judge_chat(case: Case, reader: Reader, made: Judgement) -> None:
    """Judge a conversation against its harmless twin, by how often each control token is in the ids."""
    ids, twin = _chat(case, reader, made), _chat(case.inert(), reader, made)
    if ids is None or twin is None:
        return
    made.ran |= {Oracle.FORGE, Oracle.ERASE}
    got, expected = (Counter(id_ for id_ in each if id_ in reader.doors.reserved) for each in (ids, twin))
    payload = reader.ids.get(case.form)
    more = {id_ for id_, count in got.items() if count > expected[id_]}
    if more and (payload in more or payload is None):
        made.report(Oracle.FORGE, _name_forgery(case, reader), sorted(expected.elements()), sorted(got.elements()), ids)
    # A template may write other tokens of its own because of what a message says, so only a loss without gain counts.
    elif expected - got and not more:
        made.report(Oracle.ERASE, "a conversation", sorted(expected.elements()), sorted(got.elements()), ids)


def _name_forgery(case: Case, reader: Reader) -> str:
    place = case.shape.removeprefix("chat: ")
    token = reader.by_id.get(reader.ids.get(case.form, -1))
    if token is None:
        return f"a token that {place} do not spell"
    kind = "a special token" if token.special else "a token that is not special"
    return f"{kind}, {'whole' if any(case.form in part for part in case.parts) else 'in pieces'}, in {place}"


def _chat(case: Case, reader: Reader, made: Judgement) -> list[int] | None:
    chat, built = reader.doors.chat, conversation(case)
    if chat is None or built is None:
        return None
    # A template may raise anything that it likes at a conversation that it has no place for.
    return made.encode("a conversation's encode", (Exception,), lambda: chat(*built))
