"""Why a policy decides as it does: one form from one source, the line that decided, and every rule that lost.

Policies extend one another and rules differ in strength, so the line that decides is not always the one that a reader
sees first. A door that is open by mistake is found by asking.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from guardtok.dialects import catalogue
from guardtok.errors import PolicyError, Problem, UnknownSourceError, near_match
from guardtok.policy.files import read_text
from guardtok.policy.model import ANY_SOURCE
from guardtok.policy.selectors import DIALECT, SPECIAL, Level, selections
from guardtok.ruleset import FormKind, bind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guardtok.policy.model import Mark, Policy
    from guardtok.ruleset import Form, Ruleset
    from guardtok.tokenizer import Role, Tokenizer
    from guardtok.violation import Action, Mode

IMPLICIT = f"{ANY_SOURCE}.implicit"
"""The rule that decides where a policy says nothing: it blocks."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rule that speaks of a form.

    Attributes:
        rule: `SOURCE.ACTION[SELECTOR]` or `SOURCE.default`.
        action: What it asks for.
        why: Its strength: `literal form`, `pattern`, `group` or `default`; of `"*"` where it is not the source's own.
        place: `file:line:column`.
        line: The text of that line, or None where the policy was not read from a file.
    """

    rule: str
    action: Action
    why: str
    place: str
    line: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a policy does about one form from one source, and why.

    Attributes:
        policy: Name of the policy.
        source: The source.
        form: The form, literally.
        role: What the form is for, or None.
        families: Slugs of the families of the catalogue that have it.
        tokenizer: Name of the bound tokenizer, or None.
        token_id: The form's id in it, or None.
        kind: `control`: the tokenizer has it (without one: some family has). `marker`: it has no id, but the policy
            names it. `foreign`: only others have it. None: others have it, but it is not even looked for, because
            ordinary documents hold it or `foreign` is `ignore`.
        action: What happens to it; None where it is not looked for, and so is the text that it is.
        mode: Whether that is enforced.
        rule: What decided: the rule of the first candidate, `foreign`, `*.implicit`, or None with `action`.
        candidates: Every rule that speaks of the form for this source, the strongest first. The first one decided,
            unless `rule` says otherwise; the others lost.
    """

    policy: str
    source: str
    form: str
    role: Role | None
    families: tuple[str, ...]
    tokenizer: str | None
    token_id: int | None
    kind: FormKind | None
    action: Action | None
    mode: Mode
    rule: str | None
    candidates: tuple[Candidate, ...]

    @property
    def decided_by(self) -> Candidate | None:
        """The line that decided; None where no line did."""
        return next((candidate for candidate in self.candidates if candidate.rule == self.rule), None)


def explain(policy: Policy, source: str, form: str, tokenizer: Tokenizer | None = None) -> Explanation:
    """Explain what a policy does about one form from one source.

    Args:
        policy: The policy.
        source: Who writes the form.
        form: The form, literally.
        tokenizer: The tokenizer that the policy is bound to; without one, every family's tokens count.

    Raises:
        PolicyError: Nobody knows the form; a near match is suggested. Or the policy cannot be bound.
        UnknownSourceError: The policy does not know the source.
        TokenizerMismatchError: The tokenizer is not the one that the policy or its lock file pins.
        TokenizerError: The tokenizer cannot take the policy's custom tokens.
    """
    ruleset = bind(policy, tokenizer)
    if source not in ruleset.sources:
        raise UnknownSourceError(f"Unknown source {source[:80]!r}.{near_match(source, ruleset.sources)}")
    known = catalogue().get(form)
    found = next(((index, each) for index, each in enumerate(ruleset.forms) if each.text == form), None)
    if found is None and known is None:
        raise PolicyError([_unknown(policy, form, ruleset)])
    decision = ruleset.table[source][found[0]] if found is not None else None
    bound = found[1] if found is not None else None
    return Explanation(
        policy=policy.name,
        source=source,
        form=form,
        role=bound.role if bound is not None else known.role if known is not None else None,
        families=known.families if known is not None else (),
        tokenizer=ruleset.tokenizer.name if ruleset.tokenizer is not None else None,
        token_id=bound.token_id if bound is not None else None,
        kind=bound.kind if bound is not None else None,
        action=decision.action if decision is not None else None,
        mode=ruleset.modes[source],
        rule=decision.rule if decision is not None else None,
        candidates=tuple(_candidates(policy, source, bound)) if bound is not None else (),
    )


def _unknown(policy: Policy, form: str, ruleset: Ruleset) -> Problem:
    forms = [*(each.text for each in ruleset.forms), *catalogue()]
    # Forms of a very different length are not compared, for there are thousands.
    near = near_match(form, [each for each in forms if abs(len(each) - len(form)) <= 2])  # noqa: PLR2004
    fact = f"{form[:80]!r} is no control token that is known, so it is ordinary text."
    return Problem(f"{policy.place}:1:1", fact, near.strip())


def _candidates(policy: Policy, source: str, form: Form) -> Iterator[Candidate]:
    """Yield every rule that speaks of the form, in the order in which `resolve` prefers them."""
    names = {SPECIAL} if form.kind is FormKind.CONTROL else set()
    names |= {f"@{form.role}"} if form.role is not None else set()
    known = catalogue().get(form.text)
    names |= {DIALECT + slug for slug in known.families} if known is not None else set()
    universe = {form.text: frozenset(names)}
    selected = selections(policy, universe)
    words = {Level.LITERAL: "literal form", Level.PATTERN: "pattern", Level.GROUP: "group"}
    for name in dict.fromkeys((source, ANY_SOURCE)):
        rules = policy.sources.get(name)
        if rules is None:
            continue
        of = "" if name == source else f' of "{ANY_SOURCE}"'
        speaking = [
            (selected[entry.selector].level, -entry.depth, entry)
            for entry in rules.entries
            if selected[entry.selector].forms
        ]
        # Of two that agree in everything the later selector is the one that `resolve` names.
        speaking.sort(key=lambda each: (*each[:2], each[2].action.severity, each[2].selector), reverse=True)
        for level, depth, entry in speaking:
            inherited = ", inherited" if depth < 0 else ""
            rule = f"{name}.{entry.action}[{entry.selector}]"
            yield _candidate(rule, entry.action, f"{words[level]}{of}{inherited}", entry.mark)
        if rules.default is not None:
            inherited = ", inherited" if rules.default.depth > 0 else ""
            rule = f"{name}.default"
            yield _candidate(rule, rules.default.action, f"default{of}{inherited}", rules.default.mark)


def _candidate(rule: str, action: Action, why: str, mark: Mark) -> Candidate:
    return Candidate(rule, action, why, str(mark), _line(mark))


def _line(mark: Mark) -> str | None:
    try:
        lines = read_text(Path(mark.file)).splitlines()
    except PolicyError:  # The policy was parsed from a string, or its file is gone.
        return None
    return lines[mark.line - 1].strip() if mark.line <= len(lines) else None
