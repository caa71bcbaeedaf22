"""Who wrote what in a body, as a tree: one label for each field that is known, and for every other what holds it has.

The threat is the field that nobody thought of. So a label says whose every string *and every key* under it is, unless a
field in it has a label of its own; and what no label names at all is `unknown`, walked like the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

from guardtok.text import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Kind(Enum):
    """What is done with a value.

    Attributes:
        TEXT: Strings and keys are sanitized.
        VERBATIM: Strings that mean something only as they are, such as ids, types and stop strings: one that would have
            to be changed is refused.
        JSON: A string that holds JSON is sanitized inside too.
        TEMPLATE: A chat template: code, which callers may not send unless the policy says so.
        IDS: Token ids, in lists or as the keys of a mapping.
        EMBEDDINGS: Vectors in the place of token ids, which nobody can check.
        PROMPT: A string, strings, or token ids.
    """

    TEXT = "text"
    VERBATIM = "verbatim"
    JSON = "json"
    TEMPLATE = "template"
    IDS = "ids"
    EMBEDDINGS = "embeddings"
    PROMPT = "prompt"


class Shape(Enum):
    """What a value has to be, where its label cares."""

    ANY = "anything"
    MAPPING = "a mapping"
    LIST = "a list"
    CONTENT = "a string or a list"


@dataclass(frozen=True, slots=True, eq=False)
class Label:
    """Whose a value is, and what lies in it.

    Attributes:
        source: Who wrote it: a string, or the strings and unnamed keys of a list or mapping.
        fields: What has a label of its own, by key.
        rest: The label of every other field; None for a plain one of the same source.
        items: The label of a list's items; None for that of every other field.
        kind: What is done with it.
        shape: What it has to be; null always passes.
        by: The field that says what a mapping is, if there is one: `type`, `role`.
        cases: The label of a mapping by what that field says; where it says something else, this one holds.
        speaker: For `role`: makes the label of a mapping from the source that a role speaks for.
        joined: Whether a template may join the texts of a list's items.
        thoughts: Whether it may join what was thought with the rest, as servers do with a request.
        guess: Returns the label of a field that is not in `fields` by its name and value, or None.
        other: The label of every field that is not in `fields`.
        item: The label of a list's items.
    """

    source: str
    fields: Mapping[str, Label] = field(default_factory=dict, repr=False)
    rest: Label | None = field(default=None, repr=False)
    items: Label | None = field(default=None, repr=False)
    kind: Kind = Kind.TEXT
    shape: Shape = Shape.ANY
    by: str = ""
    cases: Mapping[str, Label] = field(default_factory=dict, repr=False)
    speaker: Callable[[str], Label] | None = field(default=None, repr=False)
    joined: bool = False
    thoughts: bool = True
    guess: Callable[[str, object], Label | None] | None = field(default=None, repr=False)
    other: Label = field(init=False, repr=False)
    item: Label = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Fill in what follows: a plain label is that of everything in it too."""
        whole = self.kind in {Kind.TEXT, Kind.VERBATIM, Kind.PROMPT}
        plain = whole and not (self.fields or self.by or self.items or self.joined)
        other = self.rest or (self if plain else Label(self.source))
        object.__setattr__(self, "other", other)
        object.__setattr__(self, "item", self.items or other)


PROMPT = "prompt"
"""Who writes a raw prompt, which is its own template: a source of its own if the policy declares it, else `user`."""

DECODING = "decoding"
"""Who writes what steers decoding, such as stop strings and grammars: a source of its own if the policy declares it,
else `unknown`."""

STAND_INS = MappingProxyType({PROMPT: "user", DECODING: UNKNOWN})
"""Sources that a policy may declare, and the built-in ones that stand for them where it does not."""
