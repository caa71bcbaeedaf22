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
from guardtok.ruleset import FormKind
from guardtok.scan import find, scan
from guardtok.text import Text, recased
from guardtok.violation import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from guardtok.chat.messages import Chat
    from guardtok.intake import Intake
    from guardtok.records import Report
    from guardtok.ruleset import Ruleset

TEMPLATE_BRANCH = "template_branch"
"""The rule of a field that makes a template write other tokens."""

_TRIED_ALONE = 8
"""So many fields are tried one by one: each is one more rendering, and a chat can have a thousand."""

_SEPARATOR = "\ufdd0"
"""Stands between strings that are searched together; no form holds this noncharacter."""


class _Field(NamedTuple):
    """A string or key that holds forms which its source may not write.

    Attributes:
        value: It.
        intake: The same, taken in.
        findings: The forms.
    """

    value: Text
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
    limit = ruleset.policy.limits.max_violations
    written = _written_by_template(report)
    if not fields or _tokens_without(fields, chat, render, limit) == written:
        return ()
    alone = [field for field in fields[:_TRIED_ALONE] if _tokens_without([field], chat, render, limit) != written]
    return tuple(_report(field, report) for field in alone or fields[:1])


def _fields(chat: Chat, ruleset: Ruleset) -> Iterator[_Field]:
    policy = ruleset.policy
    roles = {message["role"] for message in chat.messages}
    variables = label_chat(chat, roles=roles, declared=policy.sources, named={})
    for text in _texts(list(variables.values())):
        try:
            intake = take_in(text, None, known=ruleset.sources, limits=policy.limits, surrogates=policy.surrogates)
        except GuardtokError:  # It was refused, or is left out by the template: then it decides nothing that is known.
            continue
        found = decide(scan(intake, ruleset), intake, ruleset).findings
        findings = tuple(each for each in found if ruleset.forms[each.match[0]].kind is FormKind.CONTROL)
        if findings:
            yield _Field(text, intake, findings)


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


def _written_by_template(report: Report) -> list[int]:
    """Return the forms that the template wrote as tokens, in order."""
    intake = report.intake
    return [form for form, start, _ in report.decided.allowed if intake.runs[intake.run_at(start)].source == TEMPLATE]


def _tokens_without(
    fields: Collection[_Field], chat: Chat, render: Callable[[Chat], Report], limit: int
) -> list[int] | None:
    """Return the template's tokens where these fields have an inert twin, or None where it refuses the twin."""
    twins = {str.__str__(field.value): _inert(field, limit) for field in fields}
    try:
        return _written_by_template(render(replace(chat, **_replaced(chat, twins))))
    except GuardtokError:
        return None


def _replaced(chat: Chat, twins: dict[str, str]) -> dict[str, Any]:
    def swap(value: Any) -> Any:  # noqa: ANN401 - any JSON value
        match value:
            case str():
                return recased(value, twins[value]) if value in twins else value
            case dict():
                return {swap(key): swap(item) for key, item in value.items()}
            case list():
                return [swap(item) for item in value]
            case tuple():
                return tuple(swap(item) for item in value)
            case _:
                return value

    messages = tuple({**swap(message), "role": message["role"]} for message in chat.messages)
    others = {name: swap(value) for name, value in chat.variables.items()}
    return {"messages": messages, "tools": swap(chat.tools), "documents": swap(chat.documents), "variables": others}


def _inert(field: _Field, limit: int) -> str:
    """Return the field with a letter in the place of each character of its forms."""
    text = field.intake.text
    if len(field.findings) >= limit:  # There may be more of them than were listed.
        return "x" * len(text)
    pieces: list[str] = []
    last = 0
    for _, start, end in (each.match for each in field.findings):
        if start >= last:
            pieces.append(text[last:start])
        pieces.append("x" * max(0, end - max(start, last)))
        last = max(last, end)
    return "".join((*pieces, text[last:]))


def _report(field: _Field, report: Report) -> Report:
    """Return what is to be said of a field: its first form, under a rule of its own."""
    first = field.findings[0]._replace(action=Action.LOG, rule=TEMPLATE_BRANCH)
    return replace(report, intake=field.intake, decided=Decided(findings=(first,), groups=((first, 1),)), others=())
