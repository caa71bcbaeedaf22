"""Chat Completions and Completions, and what vLLM, SGLang and Ollama add to them: who wrote which field.

From `openai.types.chat`, the request models of vLLM 0.1x and SGLang 0.5, and Ollama's API reference.
"""

from __future__ import annotations

from functools import lru_cache

from guardtok.requests.fields import (
    CALL,
    DEFINITION,
    DOCUMENT,
    FUNCTION,
    ID,
    NAME,
    PROMPT_IDS,
    TEMPLATE,
    TOOL,
    TOOLS,
    UNNAMED,
    VERBATIM,
    label_contents,
    options,
)
from guardtok.requests.labels import PROMPT, Kind, Label, Shape
from guardtok.text import UNKNOWN

SPOKEN = ("reasoning_content", "thinking", "reasoning", "reasoning_details", "refusal", "images", "audio")
"""The fields of a message, besides its content, that its role wrote."""


@lru_cache(maxsize=64)
def label_message(source: str) -> Label:
    """Return the label of a message that a source wrote."""
    return Label(
        UNKNOWN,
        {
            "role": VERBATIM,
            "content": label_contents(source),
            **dict.fromkeys(SPOKEN, Label(source)),
            "name": NAME,
            "tool_name": NAME,
            "tool_calls": Label("tool_arguments", items=CALL, shape=Shape.LIST),
            "function_call": FUNCTION,
            "tool_call_id": ID,
        },
    )


MESSAGES = Label(
    UNKNOWN, items=Label(UNKNOWN, by="role", speaker=label_message, shape=Shape.MAPPING), shape=Shape.LIST, joined=True
)

_RAW = Label(PROMPT, kind=Kind.PROMPT)

_SHARED = {
    "messages": MESSAGES,
    "tools": TOOLS,
    "functions": TOOLS,
    "tool_choice": TOOL,
    "function_call": DEFINITION,
    "documents": DOCUMENT,
    "format": DEFINITION,
    "template": TEMPLATE,
    "prediction": UNNAMED,
}

CHAT = options(**_SHARED)

COMPLETIONS = options(
    **{
        **_SHARED,
        **dict.fromkeys(("prompt", "text", "input", "inputs", "suffix", "query", "queries", "text_1", "text_2"), _RAW),
        "system": Label("system"),
        "context": PROMPT_IDS,
        "documents": Label("document", kind=Kind.PROMPT),
    }
)
