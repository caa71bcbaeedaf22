"""What of a chat completion's request may come along when guardtok writes the prompt itself.

The threat is the field that nobody thought of: one that has the upstream put something into the prompt, or take its
answer apart. So this is a list of what may come along, and whatever is not on it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from guardtok.errors import RequestError, near_match
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MOST_CHOICES = 128
"""Answers to one question that may be asked for, as OpenAI has it."""

_Kind: TypeAlias = "tuple[Callable[[Any], bool], str]"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_whole(value) or isinstance(value, float)


_NUMBER: _Kind = _is_number, "a number"
_WHOLE: _Kind = _is_whole, "a whole number"
_COUNT: _Kind = lambda value: _is_whole(value) and value > 0, "a whole number from 1 upwards"
_SWITCH: _Kind = lambda value: isinstance(value, bool), "true or false"
_STOPS: _Kind = (
    lambda value: isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value)),
    "a string, or an array of strings",
)
_IDS: _Kind = lambda value: isinstance(value, list) and all(map(_is_whole, value)), "an array of whole numbers"
_BIASES: _Kind = (
    lambda value: isinstance(value, dict) and all(key.isdecimal() and _is_number(value[key]) for key in value),
    "an object of ids and numbers",
)

SAMPLING: Mapping[str, _Kind] = MappingProxyType(
    {
        "frequency_penalty": _NUMBER,
        "ignore_eos": _SWITCH,
        "logit_bias": _BIASES,
        # Less than one is without end to llama.cpp.
        "max_tokens": _COUNT,
        "min_p": _NUMBER,
        "min_tokens": _WHOLE,
        "presence_penalty": _NUMBER,
        "repetition_penalty": _NUMBER,
        "seed": _WHOLE,
        "stop": _STOPS,
        "stop_token_ids": _IDS,
        "temperature": _NUMBER,
        "top_k": _WHOLE,
        "top_p": _NUMBER,
    }
)
"""How to choose the next token, and what each is: these touch the answer, never the prompt."""

_INERT = frozenset(
    {"metadata", "model", "n", "prompt_cache_key", "safety_identifier", "service_tier", "store", "stream"}
    | {"stream_options", "user", "verbosity"}
)
"""What says who asks and how the answer is to come."""

_PROMPT = frozenset(
    {"add_generation_prompt", "chat_template_kwargs", "continue_final_message", "documents", "messages"}
)
"""What guardtok itself renders."""

_PARSED = {
    "audio": "sound",
    "functions": "calls of functions",
    "include_reasoning": "reasoning",
    "logprobs": "log probabilities",
    "modalities": "other media than text",
    "prediction": "predicted output",
    "reasoning": "reasoning",
    "reasoning_effort": "reasoning",
    "structured_outputs": "structured output",
    "thinking": "reasoning",
    "tools": "calls of tools",
    "top_logprobs": "log probabilities",
    "web_search_options": "search",
}
"""Fields that ask for an answer which the upstream itself has to take apart."""

_NOTHING: tuple[object, ...] = (None, False, [], {}, "none", "auto")
"""Values with which such a field asks for nothing."""

_TEXT_ALONE: dict[str, tuple[object, ...]] = {
    "function_call": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "response_format": (None, {"type": "text"}),
    "tool_choice": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "top_logprobs": (None, 0),
}
"""Fields that may come with these values, which ask for what guardtok gives anyway."""

_TEXT_PARTS = frozenset({"text", "refusal"})

_OWN = frozenset(
    {"add_generation_prompt", "continue_final_message", "documents", "messages", "request_id", "self", "template"}
    | {"tools"}
)
"""Names of `Guard.encode_chat`'s own parameters: as a template's variable each would be taken for one of those."""


@dataclass(frozen=True, slots=True)
class ChatFields:
    """A chat completion's request, read.

    Attributes:
        messages: The conversation, as it came.
        documents: Documents for the template, or None.
        variables: Variables for the template.
        add_generation_prompt: Whether the template opens the assistant's turn.
        continue_final_message: Whether the prompt ends with the final message.
        sampling: How to choose tokens, by the names of `SAMPLING`.
        model: The model that the caller names, or None.
        choices: How many answers.
        stream: Whether the answer comes as a stream.
        include_usage: Whether a stream ends with the usage.
    """

    messages: list[Any]
    documents: list[Any] | None
    variables: Mapping[str, Any]
    add_generation_prompt: bool
    continue_final_message: bool
    sampling: Mapping[str, Any]
    model: str | None
    choices: int
    stream: bool
    include_usage: bool


def read_fields(body: object, max_tokens: int | None = None) -> ChatFields:
    """Read a chat completion's request.

    Args:
        body: The request's body.
        max_tokens: How long an answer may be where the body does not say it; None to leave it to the upstream.

    Raises:
        RequestError: A field that is not known, or asks for what only the upstream could give, or has the wrong shape.
    """
    if not isinstance(body, dict):
        raise RequestError("request.shape", "$", "the body is a JSON object with `messages`.")
    for name, value in body.items():
        _check(name, value)
    options = _take(body, "stream_options", dict, {})
    variables = _take(body, "chat_template_kwargs", dict, {})
    for name in variables:
        if name == "chat_template":
            raise _refused_template("$.chat_template_kwargs.chat_template")
        if name in _OWN:
            raise RequestError("request.shape", f"$.chat_template_kwargs.{name}", "this is no variable of a template.")
    sampling = {name: _checked(body[name], name, kind) for name, kind in SAMPLING.items() if body.get(name) is not None}
    if body.get("max_completion_tokens") is not None:
        sampling["max_tokens"] = _checked(body["max_completion_tokens"], "max_completion_tokens", _COUNT)
    if max_tokens is not None:
        sampling.setdefault("max_tokens", max_tokens)
    choices = _take(body, "n", int, 1)
    if not 1 <= choices <= MOST_CHOICES:
        raise RequestError("request.shape", "$.n", f"this is a whole number from 1 to {MOST_CHOICES}.")
    messages = _take(body, "messages", list, [])
    _refuse_media(messages)
    return ChatFields(
        messages=messages,
        documents=_take(body, "documents", list, None),
        variables=variables,
        # An answer is wanted, so the turn is opened unless the caller continues one.
        add_generation_prompt=_take(body, "add_generation_prompt", bool, not body.get("continue_final_message")),
        continue_final_message=_take(body, "continue_final_message", bool, default=False),
        sampling=sampling,
        model=_take(body, "model", str, None),
        choices=choices,
        stream=_take(body, "stream", bool, default=False),
        include_usage=_take(options, "include_usage", bool, default=False, place="$.stream_options"),
    )


def _check(name: str, value: object) -> None:
    path = f"$.{visible(name[:64])}"
    if name == "chat_template":
        if value is not None:
            raise _refused_template(path)
        return
    if name in _TEXT_ALONE and value in _TEXT_ALONE[name]:
        return
    if name in SAMPLING or name in _INERT or name in _PROMPT or name == "max_completion_tokens":
        return
    if name in _PARSED or name in _TEXT_ALONE:
        if name not in _TEXT_ALONE and value in _NOTHING:
            return
        raise RequestError(
            "request.rendered",
            path,
            f"this asks for {_PARSED.get(name, 'an answer')} that the upstream would have to take out of its text, and "
            "here it is sent ids. Leave it out, or serve without `--render ids`.",
        )
    # The name itself is the caller's: it is named only where it looks like one.
    shown = path if name.isidentifier() and name.isascii() else "$"
    known = SAMPLING.keys() | _INERT | _PROMPT | _PARSED.keys() | _TEXT_ALONE.keys()
    raise RequestError(
        "request.rendered",
        shown,
        "with `--render ids` only known fields come along, and a field here is none of them."
        + near_match(name, known)
        + " Leave it out.",
    )


def _refuse_media(messages: list[Any]) -> None:
    """Refuse parts that are no text: a template would write their place into the prompt, and nothing would be there."""
    for index, message in enumerate(messages):
        parts = message.get("content") if isinstance(message, dict) else None
        for at, part in enumerate(parts if isinstance(parts, list) else ()):
            if not isinstance(part, str) and not (isinstance(part, dict) and part.get("type") in _TEXT_PARTS):
                raise RequestError(
                    "request.rendered",
                    f"$.messages[{index}].content[{at}]",
                    "with `--render ids` a part is text: ids cannot carry media. Serve it without `--render ids`.",
                )


def _refused_template(path: str) -> RequestError:
    return RequestError(
        "request.chat_template", path, "a chat template is code, and comes from whoever runs the gateway. Leave it out."
    )


def _checked(value: Any, name: str, kind: _Kind) -> Any:  # noqa: ANN401 - JSON values
    holds, what = kind
    if not holds(value):
        raise RequestError("request.shape", f"$.{name}", f"this is {what}.")
    return value


def _take(body: Mapping[str, Any], name: str, kind: type, default: Any, place: str = "$") -> Any:  # noqa: ANN401 - JSON
    """Return a field of one kind; null is as good as absent."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise RequestError("request.shape", f"{place}.{name}", f"this is {_KINDS[kind]}.")
    return value


_KINDS = {bool: "true or false", dict: "an object", int: "a whole number", list: "an array", str: "a string"}
