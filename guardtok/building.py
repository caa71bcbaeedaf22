"""From a base and placed tokens to the library's own extended object: what `extend` and a manifest build alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.added_tokens import add_tokens, is_huggingface, read_tokenizer_file
from guardtok.errors import TokenizerError
from guardtok.extended import Extended
from guardtok.extension import Placement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from guardtok.placing import Placed
    from guardtok.tokenizer import Tokenizer


_FILE = "tokenizer.json"


def resolve(base: object, load: Callable[[Any], Tokenizer]) -> tuple[Any, Tokenizer]:
    """Return the library's object that is meant by a base, and the same as guardtok binds it.

    Args:
        base: What `extend` takes.
        load: `load_tokenizer`.

    Raises:
        TokenizerError: It is no tokenizer, or none that can be extended.
        GuardtokError: Whatever else `load` raises.
    """
    if isinstance(base, Extended):
        base = base.encoding
    tokenizer = load(base)
    if isinstance(tokenizer, TiktokenTokenizer):
        return tokenizer.encoding, tokenizer
    if isinstance(base, (str, os.PathLike)):
        path = Path(base)
        base = read_tokenizer_file(path / _FILE if path.is_dir() else path)
    if is_huggingface(base):
        return base, tokenizer
    from guardtok.adapters.hf import HfTokenizer

    if isinstance(base, HfTokenizer):
        return base.to_library(), tokenizer
    raise TokenizerError(
        f"A {type(base).__name__} cannot be extended. Give a tiktoken.Encoding, a tokenizers.Tokenizer, a fast "
        "tokenizer of transformers, or a name or path that leads to one."
    )


def build(library: object, tokenizer: Tokenizer, placed: Sequence[Placed], name: str) -> Any:  # noqa: ANN401 - its own
    """Return the library's object with the new tokens; nothing is checked but that it can be built.

    Args:
        library: A `tiktoken.Encoding`, a `tokenizers.Tokenizer`, or a fast tokenizer of transformers.
        tokenizer: The same as guardtok binds it.
        placed: The tokens with their ids.
        name: The new name, where the library's objects have one.

    Raises:
        TokenizerError: The library cannot build it.
    """
    if isinstance(tokenizer, TiktokenTokenizer):
        fresh = {each.form: each.id for each in placed if each.placement is not Placement.PRESENT}
        return tokenizer.extended(name, fresh, {each.replaces for each in placed if each.replaces}).encoding
    return add_tokens(library, placed)
