"""Anthropic's Messages: who wrote which field of a request. From `anthropic.types`."""

from __future__ import annotations

from functools import lru_cache

from guardtok.requests.fields import (
    DEFINITION,
    TOOL,
    TOOLS,
    VERBATIM,
    label_content,
    label_contents,
    label_messages,
    options,
)
from guardtok.requests.labels import Label
from guardtok.text import UNKNOWN


@lru_cache(maxsize=64)
def label_message(source: str) -> Label:
    """Return the label of a message that a source wrote."""
    return Label(UNKNOWN, {"role": VERBATIM, "content": label_contents(source)})


MESSAGES = options(
    messages=label_messages(label_message),
    system=label_content("system", joined=True),
    tools=TOOLS,
    tool_choice=TOOL,
    output_config=DEFINITION,
    output_format=DEFINITION,
    mcp_servers=DEFINITION,
    container=VERBATIM,
)
