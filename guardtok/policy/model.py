"""The frozen form of a policy: what the YAML said, merged over `extends`, every value with the place it came from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from guardtok.violation import Action, Mode

BUILTIN_SOURCES = (
    "template",
    "system",
    "developer",
    "user",
    "assistant",
    "tool_result",
    "tool_definition",
    "tool_arguments",
    "document",
    "name",
    "unknown",
)
"""Sources that every policy knows; a policy declares more by naming them under `sources`."""

ANY_SOURCE = "*"
"""The entry of `sources` that holds for every source which has no rule of its own."""


class Reaction(str, Enum):
    """What to do about forms that the bound tokenizer would not parse: other families' tokens, look-alikes."""

    IGNORE = "ignore"
    LOG = "log"
    ESCAPE = "escape"
    BLOCK = "block"

    def __str__(self) -> str:
        return self.value


class Surrogates(str, Enum):
    """What to do about lone surrogates: replace each by U+FFFD, or refuse the text."""

    REPLACE = "replace"
    REFUSE = "refuse"


class LogText(str, Enum):
    """How much of the text a record may carry: only the form, a keyed digest of the string, or an excerpt too."""

    NEVER = "never"
    DIGEST = "digest"
    EXCERPT = "excerpt"


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a policy file; line and column are 1-based."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One selector of one source: `block: ["@turn"]` under `user` is one entry.

    Attributes:
        selector: As written: a literal form, a pattern, the name of a group, or a built-in `@name`.
        action: `allow`, `escape`, `strip` or `block`.
        mark: Where it is written.
        depth: 0 for the policy itself, 1 for what it extends, and so on up.
    """

    selector: str
    action: Action
    mark: Mark
    depth: int


@dataclass(frozen=True, slots=True)
class Default:
    """The action of a source for what no selector names."""

    action: Action
    mark: Mark
    depth: int


@dataclass(frozen=True, slots=True)
class SourceRules:
    """Everything that a policy says of one source.

    Attributes:
        name: The source, or `*`.
        default: The action for what no entry selects, or None where `*` decides.
        entries: The entries, the child's own before those it inherits.
        mode: The source's own mode, or None where that of `*`, or else the policy's, holds.
        lookalikes: The source's own reaction to look-alikes, or None where the policy's holds.
        mark: Where the source is declared.
    """

    name: str
    default: Default | None
    entries: tuple[Entry, ...]
    mode: Mode | None
    lookalikes: Reaction | None
    mark: Mark


@dataclass(frozen=True, slots=True)
class Group:
    """A named list of forms, patterns, built-in `@names` or other groups."""

    name: str
    members: tuple[str, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class CustomToken:
    """A control token that the policy adds to the bound tokenizer; `id` is None for `auto`."""

    form: str
    id: int | None
    mark: Mark


@dataclass(frozen=True, slots=True)
class TextForm:
    """A marker without an id that the policy treats as a form (`### System:`)."""

    form: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class TokenizerBinding:
    """The tokenizer that a policy is written for; checked when a guard is built."""

    name: str | None
    fingerprint: str | None
    mark: Mark


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on the work: characters of a text, records of a call, ignorable characters hidden inside one form."""

    max_chars: int = 20_000_000
    max_violations: int = 1_000
    max_hidden: int = 64


@dataclass(frozen=True, slots=True)
class ChatRules:
    """What a policy says of chat templates.

    Attributes:
        templates: The fingerprints (`sha256:…`) of the templates that may be used; empty where any may.
        roles: Roles that messages may have, besides the usual ones and those that the template compares.
    """

    templates: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()


class CallerTemplate(str, Enum):
    """What to do about a chat template in a request: refuse it, or take it for code that may be trusted."""

    REFUSE = "refuse"
    ALLOW = "allow"


class TokenIds(str, Enum):
    """What to do about token ids in a request: refuse them, check them against the tokenizer's reserved ids, or not."""

    DENY = "deny"
    CHECK = "check"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class RequestRules:
    """What a policy says of whole requests.

    Attributes:
        chat_template: What to do about a chat template in a request.
        token_ids: What to do about token ids in a request.
    """

    chat_template: CallerTemplate = CallerTemplate.REFUSE
    token_ids: TokenIds = TokenIds.DENY


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy, merged over what it extends.

    Attributes:
        name: Its name.
        description: One sentence for whoever chooses between policies.
        place: The file it came from, or `<string>`.
        digest: `sha256:…` of the merged content, without places and comments.
        extends: The parent that it was merged over, whole, or None.
        tokenizer: The tokenizer it is written for, or None.
        groups: Its groups, inherited ones included, by name.
        custom_tokens: Tokens to add to the tokenizer, in order.
        forms: Markers without an id, in order.
        text_tokens: Tokens that are text, which every source may write, in order.
        sources: Its rules by source, `*` included if there is one.
        foreign: What to do about other families' forms.
        lookalikes: What to do about look-alikes, where a source does not say.
        surrogates: What to do about lone surrogates.
        limits: Bounds on the work.
        mode: `enforce` or `monitor`, where a source does not say.
        log: How much of the text a record may carry.
        lock: The ids that a lock file beside the policy pins, by form; None without one.
        chat: What it says of chat templates.
        requests: What it says of whole requests.
    """

    name: str
    description: str
    place: str
    digest: str
    extends: Policy | None
    tokenizer: TokenizerBinding | None
    groups: Mapping[str, Group]
    custom_tokens: tuple[CustomToken, ...]
    forms: tuple[TextForm, ...]
    text_tokens: tuple[TextForm, ...]
    sources: Mapping[str, SourceRules]
    foreign: Reaction
    lookalikes: Reaction
    surrogates: Surrogates
    limits: Limits
    mode: Mode
    log: LogText
    lock: Lock | None
    chat: ChatRules = ChatRules()
    requests: RequestRules = RequestRules()

    @staticmethod
    def load(source: str | os.PathLike[str]) -> Policy:
        """Load a policy: see `guardtok.policy.load.load_policy`.

        Args:
            source: The name of a shipped policy, or a path.

        Raises:
            PolicyError: Something is wrong with it; holds every problem found.
        """
        from guardtok.policy.load import load_policy

        return load_policy(source)

    @staticmethod
    def parse(text: str) -> Policy:
        """Load a policy from its text: see `guardtok.policy.load.parse_policy`.

        Raises:
            PolicyError: Something is wrong with it; holds every problem found.
        """
        from guardtok.policy.load import parse_policy

        return parse_policy(text)


@dataclass(frozen=True, slots=True)
class Lock:
    """Pinned ids: what `auto` meant when the lock file was written.

    Attributes:
        file: The lock file.
        tokenizer: Name of the tokenizer it was written for.
        fingerprint: That tokenizer's fingerprint, without the policy's custom tokens.
        ids: Id by form.
    """

    file: str
    tokenizer: str
    fingerprint: str
    ids: Mapping[str, int]
