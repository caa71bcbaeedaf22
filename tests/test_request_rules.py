"""What a request may not hold, what is done about it, and what is said of it."""

# ruff: noqa: ANN401 - JSON is any value

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from guardtok.errors import LimitError, RefusedError, RequestError, SurrogateError
from guardtok.guard import Guard
from guardtok.requests import PROTOCOLS, SanitizedRequest
from guardtok.requests.walk import MAX_DEPTH, MAX_PARTS
from guardtok.text import Text
from guardtok.violation import Action, Mode, Violation
from tests.request_bodies import arguments_of, called, chat, content_of, guard_of, parts

if TYPE_CHECKING:
    from guardtok.guard import Guard

END = "<|im_end|>"
IDS = "input_ids", "prompt_token_ids", "stop_token_ids", "allowed_token_ids"


@pytest.fixture(scope="module")
def guard() -> Guard:
    """A guard over the whole catalogue that escapes every form."""
    return guard_of()


def refusal(guard: Guard, body: object, protocol: str = "openai.chat") -> RequestError:
    """Return the error with which a body is refused for what it is; nothing of it is in the message."""
    with pytest.raises(RequestError) as caught:
        guard.sanitize_chat(body, protocol=protocol)
    assert END not in str(caught.value)
    assert "secret" not in str(caught.value)
    verdict = guard.check_chat(body, protocol=protocol)
    assert verdict.action is Action.BLOCK
    assert caught.value.rule in {violation.rule for violation in verdict.violations}
    return caught.value


# Shapes.


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ([], "$"),
        ("secret", "$"),
        (None, "$"),
        ({"messages": {"role": "secret"}}, "$.messages"),
        ({"messages": ["secret"]}, "$.messages[0]"),
        ({"messages": [{"content": "secret"}]}, "$.messages[0].role"),
        ({"messages": [{"role": ["secret"], "content": "x"}]}, "$.messages[0].role"),
        ({"messages": [{"role": "user", "content": {"secret": 1}}]}, "$.messages[0].content"),
        ({"messages": [{"role": "user", "content": 7}]}, "$.messages[0].content"),
        ({"messages": [], "tools": {}}, "$.tools"),
        ({"messages": [{"role": "assistant", "tool_calls": {}}]}, "$.messages[0].tool_calls"),
        ({"messages": [], "a": {"secret": object()}}, "$.a.secret"),
        ({"messages": [], "a": {3: "secret"}}, "$.a"),
        ({"messages": [], f"a {END}": b"secret"}, '$["a <_|im_end|>"]'),
    ],
)
def test_a_wrong_shape_is_refused_at_its_place(body: Any, path: str, guard: Guard) -> None:
    """The error names rule and path, and echoes no value."""
    if "secret" in path:
        path, body = path.replace("secret", "b"), {"messages": [], "a": {"b": object()}}
    error = refusal(guard, body)
    assert (error.rule, error.path) == ("request.shape", path)


def test_an_unknown_protocol_is_an_error_that_names_its_neighbour(guard: Guard) -> None:
    """The protocol is said and never guessed."""
    for door in (guard.sanitize_chat, guard.check_chat):
        with pytest.raises(RequestError, match=r"Did you mean 'openai\.chat'") as caught:
            door({}, protocol="openai.chats")
        assert caught.value.rule == "request.protocol"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_null_and_empty_fields_pass(protocol: str, guard: Guard) -> None:
    """Clients send null for what they do not have."""
    names = ("messages", "tools", "chat_template", "prompt", "input", "system", "stop", "logit_bias", "input_ids")
    body: dict[str, Any] = dict.fromkeys(names)
    assert guard.sanitize_chat(body, protocol=protocol).body == body
    empty: dict[str, Any] = {"messages": [], "tools": [], "logit_bias": {}, "input_ids": [], "stop": [], "": ""}
    assert guard.sanitize_chat(empty, protocol=protocol).body == empty


def test_a_deep_body_is_refused_and_ends_no_process(guard: Guard) -> None:
    """No number of brackets makes a RecursionError, in the body or in a string of JSON in it."""
    deep: Any = "x"
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    assert "inside one another" in refusal(guard, chat("x", novel=deep)).fact
    for depth in (MAX_DEPTH + 1, 5_000, 100_000):
        arguments = "[" * depth + '"\\n"' + "]" * depth
        assert "inside one another" in refusal(guard, called(arguments)).fact


def test_a_body_of_too_many_parts_is_refused(guard: Guard) -> None:
    """The work is bounded by a count, for an empty string costs as much as a long one."""
    assert refusal(guard, chat("x", novel=[""] * (MAX_PARTS + 1))).rule == "request.size"
    arguments = json.dumps(["\n"] * (MAX_PARTS + 1))
    assert refusal(guard, called(arguments)).rule == "request.size"


def test_the_limit_holds_for_all_strings_and_keys_together() -> None:
    """`limits.max_chars` is that of the request; a string of JSON counts once."""
    guard = guard_of('sources: {"*": {default: escape}}\nlimits: {max_chars: 60}')
    guard.sanitize_chat({"messages": [{"role": "user", "content": "x" * 56}]}, protocol="openai.chat")
    guard.sanitize_chat(called('{"a": "\\n' + "x" * 20 + '"}'), protocol="openai.chat")
    for body in (chat("x" * 30, "y" * 30), chat("x" * 20, **{"k" * 40: 1}), chat("x" * 60)):
        with pytest.raises(LimitError, match="60 characters"):
            guard.sanitize_chat(body, protocol="openai.chat")
        verdict = guard.check_chat(body, protocol="openai.chat")
        assert [violation.rule for violation in verdict.violations] == ["limits.max_chars"]


def test_a_lone_surrogate_is_replaced_or_refused_at_its_path(guard: Guard) -> None:
    """Under `refuse` the error names the string in which it stands."""
    assert content_of(guard.sanitize_chat(chat("a\ud800b"), protocol="openai.chat")) == "a\ufffdb"
    strict = guard_of('sources: {"*": {default: escape}}\nsurrogates: refuse')
    with pytest.raises(SurrogateError, match=r"\$\.messages\[1\]\.content: Character 1 "):
        strict.sanitize_chat(chat("x", "a\ud800b"), protocol="openai.chat")
    assert strict.check_chat(chat("x", "a\ud800b"), protocol="openai.chat").action is Action.BLOCK


# Roles.


@pytest.mark.parametrize("role", ["template", "wizard", "User", "user\n", f"user{END}", ""])
def test_a_role_that_nobody_names_is_refused(role: str, guard: Guard) -> None:
    """A role picks the source of what a message says, so none is guessed."""
    error = refusal(guard, {"messages": [{"role": role, "content": "x"}]})
    assert (error.rule, error.path) == ("request.role", "$.messages[0].role")


def test_a_role_that_the_policy_names_speaks_for_the_source_of_its_name() -> None:
    """As in `encode_chat`: a role that is no source says what is `unknown`."""
    guard = guard_of("chat: {roles: [critic, wizard]}\nsources: {critic: {default: escape}, '*': {default: escape}}")
    body = {"messages": [{"role": role, "content": END} for role in ("critic", "wizard", "tool", "ipython")]}
    request = guard.sanitize_chat(body, protocol="openai.chat")
    assert [violation.source for violation in request.violations] == ["critic", "unknown", "tool_result", "tool_result"]


# Chat templates.


@pytest.mark.parametrize(
    "options",
    [
        {"chat_template": ...},
        {"chat_template_kwargs": {"chat_template": ...}},
        {"extra_body": {"chat_template_kwargs": {"chat_template": ...}}},
        {"nvext": [{"chat_template": ...}]},
        {"template": ...},
    ],
    ids=str,
)
def test_a_chat_template_is_refused_wherever_options_are(options: dict[str, Any], guard: Guard) -> None:
    """A template is code; under `allow` it goes on as it is, its control tokens included."""
    error = refusal(guard, chat("x", **with_template(options, "{{ secret }}")))
    assert error.rule == "request.chat_template"
    assert error.path.endswith("template")
    assert not guard.sanitize_chat(chat("x", **with_template(options, None)), protocol="openai.chat").changed
    trusting = guard_of('sources: {"*": {default: block}}\nrequests: {chat_template: allow}')
    body = chat("x", **with_template(options, f"{{{{ messages }}}}{END}"))
    assert trusting.sanitize_chat(body, protocol="openai.chat").body == body


def with_template(options: Any, template: str | None) -> Any:
    """Return options with a template in its place."""
    if isinstance(options, dict):
        return {key: with_template(value, template) for key, value in options.items()}
    return [with_template(each, template) for each in options] if isinstance(options, list) else template


def test_a_field_of_the_same_name_elsewhere_is_no_chat_template(guard: Guard) -> None:
    """Metadata, and the schema of a tool that edits templates, may have such a key."""
    schema = {"type": "object", "properties": {"chat_template": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    body = chat("x", metadata={"chat_template": "v1"}, tools=tools)
    assert guard.sanitize_chat(body, protocol="openai.chat").body == body


# Token ids.


@pytest.mark.parametrize(
    ("protocol", "body"),
    [
        ("openai.completions", {"prompt": [1, 2]}),
        ("openai.completions", {"prompt": [[1, 2], [3]]}),
        ("openai.completions", {"prompt": ["text", [1, 2]]}),
        ("openai.completions", {"prompt": 5}),
        ("openai.completions", {"input": [1]}),
        ("openai.completions", {"context": [1]}),
        ("openai.chat", {"logit_bias": {"5": 100}}),
        *(("openai.chat", {name: [1]}) for name in IDS),
        ("openai.chat", {"extra_body": {"sampling_params": {"stop_token_ids": [1]}}}),
        ("openai.chat", {"prompt_embeds": "AAAA"}),
    ],
)
def test_token_ids_are_refused_by_default_and_pass_where_the_policy_allows_them(
    protocol: str, body: dict[str, Any], guard: Guard
) -> None:
    """Ids get past every rule about text."""
    assert refusal(guard, body, protocol).rule == "request.token_ids"
    open_ = guard_of('sources: {"*": {default: block}}\nrequests: {token_ids: allow}')
    assert open_.sanitize_chat(body, protocol=protocol).body == body


def test_ids_that_are_checked_may_not_be_reserved_unless_the_policy_allows_their_form() -> None:
    """Every reserved id is refused, an ordinary one passes, and so does one whose form the source may write."""
    rules = 'requests: {token_ids: check}\nsources: {"*": {default: escape}, prompt: {allow: ["@fim"]}}'
    checked = guard_of(rules, "cl100k_base")
    tokenizer = checked.tokenizer
    assert tokenizer is not None
    fim = {t.id for t in tokenizer.control_tokens if t.form.startswith("<|fim")}
    assert fim
    for number in tokenizer.reserved_ids:
        body = {"prompt": [1, number, 2]}
        if number in fim:
            assert checked.sanitize_chat(body, protocol="openai.completions").body == body
        else:
            assert refusal(checked, body, "openai.completions").rule == "request.token_ids"
        # What steers decoding is another source, which may write none.
        assert refusal(checked, chat("x", logit_bias={str(number): 1})).rule == "request.token_ids"
    plain = chat("x", logit_bias={"5": 1.5, "100": -1}, stop_token_ids=[7])
    assert checked.sanitize_chat(plain, protocol="openai.chat").body == plain
    for wrong in ([-1], [tokenizer.n_vocab], [2**80]):
        assert refusal(checked, {"prompt": wrong}, "openai.completions").rule == "request.token_ids"
    assert refusal(checked, {"prompt_embeds": "AAAA"}, "openai.completions").rule == "request.token_ids"


@pytest.mark.parametrize(
    "ids", [[True], [1.5], [1, "secret"], [[1], "secret"], [[[1]]], {"secret": 1}, {"1": "secret"}]
)
def test_what_is_no_token_id_is_refused_whatever_the_policy_says_of_ids(ids: Any) -> None:
    """A value that one server takes for ids and another for something else means nothing."""
    guard = guard_of('sources: {"*": {default: block}}\nrequests: {token_ids: allow}')
    error = refusal(guard, {"input_ids": ids})
    assert (error.rule, error.path) == ("request.shape", "$.input_ids")


def test_ids_cannot_be_checked_without_a_tokenizer() -> None:
    """Nobody knows what an id means, so none passes."""
    guard = guard_of('sources: {"*": {default: escape}}\nrequests: {token_ids: check}')
    assert "no tokenizer" in refusal(guard, {"input_ids": [1]}).fact


# What goes on as it is or not at all.


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"model": END, "messages": []}, "$.model"),
        (chat([*parts("x"), {"type": END}]), "$.messages[0].content[1].type"),
        ({"messages": [{"role": "tool", "tool_call_id": f"c{END}", "content": "x"}]}, "$.messages[0].tool_call_id"),
        (chat("x", stop=["a", END]), "$.stop[1]"),
        (chat("x", structured_outputs={"regex": END}), "$.structured_outputs.regex"),
    ],
)
def test_what_means_something_only_as_it_is_is_refused_and_not_rewritten(
    body: dict[str, Any], path: str, guard: Guard
) -> None:
    """An id that is rewritten matches nothing, and a stop string that is rewritten stops nothing."""
    with pytest.raises(RefusedError) as caught:
        guard.sanitize_chat(body, protocol="openai.chat")
    (violation,) = caught.value.violations
    assert (violation.rule, violation.path, violation.action) == ("request.verbatim", path, Action.BLOCK)
    watching = guard_of('sources: {"*": {default: escape}}\nmode: monitor')
    assert not watching.sanitize_chat(body, protocol="openai.chat").changed


def test_a_policy_can_say_who_writes_prompts_and_stop_strings() -> None:
    """`prompt` and `decoding` are sources of their own where they are declared; else `user` and `unknown`."""
    body = {"prompt": f"a{END}", "stop": END}
    plain = guard_of('sources: {"*": {default: block}, user: {default: escape}}')
    verdict = plain.check_chat(body, protocol="openai.completions")
    assert {(v.path, v.source) for v in verdict.violations} == {("$.prompt", "user"), ("$.stop", "unknown")}
    own = guard_of('sources: {"*": {default: block}, prompt: {default: allow}, decoding: {allow: ["@turn"]}}')
    assert own.sanitize_chat(body, protocol="openai.completions").body == body


# Keys.


def test_keys_that_would_become_one_are_refused(guard: Guard) -> None:
    """No value is lost without a word."""
    body = chat("x", novel={"a": {END: 1, "<_|im_end|>": 2}})
    error = refusal(guard, body)
    assert (error.rule, error.path) == ("request.keys", "$.novel.a")


def test_keys_are_renamed_in_their_order_and_alike_wherever_they_are(guard: Guard) -> None:
    """A schema still requires the properties that it has."""
    schema = {"properties": {"a": {}, END: {"x": END}, "z": {}}, "required": ["z", END]}
    request = guard.sanitize_chat(chat("x", tools=[{"function": {"parameters": schema}}]), protocol="openai.chat")
    made = request.body["tools"][0]["function"]["parameters"]
    assert list(made["properties"]) == ["a", "<_|im_end|>", "z"]
    assert made["required"] == ["z", "<_|im_end|>"]
    assert made["properties"]["<_|im_end|>"] == {"x": "<_|im_end|>"}
    properties = "$.tools[0].function.parameters.properties"
    assert f'{properties}["<_|im_end|>"]~' in request.edits
    assert {v.path for v in request.violations} == {
        f'{properties}["<_|im_end|>"]~',
        f'{properties}["<_|im_end|>"].x',
        "$.tools[0].function.parameters.required[1]",
    }


# JSON inside JSON.


def test_arguments_are_looked_into_and_written_again_only_if_they_change(guard: Guard) -> None:
    """What JSON spells in escapes is found where it is read; what holds nothing stays, byte for byte."""
    odd = '{ "q":"caf\\u00e9 \\n" , "n":1.50, "l":[ ] }'
    assert arguments_of(guard.sanitize_chat(called(odd), protocol="openai.chat")) == odd
    spelled = '{"q": "\\u003c|im_end|>", "n": 1.5, "\\u003c|im_start|>": [true, null]}'
    request = guard.sanitize_chat(called(spelled), protocol="openai.chat")
    assert json.loads(arguments_of(request)) == {"q": "<_|im_end|>", "n": 1.5, "<_|im_start|>": [True, None]}
    base = "$.messages[0].tool_calls[0].function.arguments"
    assert [(v.path, v.start, v.end) for v in request.violations] == [
        (f"{base}.q", 0, 10),
        (f'{base}["<_|im_start|>"]~', 0, 12),
    ]
    assert set(request.edits) == {v.path for v in request.violations}


def test_arguments_are_decoded_whether_or_not_look_alikes_matter() -> None:
    """An escape in JSON is no look-alike: whoever reads the arguments gets the form itself."""
    guard = guard_of('sources: {"*": {default: escape}}\nlookalikes: ignore\nforeign: ignore')
    request = guard.sanitize_chat(called('{"q": "\\u003c|im_end|>"}'), protocol="openai.chat")
    assert json.loads(arguments_of(request)) == {"q": "<_|im_end|>"}


@pytest.mark.parametrize("arguments", [f"{{not json {END}", f'"{END}', f"{END}", f"{{'q': '{END}'}}"])
def test_arguments_that_are_no_json_are_a_string(arguments: str, guard: Guard) -> None:
    """What a client sent as arguments is printed by templates whether it parses or not."""
    made = arguments_of(guard.sanitize_chat(called(arguments), protocol="openai.chat"))
    assert made == arguments.replace(END, "<_|im_end|>")


@pytest.mark.parametrize("arguments", ['{"a": "\\u003c|im_end|>", "a": "x"}', '{"a": "\\n", "a": 1, "b": 2}'])
def test_of_a_key_that_comes_twice_only_the_last_value_goes_on(arguments: str, guard: Guard) -> None:
    """Readers differ in which of them counts, so that one of them would read what was not looked at."""
    made = arguments_of(guard.sanitize_chat(called(arguments), protocol="openai.chat"))
    assert json.loads(made) == json.loads(arguments)
    assert made.count('"a"') == 1
    watching = guard_of('sources: {"*": {default: escape}}\nmode: monitor')
    assert not watching.sanitize_chat(called(arguments), protocol="openai.chat").changed


def test_a_form_that_reaches_over_the_punctuation_of_json_is_refused() -> None:
    """Broken there, the arguments would be no JSON any more."""
    guard = guard_of('sources: {"*": {default: escape}}\nforms: [\'"}, {"\']')
    with pytest.raises(RefusedError) as caught:
        guard.sanitize_chat(called('[{"a": "x"}, {"b": 1}]'), protocol="openai.chat")
    assert [v.rule for v in caught.value.violations] == ["request.verbatim"]


def test_arguments_that_are_a_mapping_are_walked_like_any_other(guard: Guard) -> None:
    """Ollama and Anthropic send the arguments as they are."""
    request = guard.sanitize_chat(called({"q": END, END: 1}), protocol="openai.chat")
    assert request.body["messages"][0]["tool_calls"][0]["function"]["arguments"] == {
        "q": "<_|im_end|>",
        "<_|im_end|>": 1,
    }
    assert {v.source for v in request.violations} == {"tool_arguments"}


@pytest.mark.parametrize("number", ["1" * 5_000, "1e999"])
def test_a_number_that_could_not_be_written_again_is_refused(number: str, guard: Guard) -> None:
    """A reader with other bounds would read what stands beside it."""
    assert refusal(guard, called(f'{{"n": {number}, "q": "\\u003c|im_end|>"}}')).rule == "request.shape"


# Joints.


@pytest.mark.parametrize(
    "texts",
    [
        ("<|im_", "end|>"),
        ("<|", "im_", "end", "|>"),
        ("a <|im_ ", "\n end|> b"),
        ("<|im_", "", "  ", "end|>"),
        ("<|im_end|", ">"),
        ("<|im_", "end|>", "<|im_", "end|>"),
    ],
)
def test_what_parts_spell_together_is_broken_however_they_are_joined(texts: tuple[str, ...], guard: Guard) -> None:
    """As they are and trimmed; the form is reported in the string in which it begins."""
    request = guard.sanitize_chat(chat(parts(*texts)), protocol="openai.chat")
    made = [part["text"] for part in content_of(request)]
    for joined in ("".join(made), "".join(text.strip() for text in made)):
        assert END not in joined
    assert any(v.path == "$.messages[0].content[0].text" and v.action is Action.ESCAPE for v in request.violations)
    assert not guard.sanitize_chat(request.body, protocol="openai.chat").changed
    plain = [text for text in made if "_" not in text]
    assert set(plain) <= set(texts)


@pytest.mark.parametrize("between", [{"type": "image_url", "image_url": {"url": "u"}}, {"type": "file"}])
def test_what_is_no_text_does_not_part_parts(between: dict[str, Any], guard: Guard) -> None:
    """Templates that know no images leave them out."""
    body = chat([*parts("<|im_"), between, *parts("end|>")])
    assert guard.sanitize_chat(body, protocol="openai.chat").count == 1


def test_a_space_or_a_line_break_between_parts_counts_where_a_form_holds_one() -> None:
    """SGLang joins parts by a space, vLLM by a line break."""
    guard = guard_of('sources: {"*": {default: escape}}\nforms: ["### System:", "a\\nb"]')
    for texts in (("###", "System:"), ("a", "b"), (" ### ", " System:")):
        request = guard.sanitize_chat(chat(parts(*texts)), protocol="openai.chat")
        assert request.count == 1
        assert request.changed


@pytest.mark.parametrize(
    ("protocol", "body"),
    [
        ("openai.chat", chat("<|im_", "end|>")),
        ("anthropic.messages", {"messages": [{"role": "user", "content": parts(text)} for text in ("<|im_", "end|>")]}),
        ("anthropic.messages", {"messages": [], "system": parts("<|im_", "end|>")}),
        (
            "anthropic.messages",
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": parts("<|im_", "end|>")}]}]},
        ),
        ("openai.responses", {"input": [{"role": "user", "content": text} for text in ("<|im_", "end|>")]}),
        ("openai.responses", {"input": [{"type": "function_call_output", "output": parts("<|im_", "end|>")}]}),
    ],
)
def test_neighbours_of_one_role_and_other_lists_of_parts_are_joined_too(
    protocol: str, body: dict[str, Any], guard: Guard
) -> None:
    """Proxies make one message of two, and every protocol has lists of parts."""
    request = guard.sanitize_chat(body, protocol=protocol)
    assert (request.count, request.changed) == (1, True)


def test_messages_of_two_roles_are_not_joined(guard: Guard) -> None:
    """A turn is between them."""
    body = {"messages": [{"role": "user", "content": "<|im_"}, {"role": "assistant", "content": "end|>"}]}
    assert guard.sanitize_chat(body, protocol="openai.chat").count == 0


def test_a_form_over_parts_is_refused_where_the_policy_blocks_it() -> None:
    """With the parts around it."""
    guard = guard_of('sources: {"*": {default: block}}')
    with pytest.raises(RefusedError) as caught:
        guard.sanitize_chat(chat(parts("a <|im_", "end|>")), protocol="openai.chat")
    assert [(v.path, v.start) for v in caught.value.violations] == [("$.messages[0].content[0].text", 2)]


def test_positions_are_those_of_the_callers_own_strings(guard: Guard) -> None:
    """Behind what was broken before, and behind a pair of surrogates, in a string and over two."""
    texts = (f"{END}\ud83d\ude00 <|im_", "end|>")
    request = guard.sanitize_chat(chat(parts(*texts)), protocol="openai.chat")
    assert [(v.path[-7:], v.start, v.end) for v in request.violations] == [("0].text", 0, 10), ("0].text", 13, 18)]
    edits = request.edits["$.messages[0].content[0].text"]
    assert content_of(request)[0]["text"][: edits[0].position] == "<"


# What is said of it.


def test_a_refusal_reports_everything_that_was_found() -> None:
    """Not the first string alone, and the sinks get it once."""
    logged: list[Violation] = []
    guard = guard_of('sources: {"*": {default: block}, system: {default: escape}}', sink=logged.append)
    body = chat(f"a{END}", f"b{END}", tools=[{"function": {"name": END}}])
    body["messages"].insert(0, {"role": "system", "content": END})
    with pytest.raises(RefusedError) as caught:
        guard.sanitize_chat(body, protocol="openai.chat", request_id="r-1")
    paths = ["$.messages[0].content", "$.messages[1].content", "$.messages[2].content", "$.tools[0].function.name"]
    assert [v.path for v in caught.value.violations] == paths
    assert sorted(v.path for v in logged) == paths
    assert {v.request_id for v in logged} == {"r-1"}


def test_what_no_caller_may_send_hides_nothing_else() -> None:
    """A template in a request with a forged turn: both are in the verdict and in the log."""
    logged: list[Violation] = []
    guard = guard_of('sources: {"*": {default: block}}', sink=logged.append)
    body = chat(END, chat_template="x", input_ids=[1])
    rules = ["request.chat_template", "request.token_ids", "*.default"]
    assert [v.rule for v in guard.check_chat(body, protocol="openai.chat").violations] == rules
    assert [v.rule for v in logged] == rules


def test_a_flood_of_strings_is_no_flood_of_records() -> None:
    """A thousand strings with forms make a handful of records, whose counts are whole."""
    logged: list[Violation] = []
    guard = guard_of(sink=logged.append)
    request = guard.sanitize_chat(chat(*[END] * 3_000), protocol="openai.chat")
    assert request.count == 3_000
    assert len(request.violations) == guard.policy.limits.max_violations
    assert len(logged) < 12
    assert sum(v.count for v in logged) == 3_000


def test_nothing_is_logged_of_a_clean_request() -> None:
    """And nothing is copied into the result but its body."""
    logged: list[Violation] = []
    guard = guard_of(sink=logged.append)
    request = guard.sanitize_chat(chat("x", tools=[]), protocol="openai.chat")
    assert (logged, request.violations, request.edits, request.count) == ([], (), {}, 0)
    assert (request.action, request.changed) == (Action.ALLOW, False)


def test_under_monitor_what_no_caller_may_send_is_reported_and_passes() -> None:
    """Templates, ids and roles are rules of the policy; shapes and limits are not."""
    guard = guard_of('sources: {"*": {default: block}}\nmode: monitor')
    body = chat(END, chat_template="t", input_ids=[1])
    body["messages"].append({"role": "wizard", "content": END})
    request = guard.sanitize_chat(body, protocol="openai.chat")
    assert request.body == body
    assert request.action is Action.BLOCK
    rules = {"request.chat_template", "request.token_ids", "request.role", "*.default"}
    assert {(v.rule, v.mode) for v in request.violations} == {(rule, Mode.MONITOR) for rule in rules}
    assert refusal(guard, {"messages": "x"}).rule == "request.shape"


def test_one_source_can_be_watched_while_others_are_enforced() -> None:
    """The mode of a source is that of its strings."""
    guard = guard_of('sources: {"*": {default: escape}, tool_result: {default: escape, mode: monitor}}')
    body = chat(END)
    body["messages"].append({"role": "tool", "tool_call_id": "c", "content": END})
    made = guard.sanitize_chat(body, protocol="openai.chat").body["messages"]
    assert [message["content"] for message in made] == ["<_|im_end|>", END]


def test_a_text_keeps_its_labels(guard: Guard) -> None:
    """An application that knows better who wrote a string says so; where it lies is its path."""
    own = guard_of('sources: {"*": {default: block}, template: {default: allow}, document: {default: escape}}')
    text = Text("<|im_start|>", source="template") + Text(END, source="document")
    request = own.sanitize_chat(chat(text), protocol="openai.chat")
    assert content_of(request) == "<|im_start|><_|im_end|>"
    assert type(content_of(request)) is str
    assert [(v.source, v.path, v.start) for v in request.violations] == [("document", "$.messages[0].content", 0)]


def test_the_result_shares_nothing_with_what_was_given(guard: Guard) -> None:
    """Whoever changes the one changes nothing of the other; tuples and subclasses become plain JSON."""
    body: dict[str, Any] = {**chat(parts("x")), "novel": {"list": ({"a": 1},)}, "input_ids": [], "stop": ("a",)}
    request = guard.sanitize_chat(body, protocol="openai.chat")
    content_of(request)[0]["text"] = "changed"
    request.body["novel"]["list"][0]["a"] = 2
    request.body["input_ids"].append(3)
    assert body == {**chat(parts("x")), "novel": {"list": ({"a": 1},)}, "input_ids": [], "stop": ("a",)}
    assert type(request.body["novel"]["list"]) is list
    assert type(request.body["stop"]) is list


def test_only_a_guard_makes_a_sanitized_request() -> None:
    """A body that nobody looked at vouches for nothing."""
    with pytest.raises(TypeError, match="from a Guard alone"):
        SanitizedRequest("openai.chat", {}, {}, (), 0, Action.ALLOW, changed=False, _mint=None)
