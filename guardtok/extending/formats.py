"""An extended vocabulary for other programs: a plug-in of tiktoken's, or a `tokenizer.json`.

What is written is first read again and compared; a file that reads text differently is not written.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from guardtok.added_tokens import add_tokens, is_huggingface
from guardtok.engines.compared import rank_file
from guardtok.errors import MissingExtraError, TokenizerError, is_failure
from guardtok.extending.compare import compare
from guardtok.extension import Placement
from guardtok.manifest import write_new
from guardtok.placing import Placed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import tiktoken

    from guardtok.extended import Extended

_PLUGIN = '''"""For tiktoken: put the folder above this one on sys.path, then tiktoken.get_encoding({name!r})."""

import base64
import hashlib
import pathlib

NAME = {name!r}
RANKS = {ranks!r}
SHA256 = {sha256!r}
PATTERN = {pattern!a}
SPECIAL_TOKENS = {special}


def build():
    data = pathlib.Path(__file__).with_name(RANKS).read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ValueError(RANKS + " is not the file that was written with this plug-in. Write both again.")
    lines = (line.split() for line in data.splitlines())
    ranks = {{base64.b64decode(token): int(rank) for token, rank in lines}}
    return {{"name": NAME, "pat_str": PATTERN, "mergeable_ranks": ranks, "special_tokens": dict(SPECIAL_TOKENS)}}


ENCODING_CONSTRUCTORS = {{NAME: build}}
'''


def write_plugin(extended: Extended, folder: Path) -> list[Path]:
    """Write `tiktoken_ext/NAME.py` and its ranks; return the paths. With the folder on `sys.path` tiktoken finds it.

    Raises:
        TokenizerError: The base is none of tiktoken's.
        OSError: A file cannot be written.
    """
    encoding = _tiktoken(extended, "tiktoken-plugin")
    module = "guardtok_" + re.sub(r"\W", "_", encoding.name, flags=re.ASCII)
    ranks = rank_file(encoding)
    lines = "".join(
        f"    {form!a}: {id_},\n" for form, id_ in sorted(_specials(encoding).items(), key=lambda at: at[1])
    )
    source = _PLUGIN.format(
        name=encoding.name,
        ranks=f"{module}.tiktoken",
        sha256=hashlib.sha256(ranks).hexdigest(),
        pattern=encoding._pat_str,
        special="{\n" + lines + "}",
    )
    inside = folder / "tiktoken_ext"
    inside.mkdir(exist_ok=True)
    paths = [inside / f"{module}.tiktoken", inside / f"{module}.py"]
    write_new(paths[0], ranks)
    write_new(paths[1], source.encode())
    return paths


def write_tokenizer_json(extended: Extended, folder: Path) -> list[Path]:
    """Write `tokenizer.json`, if it reads text as the extended vocabulary does; return its path.

    Raises:
        TokenizerError: It does not, and the message has a string that shows it.
        MissingExtraError: `tokenizers` is not installed.
        OSError: The file cannot be written.
    """
    if is_huggingface(extended.encoding):
        made = getattr(extended.encoding, "backend_tokenizer", extended.encoding)
    else:
        encoding = _tiktoken(extended, "tokenizer.json")
        made = to_tokenizers(encoding)
        difference = compare(encoding, made, every_character=True)
        if difference is not None:
            raise TokenizerError(f"No tokenizer.json is written, for it would read text differently: {difference}.")
    path = folder / "tokenizer.json"
    write_new(path, made.to_str(pretty=True).encode())
    return [path]


def to_tokenizers(encoding: tiktoken.Encoding) -> Any:  # noqa: ANN401 - a type of a library that may not be installed
    """Return a `tokenizers.Tokenizer` made of an encoding's ranks, pattern and special tokens. `compare` the two.

    Raises:
        MissingExtraError: `tokenizers` is not installed.
        TokenizerError: The library cannot take the pattern or the ids.
    """
    try:
        import tokenizers
    except ImportError:
        raise MissingExtraError("tokenizers is not installed: pip install 'guardtok[hf]'.") from None
    letters = _byte_letters()

    def spell(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    ranks = encoding._mergeable_ranks
    try:
        model = tokenizers.models.BPE(
            vocab={spell(token): rank for token, rank in ranks.items()},
            merges=[(spell(left), spell(right)) for left, right in _merges(ranks)],
            ignore_merges=True,
        )
        made = tokenizers.Tokenizer(model)
        cut = tokenizers.pre_tokenizers.Split(tokenizers.Regex(to_onig(encoding._pat_str)), behavior="isolated")
        spelled = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([cut, spelled])
        made.decoder = tokenizers.decoders.ByteLevel()
    except BaseException as error:
        if not is_failure(error):
            raise
        failure = type(error).__name__
    else:
        specials = _specials(encoding).items()
        return add_tokens(made, [Placed(form, id_, Placement.APPEND) for form, id_ in specials])
    raise TokenizerError(f"{encoding.name}: tokenizers cannot build it: {failure}. Use the plug-in of tiktoken's.")


def to_onig(pattern: str) -> str:
    """Return a pattern of tiktoken's as tokenizers' engine reads it.

    Both know the same syntax but for `{1,3}+`, which takes and keeps in tiktoken and repeats in Oniguruma; the group
    `(?>…{1,3})` takes and keeps in both.
    """
    atom = r"(\\[pP]\{[^}]*\}|\\.|\[(?:\\.|[^\]\\])*\]|\.|[^\\\[\](){}.*+?|])"
    return re.sub(atom + r"(\{\d+(?:,\d*)?\})\+", r"(?>\1\2)", pattern, flags=re.DOTALL)


def _merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield every pair of tokens that makes a third, in the order of the third's rank."""
    for token in sorted(ranks, key=ranks.__getitem__):
        pairs = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        yield from sorted(
            (pair for pair in pairs if pair[0] in ranks and pair[1] in ranks),
            key=lambda pair: (ranks[pair[0]], ranks[pair[1]]),
        )


def _byte_letters() -> dict[int, str]:
    """Return the printable character that stands for each byte in byte-level vocabularies, as GPT-2 began it."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return {byte: chr(byte if byte in plain else next(others)) for byte in range(0x100)}


def _specials(encoding: tiktoken.Encoding) -> dict[str, int]:
    return dict(encoding._special_tokens)


def _tiktoken(extended: Extended, wanted: str) -> tiktoken.Encoding:
    import tiktoken

    if not isinstance(extended.encoding, tiktoken.Encoding):
        raise TokenizerError(f"{extended.extension.name} is no encoding of tiktoken's, so no {wanted} can be written.")
    return extended.encoding
