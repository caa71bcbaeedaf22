"""One way to read a text, whatever the library: every token parsed, no template, no prefix of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ahocorasick_rs import AhoCorasick, MatchKind

from guardtok.added_tokens import copy_plain
from guardtok.errors import TokenizerError, is_failure
from guardtok.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import tiktoken


@dataclass(frozen=True, slots=True)
class Reading:
    """How something reads text.

    Attributes:
        name: A name for messages.
        forms: The tokens that it parses: id by form.
        encode: From text to ids.
        decode: From ids to text, special tokens included.
    """

    name: str
    forms: Mapping[str, int]
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]


def reading(of: object) -> Reading:
    """Return how a tokenizer reads text in which every one of its tokens is parsed.

    Args:
        of: A `tiktoken.Encoding`, a `tokenizers.Tokenizer`, a fast tokenizer of transformers, each with its library's
            own order of overlapping tokens; or a guardtok `Tokenizer`, read leftmost-longest as a guard does.

    Raises:
        TokenizerError: It is none of these.
    """
    library = type(of).__module__.partition(".")[0]
    if library == "tiktoken":
        return _read_tiktoken(of)  # type: ignore[arg-type]  # Its name says so.
    if library in {"tokenizers", "transformers"}:
        return _read_huggingface(of)
    if isinstance(of, Tokenizer):
        return _read_guardtok(of)
    raise TokenizerError(
        f"A {type(of).__name__} is no tokenizer. Give a tiktoken.Encoding, a tokenizers.Tokenizer, a fast tokenizer "
        "of transformers, or a guardtok tokenizer."
    )


def _read_tiktoken(encoding: tiktoken.Encoding) -> Reading:
    return Reading(
        encoding.name,
        encoding._special_tokens,
        _guarded(lambda text: encoding.encode(text, allowed_special="all"), encoding.name),
        lambda ids: encoding.decode_bytes(ids).decode("utf-8", "replace"),
    )


def _read_huggingface(tokenizer: Any) -> Reading:  # noqa: ANN401 - a type of a library that may not be installed
    inner = copy_plain(tokenizer)
    added = {token.content: id_ for id_, token in inner.get_added_tokens_decoder().items()}
    name = type(tokenizer).__name__
    return Reading(
        name,
        added,
        _guarded(lambda text: list(inner.encode(text, add_special_tokens=False).ids), name),
        lambda ids: str(inner.decode(list(ids), skip_special_tokens=False)),
    )


def _read_guardtok(tokenizer: Tokenizer) -> Reading:
    forms = {token.form: token.id for token in tokenizer.control_tokens}
    spelled = list(forms)
    find = AhoCorasick(spelled, matchkind=MatchKind.LeftmostLongest)

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        done = 0
        for index, start, end in find.find_matches_as_indexes(text):
            if done < start:
                ids += map(int, tokenizer.encode_ordinary(text[done:start], at_start=done == 0))
            ids.append(forms[spelled[index]])
            done = end
        if done < len(text):
            ids += map(int, tokenizer.encode_ordinary(text[done:], at_start=done == 0))
        return ids

    return Reading(tokenizer.name, forms, encode, lambda ids: tokenizer.decode_bytes(ids).decode("utf-8", "replace"))


def _guarded(encode: Callable[[str], list[int]], name: str) -> Callable[[str], list[int]]:
    """Return an encoder whose failures, Rust panics too, are one typed error without the text."""

    def guarded(text: str) -> list[int]:
        try:
            return encode(text)
        except BaseException as error:
            if not is_failure(error):
                raise
            failure = type(error).__name__
        raise TokenizerError(f"{name} failed with {failure} on a text of {len(text)} characters.")

    return guarded
