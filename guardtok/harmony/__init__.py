"""Conversations in OpenAI's Harmony format, as a `Text` that knows who wrote which character.

openai-harmony never parses a control token out of a message, and still a name can forge a header: ` to=functions.x`
in it is spelled with ordinary ids, and a tool that is named `system` writes a system message. So what stands in a
header has a grammar here, and everything else carries its source to the guard:

    guard = Guard.load("harmony", tokenizer="o200k_harmony")
    ids = guard.encode(guardtok.harmony.render(conversation)).ids

The format is the one of openai-harmony 0.0.8, which is not needed to run this.
"""

from guardtok.harmony.conversation import render

__all__ = ["render"]
