"""Hostile requests in every protocol, sent to a running `guardtok serve`: none may cause a 500 or carry a token on.

Half of them go to a policy that blocks what it finds, half to one that escapes it, so that most of them reach the
upstream and what reaches it can be looked at.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
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

_FAILED = 500
POLICIES = ("chatml", "strict")
"""One that escapes what it finds, so that it goes on, and one that blocks it."""

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


def mostly(good: st.SearchStrategy[Any], odd: st.SearchStrategy[Any] = VALUES) -> st.SearchStrategy[Any]:
    """Return what is of the shape that a field has, and once in a while something else."""
    return st.integers(0, 15).flatmap(lambda number: odd if number == 7 else good)


ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])
PART = st.fixed_dictionaries({"type": st.sampled_from(["text", "input_text"]), "text": TEXTS})
CONTENT = mostly(TEXTS | st.lists(mostly(PART), max_size=3))
CALLS = st.lists(
    st.fixed_dictionaries({"type": st.just("function"), "function": st.dictionaries(KEYS, TEXTS, max_size=2)}),
    max_size=1,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": mostly(ROLES, TEXTS), "content": CONTENT},
        optional={"name": TEXTS, "tool_calls": mostly(CALLS), "x": VALUES},
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
    "stop": mostly(st.text(max_size=4) | st.lists(st.text(max_size=4), max_size=3)),
    "tools": mostly(TOOLS),
    "user": TEXTS,
    "metadata": VALUES,
    "documents": VALUES,
    "odd": VALUES,
}
PROTOCOLS = {
    "/v1/chat/completions": {"messages": mostly(MESSAGES)},
    "/v1/completions": {
        "prompt": mostly(TEXTS | st.lists(TEXTS, max_size=3), VALUES | st.lists(st.integers(0, 9), max_size=3))
    },
    "/v1/responses": {"input": mostly(TEXTS | MESSAGES)},
    "/v1/messages": {"messages": mostly(MESSAGES), "system": CONTENT},
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
    match how % 24:
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
    """Yield every string and key of a value, what is JSON in a string included, and the texts of parts joined."""
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
            yield "".join(part["text"] for part in value if isinstance(part, dict) and is_text(part))
            for inner in value:
                yield from strings_of(inner)
        case _:
            return


def is_text(part: dict[str, Any]) -> bool:
    """Return whether a server would join a part with its neighbours."""
    return any(part.get("type") == kind for kind in ("text", "input_text")) and isinstance(part.get("text"), str)


def fuzz(count: int) -> str:
    """Send so many requests; return what became of them.

    Raises:
        RuntimeError: A request caused a 5xx or carried a control token to the upstream, or fewer than half reached it.
    """
    statuses: Counter[int] = Counter()
    passed = sum(_fuzz(policy, count // len(POLICIES), statuses) for policy in POLICIES)
    total = sum(statuses.values())
    told = ", ".join(f"{status}: {times:,}" for status, times in sorted(statuses.items()))
    if passed * 2 < total:
        raise RuntimeError(f"Only {passed:,} of {total:,} requests reached the upstream ({told}).")
    return f"{total:,} requests ({told}), {passed:,} of them passed on; no 5xx, no control token upstream"


def _fuzz(policy: str, count: int, statuses: Counter[int]) -> int:
    """Send so many requests to a gateway with a policy; count their statuses, and return how many reached the upstream.

    Raises:
        RuntimeError: A request caused a 5xx or carried a control token to the upstream.
    """
    stand_in, passed = StandIn(), 0
    with (
        served(stand_in) as url,
        serving("--upstream", url, "--decision-log", os.devnull, policy=policy) as gateway,
        # A request that hangs is a failure, and a machine that is busy is none.
        httpx.Client(base_url=gateway.url, timeout=60) as client,
    ):

        @seed(POLICIES.index(policy))
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(REQUESTS, st.integers(0, 10**6))
        def send(request: tuple[str, Any], how: int) -> None:
            nonlocal passed
            path, body = request
            stand_in.requests.clear()
            sent = damage(json.dumps(body).encode(), how)
            answer = client.post(path, content=sent, headers={"content-type": "application/json"})
            statuses[answer.status_code] += 1
            passed += len(stand_in.requests)
            if answer.status_code >= _FAILED:
                raise RuntimeError(f"{answer.status_code} for {sent!r}")
            for recorded in stand_in.requests:
                found = [form for text in strings_of(recorded.json) for form in FORMS if form in text]
                if found:
                    raise RuntimeError(f"{found} reached the upstream for {sent!r}")

        send()
    return passed
