"""A SentencePiece model as its file has it: the type of each piece, and whether it normalises text.

The library tells control symbols apart from others, and user-defined ones from no others. So both are read from the
model itself, and held against what the library does tell.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from guardtok.errors import MissingExtraError, TokenizerError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentencepiece import SentencePieceProcessor

SPACE = "\u2581"
"""What a piece has where the text has a space."""

WITHOUT_PREFIX = b"\x1a\x02\x18\x00"
"""`normalizer_spec { add_dummy_prefix: false }`: protocol buffers that follow one another are merged, the last wins."""


class PieceType(IntEnum):
    """The types of pieces in sentencepiece_model.proto."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Model(NamedTuple):
    """What is read from a model.

    Attributes:
        pieces: The spelling and the type of each piece, by id.
        normalizes: Whether its normaliser can make other text of a text: by a map of characters, or of white space.
    """

    pieces: list[tuple[str, int]]
    normalizes: bool


def load_processor(model: bytes, name: str) -> SentencePieceProcessor:
    """Return the library's processor of a model, which adds, reverses and samples nothing.

    Raises:
        MissingExtraError: sentencepiece is not installed.
        TokenizerError: The bytes are no model, or one that writes white space behind words.
    """
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


def read_model(model: bytes, processor: SentencePieceProcessor, name: str) -> Model:
    """Return what is in the model.

    Raises:
        TokenizerError: It is not what the library has read from it.
    """
    pieces: list[tuple[str, int]] = []
    normalizer: dict[int, Any] = {}
    try:
        for field, value in _fields(memoryview(model)):
            if field == _PIECES and isinstance(value, memoryview):
                piece: dict[int, Any] = {_TYPE: int(PieceType.NORMAL), **dict(_fields(value))}
                pieces.append((bytes(piece[_PIECE]).decode(), piece[_TYPE]))
            elif field == _NORMALIZER and isinstance(value, memoryview):
                normalizer.update(_fields(value))
    except (IndexError, KeyError, TypeError, ValueError):
        pieces = []
    control = [id_ for id_, (_, kind) in enumerate(pieces) if kind == PieceType.CONTROL]
    told = [id_ for id_ in range(processor.get_piece_size()) if processor.is_control(id_)]
    if len(pieces) != processor.get_piece_size() or control != told:
        raise TokenizerError(f"{name}: the pieces of the model are not those that SentencePiece has read from it.")
    return Model(pieces, bool(normalizer.get(_CHARACTER_MAP)) or bool(normalizer.get(_REMOVE_WHITE_SPACE, 1)))


_PIECES, _NORMALIZER = 1, 3
"""Numbers of the fields `pieces` and `normalizer_spec` of `ModelProto` in sentencepiece_model.proto."""

_PIECE, _TYPE = 1, 3
"""Of the fields `piece` and `type` of `SentencePiece`."""

_CHARACTER_MAP, _REMOVE_WHITE_SPACE = 2, 4
"""Of the fields `precompiled_charsmap` and `remove_extra_whitespaces` of `NormalizerSpec`."""


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
