"""Makes and signs a bundle, and loads it once before it is given away."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from guardtok.bundles.archive import pack
from guardtok.bundles.keys import private_key
from guardtok.bundles.manifest import MANIFEST, MAX_REVISION, SIGNATURE, Manifest, beside
from guardtok.errors import BundleError
from guardtok.policy.files import MAX_BYTES, SUFFIXES, read_text
from guardtok.policy.load import load_policy, load_sealed
from guardtok.policy.shelf import name_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from guardtok.policy.model import Policy


def make_bundle(policy: str | os.PathLike[str], key: bytes, revision: int, created: float) -> bytes:
    """Return a bundle: the policy with all that it extends, their lock files and tests, and a signature.

    Shipped policies that it extends are in it too, so that another version of guardtok gives it no other meaning. What
    the built-in groups (`@turn` …) hold comes with the guardtok that reads it. The same arguments make the same bytes.

    Args:
        policy: A shipped policy's name, or a path.
        key: The private Ed25519 key, as PEM.
        revision: Its number, from 0: higher than that of the bundle it replaces.
        created: Seconds since the epoch.

    Raises:
        PolicyError: The policy cannot be used.
        BundleError: The key or the revision is none, or the policy loaded from the bundle is another one.
        MissingExtraError: cryptography is not installed.
    """
    if not 0 <= revision <= MAX_REVISION:
        raise BundleError(f"A revision is a number from 0 to {MAX_REVISION}. Count up from the last one.")
    signing = private_key(key)
    loaded = load_policy(policy)
    chain, files = [], {}
    for depth, each in enumerate(_chain(loaded)):
        path = Path(each.place)
        suffix = path.suffix if path.suffix in SUFFIXES else SUFFIXES[0]
        name = f"{depth}/{name_of(path)}{suffix}"
        chain.append(name)
        files[name] = _read(path)
        lock, tests = beside(name)
        for target, own in ((lock, f"{path.stem}.lock.json"), (tests, f"{path.stem}.test.yaml")):
            if path.with_name(own).exists():
                files[target] = _read(path.with_name(own))
    sealed = load_sealed(files, chain, Path("bundle"))
    if sealed.digest != loaded.digest or _pins(sealed) != _pins(loaded):
        raise BundleError("The files changed while the bundle was made. Make it again.")
    digests = {name: f"sha256:{hashlib.sha256(files[name]).hexdigest()}" for name in sorted(files)}
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created))
    manifest = Manifest(loaded.name, revision, when, tuple(chain), digests).to_bytes()
    signed = {MANIFEST: manifest, SIGNATURE: signing.sign(manifest)}
    return pack({**signed, **files})


def _chain(policy: Policy | None) -> Iterator[Policy]:
    while policy is not None:
        yield policy
        policy = policy.extends


def _pins(policy: Policy) -> object:
    return policy.lock and (policy.lock.tokenizer, policy.lock.fingerprint, dict(policy.lock.ids))


def _read(path: Path) -> bytes:
    read_text(path)  # Says what is wrong with a file that is too large, or no text.
    with path.open("rb") as file:
        return file.read(MAX_BYTES)
