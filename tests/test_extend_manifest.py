"""Manifests: an extension written down and built again, and `guardtok extend`, which writes them."""

from __future__ import annotations

import doctest
import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from command_line import guardtok

from guardtok import Guard, extend
from guardtok.encodings import load_tokenizer
from guardtok.errors import GuardtokError, TokenizerMismatchError, UnknownTokenizerError, VocabularyError
from guardtok.manifest import read_manifest, write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable

TOKENS = ["<|tool|>", "<|/tool|>"]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Return the manifest of the embedded tokenizer with two new tokens."""
    return write_manifest(extend("guardtok", TOKENS, name="mine"), tmp_path)


def change(manifest: Path, edit: Callable[[dict[str, Any]], object], *, sign: bool = True) -> None:
    """Edit a manifest; `sign` writes the digest that belongs to it, as a forger would."""
    tree = json.loads(manifest.read_text(encoding="utf-8"))
    edit(tree)
    if sign:
        tree.pop("sha256", None)
        tree["sha256"] = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
    manifest.write_text(json.dumps(tree), encoding="utf-8")


def test_a_manifest_is_a_tokenizer(manifest: Path) -> None:
    """By its path it is loaded, under its name, with the same fingerprint and the same control tokens."""
    made = extend("guardtok", TOKENS, name="mine")
    assert manifest.name == "mine.extension.json"
    for path in (manifest, str(manifest)):
        loaded = load_tokenizer(path)
        assert (loaded.name, loaded.fingerprint) == ("mine", made.extension.fingerprint)
        assert loaded.control_tokens == made.tokenizer.control_tokens
    guard = Guard.load("chatml", manifest, sinks=())
    assert guard.encode("<|tool|>", source="template").ids == [8460]
    assert 8460 not in guard.encode("<|tool|>", source="user").ids


def test_a_manifest_says_all_that_a_model_is_resized_for(manifest: Path) -> None:
    """The extension and the report come back as they were."""
    made = extend("guardtok", TOKENS, name="mine")
    assert read_manifest(manifest.read_bytes(), "mine") == (made.extension, made.report, "guardtok")


def test_a_manifest_in_the_current_folder_needs_no_separator(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ending says what it is."""
    monkeypatch.chdir(manifest.parent)
    assert load_tokenizer(manifest.name).name == "mine"


def test_reserved_slots_and_gaps_come_back(tmp_path: Path, vocab: Callable[[str], Any]) -> None:
    """A replaced slot is replaced again, and a gap is filled again."""
    for base, scheme in (("qwen", "reserved"), ("cl100k_base", "gaps")):
        made = extend(vocab(base), TOKENS, scheme)  # type: ignore[arg-type]  # Each is a scheme.
        again = load_tokenizer(write_manifest(made, tmp_path))
        assert again.fingerprint == made.extension.fingerprint


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_manifest_is_refused(manifest: Path, share: float) -> None:
    """However much of it is there."""
    data = manifest.read_bytes()
    manifest.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(VocabularyError, match="is no manifest of an extension"):
        load_tokenizer(manifest)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b"[" * 100_000,
        b"{}",
        b"[]",
        b"null",
        b'{"guardtok_extension": 1, "guardtok_extension": 1}',
        b'{"guardtok_extension": 2}',
        b"NaN",
        b"1" * 10_000,
    ],
    ids=["utf-8", "deep", "empty", "list", "null", "twice", "version", "nan", "number"],
)
def test_what_is_no_manifest(manifest: Path, data: bytes) -> None:
    """It is one typed error that names the file."""
    manifest.write_bytes(data)
    with pytest.raises(VocabularyError, match=r"mine\.extension\.json is no manifest"):
        load_tokenizer(manifest)


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "id": lambda tree: tree["tokens"][0].update(id=9000),
    "form": lambda tree: tree["tokens"][0].update(form="<|evil|>"),
    "order of ids": lambda tree: [tree["tokens"][0].update(id=8461), tree["tokens"][1].update(id=8460)],
    "token left out": lambda tree: tree["tokens"].pop(),
    "token added": lambda tree: tree["tokens"].append(tree["tokens"][0] | {"form": "<|evil|>", "id": 9000}),
    "fingerprint": lambda tree: tree.update(fingerprint="sha256:" + "0" * 64),
    "same form twice": lambda tree: tree["tokens"].append(tree["tokens"][0] | {"id": 9000}),
    "same id twice": lambda tree: tree["tokens"].append(tree["tokens"][0] | {"form": "<|evil|>"}),
    "id of an ordinary token": lambda tree: tree["tokens"][0].update(id=65),
    "id that is true": lambda tree: tree["tokens"][0].update(id=True),
    "id out of range": lambda tree: tree["tokens"][0].update(id=2**32),
    "key too many": lambda tree: tree.update(more=1),
    "key too few": lambda tree: tree.pop("rows"),
    "name of another vocabulary": lambda tree: tree.update(name="gpt2"),
    "name of its base": lambda tree: tree.update(name="guardtok"),
    "name that leads elsewhere": lambda tree: tree.update(name="../mine"),
    "name that a terminal obeys": lambda tree: tree.update(name="\x1b[31mmine"),
    "more rows": lambda tree: tree.update(rows=2**32 - 1),
    "more rows of the base": lambda tree: tree["base"].update(rows=tree["rows"]),
    "placement": lambda tree: tree["tokens"][0].update(placement="present"),
    "pieces": lambda tree: tree["tokens"][0].update(pieces=[1]),
    "slot": lambda tree: tree["tokens"][0].update(replaces="<|evil|>"),
    "base an extension": lambda tree: tree["base"].update(tokenizer="mine.extension.json"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_forged_manifest_is_refused(manifest: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """A change by hand breaks the digest; one with the right digest does not come out as its fingerprint says."""
    original = manifest.read_bytes()
    for sign in (False, True):
        manifest.write_bytes(original)
        change(manifest, edit, sign=sign)
        with pytest.raises(VocabularyError) as raised:
            load_tokenizer(manifest)
        assert "<|evil|>" not in str(raised.value)


def test_a_key_that_is_written_twice_is_refused(manifest: Path) -> None:
    """Readers differ in which of the two they take, so it does not matter that both say the same."""
    data = manifest.read_bytes()
    manifest.write_bytes(data.replace(b'"name": "mine",', b'"name": "mine", "name": "mine",', 1))
    with pytest.raises(VocabularyError, match="a key is written twice"):
        load_tokenizer(manifest)


def test_a_manifest_belongs_to_its_base(manifest: Path, tmp_path: Path) -> None:
    """Another fingerprint, another vocabulary, or none of that name: three errors."""
    change(manifest, lambda tree: tree["base"].update(fingerprint="sha256:" + "0" * 64))
    with pytest.raises(TokenizerMismatchError, match="has the fingerprint"):
        load_tokenizer(manifest)
    change(manifest, lambda tree: tree["base"].update(tokenizer="nope"))
    with pytest.raises(UnknownTokenizerError):
        load_tokenizer(manifest)
    for place in ("./nope.tiktoken", "../nope/x.tiktoken"):
        change(manifest, lambda tree, place=place: tree["base"].update(tokenizer=place))
        with pytest.raises(UnknownTokenizerError):
            load_tokenizer(manifest)
    with pytest.raises(UnknownTokenizerError):
        load_tokenizer(tmp_path / "absent.extension.json")


def test_a_base_that_is_a_file_is_found_from_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both can be moved together, and the working directory does not matter."""
    data = Path(load_tokenizer.__code__.co_filename).with_name("data").joinpath("guardtok.tiktoken").read_bytes()
    tmp_path.joinpath("one").mkdir()
    tmp_path.joinpath("one", "base.tiktoken").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    path = write_manifest(extend("one/base.tiktoken", TOKENS), tmp_path / "one", "one/base.tiktoken")
    tmp_path.joinpath("one").rename("two")
    monkeypatch.chdir("/")
    assert load_tokenizer(tmp_path / "two" / path.name).control_tokens[-1].form == "<|/tool|>"


def test_a_manifest_is_written_over_nothing(manifest: Path) -> None:
    """What is there stays, and of an extension none is made."""
    before = manifest.read_bytes()
    with pytest.raises(FileExistsError):
        write_manifest(extend("guardtok", ["<|other|>"], name="mine"), manifest.parent)
    assert manifest.read_bytes() == before
    with pytest.raises(VocabularyError, match="no extension itself"):
        write_manifest(extend(manifest, ["<|other|>"]), manifest.parent, str(manifest))


def test_the_command_writes_what_the_commands_read(tmp_path: Path) -> None:
    """`extend --out` and then `encode --tokenizer`: the new token is guarded."""
    out = tmp_path / "deep" / "mine"
    ran = guardtok("extend", "guardtok", "-a", "<|tool|>", "--id", "<|=|>=9000", "--name", "mine", "-o", out)
    assert (ran.status, ran.err) == (0, "")
    path = out / "mine.extension.json"
    assert f"written: {path}" in ran.out
    rows = [line.split() for line in ran.out.splitlines()]
    assert ["8460", "<|tool|>", "append"] in rows
    assert ["9000", "<|=|>", "append"] in rows
    assert "warning ids-with-holes at guardtok:" in ran.out
    encoded = guardtok("encode", "--tokenizer", path, "--source", "template", "<|tool|><|=|>", "--format", "json")
    assert encoded.objects[0]["ids"] == [8460, 9000]
    assert encoded.objects[0]["tokenizer"]["name"] == "mine"
    assert guardtok("check", "--tokenizer", path, "<|tool|>").status == 1
    again = guardtok("extend", "guardtok", "-a", "<|tool|>", "--name", "mine", "-o", out)
    assert (again.status, again.out) == (2, "")
    assert "is there already" in again.err


def test_without_out_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is a look at what would come of it."""
    monkeypatch.chdir(tmp_path)
    record = guardtok("extend", "guardtok", "-a", "<|tool|>", "--format", "json").objects[0]
    made = extend("guardtok", ["<|tool|>"]).extension
    assert list(tmp_path.iterdir()) == []
    assert record["files"] == []
    assert record["tokens"] == [{"form": "<|tool|>", "id": 8460, "placement": "append", "replaces": None}]
    assert (record["name"], record["fingerprint"], record["rows"]) == (made.name, made.fingerprint, made.rows)
    assert record["base"] == {"name": "guardtok", "fingerprint": made.base_fingerprint, "rows": 8460}
    assert [finding["code"] for finding in record["findings"]] == ["old-ids-kept", "ordinary-kept", "contexts-kept"]


def test_files_for_other_programs_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plug-in, and a tokenizer.json that was compared, here over fewer characters."""
    monkeypatch.setattr("guardtok.extending.compare._PLANES", (range(0x3000),))
    wanted = ("-w", "tokenizer.json", "-w", "tiktoken-plugin", "--name", "mine", "-o", tmp_path)
    ran = guardtok("extend", "guardtok", "-a", "<|tool|>", *wanted)
    assert (ran.status, ran.err) == (0, "")
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    plugin = {f"tiktoken_ext/guardtok_mine.{ending}" for ending in ("py", "tiktoken")}
    assert files == {"mine.extension.json", "tokenizer.json", *plugin}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["guardtok"], "at least one token"),
        (["guardtok", "-a", ""], "form-invalid"),
        (["guardtok", "-a", "\udcff"], "form-invalid"),
        (["guardtok", "-a", "x", "-a", "x"], "form-twice"),
        (["guardtok", "-a", "<|im_end|>", "--ids", "append"], "form-taken"),
        (["guardtok", "-a", "<|x|>", "--ids", "gaps"], "too-few-ids"),
        (["guardtok", "-a", "<|x|>", "--ids", "gap"], "gap"),
        (["guardtok", "--id", "<|x|>"], "is no FORM=ID"),
        (["guardtok", "--id", "<|x|>=-1"], "is no FORM=ID"),
        (["guardtok", "--id", "<|x|>=1e3"], "is no FORM=ID"),
        (["guardtok", "--id", "<|x|>=" + "9" * 5000], "is no FORM=ID"),
        (["guardtok", "--id", "<|x|>=9999999999"], "id-invalid"),
        (["guardtok", "--id", "<|x|>=65"], "id-taken"),
        (["guardtok", "--id", "<|x|>=9000", "--id", "<|x|>=9001"], "twice"),
        (["guardtok", "--id", "<|x|>=9000", "--ids", "gaps"], "--ids auto"),
        (["guardtok", "-a", "<|x|>", "--name", "../x"], "name-invalid"),
        (["guardtok", "-a", "<|x|>", "--name", "gpt2"], "name-taken"),
        (["guardtok", "-a", "<|x|>", "-w", "tokenizer.json"], "--out"),
        (["guardtok", "-a", "<|x|>", "--out", "/dev/null/x"], "cannot be written"),
        (["nope", "-a", "<|x|>"], "No tokenizer"),
        (["./nope.extension.json", "-a", "<|x|>"], "no file"),
        (["./nope.extension.json", "-a", "<|x|>", "--out", "x"], "extension itself"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value)[:48].encode("ascii", "replace").decode(),
)
def test_what_the_command_refuses(arguments: list[str], message: str) -> None:
    """One message on standard error, nothing on standard output, status 2, and no token spelled."""
    ran = guardtok("extend", *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert "Traceback" not in ran.err


def test_a_refusal_in_json_has_the_findings() -> None:
    """For programs, each with its code."""
    ran = guardtok("extend", "guardtok", "-a", "<|x|>", "-a", "<|x|>y", "--format", "json")
    assert ran.status == 2
    assert [finding["code"] for finding in ran.objects[0]["findings"]] == ["overlap-prefix"]


def test_the_page_shows_what_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vocab: Callable[[str], Any]
) -> None:
    """The examples of `docs/extending.md` give what stands there, and its commands run in their order."""
    vocab("gpt2")
    page = Path(__file__).parent.parent / "docs" / "extending.md"
    tried = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert (tried.failed, tried.attempted) == (0, 21)
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^\$ guardtok (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 2
    assert [guardtok(*shlex.split(command)).status for command in commands] == [0, 0]


def test_every_error_is_guardtoks(manifest: Path) -> None:
    """A manifest cut at any byte raises nothing but guardtok's own errors."""
    data = manifest.read_bytes()
    for cut in range(0, len(data), 97):
        for changed in (data[:cut], data[:cut] + b"0" + data[cut + 1 :], data[:cut] + b'"' + data[cut:]):
            manifest.write_bytes(changed)
            try:
                load_tokenizer(manifest)
            except GuardtokError:
                continue
            assert json.loads(changed) == json.loads(data)
