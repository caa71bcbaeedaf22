"""Ed25519 keys as PEM, as `openssl genpkey -algorithm ed25519` writes them."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from guardtok.errors import BundleError, MissingExtraError

if TYPE_CHECKING:
    import os

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_BYTES = 65_536
"""Bytes of the largest file of a key that is read."""

_MISSING = "Bundles need cryptography: pip install 'guardtok[gateway]'."

_MAKE = "`openssl genpkey -algorithm ed25519 -out key.pem`"
_PUBLISH = "`openssl pkey -in key.pem -pubout -out key.pub.pem`"


def read_key(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file that holds a key.

    Raises:
        BundleError: It cannot be read.
    """
    try:
        file = Path(path)
        if stat.S_ISREG(file.stat().st_mode):
            with file.open("rb") as opened:
                return opened.read(MAX_BYTES)
        reason = "not a file"
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a path"
    raise BundleError(f"{str(path)[:200]!r}: The key cannot be read: {reason}. Name a PEM file.") from None


def private_key(pem: bytes) -> Ed25519PrivateKey:
    """Return the key that signs.

    Raises:
        BundleError: It is none, is encrypted, or is of another kind.
        MissingExtraError: cryptography is not installed.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError:
        raise MissingExtraError(_MISSING) from None
    if b"PUBLIC KEY" in pem:
        raise BundleError("The key is a public one, which cannot sign. Name the private key.")
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise BundleError("The private key is encrypted. Decrypt it first: `openssl pkey -in key.pem`.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise BundleError(f"The private key is no PEM that can be read. Make one: {_MAKE}.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(f"The private key is not an Ed25519 key. Make one: {_MAKE}.")
    return key


def public_key(pem: bytes) -> Ed25519PublicKey:
    """Return the key that verifies.

    Raises:
        BundleError: It is none, is a private one, or is of another kind.
        MissingExtraError: cryptography is not installed.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise MissingExtraError(_MISSING) from None
    if b"PRIVATE KEY" in pem:
        raise BundleError(f"The key is a private one, which should not be here. Name the public key: {_PUBLISH}.")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise BundleError(f"The public key is no PEM that can be read. Write it with {_PUBLISH}.") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BundleError(f"The public key is not an Ed25519 key. Make one: {_MAKE}, then {_PUBLISH}.")
    return key
