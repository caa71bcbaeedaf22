"""How a gateway is configured: by arguments, or by the environment alone, as servers that load it by name need it.

Nothing configured is a mistake, and a mistake stops the start: a gateway without a policy would be an open door.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardtok.errors import SettingsError, near_match
from guardtok.gateway.live import LiveGuard
from guardtok.gateway.routes import ANYWHERE
from guardtok.gateway.running import Running
from guardtok.guard import Guard
from guardtok.policy.model import Policy
from guardtok.sinks import to_structlog

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping

    from guardtok.gateway.gatekeeper import Gatekeeper
    from guardtok.gateway.live import Reload
    from guardtok.tokenizer import Tokenizer

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """What a gateway is told at its start.

    Attributes:
        policy: A shipped policy's name, a path, or a policy; `GUARDTOK_POLICY`.
        tokenizer: The tokenizer that the model uses, by name or path; none for the whole catalogue of control tokens;
            `GUARDTOK_TOKENIZER`.
        max_body: Bytes of a request's body, compressed or not, that are let in; `GUARDTOK_MAX_BODY`.
        max_reply: Bytes of a whole reply that are gathered where a policy has rules for replies; `GUARDTOK_MAX_REPLY`.
        prefixes: Where the guarded paths begin; `GUARDTOK_PREFIXES`, with commas between.
        unknown_route: `refuse` or `pass` a body under a guarded prefix on a path in no table; `GUARDTOK_UNKNOWN_ROUTE`.
        open_paths: Paths that pass unguarded, spelled exactly; `GUARDTOK_OPEN_PATHS`, with commas between.
        flat_errors: Whether OpenAI's errors lie flat, as SGLang's do; `GUARDTOK_FLAT_ERRORS`, `true` or `false`.
        decision_log: The decision log's file, `-` for standard output, or none; `GUARDTOK_DECISION_LOG`.
        metrics: Whether decisions are counted in prometheus-client's default registry, which the application shows;
            `GUARDTOK_METRICS`, `true` or `false`.
        bundle_key: The file of the public key (PEM) that the policy must be signed with, or none;
            `GUARDTOK_BUNDLE_KEY`.
        min_revision: The lowest revision of a bundle that is taken; `GUARDTOK_MIN_REVISION`.
    """

    policy: str | os.PathLike[str] | Policy | None = None
    tokenizer: str | os.PathLike[str] | Tokenizer | None = None
    max_body: int = 8 * MEBIBYTE
    max_reply: int = 32 * MEBIBYTE
    prefixes: tuple[str, ...] = ANYWHERE
    unknown_route: str = "refuse"
    open_paths: tuple[str, ...] = ()
    flat_errors: bool = False
    decision_log: str | os.PathLike[str] | None = None
    metrics: bool = False
    bundle_key: str | os.PathLike[str] | None = None
    min_revision: int = 0

    def __post_init__(self) -> None:
        for name in ("max_body", "max_reply"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is not a number of bytes from 1 upwards.")
        if self.unknown_route not in {"refuse", "pass"}:
            raise SettingsError("unknown_route is neither `refuse` nor `pass`.")
        for name in ("prefixes", "open_paths"):
            paths = getattr(self, name)
            if isinstance(paths, str) or not all(path.startswith("/") for path in paths):
                raise SettingsError(f"{name} is not a list of paths that begin with a slash.")
        if self.min_revision and self.bundle_key is None:
            raise SettingsError("min_revision is for signed bundles. Name the public key in bundle_key too.")
        if not self.prefixes:
            raise SettingsError(
                "prefixes names no path, so nothing would be guarded. Leave it out to guard everything."
            )

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **given: Any) -> Settings:  # noqa: ANN401 - one type per setting
        """Return the settings of an environment; an argument that is not None goes before its variable.

        Raises:
            SettingsError: A variable, or an argument, is not what its setting takes.
            TypeError: There is no such setting.
        """
        named = {field.name for field in dataclasses.fields(cls)}
        for name in given:
            if name not in named:
                raise TypeError(f"There is no setting of that name.{near_match(name, named)}")
        if given.get("bundle_key") is None:
            refuse_empty_key(environ)
        found: dict[str, Any] = {}
        for name in named:
            variable = f"GUARDTOK_{name.upper()}"
            # An empty variable is how a deployment says "none", but for the key's.
            if environ.get(variable):
                found[name] = _READERS.get(name, _read_text)(environ[variable], variable)
        found.update((name, value) for name, value in given.items() if value is not None)
        for name in ("prefixes", "open_paths"):
            if name in found and not isinstance(found[name], str):
                found[name] = tuple(found[name])
        return cls(**found)

    def build(self) -> Gatekeeper:
        """Return the gatekeeper that these settings describe. Its policy stays the one of the start.

        Raises:
            GuardtokError: The policy, the tokenizer, the bundle or the log cannot be used.
        """
        return Running.of(self).gatekeeper

    def load_guard(self, told: Iterable[Callable[[Reload], object]] = ()) -> LiveGuard:
        """Return the guard that these settings name.

        Args:
            told: Each is called with a `Reload` after each one.

        Raises:
            SettingsError: No policy is named, or the key cannot be read.
            GuardtokError: The policy, the tokenizer or the bundle cannot be used.
        """
        if self.policy is None:
            raise SettingsError(
                "No policy is named, so there is nothing to guard by. Set GUARDTOK_POLICY, or pass `policy`: "
                "`strict`, or a path."
            )
        key = None
        if self.bundle_key is not None:
            try:
                key = Path(self.bundle_key).read_bytes()
            except OSError as error:
                raise SettingsError(f"The file of bundle_key cannot be read: {error.strerror}.") from None
        # A decision log has all that is found; without one, the process's own log has it.
        sinks = (to_structlog,) if self.decision_log is None else ()
        if isinstance(self.policy, Policy):
            if key is not None:
                raise SettingsError(
                    "A policy that is an object was signed by nobody. Name its bundle, or no bundle_key."
                )
            return LiveGuard(Guard.load(self.policy, self.tokenizer, sinks=sinks), told=told)
        return LiveGuard.load(
            self.policy, self.tokenizer, sinks=sinks, bundle_key=key, min_revision=self.min_revision, told=told
        )


def refuse_empty_key(environ: Mapping[str, str]) -> None:
    """Refuse a key's variable that is set and names nothing: what did not arrive must not turn verification off.

    Raises:
        SettingsError: It is so.
    """
    if environ.get("GUARDTOK_BUNDLE_KEY") == "":
        raise SettingsError("GUARDTOK_BUNDLE_KEY is empty. Name the public key's file, or unset the variable.")


def _read_number(text: str, variable: str) -> int:
    if not text.isdecimal() or len(text) > 18:  # noqa: PLR2004 - more digits than any size has
        raise SettingsError(f"{variable} is not a whole number.")
    return int(text)


def _read_paths(text: str, _variable: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _read_switch(text: str, variable: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]
    except KeyError:
        raise SettingsError(f"{variable} is neither `true` nor `false`.") from None


def _read_text(text: str, _variable: str) -> str:
    return text


_READERS: dict[str, Callable[[str, str], object]] = {
    "max_body": _read_number,
    "max_reply": _read_number,
    "min_revision": _read_number,
    "prefixes": _read_paths,
    "open_paths": _read_paths,
    "flat_errors": _read_switch,
    "metrics": _read_switch,
}
