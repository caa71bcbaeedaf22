"""Tokenizer libraries behind `guardtok.tokenizer.Tokenizer`: one library, one file, imported only where it is used."""
