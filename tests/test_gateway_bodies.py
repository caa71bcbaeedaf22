from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from gateway_doors import HOSTILE, PLAIN
from hypothesis import given
from hypothesis import strategies as st

from guardtok.errors import RequestError
from guardtok.gateway.bodies import (
    BAD_ENCODING,
    BAD_JSON,
    MAX_DEPTH,
    TOO_LARGE,
    DisconnectedError,
    decode,
    dump,
    encoding_of,
    parse,
    read,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.compress,
}


def rule_of(call: Callable[[], object]) -> str:
    """Return the rule by which a call refuses."""
    with pytest.raises(RequestError) as caught:
        call()
    return caught.value.rule


def receive(messages: Iterable[dict[str, Any]]) -> Any:  # noqa: ANN401
    """Return ASGI's `receive` over messages; asking for one too many fails."""
    left = iter(messages)

    async def inner() -> dict[str, Any]:
        return next(left)

    return inner


def chunks_of(body: bytes, cuts: Iterable[int]) -> list[dict[str, Any]]:
    """Cut a body into ASGI's messages."""
    ends = sorted(min(cut, len(body)) for cut in cuts)
    parts = [body[start:end] for start, end in zip([0, *ends], [*ends, len(body)], strict=True)]
    made: list[dict[str, Any]] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    made[-1]["more_body"] = False
    return made


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8), st.integers(0, 250))
def test_a_body_is_read_whole_or_refused(body: bytes, cuts: list[int], cap: int) -> None:
    """However it is cut, a body of at most the cap is read to its last byte, and a larger one is refused."""
    messages = receive(chunks_of(body, cuts))
    if len(body) <= cap:
        assert asyncio.run(read(messages, cap)) == body
    else:
        assert rule_of(lambda: asyncio.run(read(messages, cap))) == TOO_LARGE


@pytest.mark.parametrize("length", [b"11", b"9" * 5000])
def test_a_length_that_is_too_large_is_refused_unread(length: bytes) -> None:
    """Nothing is asked for of a body that is said to be too large, so a client that waits for leave sends nothing."""
    assert rule_of(lambda: asyncio.run(read(receive([]), 10, [(b"Content-Length", length)]))) == TOO_LARGE


def test_reading_stops_at_the_cap() -> None:
    """A body that grows past the cap is not read on."""
    endless = receive([{"type": "http.request", "body": b"x" * 6, "more_body": True}] * 2)
    assert rule_of(lambda: asyncio.run(read(endless, 10))) == TOO_LARGE


def test_half_a_body_is_none() -> None:
    """Whoever goes away in the middle has sent nothing."""
    half = receive([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    with pytest.raises(DisconnectedError):
        asyncio.run(read(half, 10))


@given(st.sampled_from(sorted(COMPRESS)), st.binary(max_size=300), st.integers(0, 350))
def test_a_compressed_body_decodes_to_itself_under_the_cap(encoding: str, body: bytes, cap: int) -> None:
    """What was compressed comes back, unless it is more than the cap; the cap itself is let in."""
    raw = COMPRESS[encoding](body)
    if len(body) <= cap or encoding == "identity":
        assert decode(raw, encoding, cap) == body
    else:
        assert rule_of(lambda: decode(raw, encoding, cap)) == TOO_LARGE


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_a_bomb_is_never_unpacked(encoding: str) -> None:
    """A small body that stands for 256 MiB is refused, and costs no more memory than the cap."""
    script = f"""
import gzip, resource, zlib, zstandard
from guardtok.errors import RequestError
from guardtok.gateway.bodies import decode
zeros = bytes(2**20)
packer = {{
    "gzip": zlib.compressobj(9, zlib.DEFLATED, 31),
    "deflate": zlib.compressobj(9),
    "zstd": zstandard.ZstdCompressor().compressobj(),
}}["{encoding}"]
bomb = b"".join(packer.compress(zeros) for _ in range(256)) + packer.flush()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode(bomb, "{encoding}", 2**20)
except RequestError as error:
    print(error.rule, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    rule, grown = done.stdout.split()
    assert rule == TOO_LARGE
    # In KiB; the window of zstd is 8 MiB at the most.
    assert int(grown) < 24 * 1024


@given(st.sampled_from(["gzip", "deflate", "zstd"]), st.binary(max_size=60))
def test_what_is_not_compressed_as_it_says_is_refused(encoding: str, raw: bytes) -> None:
    """Any bytes either decode or are refused; nothing else is raised."""
    rule = BAD_ENCODING
    try:
        decode(raw, encoding, 1000)
    except RequestError as error:
        rule = error.rule
    assert rule in {BAD_ENCODING, TOO_LARGE}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("spoil", ["early", "twice", "more"])
def test_a_body_that_ends_early_or_goes_on_is_refused(encoding: str, spoil: str) -> None:
    """Half a stream, or one after the other, is read in one way here and in another one elsewhere."""
    raw = COMPRESS[encoding](b'{"model": "m"}' * 10)
    spoilt = {"early": raw[:-1], "twice": raw + raw, "more": raw + b"x"}[spoil]
    assert rule_of(lambda: decode(spoilt, encoding, 1000)) == BAD_ENCODING


def test_a_window_of_zstd_beyond_the_standard_is_refused() -> None:
    """RFC 9659 bounds the memory that a sender may ask for."""
    wide = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    raw = zstandard.ZstdCompressor(compression_params=wide).compressobj().compress(bytes(100))
    raw = raw or zstandard.ZstdCompressor(compression_params=wide).compress(b"ab" * 10_000_000)
    assert rule_of(lambda: decode(raw, "zstd", 10)) == BAD_ENCODING


def test_without_zstandard_zstd_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package is missing, what cannot be read is not let through."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert rule_of(lambda: decode(zstandard.compress(b"{}"), "zstd", 10)) == BAD_ENCODING


@pytest.mark.parametrize(
    ("headers", "encoding"),
    [
        ([], "identity"),
        ([(b"content-type", b"application/json; charset=utf-8")], "identity"),
        ([(b"content-type", b'text/plain; Charset="UTF-8"')], "identity"),
        ([(b"Content-Encoding", b" GZIP ")], "gzip"),
        ([(b"content-encoding", b"")], "identity"),
        ([(b"x-body-compressed", b"zstd")], "zstd"),
    ],
)
def test_an_encoding_is_what_the_headers_say(headers: list[tuple[bytes, bytes]], encoding: str) -> None:
    """Case and spaces do not matter; SGLang's own header counts, too."""
    assert encoding_of(headers) == encoding


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-encoding", b"gzip, gzip")],
        [(b"content-encoding", b"gzip"), (b"content-encoding", b"identity")],
        [(b"content-encoding", b"gzip"), (b"x-body-compressed", b"zstd")],
        [(b"content-encoding", b"br")],
        [(b"content-encoding", b"\xff")],
        [(b"content-type", b"application/json; charset=utf-16")],
        [(b"content-type", b"application/json;charset = 'utf-7'")],
    ],
)
def test_encodings_that_could_be_read_in_two_ways_are_refused(headers: list[tuple[bytes, bytes]]) -> None:
    """Several encodings, unknown ones, and another charset than UTF-8."""
    assert rule_of(lambda: encoding_of(headers)) == BAD_ENCODING


@given(PLAIN)
def test_a_value_survives_the_way_back_and_forth(value: object) -> None:
    """What JSON can say comes out as it went in, and the bytes say it to any other parser."""
    assert parse(dump(value)) == value
    assert json.loads(dump(value)) == value


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_body_is_refused(body: bytes) -> None:
    """What is no JSON in UTF-8, or JSON with two meanings, has a defined answer, and nothing else is raised."""
    assert rule_of(lambda: parse(body)) == BAD_JSON


@given(st.binary(max_size=80) | st.text('{}[]":,\\u0dD81eE-+.n NaInfty\ufeff', max_size=60).map(str.encode))
def test_any_bytes_mean_one_value_or_are_refused(body: bytes) -> None:
    """Nothing but a refusal is ever raised, and what passes means the same to the parser that servers use."""
    with contextlib.suppress(RequestError):
        assert parse(body) == json.loads(body)


def test_brackets_and_quotes_in_a_text_are_no_parts() -> None:
    """Code is full of them; only what a parser would make counts."""
    code = 'f["{\\"[{' * 50_000 + "\\"
    body = dump({"content": code, "more": ["x"] * 1000})
    assert parse(body) == {"content": code, "more": ["x"] * 1000}


@given(PLAIN)
def test_parts_are_counted_as_a_parser_makes_them(value: object) -> None:
    """Exactly, however strings are escaped."""

    def count(value: object) -> int:
        if isinstance(value, dict):
            return 1 + len(value) + sum(map(count, value.values()))
        return 1 + sum(map(count, value)) if isinstance(value, list) else isinstance(value, str)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("guardtok.gateway.bodies.MAX_PARTS", count(value))
        assert parse(json.dumps(value).encode()) == value
        patch.setattr("guardtok.gateway.bodies.MAX_PARTS", count(value) - 1)
        if count(value):
            assert rule_of(lambda: parse(json.dumps(value).encode())) == BAD_JSON


def test_the_deepest_body_is_let_in() -> None:
    """The bound is the bound."""
    body = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert dump(parse(body)) == body


def test_half_a_surrogate_pair_is_not_written() -> None:
    """UTF-8 cannot say it, and parsers differ in the escape: some keep it, some replace it, some refuse."""
    assert rule_of(lambda: dump(parse(b'{"a": "\\ud800"}'))) == BAD_JSON
    assert dump(parse(b'"\\ud83d\\ude00"')) == '"😀"'.encode()


@pytest.mark.parametrize("body", [*HOSTILE.values(), b"\xff<|im_end|>"], ids=range(len(HOSTILE) + 1))
def test_no_refusal_repeats_the_body(body: bytes) -> None:
    """An error ends up in logs and in prompts."""
    with pytest.raises(RequestError) as caught:
        parse(body)
    assert caught.value.__cause__ is None
    assert len(str(caught.value)) < 120
    assert "im_end" not in str(caught.value)
