"""Conversations without any attack in them, of every shape that the templates know.

They are what drift is measured on, and the frames that `benchmarks.attacks` puts its payloads into.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Message = dict[str, Any]

TEXTS = (
    "What is the capital of France?",
    "Schreibe mir ein Gedicht über Äpfel — und zwar \N{OPEN MAILBOX WITH RAISED FLAG} schnell!",
    "  leading and trailing white space \n\n",
    "def f(x):\n\treturn {'a': [1, 2], \"b\": x < 3 and x > 1}\n",
    "東京の天気は。\N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-5} 세계 мир",
    "<b>bold</b> &amp; <i>a</i> | [link](x) {json: true} \\n $100",
)

ANSWERS = (
    "Paris.",
    "Ein Apfel fällt, der Tag ist hell.\n\n- eins\n- zwei",
    '`f` returns a dictionary: {"a": [1, 2]}',
)

FIXED = {"functions": "[]", "datetime": "2026-01-01"}
"""Variables that firefunction_v2 cannot do without."""


@dataclass(frozen=True, slots=True)
class Chat:
    """What `apply_chat_template` is called with.

    Attributes:
        name: Which shape it has.
        messages: The conversation.
        tools: Tool definitions, or None.
        documents: Documents, or None.
        variables: Other variables of the template.
    """

    name: str
    messages: list[Message]
    tools: list[Message] | None = None
    documents: list[Message] | None = None
    variables: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments beside the messages."""
        return {"tools": self.tools, "documents": self.documents, **FIXED, **self.variables}


def user(content: object) -> Message:
    """Return a user's message."""
    return {"role": "user", "content": content}


def assistant(content: object, **more: object) -> Message:
    """Return an assistant's message."""
    return {"role": "assistant", "content": content, **more}


def system(content: object) -> Message:
    """Return a system message."""
    return {"role": "system", "content": content}


def text_parts(*texts: str) -> list[Message]:
    """Return a content of several text parts."""
    return [{"type": "text", "text": text} for text in texts]


def make_tool(
    name: str = "get_weather", description: str = "Return the weather.", key: str = "city", value: str = "celsius"
) -> Message:
    """Return a tool's definition as JSON Schema."""
    properties = {
        key: {"type": "string", "description": "A city, e.g. Zürich"},
        "unit": {"type": "string", "enum": [value, "kelvin"], "description": "The unit"},
    }
    parameters = {"type": "object", "properties": properties, "required": [key]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def call(arguments: object, name: str = "get_weather", id_: str = "abcdefghi") -> Message:
    """Return an assistant's message that calls a tool."""
    function = {"name": name, "arguments": arguments}
    return assistant("", tool_calls=[{"id": id_, "type": "function", "function": function}])


def result(content: object, id_: str = "abcdefghi", name: str = "get_weather") -> Message:
    """Return a tool's result."""
    return {"role": "tool", "content": content, "tool_call_id": id_, "name": name}


def benign_chats() -> Iterator[Chat]:
    """Yield conversations of every shape. Each template refuses some of them."""
    weather = [make_tool()]
    for number, text in enumerate(TEXTS):
        answer = ANSWERS[number % len(ANSWERS)]
        prompt = {"add_generation_prompt": True}
        yield Chat("one turn", [user(text)], variables=prompt)
        yield Chat("one turn, tools", [user(text)], tools=weather, variables=prompt)
        yield Chat("system", [system("You are terse. " + text), user(text)], variables=prompt)
        yield Chat("history", [user(text), assistant(answer), user("And then?")], variables=prompt)
        yield Chat("whole history", [system("Be kind."), user(text), assistant(answer), user("More."), assistant(text)])
        yield Chat("parts", [user(text_parts(text, "and", answer))], variables=prompt)
        yield Chat("thoughts in text", [user(text), assistant(f"Hm, {answer}\n\nSo: {text}"), user("ok")])
    yield Chat("image", [user([{"type": "image"}, {"type": "text", "text": "What is this?"}])])
    yield Chat("two images", [user([{"type": "image"}, *text_parts("and"), {"type": "image"}])])
    yield Chat("thinking part", [user("hi"), assistant([{"type": "thinking", "thinking": "hm"}, *text_parts("hello")])])
    reasons = [user("1+1?"), assistant("2", reasoning_content="One and one.\nTwo."), user("sure?")]
    yield Chat("reasoning", reasons)
    yield Chat("reasoning, last", reasons[:2])
    yield Chat("thinking off", [user("hi")], variables={"add_generation_prompt": True, "enable_thinking": False})
    yield Chat("thinking on", [user("hi")], variables={"add_generation_prompt": True, "thinking": True})
    for tools in (weather, [make_tool(), make_tool("set_timer", "Set a timer — for Äpfel.", "minutes", "5")]):
        asked = [system("Use tools."), user("Weather in Zürich?")]
        arguments = {"city": "Zürich <b>", "unit": "celsius"}
        yield Chat("tools", asked, tools=tools, variables={"add_generation_prompt": True})
        yield Chat("call", [*asked, call(arguments)], tools=tools)
        yield Chat("call, result", [*asked, call(arguments), result('{"t": 21}')], tools=tools)
        whole = [*asked, call(arguments), result('{"t": 21}'), assistant("It is 21 °C."), user("Thanks.")]
        yield Chat("call, result, answer", whole, tools=tools, variables={"add_generation_prompt": True})
        yield Chat("without system", whole[1:], tools=tools)
        yield Chat("arguments as text", [asked[1], call('{"city": "Zürich"}'), result("21")], tools=tools)
        yield Chat(
            "two results", [*asked, call(arguments), result("21"), result("22"), assistant("Both.")], tools=tools
        )
    yield Chat("documents", [user("Who?")], documents=[{"title": "A title", "text": "Some text, <b>bold</b>."}])
    yield Chat("name", [{**user("hi"), "name": "Ada"}])
    yield Chat("nothing", [user("")])
