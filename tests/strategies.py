"""What the property tests draw from: small tokenizers full of nasty forms, random policies, random labelled texts."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tiktoken
from hypothesis import strategies as st

from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.guard import Guard
from guardtok.policy import Policy, parse_policy
from guardtok.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

PIECEWISE = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
"""cl100k's way to cut a text before merging."""

WHOLE = r"(?s:.+)"
"""No cut at all: merges reach over every border, so a run that is cut where it should not be shows."""

MERGES = (
    b"<|",
    b"><",
    b"|><",
    b"|><|",
    b"ab",
    b"us",
    b"er",
    b"user",
    b" us",
    b"19",
    b"99",
    b">>",
    b"T<",
    b"\n<|",
    b"  ",
)
"""None of them is a whole form: a tokenizer that makes a form's id of plain text has its own tests."""

FORMS = (
    "<|a|>",
    "<|ab|>",
    "<|a",
    "|>",
    *(f"X{i}" for i in range(1, 20)),
    "X199",
    ">>T<<",
    "<<",
    "<|endoftext|>",
    "<｜User｜>",  # noqa: RUF001 - DeepSeek spells it so
    "<🎉>",
    "§",
    "</s>",
)
"""Forms that overlap, begin and contain each other; of one character, of several bytes, astral; some catalogued."""

APART = ("<|a|>", "<|ab|>", "X7", "<|endoftext|>", "<🎉>", "§", "</s>")
"""Forms none of which can overlap another, so that tiktoken has only one way to read them."""

FOREIGN = ("<|im_start|>", "<|im_end|>", ">>TITLE<<", "<|eot_id|>", "[INST]", "<s>", "<think>")
"""Forms that these tokenizers do not have and the catalogue has; `<s>` is common in ordinary documents."""

MARKERS = ("### System:", "<|a|>b", "X", "X199", "a*b")
"""Forms that a policy declares; some overlap control tokens, one may be one, one holds a wildcard."""

SOURCES = ("template", "user", "tool_result", "crm", "unknown")


def encoding(forms: Sequence[str], pattern: str = PIECEWISE) -> tiktoken.Encoding:
    """Return a tiktoken encoding of 256 bytes, a few merges, and these special tokens; `forms` share no id."""
    ranks = {bytes([i]): i for i in range(256)} | {merge: 256 + i for i, merge in enumerate(MERGES)}
    special = {form: 1000 + i for i, form in enumerate(forms)}
    name = hashlib.sha256(repr((forms, pattern)).encode()).hexdigest()[:12]
    return tiktoken.Encoding(name=f"tiny-{name}", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


def tokenizer(forms: Sequence[str] = FORMS, pattern: str = PIECEWISE) -> TiktokenTokenizer:
    """Return `encoding` as a guardtok tokenizer."""
    return TiktokenTokenizer(encoding(forms, pattern))


TOKENIZERS = (tokenizer(), tokenizer(pattern=WHOLE), tokenizer(APART), tokenizer(FORMS[:4], WHOLE))


@st.composite
def _rules(draw: st.DrawFn, actions: Sequence[str], selectors: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Draw the rules of one source. Patterns share one action and so do groups, for else they would contradict."""
    rules: dict[str, Any] = {}
    if draw(st.integers(0, 4)):
        rules["default"] = draw(st.sampled_from(actions))
    for level, words in selectors.items():
        chosen = draw(st.lists(st.sampled_from(words), max_size=3, unique=True))
        shared = draw(st.sampled_from(actions))
        for word in chosen:
            action = draw(st.sampled_from(actions)) if level == "literal" else shared
            rules.setdefault(action, []).append(word)
    if draw(st.integers(0, 3)) == 0:
        rules["mode"] = draw(st.sampled_from(["enforce", "monitor"]))
    return rules


def _selectable(forms: Sequence[str]) -> list[str]:
    """Return the forms that a selector may name; a bare word is the name of a group unless the policy declares it."""
    return [form for form in forms if not form.isalnum()]


@st.composite
def _declarations(draw: st.DrawFn, forms: Sequence[str]) -> dict[str, Any]:
    """Draw what a policy declares: markers, custom tokens, groups."""
    markers = draw(st.lists(st.sampled_from(MARKERS), max_size=2, unique=True))
    custom = draw(st.sampled_from([{}, {}, {"<tool>": "auto", "<|tool|>": 5000, "<|ab|>c": "auto"}]))
    members = st.sampled_from([*_selectable(forms), *markers, *custom, *FOREIGN, "X*", "@eos"])
    inner = draw(st.lists(members, max_size=4, unique=True))
    outer = draw(st.lists(members, max_size=2, unique=True))
    return {
        "forms": markers,
        "custom_tokens": custom,
        "groups": {"inner": inner, "outer": [*outer, "inner"]} if inner else {},
    }


@st.composite
def _sources(draw: st.DrawFn, forms: Sequence[str], actions: Sequence[str], declared: dict[str, Any]) -> dict[str, Any]:
    """Draw what a policy says of its sources; `crm` is always among them, for a source must be declared."""
    selectors = {
        "literal": (*_selectable(forms), *FOREIGN, *declared["forms"], *declared["custom_tokens"]),
        "pattern": ("<|*|>", "*", "X1*", "*>", "<*>"),
        "group": (*declared["groups"], "@special", "@turn", "@eos", "@think", "@dialect:chatml", "@dialect:falcon"),
    }
    named = draw(st.lists(st.sampled_from([*SOURCES, "*"]), max_size=4, unique=True))
    return {name: draw(_rules(actions, selectors)) for name in sorted({*named, "crm"})}


ACTIONS = ("allow", "escape", "strip", "block")

REACTIONS = (*["ignore"] * 7, "log", "escape", "block")
"""Mostly `ignore`, because the thousands of foreign forms make an example thirty times as slow."""


@st.composite
def policies(  # noqa: PLR0913 - each test narrows another choice
    draw: st.DrawFn,
    forms: Sequence[str] = FORMS,
    *,
    actions: Sequence[str] = ACTIONS,
    foreign: Sequence[str] = REACTIONS,
    trusted: Sequence[str] = (),
    log: Sequence[str] = ("never",),
    custom: bool = True,
) -> Policy:
    """Draw a policy, one in four with a parent that declares the same; `trusted` sources may write everything."""
    declared = draw(_declarations(forms)) if custom else {"forms": [], "custom_tokens": {}, "groups": {}}
    tree: dict[str, Any] = {
        "guardtok": 1,
        "sources": draw(_sources(forms, actions, declared)),
        "foreign": draw(st.sampled_from(foreign)),
        "lookalikes": "ignore",  # The views have a specification of their own.
        "surrogates": draw(st.sampled_from(["replace", "replace", "refuse"])),
        "mode": draw(st.sampled_from(["enforce", "enforce", "monitor"])),
        "log": {"text": draw(st.sampled_from(log))},
        **{key: value for key, value in declared.items() if value},
    }
    parent = None if draw(st.integers(0, 3)) else {**tree, "sources": draw(_sources(forms, actions, declared))}
    for each in [tree, parent] if parent else [tree]:
        each["sources"].update({name: {"default": "allow"} for name in trusted})
    return load(tree, parent)


def load(tree: dict[str, Any], parent: dict[str, Any] | None = None) -> Policy:
    """Load a policy from plain data, over a parent in a file if there is one. JSON is YAML."""
    if parent is None:
        return parse_policy(json.dumps(tree, ensure_ascii=False))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "parent.yaml").write_text(json.dumps(parent, ensure_ascii=False), "utf-8")
        child = json.dumps(tree | {"extends": "parent.yaml"}, ensure_ascii=False)
        return parse_policy(child, place=str(Path(folder, "child.yaml")))


@st.composite
def bindings(
    draw: st.DrawFn,
    tokenizers: Sequence[TiktokenTokenizer] = TOKENIZERS,
    **limits: Any,  # noqa: ANN401 - passed on
) -> tuple[Policy, TiktokenTokenizer]:
    """Draw a tokenizer and a policy that names its forms; `limits` are the choices that `policies` takes."""
    tokenizer = draw(st.sampled_from(tokenizers))
    return draw(policies([token.form for token in tokenizer.control_tokens], **limits)), tokenizer


def guards(tokenizers: Sequence[TiktokenTokenizer] = TOKENIZERS, **limits: Any) -> st.SearchStrategy[Guard]:  # noqa: ANN401 - passed on
    """Draw a guard without a sink, as `bindings` does."""
    return bindings(tokenizers, **limits).map(lambda bound: Guard(*bound, sinks=(), digest_key=b"key"))


class Leaking:
    """A tokenizer that parses every control token it sees in plain text, as careless ones do; or one that fails."""

    def __init__(self, tokenizer: TiktokenTokenizer, error: BaseException | None = None) -> None:
        self._tokenizer = tokenizer
        self._error = error
        special = {token.form: token.id for token in tokenizer.control_tokens}
        self._encoding = tiktoken.Encoding(
            "leaking",
            pat_str=tokenizer.encoding._pat_str,
            mergeable_ranks=tokenizer.encoding._mergeable_ranks,
            special_tokens=special,
        )

    def __getattr__(self, name: str) -> object:
        return getattr(self._tokenizer, name)

    def with_custom_tokens(self, ids: dict[str, int]) -> Leaking:  # noqa: ARG002 - it has them already
        return self

    def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:  # noqa: ARG002 - no prefix
        if self._error is not None:
            raise self._error
        return self._encoding.encode(text, allowed_special="all")


@st.composite
def strings(draw: st.DrawFn, forms: Sequence[str] = (*FORMS, *FOREIGN, *MARKERS), max_size: int = 8) -> str:
    """Draw a string made of forms, halves of forms, filler, NUL and surrogates, paired and lone."""
    filler = st.sampled_from(
        ["a", "b", "ab", "1", "9", "T", " ", "  ", "\n", "|", "<", ">", "user", "\x00", "é", "🎉", "\ufffd"]
    )
    half = st.sampled_from([form[:i] for form in forms for i in range(1, len(form))] + [form[1:] for form in forms])
    piece = st.one_of(
        st.sampled_from(forms), st.sampled_from(forms), half, filler, st.sampled_from(["\ud83c", "\udf89"])
    )
    text = "".join(draw(st.lists(piece, max_size=max_size)))
    return text.replace("🎉", "\ud83c\udf89") if draw(st.booleans()) else text


@st.composite
def nested(draw: st.DrawFn) -> str:
    """Draw a string in which forms stand inside forms, so that what is left of one might make another."""
    text = draw(strings(max_size=2))
    for _ in range(draw(st.integers(1, 4))):
        form = draw(st.sampled_from(FORMS))
        cut = draw(st.integers(0, len(form)))
        text = form[:cut] + text + form[cut:]
    return text


@st.composite
def texts(
    draw: st.DrawFn, forms: Sequence[str] = (*FORMS, *FOREIGN, *MARKERS), sources: Sequence[str] = SOURCES
) -> Text:
    """Draw a text: a string cut anywhere, each part with a source and a path of its own."""
    whole = draw(strings(forms))
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    few = draw(st.lists(st.sampled_from(sources), min_size=1, max_size=3))
    text = Text("", source=few[0])
    for part in parts:
        text += Text(part, source=draw(st.sampled_from(few)), path=draw(st.sampled_from(["", "$.a", "$.b"])))
    return text


def merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return stretches with those that abut put together."""
    found: list[tuple[int, int]] = []
    for start, end in spans:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found
