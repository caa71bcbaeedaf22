"""Which paths carry prompts, in which protocol: what is not known under a guarded prefix is refused, not skipped.

Paths are hostile: a spelling that somebody behind the gateway may read as a guarded path (`//v1/messages`, `%2F`, `..`,
upper case, a slash at the end) counts as that path. The table follows OpenAI's and Anthropic's references and the
servers of vLLM, SGLang, llama.cpp and Ollama.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from guardtok.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ANYWHERE = ("/",)
"""The default of `prefixes`: everything that the application answers is guarded."""

NO_ROUTE = "request.route"
"""The rule of a refusal for a path of which nothing is known."""

BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"})
"""Methods that carry no body by their own definition; TRACE may not have one, and CONNECT is the server's."""

# A server that decodes a path once more than this is not known.
_ROUNDS = 4
_END = re.compile(r"[?#]")
_BLANK = "".join(map(chr, range(0x21)))

_CHAT, _COMPLETIONS, _RESPONSES, _MESSAGES = (
    "openai.chat",
    "openai.completions",
    "openai.responses",
    "anthropic.messages",
)
# A body may be a conversation or a plain prompt, and the server looks at it to find out which.
_BY_SHAPE = "by shape"

# Paths below a prefix, without the `/v1` that may stand before them.
_PROTOCOLS = {
    "/chat/completions": _CHAT,
    "/chat/completions/render": _CHAT,
    "/completions": _COMPLETIONS,
    "/completions/render": _COMPLETIONS,
    "/responses": _RESPONSES,
    "/responses/compact": _RESPONSES,
    "/responses/input_tokens": _RESPONSES,
    "/messages": _MESSAGES,
    "/messages/count_tokens": _MESSAGES,
    "/classify": _BY_SHAPE,
    "/embeddings": _BY_SHAPE,
    "/invocations": _BY_SHAPE,
    "/pooling": _BY_SHAPE,
    "/tokenize": _BY_SHAPE,
    "/moderations": _COMPLETIONS,
    "/rerank": _COMPLETIONS,
    "/score": _COMPLETIONS,
    # SGLang, vLLM's door for token ids, llama.cpp.
    "/encode": _COMPLETIONS,
    "/generate": _COMPLETIONS,
    "/inference/v1/generate": _COMPLETIONS,
    "/apply-template": _CHAT,
    "/completion": _COMPLETIONS,
    "/embedding": _COMPLETIONS,
    "/infill": _COMPLETIONS,
    # Ollama.
    "/api/chat": _CHAT,
    "/api/embed": _COMPLETIONS,
    "/api/embeddings": _COMPLETIONS,
    "/api/generate": _COMPLETIONS,
}
# What a model wrote comes back from these.
_GENERATES = frozenset(
    {
        *("/chat/completions", "/completions", "/responses", "/messages", "/invocations"),
        *("/generate", "/inference/v1/generate", "/completion", "/infill", "/api/chat", "/api/generate"),
    }
)
# Streams of these are written in ways of their own, which no gate reads.
_NATIVE = frozenset({"/generate", "/inference/v1/generate", "/completion", "/infill", "/api/chat", "/api/generate"})
# What a model wrote before, or writes in the background, is fetched here: nothing goes in, and it comes back.
_STORED = re.compile(r"(?:/v1)?(/responses|/chat/completions)/[^/]+(?:/cancel)?")
# Ids go in and text comes out: no prompt.
_HARMLESS = frozenset({"/detokenize", "/v1/detokenize"})
# The fields that hold a prompt where there is no conversation. Beside `messages`, servers differ in which they take.
_RIVALS = ("prompt", "input", "text", "content", "input_ids", "token_ids", "prompt_token_ids")


@dataclass(frozen=True, slots=True)
class Route:
    """A guarded door.

    Attributes:
        path: The path below the prefix, as the table spells it, `/responses/{id}` for a stored reply; `*` for one that
            is not known.
        protocol: How bodies are walked. Empty where the body's shape says it, or the route is not known.
        generates: Whether what a model wrote comes back.
        speaks: How errors look: a protocol, or `ollama`.
    """

    path: str
    protocol: str
    generates: bool
    speaks: str

    @property
    def is_native(self) -> bool:
        """Whether a streamed reply is in a server's own form, which cannot be judged as it comes."""
        return self.path in _NATIVE

    def streams_natively(self, body: Mapping[str, Any]) -> bool:
        """Return whether a body asks for a stream in a server's own form. Ollama streams unless it is told not to."""
        stream = body.get("stream")
        return self.is_native and (stream is not False if self.speaks == "ollama" else bool(stream))

    @property
    def is_stored(self) -> bool:
        """Whether a reply is fetched that was made before, so that no body goes in."""
        return self.path.endswith("/{id}")

    @property
    def is_known(self) -> bool:
        """Whether the table has this path."""
        return self.path != "*"

    def protocol_of(self, body: Mapping[str, Any]) -> str:
        """Return the protocol of one body.

        Raises:
            RequestError: It holds a conversation and a plain prompt, and servers differ in which they take; or it is
                Ollama's, with a key that only Ollama would read as one of its own (`request.shape`).
        """
        if self.speaks == "ollama" and not all(key.isascii() and key == key.lower() for key in body):
            # Go's decoder knows a field whatever its case.
            raise RequestError("request.shape", "$", "A key is not in lower case. Send each field as it is documented.")
        if self.protocol:
            return self.protocol
        if "messages" not in body:
            return _COMPLETIONS
        if any(rival in body for rival in _RIVALS):
            raise RequestError("request.shape", "$", "There are a conversation and a plain prompt. Send one of them.")
        return _CHAT


UNKNOWN = Route("*", "", generates=False, speaks=_CHAT)
"""A path under a guarded prefix that is in no table."""


def find(method: str, path: str, *, prefixes: Iterable[str] = ANYWHERE, open_paths: Iterable[str] = ()) -> Route | None:
    """Return the guarded door that a request asks for; `UNKNOWN` for one in no table, None for what is not guarded.

    Args:
        method: The request's method; what carries no body is not guarded, unless a stored reply is fetched by it.
        path: The decoded path, the application's `root_path` taken off.
        prefixes: Where the guarded paths begin: `/llm` guards `/llm/v1/chat/completions`.
        open_paths: Paths that pass although they are guarded, spelled exactly as a request spells them.
    """
    if path in open_paths:
        return None
    brings_body = method.upper() not in BODILESS
    known = _ROUTES.get(path)
    if known is not None and prefixes == ANYWHERE and brings_body:
        return known
    found = _find(path, prefixes)
    return found if found is not None and (brings_body or found.is_stored) else None


def _find(path: str, prefixes: Iterable[str]) -> Route | None:
    # Who puts a decoded path into a URL anew ends it at its first question mark or hash.
    for spelling in dict.fromkeys((canonicalize(path), canonicalize(_END.split(_decode(path))[0]), path.casefold())):
        for prefix in prefixes:
            below = _below(prefix, spelling)
            if below is None:
                continue
            if _below(prefix, path) in _HARMLESS:
                return None
            # A prefix may stand before the version, or be the version.
            return _ROUTES.get(below) or _ROUTES.get(spelling) or _stored(below) or _stored(spelling) or UNKNOWN
    # A target with its host in it (`http://host/v1/messages`) is cut in different ways by different servers.
    return UNKNOWN if path and not path.startswith("/") else None


def _stored(path: str) -> Route | None:
    fetched = _STORED.fullmatch(path)
    if fetched is None:
        return None
    protocol = _PROTOCOLS[fetched[1]]
    return Route(f"{fetched[1]}/{{id}}", protocol, generates=True, speaks=protocol)


def is_guarded(path: str, *, prefixes: Iterable[str] = ANYWHERE, open_paths: Iterable[str] = ()) -> bool:
    """Return whether a path is under a guarded prefix, whatever the method."""
    return find("POST", path, prefixes=prefixes, open_paths=open_paths) is not None


def canonicalize(path: str) -> str:
    """Return the one spelling of a path: decoded to the end, one slash each, no dots, no case, none at the end."""
    path = _decode(path)
    # Parameters of a segment (`;v=1`), back slashes, and white space at its end are what servers differ in most.
    segments = [segment.partition(";")[0].rstrip(_BLANK) for segment in path.replace("\\", "/").split("/")]
    return posixpath.normpath("/" + "/".join(segments).lstrip("/")).casefold()


def _decode(path: str) -> str:
    for _ in range(_ROUNDS):
        decoded = unquote(path)
        if decoded == path:
            break
        path = decoded
    return path


def _below(prefix: str, path: str) -> str | None:
    prefix = prefix.rstrip("/").casefold()
    if not path.startswith(prefix):
        return None
    rest = path[len(prefix) :]
    return rest or "/" if not rest or rest.startswith("/") else None


def _make_routes() -> dict[str, Route]:
    routes = {}
    for path, protocol in _PROTOCOLS.items():
        stated = "" if protocol == _BY_SHAPE else protocol
        is_ollama = path.startswith("/api/")
        route = Route(path, stated, path in _GENERATES, "ollama" if is_ollama else stated or _CHAT)
        routes[path] = route
        if not is_ollama:
            routes[f"/v1{path}"] = route
    return routes


_ROUTES = _make_routes()
