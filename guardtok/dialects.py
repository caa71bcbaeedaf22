"""The catalogue of control-token families: which strings model families reserve, what each is for, and who says so.

The threat this answers is text made for another tokenizer: `<|im_start|>` means nothing to Llama 3, until the same text
is forwarded to a model that parses it. A bound tokenizer is always asked for its own control tokens; the catalogue says
what each is for, and names the forms of all the others. The facts are in `data/dialects.json`, read on need.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from guardtok.tokenizer import Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Confidence(str, Enum):
    """How well a fact is known, from the best to the least."""

    VERIFIED_PRIMARY = "verified-primary"
    """Read in the vendor's or the upstream project's own source, or parsed from its file."""
    CONFIG_COPY = "config-copy"
    """Read in a verbatim copy of the vendor's configuration, or in an upstream project's constants or tests."""
    SECONDARY = "secondary"
    """Read in a third party's table or test."""
    SURFACE_ONLY = "surface-only"
    """The form was read in a public template or source; its id was not confirmed."""
    RECALLED = "recalled"
    """From memory."""

    def __str__(self) -> str:
        return self.value


class Kind(str, Enum):
    """Whether a form is scanned for: `control` is, `text` (ordinary words) and `byte` (`<0x0A>`) are not."""

    CONTROL = "control"
    TEXT = "text"
    BYTE = "byte"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class FamilyForm:
    """One string that a family gives a meaning.

    Attributes:
        form: The string, exactly.
        id: Its id in this family, or None where it has none or none is known.
        role: What it is for; None for a form of kind `text`.
        kind: Whether it is a control token, ordinary text, or the spelling of a byte.
        confidence: How well this row is known.
    """

    form: str
    id: int | None
    role: Role | None
    kind: Kind
    confidence: Confidence


@dataclass(frozen=True, slots=True)
class Family:
    """One family of control tokens.

    Attributes:
        slug: Its name in a policy: `@dialect:SLUG`.
        name: Its name for people.
        aliases: Other names that a policy may use.
        confidence: How well the family is known; a form may differ.
        source: Where the facts were read.
        note: What else there is to know; may be empty.
        forms: Every form, ranges written out, in the order of the data.
    """

    slug: str
    name: str
    aliases: tuple[str, ...]
    confidence: Confidence
    source: str
    note: str
    forms: tuple[FamilyForm, ...]


@dataclass(frozen=True, slots=True)
class CatalogueForm:
    """One control form, over all families that have it.

    Attributes:
        form: The string, exactly.
        role: What it is for in most of them; on a tie, in the one that comes first.
        families: Slugs of the families that have it, in the order of the data.
        common: Whether ordinary documents hold it too (`<s>`, `[REF]`); a scan for foreign forms leaves these out.
    """

    form: str
    role: Role
    families: tuple[str, ...]
    common: bool


@cache
def families() -> tuple[Family, ...]:
    """Return every family, in the order of the data."""
    return tuple(
        Family(
            slug=family["slug"],
            name=family["name"],
            aliases=tuple(family["aliases"]),
            confidence=Confidence(family["confidence"]),
            source=family["source"],
            note=family["note"],
            forms=tuple(form for row in family["forms"] for form in _expand(row, Confidence(family["confidence"]))),
        )
        for family in _data()["families"]
    )


def family(name: str) -> Family | None:
    """Return the family of that slug or alias, or None."""
    index = _names().get(name)
    return None if index is None else families()[index]


def dialect_names() -> tuple[str, ...]:
    """Return every slug and alias that `family` knows, a family's slug first."""
    return tuple(_names())


@cache
def catalogue() -> Mapping[str, CatalogueForm]:
    """Return every form of kind `control` by its string, in the order of the data."""
    # Straight from the data: this is on the way to every guard, and the objects of `families` take as long again.
    data = _data()
    common = frozenset(data["common"])
    found: dict[str, list[tuple[str, Role, bool]]] = {}
    for each in data["families"]:
        for row in each["forms"]:
            if row.get("kind", Kind.CONTROL) == Kind.CONTROL:
                claim = (each["slug"], Role(row["role"]), (row.get("form") or row["pattern"]) in common)
                for form in _forms(row):
                    found.setdefault(form, []).append(claim)
    return MappingProxyType({form: _entry(form, claims) for form, claims in found.items()})


def role_of(form: str, token_id: int | None) -> Role | None:
    """Return what a form is for: in the families that give it this id, else in the catalogue, else None.

    The id decides first because families disagree: `<|extra_0|>` is a reserved slot in Qwen and ends a turn in Hunyuan.
    """
    if token_id is not None and (roles := _roles_by_id().get((form, token_id))):
        return _most_frequent(roles)
    entry = catalogue().get(form)
    return entry.role if entry else None


def _most_frequent(roles: Sequence[Role]) -> Role:
    """Return the role that occurs most often; of several, the one that occurs first."""
    return roles[0] if len(roles) == 1 else max(roles, key=roles.count)


@cache
def _names() -> Mapping[str, int]:
    """Map every slug and alias to the family's place in the data."""
    named = enumerate(_data()["families"])
    return MappingProxyType({name: i for i, each in named for name in (each["slug"], *each["aliases"])})


@cache
def _roles_by_id() -> Mapping[tuple[str, int], Sequence[Role]]:
    """Map form and id to the roles that families give the pair."""
    found: dict[tuple[str, int], list[Role]] = {}
    for each in _data()["families"]:
        for row in each["forms"]:
            if "role" in row and "id" in row:
                role = Role(row["role"])
                for pair in zip(_forms(row), _ids(row), strict=True):
                    found.setdefault(pair, []).append(role)
    return MappingProxyType(found)


def _entry(form: str, claims: Sequence[tuple[str, Role, bool]]) -> CatalogueForm:
    """Return what the families' claims (slug, role, common) to a form come to."""
    if len(claims) == 1:
        slug, role, common = claims[0]
        return CatalogueForm(form, role, (slug,), common)
    slugs, roles, commons = zip(*claims, strict=True)
    return CatalogueForm(form, _most_frequent(roles), slugs, any(commons))


def _expand(row: Mapping[str, Any], confidence: Confidence) -> Iterator[FamilyForm]:
    """Yield the forms of one row of the data, which has the family's confidence unless it states its own."""
    role = Role(row["role"]) if "role" in row else None
    kind = Kind(row.get("kind", Kind.CONTROL))
    confidence = Confidence(row.get("confidence", confidence))
    ids = _ids(row) if "id" in row else repeat(None)
    return (
        FamilyForm(form, token_id, role, kind, confidence) for form, token_id in zip(_forms(row), ids, strict=False)
    )


def _forms(row: Mapping[str, Any]) -> list[str]:
    """Return the strings of a row: its one form, or its pattern with every number from `first` to `last`."""
    if "form" in row:
        return [row["form"]]
    write = row["pattern"].format
    return [write(i=i) for i in range(row["first"], row["last"] + 1)]


def _ids(row: Mapping[str, Any]) -> range:
    """Return the ids of a row's strings; `id` is the first one's, and they go up or down by `step`."""
    step = row.get("step", 1)
    size = 1 if "form" in row else row["last"] - row["first"] + 1
    return range(row["id"], row["id"] + size * step, step)


@cache
def _data() -> Mapping[str, Any]:
    # Beside this module and not through importlib.resources, whose import takes as long as building the catalogue.
    text = Path(__file__).with_name("data").joinpath("dialects.json").read_text("utf-8")
    return MappingProxyType(json.loads(text))
