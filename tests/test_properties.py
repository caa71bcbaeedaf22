"""Production against the specification, and each invariant on its own, over random policies and texts."""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import ACTIONS, APART, SOURCES, Leaking, bindings, guards, merged, nested, strings, texts, tokenizer

from guardtok import reference
from guardtok.decide import decide
from guardtok.encoded import Live
from guardtok.errors import GuardtokError, RefusedError, SurrogateError, TokenizerError, VerificationError
from guardtok.guard import Guard
from guardtok.intake import take_in
from guardtok.policy import Policy
from guardtok.records import defuse
from guardtok.reference import ReferenceResult, Standing
from guardtok.scan import scan
from guardtok.text import Text
from guardtok.tokenizer import Tokenizer
from guardtok.violation import Action

if TYPE_CHECKING:
    from guardtok.decide import Decided
    from guardtok.encoded import Encoded

Bound = tuple[Policy, Tokenizer]
UNTRUSTED = SOURCES[1:]


def decided(guard: Guard, text: Text) -> Decided:
    """Return what production decides about a text."""
    rules = guard.ruleset
    intake = take_in(text, None, known=rules.sources, limits=guard.policy.limits, surrogates=guard.policy.surrogates)
    return decide(scan(intake, rules), intake, rules)


def encoded(guard: Guard, text: Text) -> Encoded | None:
    """Return what production encodes, or None where the policy refuses the text."""
    try:
        return guard.encode(text)
    except (RefusedError, SurrogateError):
        return None


def well_formed(text: Text) -> str:
    """Return what a text becomes when it is taken in: each source's stretches, repaired as tiktoken repairs a text."""
    plain = str.__str__(text)
    stretches = (list(runs) for _, runs in groupby(text.runs, key=lambda run: run.source))
    return "".join(
        plain[runs[0].start : runs[-1].end].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        for runs in stretches
    )


def assert_verdict(guard: Guard, text: Text, expected: ReferenceResult) -> None:
    """Assert that `check` finds what the specification finds."""
    verdict = guard.check(text)
    assert verdict.action is expected.action
    assert verdict.count == len(expected.findings)
    for found, wanted in zip(verdict.violations, expected.findings, strict=True):
        assert (found.token, found.token_id) == (defuse(wanted.form.text, guard.ruleset), wanted.form.id)
        assert (found.action, found.mode) == (wanted.decision.action, wanted.decision.mode)
        assert found.source == "+".join(wanted.sources)
        assert found.rule in {defuse(rule, guard.ruleset) for rule in wanted.decision.rules}
        assert (found.path, found.start, found.end) == reference.place(wanted, expected.characters)


def assert_specified(policy: Policy, tokenizer: Tokenizer, text: Text) -> None:
    """Assert that production gives the reference's ids, refusal, findings and cuts."""
    guard = Guard(policy, tokenizer, sinks=())
    try:
        expected = reference.encode(text, policy, tokenizer)
    except SurrogateError:
        with pytest.raises(SurrogateError):
            guard.encode(text)
        assert guard.check(text).action is Action.BLOCK
        return
    assert_verdict(guard, text, expected)
    assert guard.count(text) == len(expected.ids)
    assert merged([(cut.start, cut.end) for cut in decided(guard, text).cuts]) == expected.cuts
    if expected.refused:
        with pytest.raises(RefusedError) as caught:
            guard.encode(text)
        assert caught.value.token == expected.refused_form
    else:
        out = guard.encode(text)
        assert out.ids == expected.ids
        assert "".join(piece.text for piece in out._account.pieces) == expected.text


@given(bound=bindings(), data=st.data())
def test_production_is_the_specification(bound: Bound, data: st.DataObject) -> None:
    """`encode`, `check` and `count` do what the reference does."""
    for _ in range(5):
        assert_specified(*bound, data.draw(texts()))


@pytest.mark.parametrize("user", [f"{action}, mode: {mode}" for action in ACTIONS for mode in ("enforce", "monitor")])
@pytest.mark.parametrize("crm", [f"{action}, mode: {mode}" for action in ACTIONS for mode in ("enforce", "monitor")])
def test_production_is_the_specification_for_two_sources(user: str, crm: str) -> None:
    """Every pair of actions and modes, on forms that the two spell together, one inside the other."""
    policy = Policy.parse(
        "{guardtok: 1, foreign: ignore, sources: {user: {default: " + user + "}, crm: {default: " + crm + "}}}"
    )
    for cut in range(1, 10):
        whole = "X<|a|>199<|ab|>"
        text = Text(whole[:cut], source="user") + Text(whole[cut:], source="crm")
        assert_specified(policy, tokenizer(), text)


@given(bound=bindings(actions=("allow", "allow", "escape", "strip"), foreign=("ignore",)), text=texts())
def test_i1_no_forgery(bound: Bound, text: Text) -> None:
    """A reserved id was spelled, every character of it, by one source that the policy allows it for."""
    policy, tokenizer = bound
    guard = Guard(policy, tokenizer, sinks=())
    out = encoded(guard, text)
    if out is None:
        return
    tokenizer = reference.bound(policy, tokenizer)
    characters = reference.repair(text, policy)
    plain = "".join(each.value for each in characters)
    wanted, end = [], 0
    for start, stop, form in reference.occurrences(plain, reference.known_forms(policy, tokenizer)):
        sources = {each.source for each in characters[start:stop]}
        single = len(sources) == 1 and reference.decision(policy, min(sources), form).action is Action.ALLOW
        if single and start >= end and form.standing is Standing.CONTROL:
            wanted.append((form.id, sources))
            end = stop
    places = zip(out.ids, out.sources, strict=True)
    assert [(id_, set(sources)) for id_, sources in places if id_ in tokenizer.reserved_ids] == wanted


@given(guard=guards(trusted=("template",)), data=st.data())
def test_i2_no_erasure(guard: Guard, data: st.DataObject) -> None:
    """Every control token that trusted text wrote is in the output, whoever stands next to it."""
    assert guard.tokenizer is not None
    written = data.draw(st.lists(st.sampled_from(guard.tokenizer.control_tokens), min_size=1, max_size=3))
    neighbour = strings().filter(bool)
    text = Text(data.draw(neighbour), source=data.draw(st.sampled_from(UNTRUSTED)))
    for token in written:
        text += Text(token.form, source="template")
        text += Text(data.draw(neighbour), source=data.draw(st.sampled_from(UNTRUSTED)))
    out = encoded(guard, text)
    if out is None:
        return
    reserved = guard.tokenizer.reserved_ids
    found = [
        id_ for id_, sources in zip(out.ids, out.sources, strict=True) if "template" in sources and id_ in reserved
    ]
    assert found == [token.id for token in written]


@given(guard=guards((tokenizer(APART),), actions=("allow", "allow", "allow", "escape"), custom=False), data=st.data())
def test_i3_no_drift(guard: Guard, data: st.DataObject) -> None:
    """Where nothing is found the ids are those of tiktoken, which parses what is allowed."""
    text = data.draw(texts(APART))
    out = encoded(guard, text)
    if out is None or out.violations:
        return
    assert guard.tokenizer is not None
    reserved = guard.tokenizer.reserved_ids
    allowed = {token.form for token in guard.tokenizer.control_tokens if token.id in reserved.intersection(out.ids)}
    tiktokens = guard.tokenizer.encoding
    assert out.ids == tiktokens.encode(well_formed(text), allowed_special=allowed, disallowed_special=())


@given(guard=guards(actions=("escape", "strip", "block")), data=st.data())
def test_i3_no_drift_of_ordinary_text(guard: Guard, data: st.DataObject) -> None:
    """Ordinary text is encoded over the borders of its sources as tiktoken encodes the whole."""
    text = data.draw(texts())
    if encoded(guard, text) is None or decided(guard, text).cuts:
        return
    assert guard.tokenizer is not None
    out = guard.encode(text)
    if guard.tokenizer.reserved_ids.isdisjoint(out.ids):
        assert out.ids == guard.tokenizer.encode_ordinary(well_formed(text), at_start=True)


@given(guard=guards(actions=("allow", "escape"), trusted=("*",)), text=texts())
def test_i4_lossless(guard: Guard, text: Text) -> None:
    """Where forms are escaped or allowed, the ids decode to the characters that came in."""
    out = encoded(guard, text)
    if out is not None:
        assert guard.tokenizer is not None
        assert guard.tokenizer.decode_bytes(out.ids) == well_formed(text).encode()


@given(guard=guards(), whole=strings(), source=st.sampled_from(SOURCES), data=st.data())
def test_i5_split_invariant(guard: Guard, whole: str, source: str, data: st.DataObject) -> None:
    """Cutting a run into adjacent parts of one source changes neither ids nor verdict."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    spans = list(zip([0, *cuts], [*cuts, len(whole)], strict=True))
    text = Text(whole, source=source)
    slices = Text("", source=source).join(text[a:b] for a, b in spans)
    parts = Text("", source=source).join(Text(whole[a:b], source=source, path=f"$[{a}]") for a, b in spans)
    out, verdict = encoded(guard, text), guard.check(text)
    assert guard.check(slices) == verdict
    assert (guard.check(parts).action, guard.check(parts).count) == (verdict.action, verdict.count)
    for cut in (slices, parts):
        again = encoded(guard, cut)
        assert (None if again is None else again.ids) == (None if out is None else out.ids)


@given(guard=guards(actions=("allow", "escape", "strip", "strip")), whole=nested(), source=st.sampled_from(SOURCES))
def test_i6_idempotent(guard: Guard, whole: str, source: str) -> None:
    """Guarding what was guarded leaves the text and its ids as they are: there is nothing left to cut.

    A form that only tokens of the same source's spell together may be reported again; none of it can be cut.
    """
    out = encoded(guard, Text(whole, source=source))
    if out is None:
        return
    once = "".join(piece.text for piece in out._account.pieces)
    again = guard.encode(once, source=source)
    assert again.ids == out.ids
    assert "".join(piece.text for piece in again._account.pieces) == once
    assert not isinstance(again._account, Live) or not again._account.report.decided.cuts


class PanicException(BaseException):  # pyo3's name for a Rust panic, which is no Exception
    """What a Rust panic looks like from Python."""


@given(
    guard=guards(),
    whole=strings(),
    error=st.sampled_from([ValueError("<|a|>"), PanicException("<|a|>"), MemoryError()]),
)
def test_i8_a_failing_tokenizer_admits_nothing(guard: Guard, whole: str, error: BaseException) -> None:
    """An exception or a panic out of the tokenizer is a `TokenizerError` that does not quote the text.

    A guard that has to break forms in text asks the tokenizer when it is built, and then refuses to be built.
    """
    assert guard.tokenizer is not None
    out = encoded(guard, Text(whole, source="user"))
    if out is None or all(piece.token_id is not None for piece in out._account.pieces):
        return
    with pytest.raises(TokenizerError) as caught:
        rebound(guard, Leaking(guard.tokenizer, error=error)).encode(whole, source="user")
    assert "<|a|>" not in str(caught.value)
    assert caught.value.__cause__ is None


@given(guard=guards(actions=("allow", "escape", "escape")), text=texts())
def test_i8_a_leaking_tokenizer_admits_nothing(guard: Guard, text: Text) -> None:
    """Where plain text comes out as a reserved id, it is encoded apart or not at all; the allowed ids are as before."""
    assert guard.tokenizer is not None
    sound = encoded(guard, text)
    if sound is None:
        return
    leaking = rebound(guard, Leaking(guard.tokenizer))
    try:
        out = leaking.encode(text)
    except VerificationError:
        assert any(len(token.form) == 1 and token.form in text for token in guard.tokenizer.control_tokens)
        return
    reserved = guard.tokenizer.reserved_ids
    assert [id_ for id_ in out.ids if id_ in reserved] == [id_ for id_ in sound.ids if id_ in reserved]
    assert guard.tokenizer.decode_bytes(out.ids) == guard.tokenizer.decode_bytes(sound.ids)


def rebound(guard: Guard, tokenizer: Tokenizer) -> Guard:
    """Return the guard with another tokenizer, which has the custom tokens already."""
    policy = guard.policy
    return Guard(policy, tokenizer, sinks=(), digest_key=b"key")


@given(
    guard=guards(log=("never", "digest", "excerpt")),
    text=texts(),
    bidi=st.sampled_from(["", "\u202e<|endoftext|>", "\x1b[2J</s>", "\ud83c"]),
)
def test_i9_quiet_logs(guard: Guard, text: Text, bidi: str) -> None:
    """No record holds a control form literally, nor a character that is not printable.

    A form of one character cannot be broken, only told apart by what follows it.
    """
    assert guard.tokenizer is not None
    forms = [token.form for token in guard.tokenizer.control_tokens if len(token.form) > 1]
    odd = Text(bidi, source="user", path=f"$.{bidi}{forms[0]}")
    try:
        records = guard.check(odd + text + odd).violations
    except GuardtokError:
        return
    for record in records:
        values = json.dumps(list(record.to_dict().values()), ensure_ascii=False)
        assert values.isprintable()
        assert not [form for form in forms if form in values]
