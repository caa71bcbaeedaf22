"""guardtok where all traffic passes: an ASGI middleware, a proxy, a guardrail service, and what operates them.

Whatever comes in is hostile: the body, its size, its encoding, its keys, and how it is cut. Every door asks one
`Gatekeeper`, so no two of them can answer differently.
"""

from guardtok.gateway.middleware import GuardtokMiddleware as GuardtokMiddleware
