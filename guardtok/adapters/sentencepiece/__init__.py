"""SentencePiece models as guardtok's `Tokenizer`."""

from guardtok.adapters.sentencepiece.tokenizer import SentencePieceTokenizer

__all__ = ["SentencePieceTokenizer"]
