"""What is found in a rendered conversation, and what of it the assistant generated."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from guardtok.chat.branch import find_branches
from guardtok.chat.json_text import expand
from guardtok.chat.training import find_trained
from guardtok.encode import encode
from guardtok.intake import SURROGATES
from guardtok.violation import Span

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.chat.render import Rendered
    from guardtok.chat.request import ChatRequest
    from guardtok.encoded import Encoded
    from guardtok.examine import Examiner
    from guardtok.records import Report
    from guardtok.text import Text


def encode_request(request: ChatRequest, examiner: Examiner, request_id: str | None) -> Encoded:
    """Render a conversation, examine the prompt and encode it; see `Guard.encode_chat`."""
    ruleset, rendered = request.ruleset, request.render()
    look = partial(
        inspect_chat, request, rendered, partial(examiner.inspect, ruleset, source=None, request_id=request_id)
    )
    report = examiner.examine(ruleset, rendered.text, None, request_id, look)
    return encode(report, partial(find_generated, request, rendered, report))


def inspect_chat(request: ChatRequest, rendered: Rendered, inspect: Callable[[Text], Report]) -> Report:
    """Return what is found in a rendered conversation, and which of its fields move the template's own tokens.

    Args:
        request: The conversation.
        rendered: The prompt that it rendered to.
        inspect: Finds and decides the forms in a text.
    """
    report = inspect(rendered.text)
    if report.decided.groups:
        # Only now does it matter which string of a dumped tool the form stands in.
        detailed = expand(rendered.text)
        report = report if detailed is rendered.text else inspect(detailed)
    branches = find_branches(request.chat, report, lambda chat: inspect(request.render(chat).text), request.ruleset)
    return replace(report, others=branches) if branches else report


def find_generated(request: ChatRequest, rendered: Rendered, report: Report) -> tuple[Span, ...]:
    """Return what the assistant generated, in characters of the prompt as it was taken in."""
    if not request.template.marks_generation:
        return find_trained(request.chat, report, request.opening)
    if rendered.text == report.intake.text:
        return rendered.generated
    joined = _joined_pairs(rendered.text, report.intake.text)
    return tuple(Span(_moved(span.start, joined), _moved(span.end, joined)) for span in rendered.generated)


def _joined_pairs(text: str, repaired: str) -> list[int]:
    """Return where the surrogate pairs stood in `text` that became one character each."""
    joined: list[int] = []
    for found in SURROGATES.finditer(text):
        if repaired[found.start() - len(joined)] > "\uffff":  # Anything but a pair became U+FFFD.
            joined.append(found.start())
    return joined


def _moved(position: int, joined: list[int]) -> int:
    return position - bisect_left(joined, position)
