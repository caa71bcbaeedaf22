r"""JSON that comes in fragments, as the arguments of calls do: each string and key in it sanitized as what it says.

The threat is the second spelling: `\u003c|im_end|>` holds no form, and what reads the JSON finds one. So each string
goes, read, through a stream of its own, and is spelled again only where something in it was changed or held back. What
stands between strings and cannot be JSON, for a model writes what it likes, goes through a stream too.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from guardtok.errors import RequestError
from guardtok.requests.paths import spell
from guardtok.requests.walk import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from guardtok.requests.channels import Channel
    from guardtok.requests.paths import Node
    from guardtok.violation import Violation

_HIGH = r"\\u[dD][89abAB][0-9a-fA-F]{2}"
_STEP = re.compile(
    rf'"|[^"\\]+|{_HIGH}\\u[dD][c-fC-F][0-9a-fA-F]{{2}}|(?:{_HIGH})?\\(?:u[0-9a-fA-F]{{0,3}})?\Z|{_HIGH}\Z'
    r"|\\u[0-9a-fA-F]{4}|\\[^u]|\\u",
    re.DOTALL,
)
"""One step through a string: its end, a run of characters, two halves of a pair, an escape that is cut, an escape."""

_CUT = re.compile(rf"(?:{_HIGH})?\\(?:u[0-9a-fA-F]{{0,3}})?|{_HIGH}")
_BETWEEN = re.compile(r"[\s\[\]{},:0-9eE+.\-a-z]*")
"""What stands between the strings of JSON: nothing that anybody would take for a form."""

_MARKS = re.compile(r"[\[\]{},]")
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "/": "/"}
_ESCAPE = 6
"""Characters of an escape by number; the two of a pair are twice as many."""


class JsonText:
    """One text of JSON, in fragments. What goes on is JSON of the same shape, or as little JSON as what came.

    Attributes:
        path: Where the text lies in the whole reply.
        ended: Whether nothing may come any more.
    """

    __slots__ = (
        "_begin",
        "_cut",
        "_edited",
        "_expects_key",
        "_found",
        "_given",
        "_in_string",
        "_is_clean",
        "_key",
        "_made",
        "_stack",
        "_string",
        "_waiting",
        "ended",
        "path",
    )

    def __init__(self, path: str, begin: Callable[[str], Channel], is_clean: Callable[[str], bool]) -> None:
        """Begin a text.

        Args:
            path: Where it lies in the whole reply.
            begin: Returns what a string at a path goes through.
            is_clean: Says of a whole string whether there is nothing to decide about.
        """
        self.path = path
        self.ended = False
        self._begin = begin
        self._is_clean = is_clean
        self._found: list[Channel] = []  # strings in which something was found
        self._given: list[str] = []
        self._made: list[str] = []
        self._in_string = False
        self._string: Channel | None = None  # what the string at hand goes through, or what stands between strings
        self._cut = ""  # an escape that is not all there
        self._waiting = ""  # what the string was fed and has not come out of it, while nothing in it was changed
        self._edited = False
        self._stack: list[str | int | None] = []  # the open lists and mappings: an index, a key, or None before a key
        self._expects_key = False
        self._key: list[str] | None = None  # the pieces of a key

    @property
    def count(self) -> int:
        """How many matches were not allowed so far."""
        return sum(each.count for each in self._strings())

    @property
    def violations(self) -> tuple[Violation, ...]:
        """What was found so far, each with the place of its string."""
        return tuple(violation for each in self._strings() for violation in each.violations)

    @property
    def restated(self) -> tuple[str, str] | None:
        """The whole text as it came and as it went on, if something was found or changed."""
        given, made = "".join(self._given), "".join(self._made)
        return (given, made) if self.count or given != made else None

    def placed(self, violations: Iterable[Violation]) -> list[Violation]:
        """Return records of the string at hand with its place in them."""
        return self._string.placed(violations) if self._string is not None else list(violations)

    def feed(self, fragment: str) -> str:
        """Take a fragment, and return what can go on.

        Raises:
            GuardtokError: What `Stream.feed` raises.
            RequestError: It has too many lists and mappings inside one another.
        """
        text, self._cut = self._cut + fragment, ""
        made: list[str] = []
        position = 0
        while position < len(text):
            step = self._read_string if self._in_string else self._read_between
            position = step(text, position, made)
        return self._note(fragment, "".join(made))

    def finish(self) -> str:
        """End the text, and return what was held back.

        Raises:
            GuardtokError: What `Stream.finish` raises.
        """
        self.ended = True
        cut, self._cut = self._cut, ""
        return self._note("", self._go_through(cut, cut, ends=True) if self._string or cut else "")

    def close(self) -> None:
        """Give the text up."""
        self.ended = True
        if self._string is not None:
            self._string.close()

    def _strings(self) -> list[Channel]:
        return self._found if self._string is None else [*self._found, self._string]

    def _note(self, given: str, made: str) -> str:
        self._given.append(given)
        self._made.append(made)
        return made

    def _read_between(self, text: str, position: int, made: list[str]) -> int:
        quote = text.find('"', position)
        stop = quote if quote >= 0 else len(text)
        if self._string is None:
            found = _BETWEEN.match(text, position, stop)
            between = found.group() if found else ""
            self._follow(between)
            made.append(between)
            position += len(between)
            if position < stop:
                self._string = self._begin(self.path)
        if self._string is not None:
            rest = text[position:stop]
            made.append(self._string.feed(rest))
            if quote >= 0:
                made.append(self._string.finish())
                self._put_away()
        if quote < 0:
            return stop
        made.append('"')
        self._in_string = True
        self._key = [] if self._expects_key else None
        return quote + 1

    def _read_string(self, text: str, position: int, made: list[str]) -> int:
        start, ends = position, False
        said: list[str] = []
        while position < len(text) and not ends:
            found = _STEP.match(text, position)
            step = found.group() if found else text[position]
            if step == '"':
                ends = True
            elif step[0] != "\\":
                said.append(step)
            elif _CUT.fullmatch(step) and position + len(step) == len(text):
                self._cut = step
                break
            elif len(step) >= _ESCAPE:
                said.append(json.loads(f'"{step}"'))
            else:
                said.append(_ESCAPES.get(step[1:], step))
            position += len(step)
        text_said, raw = "".join(said), text[start : position - 1 if ends else position]
        if self._key is not None:
            self._key.append(text_said)
        if ends and self._string is None and self._is_clean(text_said):
            made.append(raw)
        else:
            made.append(self._go_through(text_said, raw, ends=ends))
        if ends:
            made.append('"')
            self._end_string()
        return len(text) if self._cut else position

    def _go_through(self, said: str, raw: str, *, ends: bool) -> str:
        """Return what a piece of a string becomes: as it was spelled, if it is all that came, and all of it went on."""
        if self._string is None:
            self._string = self._begin(self._place())
        before = self._waiting
        went = self._string.feed(said)
        if ends:
            went += self._string.finish()
        if not self._in_string:
            self._put_away()
            return went
        waiting = before + said
        self._edited = self._edited or not waiting.startswith(went)
        self._waiting = "" if self._edited else waiting[len(went) :]
        as_it_came = not (before or self._waiting or self._edited)
        if ends:
            self._put_away()
        return raw if as_it_came else json.dumps(went, ensure_ascii=False)[1:-1]

    def _put_away(self) -> None:
        if self._string is not None and self._string.count:
            self._found.append(self._string)
        self._string = None
        self._waiting, self._edited = "", False

    def _end_string(self) -> None:
        self._in_string = False
        if self._key is not None and self._stack:
            self._stack[-1] = "".join(self._key)
            self._expects_key = False
        self._key = None

    def _follow(self, between: str) -> None:
        """Keep track of the lists and mappings that are open."""
        stack = self._stack
        for found in _MARKS.finditer(between):
            match found.group():
                case "{":
                    stack.append(None)
                    self._expects_key = True
                case "[":
                    stack.append(0)
                    self._expects_key = False
                case ",":
                    top = stack[-1] if stack else 0
                    self._expects_key = not isinstance(top, int)
                    if stack and isinstance(top, int):
                        stack[-1] = top + 1
                case _:
                    if stack:
                        stack.pop()
                    self._expects_key = False
        if len(stack) > MAX_DEPTH:
            raise RequestError("request.shape", self.path, f"more than {MAX_DEPTH} lists and mappings in one another.")

    def _place(self) -> str:
        """Return the path of the string that begins, or of the key."""
        node: Node = (None, "$")
        for step in self._stack:
            node = (node, "" if step is None else step)
        return self.path + spell(node, key=self._key is not None).removeprefix("$")
