"""The archive of a bundle: a `.tar.gz`, of whose tar there is exactly one for given files.

A tar can say the same thing in many ways, and two readers can take one archive for two. So an archive is packed again
after it was read, and what is not the same byte for byte is refused: links, devices, odd names and sizes, doubled
members and trailing data all fall to one comparison.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from typing import TYPE_CHECKING

from guardtok.errors import BundleError, is_failure

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PACKED = 8 << 20
"""Bytes of the largest archive that is read."""

MAX_UNPACKED = 16 << 20
"""Bytes of what it unpacks to."""

MAX_FILES = 64
"""Files in one archive."""

MAKE_ANEW = "Make it anew with `guardtok policy bundle`."
"""The mend for what cannot be mended."""

_GZIP = 16 + zlib.MAX_WBITS


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return the archive of files. Equal files make equal bytes."""
    # The name of the system and the time are left out of the header.
    return gzip.compress(_tar(files), mtime=0)


def unpack(data: bytes, place: str) -> dict[str, bytes]:
    """Return the files of an archive.

    Args:
        data: The archive.
        place: What to call it in errors.

    Raises:
        BundleError: It is too large, no such archive, or not exactly what `pack` makes of its files.
    """
    tar = _decompress(data, place)
    files: dict[str, bytes] = {}
    left = len(tar)
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
            for member in archive:
                # A sparse file of a hundred bytes has any size, and one of a size below zero leads back to itself for
                # ever (CVE-2025-8194). All plain ones together are no larger than the tar.
                left -= member.size
                content = archive.extractfile(member) if member.isreg() and member.size >= 0 and left >= 0 else None
                if content is None or len(files) >= MAX_FILES:
                    break
                files[member.name] = content.read()
        again = _tar(files)
    except BaseException as error:
        if not is_failure(error):
            raise
        raise BundleError(f"{place}: This is no tar archive, or a damaged one. {MAKE_ANEW}") from None
    if again != tar:
        fact = "The archive holds more than plain files in the one way in which they can be packed"
        what = "links, devices, a file twice, odd headers, trailing data"
        raise BundleError(f"{place}: {fact} ({what}). {MAKE_ANEW}")
    return files


def _tar(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _decompress(data: bytes, place: str) -> bytes:
    """Return the tar. At most one byte more than is allowed is ever unpacked."""
    stream = zlib.decompressobj(_GZIP)
    try:
        tar = stream.decompress(data, MAX_UNPACKED + 1)
    except zlib.error:
        raise BundleError(f"{place}: This is no gzip archive. Name a bundle that was signed.") from None
    if len(tar) > MAX_UNPACKED:
        raise BundleError(f"{place}: The archive unpacks to more than {MAX_UNPACKED} bytes. {MAKE_ANEW}")
    if not stream.eof:
        raise BundleError(f"{place}: The archive ends too early. Copy it again.")
    if stream.unused_data:
        raise BundleError(f"{place}: Something stands behind the archive's end. {MAKE_ANEW}")
    return tar
