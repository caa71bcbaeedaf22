"""The fuzzer finds what is broken, is silent where nothing is, and says the same twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from benchmarks.templates import load_templates
from guardtok.encodings import load_tokenizer
from guardtok.errors import ConformanceError, GuardtokError, MissingExtraError
from guardtok.fuzz import Case, Oracle, Report, fuzz, fuzz_one_input, judge
from tests import fuzz_targets, hf_tokenizers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def found(report: Report) -> set[str]:
    """Return the names of the oracles that found something."""
    return {finding.outcome.oracle.value for finding in report.findings}


def test_a_good_tokenizer_is_no_finding() -> None:
    """Nothing is found, and every class that makes sense for it was tried by every oracle that can judge it."""
    report = fuzz(fuzz_targets.good, cases=700, seconds=None)
    assert report.findings == ()
    assert report.cases == 700
    assert {"plain", "A1", "A4", "A5", "A7", "A12", "A13", "A16", "A20", "A22", "A23"} <= report.coverage.keys()
    tried = set().union(*report.coverage.values())
    assert tried == {Oracle.LEAK, Oracle.ROUND_TRIP, Oracle.SPLIT, Oracle.OVERLAP, Oracle.CRASH}


@pytest.mark.parametrize(
    ("target", "attack", "oracle"),
    [
        (fuzz_targets.Leaky(), "A6", "leak"),
        (fuzz_targets.Lossy(), "A5", "round trip"),
        (fuzz_targets.Liar(), "A1", "round trip"),
        (fuzz_targets.Forgetful(), "A5", "split"),
        (fuzz_targets.Shuffled(), "A22", "split"),
        (fuzz_targets.Shortest(), "A1", "overlap"),
        (fuzz_targets.Twins(), "A1", "overlap"),
        (fuzz_targets.Raising(), "A8", "crash"),
        (fuzz_targets.Words(), "plain", "crash"),
        (fuzz_targets.overlapping(), "A1", "overlap"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_each_oracle_finds_what_is_planted_for_it(target: object, attack: str, oracle: str) -> None:
    """A broken tokenizer is found by the oracle for what is broken, and by no other."""
    report = fuzz(target, cases=400, seconds=None, attacks=[attack])
    assert found(report) == {oracle}


def test_a_finding_is_as_small_as_it_gets() -> None:
    """Nothing can be left out of the input of a finding."""
    (leak,) = fuzz(fuzz_targets.Leaky(), cases=600, seconds=None, attacks=["A6"]).findings
    assert leak.case.text == "\t</s>"
    (lost,) = fuzz(fuzz_targets.Lossy(), cases=600, seconds=None, attacks=["A5"]).findings
    assert lost.case.text.replace("\u2060", "") == lost.case.form


def test_time_that_grows_faster_than_the_text_is_found() -> None:
    """A tokenizer of quadratic time is a finding, and one of linear time is none."""
    report = fuzz(fuzz_targets.Quadratic(), cases=15, seconds=None, attacks=["A19"])
    assert [finding.outcome.cause for finding in report.findings] == ["time grows faster than the text"]
    assert not fuzz(fuzz_targets.good, cases=6, seconds=None, attacks=["A19"]).findings


def test_a_tokenizer_that_threads_cannot_share_is_found() -> None:
    """What another thread overwrites shows."""
    report = fuzz(fuzz_targets.Shared(), cases=600, seconds=None, attacks=["plain"])
    assert [finding.outcome.cause for finding in report.findings] == [
        "threads that share it get other ids than one alone"
    ]


def test_two_encoders_that_differ_are_found() -> None:
    """A drift is shown with the ids of both."""
    report = fuzz(fuzz_targets.good, against=fuzz_targets.Lossy(), cases=800, seconds=None)
    (finding,) = report.findings
    assert finding.key == (Oracle.DRIFT, "other ids")
    assert finding.outcome.expected != finding.outcome.got
    assert not fuzz(fuzz_targets.good, against=fuzz_targets.Good(), cases=300, seconds=None).findings


@pytest.mark.parametrize(
    ("make", "attack", "cause"),
    [
        (
            lambda: hf_tokenizers.build("byte-level", AddedToken("<think>", special=False)),
            "A2",
            "a token that is not special that the text spells",
        ),
        (
            lambda: hf_tokenizers.build("unigram, first", AddedToken("</s>", special=True)),
            "A3",
            "a special token that the text spells",
        ),
        (
            lambda: hf_tokenizers.build("words", AddedToken("</s>", special=True)),
            "A3",
            "a special token that the text spells",
        ),
        (
            lambda: hf_tokenizers.build("unigram, always", AddedToken("</s>", special=True)),
            "A4",
            "a special token that the text does not spell",
        ),
    ],
    ids=["not special", "unigram", "words", "nfkc"],
)
def test_known_leaks_of_tokenizers_are_found(make: Callable[[], Any], attack: str, cause: str) -> None:
    """With its promise to encode special tokens as text, huggingface's library still makes reserved ids of text."""
    report = fuzz(make(), cases=400, seconds=None, attacks=[attack], oracles=["leak"])
    assert cause in {finding.outcome.cause for finding in report.findings}


def test_a_duplicate_id_is_found(vocab: Callable[[str], object]) -> None:
    """o200k_harmony has one id for two tokens, and the vocabulary alone says so."""
    vocab("o200k_harmony")
    report = fuzz("o200k_harmony", cases=0, seconds=None)
    (finding,) = report.findings
    assert finding.key == (Oracle.OVERLAP, "two tokens share an id")
    assert finding.outcome.ids == (200018,)


def test_a_token_in_two_parts_beats_a_sanitized_template() -> None:
    """Transformers' sanitized chat template lets a token through that two parts of a message spell together."""
    (template,) = (each for each in load_templates(None) if each.name == "own_completion")
    tokenizer = template.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    )
    report = fuzz(tokenizer, cases=300, seconds=None, attacks=["A10"], oracles=["forge"])
    assert "a special token, in pieces, in parts" in {finding.outcome.cause for finding in report.findings}


def test_the_same_seed_gives_the_same_findings() -> None:
    """Two runs agree in every finding and every count; another seed tries other cases."""
    runs = [fuzz(fuzz_targets.Lossy(), cases=700, seconds=None, seed=seed) for seed in (3, 3, 4)]
    first, second, other = ([(each.case, each.outcome, each.count) for each in run.findings] for run in runs)
    assert first == second
    assert runs[0].coverage == runs[1].coverage
    assert [count for *_, count in first] != [count for *_, count in other] or first != other


@pytest.mark.parametrize(
    ("name", "attack", "cause"),
    [
        ("ending", "A5", "the tokenizer ends its process or hangs (SIGKILL)"),
        ("hanging", "A6", "the tokenizer ends its process or hangs (hangs)"),
        ("talkative", "plain", "the tokenizer prints"),
    ],
)
def test_a_process_of_its_own_survives_its_tokenizer(name: str, attack: str, cause: str) -> None:
    """What ends the child, hangs or prints is a finding with its input, and the run goes on."""
    report = fuzz(
        f"tests.fuzz_targets:{name}",
        cases=40,
        seconds=None,
        attacks=[attack],
        hang_seconds=0.3,
        oracles=["crash", "log"],
    )
    assert [finding.outcome.cause for finding in report.findings] == [cause]
    assert report.cases == 40


@pytest.mark.parametrize(
    "target",
    ["tests.fuzz_targets:nothing", "tests.fuzz_targets:broken_module", "nowhere:x", "no-such-name", "./no.json"],
)
def test_a_target_that_cannot_be_opened_is_one_error(target: str) -> None:
    """It is guardtok's own, and holds nothing that a terminal obeys."""
    with pytest.raises(GuardtokError) as caught:
        fuzz(target, cases=1)
    assert "\x1b" not in str(caught.value)


def test_findings_are_written_and_tried_first_the_next_time(tmp_path: Path) -> None:
    """A corpus holds one vector a finding; garbage in it is reported and ends nothing."""
    folder = tmp_path / "corpus"
    first = fuzz(fuzz_targets.Leaky(), cases=500, seconds=None, corpus=folder)
    assert len(list(folder.iterdir())) == len(first.findings) == 1
    for name, data in {
        "garbage.json": b"\xff\x00{",
        "other.json": b'{"kind": "text", "vectors": []}',
        "bad.json": b'{"kind": "fuzz", "vectors": [{"class": "A1"}, 3]}',
        "deep.json": b"[" * 100_000,
        "huge.json": b'{"kind": "fuzz", "vectors": [{"class": "A1", "parts": ["x"], "repeat": 1000000000}]}',
        "\x1b[31m.json": b"{}",
    }.items():
        (folder / name).write_bytes(data)
    (folder / "folder.json").mkdir()
    second = fuzz(fuzz_targets.Leaky(), cases=1, seconds=None, corpus=folder)
    assert [(each.key, each.known) for each in second.findings] == [(first.findings[0].key, True)]
    assert sum(note.startswith("corpus: ") for note in second.notes) == 7
    assert not any("\x1b" in note for note in second.notes)


def test_one_case_is_judged_again() -> None:
    """What a report gives as the case makes the same outcome, whatever characters it holds."""
    (finding,) = fuzz(fuzz_targets.Leaky(), cases=500, seconds=None).findings
    case = Case.from_dict(json.loads(finding.case.to_json()))
    assert case == finding.case
    assert judge(fuzz_targets.Leaky(), case) == [finding.outcome]
    assert judge(fuzz_targets.good, case) == []


@given(st.text(st.characters()))
def test_a_case_comes_back_from_its_json(text: str) -> None:
    """Its JSON is ASCII, spells no form, and means the same case."""
    case = Case("A1", "text", (text + "<|im_end|>", "sop"), "sop")
    written = case.to_json()
    assert written.isascii()
    assert written.isprintable()
    assert "<|im_end|>" not in written
    assert "sop" not in written
    assert Case.from_dict(json.loads(written)) == case


def test_bytes_make_cases_for_coverage_guided_fuzzers() -> None:
    """Some bytes make a case, a broken tokenizer fails as a test does, and a good one does not."""
    data = [bytes([first, second] * 40) for first in range(0, 256, 5) for second in range(0, 256, 51)]
    silent = fuzz_one_input(fuzz_targets.good)
    assert any(silent(each) is not None for each in data)
    broken = fuzz_one_input(fuzz_targets.Words())
    with pytest.raises(ConformanceError, match="crash: encode returns something else than ids"):
        [broken(each) for each in data]


def test_without_hypothesis_an_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the run needs it."""
    monkeypatch.setitem(__import__("sys").modules, "hypothesis", None)
    with pytest.raises(MissingExtraError, match=r"guardtok\[fuzz\]"):
        fuzz(fuzz_targets.good, cases=1)


def test_a_class_or_an_oracle_that_is_not_there_is_refused() -> None:
    """A typing mistake tries nothing, so it must not report that nothing was found."""
    with pytest.raises(ValueError, match="A99"):
        fuzz(fuzz_targets.good, attacks=["A99"])
    with pytest.raises(ValueError, match="leek"):
        fuzz(fuzz_targets.good, oracles=["leek"])


def test_an_adapter_of_guardtok_is_a_target() -> None:
    """The embedded tokenizer, as the library offers it, has nothing that is wrong."""
    report = fuzz(load_tokenizer("guardtok"), cases=600, seconds=None)
    assert report.findings == ()
    assert report.library.startswith("tiktoken ")
