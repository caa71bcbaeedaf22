"""What can be said of an extended vocabulary once it is built: old ids, ordinary text, and the new tokens in context.

A library may have placed a token elsewhere than it was told, or read it elsewhere than it stands. So what was built is
asked; what was meant to be built proves nothing.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from guardtok.extending.corpus import CORPUS
from guardtok.finding import Finding, Severity
from guardtok.placing import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from guardtok.extending.reading import Reading
    from guardtok.extension import NewToken
    from guardtok.tokenizer import Tokenizer

CONTEXTS = (
    ("", ""),
    (" ", " "),
    ("a", "b"),
    ("The ", " was"),
    ("\n", "\n"),
    ("\t", "\t"),
    ("  ", "   "),
    ("7", "8"),
    ("_", "_"),
    (". ", ", "),
    ("(", ")"),
    ("'", "'s"),
    ("é", "ß"),
    ("漢", "字"),
    ("👩\u200d💻", "🎉"),
    ("\u00a0", "\u0301"),
)
"""What stands left and right of a new token when it is tried."""

_TOGETHER = 512
"""So many tokens are tried in one text; only where that fails, each alone."""

_SHOWN = 8


def check_old_ids(where: str, base: Tokenizer, new: Tokenizer, tokens: Sequence[NewToken]) -> Iterator[Finding]:
    """Yield whether every id of the base stands for the bytes that it stood for, replaced slots apart."""
    replaced = {token.id for token in tokens if token.replaces is not None}
    count, changed = 0, []
    for id_ in range(base.n_vocab):
        old = _bytes_of(base, id_)
        if old is None or id_ in replaced:
            continue
        count += 1
        if _bytes_of(new, id_) != old:
            changed.append(id_)
    if changed:
        fact = f"{len(changed):,} old ids stand for other bytes than before: {', '.join(map(str, changed[:_SHOWN]))}."
        mend = "The library placed a token elsewhere than it was told; report this."
        yield Finding("old-ids-changed", Severity.ERROR, where, fact, mend)
    else:
        yield Finding("old-ids-kept", Severity.NOTE, where, f"All {count:,} other ids stand for the same bytes.")


def check_ordinary(where: str, base: Reading, new: Reading, tokens: Sequence[NewToken]) -> Iterator[Finding]:
    """Yield whether text without any new token is read as before."""
    free = [text for text in CORPUS if not any(token.form in text for token in tokens)]
    changed = [text for text in free if base.encode(text) != new.encode(text)]
    if changed:
        fact = f"{len(changed)} of {len(free)} samples of ordinary text come out as other ids, without any new token."
        mend = "The library reads text differently now; report this."
        yield Finding("ordinary-changed", Severity.ERROR, where, fact, mend)
    else:
        fact = f"{len(free)} samples of ordinary text come out as the same ids."
        yield Finding("ordinary-kept", Severity.NOTE, where, fact)


def check_contexts(
    where: str, base: Reading, new: Reading, tokens: Sequence[NewToken], *, longest: bool
) -> Iterator[Finding]:
    """Yield whether each new token is read as its id, once, whatever stands left and right of it, and decodes back."""
    broken: dict[str, str] = {}
    # Some vocabularies cannot write every text, whatever is added to them.
    exact = all(base.decode(base.encode(text)) == text for text in CORPUS)
    for left, right in CONTEXTS:
        waiting = iter(tokens)
        while some := list(islice(waiting, _TOGETHER)):
            if not _reads(new, some, left, right, exact=exact):
                alone = (token for token in some if not _reads(new, [token], left, right, exact=exact))
                broken.update((token.form, f"{left!a} and {right!a}") for token in alone)
    for form, context in broken.items():
        fact = f"Between {context} it does not come out as its id and decode to what went in."
        if longest:
            mend = "Another token overlaps it and the library's own order decides. Have text parsed by a guard alone."
            yield Finding("context", Severity.WARNING, shown(form), fact, mend)
        else:
            yield Finding("context", Severity.ERROR, shown(form), fact, "Spell it differently.")
    if not broken:
        fact = f"{len(tokens):,} tokens come out as their ids in {len(CONTEXTS)} contexts"
        fact += ", and decode to what went in." if exact else "; the base does not decode every text to what went in."
        yield Finding("contexts-kept", Severity.NOTE, where, fact)


def _reads(new: Reading, tokens: Sequence[NewToken], left: str, right: str, *, exact: bool) -> bool:
    text = "\n\n".join(left + token.form + right for token in tokens)
    ids = new.encode(text)
    meant = {token.id for token in tokens}
    return [id_ for id_ in ids if id_ in meant] == [token.id for token in tokens] and (
        not exact or new.decode(ids) == text
    )


def _bytes_of(tokenizer: Tokenizer, id_: int) -> bytes | None:
    try:
        return tokenizer.decode_bytes([id_])
    except KeyError:
        return None
