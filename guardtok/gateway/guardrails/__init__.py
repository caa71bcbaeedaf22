"""A guardrail service: other gateways ask it, each in its own dialect, what to do with a request or a reply.

What asks may be set up to let pass what it gets no verdict for. So whatever a body can cause is a verdict here: one
that is too large, too deep or no JSON is refused as one that the policy blocks is, and no error admits anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardtok.errors import MissingExtraError
from guardtok.gateway.guardrails import agentgateway, evaluate, generic, nemo, portkey
from guardtok.gateway.guardrails.door import make_endpoint

if TYPE_CHECKING:
    from starlette.routing import Route

    from guardtok.gateway.gatekeeper import Gatekeeper

MAX_BODY = 8 * 1024 * 1024
"""Bytes of a body that are read by default."""

DIALECTS = (
    generic.DIALECT,
    agentgateway.REQUEST,
    agentgateway.RESPONSE,
    portkey.DIALECT,
    nemo.DIALECT,
    evaluate.DIALECT,
)
"""Every dialect, each at a path of its own."""


def routes(gatekeeper: Gatekeeper, *, max_body: int = MAX_BODY) -> list[Route]:
    """Return the routes of the guardrail service, to be mounted in a starlette application.

    Args:
        gatekeeper: What decides.
        max_body: Bytes of a body, compressed or not, that are let in; a larger one is refused.

    Raises:
        MissingExtraError: starlette is not installed.
    """
    try:
        from starlette.routing import Route
    except ImportError:
        message = "The guardrail service needs starlette. Install it with: pip install 'guardtok[gateway]'"
        raise MissingExtraError(message) from None
    return [
        Route(dialect.path, make_endpoint(dialect, gatekeeper, max_body), methods=["POST"], name=dialect.name)
        for dialect in DIALECTS
    ]
