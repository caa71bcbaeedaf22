"""Prepared statements for prompts: who may write which control token, decided by policy and proven on the ids."""

from typing import TYPE_CHECKING

from guardtok.encode import Encoded as Encoded
from guardtok.errors import GuardtokError as GuardtokError
from guardtok.errors import PolicyError as PolicyError
from guardtok.errors import RefusedError as RefusedError
from guardtok.errors import VerificationError as VerificationError
from guardtok.guard import Guard as Guard
from guardtok.guarded_encoding import GuardedEncoding as GuardedEncoding
from guardtok.policy.model import Policy as Policy
from guardtok.sanitize import Sanitized as Sanitized
from guardtok.text import Text as Text
from guardtok.violation import Action as Action
from guardtok.violation import Verdict as Verdict
from guardtok.violation import Violation as Violation

if TYPE_CHECKING:
    from guardtok.resize.plan import plan_resize as plan_resize


def __getattr__(name: str) -> object:
    """Return a public name that not every user needs; it is imported when it is first asked for."""
    if name == "plan_resize":
        from guardtok.resize.plan import plan_resize

        return plan_resize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
