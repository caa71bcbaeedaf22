"""Chat Completions, and what vLLM, SGLang and Ollama add to them: who wrote which field.

From `openai.types.chat` and the request models of vLLM and SGLang.
"""

from __future__ import annotations

from functools import lru_cache

from guardtok.requests.labels import DECODING, PROMPT, UNNAMED, VERBATIM, Kind, Label, Shape, verbatim

NAME = Label("name")
ARGUMENTS = Label("tool_arguments", kind=Kind.JSON)
CALL_ID = verbatim("tool_arguments")
_FUNCTION = Label("tool_arguments", {"name": NAME, "arguments": ARGUMENTS})
_CUSTOM = Label("tool_arguments", {"name": NAME, "input": Label("tool_arguments")})
CALL = Label(
    "tool_arguments",
    {
        "id": CALL_ID,
        "type": VERBATIM,
        "index": UNNAMED,
        "name": NAME,
        "function": _FUNCTION,
        "custom": _CUSTOM,
    },
)
DEFINITION = Label("tool_definition")
TOOL = Label("tool_definition", {"type": verbatim("tool_definition"), "function": DEFINITION, "custom": DEFINITION})
TOOLS = Label("tool_definition", items=TOOL, shape=Shape.LIST)
DOCUMENTS = Label("document")
STEERING = Label(DECODING, kind=Kind.VERBATIM)
STEERING_IDS = Label(DECODING, kind=Kind.IDS)
PROMPT_IDS = Label(PROMPT, kind=Kind.IDS)
TEMPLATE = Label("template", kind=Kind.TEMPLATE)

SPOKEN = ("reasoning_content", "thinking", "reasoning", "refusal")
"""The fields of a message, besides its content, that its role wrote."""


@lru_cache(maxsize=64)
def label_part(source: str) -> Label:
    """Return the label of a part of a content that a source wrote."""
    own = Label(source)
    return Label(source, {"type": verbatim(source), "text": own, "refusal": own, "file_id": verbatim(source)})


@lru_cache(maxsize=64)
def label_message(source: str) -> Label:
    """Return the label of a message that a source wrote."""
    return Label(
        "unknown",
        {
            "role": VERBATIM,
            "content": Label(source, items=label_part(source), shape=Shape.CONTENT, joined=True),
            **dict.fromkeys(SPOKEN, Label(source)),
            "name": NAME,
            "tool_calls": Label("tool_arguments", items=CALL, shape=Shape.LIST),
            "function_call": _FUNCTION,
            "tool_call_id": CALL_ID,
        },
        shape=Shape.MAPPING,
    )


MESSAGE = Label("unknown", by="role", speaker=label_message, shape=Shape.MAPPING)
MESSAGES = Label("unknown", items=MESSAGE, shape=Shape.LIST)


def options(**fields: Label) -> Label:
    """Return the label of a mapping of options: in it, and in what it holds, some names mean what they always mean."""
    always = {
        "chat_template": TEMPLATE,
        "prompt_token_ids": PROMPT_IDS,
        "input_ids": PROMPT_IDS,
        "stop_token_ids": STEERING_IDS,
        "allowed_token_ids": STEERING_IDS,
        "logit_bias": STEERING_IDS,
        "stop": STEERING,
        "bad_words": STEERING,
    }
    inner = Label("unknown", always)
    # What lies in it is such a mapping again.
    object.__setattr__(inner, "other", inner)
    object.__setattr__(inner, "item", inner)
    return Label("unknown", {**always, **fields}, rest=inner, shape=Shape.MAPPING)


CHAT = options(
    model=VERBATIM,
    messages=MESSAGES,
    tools=TOOLS,
    functions=TOOLS,
    tool_choice=TOOL,
    function_call=DEFINITION,
    documents=DOCUMENTS,
    metadata=UNNAMED,
)
