"""One call of `encode_chat`: its conversation, its template, and the rendering of the two."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from guardtok.chat.messages import read_chat
from guardtok.chat.render import read_template, render
from guardtok.errors import MessageError, TemplateError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from guardtok.chat.messages import Chat
    from guardtok.chat.render import ChatTemplate, Rendered
    from guardtok.ruleset import Ruleset

_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
_NOT_HERE = frozenset(
    {"chat_template", "conversation", "max_length", "padding", "return_assistant_tokens_mask", "return_dict"}
    | {"return_tensors", "sanitize_control_tokens", "tokenize", "tokenizer_kwargs", "truncation"}
)
"""Arguments of `apply_chat_template` that would be taken for variables of the template, and do nothing."""
_NAMED = frozenset(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
"""Named tokens of transformers' tokenizers. They come from the tokenizer, and from nobody else."""

_TOOL_USE = "tool_use"


class ChatOptions(NamedTuple):
    """How a conversation is rendered, besides its messages and its template; see `Guard.encode_chat`."""

    tools: Sequence[object] | None
    documents: Sequence[object] | None
    add_generation_prompt: bool
    continue_final_message: bool | str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation and how to render it.

    Attributes:
        chat: The conversation, as plain data.
        template: The template.
        ruleset: What its sources may do.
        named: The tokenizer's named tokens.
        options: How else.
    """

    chat: Chat
    template: ChatTemplate
    ruleset: Ruleset
    named: Mapping[str, str]
    options: ChatOptions

    def render(self, chat: Chat | None = None) -> Rendered:
        """Render the conversation, or another in its place.

        Raises:
            MessageError: A role that nobody names, or a final message that cannot be continued.
            TemplateError: The template raised.
        """
        return render(
            self.template,
            self.chat if chat is None else chat,
            self.ruleset.policy,
            self.named,
            add_generation_prompt=self.options.add_generation_prompt,
            continue_final_message=self.options.continue_final_message,
        )

    def opening(self) -> str:
        """Return what the template writes to open an assistant's turn; empty where it writes nothing.

        Many a template opens none behind an assistant's turn, or raises: then the conversation is asked about as it was
        before that turn.
        """
        messages = self.chat.messages
        spoken = (index for index, message in enumerate(messages) if index and message["role"] == "assistant")
        for end in (len(messages), *islice(spoken, 1)):
            opening = self._opening_after(replace(self.chat, messages=messages[:end]))
            if opening:
                return opening
        return ""

    def _opening_after(self, chat: Chat) -> str:
        closed = self.options._replace(add_generation_prompt=False, continue_final_message=False)
        try:
            plain, opened = (
                replace(self, options=each).render(chat).text
                for each in (closed, closed._replace(add_generation_prompt=True))
            )
        except TemplateError:
            return ""
        return str.__str__(opened)[len(plain) :] if opened.startswith(plain) else ""


def read_request(
    ruleset: Ruleset,
    messages: object,
    template: str | os.PathLike[str] | None,
    options: ChatOptions,
    variables: Mapping[str, object],
) -> ChatRequest:
    """Check what a caller gave and make it ready to be rendered.

    Args:
        ruleset: What the policy says for the bound tokenizer.
        messages: The conversation.
        template: The template, or None for the tokenizer's own.
        options: How to render it.
        variables: Values for the template's other variables.

    Raises:
        MessageError: Something has the wrong shape, or a variable is not the caller's to set.
        TemplateError: There is no template, or it does not parse.
        TemplateMismatchError: The policy pins others.
        MissingExtraError: Jinja is not installed.
    """
    named: Mapping[str, str] = getattr(ruleset.tokenizer, "named_tokens", {})
    for name in variables:
        if name in _NAMED or name in named:
            raise MessageError(
                f"$.{name}: named tokens come from the tokenizer, so that nobody writes them who may not. Leave it "
                "out; a tokenizer without one needs a template that spells the token."
            )
        if name in _RESERVED:
            raise MessageError(f"$.{name}: this is an argument of its own, not a template's variable.")
        if name in _NOT_HERE:
            raise MessageError(
                f"$.{name}: `encode_chat` has no such argument, and as a template's variable it would do nothing. It "
                "gives ids; `Guard.pretrained` takes what `apply_chat_template` takes."
            )
    chosen = _own_template(ruleset, tools=options.tools is not None) if template is None else template
    return ChatRequest(
        read_chat(messages, options.tools, options.documents, variables),
        read_template(chosen, ruleset.policy),
        ruleset,
        named,
        options,
    )


def _own_template(ruleset: Ruleset, *, tools: bool) -> str:
    """Return the bound tokenizer's chat template; of several, that for tools where there are tools."""
    own = getattr(ruleset.tokenizer, "chat_template", None)
    if isinstance(own, str):
        return own
    if own:
        name = _TOOL_USE if tools and _TOOL_USE in own else "default"
        if name in own:
            return str(own[name])
    raise TemplateError("The tokenizer has no chat template. Pass one: template=…, the Jinja source or a path to it.")
