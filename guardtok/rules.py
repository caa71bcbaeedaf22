"""A tokenizer's own rules, by the forms of a ruleset: what each added token swallows, and what becomes a form.

A library that normalises parses a token out of characters that do not spell it. What it would parse is a form as much
as the form itself, so the automaton here looks for forms in the normalised text.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from ahocorasick_rs import AhoCorasick, MatchKind

from guardtok.errors import TokenizerError
from guardtok.tokenizer import ControlToken, RuledTokenizer, TokenClass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from guardtok.tokenizer import Tokenizer
    from guardtok.violation import Match


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a tokenizer for the forms of a ruleset.

    Attributes:
        tokenizer: The tokenizer.
        tokens: By index of a form, its control token.
        folded: The indices of the forms that `folding` finds.
        folding: Finds in normalised text the forms that the normaliser can make; None where it makes none.
        cores: These forms as they are in normalised text, decomposed (NFD), in the order of their code points.
        weak: Finds forms whose id is not reserved and that the model parses; None where there are none.
        weak_ids: The ids of these forms.
        places: Whether the leftmost and longest match is not always the one that the library parses.
    """

    tokenizer: RuledTokenizer
    tokens: Mapping[int, ControlToken] = field(repr=False)
    folded: tuple[int, ...] = field(repr=False)
    folding: AhoCorasick | None = field(repr=False)
    cores: tuple[str, ...] = field(repr=False)
    weak: AhoCorasick | None = field(repr=False)
    weak_ids: tuple[int, ...] = field(repr=False)
    places: bool

    def find_folded(self, normal: str) -> list[Match]:
        """Return where forms are in normalised text, overlapping ones too, positions in its characters."""
        if self.folding is None:
            return []
        found = self.folding.find_matches_as_indexes(normal, overlapping=True)
        return [(self.folded[index], start, end) for index, start, end in found]

    def find_open(self, text: str) -> int:
        """Return where a form begins that the normaliser may make of a text and of what follows it, or its length.

        A form that is whole is open too: a mark that follows belongs to its last character, or unmakes it. What a
        `Replace` of several characters makes of a text that breaks off inside them is not foreseen.

        Raises:
            TokenizerError: The tokenizer failed.
        """
        normal = self.tokenizer.normalize(text)
        for place in range(max(0, len(normal) - max(map(len, self.cores), default=0)), len(normal)):
            if self._may_grow(normal[place:]):
                return self.tokenizer.align(text).spans[place][0]
        return len(text)

    def _may_grow(self, normal: str) -> bool:
        """Whether a form may begin with this, but for marks at its end, which can still be composed otherwise."""
        begun = unicodedata.normalize("NFD", normal)
        while begun and unicodedata.combining(begun[-1]):
            begun = begun[:-1]
        index = bisect_left(self.cores, begun)
        return bool(begun) and index < len(self.cores) and self.cores[index].startswith(begun)

    def find_weak(self, normal: str) -> frozenset[int]:
        """Return the ids of the forms in normalised text that the model would parse, and whose ids prove nothing."""
        if self.weak is None:
            return frozenset()
        found = self.weak.find_matches_as_indexes(normal, overlapping=True)
        return frozenset(self.weak_ids[index] for index, _, _ in found)


def read_rules(tokenizer: Tokenizer | None, forms: Sequence[str]) -> Rules | None:
    """Return a tokenizer's rules, or None where it has none.

    Args:
        tokenizer: The tokenizer.
        forms: The forms of the ruleset, in their order.

    Raises:
        TokenizerError: The tokenizer failed.
    """
    if not isinstance(tokenizer, RuledTokenizer):
        return None
    index = {form: number for number, form in enumerate(forms)}
    tokens = {index[token.form]: token for token in tokenizer.control_tokens if token.form in index}
    folds = [(index[form], core) for form, core in tokenizer.folds.items() if form in index]
    weak = [
        token
        for token in tokenizer.control_tokens
        if token.kind is not TokenClass.CONTROL
        and token.id in list(tokenizer.encode_ordinary(token.form, at_start=True))
    ]
    return Rules(
        tokenizer=tokenizer,
        tokens=MappingProxyType(tokens),
        folded=tuple(number for number, _ in folds),
        folding=AhoCorasick([core for _, core in folds], MatchKind.Standard) if folds else None,
        cores=tuple(sorted(unicodedata.normalize("NFD", core) for _, core in folds)),
        weak=AhoCorasick([token.form for token in weak], MatchKind.Standard) if weak else None,
        weak_ids=tuple(token.id for token in weak),
        places=tokenizer.ruled or bool(folds),
    )


def with_text_tokens(tokenizer: Tokenizer, forms: Sequence[str], place: str) -> Tokenizer:
    """Return a tokenizer for which these tokens are text.

    Args:
        tokenizer: The tokenizer.
        forms: The tokens; those that it does not have change nothing.
        place: Where the policy says so, for the error.

    Raises:
        TokenizerError: It has one of them, and cannot parse it as text.
    """
    if isinstance(tokenizer, RuledTokenizer):
        return tokenizer.with_text_tokens(forms)
    if not {token.form for token in tokenizer.control_tokens}.isdisjoint(forms):
        raise TokenizerError(
            f"{place}: tokenizer {tokenizer.name!r} cannot take a control token of its own for text. Take it out of "
            "`text_tokens`, and allow it for the sources that may write it."
        )
    return tokenizer
