"""Tokenizers of huggingface's `tokenizers` library, and the fast ones of transformers, as guardtok's `Tokenizer`."""

from guardtok.adapters.hf.tokenizer import HfTokenizer

__all__ = ["HfTokenizer"]
