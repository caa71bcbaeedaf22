"""What LiteLLM hands to a guardrail: texts, messages, tools and calls, which overlap, judged as one body.

LiteLLM takes the texts out of a request and hands over the messages beside them. A text that stands in a message has
that message's source; one that stands in none is `unknown`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from guardtok.gateway.decision import Call
    from guardtok.gateway.gatekeeper import Gatekeeper, Outcome
    from guardtok.gateway.live import Snapshot

    Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a guardrail is handed; None for what is not there.

    Attributes:
        texts: Texts, of which most stand in the messages too.
        messages: Messages as OpenAI's Chat Completions have them.
        tools: Definitions of tools.
        tool_calls: Calls, of which those of a request stand in the messages too.
    """

    texts: list[str] | None = None
    messages: list[Message] | None = None
    tools: list[Any] | None = None
    tool_calls: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """A decision, and what goes on.

    Attributes:
        outcome: The decision.
        inputs: What goes on; as it came where it is refused.
        loose_calls: Whether calls were changed that stand in no message.
    """

    outcome: Outcome
    inputs: Inputs
    loose_calls: bool


def judge_request(gatekeeper: Gatekeeper, inputs: Inputs, call: Call, snapshot: Snapshot | None = None) -> Judged:
    """Decide about what goes to a model."""
    messages, texts, calls = inputs.messages or [], inputs.texts or [], inputs.tool_calls or []
    if not messages and not calls and inputs.tools is None:
        return _judge_prompts(gatekeeper, inputs, call, snapshot)
    known_texts = _places_of_texts(messages)
    known_calls = _places_of_calls(messages)
    aligned = [text for _, text in _texts_in(messages)] == texts
    known = [aligned or text in known_texts for text in texts]
    loose_calls = [one for one in calls if _key(one) not in known_calls]
    body: Message = {"messages": [*messages]}
    if loose_calls:
        body["messages"].append({"role": "assistant", "content": None, "tool_calls": loose_calls})
    if inputs.tools is not None:
        body["tools"] = inputs.tools
    if not all(known):
        body["texts"] = ["" if is_known else text for is_known, text in zip(known, texts, strict=True)]
    outcome = gatekeeper.judge_request(body, "openai.chat", call, snapshot)
    if outcome.refusal is not None:
        return Judged(outcome, inputs, loose_calls=False)
    made = outcome.body["messages"]
    new_texts = _texts_in(made)
    if aligned:
        went = [text for _, text in new_texts][: len(texts)]
    else:
        by_place = dict(new_texts)
        went = [
            by_place[known_texts[text]] if is_known else outcome.body["texts"][index]
            for index, (is_known, text) in enumerate(zip(known, texts, strict=True))
        ]
    rest = iter(made[len(messages)]["tool_calls"] if loose_calls else ())
    new_calls = [_at(made, known_calls[_key(one)]) if _key(one) in known_calls else next(rest) for one in calls]
    changed = bool(loose_calls) and made[len(messages)]["tool_calls"] != loose_calls
    return Judged(
        outcome,
        replace(
            inputs,
            texts=None if inputs.texts is None else went,
            messages=None if inputs.messages is None else made[: len(messages)],
            tools=outcome.body.get("tools"),
            tool_calls=None if inputs.tool_calls is None else new_calls,
        ),
        loose_calls=changed,
    )


def _judge_prompts(gatekeeper: Gatekeeper, inputs: Inputs, call: Call, snapshot: Snapshot | None) -> Judged:
    # Texts without messages are what LiteLLM makes of a completion's prompts.
    outcome = gatekeeper.judge_request({"prompt": inputs.texts or []}, "openai.completions", call, snapshot)
    if outcome.refusal is not None or inputs.texts is None:
        return Judged(outcome, inputs, loose_calls=False)
    return Judged(outcome, replace(inputs, texts=outcome.body["prompt"]), loose_calls=False)


def judge_reply(gatekeeper: Gatekeeper, inputs: Inputs, call: Call, snapshot: Snapshot | None = None) -> Judged:
    """Decide about what came from a model."""
    texts, messages, calls = inputs.texts or [], inputs.messages or [], inputs.tool_calls or []
    said: list[Any] = [{"role": "assistant", "content": text} for text in texts]
    said += messages
    if calls:
        said.append({"role": "assistant", "content": None, "tool_calls": calls})
    body = {"choices": [{"index": index, "message": message} for index, message in enumerate(said)]}
    outcome = gatekeeper.judge_reply(body, "openai.chat", call, snapshot)
    if outcome.refusal is not None:
        return Judged(outcome, inputs, loose_calls=False)
    made = [choice["message"] for choice in outcome.body["choices"]]
    new_calls = made[-1]["tool_calls"] if calls else calls
    return Judged(
        outcome,
        replace(
            inputs,
            texts=None if inputs.texts is None else [one["content"] for one in made[: len(texts)]],
            messages=None if inputs.messages is None else made[len(texts) :][: len(messages)],
            tools=None,  # No part of a reply: they are not judged, so they are not given back.
            tool_calls=None if inputs.tool_calls is None else new_calls,
        ),
        loose_calls=new_calls != calls,
    )


def _texts_in(messages: Sequence[Any]) -> list[tuple[tuple[int, int], str]]:
    """Return the texts of messages in LiteLLM's order, each with its place: the message and the part in it."""
    return list(_walk_texts(messages))


def _walk_texts(messages: Sequence[Any]) -> Iterator[tuple[tuple[int, int], str]]:
    for index, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            yield (index, -1), content
        elif isinstance(content, list):
            for number, part in enumerate(content):
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    yield (index, number), part["text"]


def _places_of_texts(messages: Sequence[Any]) -> dict[str, tuple[int, int]]:
    """Return where each text stands first, of those that have one source: all messages with it are of one role."""
    places: dict[str, tuple[int, int]] = {}
    roles: dict[str, set[str]] = defaultdict(set)
    for place, text in _walk_texts(messages):
        places.setdefault(text, place)
        roles[text].add(json.dumps(messages[place[0]].get("role")))
    return {text: place for text, place in places.items() if len(roles[text]) == 1}


def _places_of_calls(messages: Sequence[Any]) -> dict[str, tuple[int, int]]:
    found = {}
    for index, message in enumerate(messages):
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        for number, call in enumerate(calls if isinstance(calls, list) else ()):
            found[_key(call)] = index, number
    return found


def _key(value: object) -> str:
    # Bodies were bounded in depth before they came here, and hold JSON values.
    return json.dumps(value, sort_keys=True)


def _at(messages: Sequence[Any], place: tuple[int, int]) -> Any:  # noqa: ANN401 - a call
    return messages[place[0]]["tool_calls"][place[1]]
