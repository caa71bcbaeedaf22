"""What a policy file means once it is loaded: its content, what it inherits, its digest, and its JSON Schema."""

from __future__ import annotations

import dataclasses
import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from ruamel.yaml import YAML

from guardtok.policy import (
    Limits,
    LogText,
    Mark,
    Policy,
    Reaction,
    Surrogates,
    load_policy,
    parse_policy,
    shipped_policies,
)
from guardtok.policy.model import CallerTemplate, RequestRules, TokenIds
from guardtok.policy.schema import json_schema
from guardtok.violation import Action, Mode

EXAMPLE = f"""\
guardtok: 1                        # schema version
name: support-chat
description: Only the template may write turns; tools may not even mention them.
extends: chatml                    # a shipped policy or a path
tokenizer: {{name: cl100k_im, fingerprint: "sha256:{"0" * 64}"}}
groups:
  turn: ["<|im_start|>", "<|im_end|>"]
custom_tokens: {{"<|tool|>": auto, "<|/tool|>": 100290}}
forms: ["### System:"]
sources:
  template:    {{default: allow}}
  system:      {{default: escape}}
  user:        {{default: escape, block: [turn, "<|endoftext|>"], lookalikes: log}}
  assistant:   {{default: escape, allow: ["@think"]}}
  tool_result: {{default: escape, block: ["@turn", "@media"], mode: monitor}}
  "*":         {{default: block}}
foreign: log
lookalikes: log
surrogates: replace
limits: {{max_chars: 1000000, max_violations: 1000, max_hidden: 64}}
mode: enforce
log: {{text: never}}
"""


def write(folder: Path, **files: str) -> Path:
    """Write files named `KEY.yaml` and return the first."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text("guardtok: 1\n" + text, encoding="utf-8")
    return folder / f"{next(iter(files))}.yaml"


def entries(policy: Policy, source: str) -> set[tuple[str, str, int]]:
    """Return selector, action and depth of each entry of a source."""
    return {(entry.selector, str(entry.action), entry.depth) for entry in policy.sources[source].entries}


def test_the_example_of_the_documentation_loads_whole() -> None:
    """Every key of the schema reaches the frozen policy."""
    policy = parse_policy(EXAMPLE)
    assert (policy.name, policy.place) == ("support-chat", "<string>")
    assert policy.description.startswith("Only the template")
    assert policy.extends is not None
    assert policy.extends.name == "chatml"
    assert policy.tokenizer is not None
    assert (policy.tokenizer.name, policy.tokenizer.fingerprint) == ("cl100k_im", "sha256:" + "0" * 64)
    assert policy.groups["turn"].members == ("<|im_start|>", "<|im_end|>")
    assert [(token.form, token.id) for token in policy.custom_tokens] == [("<|tool|>", None), ("<|/tool|>", 100290)]
    assert [form.form for form in policy.forms] == ["### System:"]
    assert entries(policy, "user") == {("turn", "block", 0), ("<|endoftext|>", "block", 0)}
    assert entries(policy, "assistant") == {("@think", "allow", 0)}
    assert policy.sources["user"].lookalikes is Reaction.LOG
    assert policy.sources["tool_result"].mode is Mode.MONITOR
    default = policy.sources["*"].default
    assert default is not None
    assert (default.action, default.depth) == (Action.BLOCK, 0)
    assert (policy.foreign, policy.lookalikes) == (Reaction.LOG, Reaction.LOG)
    assert (policy.surrogates, policy.mode, policy.log) == (Surrogates.REPLACE, Mode.ENFORCE, LogText.NEVER)
    assert policy.limits == Limits(1_000_000, 1_000, 64)
    assert policy.lock is None


def test_every_part_knows_where_it_is_written() -> None:
    """Marks are lines and columns counted from 1, of the value for an entry and of the key for what is named by one."""
    policy = parse_policy(EXAMPLE)
    lines = EXAMPLE.split("\n")

    def at(mark: Mark) -> str:
        return lines[mark.line - 1][mark.column - 1 :]

    entry = next(entry for entry in policy.sources["user"].entries if entry.selector == "turn")
    assert str(entry.mark) == "<string>:13:42"
    assert at(entry.mark).startswith('turn, "<|endoftext|>"')
    assert at(policy.groups["turn"].mark).startswith("turn:")
    assert at(policy.custom_tokens[1].mark).startswith('"<|/tool|>"')
    assert at(policy.forms[0].mark).startswith('"### System:"')
    assert at(policy.sources["user"].mark).startswith("user:")
    default = policy.sources["user"].default
    assert default is not None
    assert at(default.mark).startswith("escape, block")


def test_what_a_root_leaves_out_has_the_documented_default() -> None:
    """An empty policy logs, replaces lone surrogates, enforces and keeps text out of the log."""
    policy = parse_policy("guardtok: 1")
    assert (policy.name, policy.description, policy.extends, policy.tokenizer) == ("unnamed", "", None, None)
    assert (policy.foreign, policy.lookalikes) == (Reaction.LOG, Reaction.LOG)
    assert (policy.surrogates, policy.mode, policy.log) == (Surrogates.REPLACE, Mode.ENFORCE, LogText.NEVER)
    assert policy.limits == Limits()
    assert (policy.sources, policy.groups, policy.custom_tokens, policy.forms) == ({}, {}, (), ())


def test_a_policy_is_named_after_its_file(tmp_path: Path) -> None:
    """Without a `name`, the file's stem is the name; characters that a log should not meet become `_`."""
    assert load_policy(write(tmp_path, mine="")).name == "mine"
    odd = tmp_path / "my\x1bpolicy.yaml"
    odd.write_text("guardtok: 1")
    assert load_policy(odd).name == "my_policy"


def test_the_doors_of_policy_are_the_functions() -> None:
    """`Policy.load` and `Policy.parse` are what users call."""
    assert Policy.load("chatml") == load_policy("chatml")
    assert Policy.parse(EXAMPLE) == parse_policy(EXAMPLE)


def test_a_path_is_a_policy_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A string with a separator or a YAML suffix, or a `PathLike`, is a path and not a shipped name."""
    write(tmp_path, chatml="name: not the shipped one")
    monkeypatch.chdir(tmp_path)
    for path in ("chatml.yaml", "./chatml.yaml", str(tmp_path / "chatml.yaml"), tmp_path / "chatml.yaml"):
        assert load_policy(path).name == "not the shipped one"
    assert load_policy("chatml").name == "chatml"


def test_chatml_lets_the_template_write_and_nobody_else() -> None:
    """The shipped policy to start with: everything but the template's tokens is text, and nothing is an error."""
    policy = load_policy("chatml")
    assert "chatml" in shipped_policies()
    defaults = {name: rules.default.action for name, rules in policy.sources.items() if rules.default}
    assert defaults == {"template": Action.ALLOW, "*": Action.ESCAPE}
    assert policy.description


def test_every_shipped_policy_loads_and_describes_itself() -> None:
    """No shipped policy has a mistake, and each says who should take it."""
    for name in shipped_policies():
        policy = load_policy(name)
        assert policy.name == name
        assert policy.description.endswith(".")


def test_a_policy_can_be_pickled() -> None:
    """Guards are shipped to other processes, policy and parents included."""
    policy = parse_policy(EXAMPLE)
    assert pickle.loads(pickle.dumps(policy)) == policy  # noqa: S301 - its own bytes


def test_a_byte_order_mark_is_not_content(tmp_path: Path) -> None:
    """Editors write one; it changes neither meaning nor places."""
    path = tmp_path / "mark.yaml"
    path.write_bytes(b"\xef\xbb\xbfguardtok: 1\nsources: {user: {block: ['<a>']}}\n")
    loaded = load_policy(path)
    assert loaded.sources["user"].entries[0].mark == Mark(str(path), 2, 26)
    path.write_bytes(b"\xef\xbb\xbfguardtok: 2")
    with pytest.raises(ValueError, match=":1:11: "):
        load_policy(path)
    assert parse_policy("\ufeffguardtok: 1").name == "unnamed"


def test_json_surrogate_pairs_are_one_character() -> None:
    """A policy written by a JSON encoder spells an emoji as two escapes."""
    assert parse_policy('guardtok: 1\nforms: ["<\\ud83d\\ude00>"]').forms[0].form == "<😀>"


# What extends means.


def test_a_child_replaces_its_parents_entry_for_the_same_selector(tmp_path: Path) -> None:
    """Whatever the action of either; other entries are inherited, one deeper."""
    child = write(
        tmp_path,
        child="extends: ./base.yaml\nsources: {user: {allow: ['<a>'], strip: ['@eos']}}",
        base="sources: {user: {default: strip, block: ['<a>', '<b>'], escape: ['<c>'], mode: monitor}}",
    )
    policy = load_policy(child)
    assert entries(policy, "user") == {
        ("<a>", "allow", 0),
        ("@eos", "strip", 0),
        ("<b>", "block", 1),
        ("<c>", "escape", 1),
    }
    rules = policy.sources["user"]
    assert [entry.depth for entry in rules.entries] == [0, 0, 1, 1]
    assert rules.default is not None
    assert (rules.default.action, rules.default.depth, rules.mode) == (Action.STRIP, 1, Mode.MONITOR)
    assert rules.default.mark.file.endswith("base.yaml")
    assert policy.extends is not None
    assert entries(policy.extends, "user") == {("<a>", "block", 0), ("<b>", "block", 0), ("<c>", "escape", 0)}


def test_scalars_limits_groups_tokens_and_forms_are_inherited_and_overridden(tmp_path: Path) -> None:
    """Single values and each limit replace the parent's; forms add up; custom tokens keep the parent's order."""
    child = write(
        tmp_path,
        child="""\
extends: base.yaml
groups: {g: ["<new>"]}
custom_tokens: {"<y>": auto, "<z>": auto}
forms: ["## B", "## A"]
limits: {max_hidden: 8}
surrogates: refuse
log: {text: digest}
""",
        base="""\
description: Mine alone.
tokenizer: {name: t}
groups: {g: ["<old>"], h: ["<h>"]}
custom_tokens: {"<x>": auto, "<y>": 7}
forms: ["## A"]
foreign: block
lookalikes: ignore
mode: monitor
limits: {max_chars: 5, max_hidden: 9}
""",
    )
    policy = load_policy(child)
    assert (policy.name, policy.description) == ("child", "")
    assert policy.tokenizer is not None
    assert policy.tokenizer.name == "t"
    assert {name: group.members for name, group in policy.groups.items()} == {"g": ("<new>",), "h": ("<h>",)}
    assert [(token.form, token.id) for token in policy.custom_tokens] == [("<x>", None), ("<y>", None), ("<z>", None)]
    assert [form.form for form in policy.forms] == ["## A", "## B"]
    assert policy.limits == Limits(max_chars=5, max_hidden=8)
    assert (policy.foreign, policy.lookalikes, policy.mode) == (Reaction.BLOCK, Reaction.IGNORE, Mode.MONITOR)
    assert (policy.surrogates, policy.log) == (Surrogates.REFUSE, LogText.DIGEST)


def test_a_new_binding_drops_the_parents_fingerprint(tmp_path: Path) -> None:
    """A fingerprint says nothing of a tokenizer with another name."""
    base = f'tokenizer: {{name: a, fingerprint: "sha256:{"1" * 64}"}}'
    policy = load_policy(write(tmp_path, child="extends: base.yaml\ntokenizer: {name: b}", base=base))
    assert policy.tokenizer is not None
    assert (policy.tokenizer.name, policy.tokenizer.fingerprint) == ("b", None)


def test_extends_goes_through_any_number_of_parents(tmp_path: Path) -> None:
    """Depth counts the files between; a path is relative to the file that names it."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "root.yaml").write_text("guardtok: 1\nextends: chatml\nsources: {user: {block: ['<r>']}}")
    top = write(
        tmp_path,
        top="extends: mid.yaml\nsources: {user: {block: ['<t>']}}",
        mid="extends: deep/root.yaml\nsources: {user: {block: ['<m>']}}",
    )
    policy = load_policy(top)
    assert entries(policy, "user") == {("<t>", "block", 0), ("<m>", "block", 1), ("<r>", "block", 2)}
    template = policy.sources["template"].default
    assert template is not None
    assert (template.action, template.depth) == (Action.ALLOW, 3)


def test_a_local_file_may_extend_the_shipped_policy_of_its_own_name(tmp_path: Path) -> None:
    """A shipped name is not a path, so this is no circle."""
    assert load_policy(write(tmp_path, chatml="extends: chatml")).extends == load_policy("chatml")


def test_a_child_may_use_what_its_parent_declares(tmp_path: Path) -> None:
    """Groups, and forms that look like the name of a group, are inherited."""
    child = "extends: base.yaml\nsources: {user: {block: [g, sop, 'a*b']}}"
    policy = load_policy(write(tmp_path, child=child, base="groups: {g: ['<g>']}\nforms: [sop, 'a*b']"))
    assert {selector for selector, _, _ in entries(policy, "user")} == {"g", "sop", "a*b"}


LOCK = {"guardtok_lock": 1, "tokenizer": "t", "fingerprint": "sha256:" + "a" * 64, "ids": {"<x>": 5, "<😀>": 6}}


def test_a_lock_file_beside_a_policy_is_read_with_it(tmp_path: Path) -> None:
    """And holds for the children that have none of their own."""
    (tmp_path / "base.lock.json").write_text(json.dumps(LOCK, indent=1))
    child = load_policy(write(tmp_path, child="extends: base.yaml", base="custom_tokens: {'<x>': auto}"))
    assert child.lock is not None
    assert child.lock.file.endswith("base.lock.json")
    assert (child.lock.tokenizer, child.lock.fingerprint) == ("t", "sha256:" + "a" * 64)
    assert child.lock.ids == {"<x>": 5, "<😀>": 6}
    (tmp_path / "child.lock.json").write_text(json.dumps({**LOCK, "ids": {"<x>": 9}}))
    again = load_policy(tmp_path / "child.yaml").lock
    assert again is not None
    assert again.ids == {"<x>": 9}


# The digest.


def test_the_digest_is_of_the_content_and_not_of_the_spelling() -> None:
    """Comments, quotes, layout and places do not matter; one changed action does."""
    one = parse_policy("guardtok: 1\nname: n\nsources: {user: {block: ['<a>', '<b>'], default: escape}}")
    other = parse_policy(
        'guardtok: 1\nsources:\n  user:  # them\n    default: escape\n    block: \n    - "<b>"\n    - <a>\nname: "n"',
        place="elsewhere",
    )
    assert one.digest == other.digest
    assert one.digest.startswith("sha256:")
    assert len(one.digest) == 71
    assert parse_policy("guardtok: 1\nname: n").digest != one.digest


CHANGES = [
    ("name: support-chat", "name: other"),
    ("default: allow", "default: escape"),
    ('allow: ["@think"]', 'escape: ["@think"]'),
    ('["<|im_start|>", "<|im_end|>"]', '["<|im_start|>"]'),
    ('"<|tool|>": auto', '"<|tool|>": 3'),
    ("### System:", "### User:"),
    ("mode: monitor", "mode: enforce"),
    ("lookalikes: log}", "lookalikes: ignore}"),
    ("foreign: log", "foreign: block"),
    ("surrogates: replace", "surrogates: refuse"),
    ("max_hidden: 64", "max_hidden: 65"),
    ("text: never", "text: digest"),
    ("name: cl100k_im", "name: cl100k"),
]


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_whatever_decides_is_in_the_digest(old: str, new: str) -> None:
    """Each key of the schema that changes a decision or a record changes the digest."""
    assert old in EXAMPLE
    assert parse_policy(EXAMPLE.replace(old, new)).digest != parse_policy(EXAMPLE).digest


def test_rules_of_requests_are_merged_key_by_key_and_are_in_the_digest(tmp_path: Path) -> None:
    """A child's key replaces its parent's alone; the defaults leave the digest as it was before there was the key."""
    (tmp_path / "parent.yaml").write_text("guardtok: 1\nname: n\nrequests: {token_ids: check}\n", encoding="utf-8")
    child = tmp_path / "child.yaml"
    child.write_text("guardtok: 1\nextends: ./parent.yaml\nrequests: {chat_template: allow}\n", encoding="utf-8")
    assert load_policy(child).requests == RequestRules(CallerTemplate.ALLOW, TokenIds.CHECK)
    plain = parse_policy("guardtok: 1\nname: n")
    assert plain.requests == RequestRules(CallerTemplate.REFUSE, TokenIds.DENY)
    assert parse_policy("guardtok: 1\nname: n\nrequests: {token_ids: deny}").digest == plain.digest
    assert parse_policy("guardtok: 1\nname: n\nrequests: {token_ids: check}").digest != plain.digest
    assert parse_policy("guardtok: 1\nname: n\nrequests: {chat_template: allow}").digest != plain.digest


def test_the_order_of_auto_tokens_is_in_the_digest() -> None:
    """It gives them their ids; the order of tokens that name their id does not matter."""
    digests = [
        parse_policy(f"guardtok: 1\nname: n\ncustom_tokens: {{{tokens}}}").digest
        for tokens in ("<a>: auto, <b>: auto", "<b>: auto, <a>: auto", "<a>: 1, <b>: 2", "<b>: 2, <a>: 1")
    ]
    assert digests[0] != digests[1]
    assert digests[2] == digests[3]


def shuffled(value: Any, rng: random.Random) -> Any:  # noqa: ANN401 - YAML values
    """Return a value with the keys of every mapping and the items of every list in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key], rng) for key in rng.sample(list(value), len(value))}
    if isinstance(value, list):
        return [shuffled(item, rng) for item in rng.sample(value, len(value))]
    return value


@given(st.integers(0, 2**32))
def test_no_order_of_keys_or_lists_changes_the_policy(seed: int) -> None:
    """Order never matters: the digest, and with it everything that decides, stays."""
    content = YAML(typ="safe", pure=True).load(EXAMPLE)
    rng = random.Random(seed)  # noqa: S311 - an order, not a secret
    assert parse_policy(json.dumps(shuffled(content, rng))).digest == parse_policy(EXAMPLE).digest


# The schema for editors.


def test_the_json_schema_is_valid_draft_07() -> None:
    """The YAML language server reads draft-07; nothing of a newer draft is left."""
    schema = json_schema()
    Draft7Validator.check_schema(schema)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    text = json.dumps(schema)
    assert not [word for word in ("$defs", "prefixItems", '"null"', "unevaluated") if word in text]


def test_the_json_schema_accepts_what_loads() -> None:
    """The example and every shipped policy."""
    validator = Draft7Validator(json_schema())
    validator.validate(YAML(typ="safe", pure=True).load(EXAMPLE))
    for name in shipped_policies():
        validator.validate(YAML(typ="safe", pure=True).load(Path(load_policy(name).place).read_text(encoding="utf-8")))


WRONG = [
    {},
    {"guardtok": 2},
    {"guardtok": True},
    {"guardtok": 1, "unknown": 1},
    {"guardtok": 1, "name": None},
    {"guardtok": 1, "sources": {"User": {}}},
    {"guardtok": 1, "sources": {"user": {"defualt": "allow"}}},
    {"guardtok": 1, "sources": {"user": {"block": "@turn"}}},
    {"guardtok": 1, "sources": {"*": {"default": "log"}}},
    {"guardtok": 1, "custom_tokens": {"<a>": "automatic"}},
    {"guardtok": 1, "custom_tokens": {"<a>": -1}},
    {"guardtok": 1, "forms": [""]},
    {"guardtok": 1, "forms": [["INST"]]},
    {"guardtok": 1, "groups": {"1st": []}},
    {"guardtok": 1, "limits": {"max_chars": 0}},
    {"guardtok": 1, "mode": "monitoring"},
    {"guardtok": 1, "log": {"text": "all"}},
    {"guardtok": 1, "tokenizer": {"fingerprint": "abc"}},
]


@pytest.mark.parametrize("document", WRONG, ids=json.dumps)
def test_the_json_schema_refuses_what_does_not_load(document: dict[str, Any]) -> None:
    """An editor shows what `load` would refuse."""
    assert not Draft7Validator(json_schema()).is_valid(document)
    with pytest.raises(ValueError, match=":1:"):
        parse_policy(json.dumps(document))


def test_every_key_of_the_json_schema_is_described() -> None:
    """Editors show the descriptions."""
    schema = json_schema()
    models = [schema, *schema["definitions"].values()]
    described = [(key, "description" in field) for model in models for key, field in model["properties"].items()]
    assert [key for key, has in described if not has] == []
    assert {"guardtok", "sources", "default", "max_hidden", "text"} <= {key for key, _ in described}


def test_policies_are_immutable() -> None:
    """A guard shares its policy between threads."""
    policy = load_policy("chatml")
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.mode = Mode.MONITOR  # type: ignore[misc]
