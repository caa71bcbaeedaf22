from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.encodings import load_tokenizer
from guardtok.tokenizer import Role
from guardtok.vocabularies import EMBEDDED_PATTERN, EMBEDDED_RECORD

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

ROOT = Path(__file__).parent.parent
RANKS = ROOT / "guardtok" / "data" / "guardtok.tiktoken"
TOKENIZER = load_tokenizer("guardtok")
FORMS = [token.form for token in TOKENIZER.control_tokens]


def load_script() -> ModuleType:
    """Import the training script, which belongs to no package."""
    spec = importlib.util.spec_from_file_location("train_embedded", ROOT / "scripts" / "train_embedded.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SCRIPT: Any = load_script()


def test_it_is_a_real_vocabulary_in_a_small_file() -> None:
    """There are at least 8,192 merges over the 256 bytes, in fewer than 200,000 bytes."""
    tokens = {line.split()[0] for line in RANKS.read_bytes().splitlines()}
    assert len(tokens) == 256 + EMBEDDED_RECORD.merges
    assert EMBEDDED_RECORD.merges >= 8192
    assert RANKS.stat().st_size < 200_000


def test_the_file_is_the_recorded_one() -> None:
    """The shipped bytes have the hash that is written beside the Python version they were trained on."""
    assert hashlib.sha256(RANKS.read_bytes()).hexdigest() == EMBEDDED_RECORD.sha256


def test_its_control_tokens_are_chatmls_and_follow_the_ranks() -> None:
    """Twelve tokens take the ids after the last rank, and the catalogue knows what each is for."""
    assert [(token.form, token.id, token.role) for token in TOKENIZER.control_tokens] == [
        ("<|endoftext|>", 8448, Role.EOS),
        ("<|im_start|>", 8449, Role.TURN),
        ("<|im_end|>", 8450, Role.TURN),
        ("<|fim_prefix|>", 8451, Role.FIM),
        ("<|fim_middle|>", 8452, Role.FIM),
        ("<|fim_suffix|>", 8453, Role.FIM),
        ("<tool_call>", 8454, Role.TOOL),
        ("</tool_call>", 8455, Role.TOOL),
        ("<tool_response>", 8456, Role.TOOL),
        ("</tool_response>", 8457, Role.TOOL),
        ("<think>", 8458, Role.THINK),
        ("</think>", 8459, Role.THINK),
    ]
    assert TOKENIZER.n_vocab == 8460


def test_it_merges_words_of_source_text() -> None:
    """Frequent words of Python source are one token, so the merges come from there."""
    assert len(TOKENIZER.encode_ordinary("self", at_start=True)) == 1
    assert len(TOKENIZER.encode_ordinary(" return", at_start=True)) == 1


@given(st.text())
def test_decoding_gives_the_text_back(text: str) -> None:
    """Byte-level merging loses nothing, emoji and NUL included."""
    assert TOKENIZER.decode_bytes(TOKENIZER.encode_ordinary(text, at_start=True)) == text.encode()


@pytest.mark.parametrize("text", ["", "\0", "😀", "👩‍👩‍👧‍👦 e\u0301", "\r\n \t\n", "＜|im_start|＞"])  # noqa: RUF001
def test_odd_texts_come_back(text: str) -> None:
    """Emoji sequences, combining marks, white space and look-alikes round-trip too."""
    assert TOKENIZER.decode_bytes(TOKENIZER.encode_ordinary(text, at_start=False)) == text.encode()


@given(st.lists(st.one_of(st.text(max_size=5), st.sampled_from([*FORMS, "<|", "|>", "im_", "<tool_", "<<"]))))
def test_ordinary_text_never_makes_a_reserved_id(parts: list[str]) -> None:
    """However forms are written, doubled and cut, what comes out of ordinary encoding is ordinary."""
    ids = TOKENIZER.encode_ordinary("".join(parts), at_start=True)
    assert TOKENIZER.reserved_ids.isdisjoint(ids)


@given(st.text(st.sampled_from("aé\u03011 \t\n\r'.<s")))
def test_the_pattern_covers_every_text_in_bounded_pieces(text: str) -> None:
    """The pieces are the whole text, so nothing is dropped, and none is long, so merging is linear."""
    pieces = regex.findall(EMBEDDED_PATTERN, text * 100)
    assert "".join(pieces) == text * 100
    assert max(map(len, pieces), default=0) <= 49


@pytest.mark.parametrize("run", [" ", "a", "!", "\n", " \n", "\u0301", "7"])
def test_a_long_run_is_encoded(run: str) -> None:
    """More than a million equal characters, on which patterns without bounds make tiktoken panic, are no trouble."""
    text = run * (1_100_000 // len(run)) + "x"
    assert TOKENIZER.decode_bytes(TOKENIZER.encode_ordinary(text, at_start=True)) == text.encode()


def merge_slowly(pieces: Mapping[bytes, int], merges: int) -> list[bytes]:
    """Train by counting everything anew for each merge."""
    tokens = [bytes([byte]) for byte in range(256)]
    cut = {piece: list(piece) for piece in pieces}
    for joined in range(256, 256 + merges):
        counts: Counter[tuple[int, int]] = Counter()
        for piece, ids in cut.items():
            for pair in pairwise(ids):
                counts[pair] += pieces[piece]
        left, right = min(counts, key=lambda pair: (-counts[pair], pair))
        tokens.append(tokens[left] + tokens[right])
        cut = {piece: SCRIPT.join(ids, left, right, joined) for piece, ids in cut.items()}
    return tokens


@given(st.dictionaries(st.text("abc", min_size=1, max_size=12).map(str.encode), st.integers(1, 9)), st.integers(0, 20))
def test_training_equals_counting_everything_anew(pieces: dict[bytes, int], merges: int) -> None:
    """Keeping counts up to date gives the same tokens as the plain definition of byte-pair encoding."""
    enough_for_every_merge = bytes(range(128, 160))
    pieces = {**pieces, enough_for_every_merge: 1}
    assert SCRIPT.train(Counter(pieces), merges) == merge_slowly(pieces, merges)


def test_a_library_is_read_in_the_order_of_paths_without_tests(tmp_path: Path) -> None:
    """Order, line ends and what is left out are fixed, so that one library gives one corpus."""
    for name, text in {
        "b.py": b"b\r\n",
        "a/z.py": b"z",
        "a/test/t.py": b"t",
        "site-packages/s.py": b"s",
        "_sysconfigdata_x.py": b"c",
        "c.txt": b"c",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text)
    assert SCRIPT.read_corpus(tmp_path) == b"z\nb\n"


def test_check_says_when_another_python_cannot_tell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another version's library gives other merges, so the check stops instead of reporting a difference."""
    monkeypatch.setattr(SCRIPT.platform, "python_version", lambda: "3.10.0")
    monkeypatch.setattr(sys, "argv", ["train_embedded", "--check"])
    assert SCRIPT.main() == 2
    assert EMBEDDED_RECORD.python in capsys.readouterr().out


def test_the_rank_file_is_what_its_ranks_say() -> None:
    """Writing the loaded ranks out gives the file again, byte for byte."""
    assert isinstance(TOKENIZER, TiktokenTokenizer)
    ranks = TOKENIZER.encoding._mergeable_ranks
    assert SCRIPT.rank_file(sorted(ranks, key=ranks.__getitem__)) == RANKS.read_bytes()
