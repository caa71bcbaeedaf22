"""The catalogue says what its sources say, and nothing that is an ordinary word is in it."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from guardtok.dialects import Confidence, Kind, catalogue, dialect_names, families, family, role_of
from guardtok.tokenizer import Role

ROOT = Path(__file__).parent.parent
DATA_FILE = ROOT / "guardtok" / "data" / "dialects.json"
DATA = json.loads(DATA_FILE.read_text("utf-8"))
ROWS = [row for each in DATA["families"] for row in each["forms"]]


def forms_of(slug: str) -> dict[str, int | None]:
    """Return the ids of a family by form."""
    found = family(slug)
    assert found is not None
    return {row.form: row.id for row in found.forms}


def test_families_say_where_they_come_from() -> None:
    """Every one of the 60 families has a confidence, a source and a name."""
    assert len(families()) == 60
    for each in families():
        assert each.source
        assert each.name
        assert each.forms
        assert isinstance(each.confidence, Confidence)


def test_names_are_unique_and_plain() -> None:
    """A slug or alias names one family, and can be written in `@dialect:NAME` without quoting rules of its own."""
    names = [name for each in families() for name in (each.slug, *each.aliases)]
    assert [name for name, n in Counter(names).items() if n > 1] == []
    assert tuple(names) == dialect_names()
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name) for name in names)
    assert all(re.fullmatch(r"[a-z0-9_]+", each.slug) for each in families())


def test_aliases_lead_to_the_family() -> None:
    """Every name finds its family; an unknown one finds none."""
    for each in families():
        assert all(family(name) is each for name in (each.slug, *each.aliases))
    assert family("chatml") is family("cl100k_chatml")
    assert family("qwen2.5") is family("qwen")
    assert family("llama33") is None


@pytest.mark.parametrize("family_data", DATA["families"], ids=lambda each: each["slug"])
def test_rows_are_well_formed(family_data: dict[str, Any]) -> None:
    """A row is one form or one range, with a role exactly where it is not ordinary text."""
    assert set(family_data) == {"slug", "name", "aliases", "confidence", "source", "note", "forms"}
    for row in family_data["forms"]:
        if "form" in row:
            assert set(row) <= {"form", "id", "role", "kind", "confidence"}
        else:
            assert set(row) <= {"pattern", "first", "last", "id", "step", "role", "kind", "confidence"}
            assert row["pattern"].count("{i") == 1
            assert 0 <= row["first"] < row["last"]
            assert row.get("step", -1) == -1
        assert row.get("id", 0) >= 0
        assert ("role" in row) == (row.get("kind") != "text")
        assert row.get("kind", "text") in {"text", "byte"}
        assert row.get("role", "turn") in set(Role)
        assert row.get("confidence", "recalled") in set(Confidence)


def test_data_is_one_row_a_line() -> None:
    """A change to one token is a change of one line: each row and each common form has its line."""
    lines = {
        line.strip().rstrip(",") for line in (ROOT / "guardtok/data/dialects.json").read_text("utf-8").splitlines()
    }
    written = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    written += [json.dumps(form, ensure_ascii=False) for form in DATA["common"]]
    assert [row for row in written if row not in lines] == []


def test_a_family_has_a_form_once() -> None:
    """No family lists a form twice, ranges written out."""
    for each in families():
        assert [form for form, n in Counter(row.form for row in each.forms).items() if n > 1] == [], each.slug


def test_two_forms_share_an_id_only_in_harmony() -> None:
    """One id has one form, but for 200018 in o200k_harmony."""
    shared = {
        (each.slug, token_id)
        for each in families()
        for token_id, n in Counter(row.id for row in each.forms if row.id is not None).items()
        if n > 1
    }
    assert shared == {("harmony", 200018)}


@pytest.mark.parametrize(
    ("slug", "form", "token_id"),
    [
        ("gpt2", "<|endoftext|>", 50256),
        ("cl100k_chatml", "<|im_start|>", 100264),
        ("harmony", "<|endofprompt|>", 200018),
        ("harmony", "<|reserved_200018|>", 200018),
        ("harmony", "<|reserved_201087|>", 201087),
        ("qwen1", "<|extra_0|>", 151646),
        ("qwen1", "<|extra_204|>", 151850),
        ("qwen", "<|object_ref_start|>", 151646),
        ("llama2", "<0x0A>", 13),
        ("llama2", "<0xFF>", 258),
        ("llama3", "<|eot_id|>", 128009),
        ("llama3", "<|reserved_special_token_245|>", 128255),
        ("llama4", "<|vision_reserved_special_token_1047|>", 201133),
        ("llama4", "<|reserved_special_token_903|>", 202047),
        ("mistral_v3", "[REFERENCE_DOC_0]", 770),
        ("mistral_v3", "[REFERENCE_DOC_19]", 751),
        ("mistral_v3", "[control_748]", 750),
        ("gemma2", "<unused98>", 105),
        ("gemma3", "<start_of_turn>", 105),
        ("deepseek", "<\uff5cbegin\u2581of\u2581sentence\uff5c>", 0),
        ("deepseek", "<\uff5cUser\uff5c>", 128803),
        ("deepseek", "<\uff5ctool\u2581calls\u2581begin\uff5c>", 128806),
        ("t5", "<extra_id_99>", 32000),
        ("muse_glimmer", "<|reserved_special_token_2047|>", None),
    ],
)
def test_ids_are_those_of_the_sources(slug: str, form: str, token_id: int | None) -> None:
    """Facts picked by hand, ends of ranges above all."""
    assert forms_of(slug)[form] == token_id


@pytest.mark.parametrize(
    "form",
    [
        *("sop", "User:", "User: ", "Assistant:", "System:", "### Instruction:", "### Response:", "[MARK]"),
        *("/think", "/no_think", "/nothink", "<co>", "<functions>", '<invoke name="', "<|refusal|>", "<|begin user|>"),
    ],
)
def test_ordinary_text_is_in_no_group(form: str) -> None:
    """Words are kept in the data, as text, and are neither scanned for nor given a role."""
    assert form not in catalogue()
    assert role_of(form, None) is None
    assert {row.kind for each in families() for row in each.forms if row.form == form} == {Kind.TEXT}


def test_byte_spellings_are_not_scanned_for() -> None:
    """`<0x0A>` is what a hex dump looks like: a family's form, but not the catalogue's."""
    assert [form for form in catalogue() if form.startswith("<0x")] == []
    assert Kind.BYTE in {row.kind for each in families() if each.slug == "llama2" for row in each.forms}
    assert {"<unk>", "[UNK]", "<s>"} <= set(catalogue())


def test_the_catalogue_is_every_control_form() -> None:
    """The catalogue holds exactly the control forms of all families, and names their families in order."""
    expected: dict[str, tuple[str, ...]] = {}
    for each in families():
        for row in each.forms:
            if row.kind is Kind.CONTROL:
                expected[row.form] = (*expected.get(row.form, ()), each.slug)
    assert {form: entry.families for form, entry in catalogue().items()} == expected
    assert all(form == entry.form for form, entry in catalogue().items())


def test_no_form_is_short_enough_to_be_met_by_chance() -> None:
    """Every form has at least three characters, none at its ends is white space, and it is not a bare word."""
    for form in catalogue():
        assert len(form) >= 3
        assert form == form.strip()
        assert not form.isalnum()


def test_the_catalogue_cannot_be_changed() -> None:
    """The catalogue is shared by every guard of the process, so it is read-only."""
    with pytest.raises(TypeError):
        catalogue()["x"] = catalogue()["<s>"]  # type: ignore[index]


def test_one_form_has_one_role() -> None:
    """The families' majority decides, and on a tie the first family."""
    assert catalogue()["</s>"].role is Role.EOS  # eos in eight families, a separator in two
    assert catalogue()["<|start_header_id|>"].role is Role.TURN  # llama3 before kimi_k2
    assert catalogue()["<|extra_0|>"].role is Role.RESERVED  # qwen1 before hunyuan
    assert catalogue()["[REF]"].role is Role.TOOL
    assert catalogue()["[MASK]"].role is Role.RESERVED
    assert {entry.role for entry in catalogue().values()} == set(Role)


def test_a_role_belongs_to_form_and_id() -> None:
    """What families say of this very id goes before what most say of the form."""
    assert role_of("<|extra_0|>", 151646) is Role.RESERVED
    assert role_of("</s>", 2) is Role.EOS
    assert role_of("<s>", 0) is Role.RESERVED  # RoBERTa's classifier token
    assert role_of("<s>", 1) is Role.BOS
    assert role_of("<|start_header_id|>", 163590) is Role.HEADER
    assert role_of("<|im_start|>", 7_000_000) is Role.TURN
    assert role_of("<|my_own|>", 5) is None


def test_common_forms_exist_and_are_explained() -> None:
    """Everything listed as common is in the catalogue, and the documentation gives its reason."""
    page = (ROOT / "docs" / "dialects.md").read_text("utf-8")
    known = {row.get("form") or row["pattern"] for row in ROWS}
    assert len(DATA["common"]) == len(set(DATA["common"]))
    for form in DATA["common"]:
        assert form in known
        assert f"`{form.replace('{i}', 'N')}`" in page, form


def test_tokens_that_open_a_turn_are_never_common() -> None:
    """A scan for foreign forms must not leave out the forms that forge a conversation in a current model."""
    for form in ("<|im_start|>", "<|start|>", "<start_of_turn>", "[INST]", "<|eot_id|>", "<think>", "<tool_call>"):
        assert not catalogue()[form].common
    assert catalogue()["<s>"].common
    assert catalogue()["[unused7]"].common


def test_every_family_is_documented() -> None:
    """The table of families in the documentation has a row for each, with its aliases and its confidence."""
    page = (ROOT / "docs" / "dialects.md").read_text("utf-8")
    for each in families():
        aliases = ", ".join(f"`{alias}`" for alias in each.aliases)
        assert f"| `{each.slug}` | {aliases} | {each.name} | {each.confidence} |" in page


def test_facts_are_those_that_were_collected() -> None:
    """Against the collected facts, where they are at hand: every form and id of every family, in order."""
    vocabularies = os.environ.get("GUARDTOK_VOCAB_DIR")
    path = Path(vocabularies or ".").parent / "data" / "dialects.yaml"
    if not vocabularies or not path.is_file():
        pytest.skip("the collected facts (../data/dialects.yaml beside GUARDTOK_VOCAB_DIR) are not here")
    from ruamel.yaml import YAML

    facts = YAML(typ="safe").load(path)["families"]
    assert len(facts) == len(families())
    for fact, ours in zip(facts, families(), strict=True):
        expected: list[tuple[str, int | None]] = []
        for row in fact["tokens"]:
            if "token" in row:
                expected.append((row["token"], row.get("id")))
                continue
            start = row.get("id_at_i_from")
            for n, i in enumerate(range(row["i_from"], row["i_to"] + 1)):
                expected.append((row["pattern"].format(i=i), None if start is None else start + n * row["id_step"]))
        assert [(row.form, row.id) for row in ours.forms] == expected, ours.slug
        assert fact["confidence"] == ours.confidence
