"""Looks a policy over: first whether it can be used at all, then entry by entry, then as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardtok.errors import GuardtokError, PolicyError, Problem
from guardtok.lint.entries import review_entries
from guardtok.lint.finding import LintFinding, Severity
from guardtok.lint.parent import review_parent
from guardtok.lint.settings import review_settings
from guardtok.policy.resolve import builtin_universe, unknown_tokens
from guardtok.policy.selectors import DIALECT, SPECIAL
from guardtok.ruleset import bind

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from guardtok.policy.model import Policy
    from guardtok.tokenizer import Tokenizer

_ORDER = tuple(Severity)


def lint(policy: Policy, tokenizer: Tokenizer | None = None) -> tuple[LintFinding, ...]:
    """Return what is suspicious about a policy, the worst first.

    Args:
        policy: A policy that loaded.
        tokenizer: The tokenizer that it will be bound to. Without one, every family's tokens count as known.
    """
    universe = _universe(policy, tokenizer)
    findings = [
        *_review_binding(policy, tokenizer, universe),
        *review_entries(policy, tokenizer, universe),
        *review_parent(policy, tokenizer),
        *review_settings(policy),
    ]
    return tuple(sorted(findings, key=_rank))


def _rank(finding: LintFinding) -> tuple[int, str, int, int]:
    file, line, column = finding.place.rsplit(":", 2)
    return _ORDER.index(finding.severity), file, int(line), int(column)


def _universe(policy: Policy, tokenizer: Tokenizer | None) -> Mapping[str, frozenset[str]]:
    """Return every form that is known, with its built-in names; of its own tokens a tokenizer knows best."""
    universe = dict(builtin_universe(policy))
    for token in tokenizer.control_tokens if tokenizer is not None else ():
        families = {name for name in universe.get(token.form, ()) if name.startswith(DIALECT)}
        roles = {f"@{token.role}"} if token.role is not None else set()
        universe[token.form] = frozenset({SPECIAL} | families | roles)
    return universe


def _review_binding(
    policy: Policy, tokenizer: Tokenizer | None, universe: Mapping[str, frozenset[str]]
) -> Iterator[LintFinding]:
    """Say why a guard cannot be built."""
    unknown = unknown_tokens(policy, universe)
    # The policy's own tokenizer may know what the catalogue does not.
    elsewhere = tokenizer is None and policy.tokenizer is not None
    for problem in unknown:
        mend = "Lint it together with the tokenizer." if elsewhere else problem.mend
        severity = Severity.WARNING if elsewhere else Severity.ERROR
        yield LintFinding("unknown-form", severity, problem.place, problem.fact, mend)
    if unknown or tokenizer is None:
        return
    problems: tuple[Problem, ...] = ()
    try:
        bind(policy, tokenizer)
    except PolicyError as error:
        problems = error.problems
    except GuardtokError as error:
        pinned = policy.tokenizer.mark if policy.tokenizer is not None else None
        problems = (Problem(str(pinned or f"{policy.place}:1:1"), str(error).removeprefix(f"{pinned}: ")),)
    for problem in problems:
        yield LintFinding("does-not-bind", Severity.ERROR, problem.place, problem.fact, problem.mend)
