"""Headers of safetensors files: what is read is what the library reads, and what is forged is refused."""

from __future__ import annotations

import io
import json
import struct
from typing import TYPE_CHECKING, Any

import pytest
from checkpoints import numbers, shard
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from guardtok.errors import CheckpointError
from guardtok.resize.safetensors_file import DTYPE_BITS, MAX_HEADER, Header, read_header

if TYPE_CHECKING:
    from checkpoints import Tensor

GOOD = shard({"a": numbers("F32", 2, 3), "b": numbers("BF16", 4), "empty": numbers("F16", 0, 5)})


def read(data: bytes) -> Header:
    """Return the header of a file with these bytes."""
    return read_header(io.BytesIO(data), len(data), "model.safetensors")


def forged(entries: Any, buffer: bytes = b"\0" * 8) -> bytes:  # noqa: ANN401 - whatever a forger writes
    """Return a file with any header."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + buffer


def entry(start: int, end: int, *, dtype: Any = "F32", shape: Any = (1,)) -> dict[str, Any]:  # noqa: ANN401
    """Return a tensor as a header has it."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


FORGERIES: dict[str, tuple[bytes, str]] = {
    "no file at all": (b"", "0 bytes"),
    "cut off in the length": (GOOD[:5], "5 bytes"),
    "cut off in the header": (GOOD[:40], "cut off"),
    "cut off in the buffer": (GOOD[:-1], "cut off"),
    "a byte too many": (GOOD + b"\0", "nobody's"),
    "a header of 100 MB": (struct.pack("<Q", 100_000_000) + GOOD[8:], "at most"),
    "a length beyond all files": (struct.pack("<Q", 2**64 - 1) + GOOD[8:], "at most"),
    "a length beyond the file": (struct.pack("<Q", len(GOOD)) + GOOD[8:], "cut off"),
    "no JSON": (forged(b"{nonsense"), "no JSON"),
    "no object": (forged(b"[1]"), "does not begin"),
    "not UTF-8": (forged(b'{"\xff": 1}'), "not UTF-8"),
    "half a surrogate pair": (forged(b'{"\\ud800": {"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'), "surrogate"),
    "too deep": (forged(b'{"a":' * 50_000 + b"1" + b"}" * 50_000), "too deep"),
    "a number too long": (forged(b'{"a":' + b"9" * 10_000 + b"}"), "too long"),
    "a name twice": (
        forged(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
        ),
        "twice",
    ),
    "beyond the buffer": (forged({"a": entry(0, 8, shape=[2]), "b": entry(8, 12)}), "cut off"),
    "overlapping": (forged({"a": entry(0, 4), "b": entry(2, 6), "c": entry(6, 10)}), "overlaps"),
    "two in one place": (forged({"a": entry(0, 8, shape=[2]), "b": entry(0, 8, shape=[2])}), "overlaps"),
    "a hole": (forged({"a": entry(0, 4), "b": entry(5, 9)}, b"\0" * 9), "hole"),
    "a hole at the front": (forged({"a": entry(4, 8)}), "hole"),
    "backwards": (forged({"a": entry(8, 4)}), "bytes"),
    "a size that is not the shape's": (forged({"a": entry(0, 8, shape=[3])}), "bytes"),
    "a size that is not the type's": (forged({"a": entry(0, 8, dtype="F64", shape=[2])}), "bytes"),
    "half a byte": (forged({"a": entry(0, 1, dtype="F4", shape=[3])}, b"\0"), "bytes"),
    "an unknown type": (forged({"a": entry(0, 8, dtype="F128")}), "type"),
    "a type that is no string": (forged({"a": entry(0, 8, dtype=["F32"])}), "type"),
    "negative": (forged({"a": entry(0, 8, shape=[-2])}), "whole numbers"),
    "a float": (forged(b'{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}'), "whole numbers"),
    "minus zero": (forged(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[-0,8]}}'), "whole numbers"),
    "a truth": (forged({"a": entry(0, 4, shape=[True])}, b"\0" * 4), "whole numbers"),
    "a shape that overflows": (forged({"a": entry(0, 0, shape=[2**40, 2**40, 0])}, b""), "no file"),
    "a shape of a million numbers": (forged({"a": entry(0, 8, shape=[2**62] * 1_000_000)}), "no file"),
    "three offsets": (forged({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}}), "whole numbers"),
    "not a number": (forged(b'{"a":NaN}'), "number"),
    "a field that is not known": (forged({"a": entry(0, 8, shape=[2]) | {"more": 1}}), "alone"),
    "metadata that are numbers": (forged({"__metadata__": {"a": 1}}, b""), "strings"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_header_is_a_typed_error(name: str) -> None:
    """Nothing that a forger writes gets past, and the message says what is wrong without echoing the file."""
    data, fact = FORGERIES[name]
    with pytest.raises(CheckpointError, match=fact) as caught:
        read(data)
    assert "\\x" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_long_header_is_not_read() -> None:
    """A header of more than the bound is refused by its length alone, though the file has it."""

    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.taken += size or 0
            return super().read(size)

    file = Counting(struct.pack("<Q", MAX_HEADER + 1))
    with pytest.raises(CheckpointError):
        read_header(file, 1 << 40, "model.safetensors")
    assert file.taken == 8


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__"),
        st.builds(
            numbers,
            st.sampled_from([dtype for dtype, bits in DTYPE_BITS.items() if bits >= 8]),
            *[st.integers(0, 3)] * 2,
        ),
        max_size=5,
    ),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), st.just("x"), max_size=2),
)
def test_what_is_written_the_library_reads(tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """In a file with a rendered header the `safetensors` library finds the same tensors, and so does guardtok."""
    data = shard(tensors, metadata)
    header = read(data)
    assert dict(header.metadata) == metadata
    assert header.data_start % 8 == 0
    ours = {
        each.name: (each.dtype, each.shape, data[header.data_start :][each.start : each.end]) for each in header.tensors
    }
    assert ours == tensors
    theirs = {name: (tuple(each["shape"]), bytes(each["data"])) for name, each in deserialize(data)}
    assert theirs == {name: (shape, raw) for name, (_, shape, raw) in tensors.items()}


@given(st.data())
def test_mutations_are_refused_or_read_as_the_library_reads_them(data: st.DataObject) -> None:
    """A file with bytes changed, cut out or put in is a typed error, or means to the library what it means here."""
    mutant = bytearray(GOOD)
    end = len(GOOD) - 40
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, end))
        byte = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b'0123456789-.e",:[]{} ')))
        match data.draw(st.sampled_from(["change", "cut", "put", "end"])):
            case "change":
                mutant[at : at + 1] = bytes([byte])
            case "cut":
                del mutant[at : at + data.draw(st.integers(1, 9))]
            case "put":
                mutant[at:at] = bytes([byte])
            case _:
                del mutant[at:]
    if data.draw(st.booleans()):
        mutant[:8] = struct.pack("<Q", max(0, len(mutant) - 8 - 32))
    try:
        header = read(bytes(mutant))
    except CheckpointError:
        return
    try:
        theirs = {name: (each["dtype"], tuple(each["shape"])) for name, each in deserialize(bytes(mutant))}
    except SafetensorError as error:
        pytest.fail(f"only guardtok takes it: {error}")
    assert {name: shape for name, (_, shape) in theirs.items()} == {each.name: each.shape for each in header.tensors}
