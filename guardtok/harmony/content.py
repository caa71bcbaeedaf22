"""What a system's and a developer's message hold: settings, instructions, and tools as TypeScript describes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardtok.errors import ConversationError
from guardtok.harmony.draft import Node, Parts, cut, join, literal
from guardtok.harmony.schema import render_type
from guardtok.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEFINITION = "tool_definition"
_EFFORTS = {"low", "medium", "high"}


def render_system(node: Node, *, has_functions: bool) -> Parts:
    """Return the content of a system message: identity, dates, effort, built-in tools, channels."""
    top: list[Parts] = []
    for key, title in (
        ("model_identity", ""),
        ("knowledge_cutoff", "Knowledge cutoff: "),
        ("conversation_start_date", "Current date: "),
    ):
        text = node.label(key)
        if text is not None:
            top.append([literal(title), text])
    sections = [join("\n", top)] if top else []
    effort = node.label("reasoning_effort")
    if effort is not None:
        if effort.lower() not in _EFFORTS:
            raise ConversationError(f"{node.path}.reasoning_effort", f"is none of {', '.join(sorted(_EFFORTS))}.")
        sections.append([literal(f"Reasoning: {effort.lower()}")])
    sections += _render_tools(node)
    channels = node.below("channel_config")
    if channels is not None and channels.values.get("valid_channels"):
        sections.append(_render_channels(channels, has_functions=has_functions))
    return join("\n\n", sections)


def render_developer(node: Node) -> Parts:
    """Return the content of a developer's message: instructions and tools."""
    instructions = node.label("instructions")
    sections = [] if instructions is None else [[literal("# Instructions")], [instructions]]
    return join("\n\n", [*sections, *_render_tools(node)])


def _render_channels(channels: Node, *, has_functions: bool) -> Parts:
    names: list[Parts] = []
    for path, name in channels.items("valid_channels"):
        if not isinstance(name, str):
            raise ConversationError(path, f"is a {type(name).__name__}. Give a string.")
        names.append([Text(name, source=channels.source, path=path)])
    required = " Channel must be included for every message." if channels.values.get("channel_required") else ""
    functions = "\nCalls to these tools must go to the commentary channel: 'functions'." if has_functions else ""
    return [literal("# Valid channels: "), *join(", ", names), literal(f".{required}{functions}")]


def _render_tools(node: Node) -> Iterator[Parts]:
    tools = node.below("tools", _DEFINITION)
    if tools is None or not tools.values:
        return
    yield [literal("# Tools")]
    for key in sorted(tools.values):
        namespace = tools.below(key)
        if namespace is None:
            raise ConversationError(f"{tools.path}.{key}", "is missing. Give a namespace of tools.")
        yield _render_namespace(namespace)


def _render_namespace(namespace: Node) -> Parts:
    name = namespace.require("name")
    tools = [Node(values, path, _DEFINITION) for path, values in namespace.items("tools")]
    lines: list[Parts] = [[literal("## "), name, literal("\n")]]
    lines += ([literal("// " if tools else ""), line] for line in _lines(namespace.label("description")))
    if tools:
        lines.append([literal("namespace "), name, literal(" {\n")])
        for tool in tools:
            lines += _render_tool(tool)
        lines.append([literal("} // namespace "), name])
    return join("\n", lines)


def _render_tool(tool: Node) -> Iterator[Parts]:
    for line in _lines(tool.require("description")):
        yield [literal("// "), line]
    schema = tool.below("parameters")
    try:
        arguments = [] if schema is None else [literal("_: "), *render_type(schema.values, schema.path, "")]
    except RecursionError:
        raise ConversationError(f"{tool.path}.parameters", "is nested too deeply.") from None
    yield [literal("type "), tool.require("name"), literal(" = ("), *arguments, literal(") => any;\n")]


def _lines(text: Text | None) -> Iterator[Text]:
    """Yield the lines of a text without their ends, LF or CR LF, each with its label."""
    if text is None:
        return
    start = 0
    for line in text.split("\n"):
        end = start + len(line)
        if end < len(text):
            yield cut(text, start, end - line.endswith("\r"))
        elif line:
            yield cut(text, start, end)
        start = end + 1
