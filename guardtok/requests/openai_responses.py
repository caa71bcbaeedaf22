"""The Responses API: who wrote which field of a request.

From `openai.types.responses`. What lies on the server, such as earlier responses, items and files that are named by an
id, is not in the request and cannot be looked at.
"""

from __future__ import annotations

from functools import lru_cache

from guardtok.requests.fields import (
    ARGUMENTS,
    DEFINITION,
    ID,
    NAME,
    TOOL,
    TOOLS,
    UNNAMED,
    VERBATIM,
    label_content,
    label_output,
    options,
)
from guardtok.requests.labels import Label, Shape
from guardtok.text import UNKNOWN

_OWN = {"type": VERBATIM, "id": ID, "call_id": ID, "status": VERBATIM, "encrypted_content": VERBATIM}


@lru_cache(maxsize=64)
def label_message(source: str) -> Label:
    """Return the label of a message that a source wrote."""
    return Label(UNKNOWN, {**_OWN, "role": VERBATIM, "content": label_content(source), "name": NAME})


_CALLED = Label(
    "tool_arguments",
    {
        **_OWN,
        "name": NAME,
        "arguments": ARGUMENTS,
        # Some items hold the call and what came of it.
        **dict.fromkeys(("output", "outputs", "results", "result", "error"), label_output("tool_result")),
    },
)
_ANSWERED = Label("tool_result", {**_OWN, "name": NAME, "tools": TOOLS, "output": label_output("tool_result")})
_THOUGHT = Label("assistant", {**_OWN, "summary": label_output("assistant"), "content": label_output("assistant")})
_OFFERED = Label("tool_definition", {**_OWN, "role": VERBATIM, "tools": TOOLS, "error": Label("tool_result")})

ITEM = Label(
    UNKNOWN,
    _OWN,
    by="role",
    speaker=label_message,
    cases={
        **dict.fromkeys(
            (
                "function_call",
                "custom_tool_call",
                "tool_search_call",
                "computer_call",
                "local_shell_call",
                "shell_call",
                "apply_patch_call",
                "file_search_call",
                "web_search_call",
                "code_interpreter_call",
                "image_generation_call",
                "mcp_call",
                "mcp_approval_request",
                "program",
            ),
            _CALLED,
        ),
        **dict.fromkeys(
            (
                "function_call_output",
                "custom_tool_call_output",
                "tool_search_output",
                "computer_call_output",
                "local_shell_call_output",
                "shell_call_output",
                "apply_patch_call_output",
                "program_output",
            ),
            _ANSWERED,
        ),
        "reasoning": _THOUGHT,
        "mcp_list_tools": _OFFERED,
        "additional_tools": _OFFERED,
        "mcp_approval_response": Label("user", _OWN),
        "item_reference": Label(UNKNOWN, _OWN),
        "compaction": Label(UNKNOWN, _OWN),
    },
    shape=Shape.MAPPING,
)

RESPONSES = options(
    input=Label("user", items=ITEM, shape=Shape.CONTENT, joined=True),
    instructions=Label("system", items=ITEM, shape=Shape.CONTENT, joined=True),
    prompt=Label(UNKNOWN, {"id": VERBATIM, "version": VERBATIM, "variables": UNNAMED}),
    tools=TOOLS,
    tool_choice=TOOL,
    text=DEFINITION,
    previous_response_id=VERBATIM,
    conversation=VERBATIM,
    include=VERBATIM,
)
