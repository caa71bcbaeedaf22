"""Which action a policy has for a form: specificity, inheritance, conflicts, and that order never matters."""

from __future__ import annotations

import fnmatch
import json
import random
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardtok.errors import PolicyError, UnknownSourceError
from guardtok.policy import BUILTIN_SOURCES, load_policy, parse_policy
from guardtok.policy.resolve import (
    builtin_universe,
    conflicts,
    is_contested,
    resolve,
    sources_of,
    unknown_tokens,
)
from guardtok.policy.selectors import leaves, matching
from guardtok.violation import Action

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from guardtok.policy import Policy

UNIVERSE: Mapping[str, frozenset[str]] = {
    "<|im_start|>": frozenset({"@turn", "@special", "@dialect:qwen"}),
    "<|im_end|>": frozenset({"@turn", "@special", "@dialect:qwen"}),
    "</s>": frozenset({"@eos", "@special"}),
    "<think>": frozenset({"@think", "@special", "@dialect:qwen"}),
    "### System:": frozenset(),
}


def policy(sources: str, more: str = "") -> Policy:
    """Parse a policy from the content of its `sources`."""
    return parse_policy(f"guardtok: 1\nname: t\nsources: {{{sources}}}\n{more}")


def rules(policy: Policy, source: str = "user") -> dict[str, str]:
    """Return the rule that decides each form."""
    return {form: decision.rule for form, decision in resolve(policy, source, UNIVERSE).items()}


# From the most specific to the least.


def test_a_literal_beats_a_pattern_a_group_and_a_default() -> None:
    """Each of them alone would decide otherwise."""
    found = rules(
        policy("user: {allow: ['<|im_start|>'], strip: ['<|im*'], block: ['@special'], default: escape}"),
    )
    assert found == {
        "<|im_start|>": "user.allow[<|im_start|>]",
        "<|im_end|>": "user.strip[<|im*]",
        "</s>": "user.block[@special]",
        "<think>": "user.block[@special]",
        "### System:": "user.default",
    }


def test_own_groups_and_built_in_ones_are_equally_specific() -> None:
    """Even a group of nothing but literal forms."""
    text = "sources: {user: {allow: [mine], block: ['@turn']}}\ngroups: {mine: ['<|im_end|>']}"
    with pytest.raises(PolicyError, match=r"neither is more specific.*Name '<\|im_end\|>' itself"):
        parse_policy(f"guardtok: 1\n{text}")


def test_a_named_source_beats_the_star_whatever_is_said_there() -> None:
    """Its default stands before even a literal of `"*"`; without a default, what it does not select falls through."""
    star = "'*': {default: escape, block: ['</s>']}"
    with_default = policy("user: {default: allow}, " + star)
    assert set(rules(with_default).values()) == {"user.default"}
    without = policy("user: {allow: ['@turn']}, " + star)
    assert rules(without)["<|im_end|>"] == "user.allow[@turn]"
    assert rules(without)["</s>"] == "*.block[</s>]"
    assert rules(without)["<think>"] == "*.default"
    assert rules(without, "document")["</s>"] == "*.block[</s>]"


def test_what_nobody_speaks_of_is_blocked() -> None:
    """A policy without `"*"` fails closed."""
    decision = resolve(policy("template: {default: allow}"), "user", UNIVERSE)["</s>"]
    assert (decision.action, decision.rule, decision.mark) == (Action.BLOCK, "*.implicit", None)
    assert resolve(policy("user: {allow: ['@turn']}"), "user", UNIVERSE)["</s>"].rule == "*.implicit"


def test_a_decision_names_its_line() -> None:
    """For `policy explain`."""
    text = "guardtok: 1\nsources:\n  user:\n    default: escape\n    block:\n      - '@turn'\n"
    found = resolve(parse_policy(text), "user", UNIVERSE)
    assert str(found["<|im_end|>"].mark) == "<string>:6:9"
    assert str(found["</s>"].mark) == "<string>:4:14"


def test_groups_hold_forms_patterns_names_and_groups() -> None:
    """And an alias of a family is the family."""
    more = "groups: {a: ['</s>', b, '@dialect:qwen2.5'], b: ['### *'], none: []}"
    found = rules(policy("user: {block: [a], allow: [none], default: escape}", more))
    assert {form for form, rule in found.items() if rule == "user.block[a]"} == set(UNIVERSE)


def test_a_declared_form_is_literal_even_with_a_wildcard_in_it() -> None:
    """`forms` are never patterns."""
    declared = policy("user: {default: escape, block: ['*** END']}", "forms: ['*** END']")
    universe = {"*** END": frozenset[str](), "x END": frozenset[str](), "*** THE END": frozenset[str]()}
    found = resolve(declared, "user", universe)
    assert [form for form in universe if found[form].action is Action.BLOCK] == ["*** END"]


def test_sources_are_the_built_in_ones_and_the_declared() -> None:
    """`"*"` is no source; a source nobody knows is an error with the near match."""
    declared = policy("crawler: {default: escape}, '*': {default: block}, user: {default: escape}")
    assert sources_of(declared) == (*BUILTIN_SOURCES, "crawler")
    assert resolve(declared, "crawler", UNIVERSE)["</s>"].rule == "crawler.default"
    assert resolve(declared, "*", UNIVERSE)["</s>"].rule == "*.default"
    with pytest.raises(UnknownSourceError, match="Did you mean 'crawler'"):
        resolve(declared, "crawlr", UNIVERSE)


# Inheritance.


def inherit(tmp_path: Path, child: str, parent: str) -> Policy:
    """Load a child over a parent, each given as its content after `guardtok: 1`."""
    (tmp_path / "parent.yaml").write_text(f"guardtok: 1\n{parent}")
    (tmp_path / "child.yaml").write_text(f"guardtok: 1\nextends: parent.yaml\n{child}")
    return load_policy(tmp_path / "child.yaml")


def test_of_equally_specific_entries_the_nearer_file_wins(tmp_path: Path) -> None:
    """So a child never conflicts with its parent; but a parent's literal still beats a child's group."""
    found = rules(
        inherit(
            tmp_path,
            "sources: {user: {allow: ['@turn']}}",
            "sources: {user: {block: ['@special', '<|im_end|>'], default: escape}}",
        )
    )
    assert found == {
        "<|im_start|>": "user.allow[@turn]",
        "<|im_end|>": "user.block[<|im_end|>]",
        "</s>": "user.block[@special]",
        "<think>": "user.block[@special]",
        "### System:": "user.default",
    }


def test_a_childs_group_changes_what_the_parents_entry_selects(tmp_path: Path) -> None:
    """The entry is inherited, the group is replaced; if that makes the parent's entries disagree, it is a conflict."""
    parent = "groups: {g: ['</s>']}\nsources: {user: {block: [g], allow: ['@turn'], default: escape}}"
    found = rules(inherit(tmp_path, "groups: {g: ['<think>']}", parent))
    assert (found["</s>"], found["<think>"]) == ("user.default", "user.block[g]")
    with pytest.raises(PolicyError, match="both select"):
        inherit(tmp_path, "groups: {g: ['<|im_end|>']}", parent)


ACTIONS = st.sampled_from(["allow", "escape", "strip", "block"])
SELECTORS = st.sampled_from(["<|im_end|>", "</s>", "<think>", "<|im*", "*>", "@turn", "@special", "@eos", "@think"])
RULES = st.dictionaries(SELECTORS, ACTIONS, max_size=5)


def yaml_source(chosen: dict[str, str], default: str | None) -> dict[str, Any]:
    """Return the content of a source for selector → action."""
    source: dict[str, Any] = {"default": default} if default else {}
    for selector, action in chosen.items():
        source.setdefault(action, []).append(selector)
    return source


@given(RULES, RULES, RULES, st.none() | ACTIONS)
def test_the_childs_word_on_a_selector_is_the_last(
    tmp_path_factory: pytest.TempPathFactory,
    child: dict[str, str],
    parent: dict[str, str],
    grandparent: dict[str, str],
    default: str | None,
) -> None:
    """Over any three files: each selector has the action of the nearest file that names it, at that file's depth."""
    folder = tmp_path_factory.getbasetemp()
    chain = [child, parent, grandparent]
    for number, chosen in enumerate(chain):
        content: dict[str, Any] = {"guardtok": 1, "sources": {"user": yaml_source(chosen, default)}}
        if number < 2:
            content["extends"] = f"{number + 1}.yaml"
        (folder / f"{number}.yaml").write_text(json.dumps(content))
    expected: dict[str, tuple[str, int]] = {}
    for depth, chosen in reversed(list(enumerate(chain))):
        expected |= {selector: (action, depth) for selector, action in chosen.items()}
    try:
        loaded = load_policy(folder / "0.yaml")
    except PolicyError as error:
        assert all("both select" in problem.fact for problem in error.problems)  # noqa: PT017 - a rightful refusal
        return
    found = {entry.selector: (str(entry.action), entry.depth) for entry in loaded.sources["user"].entries}
    assert found == expected


# Conflicts.


def test_a_conflict_that_a_stronger_entry_decides_is_none() -> None:
    """The two groups disagree on two forms, and both are named literally; a nearer or stronger word settles it."""
    literal = policy("user: {allow: ['@turn'], block: ['@dialect:qwen'], strip: ['<|im_start|>', '<|im_end|>', '<*>']}")
    assert is_contested(literal)
    assert conflicts(literal, builtin_universe(literal)) == ()


def test_a_conflict_appears_with_the_tokens_that_cause_it() -> None:
    """Patterns are compared over the known forms, so a tokenizer's own tokens can make one."""
    quiet = policy("user: {allow: ['<zz*'], block: ['*zz>']}")
    assert conflicts(quiet, UNIVERSE) == ()
    (problem,) = conflicts(quiet, {**UNIVERSE, "<zz>": frozenset(), "<zz zz>": frozenset()})
    assert (problem.place, "'<zz zz>' and 1 more" in problem.fact) == ("<string>:3:43", True)


def test_equally_specific_entries_that_agree_are_no_conflict() -> None:
    """Two groups may overlap under one action; the rule that is named does not depend on their order."""
    one, other = (policy(f"user: {{default: escape, block: [{pair}]}}") for pair in ("'@turn', '@special'",
                                                                               "'@special', '@turn'"))  # fmt: skip
    assert not is_contested(one)
    assert rules(one) == rules(other)


def test_unresolved_conflicts_fall_to_the_strictest() -> None:
    """`resolve` never lets a disagreement admit a token, whoever forgot to ask `conflicts`."""
    quiet = policy("user: {allow: ['<zz*'], block: ['*zz>']}")
    assert resolve(quiet, "user", {"<zz>": frozenset()})["<zz>"].action is Action.BLOCK


@given(RULES, RULES, st.none() | ACTIONS, st.none() | ACTIONS, st.integers(0, 2**32))
def test_no_order_changes_a_decision(
    user: dict[str, str], star: dict[str, str], default: str | None, other: str | None, seed: int
) -> None:
    """Shuffled keys and lists give the same decisions, digest, and refusals."""
    rng = random.Random(seed)  # noqa: S311 - an order, not a secret
    results: list[object] = []
    for _ in range(2):
        pairs = [("user", yaml_source(shuffled(user, rng), default)), ("*", yaml_source(shuffled(star, rng), other))]
        rng.shuffle(pairs)
        text = json.dumps({"guardtok": 1, "name": "t", "sources": {name: shuffled(rule, rng) for name, rule in pairs}})
        try:
            loaded = parse_policy(text)
        except PolicyError:
            results.append(None)
        else:
            decisions = resolve(loaded, "user", UNIVERSE)
            results.append((loaded.digest, {form: (d.action, d.rule) for form, d in decisions.items()}))
    assert results[0] == results[1]


def shuffled(mapping: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Return a mapping with its keys, and the lists in it, in another order."""
    return {
        key: rng.sample(mapping[key], len(mapping[key])) if isinstance(mapping[key], list) else mapping[key]
        for key in rng.sample(list(mapping), len(mapping))
    }


@given(RULES, RULES, st.none() | ACTIONS, st.none() | ACTIONS)
def test_a_decision_is_that_of_the_first_rung_that_speaks(
    user: dict[str, str], star: dict[str, str], default: str | None, other: str | None
) -> None:
    """Against a plain reading of the rules: literal, pattern, group, default, then the same of `"*"`, then block."""
    content = {"user": yaml_source(user, default), "*": yaml_source(star, other)}
    try:
        loaded = parse_policy(json.dumps({"guardtok": 1, "sources": content}))
    except PolicyError:
        return
    for form, decision in resolve(loaded, "user", UNIVERSE).items():
        assert str(decision.action) == read_plainly(form, (user, default), (star, other))


def read_plainly(form: str, *sources: tuple[dict[str, str], str | None]) -> str:
    """Decide one form by walking down the rungs."""
    for chosen, default in sources:
        rungs = (
            [action for selector, action in chosen.items() if selector == form],
            [action for selector, action in chosen.items() if "*" in selector and fnmatch.fnmatchcase(form, selector)],
            [action for selector, action in chosen.items() if selector in UNIVERSE[form]],
            [default] if default else [],
        )
        for rung in rungs:
            if rung:
                # Entries that agree are as good as one; the small universe may not show what the catalogue would.
                return max(rung, key=["allow", "escape", "strip", "block"].index)
    return "block"


def test_conflicts_of_many_entries_are_cut_short() -> None:
    """A hundred of a source are told, in the order of the file; pairs that share nothing cost nothing."""
    allow, block = (json.dumps([f"<zz{n}-{star}" for n in range(120)]) for star in ("*", "**"))
    with_forms = parse_policy(f"guardtok: 1\nsources: {{user: {{allow: {allow}, block: {block}}}}}")
    problems = conflicts(with_forms, {f"<zz{n}->": frozenset() for n in range(120)})
    assert len(problems) == 100
    columns = [int(problem.place.rsplit(":", 1)[1]) for problem in problems]
    assert columns == sorted(columns)


def test_unknown_tokens_are_cut_short() -> None:
    """A hundred are told, and the first few with what was probably meant."""
    typos = policy(f"user: {{block: {json.dumps([f'<|im_strat{n}|>' for n in range(300)])}}}")
    problems = unknown_tokens(typos, UNIVERSE)
    assert len(problems) == 100
    assert sum("Did you mean" in problem.mend for problem in problems) == 5


# Patterns and groups.


@given(st.text("ab*", max_size=12), st.text("ab", max_size=12))
def test_a_pattern_matches_as_the_same_regular_expression(pattern: str, form: str) -> None:
    """`*` stands for any characters or none, and every other character for itself."""
    if "*" not in pattern:
        pattern += "*"
    expected = re.fullmatch(".*".join(map(re.escape, re.sub(r"\*+", "*", pattern).split("*"))), form) is not None
    assert list(matching(pattern, [form])) == [form] * expected


def test_only_the_star_is_a_wildcard() -> None:
    """Control tokens are full of what other languages give a meaning."""
    assert list(matching("<|im_*|>", ["<|im_start|>"])) == ["<|im_start|>"]
    assert list(matching("<?im_*|>", ["<|im_start|>"])) == []
    assert list(matching("[*]", ["[INST]"])) == ["[INST]"]
    assert list(matching("a*a", ["a"])) == []
    assert list(matching("a*b*b", ["ab"])) == []
    assert list(matching("a*b*b", ["abb"])) == ["abb"]
    assert list(matching("*", ["\n"])) == ["\n"]


def test_a_group_is_opened_once() -> None:
    """Even one that, unchecked, holds itself."""
    assert sorted(leaves("a", {"a": ["b", "b", "x"], "b": ["a", "y"]})) == ["x", "y"]


# What is known without a tokenizer.


def test_the_built_in_universe_knows_the_catalogue_and_the_policys_own() -> None:
    """Custom tokens are special; markers without an id are in no built-in group unless the catalogue knows them."""
    own = parse_policy("guardtok: 1\ncustom_tokens: {'<|tool|>': auto}\nforms: ['### System:']")
    universe = builtin_universe(own)
    assert {"@turn", "@special", "@dialect:qwen"} <= universe["<|im_start|>"]
    assert "@special" in universe["<|tool|>"]
    assert universe["### System:"] == frozenset()
    assert "<|tool|>" not in builtin_universe(load_policy("chatml")) or "@special" in universe["<|tool|>"]


def test_unknown_tokens_are_found_in_entries_and_groups_once_the_tokenizer_is_known() -> None:
    """Loading lets them pass, for a tokenizer may have tokens that the catalogue lacks."""
    typo = policy(
        "user: {block: ['<|im_strat|>', '<|mine|>', '<|own|>', '<|x*', '@turn', g]}",
        "groups: {g: ['<nonesuch-at-all-in-any-catalogue>', '</s>']}\nforms: ['<|own|>']",
    )
    first, second = unknown_tokens(typo, {*UNIVERSE, "<|mine|>"})
    assert str(first) == "<string>:3:26: No token '<|im_strat|>' is known. Did you mean '<|im_start|>'?"
    assert second.place == "<string>:4:10"
    assert "`custom_tokens`" in second.mend
    assert unknown_tokens(typo, {*UNIVERSE, "<|mine|>", "<|im_strat|>", "<nonesuch-at-all-in-any-catalogue>"}) == ()
