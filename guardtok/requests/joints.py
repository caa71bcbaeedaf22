"""Strings that a template puts one after another: what they spell together, and how it is broken.

`<|im_` in one part and `start|>` in the next are both clean. Templates join the texts of a message's parts, some after
trimming each, some with a space or a line break between them; each of these is looked at, on the strings as they go on.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from guardtok.decide import Window, decide
from guardtok.edits import Edit
from guardtok.errors import VerificationError
from guardtok.intake import Intake
from guardtok.lookalikes import add_disguises, look
from guardtok.policy.model import Reaction
from guardtok.sanitize import relabel
from guardtok.scan import scan
from guardtok.violation import Action, Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from guardtok.breaking import Breaker
    from guardtok.decide import Decided, Finding
    from guardtok.ruleset import Ruleset
    from guardtok.text import Run

_GLUES = (" ", "\n")
"""What servers put between the texts of parts, where they put anything: SGLang a space, vLLM a line break."""

_STRICT = frozenset({Reaction.ESCAPE, Reaction.BLOCK})
STILL_THERE = (
    "A form that the policy does not allow is still where two parts of a message meet. Nothing was returned. "
    "Block the form for this source, and report this: it should not happen."
)


class Way(NamedTuple):
    """One way in which a template may join strings."""

    glue: str
    trims: bool


@dataclass(slots=True)
class Piece:
    """One of the strings: as it goes on, how it was made, and where in the copy of the body it stands."""

    holder: Any
    step: Any
    path: str
    text: str
    edits: tuple[Edit, ...]
    runs: tuple[Run, ...]

    def put(self, position: int, separator: str) -> None:
        """Put a separator before a character."""
        before = sum(1 for edit in self.edits if edit.position < position)
        gained = sum(len(edit.inserted) - len(edit.removed) for edit in self.edits[:before])
        size = len(separator)
        later = (edit._replace(position=edit.position + size) for edit in self.edits[before:])
        edit = Edit(position - gained, position, "", separator)
        self.edits = (*self.edits[:before], edit, *later)
        self.text = self.text[:position] + separator + self.text[position:]
        self.holder[self.step] = self.text


def ways_to_join(ruleset: Ruleset, forms: Iterable[str]) -> tuple[Way, ...]:
    """Return the ways that matter: a glue only if a form holds it, or if a disguise that it makes may not stay."""
    strict = any(ruleset.lookalikes[source] in _STRICT for source in ruleset.watched)
    spelled = "".join(forms)
    glues = [glue for glue in _GLUES if strict or glue in spelled]
    return tuple(Way(glue, trims) for glue in ("", *glues) for trims in (False, True))


def join(texts: Sequence[str], way: Way) -> str:
    """Return strings joined in one way."""
    return way.glue.join(text.strip() for text in texts) if way.trims else way.glue.join(texts)


def break_joints(
    pieces: Sequence[Piece], ways: Sequence[Way], ruleset: Ruleset, breaker: Breaker
) -> Iterator[tuple[Intake, Decided]]:
    """Break every form that the pieces spell together and may not, in place; yield what was found.

    What is refused stays as it is, for nothing goes on.

    Raises:
        VerificationError: A form could not be broken.
    """
    if all(piece.text == piece.text.strip() for piece in pieces):
        ways = [way for way in ways if not way.trims]
    joints = [(joint, joint.decide()) for joint in (_Joint(pieces, way, ruleset) for way in ways)]
    yield from _strictest([(joint.intake, decided) for joint, decided in joints])
    if not any(decided.breaks for _, decided in joints):
        return
    # A break in one way can hardly make a form in another; if it did, the next round would break that.
    for _ in range(len(ways) + 2):
        broken = False
        for way in ways:
            joint = _Joint(pieces, way, ruleset)
            decided = joint.decide()
            if decided.breaks and decided.refused is None:
                joint.break_all(decided, breaker)
                broken = True
        if not broken:
            return
    raise VerificationError(STILL_THERE)


class _Joint:
    """The pieces, joined in one way."""

    def __init__(self, pieces: Sequence[Piece], way: Way, ruleset: Ruleset) -> None:
        self._ruleset = ruleset
        self._ends: list[str] = []
        texts: list[str] = []
        runs: list[Run] = []
        self._pieces: list[tuple[int, Piece, int]] = []  # where each begins in the text, and from which of its own
        position = 0
        for piece in pieces:
            text = piece.text.strip() if way.trims else piece.text
            if not text:
                continue
            low = len(piece.text) - len(piece.text.lstrip()) if way.trims else 0
            if texts and way.glue:
                # The glue is the template's; it counts for what stands before it.
                runs[-1] = runs[-1]._replace(end=runs[-1].end + len(way.glue))
                texts.append(way.glue)
                position += len(way.glue)
            self._pieces.append((position, piece, low))
            own = relabel(piece, low, low + len(text)).runs
            runs += (run._replace(start=run.start + position, end=run.end + position) for run in own)
            texts.append(text)
            position += len(text)
        self._starts = [start for start, _, _ in self._pieces]
        joined = "".join(texts)
        self.intake = Intake(joined, joined.encode(), tuple(runs))

    def decide(self) -> Decided:
        """Decide what begins in one piece and ends in another."""
        intake, ruleset = self.intake, self._ruleset
        found = scan(intake, ruleset)
        watched = any(run.source in ruleset.watched for run in intake.runs)
        seen = [each for each in look(intake, found, ruleset) if self._crosses(each.start, each.end)] if watched else []
        across = [match for match in found if self._crosses(match[1], match[2])]
        inside = decide([match for match in found if not self._crosses(match[1], match[2])], intake, ruleset)
        decided = decide(across, intake, ruleset, Window(len(intake.text), inside.allowed))
        return add_disguises(decided, seen, intake, ruleset) if seen else decided

    def break_all(self, decided: Decided, breaker: Breaker) -> None:
        """Put a separator into each form, where its second piece begins."""
        places: dict[int, None] = {}
        for _, start, _ in decided.breaks:
            places[bisect_right(self._starts, start)] = None
        for index in places:
            start, piece, low = self._pieces[index]
            _, last, _ = self._pieces[index - 1]
            # The characters before it, joined in any way.
            lefts = {self.intake.text[start - 1], last.text[-1], last.text.rstrip()[-1:], *piece.text[low - 1 : low]}
            piece.put(low, breaker.separate("".join(sorted(lefts)), piece.text[low]))

    def _crosses(self, start: int, end: int) -> bool:
        index = bisect_right(self._starts, start)
        return index < len(self._starts) and self._starts[index] < end


def _strictest(joints: list[tuple[Intake, Decided]]) -> Iterator[tuple[Intake, Decided]]:
    """Yield what was found, each place once: of what it is in the ways of joining the strictest."""
    places: dict[tuple[str, int], tuple[int, Finding]] = {}
    for number, (intake, decided) in enumerate(joints):
        for finding in decided.findings:
            run = intake.runs[finding.run]
            place = run.path, intake.caller_position(run, finding.match[1])
            if place not in places or finding.action.severity > places[place][1].action.severity:
                places[place] = number, finding
    for number, (intake, decided) in enumerate(joints):
        found = tuple(finding for at, finding in places.values() if at == number)
        if found:
            refused = next((f for f in found if f.action is Action.BLOCK and f.mode is Mode.ENFORCE), None)
            groups = tuple((finding, 1) for finding in found)
            yield intake, replace(decided, findings=found, groups=groups, refused=refused)
