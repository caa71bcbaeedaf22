"""The guard of a process: built once from what was shipped to it, and used for every block of rows that comes.

A guard takes a third of a second to build and is not worth sending: what travels is the policy, the tokenizer's name
and the key, and each process builds its own from that the first time it is asked.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from guardtok.corpus.action import CorpusAction, adapt_policy
from guardtok.corpus.sift import Sifter, make_sifter
from guardtok.errors import GuardtokError, LimitError, RefusedError, SurrogateError
from guardtok.guard import Guard
from guardtok.violation import Action, Verdict

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import tiktoken

    from guardtok.extended import Extended
    from guardtok.policy.model import Policy
    from guardtok.tokenizer import Tokenizer

_WIDEST = 4
"""Bytes of the longest character."""

_CONTINUATION = bytes(range(0x80, 0xC0))
"""The bytes of UTF-8 that begin no character."""

_ENGINES = 8
"""So many guards of a process are kept."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine is built from; it is pickled, and the pickle is what engines are told apart by.

    Attributes:
        policy: The policy as it was loaded.
        tokenizer: As `Guard.load` takes it, or None.
        action: What becomes of a corpus.
        sources: Who wrote the texts.
        digest_key: Key of the digests in violations.
    """

    policy: Policy
    tokenizer: str | os.PathLike[str] | tiktoken.Encoding | Tokenizer | Extended | None
    action: CorpusAction
    sources: frozenset[str]
    digest_key: bytes = field(repr=False)


class Judged(NamedTuple):
    """What the guard says of one text.

    Attributes:
        verdict: The verdict; None where the guard failed.
        text: What the text becomes; None where it is refused, or where nothing is rewritten.
        failure: What went wrong in the guard, or None. Nothing is known of the text then.
    """

    verdict: Verdict | None
    text: str | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """A guard, and what tells it from which rows to look at.

    Attributes:
        guard: The guard.
        sifters: A sifter for each source.
        action: What becomes of a corpus.
    """

    guard: Guard
    sifters: Mapping[str, Sifter] = field(repr=False)
    action: CorpusAction

    def judge(self, data: bytes, source: str) -> Judged:
        """Ask the guard about a text in UTF-8; what is ill-formed in it is replaced first."""
        limit = self.guard.policy.limits.max_chars
        if len(data) > limit * _WIDEST:
            return self._judge_long(data, source)
        return self.judge_text(data.decode("utf-8", "replace"), source)

    def judge_text(self, text: str, source: str) -> Judged:
        """Ask the guard about a text."""
        verdict: Verdict | None = None
        try:
            verdict = self.guard.check(text, source=source)
            if not self.action.rewrites:
                return Judged(verdict)
            return Judged(verdict, self.guard.sanitize(text, source=source).text)
        except (RefusedError, LimitError, SurrogateError):
            return Judged(verdict)
        except GuardtokError as error:
            return Judged(None, None, f"The guard failed with {type(error).__name__}; nothing is known of the text.")

    def _judge_long(self, data: bytes, source: str) -> Judged:
        """Give a text that is too long whatever its characters are the verdict of one that is just too long."""
        limit = self.guard.policy.limits.max_chars
        verdict = self.guard.check("a" * (limit + 1), source=source)
        size = len(data.translate(None, _CONTINUATION))
        return Judged(replace(verdict, violations=tuple(replace(each, end=size) for each in verdict.violations)))

    def is_acted_on(self, verdict: Verdict) -> bool:
        """Whether the policy does more about a text than to log what is in it."""
        return verdict.action.severity > Action.LOG.severity


@lru_cache(maxsize=_ENGINES)
def engine_of(spec: bytes) -> Engine:
    """Return this process's engine for a pickled `EngineSpec`.

    Raises:
        GuardtokError: Whatever `Guard.load` raises, and UnknownSourceError for a source that the policy does not know.
    """
    wanted: EngineSpec = pickle.loads(spec)  # noqa: S301 - made by ArrowScanner, and as trusted as it is
    policy = adapt_policy(wanted.policy, wanted.action, wanted.sources)
    guard = Guard.load(policy, wanted.tokenizer, sinks=(), digest_key=wanted.digest_key)
    for source in wanted.sources:
        guard.check("", source=source)
    sifters = {source: make_sifter(guard.ruleset, source) for source in wanted.sources}
    return Engine(guard, sifters, wanted.action)
