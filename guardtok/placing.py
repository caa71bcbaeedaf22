"""Which id a new token gets, and why it may not have the one that it asks for.

Two strings under one id, or two ids for one string, are what breaks a vocabulary in silence: every check on ids that
comes later proves nothing. A policy's custom tokens and an extension's tokens are placed here, by one set of rules.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Literal, TypeAlias

from guardtok.errors import ExtensionError, TokenizerError, near_match
from guardtok.extension import Placement
from guardtok.finding import Finding, Severity
from guardtok.tokenizer import Role
from guardtok.violation import broken, visible

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from guardtok.tokenizer import Tokenizer

MAX_ID = 2**32 - 1
"""Ids are unsigned 32-bit integers in tiktoken and in tokenizers."""

MAX_FORM_CHARS = 256
"""Characters of the longest form; as in a policy."""

MAX_TOKENS = 16_384
"""The most tokens at once. Each is looked for in every text, and no known model reserves a tenth as many."""

Scheme: TypeAlias = "Literal['auto', 'append', 'gaps', 'reserved'] | Mapping[str, int]"
"""How ids are chosen, see `place`."""

SCHEMES = ("auto", "append", "gaps", "reserved")

# A slot is nobody's yet, so a number is all that it has for a name. `<pad>` is called reserved too and is somebody's,
# and so is `<extra_id_0>`, which T5 was trained with.
_SLOT = re.compile(r"[<\[]\|?(?:\w*reserved\w*?|extra|unused|dummy|placeholder|SPECIAL)_?\d+\|?[>\]]")

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Placed:
    """A token with its id.

    Attributes:
        form: The string that spells it.
        id: Its id.
        placement: Where the id came from.
        replaces: The form of the reserved slot that it takes, or None.
    """

    form: str
    id: int
    placement: Placement
    replaces: str | None = None


def place(
    base: Tokenizer, forms: Sequence[str], ids: Scheme = "auto", *, avoid: Collection[int] = (), replace: bool = False
) -> tuple[Placed, ...]:
    """Return an id for each form, in their order.

    Args:
        base: The tokenizer that the tokens are added to; it is only asked.
        forms: What spells the tokens.
        ids: `auto`: a token that the base has keeps its id, any other gets the next free one above all. `append`: the
            same, and no token may be there already. `gaps`: the lowest ids that the base leaves unused. `reserved`: the
            ids of its reserved slots, lowest first. A mapping: these ids, and `auto` for a form that it leaves out.
        avoid: Ids that are not to be given to a token that asks for none.
        replace: Whether a mapping may name the id of a reserved slot, whose form is then gone.

    Raises:
        ExtensionError: A form or an id that cannot be had; holds everything that is wrong.
    """
    problems = list(_check_request(forms, ids))
    if problems:
        raise ExtensionError(problems)
    wanted = ids if isinstance(ids, Mapping) else {}
    scheme = "auto" if isinstance(ids, Mapping) else ids
    own = {token.form: token.id for token in base.control_tokens}
    slots = reserved_slots(base) if replace or scheme == "reserved" else {}
    fresh = [form for form in forms if form not in wanted and not (scheme == "auto" and form in own)]
    given = {*wanted.values(), *avoid}
    supply = _supply(base, scheme, slots, given, len(fresh))
    short = len(fresh) - len(supply)
    if short > 0:
        raise ExtensionError([_too_few(base, scheme, len(supply), len(fresh))])
    chosen = dict(zip(fresh, supply, strict=True)) | {form: wanted[form] for form in forms if form in wanted}
    placed, problems = [], []
    seen: set[int] = set()
    free = base.n_vocab
    for form in forms:
        id_ = chosen.get(form, own.get(form, 0))
        problem = _refuse(base, form, id_, own, slots, scheme) or refuse_id(form, id_, seen, free)
        if problem is not None:
            problems.append(problem)
            continue
        seen.add(id_)
        free = max(free, id_ + 1)
        placed.append(_describe(base, form, id_, own, slots))
    if problems:
        raise ExtensionError(problems)
    return tuple(placed)


def refuse_form(form: object, what: str = "token") -> Finding | None:
    """Return why something cannot spell a token, or None."""
    if type(form) is not str:
        fact, mend = f"is a {type(form).__name__}, not a string", "Spell the token as a str."
        return Finding("form-invalid", Severity.ERROR, f"a {what}", f"The token {fact}.", mend)
    if not is_form(form):
        fact, mend = "is empty or is not valid Unicode", "Spell the token with at least one character."
    elif form.isspace():
        fact, mend = "is only white space, which stands in every text", "Spell it with characters that can be seen."
    elif len(form) > MAX_FORM_CHARS:
        fact = f"has {len(form):,} characters, more than {MAX_FORM_CHARS}"
        mend = "Spell it shorter."
    else:
        return None
    return Finding("form-invalid", Severity.ERROR, shown(form), f"The form {fact}.", mend)


def refuse_id(form: str, id_: object, taken: Collection[int], free: int) -> Finding | None:
    """Return why a token cannot have an id, or None.

    Args:
        form: What spells the token.
        id_: What is to be its id.
        taken: The ids that mean something else.
        free: From here up every id is free, for the advice.
    """
    if type(id_) is not int or not 0 <= id_ <= MAX_ID:
        fact = "The id is not a 32-bit number."
        return Finding("id-invalid", Severity.ERROR, shown(form), fact, f"Give it an id from 0 to {MAX_ID}.")
    if id_ in taken:
        fact = f"It has the id {id_}, which is taken."
        return Finding("id-taken", Severity.ERROR, shown(form), fact, f"Use a free id, from {free} up.")
    return None


def refuse_present(form: str, id_: int) -> Finding:
    """Return that a token is there already, under another id than the one that was asked for."""
    fact = f"It is a special token with the id {id_} already."
    return Finding("form-taken", Severity.ERROR, shown(form), fact, 'Leave it out, or use that id: ids="auto" does.')


def refuse_second_ids(name: str, own: Mapping[str, int], ids: Mapping[str, int]) -> None:
    """Refuse to give a custom token a second id.

    Raises:
        TokenizerError: A form of `ids` has another id in `own`, the custom tokens of the tokenizer of this name.
    """
    for form, id_ in ids.items():
        if own.get(form, id_) != id_:
            raise TokenizerError(
                f"{name}: the custom token {broken(form)!r} has the id {own[form]} and cannot have {id_} too. Give it "
                "one id."
            )


def is_form(form: str) -> bool:
    """Return whether a string can be a surface form: it has characters, and UTF-8 can write them."""
    try:
        return bool(form.encode())
    except UnicodeEncodeError:
        return False


def has_id(base: Tokenizer, id_: int) -> bool:
    """Return whether an id of a tokenizer stands for anything."""
    try:
        base.decode_bytes([id_])
    except KeyError:
        return False
    return True


def gaps(base: Tokenizer) -> Iterator[int]:
    """Yield the ids below the highest one that the tokenizer leaves unused, lowest first."""
    return (id_ for id_ in range(base.n_vocab) if not has_id(base, id_))


def reserved_slots(base: Tokenizer) -> dict[int, str]:
    """Return the reserved slots of a tokenizer that nobody uses yet: form by id, lowest first.

    A slot is a control token with a number for a name (`<|extra_0|>`, `<|reserved_special_token_7|>`, `<unused3>`). One
    whose id has a second form, or that the catalogue gives a role in a family with this id, is no slot.
    """
    forms = Counter(token.id for token in base.control_tokens)
    return {
        token.id: token.form
        for token in base.control_tokens
        if forms[token.id] == 1 and token.role in {Role.RESERVED, None} and _SLOT.fullmatch(token.form)
    }


def shown(form: str) -> str:
    """Return a form for a message: broken, printable, and not longer than a line."""
    return broken(form[:_SHOWN]) + ("…" if len(form) > _SHOWN else "")


def _check_request(forms: Sequence[str], ids: object) -> Iterator[Finding]:
    """Yield what is wrong with a request before any id is looked at."""
    if isinstance(forms, (str, bytes)):
        fact = "The tokens are one string, and each of its characters would become a token."
        yield Finding("form-invalid", Severity.ERROR, "the tokens", fact, "Put the token into a list.")
        return
    if len(forms) > MAX_TOKENS:
        fact = f"There are more than {MAX_TOKENS:,} of them."
        mend = "What ordinary text is made of belongs into the vocabulary's merges: train those."
        yield Finding("too-many-tokens", Severity.ERROR, "the tokens", fact, mend)
        return
    yield from filter(None, map(refuse_form, forms))
    times = Counter(form for form in forms if type(form) is str)
    for form, number in times.items():
        if number > 1:
            fact = f"The token is given {number} times."
            yield Finding("form-twice", Severity.ERROR, shown(form), fact, "Give it once.")
    if isinstance(ids, Mapping):
        strange = [form for form in ids if form not in times]
        for form in strange:
            where = shown(str(form))
            fact = "`ids` has an id for it, and it is no new token."
            yield Finding("id-of-nothing", Severity.ERROR, where, fact, "Add the token, or take its id out.")
        if not strange:
            yield from filter(None, (refuse_id(form, id_, (), 0) for form, id_ in ids.items()))
    elif not isinstance(ids, str) or ids not in SCHEMES:
        word = visible(ids[:_SHOWN]) if isinstance(ids, str) else f"a {type(ids).__name__}"
        near = near_match(ids, SCHEMES).strip() if isinstance(ids, str) else ""
        mend = near or f"Say one of {', '.join(SCHEMES)}, or give a mapping from token to id."
        yield Finding("ids-invalid", Severity.ERROR, "ids", f"There is no way of choosing ids named {word!r}.", mend)


def _supply(base: Tokenizer, scheme: str, slots: Mapping[int, str], given: Collection[int], wanted: int) -> list[int]:
    """Return the ids for tokens that ask for none, at most as many as are wanted."""
    if wanted == 0:
        return []
    candidates: Iterable[int]
    if scheme == "gaps":
        candidates = gaps(base)
    elif scheme == "reserved":
        candidates = slots
    else:
        candidates = count(base.n_vocab)
    return [id_ for id_, _ in zip((each for each in candidates if each not in given), range(wanted), strict=False)]


def _too_few(base: Tokenizer, scheme: str, there: int, wanted: int) -> Finding:
    fact = f"{there} {'gaps' if scheme == 'gaps' else 'reserved slots'} are free, and {wanted} tokens need one."
    mend = 'Use ids="append" for the others, or give each its id in a mapping.'
    return Finding("too-few-ids", Severity.ERROR, base.name, fact, mend)


def _refuse(  # noqa: PLR0913, PLR0917 - what is asked of two tables
    base: Tokenizer, form: str, id_: int, own: Mapping[str, int], slots: Mapping[int, str], scheme: str
) -> Finding | None:
    """Return why the base stands against a token under an id, or None."""
    if form in own:
        return None if own[form] == id_ and scheme == "auto" else refuse_present(form, own[form])
    if id_ in slots or not has_id(base, id_):
        return None
    return refuse_id(form, id_, {id_}, base.n_vocab)


def _describe(base: Tokenizer, form: str, id_: int, own: Mapping[str, int], slots: Mapping[int, str]) -> Placed:
    if form in own:
        return Placed(form, id_, Placement.PRESENT)
    if id_ in slots:
        return Placed(form, id_, Placement.RESERVED, slots[id_])
    return Placed(form, id_, Placement.GAP if id_ < base.n_vocab else Placement.APPEND)
