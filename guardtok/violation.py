"""What was found and what was decided: actions, matches, verdicts, and the record that goes to logs.

The threat this answers is the log itself: records get pasted into prompts and terminals, so a record names a token with
its form broken, carries no input text unless the policy says so, and no terminal escape or bidirectional mark ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

VERSION = 1
"""Version of the `Violation` record; frozen by a golden test."""


class Action(str, Enum):
    """What happens to a match, from the mildest to the strictest.

    `log` is for forms that the bound tokenizer would not parse anyway (another family's, look-alikes): reported, and
    otherwise ordinary text.
    """

    ALLOW = "allow"
    LOG = "log"
    ESCAPE = "escape"
    STRIP = "strip"
    BLOCK = "block"

    # Equal to its string, so it must hash like it; `Enum` would hash the name.
    __hash__ = str.__hash__

    def __str__(self) -> str:
        return self.value

    @property
    def severity(self) -> int:
        """Rank for "the most restrictive wins": allow < log < escape < strip < block."""
        return _SEVERITY[self]


_SEVERITY = {action: rank for rank, action in enumerate(Action)}


class Mode(str, Enum):
    """`enforce`, or `monitor`: decide and log, never raise or change text, and still parse only what is allowed."""

    ENFORCE = "enforce"
    MONITOR = "monitor"

    # Equal to its string, so it must hash like it; `Enum` would hash the name.
    __hash__ = str.__hash__

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open range of characters, `start` included, `end` not."""

    start: int
    end: int


Match: TypeAlias = "tuple[int, int, int]"
"""One occurrence of a form in the scanned text: the form's index in the ruleset, first character, one past the last.

A plain tuple, because a text of a megabyte can hold a hundred thousand of them.
"""


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that a policy had something to say about. Version 1 of a record that is kept stable.

    Attributes:
        rule: What decided: `SOURCE.ACTION[SELECTOR]`, `SOURCE.default`, `foreign`, or `joint` where several sources
            spelled the form together.
        token: The form, broken so that no tokenizer parses it.
        token_id: Its id in the bound tokenizer, or None.
        role: Its role (`turn`, `eos`, `tool` …), or None.
        source: Who wrote it; several sources are joined by `+`, in the order of the text.
        path: Where the string came from in a larger object (`$.messages[0].content`); empty for a bare string.
        start: First character of the match in the caller's own string at `path`.
        end: One past the match's last character that is in that string.
        form: `exact`, or the name of the view in which the form was seen.
        count: How many occurrences this record stands for: 1 in `violations`, more in a log.
        action: What the policy asks for.
        mode: `enforce` or `monitor`.
        policy: Name of the policy.
        policy_digest: SHA-256 of the policy's merged content.
        tokenizer: Name of the bound tokenizer, or None.
        request_id: What the caller gave, or None.
        digest: Keyed BLAKE2b-128: of the matched characters under `log: {text: never}`, else of the whole string at
            `path`.
        excerpt: Escaped surroundings under `log: {text: excerpt}`, else None.
    """

    rule: str
    token: str
    token_id: int | None
    role: str | None
    source: str
    path: str
    start: int
    end: int
    form: str
    count: int
    action: Action
    mode: Mode
    policy: str
    policy_digest: str
    tokenizer: str | None
    request_id: str | None
    digest: str
    excerpt: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values, `version` first; `excerpt` only where there is one."""
        record: dict[str, Any] = {"version": VERSION}
        record.update((name, getattr(self, name)) for name in self.__slots__)
        record["action"], record["mode"] = self.action.value, self.mode.value
        if self.excerpt is None:
            del record["excerpt"]
        return record

    def place(self) -> str:
        """Return the place for a human: path, and the characters' positions."""
        where = f"{self.path} " if self.path else ""
        return f"{where}[{self.start}:{self.end}]"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says of a text, without encoding it.

    Attributes:
        action: The most restrictive action that any match asks for; `allow` where nothing was found.
        violations: Every match that is not allowed, in the order of the text, at most `limits.max_violations`.
        count: How many matches are not allowed, those beyond the cap included.
    """

    action: Action
    violations: tuple[Violation, ...]
    count: int


def broken(form: str) -> str:
    """Return a control form with a break in it, printable. For texts that hold several forms see `records.defuse`.

    `_` goes after the first character; control, format and private-use characters become escapes.
    """
    return visible(form[:1] + "_" + form[1:])


def visible(text: str) -> str:
    """Return `text` with each unprintable character (C0, C1, bidi, zero width) written as a Python escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
