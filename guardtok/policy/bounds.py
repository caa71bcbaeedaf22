"""How large a policy may be, and how much is told of what is wrong with it.

A policy is loaded where a service starts, and a slow one there is an outage. Within these bounds any policy loads and
binds in about two seconds; what is beyond them is an error that says so. The largest shipped policy has forty entries.
"""

from __future__ import annotations

MAX_NODES = 10_000
"""Values of a file, lists and mappings included; the YAML reader takes about a second for so many keys and values."""

MAX_SOURCES = 64
"""Sources that have rules."""

MAX_LISTED = 1_000
"""Selectors of one source under one action."""

MAX_ENTRIES = 4_096
"""Selectors of all sources together, inherited ones included."""

MAX_PATTERNS = 256
"""Different patterns, in sources and groups together. Each is compared with every known form."""

MAX_GROUPS = 256
"""Groups, inherited ones included."""

MAX_FORMS = 4_096
"""Members of one group; and custom tokens and `forms`. Of the last two together, inherited ones included."""

MAX_PROBLEMS = 100
"""Problems of one kind that are told of; nobody reads more."""

MAX_SHOWN = 80
"""Characters of a word that are shown: what fits a line."""

MAX_SUGGESTED = 5
"""Problems of one kind for which the whole catalogue is searched for what was meant."""


def shown(word: str) -> str:
    """Return a word of a policy for an error message: as `repr`, so that no terminal obeys it, and bounded."""
    return repr(word) if len(word) <= MAX_SHOWN else f"{word[:MAX_SHOWN]!r}…"
