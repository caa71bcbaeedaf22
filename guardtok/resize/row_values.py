"""Rows as numbers: the mean of old rows in one pass, and new rows made from it.

A table of a vocabulary is larger than the memory that a resize may take. So the mean is summed up while the bytes
pass by, a few rows at a time, in more than their own precision, and all of these in double precision. The rows of a
token's pieces are fetched one by one when its row is made.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from guardtok.errors import CheckpointError, MissingExtraError
from guardtok.resize.json_file import shown
from guardtok.resize.safetensors_file import DTYPE_BITS
from guardtok.resize.tensor_names import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from guardtok.resize.disk_plan import TensorEdit

_BATCH = 1 << 17
"""Elements that are turned into numbers at once, so that they stay in the processor's cache."""

_FIRST = 16
"""Elements of a row that are looked at to see that it is not all zeros; only where these are, the others."""


def require_numpy() -> None:
    """Do nothing if NumPy is there.

    Raises:
        MissingExtraError: It is not.
    """
    try:
        import numpy as np  # noqa: F401 - whether it is there is all that is asked
    except ImportError:
        raise MissingExtraError(
            "Means of rows are taken with NumPy. Run `pip install 'guardtok[disk]'`, or use `init='zero'`."
        ) from None


def to_numbers(raw: bytes | memoryview, dtype: str) -> NDArray[Any]:
    """Return elements as floats of at least their own precision."""
    import numpy as np

    if dtype == "BF16":
        # The upper half of a float32; shifted in place, for memory that is asked for anew costs more than the shift.
        bits = np.frombuffer(raw, "<u2").astype(np.uint32)
        np.left_shift(bits, 16, out=bits)
        return bits.view(np.float32)
    return np.frombuffer(raw, f"<f{DTYPE_BITS[dtype] // 8}")


def to_bytes(numbers: NDArray[np.float64], dtype: str) -> NDArray[Any]:
    """Return numbers rounded to a type, to the nearest and half to even, as unsigned integers of its size."""
    import numpy as np

    with np.errstate(over="ignore"):
        if dtype == "BF16":
            bits = numbers.astype(np.float32).view(np.uint32)
            return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")
        size = DTYPE_BITS[dtype] // 8
        return numbers.astype(f"<f{size}").view(f"<u{size}")


class RowMean:
    """The mean of a table's live rows, summed up as the table passes by.

    Rows of zeros are left out: nobody ever trained them, and they would only pull the mean to the origin. In a bias a
    zero is a number like others, and many are nothing but zeros.
    """

    def __init__(self, edit: TensorEdit, live: int) -> None:
        """Begin.

        Args:
            edit: What becomes of the table. The rows that it overwrites are left out.
            live: How many rows, from the first, have a token.
        """
        import numpy as np

        self._edit = edit
        self._live = live
        self._fills = np.array(edit.fills, dtype=np.int64)
        self._sum: NDArray[np.float64] = np.zeros(edit.width)
        self.count = 0
        """Rows that were summed up."""

    def see(self, view: memoryview, at: int) -> None:
        """Take in whole rows.

        Args:
            view: Their bytes.
            at: Where the first begins, in bytes from the table's first.
        """
        import numpy as np

        first = at // self._edit.row_bytes
        rows = min(len(view) // self._edit.row_bytes, self._live - first)
        step = max(1, _BATCH // self._edit.width)
        for begin in range(0, max(0, rows), step):
            end = min(rows, begin + step)
            numbers = to_numbers(
                view[begin * self._edit.row_bytes : end * self._edit.row_bytes], self._edit.dtype
            ).reshape(end - begin, self._edit.width)
            low, high = np.searchsorted(self._fills, (first + begin, first + end))
            if low < high:
                numbers = np.delete(numbers, self._fills[low:high] - first - begin, axis=0)
            self.count += len(numbers)
            if self._edit.role is not Role.BIAS:
                blank = ~numbers[:, :_FIRST].any(axis=1)
                self.count -= int(np.count_nonzero(~numbers[blank].any(axis=1)))
            self._sum += self._total(numbers)

    def _total(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Return the sum of a few rows, in twice the precision of their type or more."""
        import numpy as np

        if DTYPE_BITS[self._edit.dtype] == 16:  # noqa: PLR2004 - of bits
            with np.errstate(over="ignore", invalid="ignore"):
                total: NDArray[Any] = numbers.sum(axis=0, dtype=np.float32)
            if np.isfinite(total).all():
                return total
        exact: NDArray[Any] = numbers.sum(axis=0, dtype=np.float64)
        return exact

    def mean(self) -> NDArray[np.float64]:
        """Return the mean.

        Raises:
            CheckpointError: No row was live, or a row is not finite.
        """
        import numpy as np

        where = f"Tensor {shown(self._edit.name)!r}"
        if not self.count:
            raise CheckpointError(f"{where} has nothing but zeros, so there is no mean. Is it the right checkpoint?")
        if not np.isfinite(self._sum).all():
            raise CheckpointError(f"{where} has a row that is not finite. Mend it before new rows are made from it.")
        return self._sum / self.count


class RowMaker:
    """Makes the new rows of one table."""

    def __init__(
        self,
        edit: TensorEdit,
        mean: NDArray[np.float64],
        share: float,
        pieces: Mapping[int, tuple[int, ...]],
        fetch: Callable[[int], bytes],
    ) -> None:
        """Take what rows are made of.

        Args:
            edit: What becomes of the table.
            mean: The mean of its live rows.
            share: How much of a token's row is the mean of its pieces' rows.
            pieces: For the row of each new token the rows of the pieces that spelled it.
            fetch: Returns the bytes of an old row.
        """
        self._edit, self._mean, self._share, self._pieces, self._fetch = edit, mean, share, pieces, fetch
        self._made: set[bytes] = set()

    def rows(self, ids: Sequence[int]) -> Iterator[bytes]:
        """Yield the bytes of the rows with these ids, in this order.

        No two tokens' rows are alike, whatever rounding did to them: a row that was made before is moved by the least
        step in one coordinate. Rows that no token has are the mean, all alike, and so are numbers of a bias.

        Raises:
            CheckpointError: A row would not be finite.
        """
        import numpy as np

        steps = 0
        for row in ids:
            bits = to_bytes(self._numbers(self._pieces.get(row, ())), self._edit.dtype)
            if row in self._pieces and self._edit.width > 1:
                while (digest := hashlib.blake2b(bits.tobytes(), digest_size=16).digest()) in self._made:
                    bits[steps % self._edit.width] += 1
                    steps += 1
                self._made.add(digest)
            raw = bits.tobytes()
            if not np.isfinite(to_numbers(raw, self._edit.dtype)).all():
                where = f"tensor {shown(self._edit.name)!r}"
                raise CheckpointError(f"A new row of {where} would not be finite; its type is too small for the mean.")
            yield raw

    def _numbers(self, pieces: tuple[int, ...]) -> NDArray[np.float64]:
        import numpy as np

        if not pieces or not self._share:
            return self._mean
        old: NDArray[np.float64] = np.zeros(self._edit.width)
        for piece in pieces:
            old += to_numbers(self._fetch(piece), self._edit.dtype)
        return self._share / len(pieces) * old + (1 - self._share) * self._mean
