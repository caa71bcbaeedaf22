"""mistral-common's tokenizers as guardtok's `Tokenizer`.

Tekken is tiktoken behind its own table of special tokens, whose ids come first; here it becomes one encoding with
both, so that everything made for tiktoken's encodings holds for it. SentencePiece models go to their own adapter.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from guardtok.adapters.sentencepiece import SentencePieceTokenizer
from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.errors import MissingExtraError, TokenizerError

if TYPE_CHECKING:
    from pathlib import Path

    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    from guardtok.tokenizer import Tokenizer

_NAMED = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
"""Tekken's tokens by the names that chat templates ask for."""
_MODEL = re.compile(r"\.model(\.v\d+(m\d+)?)?\Z")
"""How mistral-common names SentencePiece models: `tokenizer.model`, `tokenizer.model.v3`, `….model.v7m1`."""


def is_tekken(name: str) -> bool:
    """Return whether a file's name is one that mistral-common takes for Tekken's: `tekken` in it, `.json` behind."""
    return "tekken" in name and name.endswith(".json")


def is_sentencepiece(name: str) -> bool:
    """Return whether a file's name is that of a SentencePiece model: `.model`, or `.model.vN` as Mistral's are."""
    return _MODEL.search(name) is not None


def load_tekken(path: Path) -> TiktokenTokenizer:
    """Return the tokenizer of a `tekken.json`, read by mistral-common.

    Raises:
        MissingExtraError: mistral-common is not installed.
        TokenizerError: The file is not what mistral-common expects.
    """
    try:
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    except ImportError:
        raise MissingExtraError("Tekken needs mistral-common: pip install 'guardtok[mistral]'.") from None
    try:
        tokenizer = Tekkenizer.from_file(path)
    except Exception as error:  # noqa: BLE001  # An assertion, a KeyError: the file may hold anything.
        failure = type(error).__name__
    else:
        return _from_tekken(tokenizer)
    raise TokenizerError(f"mistral-common cannot read the Tekken file: {failure}. Get it again.")


def adapt(tokenizer: Any) -> Tokenizer | None:  # noqa: ANN401  # Whatever a caller has.
    """Return the tokenizer for an object of mistral-common's or sentencepiece's, or None if it is neither.

    Args:
        tokenizer: A `MistralTokenizer`, a `Tekkenizer`, a `SentencePieceTokenizer` of mistral-common's, transformers'
            `MistralCommonBackend` around one of them, or a `SentencePieceProcessor`. Its tables are read here; nothing
            of it is called later or changed. What a processor was told to add, to reverse or to sample does not count.

    Raises:
        MissingExtraError: sentencepiece is not installed.
        TokenizerError: Its tables contradict one another.
    """
    # An object of a library exists only where the library is imported, so asking for names imports none.
    names = {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(tokenizer).__mro__}
    if "mistral_common.MistralTokenizer" in names:
        return adapt(tokenizer.instruct_tokenizer.tokenizer)
    if "transformers.MistralCommonBackend" in names:
        return adapt(tokenizer.tokenizer)
    if "mistral_common.Tekkenizer" in names:
        return _from_tekken(tokenizer)
    if "mistral_common.SentencePieceTokenizer" in names:
        model = tokenizer._model.serialized_model_proto()
        return SentencePieceTokenizer(model, name=tokenizer.file_path.name)
    if "sentencepiece.SentencePieceProcessor" in names:
        return SentencePieceTokenizer(tokenizer.serialized_model_proto(), name="sentencepiece")
    return None


def _from_tekken(tokenizer: Tekkenizer) -> TiktokenTokenizer:
    """Return one encoding with Tekken's special tokens, the reserved fillers too, and its ranks behind them.

    tiktoken merges by the order of ranks alone, so moving all of them up by one number changes no text's tokens.
    """
    import tiktoken

    inner = tokenizer._model
    first = tokenizer.num_special_tokens
    special = {tokenizer.id_to_piece(id_): id_ for id_ in range(first)}
    if len(special) != first or any(tokenizer.get_special_token(form) != id_ for form, id_ in special.items()):
        raise TokenizerError(
            f"{inner.name}: the special tokens have other ids than their places in the list say. Get the file again."
        )
    encoding = tiktoken.Encoding(
        inner.name,
        pat_str=inner._pat_str,
        mergeable_ranks={token: rank + first for token, rank in inner._mergeable_ranks.items()},
        special_tokens=special,
    )
    named = {name: form for name, form in _NAMED.items() if form in special}
    return TiktokenTokenizer(encoding, named_tokens=named)
