"""YAML as a tree that knows where every key and value is written.

A policy decides what may forge a turn, so a mistake in it must be found and named at its line and column. Nothing of
YAML that can surprise is read: no aliases (a few lines of them expand to gigabytes), no anchors, no tags, no second
document. Importing this module imports the YAML reader, so only the functions that load a policy do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml import events as ev
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from guardtok.errors import PolicyError, Problem
from guardtok.policy.bounds import MAX_NODES, MAX_PROBLEMS, shown
from guardtok.policy.model import Mark

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from ruamel.yaml.error import StreamMark

MAX_DEPTH = 16
"""Lists and mappings inside one another; the schema needs four."""

# The plain scalars of the YAML 1.2 core schema that are not text (yaml.org/spec/1.2.2, section 10.3.2), without octal
# and hexadecimal. A number of more digits than any id or limit stays text, and is then refused as text.
_NULL = re.compile(r"|~|null|Null|NULL")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]{1,19}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")

_UNQUOTED = {
    "@": "a plain value cannot begin with `@`",
    "`": "a plain value cannot begin with a backtick",
    "%": "a plain value cannot begin with `%`",
    "*": "an unquoted `*` begins a YAML alias, and aliases are not read",
    "&": "an unquoted `&` begins a YAML anchor, and anchors are not read",
    "!": "an unquoted `!` begins a YAML tag, and tags are not read",
    "|": "an unquoted `|` begins a block of text",
    ">": "an unquoted `>` begins a block of text",
    "[": "an unquoted `[` begins a list",
    "]": "an unquoted `]` ends a list",
    "{": "an unquoted `{` begins a mapping",
    "}": "an unquoted `}` ends a mapping",
    ":": "an unquoted `:` here would begin a second value",
}

_SCANNING = ("while scanning an alias", "while scanning an anchor", "while scanning a block", "while scanning a tag")
"""How the reader begins to say that it took the first character of a word for YAML."""

_WORD = re.compile(r"[\[{][^\s\]},]*[\]}]|[^\s,\]}]+")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value: text, a number, or a truth value."""

    value: str | int | float | bool
    mark: Mark


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of nodes."""

    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Mapped:
    """A mapping; `keys` has the place of each key, `values` what it maps to."""

    keys: dict[str, Mark]
    values: dict[str, Node]
    mark: Mark


Node: TypeAlias = Scalar | Listed | Mapped
Steps: TypeAlias = "tuple[str | int, ...]"


def plain(node: Node) -> Any:  # noqa: ANN401 - plain YAML values are what they are
    """Return the tree as plain Python values."""
    match node:
        case Scalar():
            return node.value
        case Listed():
            return [plain(item) for item in node.items]
        case Mapped():
            return {key: plain(value) for key, value in node.values.items()}


def step(node: Node, part: object) -> Node | None:
    """Return the child at a key or an index, or None."""
    match node:
        case Mapped() if isinstance(part, str):
            return node.values.get(part)
        case Listed() if isinstance(part, int) and 0 <= part < len(node.items):
            return node.items[part]
        case Scalar() | Listed() | Mapped():
            return None


def mark_at(root: Node, path: Steps, *, key: bool = False) -> Mark:
    """Return the place of the value at `path`, or of its key; of the nearest node above where there is none."""
    node = root
    mark = root.mark
    for part in path:
        child = step(node, part)
        if child is None:
            return mark
        mark = node.keys[part] if key and isinstance(node, Mapped) and isinstance(part, str) else child.mark
        node = child
    return mark


def without(root: Mapped, paths: Collection[Steps]) -> Mapped:
    """Return the tree without the nodes at `paths`; the root cannot be taken out."""

    def kept(node: Node, path: Steps) -> Node:
        match node:
            case Mapped():
                return mapped(node, path)
            case Listed():
                parts = [((*path, index), item) for index, item in enumerate(node.items)]
                return Listed(tuple(kept(item, inner) for inner, item in parts if inner not in paths), node.mark)
            case Scalar():
                return node

    def mapped(node: Mapped, path: Steps) -> Mapped:
        keys = [key for key in node.values if (*path, key) not in paths]
        values = {key: kept(node.values[key], (*path, key)) for key in keys}
        return Mapped({key: node.keys[key] for key in keys}, values, node.mark)

    return mapped(root, ())


def read_yaml(text: str, file: str) -> tuple[Node, list[Problem]]:
    """Read one YAML document.

    Returns:
        The tree, and the problems after which reading could go on: duplicate keys, empty values, forbidden characters.

    Raises:
        PolicyError: The text is not YAML, is empty, or uses what is not read here. Holds what was found before, too.
    """
    problems: list[Problem] = []
    builder = _Builder(text, file, iter(YAML(typ="safe", pure=True).parse(text)), problems)
    try:
        return builder.document(), problems
    except PolicyError as error:
        raise PolicyError([*problems, *error.problems]) from None
    except ReaderError as error:
        character = text[error.position]
        line = text.count("\n", 0, error.position) + 1
        mark = Mark(file, line, error.position - text.rfind("\n", 0, error.position))
        problem = Problem(str(mark), f"A policy cannot hold the character U+{ord(character):04X}.", "Take it out.")
    except MarkedYAMLError as error:
        problem = _syntax_problem(error, text, file)
    except (ValueError, OverflowError, IndexError, AttributeError, TypeError, AssertionError, RecursionError):
        # The reader fails so on a few malformed escapes and directives; whatever it is, it is not a policy.
        problem = Problem(str(Mark(file, 1, 1)), "This is not YAML.", "Check escapes (`\\U…`) and directives (`%…`).")
    raise PolicyError([*problems, problem])


class _Builder:
    """Builds the tree from the reader's events, one node at a time."""

    def __init__(self, text: str, file: str, events: Iterator[ev.Event], problems: list[Problem]) -> None:
        self._text = text
        self._file = file
        self._events = events
        self._problems = problems
        self._nodes = 0

    def document(self) -> Node:

        next(self._events)
        if isinstance(next(self._events), ev.StreamEndEvent):
            raise PolicyError([Problem(str(Mark(self._file, 1, 1)), "The file is empty.", "Begin with `guardtok: 1`.")])
        root = self._node(next(self._events), 0)
        next(self._events)
        extra = next(self._events)
        if not isinstance(extra, ev.StreamEndEvent):
            raise self._fatal(extra.start_mark, "A second document begins here.", "Keep one policy in one file.")
        return root

    def _node(self, event: ev.Event, depth: int) -> Node:

        self._refuse_cleverness(event)
        self._nodes += 1
        if self._nodes > MAX_NODES:
            mend = "Split it over `extends`, or select by pattern."
            raise self._fatal(event.start_mark, f"The file has more than {MAX_NODES} values.", mend)
        if depth > MAX_DEPTH:
            raise self._fatal(event.start_mark, f"Lists and mappings are nested more than {MAX_DEPTH} deep.", "")
        if isinstance(event, ev.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, ev.SequenceStartEvent):
            return self._listed(event, depth)
        return self._mapped(event, depth)

    def _listed(self, start: ev.Event, depth: int) -> Listed:

        items: list[Node] = []
        while not isinstance(event := next(self._events), ev.SequenceEndEvent):
            if _is_null(event):
                self._problem(event.start_mark, "An entry of this list is empty.", "Quote it if it is meant as text.")
            else:
                items.append(self._node(event, depth + 1))
        return Listed(tuple(items), self._mark(start.start_mark))

    def _mapped(self, start: ev.Event, depth: int) -> Mapped:

        keys: dict[str, Mark] = {}
        values: dict[str, Node] = {}
        seen: dict[str, Mark] = {}
        while not isinstance(event := next(self._events), ev.MappingEndEvent):
            self._refuse_cleverness(event)
            if not isinstance(event, ev.ScalarEvent):
                mend = 'If it is a form, quote it: `"[INST]": …`.'
                raise self._fatal(event.start_mark, "A list or mapping cannot be a key.", mend)
            key = self._string(event)
            mark = self._mark(event.start_mark)
            following = next(self._events)
            if _is_null(following):
                self._problem(event.start_mark, f"{shown(key)} has no value.", "Give it one, or leave the key out.")
                continue
            value = self._node(following, depth + 1)
            if key in seen:
                first = seen[key]
                fact = f"The key {shown(key)} is written twice, first at line {first.line}, column {first.column}."
                self._problem(event.start_mark, fact, "Merge the two.")
            else:
                seen[key] = keys[key] = mark
                values[key] = value
        return Mapped(keys, values, self._mark(start.start_mark))

    def _scalar(self, event: ev.ScalarEvent) -> Scalar:
        text = self._string(event)
        value: str | int | float | bool = text
        if event.implicit[0]:
            if _BOOL.fullmatch(text):
                value = text.lower() == "true"
            elif _INT.fullmatch(text):
                value = int(text)
            elif _FLOAT.fullmatch(text):
                value = float(text)
        return Scalar(value, self._mark(event.start_mark))

    def _string(self, event: ev.ScalarEvent) -> str:
        """Return the scalar's text: surrogate pairs joined, as in JSON; what no form can hold reported and replaced."""
        text = str(event.value)
        if text.isascii() and "\0" not in text:
            return text
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        lone = any("\ud800" <= c <= "\udfff" for c in text) and "\ufffd" in joined
        if lone or "\0" in joined:
            joined = joined.replace("\ufffd", "?").replace("\0", "?")  # Said here, and not once more as a form's fault.
            fact = f"{'A lone surrogate' if lone else 'NUL'} cannot be part of a policy."
            self._problem(event.start_mark, fact, "Take it out.")
        return joined

    def _refuse_cleverness(self, event: ev.Event) -> None:

        if isinstance(event, ev.AliasEvent):
            raise PolicyError([_unquoted("*", event.start_mark, self._text, self._file)])
        if getattr(event, "anchor", None) is not None:
            raise PolicyError([_unquoted("&", event.start_mark, self._text, self._file)])
        if getattr(event, "tag", None) is not None:
            raise PolicyError([_unquoted("!", event.start_mark, self._text, self._file)])

    def _problem(self, mark: StreamMark, fact: str, mend: str) -> None:
        self._problems.append(Problem(str(self._mark(mark)), fact, mend))
        if len(self._problems) == MAX_PROBLEMS:
            raise PolicyError([])

    def _fatal(self, mark: StreamMark, fact: str, mend: str) -> PolicyError:
        return PolicyError([Problem(str(self._mark(mark)), fact, mend)])

    def _mark(self, mark: StreamMark) -> Mark:
        return Mark(self._file, mark.line + 1, mark.column + 1)


def _is_null(event: ev.Event) -> bool:

    return isinstance(event, ev.ScalarEvent) and event.implicit[0] and bool(_NULL.fullmatch(str(event.value)))


def _syntax_problem(error: MarkedYAMLError, text: str, file: str) -> Problem:
    """Turn the reader's complaint into a place, a fact and, as far as the characters there tell, a mend."""
    problem, context = error.problem_mark, error.context_mark
    if (error.context or "").startswith(_SCANNING) and text[context.index] in _UNQUOTED:
        return _unquoted(text[context.index], context, text, file)
    if problem is None:
        return Problem(str(Mark(file, 1, 1)), "This is not YAML.", "")
    if text[problem.index : problem.index + 1] in _UNQUOTED:
        return _unquoted(text[problem.index], problem, text, file)
    lines = [text[: mark.index].rpartition("\n")[2] + _rest_of_line(text, mark) for mark in (context, problem) if mark]
    mend = "Put forms and patterns into quotes."
    if text.startswith("\t", problem.index):
        mend = "Indent with spaces, not with tabs."
    elif any("#" in line for line in lines):
        mend = "An unquoted `#` begins a comment: quote the form that holds it."
    fact = f"This is not YAML: {error.problem or 'it cannot be read'}."
    return Problem(str(Mark(file, problem.line + 1, problem.column + 1)), fact, mend)


def _unquoted(character: str, mark: StreamMark, text: str, file: str) -> Problem:
    """Say what a character means to YAML, and show the word that it begins in quotes."""
    found = _WORD.match(_rest_of_line(text, mark)[:80])
    word = found[0].rstrip(":") if found else ""
    mend = f'Quote it: "{word}".' if word.isprintable() and word.strip("[]{}|>:") else "Quote the form or pattern."
    fact = f"This is not YAML as policies use it: {_UNQUOTED[character]}."
    return Problem(str(Mark(file, mark.line + 1, mark.column + 1)), fact, mend)


def _rest_of_line(text: str, mark: StreamMark) -> str:
    return text[mark.index :].partition("\n")[0]
