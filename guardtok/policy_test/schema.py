"""The schema of a file of tests, read through the same YAML reader as policies, with the same kind of errors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from guardtok.errors import PolicyError, Problem, near_match

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from pydantic_core import ErrorDetails

    from guardtok.policy.marked import Mapped, Node, Steps

VERSION = 1
"""The version of the schema of test files that this guardtok reads."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PartModel(_Model):
    """A piece of a text, and who wrote it."""

    source: str = Field(description="Who wrote it.")
    text: str = Field(description="What was written.")


class ExpectModel(_Model):
    """What the policy shall make of a text. What is left out is not compared, except the action."""

    action: Literal["allow", "log", "escape", "strip", "block"] = Field(
        description="The strictest action that anything in the text asks for; `allow` where nothing is found."
    )
    rules: list[str] | None = Field(None, description="The rules that decided what is not allowed, in any order.")
    tokens: list[str] | None = Field(None, description="The control tokens that come out, in order.")
    text: str | None = Field(None, description="The text that comes out, control tokens spelled out.")
    ids: list[int] | None = Field(None, description="The ids that come out; needs `tokenizer`.")


class CaseModel(_Model):
    """One test: either `source` and `text`, or `parts`."""

    name: str = Field(min_length=1, description="The fact that is tested.")
    source: str | None = Field(None, description="Who wrote `text`.")
    text: str | None = Field(None, description="A text of one source.")
    parts: list[PartModel] = Field([], description="A text of several sources, piece by piece.")
    expect: ExpectModel


class TestFileModel(_Model):
    """The tests of one policy."""

    __test__ = False  # The name is not meant for pytest.

    guardtok_test: Annotated[int, Field(ge=VERSION, le=VERSION)] = Field(description="Version of this schema: 1.")
    policy: str | None = Field(None, min_length=1, description="The policy. Default: the file beside.")
    tokenizer: str | None = Field(None, min_length=1, description="The tokenizer to bind. Default: none.")
    tests: list[CaseModel] = Field(min_length=1)


def check_file(tree: Node, problems: list[Problem]) -> tuple[TestFileModel, Mapped]:
    """Check a tree against the schema.

    Raises:
        PolicyError: Something is wrong with it, or `problems` already has something.
    """
    from guardtok.policy.marked import Mapped, plain

    if not isinstance(tree, Mapped):
        fact = "The file must hold keys and values."
        raise PolicyError([*problems, Problem(str(tree.mark), fact, "Begin with `guardtok_test: 1`.")])
    try:
        file = TestFileModel.model_validate(plain(tree))
    except ValidationError as error:
        wrong = [_problem(tree, details) for details in error.errors(include_url=False)]
        raise PolicyError([*problems, *wrong]) from None
    if problems:
        raise PolicyError(problems)
    return file, tree


def _problem(tree: Mapped, details: ErrorDetails) -> Problem:
    from guardtok.policy.bounds import shown
    from guardtok.policy.marked import mark_at

    path: Steps = details["loc"]
    key = next((part for part in reversed(path) if isinstance(part, str)), "tests")
    unknown = details["type"] == "extra_forbidden"
    mend = ""
    match details["type"]:
        case "extra_forbidden":
            known = tuple(_schema_at(path[:-1]).model_fields)
            fact, mend = f"Unknown key {shown(key)}.", near_match(key, known) or f"Known here: {', '.join(known)}."
        case "missing":
            fact = f"The key `{key}` is missing."
        case "literal_error":
            choices = str(details["ctx"]["expected"])
            fact = f"`{key}` can only be {choices}."
            mend = near_match(str(details["input"]), re.findall(r"\w+", choices.replace(" or ", " ")))
        case _:
            fact = f"`{key}` is not what it should be: {details['msg']}."
            mend = "Quote it." if details["type"] == "string_type" else ""
    return Problem(str(mark_at(tree, path, key=unknown)), fact, mend.strip())


def _schema_at(path: Steps) -> type[BaseModel]:
    """Return the model whose keys the schema knows at a place: `("tests", 0, "expect")` and the like."""
    if "expect" in path:
        return ExpectModel
    if "parts" in path:
        return PartModel
    return CaseModel if path else TestFileModel


def check_cases(file: TestFileModel, tree: Mapped, known: Collection[str]) -> Iterator[Problem]:
    """Yield what the schema cannot see: sources that nobody declared, a test without a text, two of one name.

    Args:
        file: What the file says.
        tree: Where it says it.
        known: The sources that the policy knows.
    """
    from guardtok.policy.bounds import shown
    from guardtok.policy.marked import mark_at

    names: set[str] = set()
    for index, case in enumerate(file.tests):
        at: Steps = ("tests", index)
        if case.name in names:
            yield Problem(str(mark_at(tree, (*at, "name"))), f"Two tests are named {shown(case.name)}.", "Rename one.")
        names.add(case.name)
        single = [case.source is not None, case.text is not None]
        if all(single) == bool(case.parts) or any(single) == bool(case.parts):
            fact = "A test has either `source` and `text`, or `parts`."
            yield Problem(str(mark_at(tree, at)), fact, "Give one of the two.")
        if case.expect.ids is not None and file.tokenizer is None:
            place = str(mark_at(tree, (*at, "expect", "ids"), key=True))
            yield Problem(place, "`ids` needs a tokenizer.", "Name one under `tokenizer`, at the top of the file.")
        written = [(case.source, (*at, "source"))]
        written += [(part.source, (*at, "parts", number, "source")) for number, part in enumerate(case.parts)]
        for source, path in written:
            if source is not None and source not in known:
                fact = f"Source {shown(source)} is neither built in nor declared by the policy."
                yield Problem(str(mark_at(tree, path)), fact, near_match(source, known).strip())
