"""Text that comes in chunks and goes on as text: sanitized as it would be whole, wherever it was cut.

The threat is the cut itself: `<|im_` in one chunk and `end|>` in the next, half a surrogate pair, a byte in the middle
of a character. A filter that looks at each chunk alone sees none of them. Here what may be the beginning of a form
waits for what follows, and nothing else does.
"""

from __future__ import annotations

import codecs
from bisect import bisect_left
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from guardtok.decide import Window, decide, leftmost_longest
from guardtok.edits import Editor
from guardtok.errors import InvalidUTF8Error, LimitError, NotTextError, RefusedError, StreamClosedError
from guardtok.intake import Intake, take_in
from guardtok.lookalikes import add_disguises, longest_disguise, look
from guardtok.policy.model import LogText, Surrogates
from guardtok.records import AROUND, Report, Tally, hasher
from guardtok.scan import scan
from guardtok.text import Run

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator

    from guardtok.beginnings import Beginnings
    from guardtok.breaking import Breaker
    from guardtok.decide import Decided, Finding
    from guardtok.ruleset import Ruleset
    from guardtok.views import Disguise
    from guardtok.violation import Match, Violation


class Stream:
    """One text of one source, in chunks. Made by `Guard.stream`; not to be shared between threads.

    What `feed`, `feed_bytes` and `finish` return is, joined, what `Guard.sanitize` makes of the whole text, and
    `violations` are its violations, positions in the whole text. What was found goes to the guard's sinks once: at the
    end, when the stream is refused, or when it is closed.
    """

    def __init__(  # noqa: PLR0913 - the guard's parts, and what the call gave
        self,
        ruleset: Ruleset,
        breaker: Breaker,
        beginnings: Beginnings,
        source: str,
        *,
        key: bytes,
        request_id: str | None,
        emit: Callable[[Iterable[Violation]], None],
    ) -> None:
        """Begin. Use `Guard.stream`."""
        self._ruleset = ruleset
        self._policy = ruleset.policy
        self._beginnings = beginnings
        self._source = source
        self._longest = longest_disguise(ruleset)
        self._lookout = ruleset.lookout if source in ruleset.watched else None
        # The tokenizer's rules, if its normaliser can make a form of characters that do not begin one.
        self._folds = ruleset.rules if ruleset.rules is not None and ruleset.rules.folding is not None else None
        self._key = key
        self._request_id = request_id
        self._emit = emit
        self._editor = Editor(ruleset, breaker, beginnings, {source})
        self._decoder = codecs.getincrementaldecoder("utf-8")(
            "replace" if self._policy.surrogates is Surrogates.REPLACE else "strict"
        )
        self._undecoded = False
        self._open = True
        self._taken = 0  # the characters that were fed
        self._half = ""  # the first half of a surrogate pair, if the last chunk ended in one
        # What was let go of is forgotten, but for as much as a match, its record or the next edit may reach back.
        self._reach = ruleset.longest + AROUND + 1
        self._buffer = ""
        self._front = 0  # the first character of the buffer that was not let go
        self._passed = 0  # position of the buffer in the whole repaired text
        self._offset = 0  # position of the buffer in the caller's text
        self._joined: list[int] = []  # positions in the buffer of repaired surrogate pairs
        # Of what was decided: what ends after the front, or there, and how far anything reaches that was found.
        self._allowed: tuple[Match, ...] = ()
        self._breaks: tuple[Match, ...] = ()
        self._reaching: tuple[Finding, ...] = ()
        self._covered = 0
        self._wait = 0  # how long the buffer has to be before it is worth another look
        self._excerpts = self._policy.log is LogText.EXCERPT
        self._hash = None if self._policy.log is LogText.NEVER else hasher(key)
        self._found: list[Violation] = []
        self._tally = Tally()
        self._count = 0

    @property
    def count(self) -> int:
        """How many matches were not allowed so far, those beyond the cap of `violations` included."""
        return self._count

    @property
    def violations(self) -> tuple[Violation, ...]:
        """What the policy did not allow so far, in the order of the text, at most `limits.max_violations`.

        Where the policy lets a log identify the whole string, the digest is that of what was read so far.
        """
        return tuple(self._identified(self._found))

    def feed(self, chunk: str) -> str:
        """Take a chunk and return what can go on.

        Raises:
            RefusedError: The policy blocks a form that the text holds. What it holds before was returned, or is lost.
            LimitError: The text so far is longer than `limits.max_chars`.
            SurrogateError: A lone surrogate under `surrogates: refuse`.
            InvalidUTF8Error: Bytes were fed before, and ended inside a character, under `surrogates: refuse`.
            StreamClosedError: The stream was finished, closed or refused.
            NotTextError: The chunk is no string (a `TypeError`).
        """
        self._check_open()
        if self._undecoded:
            chunk = self._decode(b"", final=True) + chunk
        elif self._is_clean(chunk):
            return self._pass_on(chunk)
        return self._advance(chunk, final=False)

    def feed_bytes(self, chunk: bytes) -> str:
        """Take a chunk of UTF-8, cut anywhere, and return what can go on.

        What is no UTF-8 becomes U+FFFD under `surrogates: replace`, as `bytes.decode(errors="replace")` does it.

        Raises:
            InvalidUTF8Error: What is no UTF-8, under `surrogates: refuse`.
            GuardtokError: What `feed` raises.
        """
        self._check_open()
        return self._advance(self._decode(chunk, final=False), final=False)

    def finish(self) -> str:
        """End the text, and return what was held back. What was found goes to the sinks.

        Raises:
            GuardtokError: What `feed` raises.
        """
        self._check_open()
        rest = self._advance(self._decode(b"", final=True), final=True)
        self.close()
        return rest

    def close(self) -> None:
        """Give up: what was held back is dropped, and what was found goes to the sinks. Closing twice does nothing."""
        if self._open:
            self._open = False
            self._buffer = self._half = ""
            self._emit(self._identified(self._tally.records()))

    async def wrap(self, chunks: AsyncIterable[str] | AsyncIterable[bytes]) -> AsyncIterator[str]:
        """Yield the text of an asynchronous iterator of chunks, sanitized; chunks that are empty by then are left out.

        If the consumer stops early, or the task is cancelled, `chunks` is closed too and what was found is emitted.

        Raises:
            GuardtokError: What `feed` and `finish` raise.
        """
        try:
            async for chunk in chunks:
                text = self.feed(chunk) if isinstance(chunk, str) else self.feed_bytes(chunk)
                if text:
                    yield text
            text = self.finish()
            if text:
                yield text
        finally:
            self.close()
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await close()

    def _is_clean(self, chunk: str) -> bool:
        """Whether nothing is held back and no form can begin in a chunk: so it is with nearly all."""
        return (
            self._front == len(self._buffer)
            and type(chunk) is str
            and chunk.isascii()
            and not (self._half or self._allowed or self._reaching or self._breaks)
            and self._hash is None
            and self._folds is None
            and self._taken + len(chunk) <= self._policy.limits.max_chars
            and not self._beginnings.occur(chunk, 0, len(chunk), self._lookout)
        )

    def _pass_on(self, chunk: str) -> str:
        self._taken += len(chunk)
        self._editor.keep(chunk)
        self._buffer += chunk
        self._front = len(self._buffer)
        if self._front > 2 * self._reach:
            self._forget(self._front - self._reach)
        return chunk

    def _check_open(self) -> None:
        if not self._open:
            raise StreamClosedError("This stream has ended. Begin a new one for the next text: Guard.stream(source=…).")

    def _decode(self, chunk: bytes, *, final: bool) -> str:
        try:
            text = self._decoder.decode(chunk, final)
        except UnicodeDecodeError:
            self.close()
        else:
            self._undecoded = bool(self._decoder.getstate()[0])
            return text
        # Raised out here it has no context: the decoder's own error quotes the bytes.
        raise InvalidUTF8Error(
            f"After {self._taken:,} characters come bytes that are no UTF-8, and the policy says `surrogates: refuse`. "
            "Send UTF-8, or say `surrogates: replace`."
        )

    def _advance(self, chunk: str, *, final: bool) -> str:
        """Take characters in, and return what can go on."""
        try:
            self._take(chunk, final=final)
            stop = len(self._buffer) if final else self._find_stop()
            return self._let_go(stop, final=final) if stop > self._front else ""
        except BaseException:
            # Whatever failed, nothing more comes out of this stream.
            self.close()
            raise

    def _take(self, chunk: str, *, final: bool) -> None:
        """Put well-formed text into the buffer; half a surrogate pair at the end of a chunk waits."""
        if not isinstance(chunk, str):
            raise NotTextError(f"A stream is fed str, or bytes by feed_bytes, not {type(chunk).__name__}.")
        self._taken += len(chunk)
        if self._taken > self._policy.limits.max_chars:
            raise LimitError(
                f"The text has more than the {self._policy.limits.max_chars:,} characters that the policy takes. "
                "Cut it, or raise `limits.max_chars`."
            )
        if self._half or not chunk.isascii():
            chunk, self._half = self._half + chunk, ""
            if not final and "\ud800" <= chunk[-1] <= "\udbff":
                chunk, self._half = chunk[:-1], chunk[-1]
            taken = take_in(
                chunk,
                self._source,
                known=self._ruleset.sources,
                limits=self._policy.limits,
                surrogates=self._policy.surrogates,
            )
            self._joined += [len(self._buffer) + position for position in taken.joined]
            chunk = taken.text
        self._buffer += str.__str__(chunk)

    def _find_stop(self) -> int:
        """Return the first position whose matches are not all known yet."""
        buffer, front = self._buffer, self._front
        if len(buffer) < self._wait:
            return front
        stop = self._beginnings.find_open(buffer, front)
        if self._lookout is not None:
            first = max(front, len(buffer) - self._longest)
            stop = self._beginnings.find_open_disguise(buffer, first, stop, self._lookout)
        if self._folds is not None:
            stop = min(stop, front + self._folds.find_open(buffer[front:]))
        # What is held back is read again when it has grown by a fourth, so that feeding single characters stays linear.
        self._wait = stop + (len(buffer) - stop) * 5 // 4
        return stop

    def _let_go(self, stop: int, *, final: bool) -> str:
        """Return what becomes of the text up to a position; every match that begins before it is known."""
        buffer, front = self._buffer, self._front
        exact: list[Match] = []
        disguises: list[Disguise] = []
        if self._may_match(stop):
            exact, disguises = self._scan(stop)
            if self._excerpts and not final:
                # A record shows what follows its match, so that must have come.
                spans = [(start, end) for _, start, end in exact] + [(each.start, each.end) for each in disguises]
                stop = min([stop, *(start for start, end in spans if end + AROUND > len(buffer))])
                exact = [match for match in exact if match[1] < stop]
                disguises = [disguise for disguise in disguises if disguise.start < stop]
        if stop == front:
            return ""
        if exact or disguises or self._allowed or self._reaching or self._breaks:
            text = self._edit(exact, disguises, stop)
        else:
            text = buffer[front:stop]
            self._editor.keep(text)
        self._covered = max([self._covered, *(end for _, _, end in exact), *(each.end for each in disguises)])
        if self._hash is not None:
            self._hash.update(buffer[front:stop].encode())
        self._front = stop
        if stop > 2 * self._reach:
            self._forget(stop - self._reach)
        return text

    def _may_match(self, stop: int) -> bool:
        """Whether a match could begin between the front and a position."""
        buffer, front = self._buffer, self._front
        if self._folds is not None:
            return True
        if len(buffer) - front < self._beginnings.shortest and buffer.isascii():
            return False
        return self._beginnings.occur(buffer, front, stop, self._lookout)

    def _scan(self, stop: int) -> tuple[list[Match], list[Disguise]]:
        """Return what begins between the front and a position, exact and in disguise."""
        front = self._front
        text = self._buffer[front:]
        intake = Intake(text, text.encode(), ())
        found = scan(intake, self._ruleset)
        seen = look(intake, found, self._ruleset) if self._lookout is not None else []
        exact = [(form, front + start, front + end) for form, start, end in found if front + start < stop]
        # What lies inside a match that began before the front is part of that.
        disguises = [
            each._replace(
                start=front + each.start,
                end=front + each.end,
                second=front + each.second,
                inner=each.inner or front + each.end <= self._covered,
            )
            for each in seen
            if front + each.start < stop
        ]
        return exact, disguises

    def _edit(self, exact: list[Match], disguises: list[Disguise], stop: int) -> str:
        buffer = self._buffer
        whole = (Run(0, len(buffer), self._source, "", self._offset),)
        intake = Intake(buffer, b"", whole, tuple(self._joined))
        decided = self._decide(exact, disguises, intake, stop)
        if decided.refused is not None:
            self._refuse(decided.refused, exact, disguises, intake)
        self._record(Report(intake, decided, self._ruleset, self._key, self._request_id))
        text, _ = self._editor.edit(buffer, decided, self._front, stop, self._passed)
        # An allowed token that ends right here still says where a form that overlaps it may be broken.
        self._allowed = tuple(match for match in decided.allowed if match[2] >= stop)
        self._reaching = decided.reaching
        self._breaks = tuple(match for match in decided.breaks if match[2] > stop)
        return text

    def _decide(self, exact: list[Match], disguises: list[Disguise], intake: Intake, stop: int) -> Decided:
        window = Window(stop, self._allowed, self._reaching)
        decided = add_disguises(decide(exact, intake, self._ruleset, window), disguises, intake, self._ruleset)
        if self._breaks:
            known = {*decided.breaks, *self._breaks}
            decided = replace(decided, breaks=tuple(sorted(known, key=leftmost_longest)))
        return decided

    def _refuse(self, refused: Finding, exact: list[Match], disguises: list[Disguise], intake: Intake) -> NoReturn:
        """Raise as the whole text would, with what was found up to the form that is refused."""
        last = leftmost_longest(refused.match)
        exact = [match for match in exact if leftmost_longest(match) <= last]
        disguises = [each for each in disguises if (each.start, -each.end) <= last]
        decided = self._decide(exact, disguises, intake, len(intake.text))
        report = Report(intake, decided, self._ruleset, self._key, self._request_id)
        self._record(report)
        if self._hash is not None:
            self._hash.update(intake.text[self._front : refused.match[2]].encode())
        record = report.writer()(refused, 1)
        violations = self._found if record in self._found else [record, *self._found]
        raise RefusedError(self._ruleset.forms[refused.match[0]].text, tuple(self._identified(violations)))

    def _record(self, report: Report) -> None:
        room = self._policy.limits.max_violations - len(self._found)
        write = report.writer()
        self._found += [write(finding, 1) for finding in report.decided.findings[:room]]
        self._tally.add(report)
        self._count += report.decided.count

    def _identified(self, records: Iterable[Violation]) -> Iterator[Violation]:
        """Yield the records, with the digest of the whole string where the policy lets a log know it."""
        if self._hash is None:
            return iter(records)
        digest = self._hash.hexdigest()
        return (replace(record, digest=digest) for record in records)

    def _forget(self, base: int) -> None:
        """Drop what lies before a position of the buffer."""
        pairs = bisect_left(self._joined, base)
        self._joined = [position - base for position in self._joined[pairs:]]
        self._allowed = tuple((form, start - base, end - base) for form, start, end in self._allowed)
        self._breaks = tuple((form, start - base, end - base) for form, start, end in self._breaks)
        self._reaching = tuple(_moved(finding, -base) for finding in self._reaching)
        self._covered -= base
        self._buffer = self._buffer[base:]
        self._front -= base
        self._wait -= base
        self._passed += base
        self._offset += base + pairs


def _moved(finding: Finding, by: int) -> Finding:
    form, start, end = finding.match
    return finding._replace(match=(form, start + by, end + by))
