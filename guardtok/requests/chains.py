"""Which strings of a list a template may put one after another, in the view of each kind of reader.

Servers differ in what of a part they read: some go by its type, some take every `text` that is there, some leave out
what was thought or refused. What one of them skips must not hide what another one joins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Chain: TypeAlias = "list[tuple[Any, Any]]"
"""Where strings stand that may be joined: the list or mapping that holds each, and its index or key there."""

_FIELDS = ("text", "refusal", "thinking")
"""The fields of a part whose strings templates put into the prompt one after another."""

_TYPES = {
    "text": frozenset({None, "text", "input_text", "output_text", "summary_text", "reasoning_text", "reasoning"}),
    "refusal": frozenset({"refusal"}),
    "thinking": frozenset({"thinking", "reasoning"}),
}
"""By field: the types of the parts that have it."""

_SPEAKERS = {
    "developer": "system",
    "function": "tool",
    "ipython": "tool",
}
"""Roles that servers take for others, so that neighbours become one message."""


class _Text(NamedTuple):
    """A string that may be joined: where it stands, the field of its part, and whether the part's type has that."""

    holder: Any
    step: Any
    field: str
    typed: bool


_READERS: tuple[Callable[[_Text], bool], ...] = (
    lambda _: True,
    lambda text: text.typed,
    lambda text: text.typed and text.field != "thinking",
    lambda text: text.field == "text",
    lambda text: text.field == "text" and text.typed,
)


def find_chains(made: list[Any], *, thoughts: bool) -> Iterator[Chain]:
    """Yield the chains of a list of parts, or of messages, whose neighbours with one role become one message.

    Args:
        made: The list.
        thoughts: Whether what was thought may be joined with the rest.
    """
    for run in _runs_of(made):
        texts = run if thoughts else [text for text in run if text.field != "thinking"]
        if len(texts) < 2:  # noqa: PLR2004 - one string has no neighbour
            continue
        if all(text.typed and text.field == "text" for text in texts):
            yield [(text.holder, text.step) for text in texts]
            continue
        known: list[list[_Text]] = []
        for reads in _READERS:
            read = [text for text in texts if reads(text)]
            if len(read) > 1 and read not in known:
                known.append(read)
                yield [(text.holder, text.step) for text in read]


def _runs_of(made: list[Any]) -> Iterator[list[_Text]]:
    run: list[_Text] = []
    last = None
    for index, item in enumerate(made):
        role = item.get("role") if isinstance(item, dict) else None
        role = _SPEAKERS.get(role, role) if isinstance(role, str) else None
        if role != last and run:
            yield run
            run = []
        last = role
        content = item.get("content") if role is not None else None
        if role is None:
            run += _texts_of(made, index, item)
        elif isinstance(content, list):
            run += [text for at, part in enumerate(content) for text in _texts_of(content, at, part)]
        elif isinstance(content, str):
            run.append(_Text(item, "content", "text", typed=True))
    yield run


def _texts_of(made: list[Any], index: int, item: Any) -> list[_Text]:  # noqa: ANN401 - any JSON value
    if isinstance(item, str):
        return [_Text(made, index, "text", typed=True)]
    if not isinstance(item, dict):
        return []
    kind = item.get("type")
    kind = kind if isinstance(kind, str) else None
    return [_Text(item, key, key, kind in _TYPES[key]) for key in _FIELDS if isinstance(item.get(key), str)]
