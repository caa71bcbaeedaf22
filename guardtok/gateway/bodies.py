"""A request's body, from the wire to one JSON value and back: bounded, and with one meaning.

A body can be read in several ways: compressed twice, with a key twice, with numbers that one parser keeps and another
rounds, in another encoding than it says. Each of these is refused, so that what is judged is what the server reads.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from typing import TYPE_CHECKING, Any, TypeAlias

from guardtok.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    Headers: TypeAlias = Iterable[tuple[bytes, bytes]]
    Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]

MAX_DEPTH = 128
"""Containers in containers that a body may hold. Tool schemas nest some twenty deep."""

MAX_PARTS = 100_000
"""Strings, keys, lists and objects that a body may hold, as for the walker: each costs far more than its bytes."""

TOO_LARGE = "request.size"
"""The rule of a refusal for its size: HTTP 413."""

BAD_ENCODING = "request.encoding"
"""The rule of a refusal for an encoding that cannot be read: HTTP 415."""

BAD_JSON = "request.json"
"""The rule of a refusal for what is no JSON, or JSON with more than one meaning."""

_ENCODINGS = frozenset({"identity", "gzip", "x-gzip", "deflate", "zstd"})
# RFC 9659: a decoder of the content coding `zstd` need support no larger window.
_ZSTD_WINDOW = 8 * 1024 * 1024
# What fits the 64-bit integers of every parser; beyond, some round and some refuse.
_SMALLEST, _BEYOND = -(2**63), 2**64
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii"})
_CHARSET = re.compile(r"charset\s*=\s*\"?([^\s;\"]*)", re.IGNORECASE)


class DisconnectedError(Exception):
    """The client went away before its body was complete."""


def encoding_of(headers: Headers) -> str:
    """Return how a body is compressed, `identity` for not at all, as its headers say.

    Both `content-encoding` and SGLang's `x-body-compressed` count.

    Raises:
        RequestError: Several encodings, one that is not known, or a charset other than UTF-8 (`request.encoding`).
    """
    names = []
    for name, value in headers:
        lowered = name.lower()
        text = value.decode("latin-1")
        if lowered in {b"content-encoding", b"x-body-compressed"}:
            names += [part.strip().lower() for part in text.split(",") if part.strip()]
        elif lowered == b"content-type" and not {said.lower() for said in _CHARSET.findall(text)} <= _CHARSETS:
            raise _refuse(BAD_ENCODING, "The body is said to be in another charset than UTF-8. Send UTF-8.")
    if len(names) > 1:
        raise _refuse(BAD_ENCODING, "The body is encoded more than once. Send one of gzip, deflate and zstd, or none.")
    encoding = names[0] if names else "identity"
    if encoding not in _ENCODINGS:
        raise _refuse(BAD_ENCODING, "The body has an unknown encoding. Send one of gzip, deflate and zstd, or none.")
    return encoding


def is_announced(headers: Headers) -> bool:
    """Return whether headers say that a body comes, as HTTP/1.1 has it (RFC 9112, 6)."""
    return any(
        name.lower() == b"transfer-encoding" or (name.lower() == b"content-length" and value.strip(b"0 ") != b"")
        for name, value in headers
    )


async def read(receive: Receive, cap: int, headers: Headers = ()) -> bytes:
    """Return a request's body as it came over the wire. Nothing is read of one that is said to be too large.

    Args:
        receive: ASGI's.
        cap: Bytes that are let in.
        headers: The request's, for `content-length`.

    Raises:
        RequestError: The body is larger than `cap` (`request.size`).
        DisconnectedError: The client went away.
    """
    for name, value in headers:
        # More digits than any size has are not worth turning into a number.
        if name.lower() == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > cap):  # noqa: PLR2004
            raise too_large(cap)
    # One buffer: a body of a million chunks would have a million objects.
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise DisconnectedError
        chunk = message.get("body", b"")
        if len(body) + len(chunk) > cap:
            raise too_large(cap)
        body += chunk
        if not message.get("more_body", False):
            return bytes(body)


def decode(raw: bytes, encoding: str, cap: int) -> bytes:
    """Return a body with its compression taken off. No more than `cap` bytes are ever made of it.

    Raises:
        RequestError: It decodes to more than `cap` bytes (`request.size`), is not what its encoding says, or there is
            no zstandard to decode it with (`request.encoding`).
    """
    if encoding == "identity":
        return raw
    body = _unzstd(raw, cap) if encoding == "zstd" else _inflate(raw, encoding, cap)
    if len(body) > cap:
        raise too_large(cap)
    return body


def parse(body: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Return the one value that a body means.

    Raises:
        RequestError: It is no JSON in UTF-8, nests deeper than `MAX_DEPTH`, has more than `MAX_PARTS` parts, holds a
            key twice in one object, or a number that is none of JSON's or that 64 bits do not hold (`request.json`).
    """
    if _count_parts(body) > MAX_PARTS:
        raise _refuse(BAD_JSON, f"The body has more than {MAX_PARTS:,} strings, keys, lists and objects. Split it.")
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique)
    except RequestError:
        raise
    except RecursionError:
        raise _refuse(BAD_JSON, _TOO_DEEP) from None
    except ValueError:
        # Not UTF-8, a byte order mark, no JSON, or an integer of thousands of digits.
        raise _refuse(BAD_JSON, "The body is not JSON in UTF-8. Send one JSON object.") from None
    _bound(value)
    return value


def dump(value: object) -> bytes:
    """Return a value as JSON in UTF-8.

    Raises:
        RequestError: A string in it holds a lone surrogate, which UTF-8 cannot say (`request.json`).
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError:
        raise _refuse(BAD_JSON, "A string holds half of a surrogate pair. Take it out.") from None


def too_large(cap: int) -> RequestError:
    """Return the error for a body of more than `cap` bytes."""
    return _refuse(TOO_LARGE, f"The body is larger than the {cap:,} bytes that are let in. Send less.")


_NO_NUMBER = "A number is none of JSON's (NaN, Infinity), or beyond 64 bits, where parsers differ. Send another one."
_TOO_DEEP = f"The body nests deeper than {MAX_DEPTH} containers. Send a flatter one."


def _refuse(rule: str, fact: str) -> RequestError:
    return RequestError(rule, "$", fact)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _refuse(BAD_JSON, "A key stands twice in one object, so the body has two meanings. Send it once.")
    return made


def _count_parts(body: bytes) -> int:
    """Return how many strings and containers a body has, without making them; an upper bound where it is low enough."""
    most = body.count(b"[") + body.count(b"{") + body.count(b'"') // 2
    if most <= MAX_PARTS:
        return most
    # Code in a string is full of brackets. Without its escaped quotes, a body's strings are what lies between quotes.
    bare = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = bare.count(b'"') // 2
    if strings > MAX_PARTS:
        return strings
    return strings + sum(part.count(b"[") + part.count(b"{") for part in bare.split(b'"')[::2])


def _bound(value: object) -> None:
    level = [value]
    for depth in range(MAX_DEPTH + 1):
        below: list[object] = []
        for item in level:
            if depth == MAX_DEPTH and isinstance(item, (dict, list)):
                raise _refuse(BAD_JSON, _TOO_DEEP)
            if type(item) is dict:
                below += item.values()
            elif type(item) is list:
                below += item
            elif (type(item) is int and not _SMALLEST <= item < _BEYOND) or (
                type(item) is float and not math.isfinite(item)
            ):
                raise _refuse(BAD_JSON, _NO_NUMBER)
        if not below:
            return
        level = below


def _inflate(raw: bytes, encoding: str, cap: int) -> bytes:
    # 31: a gzip header and trailer; 15: those of zlib, which is what HTTP calls deflate (RFC 9110, 8.4.1.2).
    inflater = zlib.decompressobj(15 if encoding == "deflate" else 31)
    try:
        body = inflater.decompress(raw, cap + 1)
    except zlib.error:
        raise _not_as_said() from None
    if len(body) <= cap and (not inflater.eof or inflater.unused_data):
        raise _not_as_said()
    return body


def _unzstd(raw: bytes, cap: int) -> bytes:
    try:
        import zstandard
    except ImportError:
        # The server cannot read it; that is no mistake of the caller's, and yet theirs to mend.
        raise _refuse(BAD_ENCODING, "Bodies in zstd are not read here. Send gzip, or none.") from None
    try:
        with zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).stream_reader(raw) as reader:
            body = reader.read(cap + 1)
        if len(body) > cap:
            return body
        # The reader bounds what it makes, and does not say whether it came to the end; this one says it.
        whole = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
        body = whole.decompress(raw)
    except zstandard.ZstdError:
        raise _not_as_said() from None
    if not whole.eof or whole.unused_data:
        raise _not_as_said()
    return body


def _not_as_said() -> RequestError:
    return _refuse(BAD_ENCODING, "The body is not what its content-encoding says. Send it whole, or without one.")
