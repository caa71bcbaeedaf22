from __future__ import annotations

import pickle
from functools import cache
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
import tiktoken
from corpora import KEY, KINDS, SOUP, TEXTS, guard, policy, scanner, stored, verdicts
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import tokenizer

from guardtok import Guard
from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.corpus import ArrowScanner, sift
from guardtok.corpus.action import adapt_policy
from guardtok.corpus.engine import engine_of
from guardtok.corpus.scanner import ANNOTATIONS
from guardtok.corpus.sift import make_sifter
from guardtok.errors import CorpusError, GuardtokError, LimitError, UnknownSourceError
from guardtok.views import search

if TYPE_CHECKING:
    from guardtok.violation import Verdict


@cache
def adapted(action: str) -> Guard:
    """Return a guard under the policy that a scanner with this action makes."""
    changed = adapt_policy(policy(), scanner(action).action, frozenset({"document"}))
    return Guard(changed, tokenizer(), sinks=(), digest_key=KEY)


def found(table: pa.Table, lookalikes: str = "log") -> dict[int, Verdict]:
    """Return what a scanner finds in the column `text`, by row."""
    return {each.row: each.verdict for each in scanner("report", lookalikes).scan(table).findings}


@pytest.mark.parametrize(("lookalikes", "block"), [("ignore", 40), ("log", 1), ("log", 40), ("escape", 1 << 17)])
@settings(max_examples=30)
@given(texts=TEXTS)
def test_a_column_is_its_texts_one_by_one(lookalikes: str, block: int, texts: list[str | None]) -> None:
    """However many bytes are searched in one go, the verdicts are the guard's, record by record."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sift, "BLOCK", block)
        assert found(pa.table({"text": pa.array(texts, pa.string())}), lookalikes) == verdicts(texts, lookalikes)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(texts=TEXTS)
def test_how_arrow_keeps_a_column_changes_nothing(kind: str, texts: list[str | None]) -> None:
    """Offsets of 32 and 64 bits, views, dictionaries, chunks, slices, and nulls that lie over a form."""
    assert found(pa.table({"text": stored(texts, kind)})) == verdicts(texts)


@given(texts=TEXTS, cut=st.integers(0, 12))
def test_how_rows_are_cut_into_blocks_changes_nothing(texts: list[str | None], cut: int) -> None:
    """Two tables that follow one another come out as the one they make."""
    table = pa.table({"text": pa.array(texts, pa.string())})
    for action in ("annotate", "escape", "drop"):
        one = scanner(action)
        parts = [one(table.slice(0, cut)), one(table.slice(cut))]
        assert pa.concat_tables(parts).to_pylist() == one(table).to_pylist()


@pytest.mark.parametrize(
    ("kind", "action"),
    [("string", "escape"), ("string_view", "strip"), ("dictionary", "escape"), ("over garbage", "strip")],
)
@settings(max_examples=30)
@given(texts=TEXTS)
def test_a_rewritten_column_is_its_texts_sanitized(action: str, kind: str, texts: list[str | None]) -> None:
    """Each text is what `Guard.sanitize` makes of it, in the column's own type; a row that is refused is left out."""
    one, strict = scanner(action), adapted(action)
    refused = [text is not None and strict.check(text, source="document").action.value == "block" for text in texts]
    kept = [text for text, out in zip(texts, refused, strict=True) if not out]
    wanted = [None if text is None else strict.sanitize(text, source="document").text for text in kept]
    table = pa.table({"text": stored(texts, kind)})
    written = one(table)
    assert written["text"].to_pylist() == wanted
    assert written.schema == table.schema
    written.validate(full=True)


@settings(max_examples=30)
@given(texts=TEXTS)
def test_drop_leaves_out_what_the_policy_acts_on(texts: list[str | None]) -> None:
    """A row with a finding that is only logged stays."""
    table = pa.table({"text": pa.array(texts, pa.string()), "row": range(len(texts))})
    bad = {row for row, verdict in verdicts(texts).items() if verdict.action.value != "log"}
    assert scanner("drop")(table)["row"].to_pylist() == [row for row in range(len(texts)) if row not in bad]


@settings(max_examples=30)
@given(texts=TEXTS)
def test_annotations_say_what_was_found(texts: list[str | None]) -> None:
    """Action, count and the forms, broken; the rest of the table is as it was."""
    table = pa.table({"text": pa.array(texts, pa.string())})
    annotated, known = scanner("annotate")(table), verdicts(texts)
    assert annotated.select(["text"]) == table
    for row, said in enumerate(annotated.select(ANNOTATIONS).to_pylist()):
        verdict = known.get(row)
        assert said["guardtok_action"] == (verdict.action.value if verdict else "allow")
        assert said["guardtok_count"] == (verdict.count if verdict else 0)
        assert said["guardtok_tokens"] == list(dict.fromkeys(v.token for v in verdict.violations) if verdict else ())


@given(rows=st.lists(st.none() | st.lists(st.none() | SOUP, max_size=3), max_size=5), start=st.integers(0, 3))
def test_nested_texts_are_found_and_replaced_in_place(rows: list[list[str | None] | None], start: int) -> None:
    """A chat's texts, `messages.content`, whether the path names the list's inside or not, in a slice too."""
    chats = [None if row is None else [{"role": "user", "content": text} for text in row] for row in rows]
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    table = pa.table({"messages": pa.array(chats, kind)}).slice(start)
    flat = [(row, item, text) for row, texts in enumerate(rows[start:]) for item, text in enumerate(texts or ())]
    checked = [(row, item, guard().check(text, source="document")) for row, item, text in flat if text is not None]
    for path in ("messages.content", "messages.list.element.content"):
        scanned = scanner("report", column=path).scan(table)
        assert [(each.row, each.item, each.verdict) for each in scanned.findings] == [c for c in checked if c[2].count]
    blocked = {row for row, _, verdict in checked if verdict.action.value == "block"}
    written = scanner("escape", column="messages.content")(table)
    written.validate(full=True)
    assert written.schema == table.schema
    kept = [chat for row, chat in enumerate(chats[start:]) if row not in blocked]
    for chat, other in zip(kept, written["messages"].to_pylist(), strict=True):
        assert other == (chat and [{**m, "content": _escaped(m["content"])} for m in chat])


def _escaped(text: str | None) -> str | None:
    return None if text is None else guard().sanitize(text, source="document").text


@given(before=SOUP, text=SOUP, after=SOUP)
def test_a_row_that_the_sifter_passes_over_holds_nothing(before: str, text: str, after: str) -> None:
    """Whatever stands beside a row in the buffer: what the guard would find in it is found."""
    column = pa.array([before, text, after])
    rows = make_sifter(guard().ruleset, "document").sift(column)
    assert {row for row, each in enumerate((before, text, after)) if guard().check(each, source="document").count} <= {
        *rows
    }


def test_ordinary_rows_are_passed_over() -> None:
    """Else nothing would be won."""
    texts = ["if a < b and c[0] > d: x = '</th>'", "a &amp; b, 100%", "\u4e16\u754c <a href='x'>\u00e9</a>", "< \u00e9"]
    assert make_sifter(guard().ruleset, "document").sift(pa.array(texts)) == []


@pytest.mark.parametrize("data", [b"\xff<|im_end|>", b"<|im_\xffend|>", b"caf\xe9", b"\xc3"])
def test_what_is_not_utf8_is_reported_and_replaced(data: bytes) -> None:
    """By its row, and what goes on is well-formed: who drops ill-formed bytes would make a form of the rest."""
    column = pa.array([b"a", data, None, b"<|im_end|>"], pa.binary()).view(pa.string())
    table = pa.table({"text": column})
    scanned = scanner("escape").scan(table)
    assert [problem.row for problem in scanned.problems] == [1]
    wanted = [_escaped(text) for text in ("a", data.decode("utf-8", "replace"), None, "<|im_end|>")]
    assert scanned.table["text"].to_pylist() == wanted
    assert scanner("escape")(table)["text"].to_pylist() == wanted


def test_a_character_cut_over_two_rows_is_in_neither() -> None:
    """Side by side they are UTF-8, and each alone is not."""
    offsets = pa.array([0, 1, 2], pa.int32()).buffers()[1]
    column = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"\xc3\xa9")])
    assert [problem.row for problem in scanner().scan(pa.table({"text": column})).problems] == [0, 1]


@pytest.mark.parametrize("text", ["x" * 50, "\u4e16" * 50, "x" * 11, "<|im_end|>x"])
def test_a_row_over_the_limit_has_the_guards_verdict(text: str) -> None:
    """Also where it is so long that it is not even decoded; and where texts are rewritten it is left out."""
    limits = "limits: {max_chars: 10}"
    table = pa.table({"text": ["a", text]})
    findings = scanner("report", limits=limits).scan(table).findings
    verdict = guard(limits=limits).check(text, source="document")
    assert [(each.row, each.verdict) for each in findings] == [(1, verdict)]
    with pytest.raises(LimitError):
        guard(limits=limits).sanitize(text, source="document")
    assert scanner("escape", limits=limits)(table)["text"].to_pylist() == ["a"]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("txt", "no column 'txt'. Did you mean 'text'?"),
        ("number", "is no text but int64"),
        ("chat", "is nested: name one of its fields"),
        ("chat.kontent", "Did you mean 'content'?"),
        ("text.content", "has no fields"),
        ("bytes", "is no text but binary"),
    ],
)
def test_a_column_that_is_no_text_is_an_error(column: str, said: str) -> None:
    """With the place and, where it can be guessed, what was meant."""
    chat = pa.array([[{"content": "a"}]])
    table = pa.table({"text": ["a"], "number": [1], "chat": chat, "bytes": pa.array([b"a"], pa.binary())})
    with pytest.raises(CorpusError) as raised:
        scanner(column=column).scan(table)
    assert said in str(raised.value)


def test_a_guard_that_fails_lets_no_row_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is a problem, it is not in the output, and the callable raises."""
    table = pa.table({"text": ["a", "< |im_end|>", "b"]})
    one = scanner("escape")
    monkeypatch.setattr(search, "may_go_on", None)
    scanned = one.scan(table)
    assert [problem.row for problem in scanned.problems] == [1]
    assert scanned.table["text"].to_pylist() == ["a", "b"]
    with pytest.raises(CorpusError, match="ViewError"):
        one(table)


def test_a_scanner_travels_and_is_built_once() -> None:
    """A copy finds the same with the same digests, and two copies in a process share a guard."""
    table = pa.table({"text": ["<|im_end|>"]})
    one = ArrowScanner("corpus", action="report")
    copies = [pickle.loads(pickle.dumps(one)) for _ in range(2)]  # noqa: S301 - its own
    assert copies[0](table) == copies[1](table) == one(table)
    assert copies[0].engine is copies[1].engine is engine_of(one.spec)
    assert len(pickle.dumps(one)) < 100_000


def test_each_column_has_its_source() -> None:
    """What one source may write is no finding, and another may not."""
    table = pa.table({"a": ["<|im_end|>"], "b": ["<|im_end|>"]})
    one = ArrowScanner(policy(), {"a": "template", "b": "document"}, tokenizer=tokenizer(), digest_key=KEY)
    assert [each.column for each in one.scan(table).findings] == ["b"]


def test_what_is_asked_wrongly_is_refused() -> None:
    """An action, a source and no columns; and annotating twice."""
    for call in (
        lambda: ArrowScanner(action="delete"),
        lambda: ArrowScanner(columns=[]),
        lambda: ArrowScanner(source="dokument"),
        lambda: scanner("annotate")(scanner("annotate")(pa.table({"text": ["a"]}))),
    ):
        with pytest.raises((CorpusError, UnknownSourceError)) as raised:
            call()
        assert isinstance(raised.value, GuardtokError)


@given(piece=SOUP)
def test_the_report_names_no_form(piece: str) -> None:
    """A table of violations is a record like any other."""
    rows = scanner()(pa.table({"text": [piece, "<|im_end|>"]})).to_pylist()
    assert all(form not in str(rows) for form in ("<|im_end|>", "<|endoftext|>"))


HARDLY = (("b", "abend"), ("#", "#</s>"), ("\n", "\na"), (" \t", "a \t3"), ("%end%", "a%end%x"), ("B", "B7"))


@pytest.mark.parametrize(("form", "text"), HARDLY)
def test_forms_that_hardly_begin_are_found_whatever_follows(form: str, text: str) -> None:
    """One character, white space alone, or an escape's first sign: no beginning tells them from ordinary text."""
    bytes_alone = {bytes([code]): code for code in range(256)}
    small = tiktoken.Encoding("small", pat_str=r"(?s:.)", mergeable_ranks=bytes_alone, special_tokens={form: 256})
    wanted = Guard(policy(), TiktokenTokenizer(small), sinks=(), digest_key=KEY).check(text, source="document")
    assert wanted.count
    one = ArrowScanner(policy(), tokenizer=small, digest_key=KEY)
    assert [each.verdict for each in one.scan(pa.table({"text": [text]})).findings] == [wanted]
    assert one.engine.sifters["document"].sift_texts(["x", text]) == [1]
