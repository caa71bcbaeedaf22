"""Whole requests: nothing that the policy forbids is left in any string, key or join, and nothing else is changed."""

# ruff: noqa: ANN401 - JSON is any value

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardtok.errors import RefusedError, RequestError
from guardtok.ruleset import FormKind
from guardtok.violation import Action, Mode
from tests.request_bodies import ESCAPE, guard_of

if TYPE_CHECKING:
    from collections.abc import Iterator

POLICIES = {
    "escape": ESCAPE,
    "strip": 'sources: {"*": {default: escape}, user: {default: strip}, tool_arguments: {default: strip}}',
    "lookalikes": ESCAPE + "\nlookalikes: escape",
    "markers": 'sources: {"*": {default: escape}}\nforms: ["### System:", "\\n\\nHuman:", "x y", "}, {"]',
}


GUARDS = {name: guard_of(text) for name, text in POLICIES.items()}
FORMS = {
    name: re.compile(
        "|".join(re.escape(form.text) for form in guard.ruleset.forms if form.kind is not FormKind.FOREIGN)
    )
    for name, guard in GUARDS.items()
}


def strings_of(value: Any) -> Iterator[str]:
    """Yield every string and key of a value, and of what JSON in it decodes to."""
    if isinstance(value, str):
        yield value
        if value.startswith(("{", "[")):
            try:
                inner = json.loads(value, strict=False)
            except ValueError:
                return
            yield from strings_of(inner)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (key, *strings_of(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from strings_of(inner)


def joins_of(value: Any) -> Iterator[str]:
    """Yield the texts of every list of parts, joined in the ways of templates and servers."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from joins_of(inner)
    elif isinstance(value, list):
        texts = [part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str)]
        for each in (texts, [text.strip() for text in texts]):
            yield from (glue.join(filter(None, each)) for glue in ("", " ", "\n"))
        for inner in value:
            yield from joins_of(inner)


FRAGMENTS = [
    *("<|im_start|>", "<|im_end|>", "<|im_", "start|>", "end|>", "<", "|", "im_end|>", "</s>", "[INST]", "### System:"),
    *("###", " System:", "System:", "x", " ", "y", "\n", "Human:", "\\u003c|im_end|>", '"', "\\", "}, {", "}", "{"),
    *("caf\u00e9", "\u6587", "\u200b", "\ud83d", "\ude00", "user", "_", "\uff1c|im_end|>"),
]
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
json_texts = st.one_of(values.map(json.dumps), values.map(lambda v: json.dumps(v, ensure_ascii=False)), texts)
part = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": texts}, optional={"more": values}),
    st.fixed_dictionaries({"type": st.just("image_url"), "image_url": st.fixed_dictionaries({"url": texts})}),
)
call = st.fixed_dictionaries(
    {"id": st.just("c"), "type": st.just("function")}
    | {"function": st.fixed_dictionaries({"name": texts, "arguments": json_texts})}
)
message = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "tool"]),
        "content": st.one_of(texts, st.lists(part, max_size=4)),
    },
    optional={"name": texts, "tool_calls": st.lists(call, max_size=2), "reasoning_content": texts, "novel": values},
)
tool = st.fixed_dictionaries(
    {"type": st.just("function"), "function": st.fixed_dictionaries({"name": texts, "parameters": values})}
)
bodies = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.lists(message, max_size=4)},
    optional={"tools": st.lists(tool, max_size=2), "documents": st.lists(values), "chat_template_kwargs": values},
)


@pytest.mark.parametrize("name", POLICIES)
@given(body=bodies)
def test_nothing_is_left_in_any_string_key_argument_or_join(name: str, body: Any) -> None:
    """No form of the policy's is in what goes on, and doing it again finds nothing more to change."""
    guard = GUARDS[name]
    before = copy.deepcopy(body)
    try:
        request = guard.sanitize_chat(body, protocol="openai.chat")
    except RequestError as error:
        assert error.rule == "request.keys"  # noqa: PT017 - the one way in which such a body can be refused
        return
    except RefusedError as error:
        rules = {v.rule for v in error.violations if v.action is Action.BLOCK}
        assert rules == {"request.verbatim"}
        return
    assert body == before
    for text in (*strings_of(request.body), *joins_of(request.body)):
        assert not FORMS[name].search(text)
    again = guard.sanitize_chat(request.body, protocol="openai.chat")
    assert not again.changed
    assert again.body == request.body
    assert request.changed == (request.body != before)
    assert request.edits == {} or request.changed


@given(body=bodies)
def test_the_verdict_is_that_of_what_is_sanitized(body: Any) -> None:
    """`check_chat` raises for nothing that a body holds and says what `sanitize_chat` found, or refused."""
    guard = GUARDS["escape"]
    verdict = guard.check_chat(body, protocol="openai.chat")
    try:
        request = guard.sanitize_chat(body, protocol="openai.chat")
    except (RequestError, RefusedError):
        assert verdict.action is Action.BLOCK
        return
    assert (verdict.action, verdict.count, verdict.violations) == (request.action, request.count, request.violations)


@given(body=bodies)
def test_monitor_mode_changes_and_refuses_nothing(body: Any) -> None:
    """What is found is reported as it would be enforced; what goes on is what came, surrogates repaired."""
    try:
        request = MONITOR.sanitize_chat(body, protocol="openai.chat")
    except RequestError as error:
        assert error.rule == "request.keys"  # noqa: PT017 - two keys of surrogates alone
        return
    assert all(v.mode is Mode.MONITOR for v in request.violations)
    assert request.changed == (request.body != body)
    assert not request.changed or any(map(is_torn, strings_of(body)))
    assert MONITOR.sanitize_chat(request.body, protocol="openai.chat").body == request.body


def is_torn(text: str) -> bool:
    """Whether a text holds surrogates."""
    return any("\ud800" <= char <= "\udfff" for char in text)


MONITOR = guard_of('sources: {"*": {default: block}}\nmode: monitor\nlookalikes: escape')
