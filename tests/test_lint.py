"""Each kind of finding has a policy that sets it off and one next to it that does not."""

from __future__ import annotations

import json
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from guardtok.encodings import load_tokenizer
from guardtok.lint import LintFinding, Severity, lint
from guardtok.policy import Policy, load_policy, parse_policy

if TYPE_CHECKING:
    from pathlib import Path

    from guardtok.tokenizer import Tokenizer

# Sets nothing off, so that each test below shows one kind of finding alone.
QUIET = 'guardtok: 1\nsources:\n  template: {default: allow}\n  "*": {default: escape}\n'


@pytest.fixture(scope="module")
def embedded() -> Tokenizer:
    """The embedded tokenizer, which has `<think>` and no `[INST]`."""
    return load_tokenizer("guardtok")


def policy_of(text: str) -> Policy:
    """Parse a policy that is written with the indentation of its test."""
    return parse_policy("guardtok: 1\n" + dedent(text))


def found(policy: Policy, tokenizer: Tokenizer | None = None) -> list[tuple[str, str]]:
    """Return code and line:column of each finding."""
    return [(each.code, each.place.split(":", 1)[1]) for each in lint(policy, tokenizer)]


def test_a_quiet_policy_has_no_findings(embedded: Tokenizer) -> None:
    """Nothing is reported where there is nothing to report, bound or not."""
    assert lint(parse_policy(QUIET)) == ()
    assert lint(parse_policy(QUIET), embedded) == ()


def test_an_entry_under_more_specific_ones_never_applies() -> None:
    """A pattern whose every form is named literally decides nothing; the finding says where the winners are."""
    policy = policy_of("""
        sources:
          user: {escape: ["<|im_st*"], block: ["<|im_start|>"]}
          "*": {default: escape}
    """)
    (finding,) = lint(policy)
    assert (finding.code, finding.severity, finding.place) == ("never-applies", Severity.WARNING, "<string>:4:19")
    assert "'<|im_start|>' at <string>:4:40" in finding.fact


def test_an_entry_that_decides_one_form_applies() -> None:
    """A pattern of which one form is left does something."""
    policy = policy_of("""
        sources:
          user: {escape: ["<|im_*"], block: ["<|im_start|>"]}
          "*": {default: escape}
    """)
    assert found(policy) == []


def test_an_entry_that_selects_nothing_never_applies() -> None:
    """A pattern that no known form fits is a slip."""
    policy = policy_of("""
        sources:
          "*": {default: escape, block: ["<|in_start*"]}
    """)
    assert found(policy) == [("never-applies", "4:34")]


def test_an_entry_for_the_rest_never_applies_where_no_rest_is() -> None:
    """An entry of `"*"` is reached by the sources that have no default of their own; every source here has one."""
    sources = (
        "template system developer user assistant tool_result tool_definition tool_arguments document name unknown"
    )
    own = "".join(f"  {source}: {{default: escape}}\n" for source in sources.split())
    rest = '  "*": {default: block, block: ["@turn"]}\n'
    assert found(parse_policy(f"guardtok: 1\nsources:\n{own}{rest}")) == [("never-applies", "14:33")]
    left = own.replace("  name: {default: escape}\n", '  name: {escape: ["@think"]}\n')
    assert found(parse_policy(f"guardtok: 1\nsources:\n{left}{rest}")) == []


def test_an_inherited_entry_may_be_overridden(tmp_path: Path) -> None:
    """What a child overrides of its parent never applies on purpose."""
    (tmp_path / "parent.yaml").write_text(
        QUIET.replace('"*": {default', '"*": {block: ["<|im_st*"], default'), encoding="utf-8"
    )
    child = 'guardtok: 1\nextends: ./parent.yaml\nsources:\n  "*": {block: ["<|im_start|>"]}\n'
    (tmp_path / "child.yaml").write_text(child, encoding="utf-8")
    assert [each.code for each in lint(load_policy(tmp_path / "child.yaml"))] == []


def test_a_group_that_no_rule_uses_is_reported() -> None:
    """A group is used by a rule, or by a group that is."""
    text = """
        groups:
          inner: ["@turn"]
          outer: [inner, "@eos"]
          idle: [inner]
        sources:
          "*": {default: escape, block: [outer]}
    """
    assert found(policy_of(text)) == [("unused-group", "6:3")]
    assert found(policy_of(text.replace("block: [outer]", "block: [outer, idle]"))) == []


def test_a_group_of_the_parent_is_the_parents_business(tmp_path: Path) -> None:
    """A child that takes over a group and does not use it is not told so; who wrote the group is."""
    (tmp_path / "parent.yaml").write_text(QUIET + 'groups: {idle: ["@turn"]}\n', encoding="utf-8")
    (tmp_path / "child.yaml").write_text("guardtok: 1\nextends: ./parent.yaml\n", encoding="utf-8")
    assert [each.code for each in lint(load_policy(tmp_path / "child.yaml"))] == []
    assert [each.code for each in lint(load_policy(tmp_path / "parent.yaml"))] == ["unused-group"]


def test_what_strangers_may_write_is_reported() -> None:
    """Every `allow` for a source that is not the operator's own is named with what it allows."""
    policy = policy_of("""
        sources:
          developer: {default: allow}
          assistant: {allow: ["<think>", "@tool"]}
          "*": {default: escape}
    """)
    first, second = lint(policy)
    assert [(each.code, each.severity) for each in (first, second)] == [("allow-untrusted", Severity.WARNING)] * 2
    assert first.place == "<string>:5:23"
    assert "assistant.allow[<think>], source 'assistant' may write '<think>'." in first.fact
    assert "assistant.allow[@tool]" in second.fact


def test_a_default_that_allows_names_all_it_lets_in() -> None:
    """`"*": {default: allow}` opens every source that has no rules, and the finding lists them."""
    (finding,) = lint(policy_of('sources: {system: {default: escape}, "*": {default: allow}}'))
    assert "'user', 'assistant', 'tool_result'" in finding.fact
    assert "system" not in finding.fact
    assert "all control tokens" in finding.fact


def test_only_what_the_tokenizer_has_is_an_open_door(embedded: Tokenizer) -> None:
    """Bound, a finding counts the tokens that can come out."""
    policy = policy_of("""
        sources:
          assistant: {allow: ["@think"]}
          "*": {default: escape}
    """)
    (finding,) = lint(policy, embedded)
    assert "may write '</think>', '<think>'." in finding.fact


@pytest.mark.parametrize(
    ("child", "place", "words"),
    [
        ("sources: {user: {default: escape}}", "3:27", "user.default makes escape of all control tokens"),
        ('sources: {user: {escape: ["@eos"]}}', "3:27", "user.escape[@eos] makes escape of"),
        ('sources: {"*": {strip: ["<think>"]}}', "3:25", "*.strip[<think>] makes strip of '<think>'"),
        ("sources: {plugin: {default: escape}}", "3:29", "For source 'plugin', plugin.default"),
        ("sources: {user: {mode: monitor}}", "3:11", "`mode` is monitor for source 'user'; 'parent' enforces."),
        ("mode: monitor", "3:1", "`mode` is monitor for sources 'template', 'system'"),
        ("foreign: ignore", "3:1", "`foreign` is ignore; in 'parent' it is log."),
        ("lookalikes: ignore", "3:1", "`lookalikes` is ignore; in 'parent' it is log."),
        ("surrogates: replace", "3:1", "`surrogates` is replace; in 'parent' it is refuse."),
        ("log: {text: digest}", "3:1", "`log` is digest; in 'parent' it is never."),
        ("text_tokens: ['<think>']", "3:15", "which every source may write; for 'parent' it is a token."),
        ("limits: {max_chars: 6}", "3:1", "`limits.max_chars` is 6; in 'parent' it is 5."),
        ("tokenizer: {name: guardtok}", "3:1", "'parent' pins the tokenizer's fingerprint."),
    ],
)
def test_every_weakening_of_a_parent_is_reported(tmp_path: Path, child: str, place: str, words: str) -> None:
    """Whatever a child makes milder is reported once, at the line that does it."""
    fingerprint = f"sha256:{'0' * 64}"
    (tmp_path / "parent.yaml").write_text(
        f'guardtok: 1\nsources: {{"*": {{default: block}}}}\nsurrogates: refuse\nlimits: {{max_chars: 5}}\n'
        f'tokenizer: {{name: guardtok, fingerprint: "{fingerprint}"}}\n',
        encoding="utf-8",
    )
    (tmp_path / "child.yaml").write_text(f"guardtok: 1\nextends: ./parent.yaml\n{child}\n", encoding="utf-8")
    findings = lint(load_policy(tmp_path / "child.yaml"))
    weak = [each for each in findings if each.code == "weakens-parent"]
    assert [each.place for each in weak] == [f"{tmp_path / 'child.yaml'}:{place}"]
    assert words in weak[0].fact


@pytest.mark.parametrize(
    ("parent", "child", "found"),
    [
        ("", "token_ids: check", ["requests.token_ids"]),
        ("", "chat_template: allow", ["requests.chat_template"]),
        ("requests: {token_ids: allow}", "token_ids: check", []),
        ("requests: {chat_template: allow}", "token_ids: deny", []),
    ],
)
def test_more_that_requests_may_hold_is_a_weakening(tmp_path: Path, parent: str, child: str, found: list[str]) -> None:
    """`requests` in a child is compared with its parent's, key by key."""
    (tmp_path / "parent.yaml").write_text(f"guardtok: 1\nextends: chatml\n{parent}\n", encoding="utf-8")
    path = tmp_path / "child.yaml"
    path.write_text(f"guardtok: 1\nextends: ./parent.yaml\nrequests: {{{child}}}\n", encoding="utf-8")
    said = [finding for finding in lint(load_policy(path)) if finding.code == "weakens-parent"]
    assert [finding.fact.split("`")[1] for finding in said] == found
    assert all(finding.place.endswith("child.yaml:3:1") for finding in said)


def test_other_chat_templates_and_more_roles_are_weakenings(tmp_path: Path) -> None:
    """Pins that are dropped or exchanged, and roles that are added, are named; fewer pins are not."""
    one, two = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
    parent = tmp_path / "parent.yaml"
    parent.write_text(f'guardtok: 1\nextends: chatml\nchat: {{templates: ["{one}", "{two}"]}}\n', encoding="utf-8")
    for chat, found in (
        (f'templates: ["{one}"]', []),
        ("templates: []", ["chat.templates"]),
        (f'templates: ["sha256:{"3" * 64}"]', ["chat.templates"]),
        ("roles: [critic]", ["critic"]),
    ):
        child = tmp_path / "child.yaml"
        child.write_text(f"guardtok: 1\nextends: ./parent.yaml\nchat: {{{chat}}}\n", encoding="utf-8")
        facts = [each.fact for each in lint(Policy.load(child)) if each.code == "weakens-parent"]
        assert len(facts) == len(found)
        assert all(word in fact for word, fact in zip(found, facts, strict=True))


@pytest.mark.parametrize(
    "child",
    [
        "sources: {user: {default: block}}",
        'sources: {user: {default: escape, block: ["*"]}}',
        "foreign: block",
        "surrogates: refuse",
        "limits: {max_chars: 4}",
        "sources: {user: {mode: enforce}}",
        "",
    ],
)
def test_a_child_that_is_as_strict_weakens_nothing(tmp_path: Path, child: str) -> None:
    """What is the same or stricter is no weakening."""
    (tmp_path / "parent.yaml").write_text(
        'guardtok: 1\nsources: {"*": {default: escape}}\nlimits: {max_chars: 5}\n', encoding="utf-8"
    )
    (tmp_path / "child.yaml").write_text(f"guardtok: 1\nextends: ./parent.yaml\n{child}\n", encoding="utf-8")
    assert [each.code for each in lint(load_policy(tmp_path / "child.yaml"))] == []


def weakened(tmp_path: Path, parent: str, child: str, tokenizer: Tokenizer | None = None) -> list[str]:
    """Return line:column and fact of each weakening of a parent."""
    (tmp_path / "parent.yaml").write_text(f"guardtok: 1\n{parent}\n", encoding="utf-8")
    text = f"guardtok: 1\nextends: {parent if ' ' not in parent else './parent.yaml'}\n{child}\n"
    (tmp_path / "child.yaml").write_text(text, encoding="utf-8")
    findings = lint(load_policy(tmp_path / "child.yaml"), tokenizer)
    place = f"{tmp_path / 'child.yaml'}:"
    return [f"{each.place.removeprefix(place)} {each.fact}" for each in findings if each.code == "weakens-parent"]


@pytest.mark.parametrize("bound", [True, False])
def test_a_form_that_a_child_no_longer_spells_out_is_reported(
    tmp_path: Path, embedded: Tokenizer, *, bound: bool
) -> None:
    """Under a tokenizer that lacks `[INST]` the parent blocked it because it named it; the child only logs it."""
    child = 'groups: {turns_anywhere: ["<|im_start|>"]}'
    tokenizer = embedded if bound else None
    facts = weakened(tmp_path, "strict", child, tokenizer)
    assert [fact.split(" ")[0] for fact in facts] == ["3:10", "3:10"]
    assert "foreign makes log of" in facts[1]
    assert "'tool_result'" in facts[1]
    assert facts[1].endswith("'strict' says block.")
    assert weakened(tmp_path, "strict", child + "\nforeign: block", tokenizer) == []
    kept = 'groups: {turns_anywhere: ["<|im_start|>"], old: ["[INST]"]}'
    assert "'[INST]'" not in str(weakened(tmp_path, "strict", kept, tokenizer))
    ignored = weakened(tmp_path, "strict", child + "\nforeign: ignore", tokenizer)
    assert sum("not looking for it makes allow of" in fact for fact in ignored) == 2


def test_a_comparison_under_a_tokenizer_is_of_what_comes_out(tmp_path: Path, embedded: Tokenizer) -> None:
    """A rule for tokens that the tokenizer lacks changes nothing there, for `foreign` decides them."""
    parent = 'sources: {"*": {default: block}}'
    child = 'sources: {user: {escape: ["[INST*"]}}'
    assert len(weakened(tmp_path, parent, child)) == 1
    assert weakened(tmp_path, parent, child, embedded) == []


@pytest.mark.parametrize(
    ("parent", "child", "fact"),
    [
        (
            'mode: monitor\nsources: {"*": {default: block, mode: enforce}}',
            "sources: {user: {mode: monitor}}",
            "3:11 `mode` is monitor for source 'user'; 'parent' enforces.",
        ),
        (
            "mode: monitor\nsources: {user: {mode: enforce}, '*': {mode: enforce}}",
            "sources: {'*': {mode: monitor}}",
            "3:11 `mode` is monitor for sources 'template', 'system'",
        ),
        (
            "sources: {user: {lookalikes: block}}",
            "sources: {user: {lookalikes: escape}}",
            "3:11 `lookalikes` of source 'user' is escape; in 'parent' it is block.",
        ),
        (
            "lookalikes: block",
            "sources: {user: {lookalikes: log}}",
            "3:11 `lookalikes` of source 'user' is log; in 'parent' it is block.",
        ),
    ],
)
def test_what_holds_for_a_source_is_compared(tmp_path: Path, parent: str, child: str, fact: str) -> None:
    """Through `"*"` and the policy's own setting, as it is decided."""
    (found_fact,) = weakened(tmp_path, parent, child)
    assert found_fact.startswith(fact)


def test_a_limit_of_nought_is_worth_knowing() -> None:
    """Nothing is recorded, or nothing hidden is seen."""
    assert found(parse_policy(QUIET + "limits: {max_violations: 0}\n")) == [("limit-of-zero", "1:1")]
    assert found(parse_policy(QUIET + "limits: {max_hidden: 0}\n")) == [("limit-of-zero", "1:1")]
    assert found(parse_policy(QUIET + "limits: {max_violations: 1, max_hidden: 1}\n")) == []


def test_an_automatic_id_needs_a_lock_file(tmp_path: Path) -> None:
    """`auto` without a lock is reported at the token; with a lock, or with an id, it is not."""
    path = tmp_path / "mine.yaml"
    path.write_text(QUIET + 'custom_tokens: {"<|tool|>": auto, "<|/tool|>": 9000}\n', encoding="utf-8")
    assert found(load_policy(path)) == [("auto-without-lock", "5:17")]
    lock = {"guardtok_lock": 1, "tokenizer": "x", "fingerprint": f"sha256:{'0' * 64}", "ids": {"<|tool|>": 9001}}
    (tmp_path / "mine.lock.json").write_text(json.dumps(lock), encoding="utf-8")
    assert found(load_policy(path)) == []


def test_what_the_tokenizer_lacks_is_reported(embedded: Tokenizer) -> None:
    """A form that only other tokenizers have is worth knowing; to allow it is a mistake."""
    policy = policy_of("""
        groups:
          turns: ["[INST]", "<|im_start|>"]
        sources:
          template: {default: escape, allow: ["[/INST]"]}
          "*": {default: escape, block: [turns, "@media"]}
    """)
    assert found(policy) == []
    assert [(each.code, each.severity, each.place) for each in lint(policy, embedded)] == [
        ("unknown-to-tokenizer", Severity.WARNING, "<string>:6:39"),
        ("unknown-to-tokenizer", Severity.INFO, "<string>:4:3"),
        ("unknown-to-tokenizer", Severity.INFO, "<string>:7:41"),
    ]


def test_a_form_that_nobody_knows_is_an_error(embedded: Tokenizer) -> None:
    """A guard would refuse the policy, and lint says so first, with the near match."""
    policy = parse_policy(QUIET.replace("default: escape", 'default: escape, block: ["<|im_strat|>"]'))
    for tokenizer in (None, embedded):
        (finding,) = lint(policy, tokenizer)
        assert (finding.code, finding.severity) == ("unknown-form", Severity.ERROR)
        assert "'<|im_start|>'" in finding.mend


def test_a_form_of_the_policys_own_tokenizer_may_be_unknown_without_it() -> None:
    """Where a policy names its tokenizer, only that one can say what it has."""
    policy = parse_policy(QUIET.replace("escape}", 'escape, block: ["<|mine|>"]}') + "tokenizer: {name: mine}\n")
    assert [(each.code, each.severity) for each in lint(policy)] == [
        ("unknown-form", Severity.WARNING),
        ("unpinned-tokenizer", Severity.INFO),
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f'tokenizer: {{name: guardtok, fingerprint: "sha256:{"0" * 64}"}}', "5:1"),
        ('custom_tokens: {"<|tool|>": 8448}', "1:1"),
    ],
)
def test_a_policy_that_the_tokenizer_cannot_take_is_an_error(embedded: Tokenizer, text: str, place: str) -> None:
    """What a guard would raise is a finding with a place, said once."""
    (finding,) = lint(parse_policy(QUIET + text), embedded)
    assert (finding.code, finding.severity, finding.place) == ("does-not-bind", Severity.ERROR, f"<string>:{place}")
    assert not finding.fact.startswith("<string>")


@pytest.mark.parametrize(
    ("source", "codes"),
    [
        ("users", ["near-builtin-source"]),
        ("tool_results", ["near-builtin-source"]),
        ("assistent", ["near-builtin-source"]),
        ("web_document", []),
        ("web_result", []),
        ("plugin", []),
        ("user", []),
    ],
)
def test_a_source_that_is_nearly_a_builtin_one_is_reported(source: str, codes: list[str]) -> None:
    """`users` guards nothing that is labelled `user`; a name with the word in it, or a far one, is meant."""
    policy = parse_policy(QUIET + f"  {source}: {{default: block}}\n")
    assert [each.code for each in lint(policy)] == codes


def test_the_lack_of_a_rule_for_the_rest_is_reported() -> None:
    """Without `"*"` the rest is blocked, which is safe and may surprise; the finding lists who is meant."""
    (finding,) = lint(policy_of("sources: {template: {default: allow}, user: {block: ['@turn']}}"))
    assert (finding.code, finding.severity, finding.place) == ("no-any-source", Severity.INFO, "<string>:1:1")
    assert "'user'" in finding.fact
    assert "'template'" not in finding.fact


def test_a_mode_that_only_watches_is_reported() -> None:
    """Nobody shall take a monitor for a guard."""
    assert found(parse_policy(QUIET + "mode: monitor\n")) == [("monitor-mode", "1:1")]
    assert found(parse_policy(QUIET + "  name: {mode: monitor}\n")) == [("monitor-mode", "5:3")]
    assert found(parse_policy(QUIET + "mode: enforce\n")) == []


def test_an_unpinned_tokenizer_is_reported(embedded: Tokenizer) -> None:
    """A name alone says nothing of the ids; a fingerprint does."""
    assert found(parse_policy(QUIET + "tokenizer: {name: guardtok}\n"), embedded) == [("unpinned-tokenizer", "5:1")]
    pinned = f'tokenizer: {{name: guardtok, fingerprint: "{embedded.fingerprint}"}}\n'
    assert found(parse_policy(QUIET + pinned), embedded) == []


def test_the_place_of_a_setting_is_in_the_file_that_says_it(tmp_path: Path) -> None:
    """An inherited `mode: monitor` is shown where it is written."""
    (tmp_path / "parent.yaml").write_text(QUIET + "mode: monitor\n", encoding="utf-8")
    (tmp_path / "child.yaml").write_text("guardtok: 1\nextends: ./parent.yaml\n", encoding="utf-8")
    (finding,) = lint(load_policy(tmp_path / "child.yaml"))
    assert finding.place.endswith("parent.yaml:5:1")


def test_findings_come_worst_first_and_print_on_one_line() -> None:
    """A list is read from the top; each line has place, severity, code, fact and mend."""
    policy = parse_policy(
        QUIET.replace("escape}", 'escape, block: ["<|nope|>", "@dialect:text_markers"]}') + "mode: monitor\n"
    )
    assert [each.severity for each in lint(policy)] == [Severity.ERROR, Severity.WARNING, Severity.INFO]
    shown = str(LintFinding("code", Severity.INFO, "p.yaml:1:2", "Fact.", "Mend."))
    assert shown == "p.yaml:1:2: info[code]: Fact. Mend."
