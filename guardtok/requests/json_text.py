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

    from guardtok.requests.paths import Node
    from guardtok.stream import Stream

_TOKEN = re.compile(r'[^"\\]+|\\u[0-9a-fA-F]{4}|\\u[0-9a-fA-F]{0,3}\Z|\\[^u]|\\u|\\\Z|"', re.DOTALL)
"""One step through a string: a run of characters, an escape, one that is not all there yet, or the end."""

_CUT = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?", re.DOTALL)
_BETWEEN = re.compile(r"[\s\[\]{},:0-9eE+.\-a-z]*")
"""What stands between the strings of JSON. It holds no form that a policy could want anybody to break."""

_MARKS = re.compile(r"[\[\]{},]")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class JsonText:
    """One text of JSON, in fragments. What goes on is JSON of the same shape, or as little JSON as what came.

    Attributes:
        count: How many matches were not allowed so far, in strings that have ended.
    """

    __slots__ = ("_begin", "_cut", "_fed", "_in_string", "_is_key", "_key", "_made", "_stack", "_stream", "_streams")

    def __init__(self, begin: Callable[[str], Stream]) -> None:
        """Begin a text; `begin` returns a stream for what lies at a path in it, which begins with `.`, `[` or `~`."""
        self._begin = begin
        self._streams: list[Stream] = []
        self._stream: Stream | None = None
        self._in_string = False
        self._cut = ""  # an escape that is not all there
        self._fed = ""  # what was fed to the stream and has not come out the same
        self._made = ""
        self._stack: list[str | int | None] = []  # of each mapping the key, of each list the index
        self._is_key = False
        self._key = ""
        ...
