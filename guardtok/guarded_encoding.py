"""`GuardedEncoding`: the interface of `tiktoken.Encoding`, with a policy behind it.

The need is code that already calls tiktoken: it can be handed a guarded encoding as it is, and then no value of
`allowed_special` that it passes opens what the policy closes.
"""

from __future__ import annotations

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, TypeVar

from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.encode import encode, encode_ordinary
from guardtok.errors import RefusedError, TokenizerError, UnknownTokenError, VerificationError, is_failure
from guardtok.layout import lay_out
from guardtok.narrow import NarrowedRuleset, narrow
from guardtok.text import UNKNOWN, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from collections.abc import Set as AbstractSet

    import numpy as np
    import numpy.typing as npt

    from guardtok.narrow import Forms
    from guardtok.records import Report
    from guardtok.ruleset import Ruleset

_S = TypeVar("_S")
_T = TypeVar("_T")

_KEPT = 16
"""How many pairs of `allowed_special` and `disallowed_special` an encoding keeps narrowed rulesets for."""

_NONE: frozenset[str] = frozenset()


class GuardedEncoding:
    """Every public method of `tiktoken.Encoding`, guarded: the same signatures, and `source` wherever text goes in.

    `source` is who wrote a plain string. A `Text` knows its sources; leave `source` out then. What the caller allows
    narrows what the policy allows for the source; what the caller disallows is refused under any policy, in `monitor`
    mode too. So the defaults refuse every special token, as tiktoken's do. Besides what tiktoken raises, whatever
    takes text raises what `Guard.encode` does; `RefusedError` is a `ValueError` that begins with tiktoken's words.

    Immutable, picklable and safe to share between threads.

    Args:
        ruleset: The policy × the tokenizer.
        examine: Decides a text under a ruleset, given source and request id; emits; raises if the policy refuses it.

    Raises:
        TokenizerError: The tokenizer is none of tiktoken's.
    """

    __slots__ = ("_examine", "_narrow", "_ruleset", "_tokenizer")

    def __init__(self, ruleset: Ruleset, examine: Callable[[Ruleset, str, str | None, str | None], Report]) -> None:
        tokenizer = ruleset.tokenizer
        if not isinstance(tokenizer, TiktokenTokenizer):
            what = "no tokenizer" if tokenizer is None else f"a {type(tokenizer).__name__}"
            raise TokenizerError(
                f"tiktoken's interface needs one of tiktoken's tokenizers, and the guard has {what}. "
                "Load the guard with a tiktoken.Encoding or one of tiktoken's names, or use Guard.encode."
            )
        self._ruleset = ruleset
        self._examine = examine
        self._tokenizer = tokenizer
        self._narrow: Callable[[Forms, Forms], NarrowedRuleset] = functools.lru_cache(_KEPT)(
            functools.partial(narrow, ruleset)
        )

    def __reduce__(self) -> tuple[object, tuple[object, object]]:
        return type(self), (self._ruleset, self._examine)

    def __repr__(self) -> str:
        return f"<GuardedEncoding {self.name!r} policy={self._ruleset.policy.name!r}>"

    # Text → ids.

    def encode(
        self,
        text: str,
        *,
        allowed_special: Literal["all"] | AbstractSet[str] = _NONE,
        disallowed_special: Literal["all"] | Collection[str] = "all",
        source: str = UNKNOWN,
    ) -> list[int]:
        """Encode a text, as `tiktoken.Encoding.encode`.

        Args:
            text: A plain string, or a `Text`.
            allowed_special: Forms that may become their ids where the policy allows it too; `"all"` for all of them.
            disallowed_special: Forms, or any strings, whose presence is an error; `"all"` for every control form that
                is not in `allowed_special`.
            source: Who wrote a plain string.

        Raises:
            RefusedError: The text holds a form that is disallowed here, or that the policy blocks.
            TypeError: A string other than `"all"` for either set; tiktoken would read it as a set of characters.
        """
        return encode(self._decide(text, self._narrowed(allowed_special, disallowed_special), source)).ids

    def encode_ordinary(self, text: str, *, source: str = UNKNOWN) -> list[int]:
        """Encode a text in which nothing becomes a special token. What the policy blocks or strips, it still does."""
        return encode(self._decide(text, self._narrow(_NONE, _NONE), source)).ids

    def encode_to_numpy(
        self,
        text: str,
        *,
        allowed_special: Literal["all"] | AbstractSet[str] = _NONE,
        disallowed_special: Literal["all"] | Collection[str] = "all",
        source: str = UNKNOWN,
    ) -> npt.NDArray[np.uint32]:
        """Encode a text as `encode` does, and return an array.

        Raises:
            MissingExtraError: NumPy is not installed.
        """
        return encode(self._decide(text, self._narrowed(allowed_special, disallowed_special), source)).array

    def encode_batch(
        self,
        text: list[str],
        *,
        num_threads: int = 8,
        allowed_special: Literal["all"] | AbstractSet[str] = _NONE,
        disallowed_special: Literal["all"] | Collection[str] = "all",
        source: str = UNKNOWN,
    ) -> list[list[int]]:
        """Encode texts as `encode` does, in threads. The first in order that is refused raises."""
        ruleset = self._narrowed(allowed_special, disallowed_special)
        return _map(lambda one: encode(self._decide(one, ruleset, source)).ids, text, num_threads)

    def encode_ordinary_batch(self, text: list[str], *, num_threads: int = 8, source: str = UNKNOWN) -> list[list[int]]:
        """Encode texts as `encode_ordinary` does, in threads. The first in order that is refused raises."""
        return _map(functools.partial(self.encode_ordinary, source=source), text, num_threads)

    def encode_with_unstable(
        self,
        text: str,
        *,
        allowed_special: Literal["all"] | AbstractSet[str] = _NONE,
        disallowed_special: Literal["all"] | Collection[str] = "all",
        source: str = UNKNOWN,
    ) -> tuple[list[int], list[list[int]]]:
        """Return the ids that stay whatever follows the text, and the sequences that could come after them.

        The text is guarded as by `encode`; tiktoken sees the last ordinary stretch of it alone. Completions that hold
        a reserved id are left out.

        Raises:
            VerificationError: tiktoken makes a reserved id of ordinary text.
        """
        report = self._decide(text, self._narrowed(allowed_special, disallowed_special), source)
        pieces = list(lay_out(report.intake, report.decided, report.ruleset))
        if not pieces or pieces[-1].token_id is not None:
            return encode(report).ids, []
        ids: list[int] = []
        for piece in pieces[:-1]:
            if piece.token_id is None:
                ids += encode_ordinary(piece.text, report.ruleset, at_start=not ids)
            else:
                ids.append(piece.token_id)
        unstable = functools.partial(self._tokenizer.encoding.encode_with_unstable, disallowed_special=())
        stable, completions = self._call(unstable, pieces[-1].text)
        reserved = self._tokenizer.reserved_ids
        return ids + self._verify(stable), [more for more in completions if reserved.isdisjoint(more)]

    def encode_single_token(self, text_or_bytes: str | bytes, *, source: str = UNKNOWN) -> int:
        """Return the id of a text that is one token. A special token only where the policy allows it for the source.

        Raises:
            UnknownTokenError: It is no single token, or a special one that the policy does not allow (a `KeyError`).
            RefusedError: The policy blocks a form that the text holds.
        """
        text = text_or_bytes if isinstance(text_or_bytes, str) else str(text_or_bytes, "utf-8", "replace")
        report = self._decide(text, self._ruleset, source)
        data = report.intake.data if isinstance(text_or_bytes, str) else text_or_bytes
        spelled = {report.ruleset.forms[form] for form, _, _ in report.decided.allowed}
        allowed = next((form for form in spelled if form.text.encode() == data), None)
        token_id = self._mergeable_ranks.get(data)
        if token_id is None and allowed is not None:
            token_id = allowed.token_id
        if token_id is None or (allowed is None and token_id in self._tokenizer.reserved_ids):
            raise UnknownTokenError(
                f"These {len(data)} bytes are no single token of {self.name!r} that their source may write. Use encode "
                "for text of several tokens; a special token needs `allow` in the policy."
            )
        return token_id

    def _encode_bytes(self, text: bytes, *, source: str = UNKNOWN) -> list[int]:
        """Encode bytes, which need not be UTF-8, as `encode_ordinary` does.

        Where they are not UTF-8, a U+FFFD stays in the place of what the policy strips.

        Raises:
            SurrogateError: They are not UTF-8 and the policy says `surrogates: refuse`.
            VerificationError: tiktoken makes a reserved id of the bytes.
        """
        # Each byte that is not UTF-8 is one character of `escaped`, so its positions are the intake's.
        escaped = text.decode("utf-8", "surrogateescape")
        report = self._decide(escaped, self._narrow(_NONE, _NONE), source)
        if report.intake.text == escaped:
            return encode(report).ids
        kept: list[str] = []
        done = 0
        for cut in report.decided.cuts:
            kept.append(escaped[done : cut.start])
            done = cut.end
        data = "\ufffd".join([*kept, escaped[done:]]).encode("utf-8", "surrogateescape")
        return self._verify(self._call(self._tokenizer.encoding._encode_bytes, data))  # noqa: SLF001 - no public way

    # Ids → text. Nothing here depends on who asks, and the policy's custom tokens are known.

    def decode(self, tokens: Sequence[int], errors: str = "replace") -> str:
        """Decode ids to text; `errors` says what becomes of bytes that are not UTF-8, as for `bytes.decode`.

        Raises:
            KeyError: For an id that is not in the vocabulary, as by every method that decodes.
        """
        return self.decode_bytes(tokens).decode("utf-8", errors=errors)

    def decode_bytes(self, tokens: Sequence[int]) -> bytes:
        """Decode ids to bytes."""
        return self._tokenizer.decode_bytes(tokens)

    def decode_single_token_bytes(self, token: int) -> bytes:
        """Decode one id to bytes."""
        return self._tokenizer.decode_bytes([token])

    def decode_tokens_bytes(self, tokens: Sequence[int]) -> list[bytes]:
        """Decode each id to its bytes."""
        return [self.decode_single_token_bytes(token) for token in tokens]

    def decode_with_offsets(self, tokens: Sequence[int]) -> tuple[str, list[int]]:
        """Decode ids to text, with the position in characters of the first one that each id has a part in.

        Raises:
            UnicodeDecodeError: The ids do not decode to UTF-8.
        """
        parts = self.decode_tokens_bytes(tokens)
        offsets: list[int] = []
        begun = 0  # characters whose first byte was seen
        for part in parts:
            offsets.append(max(0, begun - _continues_character(part[0])))
            begun += sum(not _continues_character(byte) for byte in part)
        return b"".join(parts).decode(), offsets

    def decode_batch(
        self, batch: Sequence[Sequence[int]], *, errors: str = "replace", num_threads: int = 8
    ) -> list[str]:
        """Decode lists of ids to texts, in threads."""
        return _map(functools.partial(self.decode, errors=errors), batch, num_threads)

    def decode_bytes_batch(self, batch: Sequence[Sequence[int]], *, num_threads: int = 8) -> list[bytes]:
        """Decode lists of ids to bytes, in threads."""
        return _map(self.decode_bytes, batch, num_threads)

    # The vocabulary.

    @property
    def name(self) -> str:
        """The tokenizer's name."""
        return self._tokenizer.name

    @property
    def max_token_value(self) -> int:
        """The highest id, the policy's custom tokens included."""
        return self._tokenizer.n_vocab - 1

    @property
    def n_vocab(self) -> int:
        """One more than the highest id."""
        return self._tokenizer.n_vocab

    @property
    def eot_token(self) -> int:
        """The id of `<|endoftext|>`; a `KeyError` where there is none, as in tiktoken."""
        return self._special_tokens["<|endoftext|>"]

    @property
    def special_tokens_set(self) -> set[str]:
        """Every control form, the policy's custom tokens included; allowed or not."""
        return set(self._special_tokens)

    def is_special_token(self, token: int) -> bool:
        """Whether an id is a control token's."""
        return any(control.id == token for control in self._tokenizer.control_tokens)

    def token_byte_values(self) -> list[bytes]:
        """Return the bytes of every ordinary token, sorted."""
        return self._tokenizer.encoding.token_byte_values()

    # What else tiktoken's tests and its users read, as copies or not to be changed.

    @property
    def _special_tokens(self) -> dict[str, int]:
        return {control.form: control.id for control in self._tokenizer.control_tokens}

    @property
    def _mergeable_ranks(self) -> dict[bytes, int]:
        return self._tokenizer.encoding._mergeable_ranks  # noqa: SLF001 - tiktoken has no public way to it

    @property
    def _pat_str(self) -> str:
        return self._tokenizer.encoding._pat_str  # noqa: SLF001 - tiktoken has no public way to it

    def _narrowed(
        self, allowed: Literal["all"] | AbstractSet[str], disallowed: Literal["all"] | Collection[str]
    ) -> NarrowedRuleset:
        return self._narrow(_forms(allowed, "allowed_special"), _forms(disallowed, "disallowed_special"))

    def _decide(self, text: str, ruleset: Ruleset, source: str) -> Report:
        """Examine a text; raise if the policy refuses it or the caller disallows a form that it holds."""
        labelled = isinstance(text, Text) and source == UNKNOWN
        report = self._examine(ruleset, text, None if labelled else source, None)
        if isinstance(ruleset, NarrowedRuleset):
            for finding, _ in report.decided.groups:
                # A monitor does not raise. But the caller asked tiktoken for this error, not the policy.
                if finding.match[0] in ruleset.refused:
                    decided = dataclasses.replace(report.decided, refused=finding)
                    raise RefusedError(*dataclasses.replace(report, decided=decided).refusal())
        return report

    def _call(self, function: Callable[[_S], _T], given: _S) -> _T:
        """Call tiktoken; a Rust panic, which is no `Exception`, becomes the typed error."""
        try:
            return function(given)
        except BaseException as error:
            if not is_failure(error):
                raise
            failure = type(error).__name__
        # Raised out here the error has no context, and so nothing that could hold the text.
        raise TokenizerError(f"{self.name}: tiktoken failed with {failure}. Cut very long runs of white space.")

    def _verify(self, ids: list[int]) -> list[int]:
        leaked = self._tokenizer.reserved_ids.intersection(ids)
        if leaked:
            token_id = min(leaked)
            raise VerificationError(
                f"{self.name}: tiktoken makes the reserved id {token_id} out of ordinary text. Nothing was returned. "
                "Use encode, which can take the text apart.",
                token_id,
            )
        return ids


def _forms(given: Literal["all"] | Collection[str], argument: str) -> Forms:
    if not isinstance(given, str):
        return frozenset(given)
    if given == "all":
        return "all"
    raise TypeError(
        f'{argument} is a string other than "all", so a set of characters. Put the form into a set: {{form}}.'
    )


def _map(function: Callable[[_S], _T], items: Iterable[_S], num_threads: int) -> list[_T]:
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(function, items))


def _continues_character(byte: int) -> bool:
    """Whether a byte of UTF-8 goes on with a character that an earlier one began."""
    return 0x80 <= byte < 0xC0  # noqa: PLR2004 - 0b10xxxxxx
