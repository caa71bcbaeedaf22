"""Allowed matches → tokens, by the rules of the tokenizer's own library.

The library looks for added tokens twice: in the text for those that are not normalised, and then, between these, in the
normalised text for the others. Some swallow the white space beside them, some are parsed only where they stand alone.
So it is here, with one difference: no neighbour of another source can hide, split or swallow a token. Where the library
would let it, the token stays.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from guardtok.pieces import Piece, Reader
from guardtok.tokenizer import WHITE_SPACE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from guardtok.decide import Decided
    from guardtok.intake import Intake
    from guardtok.rules import Rules
    from guardtok.ruleset import Ruleset
    from guardtok.violation import Match


class _Found(NamedTuple):
    """A token in a normalised stretch: the match, and where it is there, what it swallows included."""

    match: Match
    start: int
    end: int


def place(intake: Intake, decided: Decided, ruleset: Ruleset, rules: Rules) -> Iterator[Piece]:
    """Yield the stretches of the output in order. White space that a token swallows is in none of them."""
    return _Placer(intake, decided, ruleset, rules).pieces()


class _Placer:
    def __init__(self, intake: Intake, decided: Decided, ruleset: Ruleset, rules: Rules) -> None:
        self._intake = intake
        self._text = intake.text
        self._rules = rules
        self._forms = ruleset.forms
        self._reader = Reader(intake.text, decided.cuts, ruleset)
        # Parts that one source wrote one after another are one stretch, however it was cut.
        changes = [run.start for last, run in pairwise(intake.runs) if last.source != run.source]
        self._borders = [0, *changes, len(intake.text)]
        cuts = [cut.start for cut in decided.cuts]
        # A cut can reach into a match only where one source may write one form and must lose another.
        self._candidates = [
            match
            for match in decided.candidates
            if not (place := bisect_right(cuts, match[2] - 1)) or decided.cuts[place - 1].end <= match[1]
        ]
        self._later = [match for match in self._candidates if rules.tokens[match[0]].normalized]
        self._held = dict(self._find_held(self._later))

    def pieces(self) -> Iterator[Piece]:
        last = 0
        first_pass = list(self._first_pass())
        later = self._later
        starts = [start for _, start, _ in later]
        for match, follows in pairwise([*first_pass, None]):
            if match is None:
                continue
            form, start, end = match
            low = self._left(form, start, last)
            yield from self._stretch(last, low, later[bisect_right(starts, last - 1) : bisect_right(starts, low)])
            yield self._reader.take(start, end, self._forms[form].token_id)
            last = self._right(form, end, follows[1] if follows is not None else len(self._text))
        yield from self._stretch(last, len(self._text), later[bisect_right(starts, last - 1) :])

    def _first_pass(self) -> Iterator[Match]:
        """Yield the tokens that are looked for in the text itself. One that stands not alone hides what it overlaps."""
        end = 0
        for match in self._candidates:
            form, low, high = match
            token = self._rules.tokens[form]
            if token.normalized or low < end or self._text[low:high] != token.form:
                continue
            end = high
            if not token.single_word or self._stands_alone(low, high):
                yield match

    def _stands_alone(self, low: int, high: int) -> bool:
        """Whether no character of a word stands beside a match; what another source wrote there does not count."""
        source = self._source(low)
        beside = [place for place in (low - 1, high) if 0 <= place < len(self._text)]
        return not any(
            self._source(place) == source and self._rules.tokenizer.is_word(self._text[place]) for place in beside
        )

    def _source(self, position: int) -> str:
        return self._intake.runs[self._intake.run_at(position)].source

    def _left(self, form: int, start: int, limit: int) -> int:
        if self._rules.tokens[form].lstrip:
            source = self._source(start)
            while start > limit and self._may_swallow(start - 1, source):
                start -= 1
        return start

    def _right(self, form: int, end: int, limit: int) -> int:
        if self._rules.tokens[form].rstrip:
            source = self._source(end - 1)
            while end < limit and self._may_swallow(end, source):
                end += 1
        return end

    def _may_swallow(self, place: int, source: str) -> bool:
        """Whether a token of this source takes a character with it: white space, and no part of another's token."""
        return self._text[place] in WHITE_SPACE and self._held.get(place, source) == source

    def _find_held(self, matches: Sequence[Match]) -> Iterator[tuple[int, str]]:
        """Yield each white space that is part of a token, and who wrote the token."""
        blank = {form for form in {match[0] for match in matches} if not WHITE_SPACE.isdisjoint(self._forms[form].text)}
        for form, start, end in matches if blank else ():
            if form in blank:
                source = self._source(start)
                yield from ((place, source) for place in range(start, end) if self._text[place] in WHITE_SPACE)

    def _stretch(self, low: int, high: int, matches: Sequence[Match]) -> Iterator[Piece]:
        """Yield what becomes of the text between two tokens of the first pass."""
        if low >= high:
            return
        run = self._reader.read(low, high)
        within = [match for match in matches if match[1] >= low and match[2] <= high]
        if not run.text:
            return
        if not within:
            yield run
            return
        yield from self._second_pass(run, within)

    def _second_pass(self, run: Piece, matches: Sequence[Match]) -> Iterator[Piece]:
        """Yield what becomes of an ordinary run that holds tokens which are looked for when it is normalised."""
        normal, spans = self._rules.tokenizer.align(run.text)
        origins = [_origin(run, low) for low, _ in spans]
        found = self._choose(self._locate(normal, run, spans, matches), normal, origins)
        staying = list(self._find_staying(run, matches, {each.match for each in found}))
        if staying:
            # A neighbour would unmake these, so nothing is normalised over their borders.
            yield from self._split(run, staying, matches)
            return
        if not found:
            yield run
            return
        last = 0
        for each in found:
            form, start, end = each.match
            if last < each.start:
                yield self._part(normal, origins, last, each.start)
            yield Piece(self._text[start:end], ((0, start),), self._forms[form].token_id)
            last = max(last, each.end)
        if last < len(normal):
            yield self._part(normal, origins, last, len(normal))

    def _split(self, run: Piece, tokens: Sequence[Match], matches: Sequence[Match]) -> Iterator[Piece]:
        """Yield the tokens, and what becomes of the text between them."""
        rest = _outside(matches, tokens)
        places = _places(run)
        last = index = 0
        for form, start, end in tokens:
            low = _position(places, start)
            before = index
            while index < len(rest) and rest[index][1] < start:
                index += 1
            yield from self._again(_slice(run, last, low), rest[before:index])
            yield Piece(self._text[start:end], ((0, start),), self._forms[form].token_id)
            last = low + end - start
        yield from self._again(_slice(run, last, len(run.text)), rest[index:])

    def _again(self, run: Piece, matches: Sequence[Match]) -> Iterable[Piece]:
        if not run.text:
            return ()
        return self._second_pass(run, matches) if matches else (run,)

    def _part(self, normal: str, origins: Sequence[int], low: int, high: int) -> Piece:
        stretches = [
            (place - low, origins[place])
            for place in range(low, high)
            if place == low or origins[place] != origins[place - 1] + 1
        ]
        return Piece(normal[low:high], tuple(stretches), None, normalized=self._rules.tokenizer.normalizes)

    def _locate(
        self, normal: str, run: Piece, spans: Sequence[tuple[int, int]], matches: Sequence[Match]
    ) -> list[_Found]:
        """Return where matches are in the normalised text, by start, then the longest first."""
        found: list[_Found] = []
        by_form: dict[int, dict[int, Match]] = {}
        for match in matches:
            by_form.setdefault(match[0], {})[match[1]] = match
        for form, starts in by_form.items():
            pattern = self._rules.tokenizer.patterns.get(self._forms[form].text)
            begin = normal.find(pattern.text) if pattern is not None else -1
            while pattern is not None and begin >= 0:
                end = begin + len(pattern.text)
                spelled = starts.get(_origin(run, spans[begin + pattern.lead][0]))
                if spelled is not None and _origin(run, spans[end - 1][1] - 1) < spelled[2]:
                    found.append(_Found(spelled, begin, end))
                begin = normal.find(pattern.text, begin + 1)
        return sorted(found, key=lambda each: (each.start, -each.end))

    def _choose(self, found: Iterable[_Found], normal: str, origins: Sequence[int]) -> list[_Found]:
        """Return the leftmost and longest that stand alone where they must, with what each swallows."""
        leftmost: list[_Found] = []
        end = 0
        for each in found:
            if each.start >= end:
                end = each.end
                if not self._rules.tokens[each.match[0]].single_word or self._is_alone(each, normal, origins):
                    leftmost.append(each)
        chosen: list[_Found] = []
        last = 0
        for number, each in enumerate(leftmost):
            token = self._rules.tokens[each.match[0]]
            start, end = each.start, each.end
            limit = leftmost[number + 1].start if number + 1 < len(leftmost) else len(normal)
            while token.lstrip and start > last and normal[start - 1] in WHITE_SPACE:
                start -= 1
            while token.rstrip and end < limit and normal[end] in WHITE_SPACE:
                end += 1
            chosen.append(_Found(each.match, start, end))
            last = end
        return chosen

    def _is_alone(self, found: _Found, normal: str, origins: Sequence[int]) -> bool:
        source = self._source(found.match[1])
        beside = [place for place in (found.start - 1, found.end) if 0 <= place < len(normal)]
        return not any(
            origins[place] >= 0
            and self._source(origins[place]) == source
            and self._rules.tokenizer.is_word(normal[place])
            for place in beside
        )

    def _find_staying(self, run: Piece, matches: Sequence[Match], found: set[Match]) -> Iterator[Match]:
        """Yield the matches that are tokens as their own source wrote them and that its neighbours would unmake."""
        by_source: dict[int, list[Match]] = {}
        for match in matches:
            if self._text[match[1] : match[2]] == self._forms[match[0]].text:
                by_source.setdefault(bisect_right(self._borders, match[1]), []).append(match)
        places = _places(run)
        for index, own in by_source.items():
            if found.issuperset(own):
                continue
            start, end = self._borders[index - 1], self._borders[index]
            low = max(_position(places, own[0][1]) - (own[0][1] - start), 0)
            high = min(_position(places, own[-1][2] - 1) + end - own[-1][2] + 1, len(run.text))
            alone = _slice(run, low, high)
            if len(alone.text) < len(run.text):
                normal, spans = self._rules.tokenizer.align(alone.text)
                origins = [_origin(alone, place) for place, _ in spans]
                chosen = self._choose(self._locate(normal, alone, spans, own), normal, origins)
                yield from (each.match for each in chosen if each.match not in found)


def _outside(matches: Sequence[Match], tokens: Sequence[Match]) -> list[Match]:
    """Return the matches that overlap none of the tokens; both are in order."""
    ends = [end for _, _, end in tokens]
    outside: list[Match] = []
    for match in matches:
        place = bisect_right(ends, match[1])
        if place == len(tokens) or tokens[place][1] >= match[2]:
            outside.append(match)
    return outside


def _origin(piece: Piece, position: int) -> int:
    """Return where a character of a piece came from, or -1 if it was put in."""
    at, origin = piece.origins[bisect_right(piece.origins, position, key=_at) - 1]
    return origin + position - at if origin >= 0 else -1


def _places(piece: Piece) -> list[tuple[int, int]]:
    """Return for each stretch of a piece where it came from, and where it is there; what was put in is left out."""
    return [(origin, at) for at, origin in piece.origins if origin >= 0]


def _position(places: Sequence[tuple[int, int]], origin: int) -> int:
    """Return where in a piece the character is that came from `origin`; it was not cut."""
    place, at = places[bisect_right(places, origin, key=_at) - 1]
    return at + origin - place


def _slice(piece: Piece, low: int, high: int) -> Piece:
    first = bisect_right(piece.origins, low, key=_at)
    last = bisect_left(piece.origins, high, key=_at)
    inside = [(at - low, origin) for at, origin in piece.origins[first:last]]
    return Piece(piece.text[low:high], ((0, _origin(piece, low)), *inside), None)


def _at(stretch: tuple[int, int]) -> int:
    return stretch[0]
