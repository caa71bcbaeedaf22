"""The safetensors format, read and written here: eight bytes of length, a JSON header, and one buffer.

A header says where in the file each tensor lies, and whoever made the file may have lied. So nothing is taken from a
header before all of it was checked: each tensor as long as its type and shape say, the tensors side by side from the
buffer's first byte to its last, no name twice. What passes here the `safetensors` library accepts too, and reads alike.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from guardtok.errors import CheckpointError
from guardtok.resize.json_file import parse, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_HEADER = 32 << 20
"""The longest header that is read, in bytes. The library takes 100 MB; real headers stay below ten."""

DTYPE_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 64),
}
"""Bits of an element, by the name of its type."""

_LENGTH = 8
_ALIGNMENT = 8
_MAX_COUNT = 1 << 63
_FIELDS = {"dtype", "shape", "data_offsets"}
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a safetensors file.

    Attributes:
        name: Its name.
        dtype: The name of its elements' type, a key of `DTYPE_BITS`.
        shape: Its dimensions.
        start: Where it begins, in bytes from the buffer's first.
        end: One past its last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself, checked.

    Attributes:
        tensors: The tensors, in the order of the buffer.
        metadata: The file's own notes (`format: pt`).
        data_start: Where the buffer begins, in bytes from the file's first.
        digest: SHA-256 over all in front of the buffer.
    """

    tensors: tuple[StoredTensor, ...]
    metadata: Mapping[str, str]
    data_start: int
    digest: str


def read_header(file: BinaryIO, size: int, place: str) -> Header:
    """Return a safetensors file's header.

    Args:
        file: The file, at its first byte.
        size: Its bytes.
        place: Its name, for messages.

    Raises:
        CheckpointError: The file is truncated or forged: it claims bytes that it does not have, tensors overlap or
            leave holes, a size is not what type and shape make, a name stands there twice, and the like.
        OSError: The system refused to read.
    """
    prefix = file.read(_LENGTH)
    if len(prefix) < _LENGTH:
        raise CheckpointError(f"{place} is no safetensors file: it has {len(prefix)} bytes. Fetch it again.")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER:
        raise CheckpointError(f"{place} claims a header of {length:,} bytes; at most {MAX_HEADER:,} are read.")
    if _LENGTH + length > size:
        raise CheckpointError(
            f"{place} claims a header of {length:,} bytes, and has {size:,} in all. It was cut off; fetch it again."
        )
    data = file.read(length)
    if len(data) < length:
        raise CheckpointError(f"{place} ends within its header. It was cut off; fetch it again.")
    if not data.startswith(b"{"):
        raise CheckpointError(f"{place} is no safetensors file: its header does not begin as JSON.")
    entries = parse(data, f"The header of {place}", python=False)
    metadata = _metadata(entries.pop(_METADATA, {}), place)
    tensors = sorted((_tensor(name, entry, place) for name, entry in entries.items()), key=_order)
    _check_layout(tensors, size - _LENGTH - length, place)
    return Header(tuple(tensors), metadata, _LENGTH + length, hashlib.sha256(prefix + data).hexdigest())


def _metadata(value: object, place: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise CheckpointError(f"The metadata of {place} are not strings.")
    if not all(map(_is_unicode, (*value, *value.values()))):
        raise CheckpointError(f"The metadata of {place} hold half a surrogate pair.")
    return value


def _tensor(name: str, entry: Any, place: str) -> StoredTensor:  # noqa: ANN401 - whatever the file holds
    """Return one entry of a header, checked by itself."""
    where = f"Tensor {shown(name)!r} of {place}"
    if not isinstance(entry, dict) or set(entry) != _FIELDS:
        raise CheckpointError(f"{where} is not described by dtype, shape and data_offsets alone.")
    if not _is_unicode(name):
        raise CheckpointError(f"{where} has half a surrogate pair in its name.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    bits = DTYPE_BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise CheckpointError(f"{where} has a type that is not known.")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:  # noqa: PLR2004 - begin and end
        raise CheckpointError(f"{where} has a shape or offsets that are not whole numbers from 0.")
    count = bits
    for extent in shape:
        count *= extent
        # Each step is checked, so that a shape of a million large numbers costs no time.
        if count >= _MAX_COUNT:
            raise CheckpointError(f"{where} has a shape that no file can hold.")
    start, end = offsets
    if end - start != count // 8 or count % 8:
        raise CheckpointError(f"{where} has {end - start:,} bytes, and its type and shape make {count / 8:,.0f}.")
    return StoredTensor(name, dtype, tuple(shape), start, end)


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(each) is int and 0 <= each < _MAX_COUNT for each in value)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _order(tensor: StoredTensor) -> tuple[int, int, str]:
    return tensor.start, tensor.end, tensor.name


def _check_layout(tensors: Iterable[StoredTensor], size: int, place: str) -> None:
    """Check that the tensors fill the buffer, side by side.

    Raises:
        CheckpointError: They do not.
    """
    at = 0
    for tensor in tensors:
        if tensor.start != at:
            what = "overlaps the one before it" if tensor.start < at else "leaves a hole before it"
            raise CheckpointError(f"Tensor {shown(tensor.name)!r} of {place} {what}.")
        at = tensor.end
    if at != size:
        what = "It was cut off; fetch it again." if at > size else "The rest is nobody's."
        raise CheckpointError(f"The tensors of {place} take {at:,} bytes, and its buffer has {size:,}. {what}")


def render_header(tensors: Iterable[tuple[str, str, tuple[int, ...], int]], metadata: Mapping[str, str]) -> bytes:
    """Return what stands in front of a buffer, padded so that the buffer begins at a multiple of eight bytes.

    Args:
        tensors: Name, type, shape and bytes of each tensor, in the order of the buffer.
        metadata: The file's own notes.
    """
    entries: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    at = 0
    for name, dtype, shape, size in tensors:
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(_LENGTH, "little") + text
