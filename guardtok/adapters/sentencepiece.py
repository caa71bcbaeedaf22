"""A SentencePiece model as guardtok's `Tokenizer`.

SentencePiece never parses a control symbol out of text, and always parses a user-defined one: to it `[REF]` in a user's
message is the token. So both kinds are reserved here, and what comes out of ordinary text is left to guardtok's check.
Behind this class the library has a processor of its own, which adds nothing, reverses nothing and samples nothing.
"""

from __future__ import annotations

import hashlib
import json
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from guardtok.dialects import role_of
from guardtok.errors import MissingExtraError, TokenizerError, is_failure
from guardtok.tokenizer import ControlToken
from guardtok.violation import broken

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sentencepiece import SentencePieceProcessor

SPACE = "\u2581"
"""What a piece has where the text has a space."""

MAX_ID = 2**31 - 1
"""SentencePiece's ids are signed 32-bit integers."""

_WITHOUT_PREFIX = b"\x1a\x02\x18\x00"
"""`normalizer_spec { add_dummy_prefix: false }`: protocol buffers that follow one another are merged, the last wins."""


class _Type(IntEnum):
    """The types of pieces in sentencepiece_model.proto."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_RESERVED = {_Type.CONTROL, _Type.USER_DEFINED}


class SentencePieceTokenizer:
    """A SentencePiece model, and the control tokens that a policy adds to it.

    Control tokens are the model's control symbols and its user-defined ones, unless they are white space alone. The
    unknown id and the ids of bytes are none: ordinary text makes them.

    Immutable, picklable and safe to share between threads.

    Args:
        model: The bytes of a `.model` file.
        name: A name for people and logs.
        custom_tokens: Ids by form of control tokens that the model does not have. One that it has under the same id
            changes nothing.

    Raises:
        MissingExtraError: sentencepiece is not installed.
        TokenizerError: The bytes are no model, or one that writes white space behind words; or an id or a form of a
            custom token is taken, is out of range, or cannot be written as UTF-8.
    """

    def __init__(self, model: bytes, *, name: str, custom_tokens: Mapping[str, int] | None = None) -> None:
        self._model = bytes(model)
        self._name = name
        self._at_start = _load(self._model, name)
        self._inside = _load(self._model + _WITHOUT_PREFIX, name)
        pieces = _pieces(self._model, self._at_start, name)
        self._size = len(pieces)
        own = {
            form: id_
            for id_, (piece, kind) in enumerate(pieces)
            if kind in _RESERVED and (form := piece.replace(SPACE, " ")).strip()
        }
        custom = {form: id_ for form, id_ in (custom_tokens or {}).items() if own.get(form) != id_}
        ids = {piece: id_ for id_, (piece, _) in enumerate(pieces)}
        _refuse_collisions(name, self._size, own, custom)
        self._custom = custom
        tokens = sorted((id_, form) for form, id_ in (own | custom).items())
        self._control_tokens = tuple(ControlToken(form, id_, role_of(form, id_)) for id_, form in tokens)
        # As for tiktoken: an ordinary piece that spells a custom form is as good as it, unless it is one character.
        ordinary = (ids.get(form.replace(" ", SPACE)) for form in custom if len(form) > 1)
        self._reserved_ids = frozenset(id_ for id_, _ in tokens) | {id_ for id_ in ordinary if id_ is not None}
        self._bytes = [self._spell(id_, piece, kind) for id_, (piece, kind) in enumerate(pieces)]
        self._custom_bytes = {id_: form.encode() for form, id_ in custom.items()}

    def __repr__(self) -> str:
        return f"<SentencePieceTokenizer {self._name!r}, {len(self._control_tokens)} control tokens>"

    def __reduce__(self) -> tuple[object, tuple[bytes, str, dict[str, int]]]:
        return _rebuild, (self._model, self._name, self._custom)

    @property
    def name(self) -> str:
        """A short name for people and logs."""
        return self._name

    @property
    def control_tokens(self) -> tuple[ControlToken, ...]:
        """Control and user-defined symbols and the custom tokens, in the order of their ids."""
        return self._control_tokens

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
        """`sha256:…` over the SHA-256 of the model file and the custom tokens; not over the name."""
        facts = {
            "library": "sentencepiece",
            "model": hashlib.sha256(self._model).hexdigest(),
            "custom_tokens": self._custom,
        }
        return "sha256:" + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def with_custom_tokens(self, ids: Mapping[str, int]) -> SentencePieceTokenizer:
        """Return a tokenizer that also has these control tokens, id by form; this one stays as it is.

        Raises:
            TokenizerError: A form or an id that already means something else.
        """
        for form, id_ in ids.items():
            if self._custom.get(form, id_) != id_:
                raise TokenizerError(
                    f"{self._name}: the custom token {broken(form)!r} has the id {self._custom[form]} and cannot have "
                    f"{id_} too. Give it one id."
                )
        return SentencePieceTokenizer(self._model, name=self._name, custom_tokens={**self._custom, **ids})

    def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:
        """Encode text: control symbols in it as characters, user-defined ones, which nothing can turn off, as ids.

        Args:
            text: Well-formed Unicode, no surrogates.
            at_start: Whether the model's prefix, a space, is written before it (if the model has one).

        Raises:
            TokenizerError: SentencePiece failed.
        """
        processor = self._at_start if at_start else self._inside
        try:
            return processor.encode(text)  # type: ignore[no-any-return]
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
        if kind == _Type.BYTE:
            return bytes([int(piece[3:-1], 16)])  # <0x0A>
        if kind == _Type.UNKNOWN:
            return str(self._inside.decode([id_])).encode()  # What the model shows for it, usually U+2047.
        return piece.replace(SPACE, " ").encode()


def _rebuild(model: bytes, name: str, custom: dict[str, int]) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(model, name=name, custom_tokens=custom)


def _load(model: bytes, name: str) -> SentencePieceProcessor:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise MissingExtraError("A SentencePiece model needs sentencepiece: pip install 'guardtok[mistral]'.") from None
    try:
        processor = SentencePieceProcessor(model_proto=model)
        behind = processor.normalize("a").endswith(SPACE)
    except Exception as error:  # noqa: BLE001  # Whatever it is, this is no model.
        raise TokenizerError(f"{name}: SentencePiece cannot read the model ({type(error).__name__}).") from None
    if behind:
        raise TokenizerError(
            f"{name}: the model writes white space behind words, so a text depends on what follows it, and guardtok "
            "cannot encode it in runs. Use a model that writes it before words."
        )
    return processor


def _pieces(model: bytes, processor: SentencePieceProcessor, name: str) -> list[tuple[str, int]]:
    """Return the spelling and the type of each piece, by id.

    The library tells control symbols apart from others, and user-defined ones from no others. So the types are read
    from the model itself, and held against what the library does tell.
    """
    try:
        pieces = []
        for field, value in _fields(memoryview(model)):
            if field == _PIECES and isinstance(value, memoryview):
                piece: dict[int, Any] = {_TYPE: int(_Type.NORMAL), **dict(_fields(value))}
                pieces.append((bytes(piece[_PIECE]).decode(), piece[_TYPE]))
    except (IndexError, KeyError, TypeError, ValueError):
        pieces = []
    control = [id_ for id_, (_, kind) in enumerate(pieces) if kind == _Type.CONTROL]
    told = [id_ for id_ in range(processor.get_piece_size()) if processor.is_control(id_)]
    if len(pieces) != processor.get_piece_size() or control != told:
        raise TokenizerError(f"{name}: the pieces of the model are not those that SentencePiece has read from it.")
    return pieces


_PIECES, _PIECE, _TYPE = 1, 1, 3
"""Numbers of the fields `ModelProto.pieces`, `SentencePiece.piece` and `.type` in sentencepiece_model.proto."""


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a protocol buffer: a number, or the bytes of anything else.

    Here and not through the protobuf package, for which sentencepiece has no need either.
    """
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        match key & 7:
            case 0:
                value, place = _varint(data, place)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, place = _varint(data, place)
            case 5:
                size = 4
            case _:
                raise ValueError("no type of a field")
        if place + size > len(data):
            raise ValueError("a field ends behind its message")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Return the number that begins at a place, seven bits a byte, and the place behind it."""
    number = shift = 0
    while data[place] & 0x80:
        number |= (data[place] & 0x7F) << shift
        shift += 7
        place += 1
    return number | data[place] << shift, place + 1


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
