"""Compare the installed engines with tiktoken, and write down where they differ, for guardtok to trust them elsewhere.

Each vocabulary is compared over every Unicode code point, alone and in contexts that each could cut text elsewhere, and
then over random strings, whose seed is fixed. The code points at which an engine differs are written as ranges; a
random string that differs without any of them, or a failure, means that the engine is not trusted for that vocabulary
at all.

    python -m scripts.compare_engines [--out FOLDER] [--engine NAME …] [--vocabulary NAME …] [--strings N]

The results lie in `guardtok/data`. Somebody else's lie in a folder that GUARDTOK_ENGINES names; they hold for the
versions of the engine and of tiktoken that wrote them and for that kind of machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.encodings import load_tokenizer
from guardtok.engines.compared import FORMAT, Comparison, rank_file
from guardtok.engines.gigatoken import GigatokenEngine
from guardtok.engines.riptoken import RiptokenEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import tiktoken

ENGINES = {"gigatoken": GigatokenEngine, "riptoken": RiptokenEngine}
SCHEMES = {"gigatoken": ("gpt2", "qwen2", "gpt4", "o200k"), "riptoken": ("",)}
VOCABULARIES = ("guardtok", "r50k_base", "p50k_base", "cl100k_base", "o200k_base", "qwen")
SEED = 20_260_801
MAX_DIFFERENCES = 50_000
BLOCK = 64
FEW_FROM = 0x40000  # Nothing is assigned from here on but tags, selectors and private use.
FRESH = 20_000_000

_CONTEXTS = (
    "{0}{0}|{0}_a|{0}.the|{0}'s|{0}'S|{0}'ll|'{0}|a'l{0}|1{0}2345|{0}12345|12{0}|{0}\n \na|\n{0}\n\n|{0}\r\n|{0} {0}\n|"
    "  {0}  a|\t{0}\t|a{0}b|A{0}b|a{0}B|A{0}{0}B|(the{0}|!{0}!|/{0}/\n|漢{0}a|é{0}字|"
    "e\u0301{0}\u0301|\u200d{0}\u200d|👩{0}👩"
)
_FEW = "{0}{0}|{0}_a|{0}'s|1{0}2345|{0}12345|{0}\n \na|  {0}  a|a{0}B"
_BLANK = (
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    " \n ",
    "\xa0",
    "\u3000",
    "\x00",
    "\x85",
    "\u0301",
    "\u200d",
    "\ufe0f",
    "\ufffd",
)
_MARKS = "'s 'LL 've \u2019s ' ! ... / //\n _ - ( <|endoftext|> the The THE camelCase 0 12 1234"
_WORDS = "İ \u017f ǅ ʰ ß naïve e\u0301 मानक ภาษา 漢字 かな 한글 ٣ Ⅷ ½ 👩\u200d👩\u200d👧 \U0001d518 🇫🇷"

FEW_CONTEXTS = tuple(_FEW.split("|"))
CONTEXTS = tuple(_CONTEXTS.split("|"))
"""Each cuts text in its own way, so that what a character counts as (letter, digit, blank, mark …) shows in the ids:
before `_a` and `'s`, which are one piece or two, between digits that are counted in threes, around white space …"""

PIECES = (*_BLANK, *_MARKS.split(" "), *_WORDS.split(" "), " of")


def main() -> int:
    """Compare, print what was found, write the results. The status is 1 where no engine could be compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "guardtok" / "data")
    parser.add_argument("--engine", action="append", choices=sorted(ENGINES), help="default: all that are installed")
    parser.add_argument("--vocabulary", action="append", help=f"default: {', '.join(VOCABULARIES)}")
    parser.add_argument("--strings", type=int, default=300_000, help="random strings per vocabulary")
    arguments = parser.parse_args()
    written = 0
    for engine in arguments.engine or ENGINES:
        try:
            version = metadata.version(engine)
        except metadata.PackageNotFoundError:
            print(f"{engine} is not installed")
            continue
        encodings = [load_encoding(name) for name in arguments.vocabulary or VOCABULARIES]
        entries = [compare(engine, encoding, arguments.strings) for encoding in encodings]
        result = {
            "format": FORMAT,
            "engine": engine,
            "engine_version": version,
            "tiktoken_version": metadata.version("tiktoken"),
            "machine": platform.machine().lower(),
            "contexts": len(CONTEXTS),
            "seed": SEED,
            "strings": arguments.strings,
        }
        path = arguments.out / f"engine_{engine}.json"
        kept = kept_entries(path, result, {encoding.name for encoding in encodings})
        result["vocabularies"] = [*kept, *(entry for entry in entries if entry is not None)]
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"{path}: {len(result['vocabularies'])} vocabularies")
        written += 1
    return 0 if written else 1


def kept_entries(path: Path, result: dict[str, Any], compared: set[str]) -> list[dict[str, Any]]:
    """Return what an earlier run in the same versions found for other vocabularies."""
    if not path.is_file():
        return []
    earlier = json.loads(path.read_text(encoding="utf-8"))
    if not result.items() <= earlier.items():
        return []
    return [entry for entry in earlier["vocabularies"] if entry["name"] not in compared]


def load_encoding(name: str) -> tiktoken.Encoding:
    """Return the encoding of a tokenizer's name."""
    tokenizer = load_tokenizer(name)
    if not isinstance(tokenizer, TiktokenTokenizer):
        raise SystemExit(f"{name} is no tokenizer of tiktoken's.")
    return tokenizer.encoding


def compare(engine: str, encoding: tiktoken.Encoding, strings: int) -> dict[str, Any] | None:
    """Return the entry for one engine and one vocabulary, or None where they cannot be trusted together."""
    scheme, encode = start(engine, encoding)
    if encode is None:
        print(f"{engine:>9} {encoding.name:>12}: cannot be loaded, or no scheme has this pattern")
        return None
    found = set(differing(encode, encoding))
    unexplained = sum(
        not found.intersection(map(ord, text))
        for text in random_texts(strings)
        if encode(text) != encoding.encode_ordinary(text)
    )
    ranges = list(as_ranges(found))
    fact = f"NOT TRUSTED, {unexplained} random strings differ otherwise" if unexplained else f"{len(ranges)} ranges"
    print(
        f"{engine:>9} {encoding.name:>12}: {scheme or 'own pattern'}, {len(found):,} code points differ, {fact}",
        flush=True,
    )
    if unexplained or len(found) > MAX_DIFFERENCES:
        return None
    return {
        "name": encoding.name,
        "ranks": hashlib.sha256(rank_file(encoding)).hexdigest(),
        "pattern": hashlib.sha256(encoding._pat_str.encode()).hexdigest(),
        "scheme": scheme,
        "code_points": len(found),
        "differ": ranges,
    }


class Bare:
    """An engine without guardtok's fences, behind which tiktoken would help out."""

    def __init__(self, engine: GigatokenEngine | RiptokenEngine) -> None:
        self._engine = engine
        self._characters = 0

    def encode(self, text: str) -> list[int]:
        """Return the engine's own ids."""
        if isinstance(self._engine, RiptokenEngine):
            return self._engine._core.encode_ordinary(text)
        self._characters += len(text)
        if self._characters > FRESH:  # It keeps whatever it saw.
            self._engine._table, self._characters = self._engine._load(), 0
        return self._engine._table.encode(text).tolist()


def start(engine: str, encoding: tiktoken.Encoding) -> tuple[str, Callable[[str], list[int]] | None]:
    """Return the scheme that agrees on a sample, and what encodes with it; None where there is none."""
    common = set("".join(PIECES))
    sample = [text for text in random_texts(6_000) if common.issuperset(text)]
    for scheme in SCHEMES[engine]:
        try:
            encode = Bare(ENGINES[engine](encoding, Comparison(scheme, ()))).encode
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            continue
        if all(encode(text) == encoding.encode_ordinary(text) for text in sample):
            return scheme, encode
    return "", None


def differing(encode: Callable[[str], list[int]], encoding: tiktoken.Encoding) -> Iterator[int]:
    """Yield each code point that makes a difference in some context."""

    def differ(text: str) -> bool:
        return encode(text) != encoding.encode_ordinary(text)

    for first in range(0, sys.maxunicode + 1, BLOCK):
        characters = [chr(code) for code in range(first, first + BLOCK) if not 0xD800 <= code < 0xE000]
        # Many texts in one cost a fraction of them one by one. Alone each character stands at both ends of a text.
        joint = differ("".join(map(in_contexts, characters)))
        for character in characters:
            if differ(character) or (joint and differ(in_contexts(character))):
                yield ord(character)


def in_contexts(character: str) -> str:
    """Return a text of a character in each context."""
    contexts = CONTEXTS if ord(character) < FEW_FROM else FEW_CONTEXTS
    return ".".join([context.format(character) for context in contexts]) + "."


def random_texts(count: int) -> Iterator[str]:
    """Yield texts of random code points from anywhere in Unicode, of awkward pieces, and of both.

    Each is made of a few that repeat, so that runs and borders of every kind are frequent.
    """
    rng = random.Random(SEED)  # noqa: S311 - the strings are to be the same each time
    for index in range(count):
        palette = rng.choices(PIECES, k=rng.randint(1, 6)) if index % 3 else []
        if index % 3 < 2:
            tops = rng.choices((0x80, 0x250, 0x3000, 0x10000, 0x20000, 0x110000), k=rng.randint(1, 6))
            palette += [chr(rng.randrange(top)) for top in tops]
        text = "".join(rng.choices(palette, k=rng.randint(1, 30)))
        yield text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def as_ranges(codes: Iterable[int]) -> Iterator[str]:
    """Yield code points as ranges in hexadecimal, both ends included."""
    ordered = sorted(codes)
    first = last = None
    for code in [*ordered, None]:
        if first is not None and last is not None and code != last + 1:
            yield f"{first:04X}" if first == last else f"{first:04X}-{last:04X}"
            first = None
        first = code if first is None else first
        last = code


if __name__ == "__main__":
    raise SystemExit(main())
