"""What a bundle says of itself: the one part that is signed, and that vouches for every other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guardtok.bundles.archive import MAKE_ANEW, MAX_FILES
from guardtok.errors import BundleError
from guardtok.policy.load import MAX_ANCESTORS
from guardtok.policy.schema import PolicyName

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VERSION = 1
"""The version of the format that this guardtok makes and reads."""

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"

MAX_BYTES = 65_536
"""Bytes of the largest manifest."""

MAX_REVISION = 2**63 - 1

_Name = Annotated[str, Field(pattern=r"^[0-9]{1,2}/[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]
_Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest.

    Attributes:
        name: The policy's name.
        revision: Which of the bundles of that policy it is; a later one has a higher number.
        created: When it was made, as RFC 3339 has it.
        policies: The paths of the policy and of those that it extends, in that order.
        files: The SHA-256 of every file, `sha256:…`, by path.
    """

    name: str
    revision: int
    created: str
    policies: tuple[str, ...]
    files: Mapping[str, str]

    def to_bytes(self) -> bytes:
        """Return the JSON that is signed."""
        record = {
            "guardtok_bundle": VERSION,
            "name": self.name,
            "revision": self.revision,
            "created": self.created,
            "policies": self.policies,
            "files": self.files,
        }
        return json.dumps(record, indent=1).encode("ascii") + b"\n"


class _ManifestModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    guardtok_bundle: Annotated[int, Field(ge=VERSION, le=VERSION)]
    name: PolicyName
    revision: Annotated[int, Field(ge=0, le=MAX_REVISION)]
    created: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z$")]
    policies: Annotated[list[_Name], Field(min_length=1, max_length=MAX_ANCESTORS)]
    files: Annotated[dict[_Name, _Digest], Field(max_length=MAX_FILES)]


def read_manifest(data: bytes, place: str) -> Manifest:
    """Return a manifest whose signature was verified.

    Raises:
        BundleError: It is none that this guardtok reads, or names files that no bundle has.
    """
    if len(data) > MAX_BYTES:
        raise BundleError(f"{place}: The manifest has more than {MAX_BYTES} bytes. {MAKE_ANEW}")
    try:
        read = json.loads(data.decode("ascii"), object_pairs_hook=_once)
        if isinstance(read, dict) and read.get("guardtok_bundle", VERSION) != VERSION:
            fact = f"The bundle is of another version than {VERSION}"
            raise BundleError(f"{place}: {fact}. Make it with this guardtok, or read it with a newer one.")
        model = _ManifestModel.model_validate(read)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, ValidationError, _TwiceError):
        raise BundleError(f"{place}: This is not what a manifest looks like. {MAKE_ANEW}") from None
    allowed = set(_allowed(model.policies))
    stray = [name for name in model.files if name not in allowed]
    if stray or not set(model.policies) <= set(model.files) or not _apart(model.policies):
        raise BundleError(f"{place}: The manifest lists files that belong to no policy, or lacks one. {MAKE_ANEW}")
    return Manifest(model.name, model.revision, model.created, tuple(model.policies), dict(model.files))


def beside(policy: str) -> tuple[str, str]:
    """Return the paths of the lock file and of the tests beside a policy."""
    path = PurePosixPath(policy)
    return str(path.with_name(f"{path.stem}.lock.json")), str(path.with_name(f"{path.stem}.test.yaml"))


def _allowed(policies: Iterable[str]) -> Iterable[str]:
    for policy in policies:
        yield policy
        yield from beside(policy)


def _apart(policies: Iterable[str]) -> bool:
    """Return whether the policies lie in the folders `0`, `1`, `2` … in their order."""
    folders = [PurePosixPath(policy).parts[0] for policy in policies]
    return folders == [str(number) for number in range(len(folders))]


class _TwiceError(Exception):
    """A key stands twice in an object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _TwiceError
    return made
