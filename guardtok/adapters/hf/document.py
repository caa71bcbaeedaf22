"""What a `tokenizer.json` says: its added tokens and what each is, its normaliser, its prefixes, its post-processor.

The library's object can be changed by whoever holds it, at any time. So it is written out once, and everything here is
read from that text.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guardtok.errors import MissingExtraError, TokenizerError, is_failure
from guardtok.tokenizer import WHITE_SPACE, TokenClass

if TYPE_CHECKING:
    from collections.abc import Iterator

    import tokenizers

MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """An added token as the document has it; the names are those of `tokenizers.AddedToken`."""

    content: str
    id: int
    special: bool
    lstrip: bool
    rstrip: bool
    single_word: bool
    normalized: bool


@dataclass(frozen=True, slots=True)
class Document:
    """A tokenizer, written out.

    Attributes:
        text: The JSON.
        parts: The same without the model's vocabulary, read.
    """

    text: str
    parts: dict[str, Any]

    @property
    def model(self) -> dict[str, Any]:
        """The model's settings."""
        model: dict[str, Any] = self.parts["model"]
        return model

    @property
    def normalizers(self) -> list[dict[str, Any]]:
        """The normaliser's components, in order."""
        return list(flatten(self.parts["normalizer"]))

    @property
    def pre_tokenizers(self) -> list[dict[str, Any]]:
        """The pre-tokenizer's components, in order."""
        return list(flatten(self.parts["pre_tokenizer"]))

    @property
    def decoders(self) -> list[dict[str, Any]]:
        """The decoder's components, in order."""
        return list(flatten(self.parts["decoder"]))

    @property
    def added_tokens(self) -> tuple[AddedToken, ...]:
        """The added tokens, in the order of their ids."""
        fields = AddedToken.__slots__
        tokens = (AddedToken(**{name: token[name] for name in fields}) for token in self.parts["added_tokens"])
        return tuple(sorted(tokens, key=lambda token: token.id))

    @property
    def byte_level(self) -> bool:
        """Whether text is spelled byte by byte, in the 256 characters that GPT-2 chose."""
        return any(part["type"] == "ByteLevel" for part in (*self.normalizers, *self.pre_tokenizers))

    @property
    def blanks(self) -> frozenset[str]:
        """The characters that stand for white space in what the model sees."""
        made = {part["replacement"] for part in self.pre_tokenizers if part["type"] == "Metaspace"}
        made |= {
            part["content"]
            for part in self.normalizers
            if part["type"] == "Replace" and part["pattern"] == {"String": " "} and part["content"]
        }
        return frozenset("".join(made))

    def classify(self, token: AddedToken) -> TokenClass:
        """Return what an added token is to a guard, as far as the tokenizer says."""
        if WHITE_SPACE.union(self.blanks).issuperset(token.content):
            return TokenClass.SPACE
        if self.model.get("byte_fallback") and _BYTE.fullmatch(token.content):
            return TokenClass.BYTE
        return TokenClass.UNKNOWN if self.is_unknown(token.content, token.id) else TokenClass.CONTROL

    def is_unknown(self, form: str, token_id: int) -> bool:
        """Whether a token is the one that the model gives to what it does not know.

        Where text is spelled byte by byte nothing is unknown, and files name any token there (GPT-2 its end of text).
        """
        if self.byte_level:
            return False
        return bool(self.model.get("unk_token") == form or self.model.get("unk_id", -1) == token_id)


def flatten(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield the components of a normaliser, pre-tokenizer, decoder or post-processor, those of sequences one by one."""
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
        return
    for name in ("normalizers", "pretokenizers", "decoders", "processors"):
        for inner in part.get(name, ()):
            yield from flatten(inner)


def write_out(tokenizer: tokenizers.Tokenizer, name: str) -> Document:
    """Write a tokenizer out.

    Raises:
        TokenizerError: A part of it is written in Python, or makes ids random, or is not known.
    """
    try:
        text = tokenizer.to_str()
    except BaseException as error:
        if not is_failure(error):
            raise
        raise TokenizerError(
            f"{name}: the tokenizer cannot be written out ({type(error).__name__}), so a part of it is a Python object "
            "and its ids cannot be proven. Build it of the library's own normalisers, pre-tokenizers and decoders."
        ) from None
    return read(text, name)


def read(text: str, name: str) -> Document:
    """Read a `tokenizer.json`.

    Raises:
        TokenizerError: It is none, or a part of it cannot be guarded.
    """
    try:
        tree: dict[str, Any] = json.loads(text)
        model = {key: value for key, value in tree["model"].items() if key not in {"vocab", "merges"}}
        parts = {
            "model": model,
            "added_tokens": tree.get("added_tokens") or [],
            **{key: tree.get(key) for key in ("normalizer", "pre_tokenizer", "decoder", "post_processor")},
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise TokenizerError(
            f"{name} is no tokenizer.json: it has no model, or is no JSON. Give the file that `save_pretrained` writes."
        ) from None
    if model.get("type") not in MODELS:
        raise TokenizerError(f"{name}: the model {model.get('type')!r} is not known. Known are {', '.join(MODELS)}.")
    if model.get("dropout"):
        raise TokenizerError(f"{name}: `dropout` makes ids random, and nothing can be proven. Set it to None.")
    return Document(text, parts)


def affixes(document: Document, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that the post-processor puts before and after one text.

    Raises:
        TokenizerError: It does something else too.
    """
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    for part in flatten(document.parts["post_processor"]):
        match part["type"]:
            case "ByteLevel":
                continue
            case "BertProcessing" | "RobertaProcessing":
                before, after = (part["cls"][1], *before), (*after, part["sep"][1])
            case "TemplateProcessing":
                left, right = _template(part, name)
                before, after = (*left, *before), (*after, *right)
            case other:
                raise TokenizerError(
                    f"{name}: what the post-processor {other!r} puts around a text is not known. "
                    "Encode without special tokens, and put them in yourself."
                )
    return before, after


def _template(part: dict[str, Any], name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    sides: tuple[list[int], list[int]] = ([], [])
    texts = 0
    for piece in part["single"]:
        if "Sequence" in piece:
            texts += 1
        else:
            sides[min(texts, 1)].extend(part["special_tokens"][piece["SpecialToken"]["id"]]["ids"])
    if texts != 1:
        raise TokenizerError(
            f"{name}: the post-processor's template for one text holds that text {texts} times. Encode without special "
            "tokens, and put them in yourself."
        )
    return tuple(sides[0]), tuple(sides[1])


def library() -> Any:  # noqa: ANN401 - a module
    """Return the library.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import tokenizers
    except ImportError:
        raise MissingExtraError(
            "A tokenizer.json needs huggingface's tokenizers: pip install 'guardtok[hf]'."
        ) from None
    return tokenizers
