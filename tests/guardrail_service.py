"""What the tests of the guardrail service share: a policy with every action, and a gatekeeper with a memory."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from guardtok import Guard
from guardtok.gateway.gatekeeper import Gatekeeper
from guardtok.gateway.live import LiveGuard
from guardtok.policy import parse_policy

if TYPE_CHECKING:
    from guardtok.gateway.decision import Decision

POLICY = """
guardtok: 1
name: service
sources:
  template: {default: allow}
  user: {default: escape, block: ["<|endoftext|>"]}
  assistant: {default: escape, block: ["<|endoftext|>"]}
  "*": {default: escape}
surrogates: replace
"""
"""Everybody's control tokens are broken, and `<|endoftext|>` of the user and the assistant is refused."""

FORMS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
"""Those of the tokenizer that comes with guardtok."""


@cache
def guard() -> Guard:
    """Return a guard that logs nothing."""
    return Guard.load(parse_policy(POLICY), "guardtok", sinks=())


def make() -> tuple[Gatekeeper, list[Decision]]:
    """Return a gatekeeper, and the list of what it decides."""
    decisions: list[Decision] = []
    return Gatekeeper(LiveGuard(guard()), (decisions.append,)), decisions
