"""The guard that is in force: exchanged as a whole, so that a request is judged by one policy from beginning to end.

The threat is the policy that quietly is not there: a file that was deleted, half written or misspelled. A new guard is
built whole before it takes the place of the old one, and whatever goes wrong on the way leaves the old one in force.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from guardtok.encodings import load_tokenizer
from guardtok.errors import BundleError, GuardtokError, MissingExtraError, is_failure
from guardtok.gateway.origin import Origin, fingerprint, folders_of
from guardtok.guard import Guard
from guardtok.records import defuse
from guardtok.sinks import to_structlog
from guardtok.violation import visible

if TYPE_CHECKING:
    import asyncio
    import os
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import anyio
    import tiktoken

    from guardtok.policy.model import Policy
    from guardtok.sinks import Sink
    from guardtok.tokenizer import Tokenizer

EVENT = "guardtok.policy_reload"
"""The event name of every reload."""

POLL = 5.0
"""Seconds after which the files are looked at even if nothing was heard: not every file system tells of a change."""

_QUIET = 200
_STORM = 1_600
"""Milliseconds: a change is taken up when the folder was quiet for the first, or after the second at the latest."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A guard, and since when it is in force.

    Attributes:
        guard: The guard.
        loaded: Seconds since the epoch.
        revision: The revision of the bundle that it came from, or None for a bare policy.
    """

    guard: Guard
    loaded: float
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Reload:
    """What became of a reload.

    Attributes:
        result: `loaded`, `unchanged` (the same digest: nothing was exchanged), or `refused`: the old guard stays.
        snapshot: What is in force now.
        problem: Why it was refused, every form in it broken; empty otherwise.
    """

    result: Literal["loaded", "unchanged", "refused"]
    snapshot: Snapshot
    problem: str = ""


class LiveGuard:
    """Holds the guard that is in force. `current` is one attribute read, so it never mixes two policies.

    Args:
        guard: The guard to begin with. Made so, it is never exchanged; `load` makes one that follows its files.
        revision: Its bundle's revision.
        told: Each is called with a `Reload` after each one, the first load included.

    Attributes:
        current: The guard in force.
    """

    __slots__ = ("_build", "_files", "_lock", "_origin", "_problem", "_seen", "_told", "current")

    def __init__(
        self, guard: Guard, revision: int | None = None, *, told: Iterable[Callable[[Reload], object]] = ()
    ) -> None:
        self.current = Snapshot(guard, time.time(), revision)
        self._lock = threading.Lock()
        self._told = tuple(told)
        self._origin: Origin | None = None
        self._build: Callable[[Policy], Guard] | None = None
        self._files: tuple[Path, ...] = ()
        self._seen: Mapping[Path, bytes | None] = {}
        self._problem = ""
        self._tell(Reload("loaded", self.current))

    @classmethod
    def load(  # noqa: PLR0913 - as Guard.load, and what a bundle needs
        cls,
        policy: str | os.PathLike[str],
        tokenizer: str | os.PathLike[str] | tiktoken.Encoding | Tokenizer | None = None,
        *,
        engine: str = "tiktoken",
        sinks: Iterable[Sink] = (to_structlog,),
        digest_key: bytes | None = None,
        bundle_key: bytes | None = None,
        min_revision: int = 0,
        told: Iterable[Callable[[Reload], object]] = (),
    ) -> LiveGuard:
        """Load a policy, to be followed by `watch` and `reload`.

        The tokenizer is loaded once: another tokenizer is another model, and wants a restart. Digests keep their key.

        Args:
            policy: A shipped policy's name, a path, or the path of a signed bundle.
            tokenizer: As `Guard.load` takes it.
            engine: As `Guard.load` takes it.
            sinks: Where violations go.
            digest_key: Key of the digests in violations; by default a random one.
            bundle_key: The public key, as PEM, that the policy must be signed with. With one, nothing but a bundle that
                it signed is ever loaded.
            min_revision: The lowest revision of a bundle that is taken; never one below that in force.
            told: Each is called with a `Reload` after each one.

        Raises:
            GuardtokError: Whatever `Guard.load` raises.
            BundleError: A key is given and the policy is no bundle that it signed, or one that is too old; or the
                policy is a bundle and no key is given.
        """
        origin = Origin.of(policy, bundle_key)
        build = partial(
            Guard.load,
            tokenizer=None if tokenizer is None else load_tokenizer(tokenizer, engine),
            sinks=tuple(sinks),
            digest_key=secrets.token_bytes(32) if digest_key is None else digest_key,
        )
        loaded, revision = origin.read(min_revision)
        live = cls(build(loaded), revision, told=told)
        live._origin, live._build, live._files = origin, build, origin.files(loaded)
        return live

    def reload(self) -> Reload:
        """Read the policy again, and exchange the guard if it says something else. Never raises for what it says.

        Requests that have begun keep the snapshot that they took. A lower revision than the one in force is refused.
        """
        with self._lock:
            return self._reload()

    async def watch(self, stop: asyncio.Event | anyio.Event) -> None:
        """Reload whenever a file of the policy changes, until `stop` is set.

        Watched are the folders of the policy, of what it extends, of its lock file or of the bundle, and of every
        symbolic link on the way to them, so that a swap of a link is a change (Kubernetes' `..data`). Every 5 seconds
        the files are looked at anyway.

        Raises:
            MissingExtraError: watchfiles is not installed.
        """
        try:
            import anyio.to_thread
            import watchfiles
        except ImportError:
            raise MissingExtraError("To follow a policy's file: pip install 'guardtok[gateway]'.") from None
        while self._origin is not None and not stop.is_set():
            await anyio.to_thread.run_sync(self._look)
            try:
                folders = folders_of(self._files)
                heard = watchfiles.awatch(
                    *folders,
                    watch_filter=None,
                    debounce=_STORM,
                    step=_QUIET,
                    stop_event=stop,
                    rust_timeout=int(POLL * 1_000),
                    yield_on_timeout=True,
                    recursive=False,
                )
                async with aclosing(heard) as changes:
                    async for _ in changes:
                        await anyio.to_thread.run_sync(self._look)
                        # A link that was swapped leads to another folder, and a folder made anew is another one.
                        if folders_of(self._files) != folders:
                            break
            except (OSError, RuntimeError):
                # A folder has just gone, or the system has no watch left: look again a little later.
                with anyio.move_on_after(POLL):
                    await stop.wait()

    def _look(self) -> None:
        """Reload if a file has changed, and again and again while the last reload failed: what it lacks may come."""
        with self._lock:
            if self._problem or fingerprint(self._files) != self._seen:
                # The first look only learns what was loaded: that it is unchanged is no news.
                self._reload(quiet=not self._seen)

    def _reload(self, *, quiet: bool = False) -> Reload:
        old, build, origin = self.current, self._build, self._origin
        if origin is None or build is None:
            return Reload("unchanged", old)
        # Taken before the files are read: what changes meanwhile is seen as a change afterwards.
        before, self._seen = self._seen, fingerprint(self._files)
        try:
            policy, revision = origin.read(old.revision or 0)
            unchanged = is_unchanged(policy, revision, old)
            if not unchanged:
                self.current = Snapshot(build(policy), time.time(), revision)
        except BaseException as error:
            if not is_failure(error):
                raise
            return self._refuse(error, known=before == self._seen)
        self._problem = ""
        if (files := origin.files(policy)) != self._files:
            # What these held when they were read nobody knows: the next look reads once more.
            self._files, self._seen = files, {}
        made = Reload("unchanged" if unchanged else "loaded", self.current)
        return made if unchanged and quiet else self._tell(made)

    def _refuse(self, error: BaseException, *, known: bool) -> Reload:
        # Only guardtok's own errors are known to quote nothing but the policy.
        said = str(error) if isinstance(error, GuardtokError) else f"{type(error).__name__} while the policy was read."
        problem = defuse(said, self.current.guard.ruleset)
        made = Reload("refused", self.current, problem)
        repeated, self._problem = known and problem == self._problem, problem
        return made if repeated else self._tell(made)

    def _tell(self, made: Reload) -> Reload:
        if self._origin is not None:
            _log(made)
        for each in self._told:
            try:
                each(made)
            except BaseException as error:  # noqa: PERF203 - each fails alone
                if not is_failure(error):
                    raise
                _report(each, error)
        return made


def is_unchanged(policy: Policy, revision: int | None, old: Snapshot) -> bool:
    """Return whether a policy is what is in force: its digest, the ids that its lock file pins, and its revision.

    Raises:
        BundleError: It is a bundle of another policy, or another one under the same revision.
    """
    if revision is not None and policy.name != old.guard.policy.name:
        # One key may sign many policies, and each counts its own revisions.
        raise BundleError("The bundle holds another policy than the one in force. Restart to change to it.")
    both = policy, old.guard.policy
    pins = [each.lock and (each.lock.tokenizer, each.lock.fingerprint, dict(each.lock.ids)) for each in both]
    same = policy.digest == old.guard.policy.digest and pins[0] == pins[1]
    if revision is not None and revision == old.revision and not same:
        fact = f"Revision {revision} is in force, and this bundle has the same number and says something else."
        raise BundleError(f"{fact} Sign it under a higher one.")
    return same and revision == old.revision


def _report(told: object, error: BaseException) -> None:
    what = visible(type(told).__name__), visible(type(error).__name__)
    logging.getLogger("guardtok").error("guardtok.observer_failed observer=%s error=%s", *what)


def _log(made: Reload) -> None:
    import structlog

    logger = structlog.get_logger("guardtok")
    policy = made.snapshot.guard.policy
    facts = {"result": made.result, "policy": policy.name, "digest": policy.digest, "revision": made.snapshot.revision}
    match made.result:
        case "loaded":
            logger.info(EVENT, **facts)
        case "unchanged":
            logger.debug(EVENT, **facts)
        case "refused":
            logger.error(EVENT, **facts, problem=made.problem)
