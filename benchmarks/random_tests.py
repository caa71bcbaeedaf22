"""Which of the known findings the random tests of tiktoken and of llama.cpp can see.

Both are good tests of what they ask. tiktoken's ask whether text comes back, whether its two doors for ordinary text
agree and whether a batch is its texts; llama.cpp's ask whether two implementations give the same ids and the same text.
Their ideas are written anew here, with the same properties, and run on the targets of `benchmarks.known`. A property of
tiktoken's that a library has no door for is left out. llama.cpp's needs two implementations: where the target is held
against nothing, its second half, whether text comes back, is asked alone. Counted is how many of their texts show the
finding to whoever asks for it, and on how many of these a property fails that holds where the tokens are not.

Hypothesis also draws strings that it finds in the code around it, so some of these tokens come from this project.

    python -m benchmarks.random_tests [--time 60] [--seed 0]
"""

from __future__ import annotations

import argparse
import random
import time
import unicodedata
from collections import Counter
from functools import partial
from itertools import count, product
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.known import KNOWN
from guardtok.errors import UnknownTokenizerError, is_failure
from guardtok.fuzz.doors import words_of
from guardtok.fuzz.judge import leftmost_longest
from guardtok.fuzz.targets import open_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.known import Known
    from guardtok.fuzz.targets import Target

BLANKS = ("", " ", "  ", "\n", "\r\n", "\t")
EXAMPLES = 100
"""Cases of each property and round, as tiktoken has it by default."""


def main() -> None:
    """Run both on every target, print how many of their texts reach the finding, and of these how many they fail on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", type=float, default=60, help="seconds for each")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for known in KNOWN:
        try:
            target = open_target(known.target, against=known.against)
        except UnknownTokenizerError as error:
            print(f"{known.name}: left out, {error}")
            continue
        print(known.name)
        for name, draw, holds in (
            ("tiktoken", draw_texts, keeps_tiktokens_promises),
            ("llama.cpp", make_texts, keeps_llamas_promises),
        ):
            tried = reached = seen = 0
            end = time.monotonic() + options.time
            for text in draw(target, options.seed):
                if time.monotonic() > end:
                    break
                tried += 1
                if reaches(known, target, text):
                    reached += 1
                    seen += fails_for_it(known, target, text, holds)
            print(f"  {name:<10} {tried:>9,} texts, {reached:>6,} reach it, {seen:>6,} are seen", flush=True)


def reaches(known: Known, target: Target, text: str) -> bool:
    """Whether a text shows what is known, by the oracle that guardtok's fuzzer has for it."""
    doors = target.doors
    match known.oracle:
        case "leak":
            return _attempt(lambda: not doors.reserved.isdisjoint(doors.encode(text)))
        case "overlap":
            forms = [token.form for token in doors.tokens]
            spelled = [form for _, form in leftmost_longest(text, forms)] if any(map(text.__contains__, forms)) else []
            ids = {token.form: token.id for token in doors.tokens}
            owners = Counter(ids.values())
            shared = any(owners[ids[form]] > 1 for form in spelled)
            parse = doors.parse or doors.encode
            read = [id_ for id_ in parse(text) if id_ in doors.reserved] if spelled else []
            return shared or read != [ids[form] for form in spelled]
        case "drift":
            other = target.other
            return other is not None and not _attempt(lambda: list(other.encode(text)) == list(doors.encode(text)))
    return False  # Neither makes conversations.


def fails_for_it(known: Known, target: Target, text: str, holds: Callable[[Target, str], bool]) -> bool:
    """Whether a property fails on a text, and not just as well on the same text with nothing in the tokens' place."""
    if _attempt(partial(holds, target, text)):
        return False
    twin = text
    for token in target.doors.tokens:
        twin = twin.replace(token.form, "a")
    return known.oracle == "drift" or _attempt(partial(holds, target, twin))


def keeps_tiktokens_promises(target: Target, text: str) -> bool:
    """Whether a text comes back, both doors for ordinary text agree, and a batch is its texts."""
    doors = target.doors
    ids = list(doors.encode(text))
    twin = doors.twin is None or list(doors.twin(text)) == ids
    batch = doors.batch is None or [list(each) for each in doors.batch([text, text])] == [ids, ids]
    return twin and batch and _text(doors.decode(ids)) == text


def keeps_llamas_promises(target: Target, text: str) -> bool:
    """Whether two implementations give the same ids, and the text comes back."""
    doors, other = target.doors, target.other
    same = other is None or list(other.encode(text)) == list(doors.encode(text))
    return same and _text(doors.decode(list((doors.parse or doors.encode)(text)))) == text


def draw_texts(_target: Target, first: int) -> Iterator[str]:
    """Yield what Hypothesis makes of `st.text()`, as tiktoken's properties ask for, round by round."""
    options = settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    drawn: list[str] = []

    def keep(text: str) -> None:
        drawn.append(text)

    for number in count(first):
        drawn.clear()
        seed(number)(options(given(text=st.text())(keep)))()
        yield from list(drawn)


def make_texts(target: Target, first: int) -> Iterator[str]:
    """Yield words of the vocabulary, pairs of ASCII, tokens between blanks, all code points; then random ones."""
    chance = random.Random(first)  # noqa: S311 - to repeat, no secret
    doors = target.doors
    words = words_of(doors, range(doors.n_vocab or 0))
    forms = [token.form for token in doors.tokens]
    yield from words
    for left, right, before, after in product(map(chr, range(1, 128)), map(chr, range(1, 128)), BLANKS[:3], BLANKS[:3]):
        if chance.random() < 1 / 8:
            yield before + left + right + after
    for form, before, after in product(forms[:64], BLANKS, BLANKS):
        yield from (before + form + after, f"a{before}{form}{after}z")
    points = [chr(code) for code in range(0x30000) if unicodedata.category(chr(code)) not in {"Cn", "Cs", "Co"}]
    yield from points
    while True:
        pool = chance.choice([words or points, points, [*forms, " ", "\n", "-", "one", "1"]])
        yield "".join(chance.choice(pool) + chance.choice(("", " ", "\n")) for _ in range(200))


def _attempt(call: Callable[[], bool]) -> bool:
    """Return what a call returns; False where the tokenizer fails."""
    try:
        return call()
    except BaseException as error:
        if not is_failure(error):
            raise
        return False


def _text(spelled: bytes | str) -> str:
    return spelled if isinstance(spelled, str) else spelled.decode(errors="replace")


if __name__ == "__main__":
    main()
