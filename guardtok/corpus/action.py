"""What happens to a document in which something was found."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from guardtok.errors import CorpusError, near_match
from guardtok.policy.merge import digest_of
from guardtok.policy.model import Default, Mark, Policy, SourceRules
from guardtok.violation import Action, Mode


class CorpusAction(str, Enum):
    """What becomes of a corpus.

    `report`: it is only read. `annotate`: each row gets what was found in it. `escape`, `strip`: forms are broken or
    taken out of its texts, and a row that the policy refuses is left out. `drop`: rows with a form that the policy does
    more than log are left out.
    """

    REPORT = "report"
    ANNOTATE = "annotate"
    ESCAPE = "escape"
    STRIP = "strip"
    DROP = "drop"

    def __str__(self) -> str:
        return self.value

    @property
    def rewrites(self) -> bool:
        """Whether texts are changed."""
        return self in (CorpusAction.ESCAPE, CorpusAction.STRIP)


def to_corpus_action(name: str) -> CorpusAction:
    """Return the action of a name.

    Raises:
        CorpusError: There is none.
    """
    try:
        return CorpusAction(name)
    except ValueError:
        known = [each.value for each in CorpusAction]
        mend = near_match(str(name), known)
    raise CorpusError(f"No action of this name for a corpus.{mend} There are {', '.join(known)}.")


def adapt_policy(policy: Policy, action: CorpusAction, sources: frozenset[str]) -> Policy:
    """Return the policy under which texts are rewritten as asked: these sources' default is the action, and enforced.

    What the policy says of single forms and groups stays: who blocks a form here has it blocked. For another action
    than `escape` and `strip` it is the policy itself.
    """
    if not action.rewrites:
        return policy
    mark = Mark("--action", 1, 1)
    default = Default(Action(action.value), mark, 0)
    changed = dict(policy.sources)
    for source in sources:
        rules = changed.get(source) or SourceRules(source, None, (), None, None, mark)
        changed[source] = replace(rules, default=default, mode=Mode.ENFORCE)
    adapted = replace(policy, sources=changed)
    return replace(adapted, digest=digest_of(adapted))
