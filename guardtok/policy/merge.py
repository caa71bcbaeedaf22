"""A policy file laid over the policy that it extends."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from guardtok.policy.marked import Mapped, mark_at
from guardtok.policy.meaning import ACTIONS
from guardtok.policy.model import (
    CallerTemplate,
    ChatRules,
    CustomToken,
    Default,
    Entry,
    Group,
    Limits,
    Lock,
    LogText,
    Policy,
    Reaction,
    RequestRules,
    SourceRules,
    Surrogates,
    TextForm,
    TokenIds,
    TokenizerBinding,
)
from guardtok.violation import Action, Mode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from guardtok.policy.schema import PolicyModel, SourceModel


def merge(file: PolicyModel, tree: Mapped, name: str, parent: Policy | None, lock: Lock | None) -> Policy:
    """Lay a file over its parent, or over the defaults of the schema.

    An entry replaces the parent's for the same source and selector, whatever the action of either. A source's default,
    mode and look-alikes, a group, a custom token, each limit, the pinned chat templates, each rule of requests and
    every single value replace the parent's; `forms`, `text_tokens` and the roles of a chat add to the parent's. Custom
    tokens keep the parent's order, so that its `auto` ids stay what they were. A lock file stands for the parent's.

    Args:
        file: What the file says; checked.
        tree: Where it says it.
        name: The policy's name if the file gives none.
        parent: The policy that it extends.
        lock: The lock file beside the file.
    """
    merged = Policy(
        name=file.name or name,
        description=file.description or "",
        place=tree.mark.file,
        digest="",
        extends=parent,
        tokenizer=_tokenizer(file, tree, parent),
        groups={
            **(parent.groups if parent else {}),
            **{
                group: Group(group, tuple(members), mark_at(tree, ("groups", group), key=True))
                for group, members in file.groups.items()
            },
        },
        custom_tokens=_custom_tokens(file, tree, parent),
        forms=_forms(file, tree, parent),
        text_tokens=_text_tokens(file, tree, parent),
        sources=_sources(file, tree, parent),
        foreign=Reaction(file.foreign) if file.foreign else parent.foreign if parent else Reaction.LOG,
        lookalikes=Reaction(file.lookalikes) if file.lookalikes else parent.lookalikes if parent else Reaction.LOG,
        surrogates=Surrogates(file.surrogates or (parent.surrogates if parent else Surrogates.REPLACE)),
        limits=_limits(file, parent),
        mode=Mode(file.mode or (parent.mode if parent else Mode.ENFORCE)),
        log=LogText((file.log and file.log.text) or (parent.log if parent else LogText.NEVER)),
        lock=lock or (parent.lock if parent else None),
        chat=_chat(file, parent),
        requests=_requests(file, parent),
    )
    return replace(merged, digest=digest_of(merged))


def _tokenizer(file: PolicyModel, tree: Mapped, parent: Policy | None) -> TokenizerBinding | None:
    """Return the binding. It is replaced whole: a parent's fingerprint says nothing of another tokenizer."""
    if file.tokenizer is None:
        return parent.tokenizer if parent else None
    return TokenizerBinding(file.tokenizer.name, file.tokenizer.fingerprint, mark_at(tree, ("tokenizer",), key=True))


def _custom_tokens(file: PolicyModel, tree: Mapped, parent: Policy | None) -> tuple[CustomToken, ...]:
    tokens = {token.form: token for token in parent.custom_tokens} if parent else {}
    for form, number in file.custom_tokens.items():
        mark = mark_at(tree, ("custom_tokens", form), key=True)
        tokens[form] = CustomToken(form, None if number == "auto" else number, mark)
    return tuple(tokens.values())


def _forms(file: PolicyModel, tree: Mapped, parent: Policy | None) -> tuple[TextForm, ...]:
    forms = {form.form: form for form in parent.forms} if parent else {}
    for index, form in enumerate(file.forms):
        forms[form] = TextForm(form, mark_at(tree, ("forms", index)))
    return tuple(forms.values())


def _text_tokens(file: PolicyModel, tree: Mapped, parent: Policy | None) -> tuple[TextForm, ...]:
    tokens = {token.form: token for token in parent.text_tokens} if parent else {}
    for index, form in enumerate(file.text_tokens):
        tokens[form] = TextForm(form, mark_at(tree, ("text_tokens", index)))
    return tuple(tokens.values())


def _limits(file: PolicyModel, parent: Policy | None) -> Limits:
    limits = parent.limits if parent else Limits()
    return replace(limits, **file.limits.model_dump(exclude_none=True)) if file.limits else limits


def _chat(file: PolicyModel, parent: Policy | None) -> ChatRules:
    inherited = parent.chat if parent else ChatRules()
    if file.chat is None:
        return inherited
    templates = inherited.templates if file.chat.templates is None else tuple(file.chat.templates)
    return ChatRules(templates, tuple(dict.fromkeys((*inherited.roles, *file.chat.roles))))


def _requests(file: PolicyModel, parent: Policy | None) -> RequestRules:
    inherited = parent.requests if parent else RequestRules()
    if file.requests is None:
        return inherited
    return RequestRules(
        CallerTemplate(file.requests.chat_template or inherited.chat_template),
        TokenIds(file.requests.token_ids or inherited.token_ids),
    )


def _sources(file: PolicyModel, tree: Mapped, parent: Policy | None) -> dict[str, SourceRules]:
    inherited: Mapping[str, SourceRules] = parent.sources if parent else {}
    sources = {name: _one_deeper(rules) for name, rules in inherited.items()}
    for name, rules in file.sources.items():
        sources[name] = _source(name, rules, tree, sources.get(name))
    return sources


def _one_deeper(rules: SourceRules) -> SourceRules:
    """Return a parent's rules as its child sees them."""
    default = rules.default and replace(rules.default, depth=rules.default.depth + 1)
    return replace(
        rules, default=default, entries=tuple(replace(entry, depth=entry.depth + 1) for entry in rules.entries)
    )


def _source(name: str, rules: SourceModel, tree: Mapped, parent: SourceRules | None) -> SourceRules:
    own = tuple(
        Entry(selector, action, mark_at(tree, ("sources", name, action.value, index)), 0)
        for action in ACTIONS
        for index, selector in enumerate(getattr(rules, action.value))
    )
    replaced = {entry.selector for entry in own}
    kept = tuple(entry for entry in parent.entries if entry.selector not in replaced) if parent else ()
    default = parent.default if parent else None
    if rules.default is not None:
        default = Default(Action(rules.default), mark_at(tree, ("sources", name, "default")), 0)
    return SourceRules(
        name=name,
        default=default,
        entries=own + kept,
        mode=Mode(rules.mode) if rules.mode else parent.mode if parent else None,
        lookalikes=Reaction(rules.lookalikes) if rules.lookalikes else parent.lookalikes if parent else None,
        mark=mark_at(tree, ("sources", name), key=True),
    )


def digest_of(policy: Policy) -> str:
    """Return the SHA-256 of what a policy decides: its merged content in one spelling, without places and comments.

    The order of `auto` tokens is part of it, since it gives them their ids; no other order is. An entry's depth is part
    of it, since between equally specific entries the nearer wins.
    """
    content: dict[str, object] = {
        "guardtok": 1,
        "name": policy.name,
        "description": policy.description,
        "tokenizer": policy.tokenizer and [policy.tokenizer.name, policy.tokenizer.fingerprint],
        "groups": {name: sorted(group.members) for name, group in policy.groups.items()},
        "custom_tokens": {token.form: token.id for token in policy.custom_tokens if token.id is not None},
        "auto_tokens": [token.form for token in policy.custom_tokens if token.id is None],
        "forms": sorted(form.form for form in policy.forms),
        **({"text_tokens": sorted(token.form for token in policy.text_tokens)} if policy.text_tokens else {}),
        "sources": {
            name: {
                "default": rules.default and rules.default.action,
                "entries": sorted((entry.selector, entry.action.value, entry.depth) for entry in rules.entries),
                "mode": rules.mode,
                "lookalikes": rules.lookalikes,
            }
            for name, rules in policy.sources.items()
        },
        "foreign": policy.foreign,
        "lookalikes": policy.lookalikes,
        "surrogates": policy.surrogates,
        "limits": asdict(policy.limits),
        "mode": policy.mode,
        "log": policy.log,
    }
    if policy.chat != ChatRules():  # Left out otherwise, so that no digest changed when this key came.
        content["chat"] = {"templates": sorted(policy.chat.templates), "roles": sorted(policy.chat.roles)}
    if policy.requests != RequestRules():  # As above.
        content["requests"] = asdict(policy.requests)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
