"""Where a string or key lies in a body, as a JSON path: `$.messages[3].content`, `$.metadata["a key"]`.

A path is made of the caller's keys, so it is text of the caller's. It is bounded here; whoever shows one breaks the
forms in it (`records.defuse`).
"""

from __future__ import annotations

import json
from typing import TypeAlias

Node: TypeAlias = "tuple[Node | None, str | int]"
"""A place: the place of the list or mapping that holds it, and the index or key there. The root has no holder."""

_SHOWN = 64
"""Characters of a key in a path."""


def spell(node: Node, *, key: bool = False) -> str:
    """Return the path of a place; that of a key itself, not of its value, ends in `~`."""
    steps: list[str] = []
    holder: Node | None = node
    while holder is not None:
        holder, step = holder
        steps.append(_spell_step(step) if holder is not None else "$")
    return "".join(reversed(steps)) + ("~" if key else "")


def _spell_step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    if len(step) > _SHOWN:
        return f"[{json.dumps(step[:_SHOWN] + '…', ensure_ascii=False)}]"
    if step.isidentifier() and step.isascii():
        return f".{step}"
    return f"[{json.dumps(step, ensure_ascii=False)}]"
