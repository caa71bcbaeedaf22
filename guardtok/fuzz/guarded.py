"""The oracles for a guard: what a policy promises, asked from outside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from guardtok.errors import GuardtokError, RefusedError
from guardtok.fuzz.attacks import Oracle
from guardtok.fuzz.bodies import BODIES, judge_body
from guardtok.fuzz.case import BATCH, THREADS
from guardtok.fuzz.doors import as_ids
from guardtok.fuzz.judge import Judgement, conversation, readings, repair
from guardtok.fuzz.specified import is_specified, judge_specified
from guardtok.ruleset import catalogue_automata
from guardtok.scan import find
from guardtok.text import Text
from guardtok.tokenizer import RuledTokenizer, TokenClass
from guardtok.violation import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from guardtok.fuzz.case import Case
    from guardtok.fuzz.shapes import Message

TRUSTED, UNTRUSTED = "template", "user"
"""The sources of the text around a case, and of the case."""

DECLARED = (GuardtokError,)

MAX_CHUNKED = 200
"""Characters of a text that is streamed one by one."""

TEMPLATE = (
    "{% for m in messages %}OPEN{{ m.role }}{% if m.name is defined %} {{ m.name }}{% endif %}\n"
    "{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for p in m.content or [] %}{{ p.text }}{% endfor %}{% endif %}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{{ m.reasoning_content or '' }}CLOSE\n"
    "{% endfor %}{% for t in tools or [] %}{{ t.function.name }}: {{ t | tojson }}\n{% endfor %}"
)
"""The chat template of a tokenizer that has none: each turn between two of its control tokens."""

_OBEYED = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *"\u200e\u200f\u202a\u202b\u202c\u202d\u202e"}
_OBEYED |= {*"\u2066\u2067\u2068\u2069"}


class Warden:
    """A guard, and what follows from its policy once for all cases."""

    def __init__(self, guard: Any) -> None:  # noqa: ANN401 - a Guard, or what should behave as one
        self.guard = guard
        ruleset = guard.ruleset
        self.tokenizer = guard.tokenizer
        decisions = list(zip(ruleset.forms, ruleset.table.get(UNTRUSTED, ()), strict=False))
        free = {form.token_id for form, decision in decisions if decision.action is Action.ALLOW}
        self.reserved = frozenset(ruleset.reserved) - free
        self.quiet = not free
        self.ids = {form.text: form.token_id for form in ruleset.forms if form.token_id in self.reserved}
        self.automata = ruleset.automata
        may = list(zip(ruleset.forms, ruleset.table.get(TRUSTED, ()), strict=False))
        # Only a token without rules of its own is the same wherever it stands.
        plain = {
            token.form
            for token in self.tokenizer.control_tokens
            if token.kind is TokenClass.CONTROL and not (token.single_word or token.normalized)
        }
        allowed = [form for form, decision in may if decision.action is Action.ALLOW and form.text in plain]
        self.trusted = {form.text: form.token_id for form in allowed}
        named = [form.text for form in allowed if form.role in {"turn", "eos"}] or list(self.trusted)
        self.frame = (named[0], named[-1]) if named else None
        self.specified = is_specified(guard.policy, self.tokenizer)
        self.template = getattr(self.tokenizer, "chat_template", None)
        if not isinstance(self.template, str) and self.frame is not None:
            opening, closing = self.frame
            self.template = TEMPLATE.replace("OPEN", opening).replace("CLOSE", closing)

    def held(self, ids: Sequence[int]) -> list[int]:
        """Return the reserved ids among these that the untrusted source may not write."""
        return [id_ for id_ in ids if id_ in self.reserved]


def judge_guard(case: Case, warden: Warden) -> Judgement:
    """Ask every oracle that has something to say of a case."""
    made = Judgement()
    if case.shape in BODIES:
        _judge_request(case, warden, made)
        return made
    if (built := conversation(case)) is not None:
        _judge_chat(case, built, warden, made)
        return made
    texts = [part * case.repeat for part in case.parts] if case.shape in {BATCH, THREADS} else [case.text]
    for text in texts:
        _judge_text(text, warden, made)
    _judge_frame(case, warden, made)
    _judge_splits(case, texts, warden, made)
    _judge_sanitize(case, texts[0], warden, made)
    return made


def _call(made: Judgement, door: str, warden: Warden, call: Callable[[], Any]) -> Any:  # noqa: ANN401 - what it returns
    """Call the guard; of its errors none but a refusal may name a form."""

    def checked() -> object:
        try:
            return call()
        except RefusedError as error:
            _judge_records(error.violations, warden, made)
            raise
        except GuardtokError as error:
            judge_written(str(error), warden, made)
            raise

    return made.call(door, DECLARED, checked)


def _judge_text(text: str, warden: Warden, made: Judgement) -> None:
    """Judge a text of one untrusted source: leak, round trip, drift, log."""
    guard, tokenizer = warden.guard, warden.tokenizer
    out = _call(made, "guard.encode", warden, lambda: guard.encode(text, source=UNTRUSTED))
    verdict = _call(made, "guard.check", warden, lambda: guard.check(text, source=UNTRUSTED))
    if verdict is None:
        # It never raises because of what a text holds.
        if not any(outcome.oracle is Oracle.CRASH for outcome in made.outcomes):
            made.report(Oracle.CRASH, "guard.check raises", "a verdict", "an error")
    else:
        _judge_records(verdict.violations, warden, made)
    if out is None:
        return
    made.ran |= {Oracle.LEAK, Oracle.ROUND_TRIP, Oracle.DRIFT}
    ids = as_ids(out.ids)
    if leaked := warden.held(ids):
        made.report(Oracle.LEAK, "guard.encode lets a reserved id through", "no reserved id", leaked, ids)
        return
    _judge_records(out.violations, warden, made)
    if verdict is not None and (verdict.count == 0) != (not out.violations):
        made.report(Oracle.DRIFT, "check and encode disagree", verdict.count, len(out.violations), ids)
    if any(violation.action in {Action.STRIP, Action.BLOCK} for violation in out.violations):
        return
    clean = repair(text)
    unknown = {token.id for token in tokenizer.control_tokens if token.kind is TokenClass.UNKNOWN}
    rules = tokenizer if isinstance(tokenizer, RuledTokenizer) else None
    decoded = tokenizer.decode_bytes(ids)
    if unknown.isdisjoint(ids) and decoded not in readings(clean, rules):
        made.report(
            Oracle.ROUND_TRIP, "a guarded text does not come back", clean, decoded.decode(errors="replace"), ids
        )
    if not out.violations and warden.quiet:
        raw = as_ids(tokenizer.encode_ordinary(clean, at_start=True))
        # Where the tokenizer itself makes a reserved id, the guard has to differ.
        if raw != ids and not warden.held(raw):
            made.report(Oracle.DRIFT, "clean text gets other ids than without a guard", raw, ids, ids)


def _judge_frame(case: Case, warden: Warden, made: Judgement) -> None:
    """Judge a text between two trusted tokens against harmless text in its place: forge, erase, overlap."""
    if warden.frame is None:
        return
    opening, closing = warden.frame

    def encode(parts: Sequence[str]) -> list[int] | None:
        whole = Text(opening, source=TRUSTED)
        for number, part in enumerate(parts):
            whole += Text(part * case.repeat, source=UNTRUSTED, path=f"[{number}]")
        whole += Text(closing, source=TRUSTED)
        out = _call(made, "guard.encode", warden, lambda: warden.guard.encode(whole))
        ids = None if out is None else as_ids(out.ids)
        if warden.specified:
            judge_specified(whole, ids, warden.guard, made)
        return ids

    ids, twin = encode(case.parts), encode(case.inert().parts)
    made.ran |= {Oracle.FORGE, Oracle.ERASE, Oracle.OVERLAP}
    tokens = [warden.trusted[opening], warden.trusted[closing]]
    if twin is not None and warden.held(twin) != [id_ for id_ in tokens if id_ in warden.reserved]:
        made.report(Oracle.OVERLAP, "a trusted token is not read as itself", tokens, warden.held(twin), twin)
    elif ids is not None and twin is not None:
        got, expected = warden.held(ids), warden.held(twin)
        if len(got) > len(expected) or (len(got) == len(expected) and got != expected):
            made.report(Oracle.FORGE, "text between trusted tokens", expected, got, ids)
        elif got != expected:
            made.report(Oracle.ERASE, "text between trusted tokens", expected, got, ids)


def _judge_splits(case: Case, texts: list[str], warden: Warden, made: Judgement) -> None:
    """Judge whether a batch, and a text in parts of one source, give what the whole gives."""
    guard = warden.guard
    whole = _call(made, "guard.encode", warden, lambda: guard.encode(case.text, source=UNTRUSTED))
    cut = Text("", source=UNTRUSTED)
    for part in case.parts * case.repeat if case.repeat <= MAX_CHUNKED else (case.text,):
        cut += Text(part, source=UNTRUSTED)
    parted = _call(made, "guard.encode", warden, lambda: guard.encode(cut))
    made.ran.add(Oracle.SPLIT)
    if (whole is None) != (parted is None):
        made.report(Oracle.SPLIT, "a text in parts is refused, or is not, where the whole is not, or is")
    elif whole is not None and parted is not None and as_ids(whole.ids) != as_ids(parted.ids):
        made.report(Oracle.SPLIT, "a text in parts gives other ids", whole.ids, parted.ids, parted.ids)
    batch = _call(made, "guard.encode_batch", warden, lambda: guard.encode_batch(texts, source=UNTRUSTED))
    if batch is not None:
        alone = [as_ids(guard.encode(text, source=UNTRUSTED).ids) for text in texts]
        if [as_ids(out.ids) for out in batch] != alone:
            made.report(Oracle.SPLIT, "a batch gives other ids", alone, [out.ids for out in batch])


def _judge_sanitize(case: Case, text: str, warden: Warden, made: Judgement) -> None:
    """Judge text that goes on as text: clean, the same when sanitized again, the same as a stream."""
    guard = warden.guard
    done = _call(made, "guard.sanitize", warden, lambda: guard.sanitize(text, source=UNTRUSTED))
    if done is None:
        return
    made.ran |= {Oracle.LEAK, Oracle.SPLIT}
    _judge_records(done.violations, warden, made)
    left = [form for form in warden.ids if form in done.text] if len(done.text) <= MAX_CHUNKED * 10 else []
    changing = any(violation.action in {Action.ESCAPE, Action.STRIP} for violation in done.violations)
    if left and changing:
        made.report(Oracle.LEAK, "sanitized text spells a control token", "a broken form", left[0])
    again = _call(made, "guard.sanitize", warden, lambda: guard.sanitize(done.text, source=UNTRUSTED))
    if again is not None and again.text != done.text:
        made.report(Oracle.SPLIT, "sanitizing again changes the text", done.text, again.text)
    if len(text) > MAX_CHUNKED:
        return
    for chunks in (case.parts if case.repeat == 1 and "".join(case.parts) == text else (text,), tuple(text)):
        streamed = _call(made, "guard.stream", warden, lambda chunks=chunks: _stream(guard, chunks))  # type: ignore[misc]
        if streamed is not None and streamed != done.text:
            made.report(Oracle.SPLIT, "a stream gives other text than the whole", done.text, streamed)


def _stream(guard: Any, chunks: Sequence[str]) -> str:  # noqa: ANN401 - a Guard
    stream = guard.stream(source=UNTRUSTED)
    return "".join([*map(stream.feed, chunks), stream.finish()])


def _judge_chat(case: Case, built: tuple[list[Message], list[Message] | None], warden: Warden, made: Judgement) -> None:
    """Judge a conversation against its harmless twin: forge, erase, log."""
    guard, template = warden.guard, warden.template

    def encode(messages: list[Message], tools: list[Message] | None) -> Any:  # noqa: ANN401 - an Encoded
        return guard.encode_chat(messages, template, tools=tools)

    out = _call(made, "guard.encode_chat", warden, lambda: encode(*built))
    twin_chat = conversation(case.inert())
    twin = None if twin_chat is None else _call(made, "guard.encode_chat", warden, lambda: encode(*twin_chat))
    if out is None or twin is None:
        return
    _judge_records(out.violations, warden, made)
    made.ran |= {Oracle.FORGE, Oracle.ERASE}
    if any(violation.rule == "template_branch" for violation in out.violations):
        return  # The template writes other tokens of its own because of what a message says; it is reported as that.
    ids = as_ids(out.ids)
    got, expected = warden.held(ids), warden.held(as_ids(twin.ids))
    if len(got) > len(expected) or (len(got) == len(expected) and got != expected):
        made.report(Oracle.FORGE, "a conversation", expected, got, ids)
    elif got != expected:
        made.report(Oracle.ERASE, "a conversation", expected, got, ids)


def _judge_request(case: Case, warden: Warden, made: Judgement) -> None:
    def sanitize(body: dict[str, Any], protocol: str) -> Any:  # noqa: ANN401 - a sanitized request
        door = "guard.sanitize_chat"
        done = _call(made, door, warden, lambda: warden.guard.sanitize_chat(body, protocol=protocol))
        if done is not None:
            _judge_records(done.violations, warden, made)
        return done

    if hasattr(warden.guard, "sanitize_chat"):
        judge_body(case, warden.ids, sanitize, made)


def _judge_records(violations: Sequence[Any], warden: Warden, made: Judgement) -> None:
    made.ran.add(Oracle.LOG)
    for violation in violations:
        record = violation.to_dict()
        for name, value in record.items():
            if isinstance(value, str):
                judge_written(value, warden, made, f"a record's {name}")
        json.dumps(record)


def judge_written(written: str, warden: Warden, made: Judgement, what: str = "an error") -> None:
    """Judge what goes into a log: it spells no form, and no terminal obeys it."""
    made.ran.add(Oracle.LOG)
    if any(char in _OBEYED for char in written.replace("\n", " ")):
        made.report(Oracle.LOG, f"{what} holds what a terminal obeys", "an escape", "the character itself")
    data = written.encode("utf-8", "backslashreplace")
    if any(True for _ in find(data, warden.automata)) or any(True for _ in find(data, catalogue_automata())):
        made.report(Oracle.LOG, f"{what} spells a control token", "a broken form", "the form")
