"""Which roles a message may have: a role picks the source of all that a message says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardtok.chat.labels import RESULT_ROLES, ROLES
from guardtok.errors import near_match

if TYPE_CHECKING:
    from guardtok.policy.model import Policy


def is_role(role: str, policy: Policy) -> bool:
    """Whether a message may have a role: the usual ones, those of single families, and what the policy names."""
    return role in ROLES or role in RESULT_ROLES or role in policy.chat.roles


def say_unknown(role: str, policy: Policy) -> str:
    """Return what is wrong with a role that nobody names, without the role."""
    known = sorted({*ROLES, *RESULT_ROLES, *policy.chat.roles})
    return (
        f"neither the protocol nor the policy names this role.{near_match(role, known)} "
        "Name it under `chat: {roles: […]}` in the policy, or send a role that models know."
    )
