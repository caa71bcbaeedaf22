"""Every string and every key that the client libraries can send is found, under its path and under its source."""

from __future__ import annotations

import re

import pytest

from guardtok.guard import Guard
from guardtok.policy import parse_policy
from tests.request_bodies import ROOTS, Filler

CANARY = "<|im_end|>"

# The one field that holds no text: its keys are token ids, and whatever else they are is refused.
NO_TEXT = {"openai.chat": "$.logit_bias", "openai.completions": "$.logit_bias"}

_TOOLS = [(r"\$\.(tools|tool_choice|functions|function_call|response_format)\b", "tool_definition")]
_INPUT = r"\$\.input\[\d+\]"

# Who wrote what. The last pattern that a path begins with counts; `role` is the source of the message's role.
SOURCES = {
    "openai.chat": [
        ("", "unknown"),
        *_TOOLS,
        (r"\$\.messages\[\d+\]\.(content|refusal|audio)\b", "role"),
        (r"\$\.messages\[\d+\]\.(tool_calls|function_call|tool_call_id)\b", "tool_arguments"),
        (r"\$\.messages\[\d+\]\.((tool_calls\[\d+\]\.(function|custom)|function_call)\.)?name$", "name"),
    ],
    "openai.completions": [("", "unknown"), (r"\$\.(prompt|suffix)\b", "user")],
    "openai.responses": [
        ("", "unknown"),
        *_TOOLS,
        (r"\$\.text\b", "tool_definition"),
        (r"\$\.instructions\b", "system"),
        (r"\$\.input$", "user"),
        (_INPUT + r"\.", "item"),
        (_INPUT + r"\.(content|summary)\b", "role"),
        (
            _INPUT + r"\.(action|actions|arguments|code|input|queries|operation|pending_safety_checks)\b",
            "tool_arguments",
        ),
        (_INPUT + r"\.(output|outputs|results|error|result)\b", "tool_result"),
        (_INPUT + r"\.tools\b", "tool_definition"),
        (_INPUT + r"\.name$", "name"),
    ],
    "anthropic.messages": [
        ("", "unknown"),
        *_TOOLS,
        (r"\$\.output_config\b", "tool_definition"),
        (r"\$\.system\b", "system"),
        (r"\$\.messages\[\d+\]\.content\b", "role"),
        (r"\$\.messages\[\d+\]\.content\[\d+\]\.", "item"),
        (r"\$\.messages\[\d+\]\.content\[\d+\]\.(text|thinking)$", "role"),
        (r"\$\.messages\[\d+\]\.content\[\d+\]\.input\b", "tool_arguments"),
        (r"\$\.messages\[\d+\]\.content\[\d+\]\.content\b", "answer"),
        (r"\$\.messages\[\d+\]\.content\[\d+\]\.name$", "name"),
    ],
}
# What a table above cannot say without saying which kind of part or item it is.
SPEAKERS = {"user", "assistant", "system", "developer", "tool_result", "document"}
LOOSE = {
    "answer": {"tool_result", "document"},
    "role": SPEAKERS | {"unknown", "tool_arguments"},
    "item": SPEAKERS | {"unknown", "tool_arguments", "tool_definition"},
}


@pytest.fixture(scope="module")
def guard() -> Guard:
    """A guard that reports everything."""
    policy = parse_policy('guardtok: 1\nsources: {"*": {default: escape}}\nlimits: {max_violations: 100000}')
    return Guard(policy, sinks=())


@pytest.mark.parametrize("turn", range(6))
@pytest.mark.parametrize("protocol", ROOTS)
def test_every_string_and_key_that_a_client_can_send_is_found_at_its_place(
    protocol: str, turn: int, guard: Guard
) -> None:
    """No field of any type of the real clients gets past, none has the wrong source, and none the wrong shape."""
    filler = Filler(CANARY, turn)
    body = filler.fill(ROOTS[protocol], "$")
    found = guard.check_chat(body, protocol=protocol).violations
    left_out = NO_TEXT.get(protocol, "none")
    assert {v.path for v in found if v.token} == {path for path in filler.paths if not path.startswith(left_out)}
    assert {v.path for v in found if v.rule == "request.shape"} == ({left_out} - {"none"})
    for violation in found:
        if violation.token:
            wanted = [source for start, source in SOURCES[protocol] if re.match(start, violation.path)][-1]
            # What goes on as it is or not at all (ids, types) is nobody's text.
            verbatim = {"unknown", "tool_arguments"} if violation.rule == "request.verbatim" else set()
            assert violation.source in LOOSE.get(wanted, {wanted}) | verbatim, violation.path
