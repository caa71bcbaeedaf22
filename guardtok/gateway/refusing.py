"""Why an error refuses a body, in words that may be shown: only of messages that are known to quote nothing."""

from __future__ import annotations

from guardtok.errors import (
    GuardtokError,
    MessageError,
    RefusedError,
    RequestError,
    TemplateError,
    TemplateMismatchError,
)
from guardtok.gateway.decision import Blame, Refusal
from guardtok.violation import Action, visible


def refuse(error: BaseException) -> Refusal:
    """Return why an error refuses a body. Only messages that are known to quote nothing are passed on."""
    if isinstance(error, RefusedError):
        blocked = next((v for v in error.violations if v.action is Action.BLOCK), None)
        if blocked is None:
            return Refusal(Blame.POLICY, "policy", "", "The policy refuses this text.")
        message = (
            f"A control token of the model stands at {blocked.place()}, where the policy {blocked.policy!r} blocks it "
            f"(rule {blocked.rule}). Remove it, or have the policy escape it."
        )
        return Refusal(Blame.POLICY, blocked.rule, blocked.path, message)
    if isinstance(error, RequestError):
        return Refusal(Blame.SHAPE, error.rule, error.path, str(error))
    if isinstance(error, (MessageError, TemplateError, TemplateMismatchError)):
        # A template refuses conversations too, and says so in its own words.
        return Refusal(Blame.SHAPE, "request.messages", "", str(error))
    rule = getattr(error, "rule", None)
    if isinstance(error, GuardtokError) and isinstance(rule, str):
        return Refusal(Blame.POLICY, rule, "", str(error))
    kind = visible(type(error).__name__)
    return Refusal(Blame.FAILURE, "failure", "", f"The guard failed ({kind}); nothing was let through.")
