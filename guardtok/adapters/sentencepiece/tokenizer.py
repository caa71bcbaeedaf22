"""A SentencePiece model as guardtok's `Tokenizer`.

SentencePiece never parses a control symbol out of text, and always parses a user-defined one: to it `[REF]` in a user's
message is the token. So both kinds are reserved here, and what comes out of ordinary text is left to guardtok's check.
Behind this class the library has a processor of its own, which adds nothing, reverses nothing and samples nothing.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

from guardtok.adapters.sentencepiece.model import SPACE, WITHOUT_PREFIX, PieceType, load_processor, read_model
from guardtok.dialects import role_of
from guardtok.errors import TokenizerError, is_failure
from guardtok.placing import refuse_second_ids
from guardtok.tokenizer import ControlToken, Normalized, TokenClass
from guardtok.violation import broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from guardtok.tokenizer import Ids, Pattern

MAX_ID = 2**31 - 1
"""SentencePiece's ids are signed 32-bit integers."""

_RESERVED = {PieceType.CONTROL, PieceType.USER_DEFINED}
_TEXT = frozenset({TokenClass.SPACE, TokenClass.TEXT})


class SentencePieceTokenizer:
    """A SentencePiece model, and the control tokens that a policy adds to it.

    Control tokens are the model's control symbols and its user-defined ones, unless they are white space alone. Of the
    unknown token the literal spelling is guarded, and not the id. Bytes are no tokens of anybody's: SentencePiece never
    parses `<0x0A>`.

    Immutable, picklable and safe to share between threads.

    Args:
        model: The bytes of a `.model` file.
        name: A name for people and logs.
        custom_tokens: Ids by form of control tokens that the model does not have. One that it has under the same id
            changes nothing.
        text_tokens: Control and user-defined symbols that are text. Those that the model does not have change nothing.

    Raises:
        MissingExtraError: sentencepiece is not installed.
        TokenizerError: The bytes are no model, or one that writes white space behind words; or an id or a form of a
            custom token is taken, is out of range, or cannot be written as UTF-8.
    """

    def __init__(
        self,
        model: bytes,
        *,
        name: str,
        custom_tokens: Mapping[str, int] | None = None,
        text_tokens: Iterable[str] = (),
    ) -> None:
        self._model = bytes(model)
        self._name = name
        self._text_tokens = frozenset(text_tokens)
        self._prefixed = load_processor(self._model, name)
        self._inside = load_processor(self._model + WITHOUT_PREFIX, name)
        pieces, self._normalizes = read_model(self._model, self._prefixed, name)
        self._size = len(pieces)
        own = [token for id_, piece in enumerate(pieces) if (token := self._as_token(id_, *piece)) is not None]
        ids = {token.form: token.id for token in own}
        custom = {form: id_ for form, id_ in (custom_tokens or {}).items() if ids.get(form) != id_}
        _refuse_collisions(name, self._size, ids, custom)
        self._custom = custom
        own += [ControlToken(form, id_, role_of(form, id_)) for form, id_ in custom.items()]
        self._added_tokens = tuple(sorted(own, key=lambda token: (token.id, token.form)))
        self._control_tokens = tuple(token for token in self._added_tokens if token.kind not in _TEXT)
        # As for tiktoken: an ordinary piece that spells a custom form is as good as it, unless it is one character.
        spelled = {piece: id_ for id_, (piece, _) in enumerate(pieces)}
        twins = (spelled.get(form.replace(" ", SPACE)) for form in custom if len(form) > 1)
        reserved = {token.id for token in self._control_tokens if token.kind is TokenClass.CONTROL}
        self._reserved_ids = frozenset(reserved).union(id_ for id_ in twins if id_ is not None)
        self._bytes = [self._spell(id_, piece, kind) for id_, (piece, kind) in enumerate(pieces)]
        self._custom_bytes = {id_: form.encode() for form, id_ in custom.items()}
        # What the model looks for in the normalised text is parsed, whatever it was before.
        parsed = (token.form for token in self._control_tokens if pieces[token.id : token.id + 1])
        user = {form for form in parsed if pieces[ids[form]][1] == PieceType.USER_DEFINED}
        self._folds = {form: self.normalize(form) for form in sorted(user)} if self._normalizes else {}

    def _as_token(self, id_: int, piece: str, kind: int) -> ControlToken | None:
        """Return a piece as an added token, or None where it is an ordinary one."""
        form = piece.replace(SPACE, " ")
        if kind == PieceType.UNKNOWN:
            return ControlToken(form, id_, role_of(form, id_), TokenClass.UNKNOWN)
        if kind not in _RESERVED:
            return None
        if not form.strip():
            return ControlToken(form, id_, None, TokenClass.SPACE)
        text = form in self._text_tokens
        return ControlToken(form, id_, role_of(form, id_), TokenClass.TEXT if text else TokenClass.CONTROL)

    def __repr__(self) -> str:
        return f"<SentencePieceTokenizer {self._name!r}, {len(self._control_tokens)} control tokens>"

    def __reduce__(self) -> tuple[object, tuple[bytes, str, dict[str, int], frozenset[str]]]:
        return _rebuild, (self._model, self._name, self._custom, self._text_tokens)

    @property
    def name(self) -> str:
        """A short name for people and logs."""
        return self._name

    @property
    def control_tokens(self) -> tuple[ControlToken, ...]:
        """Control and user-defined symbols, the unknown and the custom tokens, in the order of their ids."""
        return self._control_tokens

    @property
    def added_tokens(self) -> tuple[ControlToken, ...]:
        """The same, and the symbols that are text."""
        return self._added_tokens

    @property
    def named_tokens(self) -> Mapping[str, str]:
        """Forms of the model's own tokens by the names that chat templates ask for, such as `bos_token`."""
        model = self._prefixed
        ids = {"bos": model.bos_id(), "eos": model.eos_id(), "pad": model.pad_id(), "unk": model.unk_id()}
        return {f"{name}_token": model.id_to_piece(id_) for name, id_ in ids.items() if id_ >= 0}

    @property
    def reserved_ids(self) -> frozenset[int]:
        """Ids of the control tokens, and of ordinary pieces that spell a custom one, unless it is one character."""
        return self._reserved_ids

    @property
    def n_vocab(self) -> int:
        """One more than the highest id, custom tokens included."""
        return max(self._size, *(id_ + 1 for id_ in self._custom.values()), 0)

    @cached_property
    def fingerprint(self) -> str:
        """`sha256:…` over the SHA-256 of the model file, custom and text tokens; not over the name."""
        facts = {
            "library": "sentencepiece",
            "model": hashlib.sha256(self._model).hexdigest(),
            "custom_tokens": self._custom,
            "text_tokens": sorted(self._text_tokens),
        }
        return "sha256:" + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def with_custom_tokens(self, ids: Mapping[str, int]) -> SentencePieceTokenizer:
        """Return a tokenizer that also has these control tokens, id by form; this one stays as it is.

        Raises:
            TokenizerError: A form or an id that already means something else.
        """
        refuse_second_ids(self._name, self._custom, ids)
        return _rebuild(self._model, self._name, {**self._custom, **ids}, self._text_tokens)

    def with_text_tokens(self, forms: Iterable[str]) -> SentencePieceTokenizer:
        """Return a tokenizer for which these symbols are text; this one stays as it is.

        Forms that it does not have change nothing.
        """
        wanted = self._text_tokens.union(form for form in forms if form in {token.form for token in self._added_tokens})
        return self if wanted == self._text_tokens else _rebuild(self._model, self._name, self._custom, wanted)

    @property
    def ruled(self) -> bool:
        """Never: SentencePiece's symbols swallow nothing and stand anywhere."""
        return False

    @property
    def normalizes(self) -> bool:
        """Whether the model's normaliser can make other text of a text."""
        return self._normalizes

    @property
    def folds(self) -> Mapping[str, str]:
        """The user-defined symbols, if the model normalises: it looks for them in the normalised text."""
        return self._folds

    @property
    def patterns(self) -> Mapping[str, Pattern]:
        """None: every symbol is looked for in the text too."""
        return {}

    @property
    def affixes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """None: mistral-common writes `<s>` and `</s>` where its templates have them."""
        return (), ()

    def is_word(self, char: str) -> bool:
        """Whether a character is a part of a word; no symbol asks for that."""
        return char.isalnum() or char == "_"

    def normalize(self, text: str) -> str:
        """Normalise text as the model does, with spaces as spaces and without the prefix.

        Raises:
            TokenizerError: SentencePiece failed.
        """
        return self.align(text).text if self._normalizes else text

    def align(self, text: str) -> Normalized:
        """Normalise text, and say where each character came from.

        Raises:
            TokenizerError: SentencePiece failed.
        """
        if not self._normalizes:
            return Normalized(text, tuple((place, place + 1) for place in range(len(text))))
        normal, starts = self._guarded(lambda: self._inside.normalize(text, with_offsets=True), text)
        spans = []
        end = len(text)
        for place in range(len(normal) - 1, -1, -1):  # One character can become several: all end where the next begins.
            if starts[place + 1] > starts[place]:
                end = starts[place + 1]
            spans.append((starts[place], end))
        return Normalized(normal.replace(SPACE, " "), tuple(reversed(spans)))

    def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:  # noqa: ARG002 - see below
        """Encode text: control symbols in it as characters, user-defined ones, which nothing can turn off, as ids.

        The model's prefix, a space, is written before it wherever it stands, if the model has one: mistral-common
        encodes what is between two control tokens as a text of its own.

        Raises:
            TokenizerError: SentencePiece failed.
        """
        return list(self._guarded(lambda: self._prefixed.encode(text), text))

    def encode_ordinary_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Return `encode_ordinary` of each text; none of them begins the output.

        Raises:
            TokenizerError: SentencePiece failed.
        """
        return [self.encode_ordinary(text, at_start=False) for text in texts]

    def encode_normalized(self, text: str, *, at_start: bool, inside: bool) -> list[int]:  # noqa: ARG002 - as above
        """Encode a part of normalised text, with the prefix unless it goes on from ordinary text.

        Raises:
            TokenizerError: SentencePiece failed.
        """
        processor = self._inside if inside else self._prefixed
        return list(self._guarded(lambda: processor.encode(text), text))

    def _guarded(self, call: Callable[[], Any], text: str) -> Any:  # noqa: ANN401 - what the call returns
        try:
            return call()
        except BaseException as error:
            if not is_failure(error):
                raise
            failure = type(error).__name__
        # Raised out here the error has no context, and so nothing that could hold the text.
        raise TokenizerError(
            f"{self._name}: SentencePiece failed with {failure} on a text of {len(text)} characters. "
            "Set a lower limits.max_chars."
        )

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Decode ids, control tokens included, to the bytes that they stand for.

        Each id stands for its own bytes whatever is next to it. So the prefix is a space here, which SentencePiece's
        own `decode` leaves out at the beginning.

        Raises:
            KeyError: For an id that is not in the vocabulary.
        """
        custom, own = self._custom_bytes, self._bytes
        parts = []
        for id_ in ids:
            if id_ in custom:
                parts.append(custom[id_])
            elif 0 <= id_ < self._size:
                parts.append(own[id_])
            else:
                raise KeyError(f"{self._name}: an id is not in the vocabulary")
        return b"".join(parts)

    def _spell(self, id_: int, piece: str, kind: int) -> bytes:
        if kind == PieceType.BYTE:
            return bytes([int(piece[3:-1], 16)])  # <0x0A>
        if kind == PieceType.UNKNOWN:
            return str(self._inside.decode([id_])).encode()  # What the model shows for it, usually U+2047.
        return piece.replace(SPACE, " ").encode()


def _rebuild(model: bytes, name: str, custom: dict[str, int], text_tokens: frozenset[str]) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(model, name=name, custom_tokens=custom, text_tokens=text_tokens)


def _refuse_collisions(name: str, size: int, own: Mapping[str, int], custom: Mapping[str, int]) -> None:
    """Raise where a custom token shares its id or its form with another token."""
    taken = {size - 1}
    for form, id_ in custom.items():
        if not form or not _is_unicode(form):
            fact, mend = "is empty or is not valid Unicode", "Spell the token with at least one character."
        elif type(id_) is not int or not 0 <= id_ <= MAX_ID:
            fact, mend = "has an id that SentencePiece has no room for", f"Give it an id from {size} to {MAX_ID}."
        elif form in own:
            fact, mend = f"is a token of the model with the id {own[form]}", "Leave it out, or use that id."
        elif id_ < size or id_ in taken:
            fact, mend = (
                f"has the id {id_}, which is taken",
                f"Use a free id, from {max(taken) + 1} up.",
            )
        else:
            taken.add(id_)
            continue
        raise TokenizerError(f"{name}: the custom token {broken(form)!r} {fact}. {mend}")


def _is_unicode(form: str) -> bool:
    try:
        form.encode()
    except UnicodeEncodeError:
        return False
    return True
