"""The guard that is in force: exchanged as a whole, so that a request is judged by one policy from beginning to end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guardtok.guard import Guard


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


class LiveGuard:
    """Holds the guard that is in force. `current` is one attribute read, so it never mixes two policies."""

    __slots__ = ("current",)

    def __init__(self, guard: Guard, revision: int | None = None) -> None:
        """Begin with a guard."""
        self.current = Snapshot(guard, time.time(), revision)
