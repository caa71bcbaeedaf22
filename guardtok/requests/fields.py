"""Fields that several protocols share: parts of a content, calls and tools, what steers decoding, options.

Servers read each other's dialects, and proxies translate them, so a part is labelled by what it says it is, whatever
protocol it came in.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from guardtok.requests.labels import DECODING, PROMPT, Kind, Label, Shape
from guardtok.requests.token_ids import has_ids
from guardtok.text import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def verbatim(source: str = UNKNOWN) -> Label:
    """Return the label of a string that goes on as it is or not at all."""
    return Label(source, kind=Kind.VERBATIM)


UNNAMED = Label(UNKNOWN)
"""What nobody names."""

VERBATIM = verbatim()
ID = verbatim("tool_arguments")
"""The id of a call, an item or a file. Models write those of calls, and some templates print them."""

NAME = Label("name")
ARGUMENTS = Label("tool_arguments", kind=Kind.JSON)
FUNCTION = Label("tool_arguments", {"name": NAME, "arguments": ARGUMENTS})
CALL = Label(
    "tool_arguments",
    {
        "id": ID,
        "type": VERBATIM,
        "name": NAME,
        "arguments": ARGUMENTS,
        "function": FUNCTION,
        "custom": Label("tool_arguments", {"name": NAME}),
    },
)

DEFINITION = Label("tool_definition")
"""A tool's name, its description and its schema, keys included; a schema that an answer has to follow too."""

TOOL = Label("tool_definition", {"type": verbatim("tool_definition")}, rest=DEFINITION)
TOOLS = Label("tool_definition", items=TOOL, shape=Shape.LIST)
DOCUMENT = Label("document")

_STEERING = Label(DECODING, kind=Kind.VERBATIM)
_STEERING_IDS = Label(DECODING, kind=Kind.IDS)
PROMPT_IDS = Label(PROMPT, kind=Kind.IDS)
TEMPLATE = Label("template", kind=Kind.TEMPLATE)

_EMBEDDINGS = Label(PROMPT, kind=Kind.EMBEDDINGS)

_ALWAYS: Mapping[str, Label] = {
    "chat_template": TEMPLATE,
    **dict.fromkeys(("prompt_token_ids", "input_ids", "token_ids"), PROMPT_IDS),
    **dict.fromkeys(("prompt_embeds", "input_embeds", "inputs_embeds"), _EMBEDDINGS),
    **dict.fromkeys(("stop_token_ids", "allowed_token_ids", "logit_bias"), _STEERING_IDS),
    # These only say for which ids probabilities come back.
    **dict.fromkeys(("logprob_token_ids", "token_ids_logprob", "label_token_ids"), UNNAMED),
    **dict.fromkeys(("stop", "stop_sequences", "stop_regex", "bad_words", "regex", "ebnf", "grammar"), _STEERING),
    **dict.fromkeys(("choice", "structural_tag", "guided_regex", "guided_grammar", "guided_choice"), _STEERING),
    **dict.fromkeys(("json_schema", "guided_json", "response_format"), DEFINITION),
}
"""What these names mean wherever options are: in a body, and in `extra_body`, `chat_template_kwargs`, `nvext` …"""


_TEMPLATES = ("template", "template_str")
_IDS = ("ids", "tokens", "token_data", "context")


def _guess(name: str, value: object) -> Label | None:
    """Return the label of an option that no table has and whose name says that it gets past every rule about text.

    Servers name such options alike: `instruction_template_str`, `prompt_template`, `decoder_input_ids`, `token_data`.
    """
    said = name.lower()
    if isinstance(value, str) and said.endswith(_TEMPLATES):
        return TEMPLATE
    return PROMPT_IDS if said.endswith(_IDS) and has_ids(value) else None


def _nested_options() -> Label:
    label = Label(UNKNOWN, _ALWAYS, guess=_guess)
    # What lies in it is such a mapping again.
    object.__setattr__(label, "other", label)
    object.__setattr__(label, "item", label)
    return label


_NESTED = _nested_options()


def options(**fields: Label) -> Label:
    """Return the label of a body: these fields, those that always mean the same, and all others `unknown`."""
    named = {
        **_ALWAYS,
        **dict.fromkeys(("metadata", "user", "safety_identifier", "prompt_cache_key"), UNNAMED),
        "model": VERBATIM,
        **fields,
    }
    label = Label(UNKNOWN, named, rest=_NESTED, shape=Shape.MAPPING, guess=_guess)
    # Proxies put what is in it into the body.
    named["extra_body"] = label
    return label


def label_messages(speaker: Callable[[str], Label]) -> Label:
    """Return the label of messages, each labelled by the source that its role speaks for."""
    message = Label(UNKNOWN, by="role", speaker=speaker, shape=Shape.MAPPING)
    return Label(UNKNOWN, items=message, shape=Shape.LIST, joined=True)


@lru_cache(maxsize=64)
def label_content(source: str, *, joined: bool = False) -> Label:
    """Return the label of a content that a source wrote: a string, or parts whose texts a template may join.

    Args:
        source: The source.
        joined: Whether it stands alone. The contents of messages are joined with those of their neighbours.
    """
    return Label(source, items=_label_part(source), shape=Shape.CONTENT, joined=joined)


@lru_cache(maxsize=64)
def label_output(source: str) -> Label:
    """Return the label of what a tool gave: anything, and if it is a list its texts may be joined."""
    return Label(source, items=_label_part(source), joined=True)


@lru_cache(maxsize=64)
def label_contents(source: str) -> Label:
    """Return the label of a content among whose parts may be calls and what tools answered, as Anthropic has it."""
    part = _label_part(source)
    own = "tool_result"
    result = Label(own, {"type": VERBATIM, "tool_use_id": ID, "content": label_output(own)})
    use = Label("tool_arguments", {"type": VERBATIM, "id": ID, "name": NAME})
    cases = {
        **part.cases,
        **dict.fromkeys(("tool_use", "server_tool_use", "mcp_tool_use"), use),
        **dict.fromkeys(_RESULTS, result),
    }
    return Label(
        source,
        items=Label(source, part.fields, by="type", cases=cases),
        shape=Shape.CONTENT,
    )


_RESULTS = (
    "tool_result",
    "mcp_tool_result",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
)


@lru_cache(maxsize=64)
def _label_part(source: str) -> Label:
    own = _label_fields(source)
    parts = Label("document", _label_fields("document"))
    content = Label("document", items=parts, joined=True)
    paper = Label(
        "document",
        {
            "type": VERBATIM,
            "source": Label("document", {"type": VERBATIM, "content": content}),
            "content": content,
        },
    )
    cases = {
        "document": paper,
        "search_result": paper,
        "prompt_embeds": Label(source, {**own, "data": _EMBEDDINGS}),
        "redacted_thinking": Label(source, {**own, "data": VERBATIM}),
    }
    return Label(source, own, by="type", cases=cases)


def _label_fields(source: str) -> dict[str, Label]:
    """Return the fields of a part. Those of its texts are named: a form that is spelled like one renames none."""
    return {
        "type": VERBATIM,
        "file_id": ID,
        "signature": VERBATIM,
        "encrypted_content": VERBATIM,
        **dict.fromkeys(("text", "refusal", "thinking"), Label(source)),
    }
