"""Opens a bundle: the signature first, then everything that it vouches for; one doubt and nothing is loaded.

Before the signature holds, nothing of an archive is looked into but what lies under the names of the two.
"""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from guardtok.bundles.archive import MAKE_ANEW, MAX_PACKED, unpack
from guardtok.bundles.keys import public_key
from guardtok.bundles.manifest import MANIFEST, SIGNATURE, read_manifest
from guardtok.errors import BundleError
from guardtok.policy.load import load_sealed

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from guardtok.bundles.manifest import Manifest
    from guardtok.policy.model import Policy


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose signature and digests hold.

    Attributes:
        place: Its path.
        manifest: What it says of itself.
        files: Its files by path.
    """

    place: Path
    manifest: Manifest
    files: Mapping[str, bytes] = field(repr=False)

    def policy(self) -> Policy:
        """Return the policy that it holds; no file outside of it is looked at.

        Raises:
            PolicyError: This guardtok cannot use it.
            BundleError: It is not the one that the manifest names.
        """
        policy = load_sealed(self.files, self.manifest.policies, self.place)
        if policy.name != self.manifest.name:
            raise BundleError(f"{self.place}/{MANIFEST}: It names another policy than the one in it. {MAKE_ANEW}")
        return policy


def load_bundle(path: str | os.PathLike[str], key: bytes, min_revision: int = 0) -> tuple[Policy, int]:
    """Return the policy that a bundle holds, and its revision.

    Args:
        path: The bundle.
        key: The public Ed25519 key, as PEM, that it must be signed with.
        min_revision: The lowest revision that is taken.

    Raises:
        BundleError: It is no bundle, was not signed with the key, was altered, or is of a lower revision.
        PolicyError: This guardtok cannot use the policy in it.
        MissingExtraError: cryptography is not installed.
    """
    bundle = open_bundle(path, key, min_revision)
    return bundle.policy(), bundle.manifest.revision


def open_bundle(path: str | os.PathLike[str], key: bytes, min_revision: int = 0) -> Bundle:
    """Return a bundle after every check of `load_bundle` but those of the policy itself.

    Raises:
        BundleError: As `load_bundle`.
        MissingExtraError: cryptography is not installed.
    """
    verifying = public_key(key)
    from cryptography.exceptions import InvalidSignature

    place = str(path)
    files = unpack(_read(Path(path), place), place)
    manifest, signature = files.pop(MANIFEST, None), files.pop(SIGNATURE, None)
    if manifest is None or signature is None:
        fact = f"The archive has no {MANIFEST if manifest is None else SIGNATURE}: nobody signed it"
        raise BundleError(f"{place}: {fact}. {MAKE_ANEW}")
    try:
        verifying.verify(signature, manifest)
    except InvalidSignature:
        fact = "The signature is not one of the configured key over this manifest"
        raise BundleError(
            f"{place}: {fact}. Take the key that belongs to it, or the bundle as it was signed."
        ) from None
    read = read_manifest(manifest, f"{place}/{MANIFEST}")
    _compare(files, read, place)
    if read.revision < min_revision:
        fact = f"The bundle has revision {read.revision}, and at least {min_revision} is asked for"
        raise BundleError(f"{place}: {fact}. To go back, sign the older policy under a higher revision.")
    return Bundle(Path(path), read, files)


def _compare(files: Mapping[str, bytes], manifest: Manifest, place: str) -> None:
    """Hold the files against the manifest.

    Raises:
        BundleError: One is missing, too many, or not what was signed.
    """
    if files.keys() != manifest.files.keys():
        raise BundleError(f"{place}: The files are not those that the manifest lists. {MAKE_ANEW}")
    for name, content in files.items():
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if digest != manifest.files[name]:
            raise BundleError(f"{place}/{name}: The file is not the one that was signed. {MAKE_ANEW}")


def _read(path: Path, place: str) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # A pipe would be waited for.
            raise BundleError(f"{place}: This is no file. Name a bundle.")
        with path.open("rb") as file:
            data = file.read(MAX_PACKED + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a path"
        raise BundleError(f"{place}: The bundle cannot be read: {reason}. Name a file.") from None
    if len(data) > MAX_PACKED:
        raise BundleError(f"{place}: The bundle has more than {MAX_PACKED} bytes. {MAKE_ANEW}")
    return data
