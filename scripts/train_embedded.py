"""Train the embedded tokenizer `guardtok` on the source text of the Python standard library.

A package that guards tokens has to work, and be tested, where no vocabulary can be downloaded and none may be shipped.
The standard library is text that everybody with a Python has, so anybody can repeat the training:

    python -m scripts.train_embedded             # write guardtok/data/guardtok.tiktoken, print what to record
    python -m scripts.train_embedded --check     # train again and compare with what is recorded, byte for byte

Other versions of Python come with other sources and so give other merges; `--check` says so and stops.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import heapq
import platform
import sys
import sysconfig
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import regex

from guardtok.vocabularies import EMBEDDED_PATTERN, EMBEDDED_RECORD, EmbeddedRecord

MERGES = 8_192
OUTPUT = Path(__file__).parent.parent / "guardtok" / "data" / "guardtok.tiktoken"
MAX_CORPUS_BYTES = 16_000_000

# Tests repeat themselves, code tables are no text, and the rest differs from one machine to the next.
EXCLUDED_FOLDERS = {"test", "tests", "idlelib", "site-packages", "dist-packages", "encodings", "__pycache__"}
EXCLUDED_PREFIXES = ("_sysconfigdata", "config-")

Pair = tuple[int, int]


def read_corpus(library: Path) -> bytes:
    """Return the sources under `library` in the order of their paths, with Unix line ends.

    Raises:
        ValueError: There is more than `MAX_CORPUS_BYTES` of it, so this is no standard library.
    """
    parts = []
    for path in sorted(library.rglob("*.py"), key=lambda p: p.relative_to(library).parts):
        steps = path.relative_to(library).parts
        if EXCLUDED_FOLDERS.isdisjoint(steps) and not any(step.startswith(EXCLUDED_PREFIXES) for step in steps):
            parts.append(path.read_bytes().replace(b"\r\n", b"\n"))
    corpus = b"\n".join(parts)
    if len(corpus) > MAX_CORPUS_BYTES:
        message = f"{len(corpus):,} bytes of source are more than the {MAX_CORPUS_BYTES:,} that a standard library has."
        raise ValueError(message)
    return corpus


def split_pieces(corpus: bytes) -> Counter[bytes]:
    """Count the pieces that merges may not cross."""
    text = corpus.decode("utf-8", "replace")
    return Counter(match.group().encode() for match in regex.finditer(EMBEDDED_PATTERN, text))


class Training:
    """The state of byte-pair training: pieces as ids, how often each pair occurs, and in which pieces.

    A merge touches only the pieces that hold its pair. Counts in the heap may be out of date: a popped entry holds only
    if it equals today's count, and every change pushes a new entry. Of equally frequent pairs the one with the smaller
    ids wins, so that the result depends on the corpus alone.
    """

    def __init__(self, pieces: Counter[bytes]) -> None:
        ordered = sorted(pieces.items())
        self.tokens = [bytes([byte]) for byte in range(256)]
        self.pieces = [list(piece) for piece, _ in ordered]
        self.weights = [count for _, count in ordered]
        self.counts: Counter[Pair] = Counter()
        self.where: defaultdict[Pair, set[int]] = defaultdict(set)
        for index, piece in enumerate(self.pieces):
            self._count(index, piece, 1)
        self.heap = [(-count, *pair) for pair, count in self.counts.items()]
        heapq.heapify(self.heap)

    def _count(self, index: int, piece: list[int], sign: int) -> set[Pair]:
        weight = sign * self.weights[index]
        pairs = list(pairwise(piece))
        for pair in pairs:
            self.counts[pair] += weight
            if sign > 0:
                self.where[pair].add(index)
        return set(pairs)

    def merge_most_frequent(self) -> None:
        """Join the most frequent pair everywhere, which makes one new token."""
        while True:
            count, left, right = heapq.heappop(self.heap)
            if -count == self.counts[left, right] > 0:
                break
        joined = len(self.tokens)
        self.tokens.append(self.tokens[left] + self.tokens[right])
        changed: set[Pair] = set()
        for index in self.where.pop((left, right)):
            old = self.pieces[index]
            new = join(old, left, right, joined)
            if len(new) < len(old):
                changed |= self._count(index, old, -1)
                changed |= self._count(index, new, 1)
                self.pieces[index] = new
        for pair in changed:
            if self.counts[pair] > 0:
                heapq.heappush(self.heap, (-self.counts[pair], *pair))


def join(piece: list[int], left: int, right: int, joined: int) -> list[int]:
    """Return the piece with each `left right`, from the left, replaced by `joined`."""
    out = []
    at = 0
    while at < len(piece):
        if piece[at] == left and at + 1 < len(piece) and piece[at + 1] == right:
            out.append(joined)
            at += 2
        else:
            out.append(piece[at])
            at += 1
    return out


def train(pieces: Counter[bytes], merges: int) -> list[bytes]:
    """Return the tokens in the order of their ranks: the 256 bytes, then one for each merge."""
    training = Training(pieces)
    for _ in range(merges):
        training.merge_most_frequent()
    return training.tokens


def rank_file(tokens: list[bytes]) -> bytes:
    """Return tokens as tiktoken's rank file: base64, a space, the rank."""
    return b"".join(b"%b %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))


def main() -> int:
    """Train, then write or compare. Return the exit status."""
    parser = argparse.ArgumentParser(description="Train the embedded tokenizer on the standard library's source text.")
    parser.add_argument("--check", action="store_true", help="train again and compare with what is recorded")
    check = parser.parse_args().check

    python = platform.python_version()
    if check and python != EMBEDDED_RECORD.python:
        print(f"This is Python {python}; the file was trained on {EMBEDDED_RECORD.python}. Use that to check it.")
        return 2
    corpus = read_corpus(Path(sysconfig.get_path("stdlib")))
    corpus_sha256 = hashlib.sha256(corpus).hexdigest()
    if check and corpus_sha256 != EMBEDDED_RECORD.corpus_sha256:
        print("This Python's library is not the recorded one (a distributor may have patched it). Use python.org's.")
        return 2
    data = rank_file(train(split_pieces(corpus), MERGES))
    record = EmbeddedRecord(
        sha256=hashlib.sha256(data).hexdigest(), python=python, corpus_sha256=corpus_sha256, merges=MERGES
    )
    if check:
        same = record == EMBEDDED_RECORD and data == OUTPUT.read_bytes()
        print("The file is what this training gives." if same else "The file differs from what this training gives.")
        return 0 if same else 1
    OUTPUT.write_bytes(data)
    print(f"Wrote {len(data):,} bytes from {len(corpus):,} bytes of source. Record it in guardtok/vocabularies.py:")
    print(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
