"""The policies that come with guardtok: each says who should take it, passes its own tests, and lints as pinned."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardtok.decide import decide
from guardtok.dialects import catalogue, family
from guardtok.encodings import load_tokenizer
from guardtok.intake import take_in
from guardtok.lint import lint
from guardtok.policy import BUILTIN_SOURCES, load_policy, parse_policy, shipped_policies
from guardtok.policy_test import run_policy_tests
from guardtok.ruleset import bind
from guardtok.scan import scan
from guardtok.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.decide import Decided
    from guardtok.ruleset import Ruleset
    from guardtok.tokenizer import Tokenizer

NAMES = (
    "chatml",
    "corpus",
    "deepseek",
    "gemma",
    "gpt2",
    "harmony",
    "llama3",
    "mistral",
    "monitor",
    "qwen",
    "reasoning",
    "sft",
    "strict",
)

# What lint says of a shipped policy is what its comments say in prose; anything new is to be looked at by a person.
LINT = {
    "monitor": ["weakens-parent", "weakens-parent", "weakens-parent", "monitor-mode"],
    "reasoning": ["allow-untrusted", "weakens-parent"],
    "sft": ["allow-untrusted", "weakens-parent", "allow-untrusted", "weakens-parent"],
}

# The families whose tokens a tokenizer needs to have for every test of the policy to apply to it.
FAMILIES = {
    "corpus": ["llama3"],
    "deepseek": ["deepseek", "deepseek_v4"],
    "gemma": ["gemma3", "gemma4"],
    "gpt2": ["cl100k"],
    "harmony": ["harmony"],
    "llama3": ["llama3"],
    "mistral": ["mistral_tekken", "mistral_v11"],
    "qwen": ["qwen", "qwen1"],
    "sft": ["qwen", "llama3", "llama2"],
}

PROSE = (
    "It costs 5 < 6 and 7 > 4; see [1], a[i][j], {x: y} and <b>this</b>.\n### System: no | pipe |> here <|\n"
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. 你好世界 🙂 \x00\t\r\n"
    "User: hi\nAssistant: hello <!-- comment --> `<div class='s'>` $x_1$ >>> print(1 << 2)\n"
)


def decided(ruleset: Ruleset, text: str, source: str | None) -> Decided:
    """Return what a policy decides about a text."""
    policy = ruleset.policy
    intake = take_in(text, source, known=ruleset.sources, limits=policy.limits, surrogates=policy.surrogates)
    return decide(scan(intake, ruleset), intake, ruleset)


def extended(families: list[str]) -> Tokenizer:
    """Return the embedded tokenizer with the control tokens of families."""
    tokenizer = load_tokenizer("guardtok")
    known = {token.form for token in tokenizer.control_tokens}
    forms = {form for slug in families for form in catalogue() if family(slug).slug in catalogue()[form].families}
    return tokenizer.with_custom_tokens(
        {form: tokenizer.n_vocab + number for number, form in enumerate(sorted(forms - known))}
    )


def test_the_shipped_policies_are_these() -> None:
    """None is lost, and none comes in without being tested here."""
    assert shipped_policies() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_says_who_should_take_it(name: str) -> None:
    """The sentence is there and begins with whom it is for."""
    description = load_policy(name).description
    assert description.startswith(("For ", "The one to start with"))
    assert description.endswith(".")
    assert len(description) > 80


@pytest.mark.parametrize("name", NAMES)
def test_lint_says_what_is_pinned(name: str) -> None:
    """The weakenings of a shipped policy are known one by one."""
    assert [finding.code for finding in lint(load_policy(name))] == LINT.get(name, [])


@pytest.mark.parametrize("name", NAMES)
def test_its_tests_pass_unbound_and_reach_every_rule(name: str) -> None:
    """Over the whole catalogue every test applies, and every entry and default is reached by one."""
    (result,) = run_policy_tests([name])
    assert [case for case in result.cases if case.status != "passed"] == []
    assert result.untouched == ()


@pytest.mark.parametrize("name", NAMES)
def test_its_tests_pass_on_the_embedded_tokenizer(name: str) -> None:
    """What the embedded tokenizer does not have is skipped, and something always is left."""
    (result,) = run_policy_tests([name], tokenizer=load_tokenizer("guardtok"))
    assert [case for case in result.cases if case.status == "failed"] == []
    assert [case for case in result.cases if case.status == "passed"] != []


@pytest.mark.parametrize("name", NAMES)
def test_its_tests_pass_on_a_tokenizer_that_fits(name: str) -> None:
    """With the tokens of its family, bound is as unbound, and a wrong template is what is left over at most."""
    (result,) = run_policy_tests([name], tokenizer=extended(FAMILIES.get(name, [])))
    assert [case for case in result.cases if case.status == "failed"] == []
    skipped = [case.name for case in result.cases if case.status == "skipped"]
    assert all("another family" in name for name in skipped)


@pytest.mark.parametrize(
    ("name", "vocabulary"),
    [
        ("gpt2", "gpt2"),
        ("gpt2", "cl100k_base"),
        ("qwen", "qwen"),
        ("harmony", "o200k_harmony"),
        ("chatml", "cl100k_im"),
        ("strict", "cl100k_im"),
        ("corpus", "gpt2"),
    ],
)
def test_its_tests_pass_on_a_real_vocabulary(vocab: Callable[[str], Tokenizer], name: str, vocabulary: str) -> None:
    """Nothing differs on the real thing."""
    (result,) = run_policy_tests([name], tokenizer=vocab(vocabulary))
    assert [case for case in result.cases if case.status == "failed"] == []
    assert [case for case in result.cases if case.status == "passed"] != []
    assert [finding.code for finding in lint(load_policy(name), vocab(vocabulary)) if finding.severity == "error"] == []


@pytest.mark.parametrize("name", NAMES)
def test_ordinary_text_is_never_touched(name: str) -> None:
    """Prose, markup and code without control tokens are nobody's business, whoever wrote them, bound or not."""
    for tokenizer in (None, load_tokenizer("guardtok")):
        ruleset = bind(load_policy(name), tokenizer)
        for source in BUILTIN_SOURCES:
            assert decided(ruleset, PROSE, source).count == 0


@pytest.fixture(scope="module")
def chatml() -> tuple[Ruleset, ...]:
    """`chatml` without a tokenizer and with one."""
    return bind(load_policy("chatml"), None), bind(load_policy("chatml"), load_tokenizer("guardtok"))


forms = st.sampled_from(
    ["<|im_start|>", "<|im_end|>", "</s>", "[INST]", "<think>", "<|im_", "end|>", "<\uff5cUser\uff5c>"]
)
pieces = st.lists(st.tuples(st.sampled_from(BUILTIN_SOURCES), st.one_of(st.text(max_size=8), forms)), max_size=8)


@given(parts=pieces)
def test_chatml_refuses_nothing_and_only_the_template_writes_tokens(
    chatml: tuple[Ruleset, ...], parts: list[tuple[str, str]]
) -> None:
    """Whatever anybody writes, next to whomever, nothing is refused or cut, and every token is the template's."""
    text = Text("", source="template").join(Text(text, source=source) for source, text in parts)
    for ruleset in chatml:
        result = decided(ruleset, text, None)
        assert result.refused is None
        assert result.cuts == ()
        for _, start, end in result.allowed:
            assert {run.source for run in text[start:end].runs} == {"template"}


def test_every_form_from_anybody_is_text_under_chatml(chatml: tuple[Ruleset, ...]) -> None:
    """Not one of the catalogue's forms is allowed, cut or refused for anybody but the template."""
    for ruleset in chatml:
        for source in set(BUILTIN_SOURCES) - {"template"}:
            assert {decision.action.value for decision in ruleset.table[source]} <= {"escape", "log"}


def test_strict_allows_nothing_to_anybody_else(chatml: tuple[Ruleset, ...]) -> None:
    """And it is at least as strict as `chatml` for every form and source."""
    strict = bind(load_policy("strict"), None)
    for source, decisions in strict.table.items():
        pairs = zip(decisions, chatml[0].table[source], strict=True)
        assert all(mine.action.severity >= theirs.action.severity for mine, theirs in pairs)


def test_a_monitor_refuses_nothing() -> None:
    """Half a surrogate pair, a long text or every form of the catalogue: what strict refuses goes through."""
    ruleset = bind(load_policy("monitor"), None)
    text = "\ud83d" + "x" * 1_000_001 + " ".join(list(catalogue())[:500])
    result = decided(ruleset, text, "user")
    assert result.action.value == "block"
    assert result.refused is None


def test_strict_refuses_half_a_surrogate_pair() -> None:
    """A YAML test cannot write one."""
    from guardtok.errors import SurrogateError

    with pytest.raises(SurrogateError):
        decided(bind(load_policy("strict"), None), "\ud83d", "user")


def test_the_manual_has_every_policy_and_its_examples_load(tmp_path: Path) -> None:
    """A reader who copies an example gets a policy that loads, and tests that pass."""
    manual = (Path(__file__).parent.parent / "docs" / "policies.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"\n| `{name}` | " not in manual] == []
    first, second, tests = re.findall(r"^```yaml\n(.*?)^```", manual, re.DOTALL | re.MULTILINE)
    (tmp_path / "first.yaml").write_text(first, encoding="utf-8")
    (tmp_path / "first.test.yaml").write_text(tests, encoding="utf-8")
    assert parse_policy(second).name == "my-llama"
    (result,) = run_policy_tests([tmp_path / "first.yaml"])
    assert result.passed


def test_the_manual_has_every_code_of_lint() -> None:
    """And no others."""
    root = Path(__file__).parent.parent
    source = "".join(path.read_text(encoding="utf-8") for path in (root / "guardtok" / "lint").glob("*.py"))
    codes = set(re.findall(r'LintFinding\(\s*"([a-z-]+)"', source))
    section = (root / "docs" / "policies.md").read_text(encoding="utf-8").split("## Lint")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z-]+)`", section, re.MULTILINE)) == codes
