"""Archives that were made to cost whoever reads them, before a signature is looked at."""

from __future__ import annotations

import gzip
import tarfile
import threading
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from bundled import PUBLIC

from guardtok.bundles import open_bundle
from guardtok.bundles.archive import MAX_UNPACKED
from guardtok.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path


def header(name: str, kind: bytes, **fields: bytes) -> bytes:
    """Return the header of a member, with other bytes in some of its fields."""
    member = tarfile.TarInfo(name)
    member.type = kind
    made = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    for field, value in fields.items():
        start = {"size": 124, "real_size": 483}[field]
        made[start : start + len(value)] = value
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made[:512])
    return bytes(made)


def test_a_sparse_file_is_no_bomb(tmp_path: Path) -> None:
    """Half a kilobyte that says it is 16 MiB, many times, before any signature was looked at."""
    size = b"%011o\0" % MAX_UNPACKED
    tar = b"".join(header(f"0/{n}", tarfile.GNUTYPE_SPARSE, real_size=size) for n in range(60)) + bytes(10_240)
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(tar))
    tracemalloc.start()
    try:
        with pytest.raises(BundleError):
            open_bundle(tmp_path / "b.tar.gz", PUBLIC)
        assert tracemalloc.get_traced_memory()[1] < MAX_UNPACKED
    finally:
        tracemalloc.stop()


def test_a_member_that_leads_back_to_itself_is_read_once(tmp_path: Path) -> None:
    """A size below zero: the next member is this one. A gateway that reads it for ever hears of no policy again."""
    back = header("0/b", tarfile.REGTYPE, size=(-512).to_bytes(12, "big", signed=True))
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(header("0/a", tarfile.REGTYPE) + back + bytes(10_240)))
    read = threading.Thread(target=lambda: refused.append(is_refused(tmp_path / "b.tar.gz")), daemon=True)
    refused: list[bool] = []
    read.start()
    read.join(20)
    assert refused == [True]


def is_refused(path: Path) -> bool:
    """Return whether a file is no bundle."""
    try:
        open_bundle(path, PUBLIC)
    except BundleError:
        return True
    return False
