"""JSON Schema → the TypeScript that describes a tool's parameters, each character with its place in the schema.

Keys, descriptions, titles, defaults, examples and enumerated values come from whoever defined the tool, and a tool may
come from anywhere. So all of them are `tool_definition`, and only the syntax between them is the template's.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from guardtok.errors import ConversationError
from guardtok.harmony.draft import Parts, join, literal
from guardtok.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SOURCE = "tool_definition"
_TYPES = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "array": "Array<any>"}
_NOTHING: Mapping[str, Any] = {}


def render_type(schema: Any, path: str, indent: str) -> Parts:  # noqa: ANN401 - a JSON value
    """Return the type of a schema.

    Args:
        schema: A JSON value; one that is no schema is `any`.
        path: Its place.
        indent: What each line of it begins with.

    Raises:
        ConversationError: A key that is no string, or a default that is no JSON value.
        RecursionError: It is nested deeper than Python's stack.
    """
    schema = schema if isinstance(schema, dict) else _NOTHING
    if isinstance(variants := schema.get("oneOf"), list):
        return [part for v, where in _listed(variants, f"{path}.oneOf") for part in _variant(v, where, indent)]
    match schema.get("type"):
        case list(kinds) if names := _strings(kinds):
            return join(" | ", ([_type_name(name, f"{path}.type[{index}]")] for index, name in names))
        case "object":
            return _object(schema, path, indent)
        case "string" if values := _strings(schema.get("enum")):
            return join(" | ", (_quoted(value, f"{path}.enum[{index}]") for index, value in values))
        case "array" if "items" in schema:
            return [*render_type(schema["items"], f"{path}.items", indent), literal("[]")]
        case kind:
            return [literal(_TYPES.get(kind, "any") if isinstance(kind, str) else "any")]


def _variant(schema: Any, path: str, indent: str) -> Iterator[Text]:  # noqa: ANN401 - a JSON value
    """Yield one alternative of a type, on a line of its own, with a comment behind it."""
    yield literal(f"\n{indent} | ")
    yield from _nullable(schema, path, f"{indent}   ")
    description = _string(schema, "description", path)
    comments = [[description]] if description is not None else []
    yield from _behind([*comments, *_default(schema, path, bare=False)])


def _nullable(schema: Any, path: str, indent: str) -> Parts:  # noqa: ANN401 - a JSON value
    parts = render_type(schema, path, indent)
    nullable = isinstance(schema, dict) and schema.get("nullable") is True and "null" not in "".join(parts)
    return [*parts, literal(" | null")] if nullable else parts


def _object(schema: Mapping[str, Any], path: str, indent: str) -> Parts:
    parts: Parts = []
    description = _string(schema, "description", path)
    if description is not None:
        parts += literal(f"{indent}// "), description, literal("\n")
    parts.append(literal("{\n"))
    properties = schema.get("properties")
    names = {name for _, name in _strings(schema.get("required"))}
    for key, value in (properties if isinstance(properties, dict) else _NOTHING).items():
        if not isinstance(key, str):
            raise ConversationError(f"{path}.properties", "has a key that is no string.")
        where = f"{path}.properties.{key}"
        name = [literal(indent), Text(key, source=_SOURCE, path=where), literal(":" if key in names else "?:")]
        parts += _property(value if isinstance(value, dict) else _NOTHING, name, where, indent)
    return [*parts, literal(f"{indent}}}")]


def _property(schema: Mapping[str, Any], name: Parts, path: str, indent: str) -> Parts:
    """Return the lines of one property: comments, then name and type."""
    alternatives = schema.get("oneOf")
    description = _string(schema, "description", path)
    parts: Parts = []
    title = _string(schema, "title", path)
    if title is not None:
        parts += literal(f"{indent}// "), title, literal(f"\n{indent}//\n")
    if "oneOf" not in schema and description is not None:
        parts += literal(f"{indent}// "), description, literal("\n")
    if isinstance(examples := schema.get("examples"), list) and examples:
        parts.append(literal(f"{indent}// Examples:\n"))
        for index, value in _strings(examples):
            parts += literal(f"{indent}// - "), *_quoted(value, f"{path}.examples[{index}]"), literal("\n")
    if isinstance(alternatives, list):
        return [*parts, *_choice(schema, alternatives, name, path, indent)]
    parts += *name, literal(" "), *_nullable(schema, path, f"{indent}    "), literal(",")
    if "oneOf" not in schema:
        parts += _behind(_default(schema, path, bare=True))
    return [*parts, literal("\n")]


def _choice(schema: Mapping[str, Any], alternatives: list[Any], name: Parts, path: str, indent: str) -> Iterator[Text]:
    """Yield a property of several alternatives: what they share above its name, each below it on a line of its own."""
    description = _string(schema, "description", path)
    first = _string(alternatives[0], "description", path) if alternatives else None
    above = description is not None and description != first
    if above and description is not None:
        yield from (literal(f"{indent}// "), description, literal("\n"))
    for default in _default(schema, path, bare=True):
        yield from (literal(f"{indent}// "), *default, literal("\n"))
    yield from (*name, literal("\n"))
    for index, (variant, where) in enumerate(_listed(alternatives, f"{path}.oneOf")):
        yield literal(f"{indent} | ")
        yield from _nullable(variant, where, f"{indent}   ")
        own = _string(variant, "description", where)
        says = own is not None and own != description and not (index == 0 and above)
        yield from _behind([*([[own]] if says and own is not None else []), *_default(variant, where, bare=True)])
        yield literal("\n")
    yield literal(f"{indent},\n")


def _behind(comments: list[Parts]) -> Parts:
    return [literal(" // "), *join(" ", comments)] if comments else []


def _default(schema: Any, path: str, *, bare: bool) -> list[Parts]:  # noqa: ANN401 - a JSON value
    """Return the comment on a default value, or none. One of the enumerated strings stands bare, or not."""
    if not isinstance(schema, dict) or "default" not in schema:
        return []
    value, where = schema["default"], f"{path}.default"
    if isinstance(value, str):
        enumerated = isinstance(schema.get("enum"), list) and bool(schema["enum"])
        shown = [Text(value, source=_SOURCE, path=where)] if enumerated and bare else _quoted(value, where)
    else:
        try:
            shown = [Text(json.dumps(value, ensure_ascii=False, separators=(",", ":")), source=_SOURCE, path=where)]
        except (TypeError, ValueError):
            raise ConversationError(where, "is no JSON value.") from None
    return [[literal("default: "), *shown]]


def _quoted(value: str, path: str) -> Parts:
    return [literal('"'), Text(value, source=_SOURCE, path=path), literal('"')]


def _type_name(name: str, path: str) -> Text:
    return literal("number") if name == "integer" else Text(name, source=_SOURCE, path=path)


def _strings(values: Any) -> list[tuple[int, str]]:  # noqa: ANN401 - a JSON value
    """Return the strings of a list, each with its index."""
    return [(i, value) for i, value in enumerate(values) if isinstance(value, str)] if isinstance(values, list) else []


def _string(schema: Any, key: str, path: str) -> Text | None:  # noqa: ANN401 - a JSON value
    value = schema.get(key) if isinstance(schema, dict) else None
    return Text(value, source=_SOURCE, path=f"{path}.{key}") if isinstance(value, str) else None


def _listed(values: list[Any], path: str) -> Iterator[tuple[Any, str]]:
    return ((value, f"{path}[{index}]") for index, value in enumerate(values))
