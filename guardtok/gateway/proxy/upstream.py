"""Where the proxy sends requests, and how long it waits: checked once, at the start."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from guardtok.errors import GuardtokError
from guardtok.violation import visible


class UpstreamError(GuardtokError, ValueError):
    """An upstream cannot be used as it was named."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the proxy waits, in seconds; None is without end.

    Attributes:
        connect: For a connection to the upstream.
        read: For the upstream's answer to begin, and then for each next piece of it.
        total: For a whole answer, from the request's first byte to the answer's last.
        client: For the client to send, or to take, the next piece.
    """

    connect: float = 5.0
    read: float = 600.0
    total: float | None = None
    client: float = 60.0


@dataclass(frozen=True, slots=True)
class Upstream:
    """The server behind the proxy.

    Attributes:
        origin: Scheme, host and port: `http://127.0.0.1:8000`.
        prefix: What is put before each path that is asked for; empty, or begins with `/` and does not end with one.
    """

    origin: str
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> Upstream:
        """Read the URL of an upstream.

        Raises:
            UpstreamError: It is no `http` or `https` URL of a host, or has parts that would be lost.
        """
        shown = visible(url[:200])
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise UpstreamError(f"The upstream {shown!r} is no URL. Write http://HOST:PORT.") from None
        if parts.scheme not in {"http", "https"} or not host or not url.isascii() or not url.isprintable():
            raise UpstreamError(f"The upstream {shown!r} is no URL of a server. Write http://HOST:PORT.")
        if parts.username is not None or parts.password is not None:
            # Not shown: it holds a password.
            raise UpstreamError("The upstream's URL holds credentials. Leave them out: the caller's own are passed on.")
        if parts.query or parts.fragment or " " in url:
            raise UpstreamError(f"The upstream {shown!r} has a query or a fragment. Leave it out.")
        prefix = parts.path.rstrip("/")
        if prefix.endswith("/v1"):
            raise UpstreamError(
                f"The upstream {shown!r} ends in /v1. Leave that out: the path that a caller asks for is added to it."
            )
        if f"[{host}]" in parts.netloc:
            host = f"[{host}]"
        return cls(f"{parts.scheme}://{host}" + (f":{port}" if port is not None else ""), prefix)

    @property
    def host(self) -> bytes:
        """The upstream's `Host`."""
        return self.origin.partition("://")[2].encode("ascii")

    def __str__(self) -> str:
        return self.origin + self.prefix
