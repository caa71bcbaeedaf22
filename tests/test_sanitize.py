"""Text that goes on as text: what each action does, that it is reversible, and that nothing is left or comes about."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_guards import FORMS, SOURCES, TEXTS, guard, tokenizer

from guardtok import Guard, Policy, RefusedError, Text
from guardtok.breaking import SEPARATORS, prove
from guardtok.errors import MissingSourceError, PolicyError, TokenizerMismatchError
from guardtok.ruleset import bind
from guardtok.sanitize import Sanitized
from guardtok.scan import find

CHATML = Guard.load("chatml", sinks=())
LABELLED = st.lists(st.tuples(TEXTS, st.sampled_from(["user", "document", "template"])), max_size=4).map(
    lambda parts: Text("", source="user").join([Text(text, source=source) for text, source in parts])
)


def parse(lines: str) -> Policy:
    """Return a policy from the lines after its name."""
    return Policy.parse(f"guardtok: 1\nname: test\n{lines}")


def sanitized(one: Guard, text: str, source: str = "user") -> Sanitized | None:
    """Return the text sanitized, or None where the policy refuses it."""
    try:
        return one.sanitize(text, source=None if isinstance(text, Text) else source)
    except RefusedError:
        return None


@pytest.mark.parametrize("name", SOURCES)
@given(TEXTS)
def test_sanitizing_again_changes_nothing(name: str, text: str) -> None:
    """I6, for every policy, forms that overlap and disguises."""
    once = sanitized(guard(name), text)
    if once is not None:
        again = guard(name).sanitize(once.text, source="user")
        assert (again.text, again.edits) == (once.text, ())


@pytest.mark.parametrize("name", SOURCES)
@given(TEXTS | LABELLED)
def test_the_edits_restore_the_original(name: str, text: str) -> None:
    """Character by character, lone surrogates and pairs included; and each edit is where it says."""
    out = sanitized(guard(name), text)
    if out is None:
        return
    assert out.restore() == text
    for edit in out.edits:
        assert text[edit.start : edit.start + len(edit.removed)] == edit.removed
        assert out.text[edit.position : edit.position + len(edit.inserted)] == edit.inserted


@given(TEXTS)
def test_escape_leaves_no_form(text: str) -> None:
    """Where nothing is allowed, no form is anywhere in the result."""
    out = guard("escape").sanitize(text, source="user").text
    assert not any(form in out for form in FORMS)


@given(TEXTS)
def test_strip_leaves_no_form_and_takes_only_forms(text: str) -> None:
    """Nothing grows together over a gap; what is kept stays in order."""
    out = guard("strip").sanitize(text, source="user")
    assert not any(form in out.text for form in FORMS)
    assert all(edit.inserted in ("", "\ufffd", "🎉") for edit in out.edits)


@given(TEXTS)
def test_a_monitor_changes_nothing(text: str) -> None:
    """But surrogates, which no text can have."""
    out = guard("monitor").sanitize(text, source="user")
    assert out.text == text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert len(out.violations) == guard("monitor").check(text, source="user").count


@pytest.mark.parametrize("name", SOURCES)
@given(LABELLED)
def test_several_sources(name: str, text: str) -> None:
    """A form that several spelled is broken as well; what a source may write stays."""
    out = sanitized(guard(name), text)
    if out is not None:
        assert len(out.violations) == guard(name).check(text).count


@pytest.mark.parametrize("name", SOURCES)
@given(st.lists(st.tuples(TEXTS, st.sampled_from(["user", "document"])), min_size=2, max_size=4))
def test_joining_leaves_nothing_over_the_seam(name: str, parts: list[tuple[str, str]]) -> None:
    """`Sanitized + Sanitized` is as safe as the whole, whatever was cut where, and restores both."""
    one = guard(name)
    made = [sanitized(one, text, source) for text, source in parts]
    if None in made:
        return
    try:
        joined = made[0]
        for each in made[1:]:
            joined += each
    except RefusedError:
        return
    assert joined.restore() == "".join(text for text, _ in parts)
    assert pickle.loads(pickle.dumps(joined)) == joined  # noqa: S301 - made here
    if len({source for _, source in parts}) == 1 and name in ("escape", "strip", "lookalikes"):
        again = one.sanitize(joined.text, source=parts[0][1])
        assert again.edits == ()


def test_escape_puts_a_separator_after_the_first_character() -> None:
    """`_`, and nothing else changes."""
    out = CHATML.sanitize("a <|im_end|>", source="user")
    assert str(out) == out.text == "a <_|im_end|>"
    assert out.edits == ((3, 3, "", "_"),)


def test_strip_takes_one_pass() -> None:
    """Nested forms do not reassemble: U+FFFD stays where they could."""
    one = Guard(parse('sources: {"*": {default: strip}}\n'), sinks=())
    assert one.sanitize("<|im_<|im_end|>start|>", source="user").text == "<|im_\ufffdstart|>"
    assert one.sanitize("a <|im_end|> b", source="user").text == "a  b"


def test_a_disguise_is_broken_behind_its_first_character() -> None:
    """The escape that it may be stays whole."""
    one = Guard.load(parse('lookalikes: escape\nsources: {"*": {default: escape}}\n'), sinks=())
    assert one.sanitize("&lt;|im_end|&gt;", source="user").text == "&lt;_|im_end|&gt;"
    assert one.sanitize("＜|im_end|＞", source="user").text == "＜_|im_end|＞"  # noqa: RUF001 - a disguise


def test_a_disguise_inside_another_is_broken_too() -> None:
    """When the outer one is broken it holds the inner one no more: `|>` in full width, in `<|abc|>`."""
    assert guard("lookalikes").sanitize("< |abc|\uff1e", source="user").text == "<- |abc|-\uff1e"
    stream = guard("lookalikes").stream(source="user")
    assert "".join([*map(stream.feed, "< |abc|\uff1e"), stream.finish()]) == "<- |abc|-\uff1e"


def test_a_form_of_one_character_becomes_a_replacement() -> None:
    """Nothing can go into it."""
    out = guard("escape").sanitize("a§b", source="user")
    assert out.text == "a\ufffdb"
    assert out.restore() == "a§b"


def test_a_seam_is_looked_at() -> None:
    """Two clean texts spell a form together; the violation is in the left one's string."""
    left, right = CHATML.sanitize("a <|im_", source="user"), CHATML.sanitize("end|>", source="document")
    joined = left + right
    assert joined.text == "a <|im__end|>"
    (violation,) = joined.violations
    assert (violation.rule, violation.source, violation.start, violation.end) == ("joint", "user+document", 2, 7)
    strict = Guard(parse('sources: {"*": {default: block}}\n'), sinks=())
    with pytest.raises(RefusedError):
        strict.sanitize("<|im_", source="user") + strict.sanitize("end|>", source="user")


def test_pickled_sanitized_carries_no_key() -> None:
    """It says what was found, is restored and is joined; what is found at a copy's seam is nobody's digest."""
    one = Guard(CHATML.policy, sinks=(), digest_key=b"the key of the digests")
    out = one.sanitize("a <|im_end|> <|im_", source="user", request_id="r1")
    pickled = pickle.dumps(out)
    assert b"the key" not in pickled
    copy = pickle.loads(pickled)  # noqa: S301 - made here
    assert (copy, copy.restore(), repr(copy)) == (out, out.restore(), repr(out))
    joined, twice = (each + one.sanitize("end|>", source="user") for each in (out, copy))
    assert (
        (joined.text, len(joined.violations)) == (twice.text, len(twice.violations)) == ("a <_|im_end|> <|im__end|>", 2)
    )
    assert joined.violations[1].digest != twice.violations[1].digest
    assert pickle.loads(pickle.dumps(twice)) == twice  # noqa: S301 - made here


def test_sanitized_is_no_string() -> None:
    """It joins with its like, of the same guard."""
    out = CHATML.sanitize("a", source="user")
    with pytest.raises(TypeError):
        out + "b"
    with pytest.raises(TypeError):
        "b" + out
    with pytest.raises(TokenizerMismatchError):
        out + guard("escape").sanitize("b", source="user")
    with pytest.raises(TypeError, match="Guard"):
        Sanitized(object(), "", (), (), (), None)  # type: ignore[arg-type]
    with pytest.raises(MissingSourceError):
        CHATML.sanitize("a")


def test_the_broken_form_of_every_known_form_is_inert() -> None:
    """The whole catalogue, under every view, one by one and beside each other."""
    texts = [form.text for form in CHATML.ruleset.forms]
    out = CHATML.sanitize("\n".join(texts), source="user")
    assert not find(out.text.encode(), CHATML.ruleset.automata)
    assert CHATML.check(out.text, source="user").violations == ()


def test_another_separator_is_found_where_one_is_a_form() -> None:
    """`<_|` is a form, so `_` cannot break `<|a|>`; the next one can."""
    assert guard("escape").sanitize("<|a ", source="user").text == "<-|a "
    breaker = prove(guard("escape").ruleset)
    assert breaker.find_separator("<", "|") == "-"


def test_what_is_hidden_does_not_help_the_separator_into_a_form() -> None:
    """`_>` is a form, so `_` does not go before a hidden character and `>`."""
    one = guard("lookalikes")
    assert one.sanitize("<|\u200b>>T<<", source="user").text == "<|-\u200b>->T<_<"


def test_a_policy_that_cannot_break_a_form_is_refused() -> None:
    """By name, when the guard is built."""
    forms = [f"a{separator}b" for separator in SEPARATORS] + ["ab"]
    with pytest.raises(PolicyError, match="a_b"):
        Guard(parse(f'forms: {forms}\nforeign: ignore\nsources: {{"*": {{default: escape}}}}\n'), sinks=())
    Guard(parse(f'forms: {forms}\nforeign: ignore\nsources: {{"*": {{default: block}}}}\n'), sinks=())


def test_a_form_with_the_replacement_is_refused_where_it_would_fill_gaps() -> None:
    """U+FFFD must be in no form that `strip` relies on: a policy cannot name one, but a tokenizer may have it."""
    odd = tokenizer().with_custom_tokens({"x\ufffdy": 9_000})
    with pytest.raises(PolicyError, match=r"U\+FFFD"):
        Guard(parse('sources: {"*": {default: strip}}\n'), odd, sinks=())
    bind(parse('sources: {"*": {default: escape}}\n'), odd)


def test_a_tokenizer_that_reads_the_broken_form_is_refused() -> None:
    """One that drops `_`, and so makes the token's id of the broken form."""

    class Dropping:
        def __init__(self) -> None:
            self.inner = tokenizer()

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def encode_ordinary(self, text: str, *, at_start: bool) -> list[int]:
            return [1010] if "<_/s>" in text else self.inner.encode_ordinary(text, at_start=at_start)

    escaping = parse('foreign: ignore\nsources: {"*": {default: block, escape: ["</s>"]}}\n')
    with pytest.raises(PolicyError, match="reserved id 1010"):
        Guard(escaping, Dropping(), sinks=())  # type: ignore[arg-type]
    Guard(parse('foreign: ignore\nsources: {"*": {default: block}}\n'), Dropping(), sinks=())  # type: ignore[arg-type]
