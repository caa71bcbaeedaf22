"""Prepared statements for prompts: who may write which control token, decided by policy and proven on the ids."""

from guardtok.encode import Encoded as Encoded
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
