"""A whole body, sanitized: every string and key in it, one by one, and what its strings spell together."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from guardtok.clean import are_clean
from guardtok.errors import LimitError, SurrogateError, VerificationError
from guardtok.intake import take_in
from guardtok.records import Report, defuse
from guardtok.requests.arguments import only_across, read_escapes, read_json, write_json
from guardtok.requests.joints import STILL_THERE, Piece, break_joints, join, ways_to_join
from guardtok.requests.labels import Kind
from guardtok.requests.ledger import Ledger, refuse_changes
from guardtok.requests.paths import spell
from guardtok.requests.pieces import get
from guardtok.requests.walk import BodyError, Walk, name_type
from guardtok.sanitize import sanitize
from guardtok.sinks import emit
from guardtok.text import Text, labelled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from guardtok.beginnings import Beginnings
    from guardtok.breaking import Breaker
    from guardtok.edits import Edit
    from guardtok.examine import Examiner
    from guardtok.requests.joints import Way
    from guardtok.requests.labels import Label
    from guardtok.requests.walk import Inside, Leaf
    from guardtok.ruleset import Ruleset
    from guardtok.sanitize import Sanitized
    from guardtok.violation import Action, Verdict, Violation

_MINT = object()

_ROUNDS = 8
"""So often the joints of strings that several readers join are looked at, at most."""


@dataclass(frozen=True, slots=True)
class SanitizedRequest:
    """A body in which nothing parses that the policy does not allow. Only guardtok makes them.

    Attributes:
        protocol: The protocol that it was said to be of.
        body: Plain JSON values, which share nothing with the caller's.
        edits: How each string that was changed was made, by JSON path; positions are in that string. The path of a key
            ends in `~`; what lies in a string of JSON has the string's path and its own behind it.
        violations: What the policy did not allow, at most `limits.max_violations`, each with its JSON path.
        count: How much that is, what is beyond the bound included.
        action: The strictest action that anything asks for; `allow` where nothing was found.
        changed: Whether the body differs from the caller's.
    """

    protocol: str
    body: dict[str, Any]
    edits: Mapping[str, tuple[Edit, ...]]
    violations: tuple[Violation, ...]
    count: int
    action: Action
    changed: bool
    _mint: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse to be made by anybody else: a body that was not looked at would vouch for nothing.

        Raises:
            TypeError: Always, outside guardtok.
        """
        if self._mint is not _MINT:
            raise TypeError(
                "A SanitizedRequest comes from a Guard alone: a body that nobody looked at vouches for nothing."
            )


@dataclass(frozen=True, slots=True)
class Rewriter:
    """Sanitizes bodies under one ruleset.

    Attributes:
        ruleset: The rules.
        examiner: Where violations go.
        breaker: What breaks the ruleset's forms.
        beginnings: What they begin with.
    """

    ruleset: Ruleset
    examiner: Examiner
    breaker: Breaker
    beginnings: Beginnings

    def sanitize(self, body: object, label: Label, protocol: str, request_id: str | None) -> SanitizedRequest:
        """Sanitize a body, and send what was found to the sinks, once.

        Raises:
            RefusedError: The policy blocks a form that the body holds.
            RequestError: The body has the wrong shape, or holds what no caller may send.
            LimitError: It is over a limit of the policy.
            SurrogateError: A lone surrogate under `surrogates: refuse`.
            VerificationError: A form could not be broken; nothing is returned.
        """
        ledger, work = self._work(body, label, request_id)
        ledger.check()
        edits = MappingProxyType({defuse(path, self.ruleset): made for path, made in work.edits.items()})
        return SanitizedRequest(
            protocol, work.body, edits, ledger.violations(), ledger.count, ledger.action, work.changed, _MINT
        )

    def check(self, body: object, label: Label, request_id: str | None) -> Verdict:
        """Return the verdict on a body, and send what was found to the sinks, once."""
        return self._work(body, label, request_id)[0].verdict()

    def _work(self, body: object, label: Label, request_id: str | None) -> tuple[Ledger, _Work]:
        ledger = Ledger(self.ruleset, self.examiner.key, request_id)
        work = _Work(self, ledger, request_id)
        try:
            work.do(body, label)
        except BodyError as error:
            ledger.give_up("request.size", spell(error.place), str(error))
        except LimitError as error:
            ledger.give_up_on(error, "$", 0)
        if not ledger.clean:
            emit(ledger.groups(), self.examiner.sinks)
        return ledger, work


class _Work:
    """The work on one body.

    Attributes:
        body: The copy.
        edits: How each changed string of it was made, by path.
        changed: Whether it differs from the caller's.
    """

    def __init__(self, rewriter: Rewriter, ledger: Ledger, request_id: str | None) -> None:
        self._ruleset = rewriter.ruleset
        self._rewriter = rewriter
        self._ledger = ledger
        self._request_id = request_id
        self._walk = Walk(rewriter.ruleset, ledger)
        self._torn = False  # whether a string is refused for its surrogates, so that it cannot be joined
        self._pieces: dict[tuple[int, Any], Piece] = {}
        self.body: dict[str, Any] = {}
        self.edits: dict[str, tuple[Edit, ...]] = {}
        self.changed = False

    def do(self, body: object, label: Label) -> None:
        """Walk the body, look at everything in it, and change what has to be changed."""
        walk = self._walk
        if not isinstance(body, dict):
            self._ledger.give_up("request.shape", "$", f"a mapping is needed here, not {name_type(body)}.")
            return
        self.body = walk.copy(body, label, None, "$", None)
        if self._is_clean():
            return
        clean = self._find_clean_sources()
        for index, leaf in enumerate(tuple(walk.leaves)):
            if leaf.label.kind is not Kind.JSON or leaf.inside is not None or "\\" in leaf.text:
                continue  # With an escape in it, it was looked into at once.
            if walk.source_of(leaf.label) not in clean:
                inside = walk.look_inside(str.__str__(leaf.text), leaf.label, leaf.place)
                walk.leaves[index] = leaf._replace(inside=inside)
        for leaf in walk.leaves:
            if leaf.inside is None and not self._is_settled(leaf, clean):
                self._settle_string(leaf)
        self._settle_keys([leaf for leaf in walk.keys if not self._is_settled(leaf, clean)])
        for leaf in walk.leaves:
            if leaf.inside is not None:
                self._settle_json(leaf, leaf.inside)
        self._settle_joints()

    def _is_clean(self) -> bool:
        """Whether nothing in the body needs a decision, by one search: so it is with nearly all."""
        walk, ruleset = self._walk, self._ruleset
        if walk.mixed or any(leaf.inside is not None and leaf.inside.rewrite for leaf in walk.leaves):
            return False
        watched: list[str] = []
        others: list[str] = []
        lists = {source: watched if source in ruleset.watched else others for source in ruleset.modes}
        for leaf in (*walk.leaves, *walk.keys):
            lists[walk.source_of(leaf.label)].append(leaf.text)
        for chain in walk.chains:
            texts = [holder[step] for holder, step in chain]
            (watched if ruleset.watched else others).extend(join(texts, way) for way in self._ways)
        unwatched = next((source for source in ruleset.modes if source not in ruleset.watched), "")
        return are_clean(watched, next(iter(ruleset.watched), ""), ruleset) and are_clean(others, unwatched, ruleset)

    @cached_property
    def _ways(self) -> tuple[Way, ...]:
        return ways_to_join(self._ruleset, self._rewriter.beginnings.forms)

    def _find_clean_sources(self) -> frozenset[str]:
        """Return the sources of whose strings none needs a decision."""
        walk = self._walk
        if walk.mixed:
            return frozenset()
        texts: dict[str, list[str]] = {}
        for leaf in (*walk.leaves, *walk.keys):
            texts.setdefault(walk.source_of(leaf.label), []).append(leaf.text)
        return frozenset(source for source, own in texts.items() if are_clean(own, source, self._ruleset))

    def _is_settled(self, leaf: Leaf, clean: frozenset[str]) -> bool:
        source = self._walk.source_of(leaf.label)
        return source in clean or (type(leaf.text) is str and are_clean([leaf.text], source, self._ruleset))

    def _settle_string(self, leaf: Leaf) -> None:
        if leaf.reread:
            # What was broken in the string by now is broken in this.
            leaf = leaf._replace(text=read_escapes(leaf.holder[leaf.step]))
        path = spell(leaf.place)
        made = self._sanitize(leaf, path)
        if made is not None and made.edits and not leaf.reread:
            self._put(leaf, path, made)

    def _put(self, leaf: Leaf, path: str, made: Sanitized) -> None:
        leaf.holder[leaf.step] = made.text
        self._note(path, made.edits)
        if self._walk.chains:
            piece = Piece(leaf.holder, leaf.step, path, made.text, made.edits, made.runs)
            self._pieces[id(leaf.holder), leaf.step] = piece

    def _sanitize(self, leaf: Leaf, path: str) -> Sanitized | None:
        """Decide about one string; return what becomes of it, or None where it is refused."""
        original = self._label(leaf, path)
        try:
            report = self._rewriter.examiner.inspect(self._ruleset, original, None, self._request_id)
        except SurrogateError as error:
            self._torn = True
            self._ledger.give_up_on(SurrogateError(f"{self._ledger.show(path)}: {error}"), path, len(original))
            return None
        if leaf.label.kind is Kind.VERBATIM:
            report = refuse_changes(report)
        self._ledger.add(report)
        if report.decided.refused is not None:
            return None
        return sanitize(report, original, self._rewriter.breaker, self._rewriter.beginnings)

    def _label(self, leaf: Leaf, path: str) -> Text:
        if isinstance(leaf.text, Text):
            # Who wrote it is known better than by its place; where it lies, only here.
            return labelled(
                str.__str__(leaf.text), tuple(run._replace(path=run.path or path) for run in leaf.text.runs)
            )
        return Text(leaf.text, source=self._walk.source_of(leaf.label), path=path)

    def _settle_keys(self, leaves: list[Leaf]) -> None:
        renamed: dict[int, tuple[Leaf, dict[str, str]]] = {}
        for leaf in leaves:
            path = spell(leaf.place, key=True)
            made = self._sanitize(leaf, path)
            if made is not None and made.edits:
                self._note(path, made.edits)
                renamed.setdefault(id(leaf.holder), (leaf, {}))[1][leaf.text] = made.text
        for leaf, names in renamed.values():
            items = [(names.get(key, key), value) for key, value in leaf.holder.items()]
            leaf.holder.clear()
            leaf.holder.update(items)
            if len(leaf.holder) < len(items):
                fact = "two keys of this mapping would be one, once the forms in them are broken. Rename one."
                self._ledger.give_up("request.keys", spell(leaf.node) if leaf.node else "$", fact)

    def _settle_json(self, leaf: Leaf, inside: Inside) -> None:
        """Write a string of JSON again if what it holds was changed, and look at the string as it goes on."""
        before, value = read_json(str.__str__(leaf.text)), inside.holder[0]
        text, path = str.__str__(leaf.text), spell(leaf.place)
        if before is None or inside.rewrite or before.value != value:
            text = write_json(value)
            leaf.holder[leaf.step] = text
            self.changed = True
        whole = leaf._replace(text=text)
        report = self._rewriter.examiner.inspect(self._ruleset, self._label(whole, path), None, self._request_id)
        if not self._ledger.refused:
            # What is found inside was settled there. A form that reaches over the punctuation cannot be broken.
            report = refuse_changes(report)
        self._ledger.add(only_across(report))

    def _settle_joints(self) -> None:
        if not self._walk.chains or self._torn:
            return
        leaves = {(id(leaf.holder), leaf.step): leaf for leaf in self._walk.leaves}
        chains = [
            # A key that was a form is another one by now, and leads to no text any more.
            [self._piece(leaves[id(holder), step]) for holder, step in chain if get(holder, (step,))]
            for chain in self._walk.chains
        ]
        pieces = {id(piece): piece for chain in chains for piece in chain}
        before = {name: piece.edits for name, piece in pieces.items()}
        report, overlap = True, sum(map(len, chains)) > len(pieces)
        for _ in range(_ROUNDS):
            came = [piece.edits for piece in pieces.values()]
            for chain in chains:
                self._break_joints(chain, report=report)
            report = False
            # A break for one reader might make a form for another one; where it did, the next round breaks that.
            if not overlap or came == [piece.edits for piece in pieces.values()]:
                break
        else:
            raise VerificationError(STILL_THERE)
        for name, piece in pieces.items():
            if piece.edits != before[name]:
                self._note(piece.path, piece.edits)

    def _break_joints(self, chain: list[Piece], *, report: bool) -> None:
        rewriter = self._rewriter
        for joint in break_joints(chain, self._ways, self._ruleset, rewriter.breaker):
            if report:
                self._ledger.add(Report(*joint, self._ruleset, rewriter.examiner.key, self._request_id))

    def _piece(self, leaf: Leaf) -> Piece:
        name = id(leaf.holder), leaf.step
        piece = self._pieces.get(name)
        if piece is None:
            path = spell(leaf.place)
            # One that is refused stands as it came, halves of characters included.
            policy = self._ruleset.policy
            known, limits, surrogates = self._ruleset.modes, policy.limits, policy.surrogates
            intake = take_in(self._label(leaf, path), None, known=known, limits=limits, surrogates=surrogates)
            piece = Piece(leaf.holder, leaf.step, path, intake.text, (), intake.runs)
            self._pieces[name] = piece
        return piece

    def _note(self, path: str, edits: tuple[Edit, ...]) -> None:
        self.edits[path] = edits
        self.changed = True
