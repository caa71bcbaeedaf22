"""The schema of a policy file: one strict set of models for loading, linting, testing and editors.

A key that is misspelled must not silently leave a door open, so nothing unknown is accepted and nothing is converted.
The descriptions below are what an editor shows.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from guardtok.policy.bounds import MAX_FORMS, MAX_GROUPS, MAX_LISTED, MAX_SOURCES
from guardtok.policy.model import ANY_SOURCE, BUILTIN_SOURCES, Limits

VERSION = 1
"""The version of the schema that this guardtok reads."""

MAX_FORM = 256
"""Characters in the longest form, pattern or selector."""

_LIMITS = Limits()

Form = Annotated[str, Field(min_length=1, max_length=MAX_FORM, pattern=r"\S")]
Selectors = Annotated[list[Form], Field(max_length=MAX_LISTED)]
Forms = Annotated[list[Form], Field(max_length=MAX_FORMS)]
SourceName = Annotated[str, Field(pattern=r"^(\*|[a-z][a-z0-9_]{0,63})$")]
GroupName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]
PolicyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")]
Fingerprint = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
RoleName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
TokenId = Annotated[int, Field(ge=0, le=2**32 - 1)]

ActionName = Literal["allow", "escape", "strip", "block"]
ReactionName = Literal["ignore", "log", "escape", "block"]
ModeName = Literal["enforce", "monitor"]


# A `Literal[1]` would take `true` and `1.0` for 1.
SchemaVersion = Annotated[int, Field(ge=VERSION, le=VERSION, json_schema_extra={"const": VERSION})]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class TokenizerModel(_Model):
    """The tokenizer that this policy is written for. A guard refuses any other."""

    name: str | None = Field(None, min_length=1, max_length=256, description="Name of the tokenizer, e.g. `cl100k_im`.")
    fingerprint: Fingerprint | None = Field(
        None, description="`sha256:…` as `guardtok tokens` prints it; pins every detail that decides ids."
    )


class SourceModel(_Model):
    """What one source of text may do with control tokens."""

    default: ActionName | None = Field(None, description="The action for every form that no entry below selects.")
    allow: Selectors = Field([], description="Forms, patterns or groups that this source may write as tokens.")
    escape: Selectors = Field([], description="Forms, patterns or groups that become the ordinary text they are.")
    strip: Selectors = Field([], description="Forms, patterns or groups that are deleted.")
    block: Selectors = Field([], description="Forms, patterns or groups for which the whole text is refused.")
    lookalikes: ReactionName | None = Field(None, description="What to do about look-alikes from this source.")
    mode: ModeName | None = Field(None, description="`monitor` decides and logs, but never raises or changes text.")


class LimitsModel(_Model):
    """Bounds on the work that one text may cause."""

    max_chars: int | None = Field(None, ge=1, description=f"Longest text, in characters. Default: {_LIMITS.max_chars}.")
    max_violations: int | None = Field(
        None, ge=0, description=f"Most violations that one call records. Default: {_LIMITS.max_violations}."
    )
    max_hidden: int | None = Field(
        None,
        ge=0,
        le=4096,
        description=f"Most ignorable characters looked through inside one form. Default: {_LIMITS.max_hidden}.",
    )


class LogModel(_Model):
    """What a log record may hold."""

    text: Literal["never", "digest", "excerpt"] | None = Field(
        None,
        description="How much of the text is logged: nothing, a keyed digest of it, or an excerpt. Default: never.",
    )


class ChatModel(_Model):
    """Which chat templates may be used, and with which roles."""

    templates: Annotated[list[Fingerprint], Field(max_length=MAX_LISTED)] | None = Field(
        None, description="Fingerprints of the chat templates that may be used. Default: any may."
    )
    roles: Annotated[list[RoleName], Field(max_length=MAX_SOURCES)] = Field(
        [], description="Roles that messages may have, besides the usual ones and those that the template compares."
    )


class RequestsModel(_Model):
    """What callers may send in a whole request, besides text."""

    chat_template: Literal["refuse", "allow"] | None = Field(
        None, description="Chat templates in requests: refuse them, or run them as trusted code. Default: refuse."
    )
    token_ids: Literal["deny", "check", "allow"] | None = Field(
        None,
        description="Token ids in requests: refuse them, check them against the reserved ids, or not. Default: deny.",
    )


class PolicyModel(_Model):
    """A guardtok policy: which source of text may write which control token."""

    guardtok: SchemaVersion = Field(description="Version of this schema: 1.")
    name: PolicyName | None = Field(None, description="Name in logs. Default: the file's name without its suffix.")
    description: str | None = Field(None, max_length=1000, description="One sentence that says who should take it.")
    extends: str | None = Field(
        None, min_length=1, max_length=4096, description="A shipped policy, or the path of one relative to this file."
    )
    tokenizer: TokenizerModel | None = Field(None, description="The tokenizer that this policy is written for.")
    groups: dict[GroupName, Forms] = Field(
        {},
        max_length=MAX_GROUPS,
        description="Named lists of forms, patterns (`*` is the wildcard), `@names` or other groups.",
    )
    custom_tokens: dict[Form, Literal["auto"] | TokenId] = Field(
        {},
        max_length=MAX_FORMS,
        description="Control tokens to add to the tokenizer: form → id, or `auto` for the next free id.",
    )
    forms: Forms = Field([], description="Markers without an id of their own that are guarded like tokens.")
    text_tokens: Forms = Field(
        [], description="Added tokens of the tokenizer that are text: any source may write them (HTML tags in Gemma)."
    )
    sources: dict[SourceName, SourceModel] = Field(
        {},
        max_length=MAX_SOURCES,
        description='Rules by source; `"*"` holds for every source without rules of its own.',
    )
    foreign: ReactionName | None = Field(
        None,
        description="What to do about other model families' tokens, which this tokenizer does not parse. Default: log.",
    )
    lookalikes: ReactionName | None = Field(
        None, description="What to do about text that a later fold may turn into a token. Default: log."
    )
    surrogates: Literal["replace", "refuse"] | None = Field(
        None, description="Lone surrogates: replace each by U+FFFD, or refuse the text. Default: replace."
    )
    limits: LimitsModel | None = Field(None, description="Bounds on the work that one text may cause.")
    mode: ModeName | None = Field(
        None, description="`monitor` decides and logs, but never raises or changes text. Default: enforce."
    )
    log: LogModel | None = Field(None, description="What a log record may hold.")
    chat: ChatModel | None = Field(None, description="Which chat templates may be used, and with which roles.")
    requests: RequestsModel | None = Field(None, description="What callers may send in a whole request, besides text.")


class LockModel(_Model):
    """A lock file: the ids that `auto` stood for."""

    guardtok_lock: SchemaVersion = Field(description="Version of the lock file: 1.")
    tokenizer: str = Field(min_length=1, max_length=256, description="Name of the tokenizer.")
    fingerprint: Fingerprint = Field(description="The tokenizer's fingerprint, without the policy's custom tokens.")
    ids: dict[Form, TokenId] = Field(description="Id by form.")


def json_schema() -> dict[str, Any]:
    """Return the schema of a policy file as JSON Schema draft-07, which the YAML language server reads."""
    schema = _as_draft_07(PolicyModel.model_json_schema())
    # Naming the built-in sources lets an editor complete them; other names stay welcome.
    sources = schema["properties"]["sources"]
    sources["properties"] = {name: {"$ref": "#/definitions/SourceModel"} for name in (*BUILTIN_SOURCES, ANY_SOURCE)}
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema, "title": "guardtok policy"}


def _as_draft_07(node: Any) -> Any:  # noqa: ANN401 - JSON values
    """Rewrite what pydantic writes for a newer draft.

    An optional key may be left out but not be empty, so the alternative `null` goes. `$ref` hides the keys beside it in
    draft-07, so it moves into an `allOf`. Titles only repeat the keys. A key that fits no pattern is refused.
    """
    if isinstance(node, list):
        return [_as_draft_07(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = {key: _as_draft_07(value) for key, value in node.items() if not (key == "default" and value is None)}
    choices = [choice for choice in out.pop("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        out = {**choices[0], **out}
    elif choices:
        out["anyOf"] = choices
    if isinstance(out.get("title"), str):
        del out["title"]
    if "patternProperties" in out:
        out["additionalProperties"] = False
    if "$defs" in out:
        out["definitions"] = out.pop("$defs")
    if "$ref" in out:
        out["$ref"] = out["$ref"].replace("#/$defs/", "#/definitions/")
        if len(out) > 1:
            out["allOf"] = [{"$ref": out.pop("$ref")}]
    return out
