"""Log probabilities of a text that was changed: they spell it, token by token, as it was.

A form can lie over several tokens, so no token can be mended alone. They are left out where the text beside them is not
the one that came.
"""

from __future__ import annotations

from typing import Any


def drop_probabilities(before: Any, after: Any) -> bool:  # noqa: ANN401 - any JSON value
    """Empty the `logprobs` of every mapping in which something was changed, in place; return whether anything was.

    Args:
        before: A value as it came.
        after: What became of it.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        differs = before.keys() != after.keys()
        for key in before.keys() & after.keys():
            differs = drop_probabilities(before[key], after[key]) or differs
        if differs and after.get("logprobs") is not None:
            after["logprobs"] = [] if isinstance(after["logprobs"], list) else None
        return differs
    if isinstance(before, (list, tuple)) and isinstance(after, list):
        changes = [drop_probabilities(each, made) for each, made in zip(before, after, strict=True)]
        return any(changes)
    return bool(before != after)
