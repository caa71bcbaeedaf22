"""Whole request bodies around untrusted parts, and what is judged of a guard that sanitizes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guardtok.fuzz.attacks import Oracle
from guardtok.fuzz.shapes import CHATS
from guardtok.violation import Action, broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from guardtok.fuzz.case import Case
    from guardtok.fuzz.judge import Judgement

_PREFIX = "request: "
PROMPT_IDS = "request: ids"
"""The shape of a body whose prompt is the id of the token that the case carries."""

BODIES = (PROMPT_IDS, *(name.replace("chat: ", _PREFIX) for name in CHATS))
"""The shapes of whole requests: the conversations, as OpenAI's API has them, and ids in the place of a prompt."""


def build_body(case: Case, ids: Mapping[str, int]) -> tuple[dict[str, Any], str]:
    """Return the body that a case stands for, and its protocol; `ids` are those of the control tokens."""
    if case.shape == PROMPT_IDS:
        return {"model": "m", "prompt": [ids.get(case.form, 0)] * case.repeat}, "openai.completions"
    messages, tools = CHATS[case.shape.replace(_PREFIX, "chat: ")](tuple(part * case.repeat for part in case.parts))
    return {"model": "m", "messages": messages, **({} if tools is None else {"tools": tools})}, "openai.chat"


def judge_body(
    case: Case, ids: Mapping[str, int], sanitize: Callable[[dict[str, Any], str], Any], made: Judgement
) -> None:
    """Judge what a guard makes of a body: nothing in it spells what was refused, and again it changes nothing."""
    body, protocol = build_body(case, ids)
    done = sanitize(body, protocol)
    if done is None:
        return
    made.ran |= {Oracle.LEAK, Oracle.SPLIT}
    asked = [each for each in done.violations if each.action in {Action.ESCAPE, Action.STRIP, Action.BLOCK}]
    if case.shape == PROMPT_IDS:
        if case.form in ids and not done.violations:
            made.report(Oracle.LEAK, "a request's reserved ids go on unseen", "a refusal or a record", done.body)
        return
    # Taking one token out may leave what is a token elsewhere, of which the policy need not say anything.
    token = broken(case.form)
    exact = any(each.form == "exact" and each.token == token and str(each.mode) == "enforce" for each in asked)
    if exact and any(case.form in text for text in _strings(done.body)):
        made.report(Oracle.LEAK, "a sanitized request spells a control token", "a broken form", case.form)
    again = sanitize(done.body, protocol)
    if again is not None and again.body != done.body:
        made.report(Oracle.SPLIT, "sanitizing a request again changes it", done.body, again.body)


def _strings(value: object) -> Iterator[str]:
    """Yield every string and every key of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
