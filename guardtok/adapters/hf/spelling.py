"""Ids → the bytes that they stand for, as the tokenizer's decoder spells them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from guardtok.adapters.hf.document import Document

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def byte_characters() -> dict[int, str]:
    """Return the character that stands for each byte in a byte-level vocabulary: the visible ones for themselves."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + place) for place, byte in enumerate(hidden)}


class Spelling:
    """Spells ids, one by one where the decoder works one by one.

    Args:
        document: The tokenizer, written out.
        token: Returns the model's token of an id, or None.
        decode: The library's decoder, for several ids at once.
        added: The forms of tokens that are not the model's, or are spelled as they are, by id.
    """

    def __init__(
        self,
        document: Document,
        token: Callable[[int], str | None],
        decode: Callable[[list[str]], str] | None,
        added: Mapping[int, str],
    ) -> None:
        kinds = {part["type"] for part in document.decoders}
        self._token = token
        self._decode = decode
        self._added = added
        self._bytes = (
            {char: byte for byte, char in byte_characters().items()}
            if document.byte_level or "ByteLevel" in kinds
            else {}
        )
        self._fallback = "ByteFallback" in kinds
        # WordPiece and its like put spaces between tokens and drop marks, so only a whole sequence can be spelled.
        self._one_by_one = bool(self._bytes) or kinds <= {"ByteFallback", "Fuse", "Metaspace", "Replace", "Strip"}
        self._replaced = [
            (part["pattern"]["String"], part["content"])
            for part in document.decoders
            if part["type"] == "Replace" and "String" in part["pattern"]
        ]
        self._replaced += [(part["replacement"], " ") for part in document.decoders if part["type"] == "Metaspace"]

    def spell(self, ids: Sequence[int], name: str) -> bytes:
        """Return the bytes of ids. The prefix that some tokenizers write before a text is among them, as a space.

        Raises:
            KeyError: For an id that is not in the vocabulary.
        """
        if self._one_by_one or self._decode is None or len(ids) == 1:
            return b"".join(self._spell(id_, name) for id_ in ids)
        spelled: list[bytes] = []
        run: list[str] = []
        for id_ in ids:
            if id_ not in self._added:
                run.append(self._find(id_, name))
                continue
            if run:
                spelled.append(self._decode(run).encode())
                run = []
            spelled.append(self._added[id_].encode())
        if run:
            spelled.append(self._decode(run).encode())
        return b"".join(spelled)

    def _find(self, id_: int, name: str) -> str:
        token = self._token(id_) if 0 <= id_ < 2**32 else None
        if token is None:
            raise KeyError(f"{name}: the id {id_} is not in the vocabulary")
        return token

    def _spell(self, id_: int, name: str) -> bytes:
        if id_ in self._added:
            return self._added[id_].encode()
        token = self._find(id_, name)
        if self._bytes:
            found = [self._bytes.get(char) for char in token]
            return token.encode() if None in found else bytes(byte for byte in found if byte is not None)
        byte = _BYTE.fullmatch(token) if self._fallback else None
        if byte:
            return bytes([int(byte[1], 16)])
        for old, new in self._replaced:
            token = token.replace(old, new)
        return token.encode()
