"""What somebody sends who wants a guard to fail: each case ends in a typed error or in the right answer, and how fast.

The sizes are those of a night's run: a string of 10⁹ characters, 10⁶ forms, 10⁵ forms inside one another, 10⁶ hidden
characters inside one form, a stream by single bytes. A case that goes wrong makes the status 1.

    python -m benchmarks.hostile [--smoke]
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import TYPE_CHECKING

from guardtok import Guard, Policy
from guardtok.errors import GuardtokError, InvalidUTF8Error, LimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FORM, LEFT, RIGHT = "<|im_end|>", "<|im_", "end|>"
RULES = (
    "guardtok: 1\nname: hostile\nsurrogates: refuse\nlimits: {max_chars: 30000000}\n"
    "sources: {user: {default: escape, lookalikes: escape}, document: {default: strip, lookalikes: escape}}\n"
)

Case = tuple[str, "Callable[[], bool]"]
"""A name, and a call that says whether its answer was right."""


def main() -> int:
    """Run every case, print its time and its verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a thousandth of the sizes: does it run")
    scale = 1_000 if parser.parse_args().smoke else 1
    wrong = 0
    for name, run in cases(Guard.load(Policy.parse(RULES), "guardtok", sinks=()), scale):
        start = time.perf_counter()
        right = run()
        wrong += not right
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{name:<46} {time.perf_counter() - start:>8.2f} s, peak {peak:>6,} MB  {'right' if right else 'WRONG'}")
    return 1 if wrong else 0


def cases(guard: Guard, scale: int) -> Iterator[Case]:
    """Yield every case; sizes are divided by `scale`."""
    long = "a" * (10**9 if scale == 1 else 30_000_001)
    for name, call in (("encode", guard.encode), ("sanitize", guard.sanitize)):
        yield f"{len(long):,} characters, {name}", lambda c=call: raises(LimitError, lambda: c(long, source="user"))
    yield f"{len(long):,} characters, check", lambda: guard.check(long, source="user").action == "block"
    long = ""
    forms, nested, hidden = 10**6 // scale, 10**5 // scale, 10**6 // scale
    many = FORM * forms
    yield f"{forms:,} forms, encode", lambda: len(guard.encode(many, source="user").ids) >= forms
    yield f"{forms:,} forms, escape", lambda: guard.sanitize(many, source="user").text == "<_|im_end|>" * forms
    yield f"{forms:,} forms, strip", lambda: guard.sanitize(many, source="document").text == ""
    inside = LEFT * nested + FORM + RIGHT * nested
    wanted = LEFT * nested + "\ufffd" + RIGHT * nested
    yield f"{nested:,} nested forms, strip", lambda: guard.sanitize(inside, source="document").text == wanted
    yield f"{nested:,} nested forms, restore", lambda: guard.sanitize(inside, source="document").restore() == inside
    joiners = LEFT + "\u200b" * hidden + RIGHT
    yield (
        f"{hidden:,} hidden characters, escape",
        lambda: guard.sanitize(joiners, source="user").text == "<_" + joiners[1:],
    )
    yield f"{hidden:,} hidden characters, encode", lambda: is_ordinary(guard, joiners)
    yield f"{hidden:,} hidden characters, stream", lambda: pour(guard, joiners) == "<_" + joiners[1:]
    bytewise = ("text \u20ac " + FORM) * (hidden // 100)
    yield (
        f"{len(bytewise):,} characters by single bytes",
        lambda: pour_bytes(guard, bytewise) == bytewise.replace("<", "<_"),
    )
    yield (
        "bytes that are no UTF-8",
        lambda: raises(InvalidUTF8Error, lambda: guard.stream(source="user").feed_bytes(b"a\xff")),
    )


def is_ordinary(guard: Guard, text: str) -> bool:
    """Whether no reserved id is in what a text is encoded to."""
    ids = guard.encode(text, source="user").ids
    return guard.ruleset.reserved.isdisjoint(ids)


def pour(guard: Guard, text: str) -> str:
    """Return what a stream makes of a text in chunks of a thousand characters."""
    stream = guard.stream(source="user")
    return "".join([*(stream.feed(text[at : at + 1_000]) for at in range(0, len(text), 1_000)), stream.finish()])


def pour_bytes(guard: Guard, text: str) -> str:
    """Return what a stream makes of a text's UTF-8, byte by byte."""
    stream, data = guard.stream(source="user"), text.encode()
    return "".join([*(stream.feed_bytes(data[at : at + 1]) for at in range(len(data))), stream.finish()])


def raises(error: type[GuardtokError], call: Callable[[], object]) -> bool:
    """Whether a call raises that error."""
    try:
        call()
    except error:
        return True
    return False


if __name__ == "__main__":
    raise SystemExit(main())
