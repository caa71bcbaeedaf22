"""Prepared prompts: a trusted template with typed fields, as a prepared statement has.

Literals are `template`; each field has the source that its declaration names. What is filled in cannot become part of
the template, because its characters keep their own label.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from guardtok.errors import FieldError, near_match
from guardtok.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from guardtok.encoded import Encoded

TEMPLATE = "template"
"""The source of a prepared prompt's literals."""


@dataclass(frozen=True, slots=True)
class Field:
    """A place to fill in: `{question:user}` is the field `question` of source `user`."""

    name: str
    source: str


@dataclass(frozen=True, slots=True)
class Statement:
    """A parsed template: literals and fields, in order."""

    parts: tuple[str | Field, ...]

    def blank(self) -> Text:
        """Return the literals alone."""
        return self.fill(dict.fromkeys(self.fields, ""))

    @property
    def fields(self) -> Mapping[str, str]:
        """The source of each field, by name."""
        return {part.name: part.source for part in self.parts if isinstance(part, Field)}

    def fill(self, values: Mapping[str, str]) -> Text:
        """Return the prompt with its fields filled in; a field's path is its name.

        A plain string gets the field's source. A `Text` keeps its own labels.

        Raises:
            FieldError: A field that is missing, unknown or not a string.
        """
        fields = self.fields
        for name in values:
            if name not in fields:
                raise FieldError(f"The prompt has no field {name[:64]!r}.{near_match(name, fields)}")
        missing = [name for name in fields if name not in values]
        if missing:
            raise FieldError(f"Fields without a value: {', '.join(missing)}. Pass each by its name.")
        pieces: list[str] = []
        for part in self.parts:
            if isinstance(part, str):
                pieces.append(Text(part, source=TEMPLATE))
                continue
            value = values[part.name]
            if not isinstance(value, str):
                raise FieldError(f"Field {part.name!r} needs a str or a Text, not {type(value).__name__}.")
            pieces.append(value if isinstance(value, Text) else Text(value, source=part.source, path=part.name))
        return Text("", source=TEMPLATE).join(pieces)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared prompt, bound to its guard. Made by `Guard.prepare`.

    Attributes:
        statement: The parsed template.
    """

    statement: Statement
    _encode: Callable[[Text], Encoded] = field(repr=False)

    def encode(self, /, **fields: str) -> Encoded:
        """Fill the fields in and encode. A plain string gets its field's source; a `Text` keeps its own labels.

        Raises:
            FieldError: A field that is missing, unknown or not a string (a `TypeError`).
            RefusedError: The policy blocks a form that a field holds, or that fields and literals spell together.
        """
        return self._encode(self.text(**fields))

    def text(self, /, **fields: str) -> Text:
        """Fill the fields in and return the prompt with its labels, for `encode`, `check` or `count`.

        Raises:
            FieldError: A field that is missing, unknown or not a string (a `TypeError`).
        """
        return self.statement.fill(fields)


def parse_statement(template: str) -> Statement:
    """Parse a template whose fields are written `{name:source}`; `{{` and `}}` stand for braces.

    Raises:
        FieldError: A field without a name or a source, one name with two sources, a conversion, a lone brace; a `Text`
            that not the template wrote, or no string.
    """
    if not isinstance(template, str):
        raise FieldError(f"A template is a str, not a {type(template).__name__}.")
    if isinstance(template, Text) and any(run.source != TEMPLATE for run in template.runs):
        raise FieldError("A template is code: this Text was written by others. Put what they wrote into a field.")
    parts: list[str | Field] = []
    sources: dict[str, str] = {}
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise FieldError(f"The template does not parse: {error}. Write a literal brace as {{{{ or }}}}.") from None
    for literal, name, source, conversion in parsed:
        if literal:
            parts.append(literal)
        if name is None:
            continue
        if not name.isidentifier() or conversion:
            raise FieldError("A field is written {name:source}, with a Python identifier for its name.")
        if not source:
            raise FieldError(f"Field {name!r} does not say who writes it: {{{name}:user}}, for example.")
        if sources.setdefault(name, source) != source:
            raise FieldError(
                f"Field {name!r} is declared for two sources, {sources[name]!r} and {source!r}. Rename one."
            )
        parts.append(Field(name, source))
    return Statement(tuple(parts))
