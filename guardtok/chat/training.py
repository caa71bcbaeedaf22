"""Which characters of a prompt a model is trained on: what the assistant generated, and nothing else.

A template that marks it (`{% generation %}`) is believed. Any other is asked in two ways: the labels say which
characters are an assistant message's, and the template's own generation prompt says where a turn begins. What the
template wrote from there on is the assistant's call syntax, and the token that ends the turn is part of it: a model
that never sees that one does not learn to stop.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from guardtok.chat.labels import TEMPLATE
from guardtok.text import UNKNOWN
from guardtok.tokenizer import Role
from guardtok.violation import Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from guardtok.chat.messages import Chat
    from guardtok.intake import Intake
    from guardtok.records import Report
    from guardtok.text import Run

_MESSAGE = re.compile(r"\$\.messages\[([0-9]{1,9})\]")
_GENERATED = frozenset({"assistant", "name", "tool_arguments", UNKNOWN})
"""The sources of what stands in an assistant's message, unless the caller's own `Text` says that another wrote it."""
_HEADERS = frozenset({Role.TURN, Role.HEADER})
_ENDS = frozenset({Role.TURN, Role.EOS})
_CLOSING = ("</", "[/")
"""What the tokens that close an element begin with."""
_START, _END = attrgetter("start"), attrgetter("end")


class _Token(NamedTuple):
    """A control token that the template wrote."""

    form: str
    role: Role | None
    start: int
    end: int


def find_trained(chat: Chat, report: Report, opening: Callable[[], str]) -> tuple[Span, ...]:
    """Return the stretches to train on, in characters of the prompt as it was taken in.

    Args:
        chat: The conversation.
        report: What was found in the prompt that it rendered to.
        opening: Returns what the template writes to open an assistant's turn; empty where it writes nothing.
    """
    intake, tokens = report.intake, list(_template_tokens(report))
    spoken = {number for number, message in enumerate(chat.messages) if message["role"] == "assistant"}
    stretches = list(_stretches(intake.runs))
    spans: list[Span] = []
    prompt: str | None = None
    for number, (message, start, end) in enumerate(stretches):
        if message not in spoken:
            continue
        prompt = opening() if prompt is None else prompt
        before = stretches[number - 1][2] if number else 0
        after = stretches[number + 1][1] if number + 1 < len(stretches) else len(intake.text)
        header, footer = _between(tokens, before, start), _between(tokens, end, after)
        spans.append(Span(_begin(intake, before, start, prompt, header), _end(end, prompt, footer)))
    return tuple(spans)


def _template_tokens(report: Report) -> Iterator[_Token]:
    forms, intake = report.ruleset.forms, report.intake
    eos = getattr(report.ruleset.tokenizer, "named_tokens", {}).get("eos_token")
    for form, start, end in report.decided.allowed:
        if intake.runs[intake.run_at(start)].source == TEMPLATE:
            text, role = forms[form].text, forms[form].role
            yield _Token(text, Role.EOS if text == eos else role, start, end)


def _between(tokens: Sequence[_Token], low: int, high: int) -> Sequence[_Token]:
    """Return the tokens that lie between two characters; none overlaps another, so their ends ascend too."""
    return tokens[bisect_left(tokens, low, key=_START) : bisect_right(tokens, high, key=_END)]


def _stretches(runs: Sequence[Run]) -> Iterator[tuple[int | None, int, int]]:
    """Yield message, start and end of every stretch that one message, or anything else that was passed in, wrote.

    What nobody is known to have written between two parts of one message belongs to the stretch.
    """
    written = [(_message_of(run), run.start, run.end) for run in runs if run.path and run.source != TEMPLATE]
    for message, group in groupby(written, key=lambda each: each[0]):
        parts = list(group)
        yield message, parts[0][1], parts[-1][2]


def _message_of(run: Run) -> int | None:
    found = _MESSAGE.match(run.path) if run.source in _GENERATED else None
    return int(found[1]) if found else None


def _begin(intake: Intake, before: int, start: int, prompt: str, header: Sequence[_Token]) -> int:
    """Return where the turn begins, between what was written before it and its first word."""
    # A template may open a new turn with more than it writes into an old one (`<think>`): what both have counts, if it
    # is a token at least.
    shared = [prompt.find(token.form) + len(token.form) for token in header if token.form in prompt]
    least = min(shared, default=len(prompt.rstrip()))
    for size in range(len(prompt), max(least, 1) - 1, -1):
        at = intake.text.rfind(prompt[:size], before, start)
        # What lost its label may be anybody's, and whoever wrote it would say where training begins.
        while at >= 0 and not _is_templates(intake, at, at + size):
            at = intake.text.rfind(prompt[:size], before, at + size - 1)
        if at >= 0:
            return at + size
    return max((token.end for token in header if token.role in _HEADERS), default=start)


def _is_templates(intake: Intake, start: int, end: int) -> bool:
    runs = intake.runs[intake.run_at(start) : intake.run_at(end - 1) + 1]
    return all(run.source == TEMPLATE for run in runs)


def _end(end: int, prompt: str, footer: Sequence[_Token]) -> int:
    """Return where the turn ends: behind the token that says so, where one follows its last word."""
    ending = next((token for token in footer if token.role in _ENDS), None)
    if ending is None:
        # Some families end a call by opening its result (GLM): what closes the call, and the token behind that.
        closed = [number for number, token in enumerate(footer) if token.form.startswith(_CLOSING)]
        last = footer[closed[-1] : closed[-1] + 2] if closed else ()
        return max((token.end for token in last if token.form not in prompt), default=end)
    # A token that opens turns ends none.
    return end if ending.form in prompt else ending.end
