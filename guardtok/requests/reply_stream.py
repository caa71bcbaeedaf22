"""A reply that comes in events: each text of it sanitized as it would be whole, however events and bytes are cut.

The threat is the place where nobody looks: `<|im_` in one event and `end|>` in the next, a form in a field that a
client joins and a filter does not know, and the same text once more, whole and untouched, at the end. So every string
of every event is either a fragment of a text, which goes through that text's own stream, or is judged as it stands;
and what a reply says again goes on as it went on the first time.
"""

from __future__ import annotations

import json
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from guardtok.clean import is_clean
from guardtok.errors import LimitError, RefusedError, RequestError, StreamClosedError
from guardtok.examine import Examiner
from guardtok.records import LOGGED_GROUPS, defuse
from guardtok.requests.arguments import UnreadableError, read_json
from guardtok.requests.channels import Channel
from guardtok.requests.json_text import JsonText
from guardtok.requests.pieces import get, put, spell_steps, strings
from guardtok.requests.probabilities import drop_probabilities
from guardtok.requests.sse import EventReader, write_event
from guardtok.sinks import emit
from guardtok.stream import Stream
from guardtok.violation import Action

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from guardtok.requests.pieces import Dialect, Piece, Reading, Steps
    from guardtok.requests.request import Rewriter
    from guardtok.requests.sse import Event
    from guardtok.violation import Violation

MAX_TEXTS = 2_048
"""So many texts one reply may have: each costs a stream of its own."""

_DONE = b"[DONE]"
_EVENT_ENDS = (b"\n\n", b"\r\r", b"\r\n\r\n")
_NO_JSON = "the data of an event is no JSON object that every client would read alike; nothing of it was passed on."


class ReplyStream:
    """A streamed reply, server-sent events in and out. Made by `Guard.reply_stream`; not to be shared between threads.

    What `feed` and `finish` return is, joined, a stream of the same protocol, and each text in it is what
    `Guard.sanitize` makes of the whole text. An event in which nothing was changed or held back goes on byte for byte.
    What was found goes to the guard's sinks once: at the end, when the reply is refused, or when it is closed.

    Attributes:
        changed: Whether what went on so far differs from what came.
        passed: After an error, what could go on of the chunk that raised it: the events before the one that did.
    """

    def __init__(self, rewriter: Rewriter, dialect: Dialect, protocol: str, request_id: str | None) -> None:
        """Begin. Use `Guard.reply_stream`."""
        self._ruleset = rewriter.ruleset
        self._sinks = rewriter.examiner.sinks
        self._logged: list[Violation] = []
        self._rewriter = replace(rewriter, examiner=Examiner((self._logged.append,), rewriter.examiner.key))
        self._dialect = dialect
        self._protocol = protocol
        self._request_id = request_id
        self._reader = EventReader()
        self.changed = False
        self.passed = b""
        self._open = True
        self._room = rewriter.ruleset.policy.limits.max_chars
        self._texts: dict[Steps, Channel | JsonText] = {}
        # Those that have not ended, by what their names begin with: a choice, a block, an item.
        self._live: dict[str | int, dict[Steps, Channel | JsonText]] = {}
        self._last: dict[Steps, tuple[dict[str, Any], Piece, bool]] = {}  # of open texts, the last event of each
        self._said: dict[tuple[str, str], str] = {}  # by place and text: what went on, where something was found
        self._clean: dict[str, Any] | None = None  # the last event in which nothing was found, without its fragments
        self._found: list[Violation] = []  # outside of texts
        self._count = 0
        self._refused: tuple[Violation, ...] = ()

    @property
    def count(self) -> int:
        """How many matches were not allowed so far, those beyond the cap of `violations` included."""
        return self._count + sum(text.count for text in self._texts.values())

    @property
    def violations(self) -> tuple[Violation, ...]:
        """What the policy did not allow so far, at most `limits.max_violations`, each with its place.

        Places are those of the whole reply. First comes what lies in texts, then what was found elsewhere.
        """
        found = [each for text in self._texts.values() if text.count for each in text.violations]
        found += self._found
        missing = [each for each in self._refused if each not in found]
        return tuple([*missing, *found][: self._ruleset.policy.limits.max_violations])

    @property
    def action(self) -> Action:
        """The strictest action that anything found so far asks for; `allow` where nothing was found."""
        found = (*self.violations, *self._logged)
        return max((each.action for each in found), key=lambda action: action.severity, default=Action.ALLOW)

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes of the reply, cut anywhere, and return what can go on.

        Raises:
            RefusedError: The policy blocks a form that the reply holds. What it said before is in `passed`.
            RequestError: What came is no event of the protocol, or cannot be guarded.
            LimitError: A text of the reply is longer than `limits.max_chars`.
            SurrogateError: A lone surrogate under `surrogates: refuse`.
            VerificationError: A form could not be broken.
            StreamClosedError: The reply was finished, closed or refused.
            NotTextError: The chunk is not bytes (a `TypeError`).
        """
        self._check_open()
        passed: list[bytes] = []
        try:
            passed.extend(map(self._take, self._reader.feed(chunk)))
        except BaseException:
            self.passed = b"".join(passed)
            self.close()
            raise
        return b"".join(passed)

    def finish(self) -> bytes:
        """End the reply, and return what was held back. What was found goes to the sinks.

        What comes after the last whole event goes on if it is one but for its end, and is dropped otherwise, as clients
        drop it.

        Raises:
            GuardtokError: What `feed` raises.
        """
        self._check_open()
        try:
            last = self._reader.finish()
            if last is not None and not _is_event(last):
                self.changed = True
                last = None
            self.passed = self._take(last) if last is not None else b""
            rests = self._end_texts(((),), {})
            if rests and last is not None and not self.passed.endswith(_EVENT_ENDS):
                # The body ended in the middle of an event, and another one follows.
                self.passed += b"\n" if self.passed.endswith((b"\n", b"\r")) else b"\n\n"
            return self.passed + rests
        finally:
            self.close()

    def close(self) -> None:
        """Give up: what was held back is dropped, and what was found goes to the sinks. Closing twice does nothing."""
        if self._open:
            self._open = False
            for text in self._texts.values():
                if not text.ended:
                    text.close()
            self._live.clear()
            self._last.clear()
            self._said.clear()
            emit(_sum_up(self._logged), self._sinks)

    def _check_open(self) -> None:
        if not self._open:
            raise StreamClosedError(
                "This reply has ended. Begin a new one for the next: Guard.reply_stream(protocol=…)."
            )

    def _take(self, event: Event) -> bytes:
        """Return what goes on in place of an event."""
        if event.is_ambiguous:
            raise RequestError("reply.events", "$", "a line of an event is data for some clients, and none for others.")
        data = (event.data or b"").strip()
        if not data:
            return event.lead + event.raw()
        if data == _DONE:
            return event.lead + self._end_texts(((),), {}) + event.raw()
        body, plain = _read_json(data)
        named = event.name is not None
        # Clients take the event's name for the type that its data leaves out.
        reading = self._dialect.read(body if event.name is None or "type" in body else {**body, "type": event.name})
        made = self._feed_pieces(body, reading)
        rests = self._end_texts(reading.ends, made, reading.pieces)
        came = {steps: put(body, steps, "") for steps in made}
        for steps, text in self._say_again(body, reading):
            made[steps] = text
            came[steps] = put(body, steps, "")
        # Most events differ from the one before in a fragment alone.
        result = body if body == self._clean else self._judge(body, reading)
        same = plain and made == came and result == body
        before = None if same else deepcopy(body)
        for steps, text in made.items():
            put(result, steps, text)
            if before is not None:
                put(before, steps, came[steps])
        for piece in reading.pieces:
            if not self._texts[piece.text].ended:
                self._last[piece.text] = result, piece, named
        if before is None:
            return event.lead + rests + event.raw()
        self.changed = True
        drop_probabilities(before, result)
        return event.lead + rests + event.with_data(_write_json(result))

    def _feed_pieces(self, body: dict[str, Any], reading: Reading) -> dict[Steps, str]:
        """Return what becomes of each fragment of an event, by its place there."""
        made: dict[Steps, str] = {}
        for piece in reading.pieces:
            fragment = get(body, piece.steps)
            self._room -= len(fragment)
            if self._room < 0:
                limit = self._ruleset.policy.limits.max_chars
                raise LimitError(
                    f"The reply has more than the {limit:,} characters that the policy takes. "
                    "Ask for a shorter one, or raise `limits.max_chars`."
                )
            text = self._texts.get(piece.text)
            if text is None:
                text = self._texts[piece.text] = self._begin(piece)
                self._live.setdefault(piece.text[0], {})[piece.text] = text
            if text.ended:
                if fragment:
                    raise RequestError("reply.shape", text.path, "more of a text comes after the text ended.")
                made[piece.steps] = ""
            else:
                made[piece.steps] = self._guarded(text, fragment)
        return made

    def _begin(self, piece: Piece) -> Channel | JsonText:
        if len(self._texts) >= MAX_TEXTS:
            raise RequestError("reply.size", "$", f"the reply has more than {MAX_TEXTS:,} texts.")
        if piece.json:
            clean = partial(is_clean, source=piece.source, ruleset=self._ruleset)
            return JsonText(piece.path, partial(self._begin_text, piece.source, keep=False), clean)
        return self._begin_text(piece.source, piece.path, keep=self._dialect.restates)

    def _begin_text(self, source: str, path: str, *, keep: bool) -> Channel:
        logged = self._logged
        shown = defuse(path, self._ruleset)

        def log(records: Iterable[Violation]) -> None:
            logged.extend(replace(record, path=shown) for record in records)

        stream = Stream(
            self._ruleset,
            self._rewriter.breaker,
            self._rewriter.beginnings,
            source,
            key=self._rewriter.examiner.key,
            request_id=self._request_id,
            emit=log,
        )
        return Channel(stream, path, shown, keep=keep)

    def _guarded(self, text: Channel | JsonText, fragment: str | None) -> str:
        """Feed a text, or end it, and return what can go on; what refuses it gets the text's place."""
        try:
            return text.finish() if fragment is None else text.feed(fragment)
        except RefusedError as error:
            token, found = error.token, text.placed(error.violations)
        # Raised out here it has no context: the first one has no path.
        raise self._refuse(token, found)

    def _end_texts(self, names: Iterable[Steps], made: dict[Steps, str], pieces: Iterable[Piece] = ()) -> bytes:
        """End the texts whose names begin so, and return the events that say what was held back of them.

        Where the event at hand has a piece of one, the rest goes there.
        """
        events: list[bytes] = []
        here = {piece.text: piece.steps for piece in pieces}
        for name in dict.fromkeys(name for beginning in names for name in self._beginning_with(beginning)):
            text = self._live[name[0]].pop(name)
            rest = self._guarded(text, None)
            if text.restated is not None:
                given, went = text.restated
                self._said[text.path, given] = went
            last = self._last.pop(name, None)
            if name in here:
                made[here[name]] += rest
            elif rest and last is not None:
                body, piece, named = last
                self.changed = True
                event = self._dialect.rest(body, piece, rest)
                events.append(write_event(str(event.get("type")) if named else None, _write_json(event)))
        return b"".join(events)

    def _beginning_with(self, beginning: Steps) -> list[Steps]:
        if not beginning:
            return [name for names in self._live.values() for name in names]
        names = self._live.get(beginning[0], {})
        return [name for name in names if name[: len(beginning)] == beginning]

    def _say_again(self, body: dict[str, Any], reading: Reading) -> Iterator[tuple[Steps, str]]:
        """Yield what is said again, and what went on the first time."""
        if self._said:
            for steps, text in strings(body):
                known = self._said.get((reading.place(spell_steps(steps)), text))
                if known is not None:
                    yield steps, known

    def _judge(self, body: dict[str, Any], reading: Reading) -> dict[str, Any]:
        """Return an event with everything in it sanitized that is not empty by now."""
        logged = len(self._logged)
        found: tuple[Violation, ...] = ()
        try:
            result = self._rewriter.sanitize(body, reading.label, self._protocol, self._request_id)
            found = tuple(replace(each, path=reading.place(each.path)) for each in result.violations)
        except RefusedError as error:
            token, refused = error.token, error.violations
        except RequestError as error:
            rule, path, fact = error.rule, reading.place(error.path), error.fact
            raise RequestError(rule, path, fact) from None
        else:
            if not result.count:
                self._clean = body if not result.changed else None
                return result.body
            self._count += result.count
            self._found += found[: self._ruleset.policy.limits.max_violations - len(self._found)]
            self._remember(body, result.body, reading, found)
            return result.body
        finally:
            self._logged[logged:] = [replace(each, path=reading.place(each.path)) for each in self._logged[logged:]]
        raise self._refuse(token, [replace(each, path=reading.place(each.path)) for each in refused])

    def _remember(
        self, body: dict[str, Any], made: dict[str, Any], reading: Reading, found: tuple[Violation, ...]
    ) -> None:
        """Note what became of the strings in which something was found: servers repeat themselves."""
        places = {each.path for each in found}
        for steps, text in strings(body):
            path = reading.place(spell_steps(steps))
            if text and any(place.startswith(path) for place in places):
                went = get(made, steps)
                if isinstance(went, str):
                    self._said[path, text] = went

    def _refuse(self, token: str, found: list[Violation]) -> RefusedError:
        self._refused = tuple(found)
        return RefusedError(token, self._refused)


def _read_json(data: bytes) -> tuple[dict[str, Any], bool]:
    """Return the mapping that JSON holds, and whether it is in one line and no mapping in it has one key twice.

    Raises:
        RequestError: It holds none.
    """
    inner = None
    with suppress(UnicodeDecodeError, UnreadableError):
        inner = read_json(data.decode())
    if inner is None or not isinstance(inner.value, dict):
        raise RequestError("reply.events", "$", _NO_JSON)
    return inner.value, not inner.repeated and b"\n" not in data


def _write_json(value: dict[str, Any]) -> bytes:
    # ASCII: there are readers that take U+2028 for the end of a line.
    return json.dumps(value, separators=(",", ":")).encode()


def _is_event(event: Event) -> bool:
    """Whether what a body ended with is an event, but for the line that ends it."""
    data = (event.data or b"").strip()
    if data in {b"", _DONE}:
        return True
    try:
        _read_json(data)
    except RequestError:
        return False
    return True


def _sum_up(records: list[Violation]) -> Iterator[Violation]:
    """Yield what a log gets of a reply: the first records, then those of one rule, source and action as one."""
    yield from records[:LOGGED_GROUPS]
    groups: dict[tuple[object, ...], Violation] = {}
    for record in records[LOGGED_GROUPS:]:
        key = (record.rule, record.source, record.action)
        known = groups.get(key)
        groups[key] = (
            record
            if known is None
            else replace(known, token="*", token_id=None, role=None, count=known.count + record.count)  # noqa: S106
        )
    yield from groups.values()
