"""The gateway's gate for streamed replies: what goes on, and one decision however a reply ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from replies import PROTOCOLS, Cutter, Reply
from text_guards import tokenizer

from guardtok import Guard, Policy
from guardtok.gateway.decision import Blame, Call, Decision, Stage
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.live import LiveGuard

if TYPE_CHECKING:
    from guardtok.gateway.reply_gate import ReplyGate

CALL = Call("/v1/chat/completions", request_id="r", requested_by="127.0.0.1")
POLICY = """
guardtok: 1
name: gate
foreign: ignore
lookalikes: ignore
forms: [X1, X19, X199, aa, aaa]
sources:
  assistant: {default: escape, block: ["X199"]}
  "*": {default: escape}
"""


def open_gate(told: list[Decision], protocol: str = "openai.chat") -> ReplyGate:
    """Return a gate whose decisions are told to a list."""
    guard = Guard(Policy.parse(POLICY), tokenizer(), sinks=())
    return Gatekeeper(LiveGuard(guard), [told.append]).open_reply(protocol, CALL)


def chat(content: str) -> bytes:
    """Return an event of a chat."""
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": content}}]}).encode() + b"\n\n"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_reply_that_ends_is_decided_once(protocol: str) -> None:
    """With what was found in all of it, the id that was known from the beginning, and no body."""
    told: list[Decision] = []
    gate = open_gate(told, protocol)
    reply = Reply("b </s> c", "d", "f", "{}")
    passages = [gate.feed(each) for each in PROTOCOLS[protocol][1](reply, Cutter([5] * 16))]
    assert told == []
    passages.append(gate.finish())
    gate.close()
    assert all(passage.refusal is None for passage in passages)
    assert PROTOCOLS[protocol][2](b"".join(passage.data for passage in passages)).text == "b <_/s> c"
    (decision,) = told
    assert decision is gate.decision
    assert (decision.id, decision.stage, decision.protocol, decision.call) == (gate.id, Stage.REPLY, protocol, CALL)
    assert (decision.action, decision.changed, decision.count, decision.refusal) == ("escape", True, 1, None)
    assert decision.input is None
    assert decision.seconds > 0


def test_a_refusal_is_an_answer_and_no_error() -> None:
    """What came before it in the same chunk goes on, and after it nothing, whatever comes."""
    told: list[Decision] = []
    gate = open_gate(told)
    assert gate.feed(chat("b")) == (chat("b"), None)
    data, refusal = gate.feed(chat("b") + chat("X199") + chat("c"))
    assert data == chat("b")
    assert refusal is not None
    assert (refusal.blame, refusal.path) == (Blame.POLICY, "$.choices[0].message.content")
    assert "X199" not in refusal.message
    assert gate.feed(chat("d")) == gate.finish() == (b"", refusal)
    gate.close()
    (decision,) = told
    assert (decision.refusal, decision.action) == (refusal, "block")
    assert [violation.action for violation in decision.violations] == ["block"]


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: [1]\n\n"])
def test_what_is_no_reply_is_refused_for_its_shape(data: bytes) -> None:
    """Nothing of it goes on."""
    told: list[Decision] = []
    passage = open_gate(told).feed(data)
    assert passage.data == b""
    assert passage.refusal is not None
    assert passage.refusal.blame is Blame.SHAPE
    assert told[0].refusal == passage.refusal


def test_a_failure_admits_nothing_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in guardtok, a panic of a library: the reply ends there, and the message names no more than its type."""
    told: list[Decision] = []
    gate = open_gate(told)

    def fail(*_: object) -> bytes:
        raise RuntimeError("</s>")

    monkeypatch.setattr("guardtok.requests.reply_stream.ReplyStream._take", fail)
    data, refusal = gate.feed(chat("b"))
    assert data == b""
    assert refusal is not None
    assert (refusal.blame, "</s>" in refusal.message) == (Blame.FAILURE, False)
    assert told[0].refusal == refusal


@pytest.mark.parametrize("after", [0, 1])
def test_a_reply_that_is_cut_off_is_decided_too(after: int) -> None:
    """A client that leaves and an upstream that dies: what was found up to then."""
    told: list[Decision] = []
    gate = open_gate(told)
    for _ in range(after):
        gate.feed(chat("</s> x"))
    gate.close()
    gate.close()
    (decision,) = told
    assert (decision.count, decision.refusal) == (after, None)
    assert gate.feed(chat("b")) == (b"", None)


def test_an_interrupt_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes up to whoever stops the program; the reply is still decided when the door closes it."""
    told: list[Decision] = []
    gate = open_gate(told)

    def interrupt(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("guardtok.requests.reply_stream.ReplyStream._take", interrupt)
    with pytest.raises(KeyboardInterrupt):
        gate.feed(chat("b"))
    assert told == []
    gate.close()
    assert len(told) == 1
