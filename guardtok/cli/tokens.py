"""`guardtok tokens`: the control tokens of a tokenizer, and the lock file that pins those which a policy adds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardtok.cli.options import Format, format_option
from guardtok.cli.streams import console, shorten, table, write, write_json
from guardtok.cli.trouble import MistakeError
from guardtok.violation import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from guardtok.policy.model import Policy
    from guardtok.tokenizer import Tokenizer

LOCK_VERSION = 1
"""Version of the lock file."""


@click.command()
@click.argument("tokenizer", metavar="T")
@click.option("-p", "--policy", metavar="P", help="Also list the tokens that this policy adds.")
@click.option("--lock", is_flag=True, help="Write the ids of the policy's `auto` tokens beside it, as NAME.lock.json.")
@click.option("--update", is_flag=True, help="With --lock: let ids that are pinned already change or go.")
@format_option
def tokens(*, tokenizer: str, policy: str | None, lock: bool, update: bool, output: Format) -> None:
    """List every control token and every added token of the tokenizer T: id, form, role, class, families.

    T is a name, or the path of a vocabulary's file or of a tokenizer.json. The class of a token is `control`, `unknown`
    (the id of what is not known), `byte`, `white space`, `text` (the policy's `text_tokens`), or `custom` where the
    policy adds it. With --lock nothing is listed.

    \b
    Examples:
      guardtok tokens cl100k_base
      guardtok tokens guardtok --policy ./mine.yaml --format json
      guardtok tokens guardtok --policy ./mine.yaml --lock
    """  # noqa: D301 - click looks for this character
    from guardtok.encodings import load_tokenizer
    from guardtok.policy.files import shipped_policies
    from guardtok.policy.model import Policy

    if (lock or update) and policy is None:
        raise click.UsageError("A lock file pins the ids of a policy's tokens: name it with --policy.")
    if update and not lock:
        raise click.UsageError("--update belongs to --lock.")
    if lock and policy in shipped_policies():
        raise MistakeError(f"{policy!r} is shipped with guardtok. Copy it, or extend it, and lock your own file.")
    plain = load_tokenizer(tokenizer)
    loaded = None if policy is None else Policy.load(policy)
    if lock and loaded is not None:
        _write_lock(loaded, plain, update=update)
        return
    rows = list(_rows(plain, loaded))
    if output is Format.JSON:
        record: dict[str, Any] = {"tokenizer": {"name": plain.name, "fingerprint": plain.fingerprint}}
        if loaded is not None:
            record["policy"] = {"name": loaded.name, "digest": loaded.digest}
        write_json({**record, "tokens": rows})
        return
    made = table("id", "form", "role", "class", "families")
    for row in rows:
        made.add_row(str(row["id"]), visible(row["form"]), row["role"] or "", row["class"], shorten(row["families"]))
    click.echo(f"{plain.name}: {len(rows):,} tokens, {plain.n_vocab:,} ids, fingerprint {plain.fingerprint}")
    write(made, console())


def _rows(tokenizer: Tokenizer, policy: Policy | None) -> Iterator[dict[str, Any]]:
    """Yield what there is to say of each control token, in the order of their ids."""
    from guardtok.dialects import catalogue
    from guardtok.ruleset import bind
    from guardtok.tokenizer import RuledTokenizer

    bound = tokenizer if policy is None else bind(policy, tokenizer).tokenizer or tokenizer
    listed = tokenizer.added_tokens if isinstance(tokenizer, RuledTokenizer) else tokenizer.control_tokens
    own = {token.form for token in listed}
    known = catalogue()
    for token in bound.added_tokens if isinstance(bound, RuledTokenizer) else bound.control_tokens:
        entry = known.get(token.form)
        yield {
            "id": token.id,
            "form": token.form,
            "role": token.role.value if token.role is not None else None,
            "class": token.kind.value if token.form in own else "custom",
            "families": list(entry.families) if entry is not None else [],
        }


def _write_lock(policy: Policy, tokenizer: Tokenizer, *, update: bool) -> None:
    """Write what `auto` stands for beside the policy, so that a new token cannot move the others' ids.

    Raises:
        MistakeError: There is nothing to pin, a pinned id would change, or the file cannot be written.
        GuardtokError: The policy does not fit the tokenizer.
    """
    file = Path(policy.place)
    auto = [token.form for token in policy.custom_tokens if token.id is None]
    if not auto:
        raise MistakeError(f"{policy.place}: no custom token has the id `auto`, so there is nothing to pin.")
    ids = _ids(policy, tokenizer, auto, {} if update or policy.lock is None else _kept(policy, tokenizer, auto))
    path = file.with_name(f"{file.stem}.lock.json")
    lock = {
        "guardtok_lock": LOCK_VERSION,
        "tokenizer": tokenizer.name,
        "fingerprint": tokenizer.fingerprint,
        "ids": ids,
    }
    try:
        path.write_text(json.dumps(lock, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise MistakeError(f"{path} cannot be written: {error.strerror}.") from error
    click.echo(f"{visible(str(path))}: {len(ids)} id{'s' if len(ids) != 1 else ''} pinned for {tokenizer.name}")


def _kept(policy: Policy, tokenizer: Tokenizer, auto: list[str]) -> Mapping[str, int]:
    """Return the pins that hold on.

    Raises:
        MistakeError: A pin would go, or was made for another tokenizer.
    """
    lock = policy.lock
    if lock is None:
        return {}
    if lock.fingerprint != tokenizer.fingerprint:
        raise MistakeError(
            f"{lock.file}: the ids are pinned for {lock.tokenizer} with another fingerprint. "
            "If models were trained with them, keep them; else write them anew with --update."
        )
    gone = [form for form in lock.ids if form not in auto]
    if gone:
        raise MistakeError(
            f"{lock.file}: {gone[0]!r} is pinned to {lock.ids[gone[0]]} and is no `auto` token of the policy any more. "
            "Its id would be given to another token; if that is meant, say --update."
        )
    return lock.ids


def _ids(policy: Policy, tokenizer: Tokenizer, auto: list[str], kept: Mapping[str, int]) -> dict[str, int]:
    """Return the id of each `auto` token: the pinned one, else the next that is free."""
    from guardtok.ruleset import bind

    pinned = tuple(
        dataclasses.replace(token, id=kept[token.form]) if token.id is None and token.form in kept else token
        for token in policy.custom_tokens
    )
    bound = bind(dataclasses.replace(policy, custom_tokens=pinned, lock=None), tokenizer).tokenizer or tokenizer
    ids = {token.form: token.id for token in bound.control_tokens}
    return {form: ids[form] for form in auto}
