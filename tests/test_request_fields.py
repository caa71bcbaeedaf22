"""Every string and every key that the client libraries can send is found, under its path and under its source."""

from __future__ import annotations

import re

import pytest

from guardtok.guard import Guard
from guardtok.policy import parse_policy
from tests.request_bodies import ROOTS, Filler

CANARY = "<|im_end|>"

# The fields that no text is looked for in, for they hold none: each is refused or checked as what it is.
NO_TEXT = {"openai.chat": {r"\$\.logit_bias.*"}, "openai.completions": {r"\$\.logit_bias.*"}}

# Who wrote what, for those paths that match; the last that matches counts.
SOURCES = {
    "openai.chat": [
        (r"", "unknown"),
        (r"\$\.messages\[\d\]\.(content|refusal)", "message"),
        (r"\$\.messages\[\d\]\.(name|tool_calls\[\d\]\.(function|custom)\.name|function_call\.name)$", "name"),
        (r"\$\.messages\[\d\]\.(tool_calls|function_call)", "tool_arguments"),
        (r"\$\.messages\[\d\]\.tool_call_id", "tool_arguments"),
        (r"\$\.(tools|functions|tool_choice|function_call|response_format)", "tool_definition"),
    ],
}


@pytest.fixture(scope="module")
def guard() -> Guard:
    """A guard that reports everything and refuses nothing but what cannot be broken."""
    policy = parse_policy('guardtok: 1\nsources: {"*": {default: escape}}\nlimits: {max_violations: 100000}')
    return Guard(policy, sinks=())


@pytest.mark.parametrize("turn", range(12))
@pytest.mark.parametrize("protocol", ROOTS)
def test_every_string_and_key_that_a_client_can_send_is_found_at_its_place(
    protocol: str, turn: int, guard: Guard
) -> None:
    """No field of any type that the real clients can send gets past, and none is reported at another's place."""
    filler = Filler(CANARY, turn)
    body = filler.fill(ROOTS[protocol], "$")
    found = {v.path for v in guard.check_chat(body, protocol=protocol).violations if v.token}
    left_out = NO_TEXT.get(protocol, set())
    wanted = {path for path in filler.paths if not any(re.fullmatch(each, path) for each in left_out)}
    assert found == wanted
