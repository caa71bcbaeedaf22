"""Small real tokenizers of huggingface's library, one for each way in which it makes ids, and random added tokens."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

if TYPE_CHECKING:
    from collections.abc import Callable

LINES = (
    "user: hello world, hello there <b> a | b | c > d < e / s ; x = 1234",
    "the assistant thinks about </s> and <s> and says hello to the user again",
    "think tool im start end a ab us user ing 12 99 [CLS] [SEP] {} () hello\n\nworld\n",
    "Ärger über Öl, naïve café — 漢字かな交じり文 🎉 Ⅳ ﬁ",
)

FORMS = ("<|a|>", "<|ab|>", "<|a|>b", "</s>", "<s>", "<think>", "<T>", "tool", "[X y]", "§", "|>", "<é>")
FILLER = (
    *("a", "b", "ab", "hello", " hello", "user", "1", "99", "<", ">", "|", "/s>", " ", "  ", "\n", "\t", "\u3000"),
    *(
        "é",
        "e\u0301",
        "\u0338",
        "\uff1c\uff0fs\uff1e",
        "\uff1cthink\uff1e",
        "<t>",
        "<THINK>",
        "\u200d",
        "漢",
        "🎉",
        "▁",
        "ﬁ",
        "_",
        "\u00ad",
    ),
)


def _byte_level(*, prefix: bool = False, normalizer: Any = None, ignore: bool = False) -> Tokenizer:  # noqa: ANN401
    made = Tokenizer(models.BPE(ignore_merges=ignore))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(LINES, trainer)
    if not ignore:
        return made
    tree = json.loads(made.to_str())
    for form in ("</s>", "<s>"):
        tree["model"]["vocab"][form] = len(tree["model"]["vocab"])
    tree["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }
    return Tokenizer.from_str(json.dumps(tree))


def _llama() -> Tokenizer:
    """BPE with byte fallback, after a normaliser that puts a blank before the text, as Llama 2 has it."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))  # noqa: S106 - no password
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=500, special_tokens=specials, show_progress=False))
    tree = json.loads(made.to_str())
    tree["added_tokens"] = [token for token in tree["added_tokens"] if token["content"] in {"<unk>", "<s>", "</s>"}]
    tree["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    return Tokenizer.from_str(json.dumps(tree))


def _unigram(scheme: str, normalizer: Any = None, *, fallback: bool = False) -> Tokenizer:  # noqa: ANN401
    pieces = {char for line in LINES for char in line if char != " "} | set("▁<>/|_")
    pieces |= {"▁hello", "▁the", "▁user", "us", "er", "ing", "▁a", "ab", "hell", "o▁"}
    vocab = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    if fallback:
        vocab += [(f"<0x{byte:02X}>", 0.0) for byte in range(256)]
    vocab += [(piece, -float(5 + len(piece) % 3)) for piece in sorted(pieces)]
    made = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=fallback))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    if normalizer is not None:
        made.normalizer = normalizer
    made.add_special_tokens(["<unk>", "<s>"])
    return made


def _bert() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - as above
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        LINES, trainers.WordPieceTrainer(vocab_size=200, special_tokens=specials, show_progress=False)
    )
    return made


def _words() -> Tokenizer:
    words = sorted({word for line in LINES for word in line.split()} | {"<T>", "tool"})
    vocabulary = {word: number for number, word in enumerate(["[UNK]", *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - as above
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": _byte_level,
    "byte-level with a prefix": lambda: _byte_level(prefix=True),
    "byte-level under NFC": lambda: _byte_level(normalizer=normalizers.NFC()),
    "byte-level under NFKC and lower case": lambda: _byte_level(
        normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    ),
    "byte-level, ignore_merges": lambda: _byte_level(ignore=True),
    "llama": _llama,
    "unigram, first": lambda: _unigram("first"),
    "unigram, always": lambda: _unigram("always", normalizers.NFKC()),
    "unigram, never": lambda: _unigram("never"),
    "unigram, bytes": lambda: _unigram("always", fallback=True),
    "bert": _bert,
    "words": _words,
}


@cache
def written(kind: str) -> str:
    """Return a tokenizer of a kind, as JSON."""
    return KINDS[kind]().to_str()


def build(kind: str, *tokens: AddedToken) -> Tokenizer:
    """Return a tokenizer of a kind with these added tokens."""
    made = Tokenizer.from_str(written(kind))
    made.add_tokens(list(tokens))
    return made


@st.composite
def added_tokens(draw: st.DrawFn) -> tuple[AddedToken, ...]:
    """Draw a few added tokens with random flags."""
    forms = draw(st.lists(st.sampled_from(FORMS), min_size=1, max_size=5, unique=True))
    flag = st.sampled_from([False, False, True])
    names = ("lstrip", "rstrip", "single_word", "normalized", "special")
    return tuple(AddedToken(form, **{name: draw(flag) for name in names}) for form in forms)


@st.composite
def strings(draw: st.DrawFn, max_size: int = 8) -> str:
    """Draw a string of forms, halves of forms and what a normaliser changes."""
    half = st.sampled_from([form[:cut] for form in FORMS for cut in range(1, len(form))])
    piece = st.one_of(
        st.sampled_from(FORMS), st.sampled_from(FORMS), half, st.sampled_from(FILLER), st.sampled_from(FILLER)
    )
    return "".join(draw(st.lists(piece, max_size=max_size)))
