"""Names → engines: the fastest that is installed and was compared, or the one that was asked for, or none."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from guardtok.engines.compared import find_comparison
from guardtok.engines.gigatoken import GigatokenEngine
from guardtok.engines.riptoken import RiptokenEngine
from guardtok.errors import EngineError, MissingExtraError, near_match
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import tiktoken

    from guardtok.engines.compared import Comparison
    from guardtok.tokenizer import Ids

TIKTOKEN, AUTO = "tiktoken", "auto"


class Engine(Protocol):
    """An encoder of ordinary text that may take tiktoken's place: immutable in what it returns, safe to share."""

    name: str
    parallel: bool
    """Whether threads that encode run side by side."""

    def encode(self, text: str) -> Ids | None:
        """Return the ids that tiktoken gives, or None where tiktoken must be asked. Never fails because of a text."""
        ...


_ENGINES: Mapping[str, Callable[[tiktoken.Encoding, Comparison], Engine]] = MappingProxyType(
    {"gigatoken": GigatokenEngine, "riptoken": RiptokenEngine}  # The fastest first.
)

ENGINES = (TIKTOKEN, AUTO, *_ENGINES)
"""The names that `choose_engine` knows."""

_PROBE = "An engine's 1st text:\n\n  naïve 漢字, 12345 €… 👩‍💻\t\r\nDON'T\u3000x  \n"


def choose_engine(encoding: tiktoken.Encoding, name: str) -> Engine | None:
    """Return the engine that is meant; None is tiktoken itself.

    Args:
        encoding: The encoding whose ids are wanted.
        name: `tiktoken`; `auto`, which is the fastest one that is installed and was compared for this vocabulary, else
            tiktoken; or an engine's name.

    Raises:
        EngineError: No engine has that name, or it was not compared for this vocabulary in the installed versions.
        MissingExtraError: The engine that was named is not installed.
    """
    if name == TIKTOKEN:
        return None
    if name == AUTO:
        engines = (reload_engine(encoding, candidate) for candidate in _ENGINES)
        return next((engine for engine in engines if engine is not None), None)
    if name not in _ENGINES:
        raise EngineError(
            f"No engine is named {visible(name[:64])!r}.{near_match(name, ENGINES)} Known are {', '.join(ENGINES)}."
        )
    comparison = find_comparison(name, encoding)
    try:
        engine = _ENGINES[name](encoding, comparison)
        ids = engine.encode(_PROBE)
    except Exception as error:  # noqa: BLE001 - another's code may raise anything
        raise EngineError(
            f"The engine {name} does not start: {type(error).__name__}. Install it again, or use engine='tiktoken'."
        ) from None
    # What was compared is one build; what is installed may be another of the same version.
    if ids is not None and list(ids) != encoding.encode_ordinary(_PROBE):
        raise EngineError(
            f"The engine {name} is not the one that was compared: it gives other ids. Install it again from PyPI, or "
            "use engine='tiktoken'."
        )
    return engine


def reload_engine(encoding: tiktoken.Encoding, name: str) -> Engine | None:
    """Return the engine of that name, or None where it cannot be used: the ids are the same."""
    try:
        return choose_engine(encoding, name)
    except (EngineError, MissingExtraError):
        return None
