"""Which headers go on, and what a proxy adds: connections end here, so what speaks of one of them stays here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    Header = tuple[bytes, bytes]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers of one connection (RFC 9110, 7.6.1), and those that browsers and old proxies use so."""

_OWN = frozenset({b"content-length", b"expect", b"host"})
"""Headers of a request that are made anew: how its body is framed, whom it is for, and what was answered here."""

_VIA = b"1.1 guardtok"


def end_to_end(headers: Iterable[Header]) -> list[Header]:
    """Return the headers that are not of one connection, those that `Connection` names left out too."""
    headers = list(headers)
    dropped = HOP_BY_HOP.union(
        word.strip().lower() for name, value in headers if name.lower() == b"connection" for word in value.split(b",")
    )
    return [header for header in headers if header[0].lower() not in dropped]


def answered(headers: Iterable[Header]) -> list[Header]:
    """Return the headers of an upstream's answer as the client gets them.

    A length beside chunks is not to be believed (RFC 9112, 6.3), so it stays here with the chunks.
    """
    headers = list(headers)
    is_chunked = any(name.lower() == b"transfer-encoding" for name, _ in headers)
    return [each for each in end_to_end(headers) if not (is_chunked and each[0].lower() == b"content-length")]


def for_upstream(scope: Mapping[str, Any], host: bytes) -> list[Header]:
    """Return the headers of a request as the upstream gets them: credentials and cookies as they came.

    Args:
        scope: The ASGI scope of the request.
        host: The upstream's own `Host`.
    """
    came: list[Header] = [(name.lower(), value) for name, value in scope["headers"]]
    kept = [header for header in end_to_end(came) if header[0] not in _OWN]
    peer = (scope.get("client") or ("unknown",))[0].encode("latin-1", "replace")
    asked = next((value for name, value in came if name == b"host"), None)
    kept = _append(_append(kept, b"x-forwarded-for", peer), b"via", _VIA)
    present = {name for name, _ in kept}
    if b"x-forwarded-proto" not in present:
        kept.append((b"x-forwarded-proto", scope.get("scheme", "http").encode("ascii", "replace")))
    if b"x-forwarded-host" not in present and asked is not None:
        kept.append((b"x-forwarded-host", asked))
    return [(b"host", host), *kept, *_framing(came)]


def _append(headers: list[Header], name: bytes, value: bytes) -> list[Header]:
    """Add an entry to the list that a header is, in one line whatever the number of lines that came."""
    came = [each for known, each in headers if known == name]
    return [*(header for header in headers if header[0] != name), (name, b", ".join([*came, value]))]


def _framing(headers: list[Header]) -> list[Header]:
    # Where both came the length is not to be believed (RFC 9112, 6.3): that is how requests are smuggled.
    if any(name == b"transfer-encoding" for name, _ in headers):
        return [(b"transfer-encoding", b"chunked")]
    return [header for header in headers if header[0] == b"content-length"][:1]
