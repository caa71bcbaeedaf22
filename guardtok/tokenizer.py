"""What guardtok asks of a tokenizer.

The interface has two doors to ids and no third: text goes through `encode_ordinary`, which must not parse anything, and
a control token is one id out of `control_tokens`. guardtok never hands a tokenizer a text in which something may be
parsed.

`Tokenizer` is all that an adapter must be. A library that normalises text, or that has rules of its own for tokens that
were added (white space that they swallow, words that they must stand alone in), is a `RuledTokenizer` too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

Ids: TypeAlias = "list[int] | npt.NDArray[np.uint32]"
"""Ids as a tokenizer gives them: a list, or a NumPy array of uint32 that nobody else holds."""


WHITE_SPACE = frozenset(
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Unicode's White_Space, which added tokens swallow in huggingface's library; `str.isspace` knows a few more."""


class Role(str, Enum):
    """What a control token is for; each is a built-in group of a policy (`@turn`, `@eos` …)."""

    TURN = "turn"
    HEADER = "header"
    EOS = "eos"
    BOS = "bos"
    TOOL = "tool"
    FIM = "fim"
    MEDIA = "media"
    THINK = "think"
    RESERVED = "reserved"

    # Equal to its string, so it must hash like it; `Enum` would hash the name.
    __hash__ = str.__hash__

    def __str__(self) -> str:
        return self.value


class TokenClass(str, Enum):
    """What an added token is to a guard."""

    CONTROL = "control"
    """Its id is reserved: ordinary text must not produce it."""
    UNKNOWN = "unknown"
    """The unknown id. Any text may produce it, so only its literal spelling is guarded."""
    BYTE = "byte"
    """The id of a byte (`<0x0A>`). As `UNKNOWN`."""
    SPACE = "white space"
    """White space alone. It is text."""
    TEXT = "text"
    """What the policy calls text (Gemma registers HTML tags). Any source may write it."""

    # Equal to its string, so it must hash like it; `Enum` would hash the name.
    __hash__ = str.__hash__

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class ControlToken:
    """A surface form and its id, which ordinary text must not produce unless `kind` says otherwise.

    Attributes:
        form: The string that spells it.
        id: Its id.
        role: What it is for, or None where no family of the catalogue says so.
        kind: What it is to a guard.
        special: Whether the library calls it special. Tokens that are not are parsed all the same.
        lstrip: Whether it swallows the white space on its left.
        rstrip: Whether it swallows the white space on its right.
        single_word: Whether it is parsed only between characters that are no part of a word.
        normalized: Whether it is looked for in the normalised text, in place of the text.
    """

    form: str
    id: int
    role: Role | None = None
    kind: TokenClass = TokenClass.CONTROL
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


@runtime_checkable
class Tokenizer(Protocol):
    """A tokenizer that guardtok can bind: immutable, picklable, safe to share between threads."""

    @property
    def name(self) -> str:
        """A short name for people and logs."""
        ...

    @property
    def control_tokens(self) -> tuple[ControlToken, ...]:
        """Every control token, in the order of their ids. Two forms may share an id; a form has one id.

        Those of the classes `UNKNOWN` and `BYTE` are among them, and those of `SPACE` and `TEXT` are not.
        """
        ...

    @property
    def reserved_ids(self) -> frozenset[int]:
        """Ids that no ordinary text may come out as.

        Those of `control_tokens` that are of the class `CONTROL`, and the base vocabulary's own ids for the same
        strings.
        """
        ...

    @property
    def fingerprint(self) -> str:
        """`sha256:…` over everything that decides which ids a text becomes."""
        ...

    @property
    def n_vocab(self) -> int:
        """One more than the highest id."""
        ...

    def with_custom_tokens(self, ids: Mapping[str, int]) -> Tokenizer:
        """Return a tokenizer that also has these control tokens, id by form; this one stays as it is.

        Raises:
            TokenizerError: A form or an id that already means something else.
        """
        ...

    def encode_ordinary(self, text: str, *, at_start: bool) -> Ids:
        """Encode text in which nothing is parsed.

        Args:
            text: Well-formed Unicode, no surrogates.
            at_start: Whether this run begins the whole output (SentencePiece writes a prefix there).
        """
        ...

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Decode ids, control tokens included, to the bytes that they stand for.

        Raises:
            KeyError: For an id that is not in the vocabulary.
        """
        ...


class Normalized(NamedTuple):
    """A text as a tokenizer's own normaliser leaves it.

    Attributes:
        text: The normalised text.
        spans: For each of its characters, the first character that it came from and one past the last.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


class Pattern(NamedTuple):
    """How a token that is `normalized` is spelled in normalised text.

    Attributes:
        text: What the library looks for.
        lead: So many characters of it the normaliser puts before every text; they are no part of the form.
    """

    text: str
    lead: int


@runtime_checkable
class RuledTokenizer(Tokenizer, Protocol):
    """A tokenizer that normalises, or whose added tokens have rules: huggingface `tokenizers` and its kin."""

    @property
    def added_tokens(self) -> tuple[ControlToken, ...]:
        """Every added token of every class, in the order of their ids, and the control tokens that are not added."""
        ...

    @property
    def ruled(self) -> bool:
        """Whether any control token has a rule: that of the leftmost and longest does not say all."""
        ...

    @property
    def normalizes(self) -> bool:
        """Whether there is a normaliser."""
        ...

    @property
    def folds(self) -> Mapping[str, str]:
        """The forms that the normaliser can make out of other characters, so that they become ids.

        By form, what it is in the normalised text. Empty where no normaliser can.
        """
        ...

    @property
    def patterns(self) -> Mapping[str, Pattern]:
        """By form, the control tokens that are looked for in the normalised text."""
        ...

    @property
    def affixes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that the library puts before and after one text (`add_special_tokens=True`)."""
        ...

    def with_text_tokens(self, forms: Iterable[str]) -> RuledTokenizer:
        """Return a tokenizer for which these added tokens are text; this one stays as it is.

        Forms that it does not have change nothing.
        """
        ...

    def is_word(self, char: str) -> bool:
        """Whether a character is a part of a word, so that no `single_word` token may stand next to it."""
        ...

    def normalize(self, text: str) -> str:
        """Normalise text as it is before it is encoded."""
        ...

    def align(self, text: str) -> Normalized:
        """Normalise text and say where each character came from, which takes much longer."""
        ...

    def encode_normalized(self, text: str, *, at_start: bool, inside: bool) -> Ids:
        """Encode normalised text in which nothing is parsed.

        Args:
            text: A part of what `normalize` returned.
            at_start: Whether this part begins the whole output.
            inside: Whether it goes on from ordinary text, so that no prefix belongs before it.
        """
        ...
