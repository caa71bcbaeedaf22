"""What can go wrong, as types that carry facts.

Every error states fact, place and mend, and none echoes raw input: an error message ends up in logs, and logs end up in
prompts. Each class also inherits the builtin that callers already catch (`RefusedError` is a `ValueError`, as the error
of `tiktoken.Encoding.encode` is).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable

    from guardtok.finding import Finding
    from guardtok.violation import Violation


class GuardtokError(Exception):
    """The root of every error that guardtok raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a policy: where, what, and how to mend it.

    Attributes:
        place: `file:line:column` (both 1-based), or the name of a policy that was not read from a file.
        fact: What is wrong.
        mend: What to write instead; empty where nothing can be suggested.
    """

    place: str
    fact: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.fact}" + (f" {self.mend}" if self.mend else "")


class PolicyError(GuardtokError, ValueError):
    """A policy cannot be used. All problems of a file are collected before this is raised.

    Attributes:
        problems: Every `Problem` found, in the order of the file.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[type[PolicyError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


_MEND = (
    "If this source may write this token, allow it in the policy; if the text should be encoded as the ordinary text "
    "it is, use `escape` in place of `block`."
)
_MENDS = {
    "caller.disallowed_special": (
        "This call disallows it, whatever the policy says: to encode it as the ordinary text it is, pass "
        "`disallowed_special=()`; to encode it as a token where the policy allows that, pass it in `allowed_special`."
    ),
}


class RefusedError(GuardtokError, ValueError):
    """A text holds a form that the policy blocks for its source.

    The message names the form as `repr`, as tiktoken does, so that code which reads tiktoken's message keeps working.
    It is the one place where guardtok spells a control token; do not feed `str(error)` to a model unguarded.

    Attributes:
        token: The surface form that was refused, literally.
        violations: What was found in the text, the refused form included.
    """

    def __init__(self, token: str, violations: tuple[Violation, ...]) -> None:
        self.token = token
        self.violations = violations
        places = [v for v in violations if v.action == "block"]
        place = f" Refused by rule {places[0].rule} at {places[0].place()}." if places else ""
        super().__init__(
            f"Encountered text corresponding to disallowed special token {token!r}.{place}\n"
            f"{_MENDS.get(places[0].rule if places else '', _MEND)}\n"
        )

    def __reduce__(self) -> tuple[type[RefusedError], tuple[str, tuple[Violation, ...]]]:
        return type(self), (self.token, self.violations)


class VerificationError(GuardtokError, RuntimeError):
    """The ids that came out are not the ids that the decision asked for; nothing is returned.

    Attributes:
        token_id: The reserved id that has no business where it was found, or None.
    """

    def __init__(self, message: str, token_id: int | None = None) -> None:
        self.token_id = token_id
        super().__init__(message)

    def __reduce__(self) -> tuple[type[VerificationError], tuple[str, int | None]]:
        return type(self), (str(self), self.token_id)


class TokenizerError(GuardtokError, RuntimeError):
    """A tokenizer failed (a Rust panic included), or cannot be guarded as it is."""


class ConformanceError(GuardtokError, AssertionError):
    """A tokenizer breaks a promise that guardtok builds on. An `AssertionError`, so that test runners show it as one.

    Attributes:
        check: The name of the check in `guardtok.testing.CHECKS`.
        fact: What is wrong, and where; never a text that was tried.
    """

    def __init__(self, check: str, fact: str) -> None:
        self.check = check
        self.fact = fact
        super().__init__(f"{check}: {fact}")

    def __reduce__(self) -> tuple[type[ConformanceError], tuple[str, str]]:
        return type(self), (self.check, self.fact)


_SHOWN_FINDINGS = 8


class ExtensionError(TokenizerError, ValueError):
    """A vocabulary cannot be extended as asked; nothing was built.

    Attributes:
        findings: Everything that stands against it, and only that. The message shows the first eight.
    """

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings: tuple[Finding, ...] = tuple(findings)
        lines = [str(finding) for finding in self.findings[:_SHOWN_FINDINGS]]
        more = len(self.findings) - len(lines)
        super().__init__("\n".join(lines + ([f"… and {more:,} more"] if more else [])))

    def __reduce__(self) -> tuple[type[ExtensionError], tuple[tuple[Finding, ...]]]:
        return type(self), (self.findings,)


class ViewError(GuardtokError, RuntimeError):
    """A look-alike view failed: nothing is known of the text, so nothing is admitted."""


class TokenizerMismatchError(GuardtokError, ValueError):
    """A tokenizer, policy or lock file is not the one that was pinned."""


class EngineError(GuardtokError, ValueError):
    """No such engine, or one that was not shown to agree with tiktoken as it is installed here."""


class UnknownTokenizerError(GuardtokError, LookupError):
    """No tokenizer of that name is known, or its file is nowhere to be found."""


class UnknownTokenError(GuardtokError, KeyError):
    """A text is no single token, or not one that its source may write."""

    __str__ = Exception.__str__  # A KeyError would show its message quoted.


class VocabularyError(GuardtokError, ValueError):
    """A vocabulary file is there but is not what it should be: wrong hash, truncated, not a rank file."""


class UnknownSourceError(GuardtokError, ValueError):
    """A source that neither guardtok nor the policy declares."""


class NotTextError(GuardtokError, TypeError):
    """What was given is not a string."""


class MissingSourceError(GuardtokError, TypeError):
    """A plain `str` was given without saying who wrote it, or a `Text` with somebody else's name."""


class FieldError(GuardtokError, TypeError):
    """The fields given to a prepared prompt are not the fields that it has."""


class MessageError(GuardtokError, ValueError):
    """A conversation has the wrong shape; the message names its place as a JSON path."""


class TemplateError(GuardtokError, ValueError):
    """A chat template does not parse, raises, or asks for what is not there.

    Attributes:
        line: The line of the template, from 1, or None where nobody knows.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        self.line = line
        super().__init__(message)

    def __reduce__(self) -> tuple[type[TemplateError], tuple[str, int | None]]:
        return type(self), (str(self), self.line)


class TemplateMismatchError(GuardtokError, ValueError):
    """A chat template is not one that the policy pins."""


class ConversationError(GuardtokError, ValueError):
    """A conversation is not of the shape that its format asks for, or a name in it would pass for syntax.

    Attributes:
        path: Where: `$.messages[3].recipient`.
        fact: What is wrong there, and how to mend it; never the value itself.
    """

    def __init__(self, path: str, fact: str) -> None:
        self.path = path
        self.fact = fact
        super().__init__(f"{path}: {fact}")

    def __reduce__(self) -> tuple[type[ConversationError], tuple[str, str]]:
        return type(self), (self.path, self.fact)


class RequestError(GuardtokError, ValueError):
    """A body cannot be guarded as it is: the wrong shape, or a field that no caller may send.

    Attributes:
        rule: The check: `request.shape`, `request.chat_template`, `request.token_ids`, `request.protocol` …
        path: Where, as a JSON path, every form in it broken: `$.messages[3].content`.
        fact: What is wrong there, and how to mend it; never the value itself.
        violations: Everything that was found in the body, this included; empty where it was not walked.
    """

    def __init__(self, rule: str, path: str, fact: str, violations: tuple[Violation, ...] = ()) -> None:
        self.rule = rule
        self.path = path
        self.fact = fact
        self.violations = violations
        super().__init__(f"{path}: {fact}")

    def __reduce__(self) -> tuple[type[RequestError], tuple[str, str, str, tuple[Violation, ...]]]:
        return type(self), (self.rule, self.path, self.fact, self.violations)


class SettingsError(GuardtokError, ValueError):
    """A gateway is told nothing to guard by, or told it in a way that it does not take; nothing is served."""


class BundleError(GuardtokError, ValueError):
    """A policy bundle is not what it should be: unsigned, altered, stale, or no bundle at all."""


class LimitError(GuardtokError, ValueError):
    """A text is larger than the policy's limits."""

    rule: ClassVar[str] = "limits.max_chars"


class SurrogateError(GuardtokError, ValueError):
    """A text holds a lone surrogate and the policy says `surrogates: refuse`."""

    rule: ClassVar[str] = "surrogates.refuse"


class DigestKeyError(GuardtokError, ValueError):
    """A key for the digests in records that BLAKE2b cannot take."""


class InvalidUTF8Error(GuardtokError, ValueError):
    """Bytes of a stream are no UTF-8 and the policy says `surrogates: refuse`."""


class StreamClosedError(GuardtokError, ValueError):
    """A stream is used after it was finished, closed or refused."""


class CheckpointError(GuardtokError, ValueError):
    """A checkpoint on disk is not what it should be: a forged header, a missing shard, a name that leads out of it."""


class CheckpointChangedError(CheckpointError):
    """A checkpoint was changed by somebody else while it was worked with; what was made of it is thrown away."""


class CheckpointWriteError(GuardtokError, OSError):
    """A resized checkpoint could not be written: no space, no permission, a target that exists. The source is whole."""


class CorpusError(GuardtokError, ValueError):
    """A corpus cannot be scanned as asked: a column that is missing or no text, an output that is there already."""


class MissingExtraError(GuardtokError, ImportError):
    """A feature needs a package that an extra of guardtok installs."""


class ResizeError(GuardtokError, ValueError):
    """A model cannot be resized, or was resized and put back exactly as it was because a check failed.

    Attributes:
        findings: What the checks found; those of severity `error` are why this was raised.
    """

    def __init__(self, message: str, findings: Iterable[Finding] = ()) -> None:
        self.message = message
        self.findings: tuple[Finding, ...] = tuple(findings)
        errors = [f"\n  {finding}" for finding in self.findings if finding.severity == "error"]
        super().__init__(message + "".join(errors))

    def __reduce__(self) -> tuple[type[ResizeError], tuple[str, tuple[Finding, ...]]]:
        return type(self), (self.message, self.findings)


class UnsupportedError(GuardtokError, NotImplementedError):
    """A call in another library's form asks for what no guard can give."""


class UnguardedError(GuardtokError, AttributeError):
    """A name that a guarded object does not have, because behind it text would be encoded unguarded."""


class ModelChangedError(ResizeError):
    """A model, its configs or its optimizer are no longer what was planned for; nothing was touched."""


class FrozenRowsError(ResizeError):
    """Rows that were to stay as they were have changed since the model was resized; `findings` name the tensors."""


def is_failure(error: BaseException) -> bool:
    """Return whether foreign code failed: an exception, or a Rust panic, which pyo3 makes a `BaseException`.

    A panic can be told by its name alone, for each extension module has a `PanicException` of its own. An interrupt is
    no failure.
    """
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def near_match(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known word nearest to `word`, or an empty string.

    `word` is bounded before it is compared, so that a hostile name costs nothing.
    """
    found = difflib.get_close_matches(word[:64], list(known), n=1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""
