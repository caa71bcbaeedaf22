"""A conversation as the caller gives it → plain data that a template can see, labelled field by field.

Messages come over the network. What has the wrong shape is refused here, by message and field, and not somewhere in a
template; what is no JSON value (an image, a tensor) becomes a placeholder, so that no template reaches its methods.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from guardtok.chat.labelled import wrap
from guardtok.chat.labels import DOCUMENTS, ROLES, TEMPLATE, TOOLS, VARIABLES, label_message, source_of_role
from guardtok.errors import GuardtokError, MessageError, MissingExtraError, is_failure, near_match
from guardtok.text import Text

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from guardtok.chat.labels import Label

MAX_DEPTH = 100
"""Lists and mappings inside one another."""

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's reasoning: templates read one, gpt-oss's another. All are filled, as in transformers."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, of plain data: dictionaries, lists, strings, numbers, booleans and None.

    Attributes:
        messages: The messages.
        tools: The tools, or None.
        documents: The documents, or None.
        variables: Other variables of the template, by name.
        mixed: Whether a `Text` of the caller's is among the strings.
        strings: Every string and key in it.
    """

    messages: tuple[dict[str, Any], ...]
    tools: list[Any] | None
    documents: list[Any] | None
    variables: Mapping[str, Any]
    mixed: bool
    strings: tuple[str, ...] = field(repr=False)


def read_chat(
    messages: object,
    tools: object,
    documents: object,
    variables: Mapping[str, object],
) -> Chat:
    """Check a conversation and copy it to plain data, so that nobody changes it while it is rendered.

    Args:
        messages: Mappings, or objects with `model_dump` or of a dataclass, with a `role` and what it said.
        tools: Mappings, or Python functions, which transformers turns into schemas; or None.
        documents: Mappings, or None.
        variables: Values for the template's other variables.

    Raises:
        MessageError: Something has the wrong shape.
        MissingExtraError: A tool is a function and transformers is not installed.
    """
    reader = _Reader()
    read = tuple(
        _read_message(reader.read_whole(message, f"$.messages[{index}]"), index)
        for index, message in enumerate(_listed(_conversation(messages), "$.messages", "message"))
    )
    if not read:
        raise MessageError("$.messages: a conversation has at least one message.")
    listed = None
    if tools is not None:
        schemas = [_schema(tool) for tool in _listed(tools, "$.tools", "tool")]
        listed = [
            _mapping(reader.read_whole(tool, f"$.tools[{index}]"), f"$.tools[{index}]")
            for index, tool in enumerate(schemas)
        ]
    papers = None
    if documents is not None:
        papers = [
            _mapping(reader.read_whole(paper, f"$.documents[{index}]"), f"$.documents[{index}]")
            for index, paper in enumerate(_listed(documents, "$.documents", "document"))
        ]
    others = {name: reader.read_whole(value, f"$.{name}") for name, value in variables.items()}
    return Chat(read, listed, papers, others, reader.mixed, tuple(reader.strings))


def label_chat(
    chat: Chat, *, roles: Collection[str], declared: Mapping[str, object], named: Mapping[str, str]
) -> dict[str, Any]:
    """Return the template's variables: every string and key under its own source and path.

    Args:
        chat: The conversation.
        roles: The roles that the template or the policy names, besides those that every template may be given.
        declared: The sources that the policy knows.
        named: The tokenizer's named tokens, `bos_token` and its kin.

    Raises:
        MessageError: A role that nobody names.
    """
    mixed = chat.mixed
    labelled: list[Any] = []
    for index, message in enumerate(chat.messages):
        role, path = str.__str__(message["role"]), f"$.messages[{index}]"
        if role not in ROLES and role not in roles:
            known = sorted({*ROLES, *roles})
            raise MessageError(
                f"{path}.role: neither the template nor the policy names this role.{near_match(role, known)} "
                f"Known are {', '.join(known)}; name others under `chat: {{roles: […]}}` in the policy."
            )
        # The role was found in a set of the template's or the policy's: what is written of it is theirs.
        checked = {**message, "role": Text(role, source=TEMPLATE, path=f"{path}.role")}
        labelled.append(wrap(checked, label_message(source_of_role(role, declared)), path, mixed=mixed))

    def values(value: list[Any] | None, label: Label, path: str) -> Any:  # noqa: ANN401 - any JSON value
        return wrap(value, label, path, mixed=mixed)

    return {
        **{name: Text(token, source=TEMPLATE, path=f"$.{name}") for name, token in named.items()},
        **{name: wrap(value, VARIABLES, f"$.{name}", mixed=mixed) for name, value in chat.variables.items()},
        "messages": labelled,
        "tools": values(chat.tools, TOOLS, "$.tools"),
        "documents": values(chat.documents, DOCUMENTS, "$.documents"),
    }


def _conversation(messages: object) -> object:
    """Return the messages of a conversation object of transformers', or what was given in place of one."""
    return messages if isinstance(messages, (list, tuple)) else getattr(messages, "messages", messages)


def _listed(value: object, path: str, noun: str) -> Sequence[object]:
    if not isinstance(value, (list, tuple)):
        raise MessageError(f"{path}: a list of {noun}s is needed, not {_kind(value)}.")
    return value


def _mapping(value: object, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MessageError(f"{path}: a mapping is needed, not {_kind(value)}.")
    return value


def _read_message(value: object, index: int) -> dict[str, Any]:
    path = f"$.messages[{index}]"
    # Clients send null for what a message does not have, and templates would write `None`.
    message = {key: item for key, item in _mapping(value, path).items() if item is not None}
    if not isinstance(message.get("role"), str):
        raise MessageError(
            f"{path}.role: a message needs a role, such as 'user'; this one has {_kind(message.get('role'))}."
        )
    content = message.get("content", "")
    if not isinstance(content, (str, list, tuple, dict)):
        raise MessageError(f"{path}.content: content is a string or a list of parts, not {_kind(content)}.")
    if not isinstance(content, (str, dict)):
        for number, part in enumerate(content):
            if not isinstance(part, (str, dict)):
                raise MessageError(f"{path}.content[{number}]: a part is a mapping or a string, not {_kind(part)}.")
    calls = message.get("tool_calls", [])
    for number, call in enumerate(_listed(calls, f"{path}.tool_calls", "tool call")):
        _mapping(call, f"{path}.tool_calls[{number}]")
    reasoning = next((message[name] for name in REASONING if name in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _schema(tool: object) -> object:
    """Return a tool's schema; transformers writes one for a Python function."""
    import inspect

    if not (inspect.isfunction(tool) or inspect.ismethod(tool)):
        return tool
    try:
        from transformers.utils.chat_template_utils import get_json_schema
    except ImportError:
        raise MissingExtraError(
            "A tool that is a Python function needs transformers to write its schema: pip install 'guardtok[hf]'. "
            "Or give the schema as a mapping."
        ) from None
    try:
        return get_json_schema(tool)
    except Exception as error:  # noqa: BLE001 - whatever it raises may quote the function
        failure = type(error).__name__
    raise MessageError(
        f"$.tools: transformers makes no schema of a function ({failure}). Give the schema as a mapping."
    )


def _kind(value: object) -> str:
    return "none" if value is None else f"a value of type {type(value).__name__}"


class _Reader:
    """Copies values to exact JSON types, and remembers the strings, and whether a `Text` was among them."""

    def __init__(self) -> None:
        self.mixed = False
        self.strings: list[str] = []

    def read_whole(self, value: object, path: str) -> Any:  # noqa: ANN401 - any JSON value
        """Read a value of the caller's; what code of its own raises may quote it, and is not passed on."""
        try:
            return self.read(value, path)
        except GuardtokError:
            raise
        except BaseException as error:
            if not is_failure(error):
                raise
            failure = type(error).__name__
        raise MessageError(f"{path}: it cannot be read ({failure}). Give dictionaries, lists and strings.")

    def read(self, value: Any, path: str, depth: int = 0) -> Any:  # noqa: ANN401, PLR0911 - one case for each type
        kind = type(value)
        if kind is str:
            self.strings.append(value)
            return value
        if value is None or kind in (bool, int, float):
            return value
        if depth > MAX_DEPTH:
            raise MessageError(f"{path}: more than {MAX_DEPTH} lists and mappings inside one another.")
        if kind is dict or isinstance(value, Mapping):
            return self._read_mapping(value, path, depth + 1)
        if kind is list:
            return [self.read(item, path, depth + 1) for item in value]
        if isinstance(value, str):
            return self._read_string(value)
        if isinstance(value, tuple):
            return tuple(self.read(item, path, depth + 1) for item in value)
        if isinstance(value, list):
            return [self.read(item, path, depth + 1) for item in value]
        return self._read_object(value, path, depth)

    def _read_mapping(self, value: Mapping[Any, Any], path: str, depth: int) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for given, item in value.items():
            key = given
            # Nearly everything is a plain string, and ten tools have hundreds: they are read here, without a call.
            if type(key) is str:
                self.strings.append(key)
            else:
                key = self._key(key, path)
            if type(item) is str:
                self.strings.append(item)
                made[key] = item
            else:
                made[key] = self.read(item, path, depth)
        return made

    def _read_string(self, value: str) -> str:
        self.strings.append(value)
        if isinstance(value, Text):
            self.mixed = True
            return value
        return str.__str__(value)

    def _key(self, key: Any, path: str) -> Any:  # noqa: ANN401 - any JSON key
        if isinstance(key, str):
            return self._read_string(key)
        if key is None or type(key) in (bool, int, float):
            return key
        raise MessageError(f"{path}: a key is a string, not {_kind(key)}.")

    def _read_object(self, value: Any, path: str, depth: int) -> Any:  # noqa: ANN401 - any object
        if isinstance(value, int):
            return int.__int__(value)
        if isinstance(value, float):
            return float.__float__(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {
                each.name: self.read(getattr(value, each.name), path, depth + 1) for each in dataclasses.fields(value)
            }
        if callable(getattr(value, "model_dump", None)):
            return self.read(value.model_dump(), path, depth + 1)
        # A NumPy scalar, without asking for NumPy.
        if (
            type(value).__module__ == "numpy"
            and callable(getattr(value, "item", None))
            and getattr(value, "ndim", 1) == 0
        ):
            return self.read(value.item(), path, depth + 1)
        return f"<{type(value).__name__}>"
