"""A tiny Llama with random weights and the embedded vocabulary, as a GGUF file for llama.cpp's real server."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import gguf
import numpy as np

from guardtok.encodings import load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

WIDTH, HEADS, INNER, LAYERS, CONTEXT = 64, 4, 128, 2, 2048

CHATML = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def write_tiny_llama(path: Path) -> None:
    """Write the model. The same bytes each time."""
    writer = gguf.GGUFWriter(path, "llama")
    _write_vocabulary(writer)
    writer.add_chat_template(CHATML)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    random = np.random.default_rng(0)
    n_vocab = load_tokenizer("guardtok").n_vocab

    def add(name: str, *shape: int) -> None:
        noise = random.standard_normal(shape).astype(np.float32) * np.float32(0.08)
        writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32) if len(shape) == 1 else noise)

    add("token_embd", n_vocab, WIDTH)
    add("output_norm", WIDTH)
    add("output", n_vocab, WIDTH)
    for layer in range(LAYERS):
        prefix = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            add(prefix + norm, WIDTH)
        for square in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(prefix + square, WIDTH, WIDTH)
        for wide in ("ffn_gate", "ffn_up"):
            add(prefix + wide, INNER, WIDTH)
        add(prefix + "ffn_down", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_vocabulary(writer: gguf.GGUFWriter) -> None:
    encoding = load_tokenizer("guardtok").encoding
    ranks: dict[bytes, int] = encoding._mergeable_ranks
    specials: dict[str, int] = encoding._special_tokens
    count = encoding.n_vocab
    tokens, kinds = [f"[unused{index}]" for index in range(count)], [gguf.TokenType.UNUSED] * count
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        tokens[rank], kinds[rank] = _spell(token), gguf.TokenType.NORMAL
        if len(token) > 1:
            merges.append(" ".join(map(_spell, _halves(token, rank, ranks))))
    for form, index in specials.items():
        tokens[index], kinds[index] = form, gguf.TokenType.CONTROL
    writer.add_vocab_size(count)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(specials["<|endoftext|>"])
    writer.add_bos_token_id(specials["<|endoftext|>"])
    writer.add_add_bos_token(value=False)


def _halves(token: bytes, rank: int, ranks: dict[bytes, int]) -> list[bytes]:
    """Return the two tokens that are merged into one: what its bytes become without the merge itself."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        found = [(ranks.get(left + right, rank), at) for at, (left, right) in enumerate(pairwise(parts))]
        best, at = min(found)
        if best >= rank:
            raise ValueError(f"token {rank} is no merge of two others")
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _spell(token: bytes) -> str:
    return "".join(map(_LETTERS.__getitem__, token))


def _letters() -> dict[int, str]:
    """Return GPT-2's letter for each byte: itself where it is printable, else one from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}


_LETTERS = _letters()
