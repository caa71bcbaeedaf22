"""What a review got past the walk over requests, once: parts that readers skip, options under other names, odd JSON."""

# ruff: noqa: ANN401 - JSON is any value

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardtok.errors import LimitError, RefusedError, RequestError
from guardtok.gateway.decision import Call
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.live import LiveGuard
from guardtok.requests.walk import MAX_PARTS
from guardtok.text import Text
from tests.request_bodies import ESCAPE, arguments_of, called, chat, content_of, guard_of, parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardtok.requests import SanitizedRequest

END = "<|im_end|>"
MONITOR = f"mode: monitor\n{ESCAPE}"
TEXT_TYPES = ("text", "input_text", "output_text")


# Parts that some readers skip.


def read(contents: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what servers make of parts: those that go by types, those that do not, those that skip what was thought."""
    by_type = {**dict.fromkeys(TEXT_TYPES, "text"), "refusal": "refusal", "thinking": "thinking"}
    yield "".join(part.get(by_type.get(part["type"], ""), "") for part in contents)
    yield "".join(part.get("text", "") for part in contents)
    yield "".join(part.get("text", "") for part in contents if part["type"] in TEXT_TYPES)
    yield "".join(part.get(by_type.get(part["type"], ""), "") for part in contents if part["type"] != "thinking")
    yield "".join(str(part.get(key, "")) for part in contents for key in ("text", "refusal", "thinking"))


pieces = st.sampled_from(("<|im_", "end|>", "<|", "im_end|>", "_", "x", ""))
any_part = st.fixed_dictionaries(
    {"type": st.sampled_from((*TEXT_TYPES, "refusal", "thinking", "image_url", "novel"))},
    optional={"text": pieces, "refusal": pieces, "thinking": pieces},
)


@given(st.lists(any_part, max_size=5))
def test_no_reader_of_parts_joins_a_form(contents: list[dict[str, Any]]) -> None:
    """What one reader skips hides nothing from it, and sanitizing again changes nothing."""
    made = guard_of().sanitize_chat(chat(contents), protocol="openai.chat")
    for text in read(content_of(made)):
        assert END not in text
    assert not guard_of().sanitize_chat(made.body, protocol="openai.chat").changed


@pytest.mark.parametrize(
    ("first", "between", "last"),
    [
        ({"type": "text", "text": "<|im_"}, {"type": "text", "text": ""}, {"type": "thinking", "thinking": "end|>"}),
        ({"type": "text", "text": "<|im_", "refusal": "x"}, {}, {"type": "text", "text": "end|>"}),
        ({"type": "text", "text": "<|im_"}, {"type": "refusal", "refusal": "x"}, {"type": "text", "text": "end|>"}),
        ({"type": "text", "text": "<|im_"}, {"type": "image_url", "text": "x"}, {"type": "text", "text": "end|>"}),
    ],
)
def test_a_part_that_a_reader_skips_does_not_part_its_neighbours(first: Any, between: Any, last: Any) -> None:
    """VLLM joins what was thought to the text; others leave it out, or go by the type of a part."""
    made = guard_of().sanitize_chat(chat([first, between, last]), protocol="openai.chat")
    assert made.changed
    assert made.count == 1


@pytest.mark.parametrize("roles", [("system", "developer"), ("tool", "function")])
def test_messages_of_roles_that_servers_take_for_one_are_joined(roles: tuple[str, str]) -> None:
    """A server that knows no developer makes one system message of both."""
    messages = [{"role": role, "content": text} for role, text in zip(roles, ("<|im_", "end|>"), strict=True)]
    assert guard_of().sanitize_chat({"messages": messages}, protocol="openai.chat").changed


def test_lists_that_nobody_joined_are_joined() -> None:
    """Instructions as a list of messages, and reasoning in pieces."""
    halves = parts("<|im_", "end|>")
    bodies = {
        "openai.responses": {"instructions": [{"role": "system", "content": halves}]},
        "openai.chat": {"messages": [{"role": "assistant", "reasoning_details": halves}]},
    }
    for protocol, body in bodies.items():
        assert guard_of().sanitize_chat(body, protocol=protocol).changed


def test_a_body_inside_the_body_is_walked_as_one() -> None:
    """Proxies put `extra_body` into the body: its messages have roles, and its parts are joined."""
    inner = chat(parts("<|im_", "end|>"))
    made = guard_of().sanitize_chat({"messages": [], "extra_body": inner}, protocol="openai.chat")
    assert [each.source for each in made.violations] == ["user"]
    with pytest.raises(RequestError, match="role"):
        guard_of().sanitize_chat({"extra_body": {"messages": [{"content": "x"}]}}, protocol="openai.chat")


# Ids, embeddings and templates under other names.


@pytest.mark.parametrize(
    "body",
    [
        {"tokens": [5]},
        {"nvext": {"token_data": [5, 6]}},
        {"context": [5]},
        {"extra_body": {"context": [5]}},
        {"decoder_input_ids": [[5], [6]]},
        {"promptTokenIds": [5]},
        {"x": [{"some_ids": (5,)}]},
    ],
)
@pytest.mark.parametrize("protocol", ["openai.chat", "openai.completions", "openai.responses", "anthropic.messages"])
def test_a_list_of_numbers_whose_name_says_ids_is_one_of_ids(body: dict[str, Any], protocol: str) -> None:
    """A server that guardtok does not know has its own name for a prompt of ids."""
    with pytest.raises(RequestError) as caught:
        guard_of().sanitize_chat(body, protocol=protocol)
    assert caught.value.rule == "request.token_ids"
    allowed = guard_of(f"{ESCAPE}\nrequests: {{token_ids: allow}}").sanitize_chat(body, protocol=protocol)
    assert not allowed.changed


@pytest.mark.parametrize(
    "body",
    [
        {"return_token_ids": True, "max_tokens": 5, "logprob_token_ids": [5], "context": "five", "file_ids": ["5"]},
        {"metadata": {"user_ids": [5]}, "tools": [{"function": {"parameters": {"enum_ids": [5]}}}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": {"row_ids": [5]}}}]}]},
    ],
)
def test_other_numbers_pass(body: dict[str, Any]) -> None:
    """Flags, bounds, strings, and what is data of the caller's."""
    assert guard_of().sanitize_chat(body, protocol="openai.chat").body == json.loads(json.dumps(body))


@pytest.mark.parametrize("name", ["content", "input_prefix", "input_suffix", "input_extra", "items", "data_1"])
def test_every_raw_prompt_may_be_one_of_ids(name: str) -> None:
    """llama.cpp takes ids, and lists of both, wherever it takes a prompt."""
    for value in ([5], ["a", 5], [[5]], {"prompt_string": [5]}):
        with pytest.raises(RequestError) as caught:
            guard_of().sanitize_chat({name: value}, protocol="openai.completions")
        assert caught.value.rule == "request.token_ids"


def test_embeddings_in_a_part_are_embeddings() -> None:
    """VLLM takes them between texts."""
    body = chat([{"type": "prompt_embeds", "data": "AAAA"}])
    with pytest.raises(RequestError) as caught:
        guard_of().sanitize_chat(body, protocol="openai.chat")
    assert (caught.value.rule, caught.value.path) == ("request.token_ids", "$.messages[0].content[0].data")


def test_a_form_in_embeddings_is_no_failure() -> None:
    """What should be numbers may be a string, and one to be changed."""
    guard = guard_of(f"{ESCAPE}\nrequests: {{token_ids: allow}}")
    made = guard.sanitize_chat({"messages": [], "prompt_embeds": END}, protocol="openai.chat")
    assert made.body["prompt_embeds"] == "<_|im_end|>"


@pytest.mark.parametrize(
    "body",
    [
        {"chat_template_str": "{{1}}"},
        {"extra_body": {"template": "{{1}}"}},
        {"x": {"instruction_template_str": "{{1}}"}},
        {"prompt_template": "{{1}}"},
    ],
)
def test_a_template_under_another_name_is_a_template(body: dict[str, Any]) -> None:
    """Code is refused, whatever a server calls it."""
    with pytest.raises(RequestError) as caught:
        guard_of().sanitize_chat({"messages": [], **body}, protocol="openai.chat")
    assert caught.value.rule == "request.chat_template"


# JSON inside JSON.


@pytest.mark.parametrize(
    "text",
    [
        '{"a":"\\u003c|im_end|>"} x',
        '{"a":"\\u003c|im_end|>",}',
        "{'a':'\\x3c|im_end|>'}",
        '{"a":"<\\|im_end|>"',
        "\\u003c|im_end|>",
    ],
)
def test_what_a_lenient_parser_would_read_is_looked_at(text: str) -> None:
    """A string that is no JSON cannot be written again, so what its escapes spell refuses it."""
    with pytest.raises(RefusedError) as caught:
        guard_of().sanitize_chat(called(text), protocol="openai.chat")
    assert caught.value.violations[0].path == "$.messages[0].tool_calls[0].function.arguments"
    assert guard_of(MONITOR).sanitize_chat(called(text), protocol="openai.chat").count >= 1


def test_a_form_in_what_is_no_json_is_broken_if_escapes_have_no_part_in_it() -> None:
    """Models break off in the middle of their arguments."""
    made = guard_of().sanitize_chat(called(f'{{"a":"\\"{END}\\u0041\\n'), protocol="openai.chat")
    assert arguments_of(made) == '{"a":"\\"<_|im_end|>\\u0041\\n'
    assert made.count == 1


def test_what_escapes_spell_in_what_is_no_json_never_takes_its_place() -> None:
    """Half a character is no form, and the string goes on as it came."""
    body = called('{"a":"\\ud800",')
    assert guard_of().sanitize_chat(body, protocol="openai.chat").body == body


LAX = guard_of('sources: {"*": {default: escape}, tool_arguments: {allow: ["@turn"]}}')


@pytest.mark.parametrize("text", [f'{{"a":"{END}"}}', '{"a":"\\u003c|im_end|>"}'])
def test_a_text_of_json_keeps_its_source_in_what_it_decodes_to(text: str) -> None:
    """What a user wrote is not the model's because it lies in arguments."""
    assert not LAX.sanitize_chat(called(text), protocol="openai.chat").changed
    made = LAX.sanitize_chat(called(Text(text, source="user")), protocol="openai.chat")
    assert json.loads(arguments_of(made)) == {"a": "<_|im_end|>"}
    assert {each.source for each in made.violations} == {"user"}


def test_json_of_several_sources_is_a_string_without_escapes_and_refused_with_them() -> None:
    """Nobody can say who wrote what an escape spells."""
    end = Text('im_end|>"}', source="document")
    made = LAX.sanitize_chat(called(Text('{"a":"<|', source="user") + end), protocol="openai.chat")
    assert json.loads(arguments_of(made)) == {"a": "<_|im_end|>"}
    with pytest.raises(RequestError, match="several sources"):
        LAX.sanitize_chat(called(Text('{"a":"\\u003c|', source="user") + end), protocol="openai.chat")


# What is reported, and what refuses.


@pytest.mark.parametrize(
    ("last", "error"),
    [
        ({"content": 5}, RequestError),
        ({"content": "x", "more": [[]] * (MAX_PARTS + 1)}, RequestError),
        ({"content": "x" * 5_000}, LimitError),
    ],
)
def test_a_flood_of_what_is_only_reported_hides_no_refusal(last: dict[str, Any], error: type[Exception]) -> None:
    """Under `mode: monitor` shapes and limits hold, behind any number of unknown roles."""
    guard = guard_of(f"{MONITOR}\nlimits: {{max_chars: 5000}}")
    flood = [{"role": "zz", "content": "x"}] * 70
    with pytest.raises(error):
        guard.sanitize_chat({"messages": [*flood, {"role": "user", **last}]}, protocol="openai.chat")


def test_a_request_error_says_everything_that_was_found() -> None:
    """A refused template does not hide a blocked form from the decision; pickling keeps it."""
    guard = guard_of("sources: {'*': {default: block}}")
    body = chat(END, chat_template="{{1}}")
    with pytest.raises(RequestError) as caught:
        guard.sanitize_chat(body, protocol="openai.chat")
    rules = [each.rule for each in caught.value.violations]
    assert rules[0] == "request.chat_template"
    assert len(rules) == 2
    assert pickle.loads(pickle.dumps(caught.value)).violations == caught.value.violations  # noqa: S301
    outcome = Gatekeeper(LiveGuard(guard)).judge_request(body, "openai.chat", Call("/v1/chat/completions"))
    assert outcome.decision.violations == caught.value.violations
    assert outcome.body is None


def test_half_a_character_in_a_string_that_is_refused_is_no_failure() -> None:
    """It was never replaced, for the string goes nowhere; what its neighbours make of it is looked at all the same."""
    guard = guard_of("sources: {'*': {default: block}}")
    body = chat(parts(f"\ud800{END}<|im_", "end|>"))
    with pytest.raises(RefusedError) as caught:
        guard.sanitize_chat(body, protocol="openai.chat")
    assert len(caught.value.violations) == 2
    assert guard.check_chat(body, protocol="openai.chat").count == 2


@pytest.mark.parametrize(
    ("text", "rule"), [('{"a":1e999,"b":"\\n"}', "request.shape"), ('{"a":"\\u003c|im_end|>",}', "request.verbatim")]
)
def test_arguments_are_looked_into_once(text: str, rule: str) -> None:
    """One objection is one, though other strings have forms in them."""
    body = called(text)
    body["messages"].append({"role": "user", "content": END})
    found = guard_of().check_chat(body, protocol="openai.chat").violations
    assert [each.rule for each in found].count(rule) == 1


def test_a_form_that_is_the_name_of_a_field_breaks_no_body() -> None:
    """Fields that guardtok knows keep their names, and a list that it does not know is no failure."""
    guard = guard_of(f"forms: [text]\n{ESCAPE}")
    halves = [{"text": "a te"}, {"text": "xt b"}]
    made = guard.sanitize_chat(chat(halves), protocol="openai.chat")
    assert [*map(set, content_of(made))] == [{"text"}, {"text"}]
    assert made.count == 1
    details = {"messages": [{"role": "assistant", "reasoning_details": halves}]}
    assert guard.sanitize_chat(details, protocol="openai.chat").changed


def sources_of(made: SanitizedRequest) -> set[str]:
    """Return the sources of what was found."""
    return {each.source for each in made.violations}


@pytest.mark.parametrize(
    "body",
    [{"message": {"role": "assistant", "content": END}}, *({key: END} for key in ("response", "thinking", "content"))],
)
def test_the_answers_of_ollama_and_llama_cpp_are_the_assistants(body: dict[str, Any]) -> None:
    """A whole answer in a server's own form is the model's too."""
    for protocol in ("openai.chat", "openai.completions"):
        assert sources_of(guard_of().sanitize_reply(body, protocol=protocol)) == {"assistant"}


def test_tools_in_a_message_are_tools() -> None:
    """SGLang takes them from system messages."""
    message = {"role": "system", "content": "x", "tools": [{"type": "function", "function": {"name": END}}]}
    made = guard_of().sanitize_chat({"messages": [message]}, protocol="openai.chat")
    assert sources_of(made) == {"tool_definition"}
