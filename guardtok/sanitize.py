"""The only mint of `Sanitized`: text that goes on as text, with no form in it that its source may not write.

The threat is text that is safe alone and not beside other text: `<|im_` and `start|>` are both clean. So what was
sanitized is a value of its own, which only joins with its like and looks at the seam, and which is a string only where
somebody says `str(…)`. Nothing in the text says what was changed, because whatever can be read there can be forged: the
edits are kept beside it.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import partial
from secrets import token_bytes
from typing import TYPE_CHECKING, Any, Protocol

from guardtok.breaking import escaped_forms
from guardtok.decide import Window, decide
from guardtok.edits import Edit, Editor
from guardtok.encode import encode_ordinary
from guardtok.errors import PolicyError, Problem, RefusedError, TokenizerMismatchError, VerificationError
from guardtok.intake import SURROGATES, Intake
from guardtok.lookalikes import add_disguises, add_lookalikes, longest_disguise, look
from guardtok.records import Report
from guardtok.scan import scan
from guardtok.text import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardtok.beginnings import Beginnings
    from guardtok.breaking import Breaker
    from guardtok.ruleset import Ruleset
    from guardtok.text import Text
    from guardtok.violation import Violation

_MINT = object()
_STILL_THERE = (
    "A form that the policy does not allow is still in the text after it was sanitized. Nothing was returned. "
    "Block the form for this source, and report this: it should not happen."
)


class Sanitized:
    """A text in which nothing parses that the policy does not allow, and how it was made so. Only guardtok makes them.

    It is no `str`, so that it cannot be joined with one by accident: `str(sanitized)` or `.text` is the text, and
    `sanitized + sanitized` is safe, where `text + text` is not.

    A pickled copy can be joined and restored too. It carries no key of the digests: what is found at the seams of
    copies has a digest that is comparable with none.

    Attributes:
        text: The text.
        edits: Every change, in order.
        runs: Who wrote the original: its runs by origin, in characters of the original.
    """

    __slots__ = ("_breaker", "_reports", "edits", "runs", "text")

    def __init__(  # noqa: PLR0913, PLR0917 - what it is made of; nobody else calls it
        self,
        mint: object,
        text: str,
        edits: tuple[Edit, ...],
        runs: tuple[Run, ...],
        reports: tuple[Report | _Kept, ...],
        breaker: Breaker,
    ) -> None:
        """Refuse to be called by anybody else: a text that was not looked at would vouch for nothing.

        Raises:
            TypeError: Always, outside guardtok.
        """
        if mint is not _MINT:
            raise TypeError(
                "Sanitized comes from Guard.sanitize alone: text that nobody looked at vouches for nothing."
            )
        self.text = text
        self.edits = edits
        self.runs = runs
        self._reports = reports
        self._breaker = breaker

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        found = sum(report.count for report in self._reports)
        return f"<Sanitized {len(self.text)} characters, {len(self.edits)} edits, {found} violations>"

    def __reduce__(self) -> tuple[object, tuple[Any, ...]]:
        first, count = self._reports[0], sum(report.count for report in self._reports)
        kept = _Kept(self.violations, count, first.ruleset, first.request_id)
        return _remint, (self.text, self.edits, self.runs, (kept,), self._breaker)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sanitized):
            return NotImplemented
        return (self.text, self.edits, self.violations) == (other.text, other.edits, other.violations)

    def __hash__(self) -> int:
        return hash((self.text, self.edits))

    @property
    def violations(self) -> tuple[Violation, ...]:
        """What the policy did not allow, in the order of the text, at most `limits.max_violations`.

        Of joined texts: the left one's, the right one's, then those over the seam. Positions are in the caller's own
        strings.
        """
        limit = self._reports[0].ruleset.policy.limits.max_violations
        found = [violation for report in self._reports for violation in report.violations()]
        return tuple(found[:limit])

    def restore(self) -> str:
        """Return the original, character by character, surrogates that were repaired included."""
        pieces: list[str] = []
        last = 0
        for edit in self.edits:
            pieces += self.text[last : edit.position], edit.removed
            last = edit.position + len(edit.inserted)
        return "".join((*pieces, self.text[last:]))

    def __add__(self, other: Sanitized) -> Sanitized:
        """Join two texts. If a form that is not allowed would reach over the seam, the seam gets a separator.

        That one edit serves `escape` and `strip` alike: nothing of either text is taken out. A token that its source
        may write stays whole where the seam cuts it, unless a form that is not allowed overlaps it there. What is found
        is in `violations`; nothing is logged, for a text has no sinks.

        Raises:
            RefusedError: The policy blocks a form that the two spell together.
            TokenizerMismatchError: They were sanitized under two policies, or for two tokenizers.
        """
        if not isinstance(other, Sanitized):
            return NotImplemented
        mine, its = self._reports[0], other._reports[0]
        if mine.ruleset.fingerprint != its.ruleset.fingerprint:
            raise TokenizerMismatchError(
                "The texts were sanitized under two rulesets, so what is safe in one may not be in the other. "
                "Sanitize both with one guard."
            )
        report, separator = self._examine_seam(other)
        length = sum(run.end - run.start for run in self.runs)
        edits = list(self.edits)
        if separator:
            edits.append(Edit(length, len(self.text), "", separator))
        shift = len(self.text) + len(separator)
        edits += [Edit(e.start + length, e.position + shift, e.removed, e.inserted) for e in other.edits]
        runs = self.runs + tuple(_moved(run, length) for run in other.runs)
        reports = self._reports + other._reports + ((report,) if report.decided.count else ())
        return Sanitized(_MINT, self.text + separator + other.text, tuple(edits), runs, reports, self._breaker)

    def _examine_seam(self, other: Sanitized) -> tuple[Report, str]:
        """Return what is found over the seam, and the separator that it needs, or an empty string."""
        first = self._reports[0]
        watched = any(run.source in first.ruleset.watched for run in (*self.runs, *other.runs))
        reach = longest_disguise(first.ruleset) if watched else max(0, first.ruleset.longest - 1)
        begin = max(0, len(self.text) - _reach(self.text, reach, first.ruleset, at_end=True))
        seam = len(self.text) - begin
        text = self.text[begin:] + other.text[: _reach(other.text, reach, first.ruleset, at_end=False)]
        left = relabel(self, begin, len(self.text)).runs
        right = relabel(other, 0, len(text) - seam).runs
        report = self._decide_seam(text, (*left, *(_moved(run, seam) for run in right)), seam)
        if report.decided.refused is not None:
            raise RefusedError(*report.refusal())
        if not report.decided.breaks:
            return report, ""
        separator = self._breaker.separate(text[seam - 1], text[seam])
        between = Run(seam, seam + 1, left[-1].source, left[-1].path, left[-1].offset)
        text = text[:seam] + separator + text[seam:]
        checked = self._decide_seam(text, (*left, between, *(_moved(run, seam + 1) for run in right)), seam)
        if checked.decided.breaks or checked.decided.refused:
            raise VerificationError(_STILL_THERE)
        return report, separator

    def _decide_seam(self, text: str, runs: tuple[Run, ...], seam: int) -> Report:
        """Decide what begins before a position and ends after it."""
        first = self._reports[0]
        ruleset = first.ruleset
        intake = Intake(text, text.encode(), runs)
        found = scan(intake, ruleset)
        # Tokens that stand on the left were decided there: what lies inside one of them and the right is no form.
        before = decide([match for match in found if match[2] <= seam], intake, ruleset).allowed
        across = [match for match in found if match[1] < seam < match[2]]
        decided = decide(across, intake, ruleset, Window(len(text), before))
        if any(run.source in ruleset.watched for run in runs):
            seen = [each for each in look(intake, found, ruleset) if each.start < seam < each.end]
            decided = add_disguises(decided, seen, intake, ruleset)
        return Report(intake, decided, ruleset, first.key, first.request_id)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was found, written out already, for a pickle: without the text as it came in and the key of the digests."""

    found: tuple[Violation, ...]
    count: int
    ruleset: Ruleset
    request_id: str | None
    key: bytes = field(default_factory=partial(token_bytes, 32), repr=False, compare=False)

    def __reduce__(self) -> tuple[object, tuple[Any, ...]]:
        return _Kept, (self.found, self.count, self.ruleset, self.request_id)

    def violations(self) -> tuple[Violation, ...]:
        return self.found


def _remint(*parts: Any) -> Sanitized:  # noqa: ANN401 - what __reduce__ gave
    return Sanitized(_MINT, *parts)


def sanitize(report: Report, original: Text, breaker: Breaker, beginnings: Beginnings) -> Sanitized:
    """Edit a decided text that is not refused, and check the result.

    Args:
        report: The text as it was taken in, and the decision.
        original: The text as the caller gave it.
        breaker: What breaks the ruleset's forms.
        beginnings: What they begin with.

    Raises:
        VerificationError: A form that the policy does not allow would still be there; nothing is returned.
    """
    intake, decided = report.intake, report.decided
    text = intake.text
    edits: list[Edit] = []
    if decided.breaks or decided.cuts:
        editor = Editor(report.ruleset, breaker, beginnings, {run.source for run in intake.runs})
        text, edits = editor.edit(intake.text, decided, 0, len(intake.text))
    repaired = list(_repairs(original, intake.text))
    made = tuple(_compose(repaired, edits, original) if repaired else edits)
    sanitized = Sanitized(_MINT, text, made, original.runs, (report,), breaker)
    if edits:
        _verify(sanitized, report.ruleset)
    return sanitized


def prove_on_tokenizer(ruleset: Ruleset, breaker: Breaker) -> None:
    """Prove that the bound tokenizer makes no reserved id of the broken form of anything that a source escapes.

    Raises:
        PolicyError: It does; such a form cannot be escaped in text.
        TokenizerError: The tokenizer failed.
    """
    texts = [ruleset.forms[index].text for index in escaped_forms(ruleset)]
    spelled = [text[0] + breaker.separate(*text[:2]) + text[1:] for text in texts if len(text) > 1]
    if not spelled:
        return
    try:
        encode_ordinary("\n".join(spelled), ruleset, at_start=True)
    except VerificationError as error:
        raise PolicyError(
            [
                Problem(
                    ruleset.policy.place,
                    f"The tokenizer makes the reserved id {error.token_id} of a form that is escaped, broken as it is.",
                    "Block or strip that form.",
                )
            ]
        ) from None


def _verify(sanitized: Sanitized, ruleset: Ruleset) -> None:
    """Look at the result as if it had come in."""
    text = sanitized.text
    sources = {run.source for run in sanitized.runs}
    if len(sources) == 1:
        intake = Intake(text, text.encode(), (Run(0, len(text), sources.pop(), "", 0),) if text else ())
    else:
        intake = relabel(sanitized, 0, len(text))
    matches = scan(intake, ruleset)
    decided = add_lookalikes(decide(matches, intake, ruleset), matches, intake, ruleset)
    if decided.breaks or decided.cuts or decided.refused:
        raise VerificationError(_STILL_THERE)


def _reach(text: str, least: int, ruleset: Ruleset, *, at_end: bool) -> int:
    """Return how far into a text a form may reach that goes over its end, or over its beginning.

    Where a normaliser drops characters that is as far as there are twice as many others as a form has: what it puts
    before every text is among them.
    """
    rules = ruleset.rules
    if rules is None or rules.folding is None:
        return least
    reach = max(least, 1)
    enough = 2 * max(map(len, rules.cores))
    while reach < len(text) and len(rules.tokenizer.normalize(text[-reach:] if at_end else text[:reach])) < enough:
        reach *= 2
    return reach


def _repairs(original: str, text: str) -> Iterator[Edit]:
    """Yield what the intake did to surrogates, as edits."""
    if original == text:
        return
    gained = 0
    for found in SURROGATES.finditer(original):
        start = found.start()
        position = start + gained
        yield Edit(start, position, found.group(), text[position])
        gained += 1 - len(found.group())


def _compose(repairs: list[Edit], edits: list[Edit], original: str) -> Iterator[Edit]:
    """Yield edits from the original to the result, of the repairs and of the edits that were made after them."""
    index = lost = gained = 0  # `lost` and `gained`: original and result, less the text between, up to here
    for edit in edits:
        while index < len(repairs) and repairs[index].position < edit.start:
            yield repairs[index]._replace(position=repairs[index].position + gained)
            lost += len(repairs[index].removed) - 1
            index += 1
        start, end = edit.start + lost, edit.start + len(edit.removed)
        while index < len(repairs) and repairs[index].position < end:
            lost += len(repairs[index].removed) - 1
            index += 1
        yield Edit(start, edit.position, original[start : end + lost], edit.inserted)
        gained = edit.position + len(edit.inserted) - end
    for repair in repairs[index:]:
        yield repair._replace(position=repair.position + gained)


class Edited(Protocol):
    """A text and how it was made: what it is now, its changes, and who wrote the original."""

    @property
    def text(self) -> str:
        """The text."""

    @property
    def edits(self) -> tuple[Edit, ...]:
        """Every change, in order."""

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of the original."""


def relabel(sanitized: Edited, low: int, high: int) -> Intake:
    """Return a stretch of a sanitized text, its characters labelled with their places in the caller's own strings."""
    runs: list[Run] = []
    for position, place, length in _stretches(sanitized, low):
        if position >= high:
            break
        first, end = max(position, low), min(position + length, high)
        place += first - position  # noqa: PLW2901 - only a copy can begin before `low`, and its places move along
        while first < end:
            run = sanitized.runs[bisect_right(sanitized.runs, place, key=_run_start) - 1]
            stop = min(end, first + max(run.end - place, 1))
            runs.append(Run(first - low, stop - low, run.source, run.path, run.offset + place - run.start))
            place, first = place + stop - first, stop  # noqa: PLW2901 - moves on to the next run
    text = sanitized.text[low:high]
    return Intake(text, text.encode(), tuple(runs))


def _stretches(sanitized: Edited, low: int) -> Iterator[tuple[int, int, int]]:
    """Yield position in the text, place in the original and length of what was copied or inserted, from `low` on."""
    edits = sanitized.edits
    index = max(0, bisect_right(edits, low, key=_position) - 1)
    if index == 0:
        yield 0, 0, edits[0].position if edits else len(sanitized.text)
    for number in range(index, len(edits)):
        edit = edits[number]
        size = len(edit.inserted)
        if low < edit.position + size:
            yield edit.position, edit.start, size
        follows = edits[number + 1].position if number + 1 < len(edits) else len(sanitized.text)
        if low < follows:
            yield edit.position + size, edit.start + len(edit.removed), follows - edit.position - size


def _moved(run: Run, by: int) -> Run:
    return run._replace(start=run.start + by, end=run.end + by)


def _position(edit: Edit) -> int:
    return edit.position


def _run_start(run: Run) -> int:
    return run.start
