"""The checks: each one promise of `guardtok.tokenizer.Tokenizer`, tried on a tokenizer."""

from __future__ import annotations

import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn

from guardtok.dialects import catalogue
from guardtok.encode import encode_run
from guardtok.errors import ConformanceError, GuardtokError, TokenizerError, VerificationError, is_failure
from guardtok.policy.model import Policy
from guardtok.ruleset import bind
from guardtok.testing.cases import make_cases
from guardtok.tokenizer import RuledTokenizer, TokenClass, Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from guardtok.ruleset import Ruleset

THREADS = 8

_LONG = 1_000_000
"""Characters of the runs that make regex engines give up."""

_POLICY = 'guardtok: 1\nname: conformance\nforeign: ignore\nlookalikes: ignore\nsources: {"*": {default: escape}}\n'
_CUSTOM = "<|guardtok conformance|>"
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")


class Subject:
    """A tokenizer under test, with what several checks need of it."""

    def __init__(self, tokenizer: Tokenizer, seed: int, cases: int, forms: tuple[str, ...]) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self.forms = forms
        self.cases = make_cases(tokenizer, seed=seed, cases=cases)
        self.counts = (0, 0)

    @cached_property
    def ruleset(self) -> Ruleset:
        """The tokenizer under a policy that lets nobody write a control token."""
        return bind(Policy.parse(_POLICY), self.tokenizer)

    @cached_property
    def spelled(self) -> list[bytes | None]:
        """The bytes of each id below `n_vocab`, None for one that is nobody's."""
        return [self._spell(id_) for id_ in range(self.tokenizer.n_vocab)]

    def _spell(self, id_: int) -> bytes | None:
        try:
            return self.tokenizer.decode_bytes([id_])
        except KeyError:
            return None

    def encode(self, text: str, *, at_start: bool = True) -> list[int]:
        """Encode as the tokenizer does, without a guard."""
        return list(map(int, self.tokenizer.encode_ordinary(text, at_start=at_start)))

    def place(self, number: int) -> str:
        """Return what an error says of a text in place of the text."""
        return f"text {number} of seed {self.seed} ({self.cases[number].shape})"


def _fail(check: str, fact: str) -> NoReturn:
    raise ConformanceError(check, fact)


def _check_control_tokens(subject: Subject) -> None:
    """The list is well-formed, and no id that spells a control form is missing from it."""
    _check_list(subject, "control tokens")
    _check_complete(subject, "control tokens")


def _check_list(subject: Subject, check: str) -> None:
    tokenizer = subject.tokenizer
    if not isinstance(tokenizer, Tokenizer):
        _fail(check, "it lacks a method of guardtok.tokenizer.Tokenizer")
    tokens = tokenizer.control_tokens
    listed = {token.form: token.id for token in tokens}
    if len(listed) != len(tokens):
        _fail(check, "a form is listed twice")
    if [token.id for token in tokens] != sorted(token.id for token in tokens):
        _fail(check, "the tokens are not in the order of their ids")
    for number, token in enumerate(tokens):
        if not token.form or not 0 <= token.id < tokenizer.n_vocab:
            _fail(check, f"token {number} is empty, or its id is not below n_vocab")
        if token.kind is not TokenClass.CONTROL:
            continue
        if token.id not in tokenizer.reserved_ids:
            _fail(check, f"the id {token.id} is a control token's and not reserved")
        if not any(subject.spelled[token.id] == twin.form.encode() for twin in tokens if twin.id == token.id):
            _fail(check, f"the id {token.id} does not decode to a form that is listed for it")


def _check_complete(subject: Subject, check: str) -> None:
    tokenizer = subject.tokenizer
    listed = {token.form for token in tokenizer.control_tokens}
    if missing := [number for number, form in enumerate(subject.forms) if form not in listed]:
        _fail(check, f"the known form {missing[0]} is not listed")
    # An ordinary id that spells a form is as good as the form. One character is the exception: it cannot be cut apart.
    reserved = (token.form for token in tokenizer.control_tokens if token.kind is TokenClass.CONTROL)
    twins = {form.encode() for form in reserved if len(form) > 1}
    foreign = {entry.form.encode() for entry in catalogue().values() if not entry.common and entry.form not in listed}
    for id_, spelled in enumerate(subject.spelled):
        if spelled in twins and id_ not in tokenizer.reserved_ids:
            _fail(check, f"the id {id_} spells a listed form and is not reserved")
        if spelled in foreign and id_ in subject.encode(spelled.decode()):
            _fail(check, f"text becomes the id {id_}, which spells a control form of the catalogue and is not listed")


def _check_ordinary(subject: Subject) -> None:
    """No ordinary text comes out as a reserved id, and text that holds a form can be encoded as the text it is."""
    tokenizer, reserved = subject.tokenizer, subject.tokenizer.reserved_ids
    parsed = refused = 0
    for number, case in enumerate(subject.cases):
        for at_start in (True, False):
            ids = _encode_run(case.text, subject, at_start=at_start)
            if ids is None and case.exact:
                _fail("ordinary", f"{subject.place(number)} cannot be encoded without a reserved id")
            if ids is None:
                refused += at_start
                continue
            if not reserved.isdisjoint(ids):
                _fail("ordinary", f"{subject.place(number)} became a reserved id")
            if any(not 0 <= id_ < tokenizer.n_vocab for id_ in ids):
                _fail("ordinary", f"{subject.place(number)} became an id that is not below n_vocab")
            parsed += at_start and not reserved.isdisjoint(subject.encode(case.text))
    subject.counts = (parsed, refused)


def _encode_run(text: str, subject: Subject, *, at_start: bool) -> list[int] | None:
    """Encode text as a guard does, or return None where a guard would refuse to."""
    try:
        return list(map(int, encode_run(text, subject.ruleset, at_start=at_start)))
    except VerificationError:
        return None


def _check_lossless(subject: Subject) -> None:
    """Ids stand for the text that they were made of, as its normaliser leaves it, up to a space before it.

    Texts that hold something unknown to the tokenizer are left out, and U+2581 counts as the space that it is to
    SentencePiece. WordPiece and its kin lose white space; for them this check is no promise.
    """
    tokenizer = subject.tokenizer
    unknown = {token.id for token in tokenizer.control_tokens if token.kind is TokenClass.UNKNOWN}
    for number, case in enumerate(subject.cases):
        normal = tokenizer.normalize(case.text) if isinstance(tokenizer, RuledTokenizer) else case.text
        data = normal.replace("\u2581", " ").encode()
        for at_start in (True, False):
            ids = subject.encode(case.text, at_start=at_start)
            decoded = tokenizer.decode_bytes(ids)
            if unknown.isdisjoint(ids) and decoded != data and decoded.removeprefix(b" ") != data.removeprefix(b" "):
                _fail("lossless", f"{subject.place(number)} does not come back, at_start={at_start}")


def _check_bytes(subject: Subject) -> None:
    """Ids stand for their bytes one by one, in a sequence as alone, and an id that nobody has is a `KeyError`."""
    check, tokenizer = "bytes", subject.tokenizer
    ids = [id_ for id_, spelled in enumerate(subject.spelled) if spelled is not None]
    if tokenizer.decode_bytes(ids) != b"".join(filter(None, subject.spelled)):
        _fail(check, "all ids in a row do not decode to their own bytes")
    if tokenizer.decode_bytes([]) != b"":
        _fail(check, "no ids do not decode to no bytes")
    for id_ in (-1, tokenizer.n_vocab, 2**32, 2**64):
        try:
            tokenizer.decode_bytes([id_])
        except KeyError:
            continue
        except BaseException as error:
            if not is_failure(error):
                raise
        _fail(check, f"the id {id_}, which nobody has, is no KeyError")


def _check_threads(subject: Subject) -> None:
    """Threads that share it get the ids that one alone gets, each time."""
    texts = [case.text for case in subject.cases[-200:]]
    alone = [subject.encode(text) for text in texts]
    start = threading.Barrier(THREADS)

    def work(shift: int) -> bool:
        start.wait()
        order = [*range(shift, len(texts)), *range(shift)]
        return all(subject.encode(texts[number]) == alone[number] for number in order)

    with ThreadPoolExecutor(THREADS) as pool:
        shifts = [len(texts) * number // THREADS for number in range(THREADS)]
        if not all(pool.map(work, shifts)):
            _fail("threads", f"{THREADS} threads do not get the ids that one gets")


def _check_failures(subject: Subject) -> None:
    """Where the library gives up, a panic included, guardtok's own error is raised, and the next text is encoded."""
    long = (" " * _LONG, "\n" * _LONG, "a" * _LONG, "\u0301" * 10_000, "\U0001f469\u200d" * 10_000)
    before = subject.encode("a word")
    for number, text in enumerate(("", "\0", "\x1b[31m", *long)):
        fact = _failure(subject, text)
        if fact:
            _fail("failures", f"hard text {number}: {fact}")
    if subject.encode("a word") != before:
        _fail("failures", "a text that failed changes what the next becomes")


def _failure(subject: Subject, text: str) -> str:
    """Return what is wrong with how a text fails; empty where it does not fail, or fails as it should."""
    try:
        subject.encode(text)
    except GuardtokError as error:
        quotes = error.__context__ is not None or (text and text in str(error))
        return "the error carries what was encoded" if quotes else ""
    except BaseException as error:
        if not is_failure(error):
            raise
        return f"{type(error).__name__} is no error of guardtok's"
    return ""


def _check_pickle(subject: Subject) -> None:
    """A copy in another process is the same tokenizer."""
    tokenizer = subject.tokenizer
    copy: Tokenizer = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301 - it was pickled right here
    if copy.name != tokenizer.name or copy.fingerprint != tokenizer.fingerprint or copy.n_vocab != tokenizer.n_vocab:
        _fail("pickle", "the copy has another name, fingerprint or size")
    if copy.control_tokens != tokenizer.control_tokens or copy.reserved_ids != tokenizer.reserved_ids:
        _fail("pickle", "the copy has other control tokens")
    for number, case in enumerate(subject.cases):
        if list(map(int, copy.encode_ordinary(case.text, at_start=True))) != subject.encode(case.text):
            _fail("pickle", f"the copy makes other ids of {subject.place(number)}")


def _check_fingerprint(subject: Subject) -> None:
    """It is written as a SHA-256, stays the same, and differs where a control token is added."""
    first = subject.tokenizer.fingerprint
    if not _FINGERPRINT.fullmatch(first):
        _fail("fingerprint", "it is not `sha256:` and 64 hexadecimal digits")
    for case in subject.cases[:8]:
        subject.encode(case.text)
    if subject.tokenizer.fingerprint != first:
        _fail("fingerprint", "it changes while the tokenizer is used")
    if subject.tokenizer.with_custom_tokens({_CUSTOM: subject.tokenizer.n_vocab}).fingerprint == first:
        _fail("fingerprint", "it does not cover custom tokens")


def _check_custom_tokens(subject: Subject) -> None:
    """A custom token is a control token like others, in a tokenizer of its own; a taken id or form is refused."""
    check, tokenizer = "custom tokens", subject.tokenizer
    before, id_ = tokenizer.control_tokens, tokenizer.n_vocab
    more = tokenizer.with_custom_tokens({_CUSTOM: id_})
    if tokenizer.control_tokens != before or tokenizer.n_vocab != id_:
        _fail(check, "adding one changes the tokenizer that it was added to")
    if (_CUSTOM, id_) not in [(token.form, token.id) for token in more.control_tokens] or id_ not in more.reserved_ids:
        _fail(check, "it is not listed, or its id is not reserved")
    if more.n_vocab != id_ + 1 or more.decode_bytes([id_]) != _CUSTOM.encode():
        _fail(check, "its id is not below n_vocab, or does not decode to it")
    if id_ in map(int, encode_run(f"a {_CUSTOM}", bind(Policy.parse(_POLICY), more), at_start=True)):
        _fail(check, "text that spells it becomes its id")
    if before:
        taken, form = before[0].id, before[0].form
        for wrong in ({_CUSTOM: taken}, {form: id_}):
            try:
                tokenizer.with_custom_tokens(wrong)
            except TokenizerError:
                continue
            _fail(check, "an id or a form that is taken is no TokenizerError")


CHECKS: Mapping[str, Callable[[Subject], None]] = MappingProxyType(
    {
        "control tokens": _check_control_tokens,
        "ordinary": _check_ordinary,
        "lossless": _check_lossless,
        "bytes": _check_bytes,
        "threads": _check_threads,
        "failures": _check_failures,
        "pickle": _check_pickle,
        "fingerprint": _check_fingerprint,
        "custom tokens": _check_custom_tokens,
    }
)
"""Every check by name, in the order in which they run."""
