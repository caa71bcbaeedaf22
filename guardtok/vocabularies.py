"""What each tokenizer name means: a rank file, the pattern that cuts text, and the special tokens.

A rank file decides which ids a text becomes, so each is known by its SHA-256 and by nothing else. The pattern and the
ids of the special tokens, which no rank file holds, stand here.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class EmbeddedRecord:
    """Where the embedded vocabulary comes from; `python -m scripts.train_embedded --check` repeats it.

    Attributes:
        sha256: Of the rank file.
        python: The version of Python whose standard library was the corpus.
        corpus_sha256: Of the corpus.
        merges: Tokens beyond the 256 bytes.
    """

    sha256: str
    python: str
    corpus_sha256: str
    merges: int


EMBEDDED_RECORD = EmbeddedRecord(
    sha256="722080d9a1ccdb375ec836e3ae9522a32473964ea7d9b9388cc1b58dedf2f9c2",
    python="3.11.7",
    corpus_sha256="8d8a03080a946988b14ab95f87820ec4b48c8f6efd7e826f1e296e09cc1bf03a",
    merges=8192,
)

EMBEDDED_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)"
    r"|[^\r\n\p{L}\p{M}\p{N}]?+[\p{L}\p{M}]{1,48}+"
    r"|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{M}\p{N}]{1,32}+[\r\n]{0,8}+"
    r"|[^\S\r\n]{0,32}+[\r\n]{1,8}+"
    r"|\s{1,32}(?!\S)"
    r"|\s"
)
"""How the embedded tokenizer cuts text before it merges: cl100k_base's kinds of pieces, each of bounded length.

The bounds keep both the regex engine and the merging linear; without them a long run of letters takes tens of times
longer and a long run of spaces makes the engine give up. Marks stay with their letters.
"""

_R50K_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
_CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"
    r"\s+(?!\S)|\s"
)
_O200K_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class RankFile:
    """A file of ranks in tiktoken's format, known by its hash.

    Attributes:
        name: Its name, without `.tiktoken`.
        sha256: Of its bytes.
        openai: Whether OpenAI publishes it; tiktoken then knows it by its address and downloads it.
        packages: Where installed packages carry it: the package's name, the import's name, the path inside.
        base: A file that, with `tail` after it, gives these bytes; or None.
        tail: What to add to `base`.
    """

    name: str
    sha256: str
    openai: bool = True
    packages: tuple[tuple[str, str, str], ...] = ()
    base: RankFile | None = None
    tail: bytes = b""

    @property
    def url(self) -> str:
        """The address from which tiktoken gets it."""
        return f"https://openaipublic.blob.core.windows.net/encodings/{self.name}.tiktoken"

    @property
    def cache_name(self) -> str:
        """Its name in tiktoken's cache, the SHA-1 of its address."""
        return hashlib.sha1(self.url.encode(), usedforsecurity=False).hexdigest()

    @property
    def file_names(self) -> tuple[str, ...]:
        """The names under which `GUARDTOK_VOCAB_DIR` may hold it."""
        return (f"{self.name}.tiktoken", self.cache_name) if self.openai else (f"{self.name}.tiktoken",)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A named tokenizer: ranks, the pattern that cuts text before merging, and the special tokens."""

    name: str
    file: RankFile
    pattern: str
    special_tokens: Mapping[str, int]


def _litellm(cache_name: str) -> tuple[str, str, str]:
    return ("litellm", "litellm", f"litellm_core_utils/tokenizers/{cache_name}")


# The hashes are those that tiktoken 0.14 pins in tiktoken_ext.openai_public. The places in packages were read in
# litellm 1.109.1, openai-whisper 20250625 and dashscope 2.0.2, which is also where Qwen's hash comes from.
EMBEDDED_FILE = RankFile("guardtok", EMBEDDED_RECORD.sha256, openai=False)
_R50K_FILE = RankFile(
    "r50k_base",
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
    packages=(("openai-whisper", "whisper", "assets/gpt2.tiktoken"),),
)
_P50K_FILE = RankFile(
    "p50k_base",
    "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
    packages=(_litellm("ec7223a39ce59f226a68acc30dc1af2788490e15"),),
    base=_R50K_FILE,
    # p50k adds runs of 2 to 25 spaces; 50256 is left out for <|endoftext|>. The hash proves that nothing else differs.
    tail=b"".join(b"%b %d\n" % (base64.b64encode(b" " * n), 50255 + n) for n in range(2, 26)),
)
_CL100K_FILE = RankFile(
    "cl100k_base",
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    packages=(_litellm("9b5ad71b2ce5302211f9c61530b329a4922fc6a4"),),
)
_O200K_FILE = RankFile(
    "o200k_base",
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    packages=(_litellm("fb374d419588a4632f3f557e76b4b70aebbca790"),),
)
_QWEN_FILE = RankFile(
    "qwen",
    "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
    openai=False,
    packages=(("dashscope", "dashscope", "resources/qwen.tiktoken"),),
)


def _numbered(first: int, *forms: str) -> dict[str, int]:
    return {form: first + index for index, form in enumerate(forms)}


_IM = ("<|im_start|>", "<|im_end|>")
_FIM = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
_R50K_SPECIAL = {"<|endoftext|>": 50256}
_CL100K_SPECIAL = {
    **_numbered(100257, "<|endoftext|>", *_FIM),
    "<|endofprompt|>": 100276,
}
_O200K_SPECIAL = {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}
# Every slot of harmony that has no name is reserved, <|endofprompt|>'s own id included: two forms, one id.
_HARMONY_SPECIAL = {
    **_O200K_SPECIAL,
    "<|startoftext|>": 199998,
    **{f"<|reserved_{n}|>": n for n in (200000, 200001, 200004, 200009, 200010, 200011, *range(200013, 201088))},
    **_numbered(200002, "<|return|>", "<|constrain|>"),
    **_numbered(200005, "<|channel|>", "<|start|>", "<|end|>", "<|message|>"),
    "<|call|>": 200012,
}
_EMBEDDED_SPECIAL = _numbered(
    256 + EMBEDDED_RECORD.merges,
    *("<|endoftext|>", *_IM, *_FIM),
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
)
_QWEN_SPECIAL = _numbered(151643, "<|endoftext|>", *_IM, *(f"<|extra_{n}|>" for n in range(205)))

VOCABULARIES: Mapping[str, Vocabulary] = MappingProxyType(
    {
        name: Vocabulary(name, file, pattern, MappingProxyType(special))
        for name, file, pattern, special in (
            ("guardtok", EMBEDDED_FILE, EMBEDDED_PATTERN, _EMBEDDED_SPECIAL),
            ("r50k_base", _R50K_FILE, _R50K_PATTERN, _R50K_SPECIAL),
            ("gpt2", _R50K_FILE, _R50K_PATTERN, _R50K_SPECIAL),
            ("p50k_base", _P50K_FILE, _R50K_PATTERN, _R50K_SPECIAL),
            ("p50k_edit", _P50K_FILE, _R50K_PATTERN, _R50K_SPECIAL | _numbered(50281, *_FIM)),
            ("cl100k_base", _CL100K_FILE, _CL100K_PATTERN, _CL100K_SPECIAL),
            ("cl100k_im", _CL100K_FILE, _CL100K_PATTERN, _CL100K_SPECIAL | _numbered(100264, *_IM)),
            ("o200k_base", _O200K_FILE, _O200K_PATTERN, _O200K_SPECIAL),
            ("o200k_harmony", _O200K_FILE, _O200K_PATTERN, _HARMONY_SPECIAL),
            ("qwen", _QWEN_FILE, _QWEN_PATTERN, _QWEN_SPECIAL),
        )
    }
)
"""The tokenizers that guardtok builds itself, by name.

`gpt2` is read from r50k_base's file: ranks, pattern and special token are the same, only OpenAI's older files are laid
out differently. `p50k_base` and `p50k_edit` are built from r50k_base's file where their own is not at hand.
"""
