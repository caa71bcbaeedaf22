"""Hostile requests in every protocol, sent to a running `guardtok serve`: none may cause a 500 or carry a token on.

Half of them go to a policy that blocks what it finds, half to one that escapes it, so that most of them reach the
upstream and what reaches it can be looked at.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.serving import serving
from tests.upstream import StandIn, served

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMS = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|begin_of_text|>"),
    *("[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", "<tool_call>", "</tool_call>", "<\uff5cUser\uff5c>"),
)
"""Forms that no source but the template may write by either policy, here without a tokenizer."""

ESCAPING = "guardtok: 1\nname: escaping\nsources: {template: {default: allow}, '*': {default: escape}}\nforeign: escape\n"

_PARTS = (*FORMS, *(form[:4] for form in FORMS), *(form[4:] for form in FORMS))
TEXTS = st.lists(
    st.sampled_from([*_PARTS, "hi", "\n", "\u200b", "\\u003c", "&lt;"]) | st.text(max_size=3), max_size=5
).map("".join)
KEYS = TEXTS | st.sampled_from(["type", "text", "content", "name", "role", "input", "function", "arguments"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10**6) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool", "function", "user", "<|im_start|>"])
PART = st.fixed_dictionaries({"type": st.sampled_from(["text", "input_text", "tool_result", "odd"]), "text": TEXTS})
CONTENT = TEXTS | st.lists(PART, max_size=3) | VALUES
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": ROLES, "content": CONTENT}, optional={"name": TEXTS, "tool_calls": VALUES, "x": VALUES}
    ),
    max_size=3,
)
TOOLS = st.lists(
    st.fixed_dictionaries(
        {"type": st.just("function"), "function": st.fixed_dictionaries({"name": TEXTS, "parameters": VALUES})}
    ),
    max_size=2,
)
EXTRAS = {
    "stop": VALUES,
    "tools": TOOLS | VALUES,
    "user": TEXTS,
    "metadata": VALUES,
    "documents": VALUES,
    "odd": VALUES,
}
PROTOCOLS = {
    "/v1/chat/completions": {"messages": MESSAGES | VALUES},
    "/v1/completions": {
        "prompt": TEXTS | st.lists(TEXTS, max_size=3) | st.lists(st.integers(0, 9), max_size=3) | VALUES
    },
    "/v1/responses": {"input": TEXTS | MESSAGES | VALUES},
    "/v1/messages": {"messages": MESSAGES | VALUES, "system": CONTENT},
}
REQUESTS = st.one_of(
    [
        st.tuples(st.just(path), st.fixed_dictionaries({"model": st.just("m"), **fields}, optional=EXTRAS))
        for path, fields in PROTOCOLS.items()
    ]
)


def damage(body: bytes, how: int) -> bytes:
    """Return a body as it is, or with its end cut off, a byte changed, a key twice, or its characters escaped."""
    chance = random.Random(how)  # noqa: S311 - no secret
    match how % 6:
        case 1:
            return body[: chance.randrange(len(body))]
        case 2:
            at = chance.randrange(len(body))
            return body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :]
        case 3:
            return b'{"model":"<|im_start|>",' + body[1:]
        case 4:
            return body.replace(b"<", b"\\u003c")
        case _:
            return body


def strings_of(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON value
    """Yield every string and key of a value, what is JSON in a string included."""
    match value:
        case str():
            yield value
            if value[:1] in {"{", "["}:
                try:
                    inner = json.loads(value)
                except ValueError:
                    return
                yield from strings_of(inner)
        case dict():
            for key, inner in value.items():
                yield key
                yield from strings_of(inner)
        case list():
            for inner in value:
                yield from strings_of(inner)
        case _:
            return


def fuzz(count: int) -> str:
    """Send so many requests; return what became of them.

    Raises:
        RuntimeError: A request caused a 500, or carried a control token to the upstream.
    """
    stand_in = StandIn()
    statuses: dict[int, int] = {}
    with (
        served(stand_in) as url,
        serving("--upstream", url, "--decision-log", os.devnull) as gateway,
        # A request that hangs is a failure, and a machine that is busy is none.
        httpx.Client(base_url=gateway.url, timeout=60) as client,
    ):

        @seed(6)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(REQUESTS, st.integers(0, 10**6))
        def send(request: tuple[str, Any], how: int) -> None:
            path, body = request
            stand_in.requests.clear()
            sent = damage(json.dumps(body).encode(), how)
            answer = client.post(path, content=sent, headers={"content-type": "application/json"})
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            passed = bool(stand_in.requests)
            # The stand-in's own mistakes about an odd body are answered with its 500.
            if answer.status_code >= 500 and not passed:
                raise RuntimeError(f"{answer.status_code} for {sent!r}")
            for recorded in stand_in.requests:
                found = [form for text in strings_of(recorded.json) for form in FORMS if form in text]
                if found:
                    raise RuntimeError(f"{found} reached the upstream for {sent!r}")

        send()
    total = sum(statuses.values())
    told = ", ".join(f"{status}: {times:,}" for status, times in sorted(statuses.items()))
    return f"{total:,} requests ({told}); no 500 of its own, no control token upstream"
