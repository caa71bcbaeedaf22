"""`Guard`, the façade: one policy, one tokenizer and the sinks, checked once and bound together.

A guard is immutable, picklable and safe to share between threads. It is the only part that emits: the core returns
what it finds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import sys
from functools import partial
from typing import TYPE_CHECKING

from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.batch import encode_batch
from guardtok.beginnings import sort_beginnings
from guardtok.breaking import prove
from guardtok.clean import is_clean
from guardtok.decide import decide
from guardtok.encode import count, encode, encode_clean
from guardtok.encodings import load_tokenizer
from guardtok.errors import DigestKeyError
from guardtok.examine import Examiner
from guardtok.guarded_bodies import GuardedBodies
from guardtok.guarded_encoding import GuardedEncoding
from guardtok.intake import take_in
from guardtok.policy.model import Policy, Surrogates
from guardtok.prepare import Prepared, parse_statement
from guardtok.ruleset import bind
from guardtok.sanitize import Sanitized, prove_on_tokenizer, sanitize
from guardtok.scan import scan
from guardtok.sinks import emit, to_structlog
from guardtok.stream import Stream
from guardtok.text import UNKNOWN, Text

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    import tiktoken
    from transformers import PreTrainedTokenizerFast

    from guardtok.encoded import Encoded
    from guardtok.extended import Extended
    from guardtok.pretrained import GuardedTokenizer
    from guardtok.ruleset import Ruleset
    from guardtok.sinks import Sink
    from guardtok.tokenizer import Tokenizer
    from guardtok.violation import Verdict

_NO_BOUND = sys.maxsize


class Guard(GuardedBodies):
    """A policy bound to a tokenizer: encodes text so that each source writes only the control tokens it may.

    Args:
        policy: The policy.
        tokenizer: The tokenizer, or None: then the guard can `check` over the whole catalogue, and not encode.
        sinks: Where violations go, each a callable that takes a `Violation`; by default structlog.
        digest_key: Key of the digests in violations, 1 to 64 bytes. Give one to compare digests between processes; by
            default a guard makes its own, which its pickled copies share.

    Raises:
        PolicyError: The policy names a token that nobody knows, contradicts itself on this tokenizer's forms, or
            escapes a form that cannot be broken in text.
        TokenizerMismatchError: The tokenizer is not the one that the policy or its lock file pins.
        TokenizerError: The tokenizer cannot take the policy's custom tokens.
        DigestKeyError: The key has no byte, or more than 64.
    """

    __slots__ = ("_beginnings", "_breaker", "_encoding", "_examiner", "_ruleset")

    def __init__(
        self,
        policy: Policy,
        tokenizer: Tokenizer | None = None,
        *,
        sinks: Iterable[Sink] = (to_structlog,),
        digest_key: bytes | None = None,
    ) -> None:
        key = secrets.token_bytes(32) if digest_key is None else digest_key
        if type(key) is not bytes or not 1 <= len(key) <= hashlib.blake2b.MAX_KEY_SIZE:
            raise DigestKeyError("A digest key is bytes, 1 to 64 of them. Take secrets.token_bytes(32).")
        self._fill(bind(policy, tokenizer), Examiner(tuple(sinks), key))
        if self._ruleset.tokenizer is not None:
            prove_on_tokenizer(self._ruleset, self._breaker)

    def _fill(self, ruleset: Ruleset, examiner: Examiner) -> None:
        self._ruleset = ruleset
        self._examiner = examiner
        self._breaker = prove(ruleset)
        self._beginnings = sort_beginnings(ruleset)
        is_tiktoken = isinstance(ruleset.tokenizer, TiktokenTokenizer)
        self._encoding = GuardedEncoding(ruleset, examiner.examine) if is_tiktoken else None

    def __reduce__(self) -> tuple[object, tuple[Ruleset, Examiner]]:
        return _restore, (self._ruleset, self._examiner)

    @classmethod
    def load(
        cls,
        policy: str | os.PathLike[str] | Policy,
        tokenizer: str | os.PathLike[str] | tiktoken.Encoding | Tokenizer | Extended | None = None,
        *,
        engine: str = "tiktoken",
        sinks: Iterable[Sink] = (to_structlog,),
        digest_key: bytes | None = None,
    ) -> Guard:
        """Build a guard from names: a shipped policy or a path; a tokenizer's name, path or object, or none.

        `engine` says what encodes ordinary text, always to the same ids, as `load_tokenizer` takes it: `auto` is the
        fastest that is installed and was compared with tiktoken.

        Raises:
            PolicyError: The policy cannot be read or used.
            UnknownTokenizerError: No such tokenizer, or its file is nowhere to be found.
            VocabularyError: A vocabulary file is not what it should be.
            TokenizerMismatchError: The tokenizer is not the one that the policy or its lock file pins.
            EngineError: No such engine, or it was not compared for this vocabulary in the installed versions.
            MissingExtraError: The engine that was named is not installed.
        """
        return cls(
            policy if isinstance(policy, Policy) else Policy.load(policy),
            None if tokenizer is None else load_tokenizer(tokenizer, engine),
            sinks=sinks,
            digest_key=digest_key,
        )

    def __repr__(self) -> str:
        tokenizer = self._ruleset.tokenizer
        return f"<Guard policy={self.policy.name!r} tokenizer={tokenizer.name if tokenizer else None!r}>"

    @property
    def policy(self) -> Policy:
        """The policy."""
        return self._ruleset.policy

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer with the policy's custom tokens, or None."""
        return self._ruleset.tokenizer

    @property
    def ruleset(self) -> Ruleset:
        """The policy × the tokenizer: every form, and the decision for it by source."""
        return self._ruleset

    @property
    def encoding(self) -> GuardedEncoding:
        """The interface of `tiktoken.Encoding`, guarded.

        Raises:
            TokenizerError: The tokenizer is none of tiktoken's.
        """
        # Without one, the constructor says what is missing.
        return self._encoding or GuardedEncoding(self._ruleset, self._examiner.examine)

    def pretrained(self, tokenizer: PreTrainedTokenizerFast, *, source: str) -> GuardedTokenizer:
        """Return the double of a transformers tokenizer: the same calls, with ids from this guard.

        Args:
            tokenizer: The fast tokenizer that this guard is bound to. It is copied.
            source: Who writes the plain strings that the double is given.

        Raises:
            TokenizerMismatchError: The guard is bound to another tokenizer.
            UnknownSourceError: A source that the policy does not know.
        """
        # It pads and makes tensors with transformers, an extra.
        from guardtok.pretrained import GuardedTokenizer

        return GuardedTokenizer(self, tokenizer, source=source)

    def encode(self, text: str, *, source: str | None = None, request_id: str | None = None) -> Encoded:
        """Encode text to ids that the policy allows, and prove it on the ids.

        Args:
            text: A plain string with `source`, or a `Text`, which knows its sources.
            source: Who wrote a plain string.
            request_id: Copied into the violations.

        Raises:
            RefusedError: The policy blocks a form that the text holds.
            MissingSourceError: A plain string without a source (a `TypeError`).
            UnknownSourceError: A source that the policy does not know.
            LimitError: The text is longer than `limits.max_chars`.
            SurrogateError: A lone surrogate under `surrogates: refuse`.
            TokenizerError: The tokenizer failed, or the guard has none.
            VerificationError: The ids are not what was decided; nothing is returned.
        """
        if source is not None and is_clean(text, source, self._ruleset):
            return encode_clean(text, source, self._ruleset)
        return encode(self._examiner.examine(self._ruleset, text, source, request_id))

    def encode_batch(
        self, texts: Iterable[str], *, source: str | None = None, request_id: str | None = None
    ) -> list[Encoded]:
        """Encode texts: decide and log them in their order, then encode them, long ones in a thread for each core.

        Args:
            texts: Plain strings with `source`, whose path in violations is their index (`[3]`), or `Text`s without.
            source: Who wrote the plain strings.
            request_id: Copied into the violations.

        Raises:
            RefusedError: For the first text that the policy refuses.
            GuardtokError: Whatever else `encode` raises, for the first text that makes it.
        """
        return encode_batch(texts, source, request_id, self._ruleset, self._examiner)

    def encode_chat(  # noqa: PLR0913 - as apply_chat_template has it
        self,
        messages: Sequence[object],
        template: str | os.PathLike[str] | None = None,
        *,
        tools: Sequence[object] | None = None,
        documents: Sequence[object] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        request_id: str | None = None,
        **template_kwargs: object,
    ) -> Encoded:
        """Render a conversation with a Jinja chat template and encode the prompt, as `apply_chat_template` does.

        The template's literals are `template`; what messages, tools and documents say keeps its source and JSON path.

        Args:
            messages: Mappings as OpenAI's API has them. A `Text` in them keeps its labels.
            template: The template's source, or a path to it; by default the tokenizer's own.
            tools: Schemas, or Python functions.
            documents: Mappings with `title` and `text`.
            add_generation_prompt: Whether the template is to open the assistant's turn.
            continue_final_message: True to end the prompt with the final message's content, or the name of the field.
            request_id: Copied into the violations.
            template_kwargs: Values for the template's other variables; their strings are `unknown`.

        Raises:
            MessageError: The conversation has the wrong shape; the message names the place.
            TemplateError: The template does not parse, raises, or asks for what is not there.
            TemplateMismatchError: The policy pins other templates.
            GuardtokError: Whatever `encode` raises; a MissingExtraError without Jinja.
        """
        # Jinja is an extra, and wanted only here.
        from guardtok.chat.inspect import encode_request
        from guardtok.chat.request import ChatOptions, read_request

        options = ChatOptions(tools, documents, add_generation_prompt, continue_final_message)
        request = read_request(self._ruleset, messages, template, options, template_kwargs)
        return encode_request(request, self._examiner, request_id)

    def render_chat(  # noqa: PLR0913 - as encode_chat
        self,
        messages: Sequence[object],
        template: str | os.PathLike[str] | None = None,
        *,
        tools: Sequence[object] | None = None,
        documents: Sequence[object] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        **template_kwargs: object,
    ) -> Text:
        """Return the prompt that `encode_chat` encodes, with its labels; nothing is refused yet for what it holds."""
        from guardtok.chat.json_text import expand
        from guardtok.chat.request import ChatOptions, read_request

        options = ChatOptions(tools, documents, add_generation_prompt, continue_final_message)
        return expand(read_request(self._ruleset, messages, template, options, template_kwargs).render().text)

    def sanitize(self, text: str, *, source: str | None = None, request_id: str | None = None) -> Sanitized:
        """Make a text safe to go on as text: nothing in it parses that its source may not write.

        `escape` puts a separator into each form, `_` after its first character where that is inert; `strip` takes the
        form out, and leaves U+FFFD where what is left could grow together.

        Args:
            text: A plain string with `source`, or a `Text`, which knows its sources.
            source: Who wrote a plain string.
            request_id: Copied into the violations.

        Raises:
            RefusedError: The policy blocks a form that the text holds.
            MissingSourceError: A plain string without a source (a `TypeError`).
            UnknownSourceError: A source that the policy does not know.
            LimitError: The text is longer than `limits.max_chars`.
            SurrogateError: A lone surrogate under `surrogates: refuse`.
            VerificationError: A form could not be broken; nothing is returned.
        """
        report = self._examiner.examine(self._ruleset, text, source, request_id)
        original = text if isinstance(text, Text) else Text(text, source=source or UNKNOWN)
        return sanitize(report, original, self._breaker, self._beginnings)

    def stream(self, *, source: str, request_id: str | None = None) -> Stream:
        """Begin a text that comes in chunks and goes on as text, sanitized as it would be whole.

        Args:
            source: Who writes it.
            request_id: Copied into the violations.

        Raises:
            UnknownSourceError: A source that the policy does not know.
        """
        self._check_source(source)
        return Stream(
            self._ruleset,
            self._breaker,
            self._beginnings,
            source,
            key=self._examiner.key,
            request_id=request_id,
            emit=partial(emit, sinks=self._examiner.sinks),
        )

    def check(self, text: str, *, source: str | None = None, request_id: str | None = None) -> Verdict:
        """Say what the policy makes of a text, without encoding it. Never raises because of what the text holds.

        A text over `limits.max_chars`, or with a lone surrogate under `surrogates: refuse`, gets a verdict of `block`.

        Raises:
            MissingSourceError: A plain string without a source (a `TypeError`).
            UnknownSourceError: A source that the policy does not know.
        """
        return self._examiner.check(self._ruleset, text, source, request_id)

    def count(self, text: str, *, source: str | None = None) -> int:
        """Return how many ids `encode` would make. No policy, limit or surrogate makes it raise, and it logs nothing.

        A form that the policy blocks counts as the text that it is. Only a tokenizer that fails on a text (tiktoken
        panics on about a million white-space characters in a row) leaves nothing to count.

        Raises:
            MissingSourceError: A plain string without a source (a `TypeError`).
            UnknownSourceError: A source that the policy does not know.
            TokenizerError: The tokenizer failed, or the guard has none.
            VerificationError: A reserved id came out of ordinary text and could not be kept out.
        """
        unlimited = dataclasses.replace(self.policy.limits, max_chars=_NO_BOUND)
        intake = take_in(text, source, known=self._ruleset.sources, limits=unlimited, surrogates=Surrogates.REPLACE)
        decided = decide(scan(intake, self._ruleset), intake, self._ruleset)
        return count(intake, decided, self._ruleset)

    def prepare(self, template: str) -> Prepared:
        """Return a prepared prompt: its literals are `template`, each field `{name:source}` has its source.

        Raises:
            FieldError: The template does not parse.
            UnknownSourceError: A field of a source that the policy does not know.
            RefusedError: The policy blocks a form that the literals hold.
        """
        statement = parse_statement(template)
        self._examiner.examine(self._ruleset, statement.blank(), None, None)
        for source in statement.fields.values():
            self._check_source(source)
        return Prepared(statement, self.encode)

    def _check_source(self, source: str) -> None:
        take_in("", source, known=self._ruleset.sources, limits=self.policy.limits, surrogates=Surrogates.REPLACE)


def _restore(ruleset: Ruleset, examiner: Examiner) -> Guard:
    guard = Guard.__new__(Guard)
    guard._fill(ruleset, examiner)  # noqa: SLF001 - the other constructor
    return guard
