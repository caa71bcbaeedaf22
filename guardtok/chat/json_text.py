r"""`tojson` for labelled data: JSON whose characters know which string or key, and which place in it, they came from.

Ten tools are a hundred kilobytes of JSON, dumped anew for every turn, and nearly always there is nothing in them to
report. So what one source wrote is dumped by `json` itself and labelled as a whole; where each string lies in it is
worked out when something was found there.
"""

from __future__ import annotations

import json
import re
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from guardtok.chat.labelled import LabelledDict, LabelledList
from guardtok.text import UNKNOWN, Run, Text, labelled, runs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from typing_extensions import Self

_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.)")
"""One character of a string, escaped; the two halves of a surrogate pair are one."""


class JsonPath(str):  # noqa: SLOT000 - a path is compared and joined as a str
    """The path of a value that was dumped whole. It also knows how each of the dump's characters is labelled."""

    def __new__(cls, path: str, _label: Callable[[], Text]) -> Self:
        """Take the value's path, and what labels the dump in detail when it is needed."""
        return str.__new__(cls, path)

    def __init__(self, _path: str, label: Callable[[], Text]) -> None:
        self._label = label

    @cached_property
    def dump(self) -> Text:
        """The dump, each string and key in it under its own path."""
        return self._label()


def to_json(
    value: Any,  # noqa: ANN401 - any JSON value
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - templates call it so
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002 - templates call it so
) -> Text:
    """Dump a value as `json.dumps` does with these arguments, which are those of transformers' `tojson`.

    Strings and keys keep their labels. What the dump puts around them counts for the source of the list or mapping,
    and is `unknown` where the template made that itself.
    """
    own = isinstance(value, (LabelledDict, LabelledList))
    plain = value._guardtok_raw if own else value  # noqa: SLF001 - named so that no template reads it
    dump = json.dumps(plain, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if not own:
        return _label_dump(dump, value, UNKNOWN, "", sort_keys=sort_keys)
    source, path = value._guardtok_label.source, value._guardtok_path  # noqa: SLF001 - as above
    label = partial(_label_dump, dump, value, source, path, sort_keys=sort_keys)
    if value._guardtok_label.uniform and not value._guardtok_mixed:  # noqa: SLF001 - as above
        return labelled(dump, (Run(0, len(dump), source, JsonPath(path, label), 0),))
    return label()


def expand(text: Text) -> Text:
    """Return a text in which every character of a dump has the path of its own string or key."""
    if not any(isinstance(run.path, JsonPath) for run in text.runs):
        return text
    runs: list[Run] = []
    for run in text.runs:
        if not isinstance(run.path, JsonPath):
            runs.append(run)
            continue
        # Its labels alone: a template may have changed the case of the dump's characters since.
        inner = runs_of(run.path.dump[run.offset : run.offset + run.end - run.start])
        if inner and inner[-1].end == run.end - run.start:
            runs += (each._replace(start=each.start + run.start, end=each.end + run.start) for each in inner)
        else:  # Two dumps of one value, cut and joined so that the second goes on where the first ends.
            runs.append(run._replace(path=str.__str__(run.path)))
    return labelled(str.__str__(text), tuple(runs))


def _label_dump(dump: str, value: Any, source: str, path: str, *, sort_keys: bool) -> Text:  # noqa: ANN401 - any JSON value
    """Label a dump: each string and key as it is labelled in `value`, and the rest with `source` and `path`."""
    runs: list[Run] = []
    last = 0
    strings = _strings(value, sort_keys=sort_keys)
    for found in _STRING.finditer(dump):
        start, end = found.span(1)
        inner = _label_string(found[1], next(strings))
        if last < start:
            runs.append(Run(last, start, source, path, last))
        runs += (run._replace(start=run.start + start, end=run.end + start) for run in inner)
        last = end
    if last < len(dump):
        runs.append(Run(last, len(dump), source, path, last))
    return labelled(dump, tuple(runs))


def _strings(value: Any, *, sort_keys: bool) -> Iterator[str]:  # noqa: ANN401 - any JSON value
    """Yield every string and key of a value in the order in which a dump has them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        pairs = value.items()
        for key, inner in sorted(pairs) if sort_keys else pairs:
            yield key if isinstance(key, str) else ""
            yield from _strings(inner, sort_keys=sort_keys)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner, sort_keys=sort_keys)


def _label_string(spelled: str, string: str) -> Sequence[Run]:
    """Return the runs of a string as it is spelled in a dump, without its quotes."""
    unknown = (Run(0, len(spelled), UNKNOWN, "", 0),) if spelled else ()
    if not isinstance(string, Text):
        return unknown
    if "\\" not in spelled:
        return string.runs if len(spelled) == len(string) else unknown
    runs: list[Run] = []
    done = read = 0
    for number, part in enumerate(_ESCAPE.split(spelled)):
        size = 1 if number % 2 else len(part)  # Every second part is an escape: one character, whatever its length.
        for run in runs_of(string[read : read + size]):
            width = len(part) if number % 2 else run.end - run.start
            runs.append(Run(done, done + width, run.source, run.path, run.offset))
            done += width
        read += size
    return runs if read == len(string) and done == len(spelled) else unknown
