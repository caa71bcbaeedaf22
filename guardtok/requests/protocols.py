"""The protocols that bodies are said to be of, and the labels of each."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from guardtok.errors import RequestError, near_match
from guardtok.requests.labels import Kind, Label
from guardtok.requests.openai_chat import CHAT, options

if TYPE_CHECKING:
    from collections.abc import Mapping

REQUESTS: Mapping[str, Label] = MappingProxyType(
    {
        "openai.chat": CHAT,
        "openai.completions": options(prompt=Label("prompt", kind=Kind.PROMPT), suffix=Label("prompt")),
        "openai.responses": CHAT,
        "anthropic.messages": CHAT,
    }
)
"""The label of a request's body, by protocol."""

PROTOCOLS = tuple(REQUESTS)
"""The protocols: `openai.chat` holds for the extras of vLLM, SGLang and Ollama too."""


def label_request(protocol: str) -> Label:
    """Return the label of a request's body.

    Raises:
        RequestError: No such protocol.
    """
    if protocol not in REQUESTS:
        fact = f"nothing is known of this protocol.{near_match(protocol, REQUESTS)} Known are {', '.join(REQUESTS)}."
        raise RequestError("request.protocol", "$", fact)
    return REQUESTS[protocol]
