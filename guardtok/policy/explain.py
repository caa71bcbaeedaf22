"""Checks a tree against the schema and says, for people, what is wrong and how to mend it."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from guardtok.errors import PolicyError, Problem, near_match
from guardtok.policy.bounds import MAX_PROBLEMS, MAX_SHOWN, shown
from guardtok.policy.marked import (
    Listed,
    Mapped,
    Node,
    Scalar,
    Steps,
    mark_at,
    plain,
    step,
    without,
)
from guardtok.policy.schema import (
    VERSION,
    ChatModel,
    LimitsModel,
    LockModel,
    LogModel,
    PolicyModel,
    RequestsModel,
    SourceModel,
    TokenizerModel,
)
from guardtok.violation import visible

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_NESTED: dict[str | int, type[BaseModel]] = {
    "tokenizer": TokenizerModel,
    "limits": LimitsModel,
    "log": LogModel,
    "chat": ChatModel,
    "requests": RequestsModel,
}

_NAMING: dict[str | int, str] = {
    "sources": 'A source\'s name is made of `a-z`, `0-9` and `_` and begins with a letter, or is `"*"`.',
    "groups": "A group's name is made of letters, digits, `_` and `-` and does not begin with a digit.",
    "name": "A policy's name is made of letters, digits, spaces, `.`, `_` and `-`, at most 64 of them.",
    "fingerprint": "A fingerprint is `sha256:` and 64 hexadecimal digits, as `guardtok tokens` prints it.",
    "chat.templates": "A chat template's fingerprint is `sha256:` and 64 hexadecimal digits, in lower case.",
    "chat.roles": "A role's name is made of letters, digits, `_` and `-` and begins with a letter, at most 64 of them.",
}

_VERSIONS = ("guardtok", "guardtok_lock")

_IDS: dict[str | int, str] = {
    "custom_tokens": "a whole number from 0 to 4294967295, or `auto`",
    "ids": "a whole number from 0 to 4294967295",
}

_BOUNDS = {
    "string_too_short": "`{key}` cannot hold an empty text.",
    "string_too_long": "`{key}` cannot hold a text of more than {max_length} characters.",
    "greater_than_equal": "`{key}` is too small: it is at least {ge}.",
    "too_long": "`{key}` holds more than {max_length} entries.",
    "less_than_equal": "`{key}` is too large: it is at most {le}.",
}

_NOUNS = {
    "string_type": "text",
    "int_type": "a whole number",
    "list_type": "a list",
    "dict_type": "keys and values",
    "model_type": "keys and values",
}


def check_policy(tree: Node, problems: list[Problem]) -> tuple[PolicyModel, Mapped]:
    """Check a tree against the schema of a policy.

    What is wrong is added to `problems` and taken out of the tree, so that the rest can be checked further.

    Returns:
        The model of what is right, and the tree that it was made from.

    Raises:
        PolicyError: The tree is not a mapping.
    """
    root = _mapping(tree, problems)
    try:
        return PolicyModel.model_validate(plain(root)), root
    except ValidationError as error:
        wrong = _wrong_parts(root, error)
    problems.extend(_problem(PolicyModel, root, *part) for part in islice(wrong.items(), MAX_PROBLEMS))
    rest = without(root, wrong)
    return PolicyModel.model_validate({"guardtok": VERSION, **plain(rest)}), rest


def check_lock(tree: Node, problems: list[Problem]) -> LockModel:
    """Check a tree against the schema of a lock file.

    Raises:
        PolicyError: Something is wrong with it, or `problems` already has something.
    """
    root = _mapping(tree, problems)
    try:
        lock = LockModel.model_validate(plain(root))
    except ValidationError as error:
        wrong = _wrong_parts(root, error)
        problems.extend(_problem(LockModel, root, *part) for part in islice(wrong.items(), MAX_PROBLEMS))
    else:
        if not problems:
            return lock
    raise PolicyError(problems)


def _mapping(tree: Node, problems: list[Problem]) -> Mapped:
    if isinstance(tree, Mapped):
        return tree
    fact = f"The file holds {_kind(tree)}; it must hold keys and values."
    raise PolicyError([*problems, Problem(str(tree.mark), fact, "Begin with `guardtok: 1`.")])


def _wrong_parts(root: Mapped, error: ValidationError) -> dict[Steps, ErrorDetails]:
    """Return one complaint for each wrong part of the tree; a value that fits no member of a union has several."""
    wrong: dict[Steps, ErrorDetails] = {}
    for details in error.errors(include_url=False):
        if details["type"] == "missing":
            wrong.setdefault(details["loc"], details)
            continue
        # The location ends in names of pydantic's own, such as `[key]` and those of a union's members.
        path: Steps = ()
        node: Node | None = root
        for part in details["loc"]:
            node = step(node, part) if node else None
            if node is None:
                break
            path += (part,)
        wrong.setdefault(path, details)
    return wrong


def _problem(model: type[BaseModel], root: Mapped, path: Steps, details: ErrorDetails) -> Problem:
    about_key = details["type"] == "extra_forbidden" or details["loc"][-1:] == ("[key]",)
    fact, mend = _explain(model, root, path, details)
    return Problem(str(mark_at(root, path, key=about_key)), fact, mend)


def _explain(model: type[BaseModel], root: Mapped, path: Steps, details: ErrorDetails) -> tuple[str, str]:
    """Return fact and mend of one complaint."""
    key = _bounded(next(part for part in reversed(path) if isinstance(part, str)))
    about_key = details["loc"][-1] == "[key]"
    node: Node = root
    for part in path:
        node = step(node, part) or node
    context = details.get("ctx", {})
    fact, mend = "", ""
    match details["type"]:
        case "missing":
            fact, mend = f"The key `{key}` is missing.", f"Add `{key}: {VERSION}`." if key in _VERSIONS else ""
        case _ if path[0] in _VERSIONS and isinstance(node, Scalar):
            fact = f"This guardtok reads version {VERSION} of the schema, not {shown(str(node.value))}."
            mend = f"Write `{key}: {VERSION}`, or install the guardtok that the file was written for."
        case _ if path[0] in _IDS and not about_key and len(path) == 2:  # noqa: PLR2004 - the mapping and its key
            fact = f"The id of {shown(str(path[-1]))} must be {_IDS[path[0]]}."
        case "extra_forbidden":
            known = _fields(model, path[:-1])
            fact = f"Unknown key {shown(str(path[-1]))}."
            mend = near_match(key, known) or f"Known here: {', '.join(known)}."
        case "literal_error" if isinstance(node, Scalar):
            choices = str(context["expected"])
            fact = f"`{key}` cannot be {shown(str(node.value))}, only {choices}."
            mend = near_match(str(node.value), re.findall(r"\w+", choices.replace(" or ", " ")))
        case "string_pattern_mismatch":
            name = f"chat.{key}" if path[0] == "chat" else path[0] if about_key else key
            fact = _NAMING.get(name, "A form cannot be made of white space alone.")
        case kind if kind in _BOUNDS:
            fact = _BOUNDS[kind].format(key=path[0] if about_key else key, **context)
        case kind:
            fact, mend = f"`{key}` needs {_NOUNS.get(kind, 'one word')}, not {_kind(node)}.", _requote(kind, key, node)
    return fact, mend.strip()


def _requote(kind: str, key: str, node: Node) -> str:
    """Suggest the spelling that was probably meant."""
    mend = ""
    match node:
        case Scalar() if kind == "string_type":
            mend = f'Quote it: "{_bounded(node.value)}".'
        case Listed() if kind == "string_type":
            words = [_bounded(item.value) for item in node.items if isinstance(item, Scalar)]
            mend = f'If it is a form, quote it: "[{words[0]}]".' if len(words) == 1 else "Quote forms with brackets."
        case Scalar() if kind == "list_type":
            mend = f"Write `{key}: [{shown(str(node.value))}]`."
        case Scalar() if kind == "model_type" and key not in _NESTED:
            mend = f"Write `{key}: {{default: {_bounded(node.value)}}}`."
        case Scalar() | Listed() | Mapped():
            pass
    return mend


def _bounded(value: object) -> str:
    """Return a value as it stands in the file, but for what a terminal would obey and what is too long to read."""
    return visible(str(value)[:MAX_SHOWN])


def _kind(node: Node) -> str:
    match node:
        case Mapped():
            return "keys and values"
        case Listed():
            return "a list"
        case Scalar():
            kinds = {bool: "a truth value", int: "a number", float: "a number with a fraction", str: "text"}
            return kinds[type(node.value)]


def _fields(model: type[BaseModel], path: Steps) -> tuple[str, ...]:
    """Return the keys that the schema knows at a place."""
    inner = model
    if len(path) == 1:
        inner = _NESTED.get(path[0], model)
    elif path:
        inner = SourceModel
    return tuple(inner.model_fields)
