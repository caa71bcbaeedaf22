from __future__ import annotations

import hashlib
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardtok.errors import CheckpointChangedError
from guardtok.resize import row_bytes
from guardtok.resize.disk_plan import TensorEdit
from guardtok.resize.row_bytes import Pump, Stretch
from guardtok.resize.row_values import RowMean, to_bytes
from guardtok.resize.tensor_names import Role

ROWS = 9


def pump() -> Pump:
    """Return a pump that tells nobody."""
    return Pump(lambda _: None)


def edit(dtype: str, rows: int, width: int) -> TensorEdit:
    """Return a head that gets one row more."""
    after = rows + 1
    shapes = (rows, width), (after, width)
    return TensorEdit("x", "s", dtype, Role.HEAD, *shapes, (rows, after), width, (), makes_logits=True)


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(1, 9),
    fills=st.sets(st.integers(0, ROWS - 1), max_size=3),
    at=st.integers(0, 80),
    lead=st.integers(0, 5),
    piece=st.sampled_from([1, 7, 16, 1 << 20]),
)
def test_one_other_byte_in_a_row_that_stays_is_a_difference(
    width: int, fills: set[int], at: int, lead: int, piece: int
) -> None:
    """Wherever the byte stands, and however the files are cut; in an overwritten row it is none. The digest is that."""
    at %= ROWS * width
    old = bytes(number % 251 for number in range(ROWS * width))
    new = old[:at] + bytes([old[at] ^ 1]) + old[at + 1 :]
    left_out = tuple(sorted(fills))
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_bytes, "CHUNK", piece)
        one, other = Path(folder, "old"), Path(folder, "new")
        one.write_bytes(old)
        other.write_bytes(bytes(lead) + new)
        with FileIO(one) as before, FileIO(other) as after, pump() as moves:
            places = Stretch(before, 0), Stretch(after, lead)
            same = moves.same(*places, len(old), width, left_out)
            digest = moves.digest(places[1], len(old), width, left_out)
        kept = b"".join(new[row * width :][:width] for row in range(ROWS) if row not in fills)
        assert same == (at // width in fills)
        assert digest.result() == hashlib.sha256(kept).hexdigest()


def test_a_file_that_ends_too_early_is_not_the_same(tmp_path: Path) -> None:
    """What is missing is not taken for what was there in the buffer before."""
    (tmp_path / "old").write_bytes(bytes(100))
    (tmp_path / "new").write_bytes(bytes(99))
    with FileIO(tmp_path / "old") as old, FileIO(tmp_path / "new") as new, pump() as moves:
        with pytest.raises(CheckpointChangedError):
            moves.same(Stretch(old, 0), Stretch(new, 0), 100, 10)
        digest = moves.digest(Stretch(new, 0), 100, 10, ())
        with pytest.raises(CheckpointChangedError):
            digest.result()


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("F16", 1.0), ("F16", 6e4), *((dtype, scale) for dtype in ("BF16", "F32", "F64") for scale in (1.0, 3e38))],
)
def test_a_mean_is_as_precise_as_its_type_can_tell(dtype: str, scale: float) -> None:
    """Values whose sum is beyond single precision's largest number included."""
    width, rows = 4, 70_000
    table = np.random.default_rng(0).uniform(0.5, 1.0, (rows, width)) * scale
    table[100], table[200, :3] = 0, 0  # Only the first is a row that nobody trained.
    raw = to_bytes(table.ravel(), dtype).tobytes()
    with np.errstate(over="ignore"):
        exact = _numbers(raw, dtype).reshape(rows, width).sum(axis=0) / (rows - 1)
    mean = RowMean(edit(dtype, rows, width), rows)
    mean.see(memoryview(raw), 0)
    assert mean.count == rows - 1
    np.testing.assert_allclose(mean.mean(), exact, rtol=1e-5)


def _numbers(raw: bytes, dtype: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(raw, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype(np.float64)
