"""Ids → who wrote them: for each id, the sources of the characters that it stands for."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

from guardtok.text import UNKNOWN, Run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from guardtok.intake import Intake
    from guardtok.pieces import Piece
    from guardtok.ruleset import Ruleset
    from guardtok.violation import Span


TRAINED = "trained"
"""Stands for a source where ids are asked whether they are to be trained on."""


def mark_spans(spans: Sequence[Span], length: int) -> tuple[Run, ...]:
    """Return runs over a text of so many characters, those in one of the ascending spans of source `TRAINED`."""
    runs: list[Run] = []
    last = 0
    for span in spans:
        if last < span.start:
            runs.append(Run(last, span.start, UNKNOWN, "", 0))
        if max(last, span.start) < span.end:
            runs.append(Run(max(last, span.start), span.end, TRAINED, "", 0))
            last = span.end
    return (*runs, Run(last, length, UNKNOWN, "", 0)) if last < length else tuple(runs)


def attribute(
    ids: Sequence[int], pieces: Sequence[Piece], ends: Sequence[int], intake: Intake, ruleset: Ruleset
) -> Iterator[frozenset[str]]:
    """Yield the sources of each id.

    Args:
        ids: The ids.
        pieces: The stretches of the output.
        ends: For each stretch, one past its last id.
        intake: The text.
        ruleset: Its tokenizer tells how many bytes an id stands for.
    """
    first = 0
    for piece, end in zip(pieces, ends, strict=True):
        spans = list(_spans(piece, intake))
        everyone = frozenset(source for _, _, source in spans)
        sizes = _sizes(ids[first:end], piece, ruleset) if len(everyone) > 1 else None
        if sizes is None:
            yield from repeat(everyone, end - first)
        else:
            yield from _sweep(sizes, spans)
        first = end


def sources_of(piece: Piece, intake: Intake) -> Iterator[str]:
    """Yield the source of each stretch of one source in a piece; `unknown` for what was put in."""
    return (source for _, _, source in _spans(piece, intake))


def _spans(piece: Piece, intake: Intake) -> Iterator[tuple[int, int, str]]:
    """Yield (first byte, one past the last, source) for each stretch of one source in the piece's UTF-8."""
    borders = [position for position, _ in piece.origins[1:]] + [len(piece.text)]
    done = 0
    for (position, origin), border in zip(piece.origins, borders, strict=True):
        index = intake.run_at(origin) if origin >= 0 else -1
        while position < border:
            if index < 0:
                stop, source = border, UNKNOWN
            else:
                run = intake.runs[index]
                stop, source = min(border, position + run.end - origin), run.source
                origin, index = run.end, index + 1  # noqa: PLW2901 - moves on to the next run
            size = len(piece.text[position:stop].encode())
            yield done, done + size, source
            done += size
            position = stop  # noqa: PLW2901 - moves on to the next run


def _sizes(ids: Sequence[int], piece: Piece, ruleset: Ruleset) -> list[int] | None:
    """Return the number of bytes that each id stands for, or None where they do not spell the text."""
    tokenizer = ruleset.tokenizer
    if tokenizer is None:
        return None
    spelled = [tokenizer.decode_bytes([token_id]) for token_id in ids]
    sizes = [len(part) for part in spelled]
    joined, text = b"".join(spelled), piece.text.encode()
    if joined == b" " + text:  # The prefix of a SentencePiece is nobody's.
        return [sizes[0] - 1, *sizes[1:]]
    return sizes if joined == text else None


def _sweep(sizes: Sequence[int], spans: Sequence[tuple[int, int, str]]) -> Iterator[frozenset[str]]:
    start = index = 0
    for size in sizes:
        end = start + size
        while spans[index][1] <= start and index + 1 < len(spans):
            index += 1
        last = index
        found = {spans[index][2]}
        while last + 1 < len(spans) and spans[last + 1][0] < end:
            last += 1
            found.add(spans[last][2])
        yield frozenset(found)
        start = end
