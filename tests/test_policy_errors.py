"""Every mistake in a policy is a `PolicyError` that says where it is, what it is, and how to mend it."""

from __future__ import annotations

import json
import os
import pickle
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guardtok.errors import PolicyError
from guardtok.policy import load_policy, parse_policy

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PLACE = re.compile(r".+:[1-9][0-9]*:[1-9][0-9]*")


def problems_of(text: str) -> list[str]:
    """Return the problems of a text, which must have some, each with a place."""
    with pytest.raises(PolicyError) as caught:
        parse_policy(text)
    assert caught.value.problems
    assert all(PLACE.fullmatch(problem.place) for problem in caught.value.problems)
    assert all(problem.fact for problem in caught.value.problems)
    return [str(problem).removeprefix("<string>:") for problem in caught.value.problems]


def problem_of(text: str) -> str:
    """Return the one problem of a text that begins `guardtok: 1`; the text itself begins at line 2."""
    problems = problems_of("guardtok: 1\n" + text)
    assert len(problems) == 1
    return problems[0]


MISTAKES = {
    "the character of a gap": ('forms: ["<|\ufffd|>"]', "2:9", "holds U+FFFD"),
    "unquoted @": ("sources: {user: {block: [@turn]}}", "2:26", 'Quote it: "@turn".'),
    "unquoted @ in a block list": ("sources:\n  user:\n    block:\n      - @turn", "5:9", 'Quote it: "@turn".'),
    "unquoted [INST]": ("sources: {user: {block: [INST]}}", "2:26", 'quote it: "[INST]"'),
    "unquoted [INST] in a list": ("sources: {user: {block: [[INST]]}}", "2:26", 'quote it: "[INST]"'),
    "unquoted [INST] as a form": ("forms: [[/INST]]", "2:9", 'quote it: "[/INST]"'),
    "unquoted [INST] as a key": ("custom_tokens: {[INST]: auto}", "2:17", '"[INST]"'),
    "unquoted [INST] after text": ("forms: [<s>[INST]]", "2:12", 'Quote it: "[INST]".'),
    "unquoted * as a source": ("sources:\n  *: {default: block}", "3:3", 'Quote it: "*".'),
    "unquoted * as a pattern": ("sources: {user: {block: [*_im_*]}}", "2:26", 'Quote it: "*_im_*".'),
    "unquoted * alone": ("sources: {user: {block: [*, x]}}", "2:26", 'Quote it: "*".'),
    "a template that is no fingerprint": ("chat: {templates: [abc]}", "2:20", "64 hexadecimal digits"),
    "a role with a space": ("chat: {roles: ['a b']}", "2:16", "A role's name"),
    "a template that is neither": ("requests: {chat_template: maybe}", "2:27", "only 'refuse' or 'allow'"),
    "a key that requests have not": ("requests: {token_id: deny}", "2:12", "'token_ids'"),
    "a key that a chat has not": ("chat: {role: [a]}", "2:8", "'roles'"),
    "alias": ("groups: {a: [x], b: *x}", "2:21", "aliases are not read"),
    "anchor": ("groups: {a: &x [y]}", "2:13", "anchors are not read"),
    "tag": ("sources: {user: {block: [!foo]}}", "2:26", 'Quote it: "!foo".'),
    "object": ("name: !!python/object:os.system x", "2:7", "tags are not read"),
    "unquoted #": ("forms: [### System:]", "2:21", "begins a comment"),
    "unquoted |": ("name: |im_start|>", "2:7", 'Quote it: "|im_start|>".'),
    "unquoted :": ("forms: a: b", "2:9", "second value"),
    "unquoted backtick": ("name: `x`", "2:7", "Quote it"),
    "unquoted %": ("name: %x", "2:7", 'Quote it: "%x".'),
    "tab": ("sources:\n\tuser: {}", "3:1", "spaces"),
    "open bracket": ("forms: [a", "2:10", "not YAML"),
    "duplicate key": ("name: a\nname: b", "3:1", "'name' is written twice, first at line 2, column 1"),
    "duplicate source": ("sources: {user: {}, user: {}}", "2:21", "'user' is written twice"),
    "unknown key": ("foregn: log", "2:1", "Did you mean 'foreign'?"),
    "unknown key of a source": ("sources: {user: {defualt: allow}}", "2:18", "Did you mean 'default'?"),
    "unknown key of limits": ("limits: {chars: 3}", "2:10", "Did you mean 'max_chars'?"),
    "unknown key of log": ("log: {zzz: 3}", "2:7", "Known here: text."),
    "unknown key of tokenizer": ("tokenizer: {nam: 3}", "2:13", "Did you mean 'name'?"),
    "no value": ("foreign:", "2:1", "'foreign' has no value"),
    "empty entry": ("forms: [a, ~]", "2:12", "is empty"),
    "list for text": ("name: [a]", "2:7", "`name` needs text, not a list"),
    "number for text": ("forms: [12]", "2:9", 'Quote it: "12".'),
    "truth value for text": ("forms: [true]", "2:9", 'Quote it: "True".'),
    "text for a list": ("sources: {user: {block: '@turn'}}", "2:25", "Write `block: ['@turn']`."),
    "action for a source": ("sources: {user: block}", "2:17", "Write `user: {default: block}`."),
    "text for a mapping": ("sources: x", "2:10", "`sources` needs keys and values, not text."),
    "text for a number": ("limits: {max_chars: many}", "2:21", "`max_chars` needs a whole number, not text."),
    "fraction": ("limits: {max_chars: 1.5}", "2:21", "not a number with a fraction"),
    "too small": ("limits: {max_chars: 0}", "2:21", "at least 1"),
    "too large": ("limits: {max_hidden: 5000}", "2:22", "at most 4096"),
    "unknown word": ("mode: monitr", "2:7", "Did you mean 'monitor'?"),
    "unknown action": ("sources: {user: {default: blok}}", "2:27", "Did you mean 'block'?"),
    "log is no action": ("sources: {user: {default: log}}", "2:27", "only 'allow', 'escape', 'strip' or 'block'"),
    "bad id": ("custom_tokens: {'<a>': next}", "2:24", "whole number from 0 to 4294967295, or `auto`"),
    "negative id": ("custom_tokens: {'<a>': -1}", "2:24", "whole number"),
    "huge id": ("custom_tokens: {'<a>': 4294967296}", "2:24", "whole number"),
    "truth value for an id": ("custom_tokens: {'<a>': true}", "2:24", "whole number"),
    "bad source name": ("sources: {Tool-Result: {}}", "2:11", "source's name"),
    "bad group name": ("groups: {1st: []}", "2:10", "group's name"),
    "bad policy name": ('name: "a\\x1bb"', "2:7", "policy's name"),
    "bad fingerprint": ("tokenizer: {fingerprint: abc}", "2:26", "sha256:"),
    "empty form": ("forms: ['']", "2:9", "empty"),
    "empty custom token": ("custom_tokens: {'': 1}", "2:17", "empty"),
    "blank form": ("forms: ['  ']", "2:9", "white space"),
    "long form": (f"forms: ['{'a' * 257}']", "2:9", "256"),
    "NUL in a form": ('forms: ["a\\0b"]', "2:9", "NUL"),
    "lone surrogate in a form": ('forms: ["a\\ud800b"]', "2:9", "surrogate"),
    "NUL in a key": ('custom_tokens: {"a\\0b": 1}', "2:17", "NUL"),
    "unknown group": ("groups: {turn: ['<a>']}\nsources: {user: {block: [turm]}}", "3:26", "Did you mean 'turn'?"),
    "unknown @name": ("sources: {user: {block: ['@trun']}}", "2:26", "Did you mean '@turn'?"),
    "unknown dialect": ("groups: {a: ['@dialect:lama3']}", "2:14", "Did you mean '@dialect:llama3'?"),
    "bare @": ("groups: {a: ['@']}", "2:14", "no built-in group"),
    "group in a circle": ("groups: {a: [b], b: [c], c: [a]}", "2:10", "a → b → c → a"),
    "group in itself": ("groups: {a: [a]}", "2:10", "circle"),
    "group named like a form": ("groups: {sop: ['<a>']}\nforms: [sop]", "2:10", "a group and a form"),
    "form named like a built-in group": ("forms: ['@turn']", "2:9", "built-in group"),
    "token named like a built-in group": ("custom_tokens: {'@eos': 1}", "2:17", "built-in group"),
    "form with an id": ("custom_tokens: {'<a>': 1}\nforms: ['<a>']", "3:9", "`custom_tokens` too"),
    "form twice": ("forms: ['<a>', '<a>']", "2:16", "twice"),
    "member twice": ("groups: {a: ['<a>', '<a>']}", "2:21", "twice"),
    "selector twice": ("sources: {user: {block: ['@eos', '@eos']}}", "2:34", "twice"),
    "selector under two actions": ("sources: {user: {block: ['@eos'], allow: ['@eos']}}", "2:26", "under `block`"),
    "many wildcards": ("groups: {a: ['*a*b*c*d*e*f*g*h*']}", "2:14", "at most 8 wildcards"),
    "unknown parent": ("extends: chatlm", "2:10", "Did you mean 'chatml'?"),
    "missing parent": ("extends: ./none.yaml", "2:10", "No such file"),
    "parent with NUL": ('extends: "a/\\0b"', "2:10", "NUL"),
    "parent is a folder": ("extends: ./", "2:10", "a directory"),
    "conflict": (
        "sources: {user: {block: ['@turn'], allow: ['@dialect:qwen']}}",
        "2:44",
        "'@turn' (block, at <string>:2:26) both select '<|im_end|>'",
    ),
}


@pytest.mark.parametrize(("text", "place", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_at_its_place(
    text: str, place: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Line and column are those of the mistake, and the words name it or mend it."""
    monkeypatch.chdir(tmp_path)
    if text.startswith('extends: "'):
        assert says in problems_of("guardtok: 1\n" + text)[0]
        return
    problem = problem_of(text)
    assert problem.startswith(f"{place}: ")
    assert says in problem


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("", "1:1", "empty"),
        ("# nothing\n", "1:1", "empty"),
        ("[a]", "1:1", "holds a list"),
        ("text", "1:1", "holds text"),
        ("name: x", "1:1", "Add `guardtok: 1`."),
        ("guardtok: 2", "1:11", "reads version 1 of the schema, not '2'"),
        ("guardtok: true", "1:11", "version 1"),
        ("guardtok: 1.0", "1:11", "version 1"),
        ("guardtok: '1'", "1:11", "version 1"),
        ("guardtok: [1]", "1:11", "not a list"),
        ("guardtok: 1\n---\nguardtok: 1", "2:1", "second document"),
        ("guardtok: 1\nname: a\0b", "2:8", "U+0000"),
        ("guardtok: 1\nname: a\x1bb", "2:8", "U+001B"),
        ("guardtok: 1\nname: a\ud800b", "2:8", "U+D800"),
        ("a: " + "[" * 5_000, "1:20", "16 deep"),
        ('guardtok: 1\nname: "\\UFFFFFFFF"', "1:1", "escapes"),
    ],
)
def test_a_text_that_is_no_policy_is_named(text: str, place: str, says: str) -> None:
    """Whole documents that are something else."""
    (problem,) = problems_of(text)
    assert problem.startswith(f"{place}: ")
    assert says in problem


def test_all_mistakes_of_a_file_are_shown_at_once_and_in_order() -> None:
    """Those of the schema and those of meaning, with what is right around them still understood."""
    found = problems_of(
        """\
guardtok: 1
nam: a
name: a
name: b
foreign:
mode: monitr
limits: {max_chars: 0, max_hidden: many}
groups: {turn: [1, "<x>", "<x>", trn]}
custom_tokens: {"<y>": foo, "<z>": 5}
extends: chatlm
sources:
  user: {defualt: allow, block: ["@trun", 3, turn, turn]}
  Document: {}
"""
    )
    places = [problem.split(": ")[0] for problem in found]
    assert places == [
        "2:1",
        "4:1",
        "5:1",
        "6:7",
        "7:21",
        "7:36",
        "8:17",
        "8:27",
        "9:24",
        "10:10",
        "12:10",
        "12:34",
        "12:43",
        "12:52",
        "13:3",
    ]


def test_after_a_syntax_error_what_came_before_is_still_shown() -> None:
    """Nothing behind it can be read."""
    assert [p.split(": ")[0] for p in problems_of("guardtok: 1\nname: a\nname: b\nmode: @x\nfoo: 1")] == ["3:1", "4:7"]


def test_a_billion_laughs_is_refused_at_its_first_alias() -> None:
    """Nothing is expanded, for no alias is read."""
    lines = ["guardtok: 1", 'a: &a ["x"]']
    lines += [f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]" for n in range(20)]
    (problem,) = problems_of("\n".join(lines))
    assert problem.startswith("2:4: ")
    unanchored = "\n".join(line.replace("&a ", "") for line in lines[:3])
    assert "b" in unanchored
    assert problems_of(unanchored)[0].startswith("3:4: ")


def test_groups_of_groups_do_not_explode(tmp_path: Path) -> None:
    """Sixty-four groups that hold two groups twice over are opened once each."""
    groups = [f"  g{n}: [g{n + 1}, h{n + 1}]\n  h{n}: [g{n + 1}, h{n + 1}]" for n in range(64)]
    text = "guardtok: 1\ngroups:\n" + "\n".join(groups) + '\n  g64: ["<s>"]\n  h64: ["</s>"]\n'
    policy = parse_policy(text + "sources: {user: {block: [g0], allow: ['@fim']}}")
    assert len(policy.groups) == 130


@pytest.mark.parametrize(
    "line",
    ["k{}: 1", "k{}:", "? k{}", "guardtok: {}", "zz{}: [[[]]]"],
    ids=["unknown", "empty", "asked", "twice", "nested"],
)
def test_a_flood_of_mistakes_is_cut_short(line: str) -> None:
    """A hundred of a kind are told; searching for what each might have meant would take minutes."""
    lines = ["guardtok: 1", *(line.format(number) for number in range(2_000))]
    assert len(problems_of("\n".join(lines))) == 100


def test_a_flood_of_unknown_groups_is_cut_short() -> None:
    """As above, for mistakes of meaning."""
    words = ", ".join(f"w{number}" for number in range(1_000))
    assert len(problems_of(f"guardtok: 1\nsources: {{user: {{block: [{words}]}}}}")) == 100


def listed(words: Iterable[str]) -> str:
    """Return a YAML list."""
    return json.dumps(list(words))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n".join(f"k{n}: 1" for n in range(10_001)), "more than 10000 values"),
        ("sources:\n" + "\n".join(f"  s{n}: {{}}" for n in range(65)), "`sources` holds more than 64 entries."),
        ("groups:\n" + "\n".join(f"  s{n}: []" for n in range(257)), "`groups` holds more than 256 entries."),
        (f"sources: {{user: {{block: {listed(f'<{n}>' for n in range(1_001))}}}}}", "`block` holds more than 1000"),
        (f"forms: {listed(f'<{n}>' for n in range(4_097))}", "`forms` holds more than 4096"),
        (f"groups: {{g: {listed(f'<{n}>' for n in range(4_097))}}}", "`g` holds more than 4096"),
        (f"custom_tokens: {json.dumps({f'<{n}>': n for n in range(4_097)})}", "`custom_tokens` holds more than 4096"),
        (f"sources: {{user: {{allow: {listed(f'<{n}*' for n in range(257))}}}}}", "257 patterns; it can have 256"),
        (
            "sources:\n" + "\n".join(f"  s{s}: {{block: {listed(f'<{n}>' for n in range(900))}}}" for s in range(5)),
            "4500 selectors under its sources; it can have 4096",
        ),
    ],
    ids=["nodes", "sources", "groups", "selectors", "forms", "members", "tokens", "patterns", "entries"],
)
def test_a_policy_that_is_too_large_to_be_quick_says_so(text: str, says: str) -> None:
    """Each bound is an error of its own, before the work that it bounds."""
    assert says in problem_of(text)


def test_inherited_rules_count(tmp_path: Path) -> None:
    """Two policies that are small enough are too large as one."""
    for name, extends in (("a", "extends: ./b.yaml"), ("b", "")):
        sources = "\n".join(f"  {name}{n}: {{}}" for n in range(40))
        (tmp_path / f"{name}.yaml").write_text(f"guardtok: 1\n{extends}\nsources:\n{sources}\n")
    assert load_policy(tmp_path / "b.yaml").sources
    assert "80 sources; it can have 64" in file_problem(tmp_path / "a.yaml")


@pytest.mark.parametrize("key", ["forms: [{}]", "custom_tokens: {{{}: auto}}"])
@pytest.mark.parametrize("word", ["turns", '"<|fim_*"', '"<|box*"', "inner"])
def test_a_form_cannot_take_the_name_of_a_parents_group_or_pattern(tmp_path: Path, key: str, word: str) -> None:
    """What the parent's rule selects by it would shrink to the one form."""
    (tmp_path / "parent.yaml").write_text(
        "guardtok: 1\nforms: ['<|own*']\n"
        "groups: {inner: ['@fim'], turns: ['@turn', '<|box*', inner, '<|own*']}\n"
        "sources: {user: {block: [turns, '<|fim_*', '</s>']}}\n"
    )
    child = tmp_path / "child.yaml"
    child.write_text(f"guardtok: 1\nextends: ./parent.yaml\n{key.format(word)}\n")
    problem = file_problem(child)
    assert problem.startswith(f"{child}:3:")
    assert "of the policy that this one extends" in problem
    for harmless in ('"</s>"', '"<|own*"', '"<|fim_pre*"', "turn"):
        child.write_text(f"guardtok: 1\nextends: ./parent.yaml\n{key.format(harmless)}\n")
        load_policy(child)


# Files.


def file_problem(path: Path | str) -> str:
    """Return the only problem of a file."""
    with pytest.raises(PolicyError) as caught:
        load_policy(path)
    (problem,) = caught.value.problems
    assert PLACE.fullmatch(problem.place)
    return str(problem)


def test_a_huge_file_is_refused_by_its_size(tmp_path: Path) -> None:
    """A hundred megabytes are not read."""
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    assert "100000000 bytes; a policy has at most 1000000" in file_problem(path)


def test_a_file_that_is_not_utf_8_is_named_at_the_byte(tmp_path: Path) -> None:
    """Line and column of the first byte that is not."""
    path = tmp_path / "latin.yaml"
    path.write_bytes("guardtok: 1\nname: é".encode("latin-1"))
    assert file_problem(path).startswith(f"{path}:2:7: The file is not UTF-8: byte 0xE9")
    path.write_bytes("guardtok: 1".encode("utf-16"))
    assert "not UTF-8" in file_problem(path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    """A directory, a pipe (which would be read for ever), nothing, a path that cannot be."""
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    assert "is not a file" in file_problem(pipe)
    assert "a directory" in file_problem(tmp_path)
    assert "No such file" in file_problem(tmp_path / "none.yaml")
    assert "cannot be read" in file_problem("a\0.yaml")
    assert "Did you mean 'chatml'?" in file_problem("chatlm")


def test_a_circle_of_files_is_named_whole(tmp_path: Path) -> None:
    """The chain is spelled out, and the place is where it closes."""
    for name, parent in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"guardtok: 1\nextends: {parent}.yaml\n")
    problem = file_problem(tmp_path / "a.yaml")
    chain = " → ".join(str(tmp_path / f"{name}.yaml") for name in "abca")
    assert problem.startswith(f"{tmp_path / 'c.yaml'}:2:10: `extends` goes in a circle: {chain}.")
    (tmp_path / "self.yaml").write_text("guardtok: 1\nextends: ./self.yaml\n")
    assert "circle" in file_problem(tmp_path / "self.yaml")


def test_a_long_chain_of_files_is_refused(tmp_path: Path) -> None:
    """Long before the interpreter's stack is used up."""
    for number in range(40):
        (tmp_path / f"{number}.yaml").write_text(f"guardtok: 1\nextends: {number + 1}.yaml\n")
    assert "More than 16" in file_problem(tmp_path / "0.yaml")


def test_mistakes_of_a_parent_are_shown_with_those_of_the_child(tmp_path: Path) -> None:
    """The child's first; a group that the broken parent may declare is not reported."""
    (tmp_path / "base.yaml").write_text("guardtok: 1\nmode: monitr\ngroups: {g: ['<g>']}")
    child = tmp_path / "child.yaml"
    child.write_text("guardtok: 1\nextends: base.yaml\nsources: {user: {block: [g], alow: []}}")
    with pytest.raises(PolicyError) as caught:
        load_policy(child)
    places = [problem.place.removeprefix(f"{tmp_path}{os.sep}") for problem in caught.value.problems]
    assert places == ["child.yaml:3:30", "base.yaml:2:7"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"guardtok_lock": 2}, "version 1"),
        ({"guardtok_lock": None}, "has no value"),
        ({"fingerprint": "x"}, "sha256"),
        ({"ids": {"<a>": "auto"}}, "whole number from 0 to 4294967295."),
        ({"ids": {"<a>": True}}, "whole number"),
        ({"ids": {"": 1}}, "empty"),
        ({"ids": [1]}, "keys and values"),
        ({"more": 1}, "Unknown key 'more'. Known here: guardtok_lock, tokenizer, fingerprint, ids."),
    ],
)
def test_a_lock_file_is_checked_strictly(tmp_path: Path, change: dict[str, object], says: str) -> None:
    """A pin that cannot be read must not be taken for no pin."""
    good = {"guardtok_lock": 1, "tokenizer": "t", "fingerprint": "sha256:" + "a" * 64, "ids": {"<a>": 5}}
    (tmp_path / "p.yaml").write_text("guardtok: 1")
    lock = tmp_path / "p.lock.json"
    lock.write_text(json.dumps({**good, **change}))
    with pytest.raises(PolicyError) as caught:
        load_policy(tmp_path / "p.yaml")
    assert says in str(caught.value)
    assert all(problem.place.startswith(f"{lock}:1:") for problem in caught.value.problems)
    lock.write_text("{")
    assert "not YAML" in file_problem(tmp_path / "p.yaml")
    lock.write_text(json.dumps({"guardtok_lock": 1}))
    with pytest.raises(PolicyError, match="`ids` is missing"):
        load_policy(tmp_path / "p.yaml")


def test_a_policy_error_can_be_pickled() -> None:
    """It crosses process borders with its problems."""
    with pytest.raises(PolicyError) as caught:
        parse_policy("a: 1")
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems  # noqa: S301 - its own bytes


def test_no_error_prints_a_terminal_escape() -> None:
    """What is quoted from a policy is quoted as `repr`."""
    for text in (
        'sources: {user: "\\e[2J"}',
        'sources: {user: {allow: [["\\e[2J"]]}}',
        'sources: {"\\e[2J": 1}',
        'groups: {"\\e[2J": 1}',
        'custom_tokens: {"\\e[2J": x}',
        'limits: {"\\e[2J": 1, max_chars: "\\e[2J"}',
        'extends: "./\\e[2J.yaml"',
        'extends: "\\e[2J"',
        '"a\\x1b]0;x": 1',
        'mode: "\\x1b[2J"',
        'sources: {user: {block: ["@\\x1b[2J", "\\u202e*"]}}',
    ):
        assert "".join(problems_of("guardtok: 1\n" + text)).isprintable()


# Nothing but a `PolicyError`, whatever the text.

KEYS = ("guardtok", "name", "extends", "sources", "groups", "custom_tokens", "forms", "limits", "log", "mode", "user")
WORDS = (
    "1",
    "*",
    "&a",
    "*a",
    "!t",
    "[INST]",
    "@turn",
    "<|a|>",
    "auto",
    "~",
    "block",
    "{",
    "}",
    "[",
    "]",
    "|",
    ">",
    "?",
)
PIECES = st.sampled_from(
    [
        *KEYS,
        *WORDS,
        ": ",
        ", ",
        "\n",
        "\n  ",
        "\n- ",
        '"',
        "'",
        "#",
        "\t",
        "%",
        "\\",
        "\ufeff",
        "\0",
        "\x85",
        "---",
        "...",
    ]
)


def only_a_policy_error(text: str) -> None:
    """Parse a text, and accept success and `PolicyError` with places alone."""
    try:
        parse_policy(text)
    except PolicyError as error:
        assert error.problems  # noqa: PT017 - both outcomes are right
        assert all(line.isprintable() for line in str(error).split("\n"))  # noqa: PT017
        assert str(error).count("\n") == len(error.problems) - 1  # noqa: PT017
        assert all(PLACE.fullmatch(problem.place) for problem in error.problems)  # noqa: PT017


@given(st.lists(PIECES, max_size=40).map("".join))
@example("%YAML 1.1\n---\nguardtok: 1")
@example("%YAML 9\n---\nguardtok: 1")
@example("%TAG ! x\n---\nguardtok: 1")
@example("? a\n: b")
def test_scraps_of_yaml_raise_nothing_but_policy_errors(text: str) -> None:
    """Joined at random."""
    only_a_policy_error(text)
    only_a_policy_error("guardtok: 1\n" + text)


@given(st.text(st.characters(), max_size=60))
def test_random_text_raises_nothing_but_policy_errors(text: str) -> None:
    """Surrogates and control characters included."""
    only_a_policy_error(text)


HOSTILE = ("\x1b[2J", "\u202ea", "\u2066", "\x7f", "\x85", "\u2028", "\x1b]0;x\x07" * 50)

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from(KEYS + WORDS + HOSTILE),
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS + HOSTILE) | st.text(max_size=3), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
def test_random_documents_raise_nothing_but_policy_errors(document: dict[str, object]) -> None:
    """Well-formed YAML with values of every kind where the schema wants others."""
    only_a_policy_error(json.dumps({"guardtok": 1, **document}))


@given(st.binary(max_size=60))
def test_random_bytes_raise_nothing_but_policy_errors(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """In a file."""
    path = tmp_path_factory.getbasetemp() / "random.yaml"
    path.write_bytes(data)
    try:
        load_policy(path)
    except PolicyError as error:
        assert error.problems  # noqa: PT017
