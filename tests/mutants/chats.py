"""Mutants of what makes prompts of conversations, and of what looks at whole requests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from jinja2 import Environment

from guardtok import Guard
from guardtok.text import Text
from tests.mutants import guards
from tests.test_fuzz_guarded import Bodies

if TYPE_CHECKING:
    from tests.mutants import Patch


class _Beforehand(Guard):
    """Sanitizes what a conversation says, renders it, and parses every form that is in the prompt then."""

    __slots__ = ()

    def encode_chat(self, messages: Any, template: Any = None, *, tools: Any = None, **_: Any) -> Any:  # noqa: ANN401
        environment = Environment()  # noqa: S701 - a prompt is no page
        environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
        made = environment.from_string(template or guards.TEMPLATE).render(
            messages=self.clean(messages), tools=self.clean_tools(tools)
        )
        return self.encode(Text(made, source="template"))

    def clean(self, value: Any) -> Any:  # noqa: ANN401 - JSON
        if isinstance(value, str):
            return self.sanitize(value, source="user").text
        if isinstance(value, dict):
            return {self.clean_key(key): self.clean(inner) for key, inner in value.items()}
        return [self.clean(inner) for inner in value] if isinstance(value, list) else value

    def clean_key(self, key: str) -> str:
        return str(self.sanitize(key, source="user").text)

    def clean_tools(self, tools: Any) -> Any:  # noqa: ANN401 - JSON
        return self.clean(tools)


def check_content_alone(_patch: Patch) -> Guard:
    """Look at what messages say, and not at names, calls and tools."""

    class Mutant(_Beforehand):
        __slots__ = ()

        def clean(self, value: Any) -> Any:  # noqa: ANN401 - JSON
            clean = super().clean
            return [{k: clean(inner) if k == "content" else inner for k, inner in each.items()} for each in value]

        def clean_tools(self, tools: Any) -> Any:  # noqa: ANN401 - JSON
            return tools

    return guards.plain(Mutant)


def ignore_keys(_patch: Patch) -> Guard:
    """Look at every string of a conversation but those that are keys."""

    class Mutant(_Beforehand):
        __slots__ = ()

        def clean_key(self, key: str) -> str:
            return key

    return guards.plain(Mutant)


def check_each_part_alone(_patch: Patch) -> Guard:
    """Look at every string of a conversation, and not at what they are together."""
    return guards.plain(_Beforehand)


def check_before_the_template(_patch: Patch) -> Guard:
    """Look at every string of a conversation, and not at what the template makes of it."""
    return guards.talking(_Beforehand)


def let_ids_through(_patch: Patch) -> Guard:
    """Look at text, and let pass what is none."""

    class Mutant(Bodies):
        __slots__ = ()

        def sanitize_chat(self, body: Any, *, protocol: str) -> Any:  # noqa: ANN401, ARG002 - as of a Guard
            return super().sanitize_chat(body, protocol="openai.chat")

    return guards.requesting(Mutant)
