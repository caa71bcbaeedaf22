"""What `guardtok fuzz` is pointed at: a name, a file or `module:attribute`, read and opened."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardtok.adapters.hf import HfTokenizer
from guardtok.adapters.sentencepiece import SentencePieceTokenizer
from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.encodings import load_tokenizer
from guardtok.errors import GuardtokError, MissingExtraError, TokenizerError, UnknownTokenizerError, is_failure
from guardtok.fuzz.doors import (
    Doors,
    as_ids,
    through_adapter,
    through_object,
    through_sentencepiece,
    through_tiktoken,
    through_tokenizers,
    through_transformers,
)
from guardtok.guard import Guard
from guardtok.tokenizer import Tokenizer
from guardtok.violation import visible

if TYPE_CHECKING:
    import tiktoken

ENGINES = ("gigatoken", "riptoken")
"""What `against` may name besides tokenizers: the libraries themselves, without guardtok's list of differences."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is fuzzed.

    Attributes:
        doors: The tokenizer.
        guard: The guard, where a policy or a guard was named; then it is what is judged.
        other: Doors whose ids should be the same, or None.
    """

    doors: Doors
    guard: Any = None
    other: Doors | None = None


def open_target(target: object, policy: str | None = None, against: object = None, folder: str | None = None) -> Target:
    """Return what is meant.

    Args:
        target: A tokenizer's name, the path of its file, `module:attribute` of a tokenizer, of a guard or of a function
            that returns one, or such an object.
        policy: The policy of a guard to put before it: a shipped policy's name, or a path.
        against: Another target, or the name of an engine, which should give the same ids.
        folder: Where modules are imported from besides the usual places.

    Raises:
        GuardtokError: There is no such tokenizer, or it cannot be read.
    """
    found = _resolve(target, folder)
    if _is_guard(found):
        guard, doors = found, through_adapter(found.tokenizer)
    else:
        doors = open_doors(found, _name(target))
        guard = None if policy is None else _guard(policy, doors)
    if isinstance(against, str) and against in ENGINES:
        return Target(doors, guard, _through_engine(against, doors))
    return Target(doors, guard, None if against is None else open_doors(_resolve(against, folder), _name(against)))


def open_doors(found: object, name: str) -> Doors:
    """Return the doors of a tokenizer: a name, a path or an object."""
    if isinstance(found, str):
        adapter = _adapt(found)
        return _open_file(Path(found), name) if adapter is None else _behind(adapter, Path(found))
    return _open_object(found, name)


def _open_object(found: object, name: str) -> Doors:
    roots = {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(found).__mro__}
    if "tiktoken.Encoding" in roots:
        return through_tiktoken(found, load_tokenizer(found))  # type: ignore[arg-type]  # as its name says
    if any(each.startswith("transformers.") for each in roots) and hasattr(found, "backend_tokenizer"):
        return through_transformers(found, _adapt(found))  # type: ignore[arg-type]
    if "tokenizers.Tokenizer" in roots:
        return through_tokenizers(found, _adapt(found), name)  # type: ignore[arg-type]
    if "sentencepiece.SentencePieceProcessor" in roots:
        return through_sentencepiece(found, load_tokenizer(found))  # type: ignore[arg-type]
    if isinstance(found, Tokenizer):
        return (
            through_tiktoken(found.encoding, found) if isinstance(found, TiktokenTokenizer) else through_adapter(found)
        )
    if callable(getattr(found, "encode", None)) and callable(getattr(found, "decode", None)):
        return through_object(found, name)
    raise TokenizerError(f"A {type(found).__name__} is no tokenizer: it has no `encode` and `decode`.")


def _adapt(found: Any) -> Tokenizer | None:  # noqa: ANN401 - whatever `load_tokenizer` takes
    """Return guardtok's adapter, or None where guardtok refuses a tokenizer of huggingface's that the library reads."""
    try:
        return load_tokenizer(found)
    except TokenizerError:
        if isinstance(found, str) and not found.endswith(".json"):
            raise
        return None


def _behind(adapter: Tokenizer, path: Path) -> Doors:
    """Return the doors of the library behind an adapter."""
    if isinstance(adapter, TiktokenTokenizer):
        return through_tiktoken(adapter.encoding, adapter)
    if isinstance(adapter, HfTokenizer):
        import tokenizers

        file = path / "tokenizer.json" if path.is_dir() else path
        return through_tokenizers(tokenizers.Tokenizer.from_file(str(file)), adapter, adapter.name)
    if isinstance(adapter, SentencePieceTokenizer):
        from sentencepiece import SentencePieceProcessor

        return through_sentencepiece(SentencePieceProcessor(model_file=str(path)), adapter)
    return through_adapter(adapter)


def _open_file(path: Path, name: str) -> Doors:
    """Return the doors of a `tokenizer.json` that guardtok has no adapter for."""
    import tokenizers

    try:
        return through_tokenizers(tokenizers.Tokenizer.from_file(str(path)), None, name)
    except Exception as error:  # noqa: BLE001 - the library raises a bare Exception
        failure = type(error).__name__
    raise TokenizerError(f"{visible(name)}: tokenizers cannot read it ({failure}).")


def _resolve(target: object, folder: str | None) -> Any:  # noqa: ANN401 - a name, or any object
    """Import `module:attribute`; return anything else as it is."""
    if not isinstance(target, str):
        return target
    module, colon, attribute = target.partition(":")
    if not colon or not module.replace(".", "_").isidentifier() or not attribute.replace(".", "_").isidentifier():
        return target
    if folder is not None and folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
        # A class or a function that makes one; a tokenizer may well be callable, too.
        return found() if isinstance(found, type) or (callable(found) and not hasattr(found, "encode")) else found
    except GuardtokError:
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        failure = f"{type(error).__name__}: {visible(str(error))[:200]}"
    raise UnknownTokenizerError(f"{visible(target)[:200]} cannot be imported ({failure}).")


def _name(target: object) -> str:
    return visible(target)[:200] if isinstance(target, str) else type(target).__name__


def _is_guard(found: object) -> bool:
    return isinstance(found, Guard) or all(hasattr(found, name) for name in ("encode", "ruleset", "tokenizer"))


def _guard(policy: str, doors: Doors) -> Guard:
    if doors.adapter is None:
        raise TokenizerError(
            f"{doors.name} cannot be guarded: guardtok has no adapter for it. Fuzz it without a policy, or write one."
        )
    return Guard.load(policy, doors.adapter, sinks=[])


def _through_engine(name: str, doors: Doors) -> Doors:
    """Return an engine as its library gives it, over the ranks of a tiktoken encoding.

    Raises:
        TokenizerError: The tokenizer is none of tiktoken's.
        GuardtokError: The engine is not installed, or cannot be used for this vocabulary.
    """
    if not isinstance(doors.adapter, TiktokenTokenizer):
        raise TokenizerError(f"{doors.name} is no tokenizer of tiktoken's, so {name} cannot be held against it.")
    encode = _load_engine(name, doors.adapter.encoding)
    return Doors(
        f"{name} over {doors.name}",
        name,
        encode=encode,
        decode=doors.decode,
        tokens=doors.tokens,
        reserved=doors.reserved,
        n_vocab=doors.n_vocab,
    )


def _load_engine(name: str, encoding: tiktoken.Encoding) -> Any:  # noqa: ANN401 - a function from text to ids
    from guardtok.engines.compared import find_comparison, rank_file

    if name == "riptoken":
        try:
            import riptoken
        except ImportError:
            raise MissingExtraError("The engine riptoken is not installed: pip install 'guardtok[fast]'.") from None
        return riptoken.CoreBPE(encoding._mergeable_ranks, {}, encoding._pat_str).encode_ordinary  # noqa: SLF001
    import tempfile

    comparison = find_comparison(name, encoding)  # It knows what gigatoken calls this pattern.
    import gigatoken

    with tempfile.TemporaryDirectory(prefix="guardtok-") as folder:
        path = Path(folder, "ranks.tiktoken")
        path.write_bytes(rank_file(encoding))
        whole = gigatoken.Tokenizer.from_tiktoken(path, pretokenizer=comparison.scheme, special_tokens={})
    backend = whole.backend
    return lambda text: as_ids(backend.encode(text))
