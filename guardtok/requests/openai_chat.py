"""Chat Completions and Completions, and what vLLM, SGLang and Ollama add to them: who wrote which field.

After `openai.types.chat`, and fields read in the sources of vLLM, SGLang, llama.cpp and Ollama. Those change with every
release: what is missing here is walked as `unknown`.
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
    label_messages,
    options,
)
from guardtok.requests.labels import PROMPT, Kind, Label, Shape
from guardtok.text import UNKNOWN

_SPOKEN = ("refusal", "images", "audio")
_THOUGHT = ("reasoning_content", "thinking", "reasoning", "reasoning_details")


@lru_cache(maxsize=64)
def label_message(source: str) -> Label:
    """Return the label of a message that a source wrote."""
    return Label(
        UNKNOWN,
        {
            "role": VERBATIM,
            "content": label_contents(source),
            **dict.fromkeys(_SPOKEN, Label(source)),
            **dict.fromkeys(_THOUGHT, Label(source, joined=True)),
            "name": NAME,
            "tool_name": NAME,
            "tool_calls": Label("tool_arguments", items=CALL, shape=Shape.LIST),
            "function_call": FUNCTION,
            "tool_call_id": ID,
            "tools": TOOLS,
        },
    )


MESSAGES = label_messages(label_message)

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

_PROMPTS = (
    *("prompt", "suffix", "text", "input", "inputs", "content"),
    # llama.cpp's `/infill`.
    *("input_prefix", "input_suffix", "input_extra"),
    # What is scored or ranked.
    *("query", "queries", "items", "text_1", "text_2", "data_1", "data_2"),
)

COMPLETIONS = options(
    **{
        **_SHARED,
        **dict.fromkeys(_PROMPTS, _RAW),
        "system": Label("system"),
        "context": PROMPT_IDS,
        "documents": Label("document", kind=Kind.PROMPT),
    }
)
