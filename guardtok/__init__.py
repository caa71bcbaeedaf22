"""Prepared statements for prompts: who may write which control token, decided by policy and proven on the ids."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from guardtok.encoded import Encoded as Encoded
from guardtok.errors import GuardtokError as GuardtokError
from guardtok.errors import PolicyError as PolicyError
from guardtok.errors import RefusedError as RefusedError
from guardtok.errors import VerificationError as VerificationError
from guardtok.extended import Extended as Extended
from guardtok.extending.extend import extend as extend
from guardtok.guard import Guard as Guard
from guardtok.guarded_encoding import GuardedEncoding as GuardedEncoding
from guardtok.policy.model import Policy as Policy
from guardtok.sanitize import Sanitized as Sanitized
from guardtok.text import Text as Text
from guardtok.violation import Action as Action
from guardtok.violation import Verdict as Verdict
from guardtok.violation import Violation as Violation

if TYPE_CHECKING:
    from guardtok.resize.disk_apply import apply_dir as apply_dir
    from guardtok.resize.disk_planning import plan_resize_dir as plan_resize_dir
    from guardtok.resize.disk_verify import verify_dir as verify_dir
    from guardtok.resize.plan import plan_resize as plan_resize

# What only some users need, imported when it is first asked for.
_LATE = {
    "apply_dir": "guardtok.resize.disk_apply",
    "plan_resize": "guardtok.resize.plan",
    "plan_resize_dir": "guardtok.resize.disk_planning",
    "verify_dir": "guardtok.resize.disk_verify",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attributes are of any type
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)
