"""A target on the bench: what its cases are made from, and the judgement of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardtok.dialects import role_of
from guardtok.errors import TokenizerError, is_failure
from guardtok.fuzz.attacks import Oracle
from guardtok.fuzz.case import GROWTH
from guardtok.fuzz.doors import words_of
from guardtok.fuzz.findings import shown
from guardtok.fuzz.growth import judge_growth
from guardtok.fuzz.guarded import DECLARED, UNTRUSTED, Warden, judge_guard, judge_written
from guardtok.fuzz.judge import Judgement
from guardtok.fuzz.oracles import Reader, judge_tokenizer
from guardtok.fuzz.profile import Profile
from guardtok.fuzz.survey import survey
from guardtok.tokenizer import Role, TokenClass

if TYPE_CHECKING:
    from guardtok.fuzz.case import Case
    from guardtok.fuzz.doors import Doors
    from guardtok.fuzz.targets import Target

MAX_WORDS = 2_000
"""So many of a vocabulary's ordinary tokens are used in texts."""

_TURNS = {Role.TURN, Role.HEADER, Role.EOS}


class Bench:
    """A target with its oracles, asked in this process."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.reader = Reader(target.doors)
        self.warden = None if target.guard is None else Warden(target.guard)
        if self.warden is None:
            _try(target.doors)

    def profile(self) -> Profile:
        """Return what those who make up cases have to know."""
        doors, warden = self.target.doors, self.warden
        tokens = [token for token in doors.tokens if token.kind not in {TokenClass.SPACE, TokenClass.TEXT}]
        roles = {token.form: token.role or role_of(token.form, token.id) for token in tokens}
        forms = [token.form for token in tokens if token.kind is not TokenClass.BYTE]
        used = [form for form in forms if roles[form] is not Role.RESERVED]
        size = doors.n_vocab or 0
        return Profile(
            # What a library says of itself goes to terminals and into logs.
            name=shown(doors.name if warden is None else f"{warden.guard.policy.name} over {doors.name}"),
            library=shown(doors.library) if warden is None else "guardtok",
            forms=tuple(used or forms),
            hidden=tuple(token.form for token in tokens if not token.special),
            reserved=tuple(form for form in forms if roles[form] is Role.RESERVED),
            media=tuple(form for form in forms if roles[form] is Role.MEDIA),
            turns=tuple(form for form in forms if roles[form] in _TURNS),
            words=words_of(doors, range(0, size, max(1, size // MAX_WORDS))),
            chats=doors.chat is not None if warden is None else _has_jinja() and warden.template is not None,
            requests=warden is not None and hasattr(warden.guard, "sanitize_chat"),
            notes=doors.notes,
        )

    def survey(self) -> list[tuple[str, Judgement]]:
        """Judge the vocabulary itself."""
        return survey(self.target.doors) if self.warden is None else []

    def judge(self, case: Case) -> Judgement:
        """Judge a case."""
        doors, warden = self.target.doors, self.warden
        if case.shape == GROWTH:
            made = Judgement()
            if warden is None:
                judge_growth(case.text, doors.encode, made, doors.declared)
            else:
                guard = warden.guard
                judge_growth(case.text, lambda text: guard.encode(text, source=UNTRUSTED), made, DECLARED)
            return made
        if warden is not None:
            return judge_guard(case, warden)
        return judge_tokenizer(case, self.reader, self.target.other)

    def judge_printed(self, printed: bytes, made: Judgement) -> None:
        """Judge what was printed meanwhile: a tokenizer has no business to, and a guard may log."""
        if any(outcome.oracle is Oracle.CRASH for outcome in made.outcomes):
            return  # A Rust panic says so on its own; what counts is that it panics.
        if self.warden is None:
            made.report(Oracle.LOG, "the tokenizer prints", "silence", f"{len(printed):,} bytes")
        else:
            judge_written(printed.decode(errors="backslashreplace"), self.warden, made, "what is logged")


def _try(doors: Doors) -> None:
    """Encode a harmless text.

    Raises:
        TokenizerError: It fails. Errors that are declared are no findings, so one that always fails would be found
            without fault.
    """
    try:
        doors.encode("a")
    except BaseException as error:
        if not is_failure(error):
            raise
        failure = shown(type(error).__name__)
    else:
        return
    raise TokenizerError(f"{shown(doors.name)} cannot encode the letter `a` ({failure}), so there is nothing to judge.")


def _has_jinja() -> bool:
    import importlib.util

    return importlib.util.find_spec("jinja2") is not None
