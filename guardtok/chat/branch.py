"""Fields that make a template write other tokens: seen by rendering once more with an inert twin in their place.

`{% if '</think>' in content %}` lets whoever writes the content decide which of its own tokens a template writes, and
where. No token is forged by that, and nothing the policy forbids comes out; but an operator wants to know. So where a
field holds a form that its source may not write, the conversation is rendered again with the form's characters replaced
by others. If the template then writes other tokens, the field is reported.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from guardtok.chat.labelled import LabelledDict, LabelledList
from guardtok.chat.labels import TEMPLATE
from guardtok.chat.messages import label_chat
from guardtok.decide import Decided, Finding, decide
from guardtok.errors import GuardtokError
from guardtok.intake import take_in
from guardtok.records import Report
from guardtok.ruleset import FormKind
from guardtok.scan import find, scan
from guardtok.text import Text
from guardtok.violation import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from guardtok.chat.messages import Chat
    from guardtok.intake import Intake
    from guardtok.ruleset import Ruleset

TEMPLATE_BRANCH = "template_branch"
"""The rule of a field that makes a template write other tokens."""

_TRIED_ALONE = 8
"""So many fields are tried one by one: each is one more rendering, and a chat can have a thousand."""

_SEPARATOR = "\ufdd0"
"""Stands between strings that are searched together; no form holds this noncharacter."""


class _Field(NamedTuple):
    """A string or key that holds forms which its source may not write."""

    path: str
    intake: Intake
    findings: tuple[Finding, ...]


def find_branches(chat: Chat, report: Report, render: Callable[[Chat], Report], ruleset: Ruleset) -> tuple[Report, ...]:
    """Return a report for each field that makes the template write other tokens.

    Args:
        chat: The conversation.
        report: What was found in the prompt that it rendered to.
        render: Renders a conversation and says what is found in it.
        ruleset: What its sources may do.
    """
    data = _SEPARATOR.join(map(str.__str__, chat.strings)).encode("utf-8", "replace")
    if not find(data, ruleset.automata):
        return ()
    fields = list(_fields(chat, ruleset))
    written = _written_by_template(report)
    if not fields or _tokens_without(fields, chat, render) == written:
        return ()
    alone = [field for field in fields[:_TRIED_ALONE] if _tokens_without([field], chat, render) != written]
    return tuple(_report(field, report) for field in alone or fields[:1])


def _fields(chat: Chat, ruleset: Ruleset) -> Iterator[_Field]:
    policy = ruleset.policy
    roles = {message["role"] for message in chat.messages}
    variables = label_chat(chat, roles=roles, declared=policy.sources, named={})
    limits = replace(policy.limits, max_violations=max(policy.limits.max_violations, 1))
    for text in _texts(list(variables.values())):
        try:
            intake = take_in(text, None, known=ruleset.sources, limits=limits, surrogates=policy.surrogates)
        except GuardtokError:  # It was refused, or is left out by the template: then it decides nothing that is known.
            continue
        found = decide(scan(intake, ruleset), intake, ruleset).findings
        findings = tuple(each for each in found if ruleset.forms[each.match[0]].kind is FormKind.CONTROL)
        if findings:
            yield _Field(text.runs[0].path, intake, findings)


def _texts(value: Any) -> Iterator[Text]:  # noqa: ANN401 - any labelled value
    """Yield every string and key of a labelled value."""
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, Text):
            if each:
                yield each
        elif isinstance(each, LabelledDict):
            todo += [inner for pair in reversed(each.items()) for inner in reversed(pair)]
        elif isinstance(each, (LabelledList, list, tuple)):
            todo += [*each][::-1]
