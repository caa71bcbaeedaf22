"""Mutants of what makes text that goes on as text: of the edits, of streams, and of what is logged."""

from __future__ import annotations

import html
import re
import unicodedata
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from guardtok import Guard, records, sanitize, scan
from guardtok.beginnings import Beginnings
from guardtok.breaking import Breaker
from guardtok.edits import Editor
from guardtok.records import Report
from guardtok.stream import Stream
from guardtok.views.folds import hidden_as
from tests.mutants import guards

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mutants import Patch


def strip_once(patch: Patch) -> Guard:
    """Take forms out in one pass, and do not look at what is left."""
    patch(Editor, "_may_grow", lambda *_: False)
    patch(sanitize, "_verify", lambda *_: None)
    return guards.stripping()


def escape_with_zero_width(patch: Patch) -> Guard:
    """Break forms with a character that nobody sees, and that the next program takes out."""
    patch(Breaker, "separate", lambda *_: "\u200b")
    patch(sanitize, "_verify", lambda *_: None)
    return guards.watching()


def skip_the_normaliser(patch: Patch) -> Guard:
    """Look for forms in the text alone, and not in what the tokenizer makes of it."""
    patch(scan, "_find_folded", lambda *_: [])
    patch(sanitize, "_verify", lambda *_: None)
    return guards.folding()


def miss_small_letters(patch: Patch) -> Guard:
    """Know of compatibility characters, and not that the tokenizer folds case."""
    whole = scan._find_folded

    def find(text: str, rules: Any) -> Any:  # noqa: ANN401 - as the scan has it
        return [match for match in whole(text, rules) if not text[match[1] : match[2]].isascii()]

    patch(scan, "_find_folded", find)
    patch(sanitize, "_verify", lambda *_: None)
    return guards.folding()


def normalise_afterwards(_patch: Patch) -> Guard:
    """Bring text into NFKC when it has been looked at."""
    return guards.plain(_afterwards(lambda text: unicodedata.normalize("NFKC", text)))


def drop_hidden_characters_afterwards(_patch: Patch) -> Guard:
    """Take invisible characters out when the text has been looked at."""
    return guards.plain(_afterwards(lambda text: "".join(char for char in text if not hidden_as(char))))


def unescape_afterwards(_patch: Patch) -> Guard:
    """Decode entities when the text has been looked at."""
    return guards.plain(_afterwards(html.unescape))


def _afterwards(change: Callable[[str], str]) -> type[Guard]:
    class Mutant(Guard):
        __slots__ = ()

        def sanitize(self, text: str, **options: Any) -> Any:  # noqa: ANN401 - as of a Guard
            done = super().sanitize(text, **options)
            return SimpleNamespace(text=change(done.text), violations=done.violations)

    return Mutant


def scan_before_the_repair(_patch: Patch) -> Guard:
    """Look at the text with its surrogates, and hand on the text with the characters that they spell."""

    class Mutant(Guard):
        __slots__ = ()

        def sanitize(self, text: str, **options: Any) -> Any:  # noqa: ANN401 - as of a Guard
            halves: list[str] = []

            def hold(found: re.Match[str]) -> str:
                halves.append(found[0])
                return "\ufdd0"

            done = super().sanitize(re.sub("[\ud800-\udfff]", hold, text), **options)
            back = re.sub("\ufdd0", lambda _: halves.pop(0), done.text)
            repaired = back.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return SimpleNamespace(text=repaired, violations=done.violations)

    return guards.smiling(Mutant)


def hold_back_one_too_few(patch: Patch) -> Guard:
    """Let one character too many of a stream go."""
    whole = Beginnings.find_open
    patch(Beginnings, "find_open", lambda self, text, start: min(len(text), whole(self, text, start) + 1))
    return guards.plain()


def look_at_each_chunk_alone(_patch: Patch) -> Guard:
    """Sanitize a stream chunk by chunk, with no memory."""

    class Mutant(Guard):
        __slots__ = ()

        def stream(self, **options: Any) -> Any:  # noqa: ANN401 - what stands for a Stream
            feed = lambda chunk: self.sanitize(chunk, **options).text if chunk else ""  # noqa: E731
            return SimpleNamespace(feed=feed, finish=str)

    return guards.plain(Mutant)


def keep_the_end(patch: Patch) -> Guard:
    """Forget at the end of a stream what was held back."""
    patch(Stream, "finish", lambda _self: "")
    return guards.plain()


def log_forms(patch: Patch) -> Guard:
    """Write forms into records as they are."""
    patch(records, "defuse", lambda text, **_: text)
    return guards.plain()


def log_the_text(patch: Patch) -> Guard:
    """Write the text around a form into records as it is."""
    patch(Report, "_excerpt", lambda self, start, _: self.intake.text[max(0, start - 8) : start])
    return guards.excerpting()
