"""Reviews what a policy says beside its rules: ids, sources, modes, what it is bound to."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from guardtok.lint.finding import LintFinding, Severity, name_sources, place_of
from guardtok.policy.model import ANY_SOURCE, BUILTIN_SOURCES
from guardtok.policy.resolve import sources_of
from guardtok.violation import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardtok.policy.model import Policy

_NEAR = 0.8
"""How alike two names are that were probably meant as one; `web_result` and `tool_result` are less so."""


def review_settings(policy: Policy) -> Iterator[LintFinding]:
    """Review everything but the rules."""
    yield from _ids(policy)
    yield from _tokenizer(policy)
    yield from _sources(policy)
    yield from _modes(policy)
    yield from _limits(policy)


def _ids(policy: Policy) -> Iterator[LintFinding]:
    pinned = policy.lock.ids if policy.lock is not None else {}
    for token in policy.custom_tokens:
        if token.id is None and token.form not in pinned:
            fact = f"The id of {token.form!r} is `auto` and no lock file pins it: it changes with the tokenizer."
            mend = "Write a lock file (guardtok tokens TOKENIZER --policy POLICY --lock), or the id itself."
            yield LintFinding("auto-without-lock", Severity.WARNING, str(token.mark), fact, mend)


def _tokenizer(policy: Policy) -> Iterator[LintFinding]:
    binding = policy.tokenizer
    if binding is not None and binding.fingerprint is None:
        fact = f"The tokenizer {binding.name!r} is bound by its name alone."
        mend = "Add the `fingerprint` that `guardtok tokens` prints."
        yield LintFinding("unpinned-tokenizer", Severity.INFO, str(binding.mark), fact, mend)


def _sources(policy: Policy) -> Iterator[LintFinding]:
    for name, rules in policy.sources.items():
        if name in BUILTIN_SOURCES or name == ANY_SOURCE:
            continue
        for near in difflib.get_close_matches(name, BUILTIN_SOURCES, n=1, cutoff=_NEAR):
            # `web_document` is a kind of `document`; `documents` is a slip.
            if near not in name.split("_"):
                fact = f"Source {name!r} is one of its own; what is labelled {near!r} does not fall under it."
                mend = f"Write {near!r} if that is meant, or a name less like it."
                yield LintFinding("near-builtin-source", Severity.WARNING, str(rules.mark), fact, mend)
    other = policy.sources.get(ANY_SOURCE)
    if other is None or other.default is None:
        open_ones = [s for s in sources_of(policy) if s not in policy.sources or policy.sources[s].default is None]
        if open_ones:
            place = str(other.mark) if other is not None else place_of(policy, "sources")
            fact = f'`"*"` has no default, so what no entry selects is blocked for {name_sources(open_ones)}.'
            mend = 'Write `"*": {default: block}` if that is meant.'
            yield LintFinding("no-any-source", Severity.INFO, place, fact, mend)


def _modes(policy: Policy) -> Iterator[LintFinding]:
    if policy.mode is Mode.MONITOR:
        fact = "The policy only watches: nothing is refused and no text is changed."
        yield LintFinding("monitor-mode", Severity.INFO, place_of(policy, "mode"), fact)
    for name, rules in policy.sources.items():
        if rules.mode is Mode.MONITOR:
            fact = f"Source {name!r} is only watched: nothing is refused and no text is changed."
            yield LintFinding("monitor-mode", Severity.INFO, str(rules.mark), fact)


def _limits(policy: Policy) -> Iterator[LintFinding]:
    """Say what a limit of nought turns off."""
    silent = {
        "max_violations": "No violation is recorded: what is found is guarded against and counted, but not named.",
        "max_hidden": "One ignorable character inside a form hides it from the views.",
    }
    for key, fact in silent.items():
        if getattr(policy.limits, key) == 0:
            mend = f"Give `{key}` at least 1 unless that is meant."
            yield LintFinding("limit-of-zero", Severity.INFO, place_of(policy, "limits"), f"`{key}` is 0. {fact}", mend)
