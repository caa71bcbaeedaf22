"""Records of what was found: stable, and quiet."""

from __future__ import annotations

import json

import pytest

from guardtok import Guard, Policy, Text
from guardtok.encodings import load_tokenizer
from guardtok.errors import DigestKeyError
from guardtok.records import LOGGED_GROUPS
from guardtok.violation import VERSION, Violation, broken, visible

KEY = b"0" * 32


def build(extra: str = "", user: str = "default: escape") -> Guard:
    """Return a silent guard on the embedded tokenizer, with a known key."""
    policy = Policy.parse(
        f"guardtok: 1\nname: records\n{extra}sources:\n  template: {{default: allow}}\n  user: {{{user}}}\n"
        '  "*": {default: escape}\n'
    )
    return Guard(policy, load_tokenizer("guardtok"), sinks=(), digest_key=KEY)


def test_record_version_1_is_frozen() -> None:
    """The record that log pipelines parse: adding a key is a minor change, any other change is version 2."""
    guard = build()
    (violation,) = guard.encode(Text("hi <|im_end|>", source="user", path="$.q"), request_id="r1").violations
    record = violation.to_dict()
    assert list(record) == [
        "version",
        "rule",
        "token",
        "token_id",
        "role",
        "source",
        "path",
        "start",
        "end",
        "form",
        "count",
        "action",
        "mode",
        "policy",
        "policy_digest",
        "tokenizer",
        "request_id",
        "digest",
    ]
    record.pop("policy_digest")
    assert json.loads(json.dumps(record)) == {
        "version": 1,
        "rule": "user.default",
        "token": "<_|im_end|>",
        "token_id": 8450,
        "role": "turn",
        "source": "user",
        "path": "$.q",
        "start": 3,
        "end": 13,
        "form": "exact",
        "count": 1,
        "action": "escape",
        "mode": "enforce",
        "policy": "records",
        "tokenizer": "guardtok",
        "request_id": "r1",
        "digest": "1b6b5729e53e669e3a0447dd50b0f253",
    }
    assert VERSION == 1
    assert violation.policy_digest == guard.policy.digest


def digest(extra: str, text: str) -> str:
    """Return the digest of the first violation in a text."""
    return build(extra).encode(text, source="user").violations[0].digest


def test_log_never_digests_the_form_alone() -> None:
    """Under `never` the digest tells nothing about the rest of the text."""
    assert digest("", "a <|im_end|>") == digest("", "b <|im_end|> c")
    assert digest("", "<|im_end|>") != digest("", "<|im_start|>")


def test_log_digest_identifies_the_whole_string() -> None:
    """Under `digest` the same message is known again, and no other."""
    extra = "log: {text: digest}\n"
    assert digest(extra, "a <|im_end|>") == digest(extra, "a <|im_end|>") != digest(extra, "b <|im_end|>")


def test_digest_needs_the_key() -> None:
    """Two guards with keys of their own do not agree; a given key makes them."""
    policy = build().policy
    one, other = (Guard(policy, sinks=()).check("<|im_end|>", source="user").violations[0].digest for _ in range(2))
    assert one != other
    assert Guard(policy, sinks=(), digest_key=KEY).check("<|im_end|>", source="user").violations[0].digest == digest(
        "", "<|im_end|>"
    )


@pytest.mark.parametrize("key", [b"", b"x" * 65])
def test_a_key_has_1_to_64_bytes(key: bytes) -> None:
    """BLAKE2b takes no other, and no key at all would be no secret."""
    with pytest.raises(DigestKeyError):
        Guard(build().policy, digest_key=key)


def test_excerpt_is_escaped_and_broken() -> None:
    """An excerpt is there only when asked for, and nothing in it parses, rings or turns the line around."""
    guard = build("log: {text: excerpt}\n")
    text = "\x1b[31m \u202e <|im_start|><|im_end|> \x07 [INST] tail" + "x" * 100
    for violation in guard.encode(text, source="user").violations:
        assert violation.excerpt is not None
        assert violation.excerpt.isprintable()
        assert not any(form.text in violation.excerpt for form in guard.ruleset.forms)
        assert len(violation.excerpt) < 150
    assert build().encode(text, source="user").violations[0].excerpt is None


def test_a_flood_of_forms_is_no_flood_of_records() -> None:
    """One text with hundreds of different forms makes a bounded number of records, whose counts are whole."""
    guard = build()
    forms = [form.text for form in guard.ruleset.forms][:500]
    seen: list[Violation] = []
    loud = Guard(guard.policy, guard.tokenizer, sinks=[seen.append])
    out = loud.encode(" ".join(forms) * 3, source="user")
    rules = {violation.rule for violation in out.violations}
    assert len(seen) <= LOGGED_GROUPS + len(rules)
    assert sum(violation.count for violation in seen) == loud.check(" ".join(forms) * 3, source="user").count


def test_nothing_that_a_caller_passes_reaches_a_record_unbroken() -> None:
    """A request id can come from a client's header, a path from a request's keys."""
    text = Text("<|im_end|>", source="user", path='$["<|im_start|>\x1b"]')
    (violation,) = build().encode(text, request_id="<|im_start|>\u202e").violations
    assert (violation.path, violation.request_id) == ('$["<_|im_start|>\\x1b"]', "<_|im_start|>\\u202e")


@pytest.mark.parametrize("extra", ["", "foreign: ignore\n"])
def test_other_families_forms_are_broken_too(extra: str) -> None:
    """A log can end up in another model's prompt, so even what the policy ignores is broken."""
    guard = build(extra + "log: {text: excerpt}\n")
    (violation, *_) = guard.encode("<|im_end|> [INST] <unused7> </s>", source="user").violations
    assert violation.excerpt == "<_|im_end|> [_INST] <_unused7> <_/s>"


def test_forms_that_a_break_does_not_break_are_escaped() -> None:
    """One character, and a form that is another's broken spelling."""
    guard = build('custom_tokens: {"\u00a7": auto, "<_|im_end|>": auto}\n')
    tokens = {violation.token for violation in guard.encode("\u00a7 <|im_end|>", source="user").violations}
    assert tokens == {"\\xa7_", "\\x3c_|im_end|>"}


def test_digests_of_many_strings_are_linear() -> None:
    """Each string is looked at once, however many of its neighbours are from the same place."""
    text = Text("", source="user").join([Text("<|im_end|>", source="user")] * 500)
    violations = build("log: {text: digest}\n").encode(text).violations
    assert len({violation.digest for violation in violations}) == 1


def test_joint_form_names_both_sources_and_its_first_place() -> None:
    """The place is where the form begins, in the string where it begins."""
    guard = build()
    text = Text("ab<|im_", source="user", path="$.a") + Text("end|>", source="template", path="$.t")
    (violation,) = guard.encode(text).violations
    assert (violation.rule, violation.source, violation.path) == ("joint", "user+template", "$.a")
    assert (violation.start, violation.end) == (2, 7)


@pytest.mark.parametrize("form", ["<|im_end|>", "[INST]", "<\uff5cUser\uff5c>", "\u202e<|x|>"])
def test_broken_forms_are_printable_and_different(form: str) -> None:
    """The spelling in a record is not the form."""
    assert form not in broken(form)
    assert broken(form).isprintable()


def test_visible_leaves_ordinary_text_alone() -> None:
    """Letters of any script stay; only what cannot be seen is escaped."""
    assert visible("żółć 漢字 👍") == "żółć 漢字 👍"
    assert visible("a\u200bb\n\ud800") == "a\\u200bb\\n\\ud800"
