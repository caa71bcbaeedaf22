"""What of LiteLLM's request data is the caller's body, and how what was made of it goes back in place.

LiteLLM keeps the caller's fields and its own in one dictionary. Its own are named here, one by one, and left alone;
everything else is the caller's and is judged, whatever it is called, so no name is a way round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guardtok.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

_CHAT, _COMPLETIONS, _RESPONSES, _MESSAGES = (
    "openai.chat",
    "openai.completions",
    "openai.responses",
    "anthropic.messages",
)

# As `litellm.types.utils.CallTypes` spells them, the sync and the async one of each.
_PROTOCOLS = {
    "completion": _CHAT,
    "acompletion": _CHAT,
    "text_completion": _COMPLETIONS,
    "atext_completion": _COMPLETIONS,
    "responses": _RESPONSES,
    "aresponses": _RESPONSES,
    "compact_responses": _RESPONSES,
    "acompact_responses": _RESPONSES,
    "anthropic_messages": _MESSAGES,
    "aanthropic_messages": _MESSAGES,
}

INTERNAL = frozenset(
    {
        # What the proxy takes out of a caller's body and puts in itself, or writes over (`litellm_pre_call_utils`).
        "litellm_call_id",
        "litellm_logging_obj",
        "proxy_server_request",
        "secret_fields",
        # What says who the caller is, beside what the caller sends under this name; it reaches no prompt.
        "litellm_metadata",
        "metadata",
        # Names of guardrails, which LiteLLM reads after this one too.
        "guardrails",
    }
)
"""Fields of LiteLLM's own, of which none reaches a prompt."""

_FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
_JSON = (str, int, float, list, tuple, dict, type(None))


def protocol_of(call_type: object, data: Mapping[str, Any]) -> str:
    """Return how a call is judged, by LiteLLM's name of it.

    Every call is: one of another kind as a conversation if it has `messages`, else as a prompt, with what no protocol
    names as `unknown`. So embeddings are checked as prompts are, and a call that only names a file passes.
    """
    # An enumeration that is a string, in some of LiteLLM's paths.
    name = str(getattr(call_type, "value", call_type))
    return _PROTOCOLS.get(name) or (_CHAT if "messages" in data else _COMPLETIONS)


@dataclass(frozen=True, slots=True)
class Body:
    """A caller's body, taken out of LiteLLM's data.

    Attributes:
        fields: What the upstream is to get: the fields, and those of `extra_body` among them.
        extra: How many of the fields, from the end, are those of `extra_body`; None where there is none.
    """

    fields: dict[str, Any]
    extra: int | None


def take_body(data: Mapping[str, Any]) -> Body:
    """Return the caller's body of a request's data.

    A value that JSON does not have was put there by LiteLLM or by the application, and is left alone.

    Raises:
        RequestError: `extra_body` writes over a field, or a fallback brings a body of its own: what the upstream gets
            would not be what is judged.
    """
    fields = {
        name: value
        for name, value in data.items()
        if name not in INTERNAL and name != "extra_body" and isinstance(value, _JSON)
    }
    extra = data.get("extra_body")
    if extra is None:
        _check_fallbacks(fields)
        return Body(fields, None)
    if not isinstance(extra, dict):
        raise RequestError("request.shape", "$.extra_body", "an object is needed.")
    if not fields.keys().isdisjoint(extra):
        raise RequestError("request.extra_body", "$.extra_body", "it sends a field a second time. Send it once.")
    merged = {**fields, **extra}
    _check_fallbacks(merged)
    return Body(merged, len(extra))


def put_body(data: MutableMapping[str, Any], body: Body, made: Mapping[str, Any]) -> None:
    """Put what was made of a body in its place. `data` is changed, for LiteLLM has it in several hands."""
    # A key may have been changed too, but not the order: the walker copies field by field.
    pairs = list(zip(body.fields, made.items(), strict=True))
    split = len(pairs) - (body.extra or 0)
    for old, _ in pairs[:split]:
        del data[old]
    data.update(dict(item for _, item in pairs[:split]))
    if body.extra is not None:
        data["extra_body"] = dict(item for _, item in pairs[split:])


def read_logged(kwargs: Mapping[str, Any], call_type: object) -> tuple[dict[str, Any], str]:
    """Return the body and the protocol of a call as LiteLLM logs it.

    For the log LiteLLM makes messages of texts in prompts and input; a prompt of token ids stays one.
    """
    options = dict(kwargs.get("optional_params") or {})
    extra = options.pop("extra_body", None)
    fields = {**options, **(extra if isinstance(extra, dict) else {})}
    fields = {name: value for name, value in fields.items() if name not in INTERNAL and isinstance(value, _JSON)}
    said = kwargs.get("messages") or kwargs.get("input")
    protocol = protocol_of(call_type, fields)
    if protocol == _RESPONSES:
        return {**fields, "input": said}, protocol
    if protocol == _MESSAGES or (isinstance(said, list) and any(isinstance(one, dict) for one in said)):
        return {**fields, "messages": said}, _MESSAGES if protocol == _MESSAGES else _CHAT
    return {**fields, "prompt": said}, _COMPLETIONS


def _check_fallbacks(fields: Mapping[str, Any]) -> None:
    """Refuse fallbacks that replace more than the model: LiteLLM writes all that they hold over the request."""
    for name in _FALLBACKS:
        listed = fields.get(name)
        for index, one in enumerate(listed if isinstance(listed, (list, tuple)) else ()):
            if not _names_models(one):
                fact = "a fallback may name models and nothing else, for it would replace what is judged."
                raise RequestError("request.fallbacks", f"$.{name}[{index}]", fact)


def _names_models(entry: object) -> bool:
    if isinstance(entry, str):
        return True
    if not isinstance(entry, dict):
        return False
    if entry.keys() == {"model"} and isinstance(entry["model"], str):
        return True
    # `{"model": ["its fallback", …]}`, as in LiteLLM's configuration.
    return all(isinstance(models, list) and all(isinstance(one, str) for one in models) for models in entry.values())
