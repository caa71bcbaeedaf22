"""Vectors of text that goes on as text: run against production and the specification, and as streams cut everywhere."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from guardtok import Guard, Policy, RefusedError, Text
from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.reference_text import sanitize

DOCUMENT = json.loads((Path(__file__).parent / "vectors" / "text.json").read_text("utf-8"))
CASES = [pytest.param(vector, id=vector["id"]) for vector in DOCUMENT["vectors"]]
ONE_SOURCE = [case for case in CASES if len({source for source, _, _ in case.values[0]["spans"]}) == 1]
CLASSES = {"A4", "A5", "A6", "A7", "A8", "A10", "A12", "A13", "A19", "A20"}


@cache
def tokenizer() -> TiktokenTokenizer:
    """Return a tokenizer of bytes and the vectors' control tokens."""
    ranks = {bytes([code]): code for code in range(256)}
    return TiktokenTokenizer(
        tiktoken.Encoding("vectors", pat_str="(?s:.)", mergeable_ranks=ranks, special_tokens=DOCUMENT["tokens"])
    )


@cache
def guard(name: str) -> Guard:
    """Return the guard of a policy of the vectors."""
    return Guard(Policy.parse(DOCUMENT["policies"][name]), tokenizer(), sinks=(), digest_key=b"key")


def labelled(vector: dict[str, Any]) -> Text:
    """Return the text, its characters labelled."""
    parts = [Text(vector["text"][start:end], source=source) for source, start, end in vector["spans"]]
    return Text("", source=parts[0].runs[0].source).join(parts)


def by_production(vector: dict[str, Any]) -> dict[str, str]:
    """Return what `sanitize` makes of a vector."""
    try:
        return {"text": guard(vector["policy"]).sanitize(labelled(vector)).text}
    except RefusedError as error:
        return {"refused": error.token}


def by_specification(vector: dict[str, Any]) -> dict[str, str]:
    """Return what the specification makes of a vector."""
    one = guard(vector["policy"])

    def begins_disguise(left: str) -> bool:
        return one._beginnings.find_open_disguise(left, 0, len(left), one.ruleset.lookout) < len(left)

    order = [form.text for form in one.ruleset.forms]
    made = sanitize(labelled(vector), one.policy, tokenizer(), order, begins_disguise)
    return {"text": made.text} if made.refused is None else {"refused": made.refused}


def poured(vector: dict[str, Any], chunks: list[str] | list[bytes]) -> dict[str, str]:
    """Return what a stream makes of a vector's chunks."""
    stream = guard(vector["policy"]).stream(source=vector["spans"][0][0])
    try:
        out = [stream.feed(chunk) if isinstance(chunk, str) else stream.feed_bytes(chunk) for chunk in chunks]
        return {"text": "".join([*out, stream.finish()])}
    except RefusedError as error:
        return {"refused": error.token}


@pytest.mark.parametrize("make", [by_production, by_specification])
@pytest.mark.parametrize("vector", CASES)
def test_vector(vector: dict[str, Any], make: Any) -> None:  # noqa: ANN401 - either function
    """Production and specification make of the text what the vector says."""
    assert make(vector) == vector["expected"]


@pytest.mark.parametrize("vector", ONE_SOURCE)
def test_vector_as_a_stream_cut_at_every_place(vector: dict[str, Any]) -> None:
    """Between any two code units, the halves of surrogate pairs included, and by single ones."""
    units = vector["text"].encode("utf-16-le", "surrogatepass")
    text = "".join(units[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(units), 2))
    for cut in range(len(text) + 1):
        assert poured(vector, [text[:cut], text[cut:]]) == vector["expected"]
    assert poured(vector, list(text)) == vector["expected"]


@pytest.mark.parametrize("vector", ONE_SOURCE)
def test_vector_as_bytes_cut_at_every_place(vector: dict[str, Any]) -> None:
    """Between any two bytes of its UTF-8, and by single bytes."""
    data = vector["text"].encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
    for cut in range(len(data) + 1):
        assert poured(vector, [data[:cut], data[cut:]]) == vector["expected"]
    assert poured(vector, [data[at : at + 1] for at in range(len(data))]) == vector["expected"]


@pytest.mark.parametrize("vector", CASES)
def test_what_is_logged_of_a_vector_is_quiet(vector: dict[str, Any]) -> None:
    """I9: no record, its excerpt included, holds a form literally or a character that is not printable."""
    for record in guard(vector["policy"]).check(labelled(vector)).violations:
        values = json.dumps(list(record.to_dict().values()), ensure_ascii=False)
        assert values.isprintable()
        assert not [form for form in DOCUMENT["tokens"] if len(form) > 1 and form in values]


def test_every_class_has_vectors() -> None:
    """At least one of each class that can reach text, and each can be named."""
    names = [vector["id"] for vector in DOCUMENT["vectors"]]
    assert len(names) == len(set(names))
    assert {vector["class"] for vector in DOCUMENT["vectors"]} == CLASSES
