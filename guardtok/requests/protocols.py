"""The protocols that bodies are said to be of, and the labels of each."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from guardtok.errors import RequestError, near_match
from guardtok.requests.anthropic_messages import MESSAGES
from guardtok.requests.openai_chat import CHAT, COMPLETIONS
from guardtok.requests.openai_responses import RESPONSES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from guardtok.requests.labels import Label

REQUESTS: Mapping[str, Label] = MappingProxyType(
    {
        "openai.chat": CHAT,
        "openai.completions": COMPLETIONS,
        "openai.responses": RESPONSES,
        "anthropic.messages": MESSAGES,
    }
)
"""The label of a request's body, by protocol."""

PROTOCOLS = tuple(REQUESTS)
"""The protocols. `openai.chat` and `openai.completions` hold for what vLLM, SGLang and Ollama add to them too, and the
second for every body with a bare prompt: SGLang's `/generate`, Ollama's `/api/generate`, embeddings, `/tokenize`."""


def label_request(protocol: str) -> Label:
    """Return the label of a request's body.

    Raises:
        RequestError: No such protocol.
    """
    if protocol not in REQUESTS:
        fact = f"nothing is known of this protocol.{near_match(protocol, REQUESTS)} Known are {', '.join(REQUESTS)}."
        raise RequestError("request.protocol", "$", fact)
    return REQUESTS[protocol]
