"""Bodies of requests, made from the types of the real client libraries: every field of every type, filled."""

# ruff: noqa: ANN401 - types are values here, and JSON is any value

from __future__ import annotations

import collections.abc
import types
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as CompletionParams
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import BaseModel
from typing_extensions import NotRequired, Required, get_type_hints, is_typeddict

from guardtok.guard import Guard
from guardtok.policy import parse_policy

if TYPE_CHECKING:
    from guardtok.requests import SanitizedRequest
    from guardtok.sinks import Sink

ESCAPE = 'sources: {"*": {default: escape}}'
"""A policy under which nobody writes a token, and nothing is refused for one."""

ROOTS: dict[str, Any] = {
    "openai.chat": ChatParams,
    "openai.completions": CompletionParams,
    "openai.responses": ResponseCreateParamsNonStreaming,
    "anthropic.messages": MessageCreateParamsNonStreaming,
}
"""The type of a request's body, by protocol."""


@cache
def guard_of(text: str = ESCAPE, tokenizer: str | None = None, sink: Sink | None = None) -> Guard:
    """Return a guard for the text of a policy, without its first line."""
    return Guard.load(parse_policy(f"guardtok: 1\n{text}"), tokenizer, sinks=() if sink is None else (sink,))


def chat(*contents: Any, **fields: Any) -> dict[str, Any]:
    """Return a request with a message of the user for each content."""
    return {"model": "m", "messages": [{"role": "user", "content": each} for each in contents], **fields}


def called(arguments: Any) -> dict[str, Any]:
    """Return a request with a call that has these arguments."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"model": "m", "messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]}


def parts(*texts: str) -> list[dict[str, str]]:
    """Return parts with these texts."""
    return [{"type": "text", "text": text} for text in texts]


def content_of(request: SanitizedRequest) -> Any:
    """Return the first message's content."""
    return request.body["messages"][0]["content"]


def arguments_of(request: SanitizedRequest) -> str:
    """Return the arguments of the first call."""
    arguments: str = request.body["messages"][0]["tool_calls"][0]["function"]["arguments"]
    return arguments


MAX_DEPTH = 9
_LISTS = {list, collections.abc.Iterable, collections.abc.Sequence}


class Filler:
    """Fills a type with values, every string of which is a canary, and writes down where each lies.

    Where a type is one of several, the one number `turn` is taken; a list holds one item of each.
    """

    def __init__(self, canary: str, turn: int) -> None:
        self._canary = canary
        self._turn = turn
        self.paths: set[str] = set()

    def fill(self, kind: Any, path: str, depth: int = 0) -> Any:  # noqa: PLR0911 - one case for each type
        """Return a value of a type."""
        origin, args = get_origin(kind), get_args(kind)
        if origin in {Required, NotRequired, Annotated}:
            return self.fill(args[0], path, depth)
        if origin is Literal:
            return args[self._turn % len(args)]
        if origin in {Union, types.UnionType}:
            kinds = [each for each in args if each is not type(None)]
            return self.fill(kinds[self._turn % len(kinds)], path, depth)
        if is_typeddict(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return self._fill_mapping(kind, path, depth)
        if (
            origin in {list, collections.abc.Iterable, collections.abc.Sequence}
            or getattr(origin, "__name__", "") == "SequenceNotStr"
        ):
            return self._fill_list(args[0], path, depth)
        if origin in {dict, collections.abc.Mapping}:
            return self._fill_free(args[1], path, depth)
        return self._fill_plain(kind, path, depth)

    def _fill_plain(self, kind: Any, path: str, depth: int) -> Any:
        if kind is str:
            self.paths.add(path)
            return self._canary
        if kind in {object, Any}:
            return self._fill_free(str, path, depth)
        # What is no JSON (a file in Anthropic's types) cannot be sent in a body.
        return {int: 1, float: 0.5, bool: True}.get(kind)

    def _fill_mapping(self, kind: Any, path: str, depth: int) -> dict[str, Any]:
        if depth > MAX_DEPTH:
            return {}
        if is_typeddict(kind):
            hints = get_type_hints(kind)
        else:
            hints = {name: field.annotation for name, field in kind.model_fields.items()}
        return {name: self.fill(hint, f"{path}.{name}", depth + 1) for name, hint in hints.items()}

    def _fill_list(self, kind: Any, path: str, depth: int) -> list[Any]:
        if depth > MAX_DEPTH:
            return []
        kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        kinds = [kind]
        if get_origin(kind) in {Union, types.UnionType}:
            kinds = [each for each in get_args(kind) if each is not type(None)]
        return [self.fill(each, f"{path}[{index}]", depth + 1) for index, each in enumerate(kinds)]

    def _fill_free(self, kind: Any, path: str, depth: int) -> dict[str, Any]:
        if depth > MAX_DEPTH:
            return {}
        key = f"k{self._canary}"
        shown = key.replace("<|", "<_|")
        self.paths.add(f'{path}["{shown}"]~')
        return {key: self.fill(kind, f'{path}["{shown}"]', depth + 1)}
