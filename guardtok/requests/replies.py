"""Answers of models, whole and in events: who wrote which field, by protocol.

From `openai.types` and `anthropic.types`. What a model wrote is `assistant`, the arguments of its calls are
`tool_arguments`, the names in them `name`; what tools and searches found is theirs. What a server says about the answer
and nobody names is `unknown`: it is looked at like the rest.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from guardtok.errors import RequestError, near_match
from guardtok.requests.blocks import Blocks
from guardtok.requests.choices import Choices
from guardtok.requests.fields import ARGUMENTS, DEFINITION, DOCUMENT, NAME, VERBATIM
from guardtok.requests.items import Items
from guardtok.requests.labels import Label, Shape
from guardtok.text import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from guardtok.policy.model import Policy
    from guardtok.requests.pieces import Dialect

ASSISTANT = "assistant"

_SPOKEN = Label(ASSISTANT)
_GIVEN = Label("tool_arguments")
_RESULT = Label("tool_result")
_MARKS = dict.fromkeys(("type", "id", "object", "role", "status", "finish_reason", "stop_reason"), VERBATIM)

_FUNCTION = Label("tool_arguments", {"name": NAME, "arguments": ARGUMENTS, "input": _GIVEN})
_CALL = Label("tool_arguments", {**_MARKS, "function": _FUNCTION, "custom": _FUNCTION, "index": Label(UNKNOWN)})
_PART = Label(
    ASSISTANT,
    {
        **_MARKS,
        "annotations": DOCUMENT,
        "citations": DOCUMENT,
        "logprobs": _SPOKEN,
        "text": _SPOKEN,
        "refusal": _SPOKEN,
    },
)
_PARTS = Label(ASSISTANT, items=_PART, joined=True, thoughts=False)
_MESSAGE = Label(
    UNKNOWN,
    {
        **_MARKS,
        "content": _PARTS,
        **dict.fromkeys(("reasoning_content", "thinking", "reasoning", "refusal"), _SPOKEN),
        "tool_calls": Label("tool_arguments", items=_CALL),
        "function_call": _FUNCTION,
        "audio": Label(UNKNOWN, {"id": VERBATIM, "data": VERBATIM, "transcript": _SPOKEN}),
        "annotations": DOCUMENT,
        "name": NAME,
    },
)
_CHOICE = Label(UNKNOWN, {**_MARKS, "message": _MESSAGE, "delta": _MESSAGE, "text": _SPOKEN, "logprobs": _SPOKEN})
_COMPLETION = Label(
    UNKNOWN,
    {
        **_MARKS,
        "choices": Label(UNKNOWN, items=_CHOICE, shape=Shape.LIST),
        # Servers' own answers: Ollama's chat, and the texts of Ollama, llama.cpp and SGLang.
        "message": _MESSAGE,
        **dict.fromkeys(("response", "thinking", "content", "text"), _SPOKEN),
    },
    shape=Shape.MAPPING,
)

_BLOCK = Label(
    UNKNOWN,
    {
        **_MARKS,
        **dict.fromkeys(("signature", "data", "tool_use_id"), VERBATIM),
        "text": _SPOKEN,
        "thinking": _SPOKEN,
        "citations": DOCUMENT,
        "name": NAME,
        "input": _GIVEN,
        "content": _RESULT,
    },
)
_ANTHROPIC = Label(
    UNKNOWN, {**_MARKS, "content": Label(UNKNOWN, items=_BLOCK, joined=True, thoughts=False)}, shape=Shape.MAPPING
)
_ANTHROPIC_EVENT = Label(
    UNKNOWN,
    {
        **_MARKS,
        "message": _ANTHROPIC,
        "content_block": _BLOCK,
        "delta": Label(UNKNOWN, {**_MARKS, "signature": VERBATIM, "citation": DOCUMENT}),
    },
    shape=Shape.MAPPING,
)

_ITEM = Label(
    UNKNOWN,
    {
        **_MARKS,
        **dict.fromkeys(("call_id", "encrypted_content", "result"), VERBATIM),
        "content": _PARTS,
        "summary": Label(ASSISTANT, items=_PART),
        "revised_prompt": _SPOKEN,
        "name": NAME,
        "arguments": ARGUMENTS,
        **dict.fromkeys(("input", "code", "action", "operation", "queries"), _GIVEN),
        **dict.fromkeys(("output", "outputs", "results", "error"), _RESULT),
        "tools": DEFINITION,
    },
)
_RESPONSE = Label(
    UNKNOWN,
    {
        **_MARKS,
        "output": Label(UNKNOWN, items=_ITEM),
        "instructions": Label("system"),
        "tools": DEFINITION,
    },
    shape=Shape.MAPPING,
)
_RESPONSE_EVENT = Label(
    UNKNOWN,
    {
        **_MARKS,
        "item_id": VERBATIM,
        "response": _RESPONSE,
        "item": _ITEM,
        "part": _PART,
        "annotation": DOCUMENT,
        **dict.fromkeys(("delta", "text", "refusal", "transcript", "logprobs"), _SPOKEN),
        "arguments": ARGUMENTS,
        **dict.fromkeys(("input", "code", "command"), _GIVEN),
        "output": _RESULT,
    },
    shape=Shape.MAPPING,
)

_REPLIES: Mapping[str, tuple[Label, Dialect]] = MappingProxyType(
    {
        "openai.chat": (_COMPLETION, Choices(_COMPLETION)),
        "openai.completions": (_COMPLETION, Choices(_COMPLETION)),
        "openai.responses": (_RESPONSE, Items(_RESPONSE_EVENT)),
        "anthropic.messages": (_ANTHROPIC, Blocks(_ANTHROPIC_EVENT)),
    }
)


def are_ruled(policy: Policy) -> bool:
    """Whether a policy has rules for what a model answers: it names the source `assistant`, itself or by inheritance.

    `"*"` alone is no such rule: it says how text may come back to a model, and answers go to people and programs. A
    gateway passes the answers of a policy without rules for them untouched.
    """
    return ASSISTANT in policy.sources


def label_reply(protocol: str) -> Label:
    """Return the label of a whole answer.

    Raises:
        RequestError: No such protocol.
    """
    return _find(protocol)[0]


def find_dialect(protocol: str) -> Dialect:
    """Return how a protocol streams an answer.

    Raises:
        RequestError: No such protocol.
    """
    return _find(protocol)[1]


def _find(protocol: str) -> tuple[Label, Dialect]:
    if protocol not in _REPLIES:
        fact = f"nothing is known of this protocol.{near_match(protocol, _REPLIES)} Known are {', '.join(_REPLIES)}."
        raise RequestError("request.protocol", "$", fact)
    return _REPLIES[protocol]
