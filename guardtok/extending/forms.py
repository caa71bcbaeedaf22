"""What can be said of new tokens by looking at how they are spelled, before anything is built.

The well-known accident is a token that fires where nobody meant it: inside a longer word, inside another token, or in
text that was ordinary until then. Two libraries can also read one text differently, for tiktoken tries its special
tokens in the order of a hash table and tokenizers takes the longest.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from ahocorasick_rs import AhoCorasick, MatchKind

from guardtok.extending.corpus import CORPUS
from guardtok.extension import Placement
from guardtok.finding import Finding, Severity
from guardtok.placing import shown
from guardtok.vocabularies import VOCABULARIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from guardtok.extension import NewToken
    from guardtok.tokenizer import Tokenizer


def check_base(base: Tokenizer) -> Iterator[Finding]:
    """Yield what is wrong with a vocabulary before anything is added to it."""
    forms = defaultdict(list)
    for token in base.control_tokens:
        forms[token.id].append(token.form)
    for id_, several in forms.items():
        if len(several) > 1:
            fact = f"The id {id_} has {len(several)} forms: {', '.join(map(shown, several))}."
            mend = "Decoding gives one of them. Write only that one."
            yield Finding("base-id-twice", Severity.WARNING, base.name, fact, mend)
    pairs = list(_prefixes(sorted(token.form for token in base.control_tokens)))
    if pairs:
        short, long = pairs[0]
        fact = f"{len(pairs)} tokens of the base begin with another one: {shown(long)} with {shown(short)}."
        mend = "tiktoken gives no order to them. A guard reads the longest."
        yield Finding("base-overlap", Severity.WARNING, base.name, fact, mend)


def check_spelling(
    base: Tokenizer, tokens: Sequence[NewToken], normalize: Callable[[str], str] | None = None
) -> Iterator[Finding]:
    """Yield what is wrong or doubtful about how the new tokens are spelled.

    Args:
        base: The vocabulary that is extended.
        tokens: The new tokens.
        normalize: The base's normaliser, if it has one.
    """
    new = [token.form for token in tokens if token.placement is not Placement.PRESENT]
    replaced = {token.replaces for token in tokens}
    old = [token.form for token in base.control_tokens if token.form not in replaced]
    yield from _check_twins(new, old, normalize)
    ordinary = AhoCorasick(new, matchkind=MatchKind.Standard)
    frequent = Counter(
        index for text in CORPUS for index, _, _ in ordinary.find_matches_as_indexes(text, overlapping=True)
    )
    for index, form in enumerate(new):
        where = shown(form)
        if frequent[index]:
            fact = f"Ordinary text holds it: {frequent[index]} times in the samples that guardtok tries."
            mend = "Spell it as nobody writes, <|like_this|>."
            yield Finding("ordinary-text", Severity.WARNING, where, fact, mend)
        elif re.fullmatch(r"\w+", form):
            fact = "It is a bare word: where the token is parsed, it is read inside longer words, too."
            mend = "Put it between signs, <|like_this|>."
            yield Finding("bare-word", Severity.WARNING, where, fact, mend)
        if form != form.strip():
            fact = "It begins or ends with white space, which editors and templates trim."
            yield Finding("edge-space", Severity.WARNING, where, fact, "Spell it without.")
        if not form.isprintable():
            fact = "It holds a character that cannot be seen."
            yield Finding("unprintable", Severity.WARNING, where, fact, "Spell it with printable characters.")
    for token in tokens:
        if token.placement is not Placement.PRESENT and len(token.pieces) == 1:
            fact = f"The base has it as one ordinary token, {token.pieces[0]}: decoded, both look the same."
            mend = "Spell it so that ordinary text needs several tokens for it."
            yield Finding("one-piece", Severity.WARNING, shown(token.form), fact, mend)


def check_overlaps(base: Tokenizer, tokens: Sequence[NewToken], *, longest: bool) -> Iterator[Finding]:
    """Yield which new tokens overlap others.

    Where one form begins with another, both match at the same place and the libraries choose by rules of their own:
    an error, unless `longest` says that guardtok's rule is to hold. In all other overlaps the left one wins everywhere.
    """
    new = {token.form for token in tokens if token.placement is not Placement.PRESENT}
    replaced = {token.replaces for token in tokens}
    every = sorted({token.form for token in base.control_tokens if token.form not in replaced} | new)
    severity = Severity.WARNING if longest else Severity.ERROR
    for short, long in _prefixes(every):
        if short in new or long in new:
            fact = f"It begins with {shown(short)}, another token. tiktoken reads either, in the order of a hash table."
            mend = (
                "Have text parsed by a guard, which reads the longest; tiktoken's own `encode` may not."
                if longest
                else 'Spell them apart, or say overlap="longest" and have text parsed by a guard alone.'
            )
            yield Finding("overlap-prefix", severity, shown(long), fact, mend)
    inside = AhoCorasick(every, matchkind=MatchKind.Standard)
    firsts = {form[0] for form in every}
    for form in every:
        for index, start, _ in inside.find_matches_as_indexes(form, overlapping=True):
            other = every[index]
            if start > 0 and (form in new or other in new):
                fact = f"It holds {shown(other)}, another token; where both are parsed, the outer one is read."
                yield Finding("overlap-inside", Severity.WARNING, shown(form), fact, "Spell them apart.")
                break
        border = _border(form, every, firsts)
        if border is not None and (form in new or border in new):
            fact = f"Its end is the beginning of {shown(border)}; where they run into each other, the left one is read."
            yield Finding("overlap-border", Severity.WARNING, shown(form), fact, "Spell them apart.")


def check_ids(base: Tokenizer, tokens: Sequence[NewToken]) -> Iterator[Finding]:
    """Yield what is doubtful about the ids that the new tokens got, and what became of reserved slots."""
    claimed = _claimed(base.name)
    for token in tokens:
        if token.replaces is not None:
            fact = f"It takes the id {token.id} of {shown(token.replaces)}, which is no token any more."
            yield Finding("slot-replaced", Severity.NOTE, shown(token.form), fact)
        name, form = claimed.get(token.id, ("", token.form))
        if form != token.form and token.placement in {Placement.GAP, Placement.APPEND}:
            fact = f"Its id {token.id} is {shown(form)} in {name}, which has the same ordinary tokens."
            mend = "A model of that vocabulary reads it so. Choose another id, or extend that one."
            yield Finding("id-claimed", Severity.WARNING, shown(token.form), fact, mend)
    appended = sorted(token.id for token in tokens if token.placement is Placement.APPEND)
    holes = appended[-1] + 1 - base.n_vocab - len(appended) if appended else 0
    if holes:
        fact = f"{holes:,} ids between the base's highest and the new ones are nobody's: a model gets a row for each."
        mend = "Give the next free ids, unless a model has those rows already."
        yield Finding("ids-with-holes", Severity.WARNING, base.name, fact, mend)


def _check_twins(new: Sequence[str], old: Sequence[str], normalize: Callable[[str], str] | None) -> Iterator[Finding]:
    """Yield new forms that are another form once somebody has normalised the text."""
    folds: list[tuple[str, Severity, str, Callable[[str], str]]] = [
        ("lookalike", Severity.WARNING, "after NFKC and without case", _fold),
    ]
    if normalize is not None:
        folds.insert(0, ("form-twice", Severity.ERROR, "after the tokenizer's own normaliser", normalize))
    for code, severity, when, fold in folds:
        first: dict[str, str] = {fold(form): form for form in reversed(old)}
        for form in new:
            twin = first.setdefault(fold(form), form)
            if twin != form:
                fact = f"It is the same as {shown(twin)} {when}."
                yield Finding(code, severity, shown(form), fact, "Spell it differently.")


def _fold(form: str) -> str:
    return unicodedata.normalize("NFKC", form).casefold()


def _prefixes(ordered: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each form that begins with another one, after the longest such; the forms are sorted."""
    open_: list[str] = []
    for form in ordered:
        while open_ and not form.startswith(open_[-1]):
            open_.pop()
        if open_:
            yield open_[-1], form
        open_.append(form)


def _border(form: str, ordered: Sequence[str], firsts: set[str]) -> str | None:
    """Return a form that begins with a proper end of this one and goes on, or None."""
    for start in range(1, len(form)):
        if form[start] not in firsts:
            continue
        end = form[start:]
        at = bisect_right(ordered, end)
        if at < len(ordered) and ordered[at].startswith(end):
            return ordered[at]
    return None


def _claimed(name: str) -> Mapping[int, tuple[str, str]]:
    """Return the ids that known vocabularies with the same ordinary tokens give: vocabulary and form."""
    known = VOCABULARIES.get(name)
    if known is None:
        return {}
    others = [each for each in VOCABULARIES.values() if each.file is known.file and each.name != name]
    return {id_: (each.name, form) for each in others for form, id_ in each.special_tokens.items()}
