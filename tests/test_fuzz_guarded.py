"""guardtok itself under its fuzzer: nothing is found in a guard, and what is broken in one is found."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from guardtok import Guard, Text
from guardtok.errors import RequestError
from guardtok.fuzz import ATTACKS, Oracle, fuzz
from guardtok.policy import shipped_policies
from tests import fuzz_targets

if TYPE_CHECKING:
    from guardtok.violation import Violation


def test_nothing_is_found_in_a_guard() -> None:
    """All classes and all oracles, a few cases each."""
    report = fuzz(fuzz_targets.guard(), cases=700, seconds=None)
    assert report.findings == ()
    assert set().union(*report.coverage.values()) == set(Oracle)
    assert report.coverage.keys() >= set(ATTACKS) - {"A2", "A14", "A18", "A21", "A23"}


@pytest.mark.parametrize("policy", sorted({"strict", "chatml", "corpus", "monitor"} & set(shipped_policies())))
def test_nothing_is_found_under_a_shipped_policy(policy: str) -> None:
    """A slice of what runs for hours elsewhere, in a process of its own."""
    report = fuzz("guardtok", policy=policy, cases=150, seconds=None, seed=1)
    assert report.findings == ()
    assert report.target.startswith(f"{policy} over ")


class Raw(Guard):
    """Parses whatever is in a text."""

    __slots__ = ()

    def encode(self, text: str, **options: Any) -> Any:  # noqa: ANN401 - as of a Guard
        options.setdefault("source", None)
        found = super().encode(text, **options)
        ids = self.tokenizer.encoding.encode(str(text), allowed_special="all")  # type: ignore[union-attr]
        return SimpleNamespace(ids=ids, violations=found.violations)


class Deaf(Guard):
    """Forgets that a text has parts, and the last character with them."""

    __slots__ = ()

    def encode(self, text: str, **options: Any) -> Any:  # noqa: ANN401 - as of a Guard
        cut = text[:-1] if len(text) > 3 and text.endswith("b") else text
        return super().encode(cut, **options)


class Greedy(Guard):
    """Swallows the trusted token behind half a form."""

    __slots__ = ()

    def encode(self, text: str, **options: Any) -> Any:  # noqa: ANN401 - as of a Guard
        found = super().encode(text, **options)
        plain = str.__str__(text)
        ids = found.ids[:-1] if plain.endswith("</s>") and "<|im" in plain[1:-4] else found.ids
        return SimpleNamespace(ids=ids, violations=found.violations)


class Loud(Guard):
    """Writes forms into its records as they are."""

    __slots__ = ()

    def check(self, text: str, **options: Any) -> Any:  # noqa: ANN401 - as of a Guard
        found = super().check(text, **options)
        spelled = tuple(_spell(violation) for violation in found.violations)
        return SimpleNamespace(violations=spelled, count=found.count)


def _spell(violation: Violation) -> Any:  # noqa: ANN401 - a record
    record = violation.to_dict() | {"token": violation.token.replace("_", "", 1)}
    return SimpleNamespace(to_dict=lambda: record, action=violation.action)


class Twice(Guard):
    """Sanitizes by taking forms out once."""

    __slots__ = ()

    def sanitize(self, text: str, **options: Any) -> Any:  # noqa: ANN401 - as of a Guard
        found = super().sanitize(text, **options)
        plain = str.__str__(text)
        for form in ("<|im_start|>", "<|im_end|>", "</s>"):
            plain = plain.replace(form, "")
        return SimpleNamespace(text=plain, violations=found.violations)


class Failing(Guard):
    """Lets an error of somebody else's out."""

    __slots__ = ()

    def encode_batch(self, texts: Any, **options: Any) -> Any:  # noqa: ANN401 - as of a Guard
        if any("\u200b" in text for text in texts):
            raise KeyError
        return super().encode_batch(texts, **options)


class Bodies(Guard):
    """Sanitizes whole requests, string by string."""

    __slots__ = ()

    def sanitize_chat(self, body: Any, *, protocol: str) -> Any:  # noqa: ANN401 - as of a Guard
        if protocol == "openai.completions":
            raise RequestError("request.token_ids", "$.prompt", "ids are no text")
        violations: list[Any] = []
        return SimpleNamespace(body=self.walk(body, violations), violations=tuple(violations))

    def walk(self, value: Any, violations: list[Any]) -> Any:  # noqa: ANN401 - JSON
        if isinstance(value, str):
            done = self.sanitize(value, source="user")
            violations.extend(done.violations)
            return done.text
        if isinstance(value, dict):
            return {self.name(key, violations): self.walk(inner, violations) for key, inner in value.items()}
        return [self.walk(inner, violations) for inner in value] if isinstance(value, list) else value

    def name(self, key: str, violations: list[Any]) -> Any:  # noqa: ANN401 - JSON
        return self.walk(key, violations)


class Keyless(Bodies):
    """Sanitizes whole requests, but not their keys, and lets ids through."""

    __slots__ = ()

    def sanitize_chat(self, body: Any, *, protocol: str) -> Any:  # noqa: ANN401 - as of a Guard
        if protocol == "openai.completions":
            return SimpleNamespace(body=body, violations=())
        return super().sanitize_chat(body, protocol=protocol)

    def name(self, key: str, violations: list[Any]) -> Any:  # noqa: ANN401 - JSON
        return key if isinstance(violations, list) else None


def test_guards_of_requests_are_given_whole_requests() -> None:
    """Nothing is found in one that looks at every string and key and refuses ids, and what another forgets is found."""
    whole = fuzz(fuzz_targets.guard(Bodies), cases=200, seconds=None, attacks=["A11", "A14"])
    assert whole.findings == ()
    assert whole.coverage.keys() == {"A11", "A14"}
    found = fuzz(fuzz_targets.guard(Keyless), cases=200, seconds=None, attacks=["A11", "A14"])
    assert {finding.outcome.cause for finding in found.findings} == {
        "a request's reserved ids go on unseen",
        "a sanitized request spells a control token",
    }


class Piecemeal(Guard):
    """Encodes each part of a text by itself, where a run reaches over parts."""

    __slots__ = ()

    def encode(self, text: str, **options: Any) -> Any:  # noqa: ANN401 - as of a Guard
        found = super().encode(text, **options)
        if not isinstance(text, Text):
            return found
        parts = [super(Piecemeal, self).encode(text[run.start : run.end]) for run in text.runs]
        return SimpleNamespace(ids=[id_ for part in parts for id_ in part.ids], violations=found.violations)


def test_a_guard_is_held_against_the_specification() -> None:
    """Ids that are as harmless as others, and not those that the specification gives, are a drift."""
    report = fuzz(fuzz_targets.guard(Piecemeal), cases=300, seconds=None, attacks=["A10"], oracles=["drift"])
    assert [finding.outcome.cause for finding in report.findings] == ["a guard and the specification differ"]


@pytest.mark.parametrize(
    ("kind", "attack", "oracle"),
    [
        (Raw, "A1", "leak"),
        (Deaf, "A6", "round trip"),
        (Greedy, "A1", "erase"),
        (Loud, "A1", "log"),
        (Twice, "A7", "leak"),
        (Failing, "A5", "crash"),
    ],
)
def test_a_broken_guard_is_found(kind: type[Guard], attack: str, oracle: str) -> None:
    """Each fault is found by the oracle that is there for it."""
    report = fuzz(fuzz_targets.guard(kind), cases=500, seconds=None, attacks=[attack, "plain"])
    assert oracle in {finding.outcome.oracle.value for finding in report.findings}


def test_a_refusal_is_no_finding() -> None:
    """A guard that blocks everything promises just that."""
    report = fuzz("guardtok", policy="strict", cases=60, seconds=None, attacks=["A1"])
    assert report.findings == ()
    assert report.coverage["A1"][Oracle.CRASH] == 60
