"""Write `guardtok/data/confusables.json`: which characters beyond ASCII look like an ASCII character.

The facts are those of Unicode Technical Standard #39, confusables.txt, as the package `confusable_homoglyphs` carries
them. Kept is what guardtok asks: for each printable ASCII character the single characters, not ASCII themselves, that
have it or one of its own ASCII look-alikes as their prototype (so that U+04CF counts for `l`, `|`, `I` and `1`).
Characters that are only another width or style of the ASCII character (NFKC) are left out: the view `width` sees those.

    pip install confusable_homoglyphs==3.3.1 && python scripts/make_confusables.py
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import unicodedata
from pathlib import Path

PACKAGE = "confusable_homoglyphs"
PRINTABLE = [chr(code) for code in range(0x21, 0x7F)]
BIDI_MARK = "\u200e"  # The file writes right-to-left characters between two of these.
OWN = {"_": "\u2581"}  # SentencePiece's sign for a space, which people write and fold as an underscore.


def main() -> None:
    """Read the package's data and write ours."""
    data = json.loads(importlib.resources.files(PACKAGE).joinpath("confusables.json").read_text("utf-8"))
    similar = {char: {entry["c"].strip(BIDI_MARK) for entry in data.get(char, ())} for char in data}
    table = {}
    for char in PRINTABLE:
        near = similar.get(char, set())
        everything = near.union(*(similar.get(other, ()) for other in near if other in PRINTABLE))
        table[char] = "".join(sorted(filter(is_kept, everything.union(OWN.get(char, "")))))
    document = {
        "about": "Characters that look like an ASCII character. Written by scripts/make_confusables.py; do not edit.",
        "facts": "Unicode Technical Standard #39, confusables.txt; Unicode License V3, https://www.unicode.org/license.txt",
        "from": f"{PACKAGE} {importlib.metadata.version(PACKAGE)}",
        "similar": {char: found for char, found in table.items() if found},
    }
    path = Path(__file__).parent.parent / "guardtok" / "data" / "confusables.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def is_kept(char: str) -> bool:
    """Whether a look-alike is one character, not ASCII, and not folded to ASCII by NFKC."""
    return len(char) == 1 and not char.isascii() and not unicodedata.normalize("NFKC", char).isascii()


if __name__ == "__main__":
    main()
