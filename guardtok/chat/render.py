"""Conversation and template → the prompt as `Text`, rendered to the same string as by transformers.

A template is code that the operator trusts, as one trusts a stored procedure; what it is filled with is not trusted.
Rendering is where the two are joined, so labels go through it, and what comes out is checked like any other text.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardtok.chat.labels import TEMPLATE, source_of_role
from guardtok.chat.messages import REASONING, label_chat
from guardtok.errors import (
    MessageError,
    MissingExtraError,
    TemplateError,
    TemplateMismatchError,
    is_failure,
)
from guardtok.text import Text, runs_of
from guardtok.violation import Span, visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from jinja2 import Template, nodes

    from guardtok.chat.messages import Chat
    from guardtok.policy.model import Policy

MAX_TEMPLATE = 1_000_000
"""Characters of the longest template."""

_TAG = "CONTINUE_FINAL_MESSAGE_TAG "
"""Stands where the final message ends while it is rendered. Any string will do: it is found by its label."""
_TAG_PATH = "$.continue_final_message"
_QUOTED = re.compile(r"'([^']{1,64})'")
_NAMED_ROLE = "role"


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A compiled template.

    Attributes:
        source: The template.
        fingerprint: `sha256:…` of it, as UTF-8; what a policy pins.
        roles: The roles that it compares a message's role with.
        marks_generation: Whether it says what the assistant generated (`{% generation %}`).
        compiled: The code.
    """

    source: str
    fingerprint: str
    roles: frozenset[str]
    marks_generation: bool
    compiled: Template


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation.

    Attributes:
        text: The prompt.
        generated: What stood in the template's `{% generation %}` blocks, in characters of the text.
    """

    text: Text
    generated: tuple[Span, ...]


def read_template(template: str | os.PathLike[str], policy: Policy) -> ChatTemplate:
    """Return the compiled template that is meant: the source itself as a string, or a path to a file.

    Raises:
        TemplateError: It cannot be read, or does not parse.
        TemplateMismatchError: The policy pins others.
        MissingExtraError: Jinja is not installed.
    """
    if isinstance(template, os.PathLike):
        try:
            template = Path(template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TemplateError(f"The chat template cannot be read: {type(error).__name__}. Give its path.") from None
    if not isinstance(template, str):
        raise TemplateError("A chat template is a str of Jinja, or a path to a file of it.")
    if len(template) > MAX_TEMPLATE:
        raise TemplateError(f"The chat template has {len(template):,} characters; at most {MAX_TEMPLATE:,} are taken.")
    compiled = _compile(str.__str__(template))
    pinned = policy.chat.templates
    if pinned and compiled.fingerprint not in pinned:
        raise TemplateMismatchError(
            f"{policy.place}: the policy pins {len(pinned)} chat template(s), and this one is {compiled.fingerprint}. "
            "Read it, and add the fingerprint under `chat: {templates: […]}` if it is meant."
        )
    return compiled


@lru_cache(maxsize=128)
def _compile(source: str) -> ChatTemplate:
    try:
        from jinja2 import TemplateSyntaxError

        from guardtok.chat.environment import ChatEnvironment
    except ImportError:
        raise MissingExtraError("Chat templates need Jinja: pip install 'guardtok[chat]'.") from None
    environment = ChatEnvironment()
    try:
        tree = environment.parse(source)
        compiled = environment.from_string(source)
    except TemplateSyntaxError as error:
        raise TemplateError(
            f"The chat template does not parse: line {error.lineno}. {visible(str(error.message))}", error.lineno
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever Jinja raises on a template is the template's failure
        failure = type(error).__name__
    else:
        data = source.encode("utf-8", "surrogatepass")
        return ChatTemplate(
            source,
            "sha256:" + hashlib.sha256(data).hexdigest(),
            frozenset(_compared_roles(tree)),
            re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None,
            compiled,
        )
    raise TemplateError(f"The chat template cannot be compiled ({failure}).")


def _compared_roles(tree: nodes.Template) -> Iterator[str]:
    """Yield the strings that a template compares a role with: by `==`, by `in`, or in `selectattr`.

    What they may write is what the template writes, so a constant that stands near a role is not yet one.
    """
    from jinja2 import nodes

    for node in tree.find_all((nodes.Compare, nodes.Filter)):
        sides: list[nodes.Expr] = []
        if isinstance(node, nodes.Compare):
            operands = [node.expr, *(each.expr for each in node.ops)]
            pairs = [*pairwise(operands), *pairwise(operands[::-1])]
            sides = [other for one, other in pairs if _names_role(one)]
        elif isinstance(node, nodes.Filter) and node.name in {"selectattr", "rejectattr"}:
            named = bool(node.args) and getattr(node.args[0], "value", None) == _NAMED_ROLE
            sides = node.args[2:] if named else []  # selectattr('role', 'equalto', 'user')
        for side in sides:
            items = side.items if isinstance(side, (nodes.List, nodes.Tuple, nodes.Dict)) else [side]
            keys = [each.key if isinstance(each, nodes.Pair) else each for each in items]
            yield from (
                each.value for each in keys if isinstance(each, nodes.Const) and each.value and type(each.value) is str
            )


def _names_role(node: nodes.Node) -> bool:
    """Whether an operand is made of a role; whether something is so is no role."""
    from jinja2 import nodes

    if isinstance(node, (nodes.Compare, nodes.And, nodes.Or, nodes.Not, nodes.Test)):
        return False
    names = (node, *node.find_all((nodes.Getattr, nodes.Name, nodes.Const)))
    return any(getattr(each, field, None) == _NAMED_ROLE for each in names for field in ("attr", "name", "value"))


def render(  # noqa: PLR0913 - what a rendering is made of
    template: ChatTemplate,
    chat: Chat,
    policy: Policy,
    named: Mapping[str, str],
    *,
    add_generation_prompt: bool,
    continue_final_message: bool | str,
) -> Rendered:
    """Render a conversation.

    Args:
        template: The template.
        chat: The conversation.
        policy: Its sources, roles and limits.
        named: The tokenizer's named tokens.
        add_generation_prompt: Whether the template is to open the assistant's turn.
        continue_final_message: Whether the text ends with the final message's content, or with that field of it.

    Raises:
        MessageError: A role that nobody names, or a final message that cannot be continued.
        TemplateError: The template raised.

    Returns:
        The prompt; not more of it than shows that it is longer than `limits.max_chars`.
    """
    if continue_final_message:
        if add_generation_prompt:
            raise MessageError("A final message is continued, or a new one is opened: not both.")
        chat = _tag_final_message(chat, template, policy, continue_final_message)
    roles = template.roles.union(policy.chat.roles)
    variables = label_chat(chat, roles=roles, declared=policy.sources, named=named)
    variables["add_generation_prompt"] = add_generation_prompt
    failure: BaseException
    try:
        rendered = _run(template, variables, policy.limits.max_chars)
    except BaseException as error:
        if not is_failure(error):
            raise
        failure = error
    else:
        return _cut_at_tag(rendered) if continue_final_message else rendered
    raise _explain(failure, template)


def _run(template: ChatTemplate, variables: dict[str, Any], max_chars: int) -> Rendered:
    from guardtok.chat.environment import GENERATED

    pieces: list[str] = []
    marked: list[Text] = []
    generated: list[Span] = []
    length = 0
    compiled = template.compiled
    for piece in compiled.root_render_func(compiled.new_context({**variables, GENERATED: marked})):
        if marked:
            generated += (Span(length + start, length + end) for start, end in _take_marked(marked, piece))
        pieces.append(piece)
        length += len(piece)
        if length > max_chars:
            break  # Whoever takes the text in refuses it for its length; there is no need for the rest.
    return Rendered(Text("", source=TEMPLATE).join(pieces), tuple(generated))


def _take_marked(marked: list[Text], piece: str) -> Iterator[tuple[int, int]]:
    """Take out of `marked`, from its beginning, what stands in a piece of the prompt, and yield where it does.

    A block that a template writes at once is a piece of its own. One in a macro or a `set` block comes as part of
    another piece, or of a later one.
    """
    if piece is marked[-1]:  # And what is marked inside it is.
        marked.clear()
        yield 0, len(piece)
        return
    end = taken = 0
    for text in marked:
        start = str.find(piece, text, end)
        # The same characters from somebody else are not what was marked.
        while start >= 0 and runs_of(piece[start : start + len(text)]) != text.runs:
            start = str.find(piece, text, start + 1)
        if start < 0:
            break
        end, taken = start + len(text), taken + 1
        yield start, end
    del marked[:taken]


def _tag_final_message(chat: Chat, template: ChatTemplate, policy: Policy, field: bool | str) -> Chat:  # noqa: FBT001 - as transformers has it
    """Put a tag behind what is to be continued."""
    name = field if isinstance(field, str) else "content"
    last, path = dict(chat.messages[-1]), f"$.messages[{len(chat.messages) - 1}]"
    tag = Text(_TAG, source=TEMPLATE, path=_TAG_PATH)
    said = last.get(name)
    if said is None:
        raise MessageError(f"{path}: the final message has no {name!r} to continue.")
    # Reasoning stands under several names, and nobody knows which one the template reads.
    names = [each for each in REASONING if last.get(each) == said] if name in REASONING else [name]
    if not any(each in template.source for each in names):
        raise MessageError(f"{path}.{name}: the chat template does not read this field, so it cannot be continued.")
    source = source_of_role(last["role"], policy.sources)
    if isinstance(said, str):
        for each in names:
            last[each] = _labelled(said, source, f"{path}.{each}") + tag
        return replace(chat, messages=(*chat.messages[:-1], last), mixed=True)
    for number in reversed(range(len(said) if isinstance(said, (list, tuple)) else 0)):
        part = said[number]
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text = _labelled(part["text"], source, f"{path}.{name}[{number}].text") + tag
            last[name] = [*said[:number], {**part, "text": text}, *said[number + 1 :]]
            return replace(chat, messages=(*chat.messages[:-1], last), mixed=True)
    raise MessageError(f"{path}.{name}: there is no text to continue in the final message.")


def _labelled(text: str, source: str, path: str) -> Text:
    return text if isinstance(text, Text) else Text(text, source=source, path=path)


def _cut_at_tag(rendered: Rendered) -> Rendered:
    tags = [run for run in rendered.text.runs if run.path == _TAG_PATH and run.offset == 0]
    if not tags:
        raise MessageError("The chat template leaves out what is to be continued of the final message.")
    start = tags[-1].start
    kept = Text("", source=TEMPLATE).join([rendered.text[:start]])
    if not rendered.text.startswith(_TAG, start):
        # The template trims the message, and so the tag's own space is gone: it would have trimmed before the tag too.
        kept = kept.rstrip()
    length = len(kept)
    generated = tuple(Span(span.start, min(span.end, length)) for span in rendered.generated if span.start < length)
    return Rendered(kept, generated)


def _explain(failure: BaseException, template: ChatTemplate) -> TemplateError:
    """Return the error for whatever a template raised. It quotes the template alone, never what it was filled with."""
    from jinja2 import TemplateError as JinjaError
    from jinja2 import UndefinedError

    line = _line_of(failure.__traceback__, template)
    place = f"The chat template failed at line {line}" if line else "The chat template failed"
    message = failure.args[0] if failure.args else ""
    if isinstance(failure, UndefinedError):
        # A message may say which key is asked for: it is quoted if it is one of the template's words, and no token.
        known = [name for name in _QUOTED.findall(str(message)) if name.isidentifier() and name in template.source]
        what = f"it asks for {known[-1]!r}, which is not there" if known else "it asks for what is not there"
        return TemplateError(f"{place}: {what}. Does this template fit these messages and tools?", line)
    if type(failure) is JinjaError and isinstance(message, str):
        said = "".join(
            str.__str__(message)[run.start : run.end] if run.source == TEMPLATE else "…"
            for run in (message.runs if isinstance(message, Text) else ())
        )
        return TemplateError(f"{place}: {visible(said[:500])}" if said else f"{place} and gave no reason.", line)
    return TemplateError(f"{place} ({type(failure).__name__}). Does this template fit these messages and tools?", line)


def _line_of(trace: TracebackType | None, template: ChatTemplate) -> int | None:
    line = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = template.compiled.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line
