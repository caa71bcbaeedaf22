"""guardtok's own paths beside the upstream's: is it alive, is it ready, which policy, how much of what.

They are answered here and never forwarded: an upstream's path of the same name cannot be reached through guardtok.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from guardtok.gateway.gatekeeper import Gatekeeper
    from guardtok.gateway.metrics import Metrics


def own_routes(gatekeeper: Gatekeeper, metrics: Metrics) -> list[Route]:
    """Return the routes of `/healthz`, `/readyz`, `/v1/policy` and `/metrics`."""

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        # A process without a valid policy does not start, and a bad file later leaves the old policy in force.
        snapshot = gatekeeper.current
        return JSONResponse({"status": "ready", "policy": snapshot.guard.policy.name})

    async def policy(_request: Request) -> Response:
        snapshot = gatekeeper.current
        bound = snapshot.guard.policy
        tokenizer = snapshot.guard.tokenizer
        return JSONResponse(
            {
                "name": bound.name,
                "digest": bound.digest,
                "revision": snapshot.revision,
                "mode": bound.mode.value,
                "loaded": snapshot.loaded,
                "tokenizer": None
                if tokenizer is None
                else {"name": tokenizer.name, "fingerprint": tokenizer.fingerprint},
            }
        )

    async def numbers(_request: Request) -> Response:
        body, kind = metrics.render()
        return Response(body, headers={"content-type": kind})

    return [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/v1/policy", policy, methods=["GET"]),
        Route("/metrics", numbers, methods=["GET"]),
    ]
