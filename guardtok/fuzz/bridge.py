"""The same cases from bytes, for fuzzers that are guided by coverage: Atheris, libFuzzer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guardtok.errors import ConformanceError
from guardtok.fuzz.local import Local

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.fuzz.case import Case


def make_one_input(
    target: object, policy: str | None = None, against: object = None
) -> Callable[[bytes], bytes | None]:
    """Return Hypothesis's `fuzz_one_input` over the cases of all generators for a target."""
    from hypothesis import given, settings
    from hypothesis import strategies as st

    from guardtok.fuzz.generators import generators

    asked = Local(target, policy, against)
    # Growth is told by time, which is no property of a single input.
    chosen = [each for each in generators(asked.open()[0]) if each.share == 1]

    @settings(database=None, deadline=None)
    @given(st.one_of([each.cases.map(lambda case, each=each: (each, case)) for each in chosen]))  # type: ignore[misc]
    def one(drawn: tuple[Any, Case]) -> None:
        generator, case = drawn
        if not generator.carries(case):
            return
        for name, cause in ((outcome.oracle.value, outcome.cause) for outcome in asked.ask(case)[1]):
            raise ConformanceError(name, cause)

    handle: Any = one
    made: Callable[[bytes], bytes | None] = handle.hypothesis.fuzz_one_input
    return made
