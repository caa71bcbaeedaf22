from __future__ import annotations

import base64
import hashlib
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import regex
import tiktoken
import tiktoken.load
import tiktoken.registry
from hypothesis import given
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from guardtok import encodings
from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.encodings import load_tokenizer, tokenizer_names
from guardtok.errors import TokenizerError, UnknownTokenizerError, VocabularyError
from guardtok.tokenizer import Role, Tokenizer
from guardtok.vocabularies import EMBEDDED_FILE, VOCABULARIES, RankFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EMBEDDED_PATH = Path(encodings.__file__).parent / "data" / "guardtok.tiktoken"
TOY = b"YQ== 0\nYg== 1\n"
OPENAI = [name for name in VOCABULARIES if name in openai_public.ENCODING_CONSTRUCTORS]


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine without vocabularies, packages that carry them, or a network; yield a folder of its own."""
    for variable in ("GUARDTOK_VOCAB_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(encodings.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(urllib.request, "getproxies", dict)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(tiktoken.load, "read_file", refuse)
    encodings._load_named.cache_clear()
    yield tmp_path
    encodings._load_named.cache_clear()


@pytest.fixture
def r50k_bytes(vocab: Callable[[str], Tokenizer]) -> bytes:
    """The rank file of r50k_base, written out again."""
    tokenizer = vocab("r50k_base")
    assert isinstance(tokenizer, TiktokenTokenizer)
    ranks = tokenizer.encoding._mergeable_ranks
    return b"".join(b"%b %d\n" % (base64.b64encode(token), rank) for token, rank in ranks.items())


def toy_file() -> RankFile:
    """Return a rank file as OpenAI could publish it, which a package carries too."""
    return RankFile("toy", hashlib.sha256(TOY).hexdigest(), packages=(("p", "p", "x"),))


# What comes in.


def test_every_kind_of_argument_gives_a_tokenizer() -> None:
    """A name, two kinds of path, an encoding and a tokenizer all work; a tokenizer is returned as it is."""
    named = load_tokenizer("guardtok")
    assert isinstance(named, TiktokenTokenizer)
    assert load_tokenizer(named) is named
    for argument in (str(EMBEDDED_PATH), EMBEDDED_PATH, named.encoding):
        assert load_tokenizer(argument).fingerprint == named.fingerprint


def test_a_foreign_tokenizer_passes_through() -> None:
    """What has the protocol's methods is taken at its word."""

    class Foreign:
        name = fingerprint = "f"
        control_tokens = ()
        reserved_ids = frozenset[int]()
        n_vocab = 0
        with_custom_tokens = encode_ordinary = decode_bytes = print

    foreign: Any = Foreign()
    assert load_tokenizer(foreign) is foreign


@pytest.mark.parametrize("thing", [None, 5, b"guardtok", ["guardtok"]])
def test_anything_else_is_refused(thing: object) -> None:
    """The error says what may be given."""
    with pytest.raises(TokenizerError, match=r"is not a tokenizer\. Give"):
        load_tokenizer(thing)


def test_a_named_tokenizer_is_kept() -> None:
    """The second call costs nothing."""
    assert load_tokenizer("guardtok") is load_tokenizer("guardtok")


def test_the_names_are_listed() -> None:
    """The list begins with guardtok's own; tiktoken's are all there, each once."""
    names = tokenizer_names()
    assert names[0] == "guardtok"
    assert set(tiktoken.list_encoding_names()) <= set(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("name", "near"), [("cl100kbase", "cl100k_base"), ("guardtock", "guardtok"), ("qwne", "qwen")])
def test_an_unknown_name_brings_the_nearest(name: str, near: str) -> None:
    """A slip of the hand is shown the name that was meant."""
    with pytest.raises(UnknownTokenizerError, match=f"Did you mean '{near}'"):
        load_tokenizer(name)


@pytest.mark.parametrize("name", ["", "x" * 100_000, "\x1b[31m", "\ud800"])
def test_a_hostile_name_is_refused_briefly(name: str) -> None:
    """The message is short, and holds nothing that a terminal obeys."""
    with pytest.raises(UnknownTokenizerError) as caught:
        load_tokenizer(name)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_a_plugins_encoding_is_left_to_tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that only tiktoken's registry knows are loaded by it."""
    toy = tiktoken.Encoding("plug", pat_str=".", mergeable_ranks={b"a": 0, b"b": 1}, special_tokens={"<s>": 2})
    tiktoken.list_encoding_names()
    monkeypatch.setitem(tiktoken.registry.ENCODING_CONSTRUCTORS, "plug", dict)
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "plug", toy)
    encodings._load_named.cache_clear()
    tokenizer = load_tokenizer("plug")
    encodings._load_named.cache_clear()
    assert isinstance(tokenizer, TiktokenTokenizer)
    assert tokenizer.encoding is toy


def test_a_plugin_that_fails_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a plugin raises, the caller sees guardtok's error with the plugin's name and no chain."""

    def fail() -> dict[str, Any]:
        raise RuntimeError("secret")

    tiktoken.list_encoding_names()
    monkeypatch.setitem(tiktoken.registry.ENCODING_CONSTRUCTORS, "plug", fail)
    with pytest.raises(TokenizerError, match=r"fails to build the encoding 'plug': RuntimeError") as caught:
        load_tokenizer("plug")
    assert caught.value.__suppress_context__
    monkeypatch.setattr(tiktoken, "list_encoding_names", fail)
    with pytest.raises(TokenizerError, match="cannot list its encodings: RuntimeError"):
        load_tokenizer("plig")


# Paths.


@pytest.mark.parametrize("data", [b"", b"YQ== 0\n", EMBEDDED_PATH.read_bytes()[:-1], b"\0" * 99])
def test_an_unknown_file_is_refused(tmp_path: Path, data: bytes) -> None:
    """Empty, foreign, truncated and binary files have no known hash; the error names the way out."""
    path = tmp_path / "mine.tiktoken"
    path.write_bytes(data)
    with pytest.raises(VocabularyError, match=r"build a tiktoken\.Encoding"):
        load_tokenizer(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A path that leads nowhere is an unknown tokenizer; a name that was spelled as a file gets a hint."""
    for path in (tmp_path / "no" / "file", EMBEDDED_PATH / "x", "\0.tiktoken"):
        with pytest.raises(UnknownTokenizerError, match="There is no file"):
            load_tokenizer(path)
    with pytest.raises(UnknownTokenizerError, match="Did you mean 'cl100k_base'"):
        load_tokenizer("cl10k_base.tiktoken")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder, a device without an end and a pipe that nobody feeds are refused without reading them."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(VocabularyError, match="is not a file"):
            load_tokenizer(path)


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    """A file far beyond any vocabulary is not read into memory."""
    path = tmp_path / "huge.tiktoken"
    with path.open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(VocabularyError, match="more than any vocabulary"):
        load_tokenizer(path)


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says is passed on in one line."""
    path = tmp_path / "mine.tiktoken"
    path.write_bytes(TOY)

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(VocabularyError, match=r"cannot be read \(Permission denied\)"):
        load_tokenizer(path)


# Where files are found.


def test_places_are_searched_from_near_to_far(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The named folder comes first, then tiktoken's cache, then packages, then the download."""
    file = toy_file()
    seen: list[str] = []
    spec = type("Spec", (), {"submodule_search_locations": [str(nowhere / "package")]})
    monkeypatch.setattr(encodings.importlib.util, "find_spec", lambda _: spec)
    monkeypatch.setattr(encodings, "_read", lambda path: seen.append(str(path.relative_to(nowhere))))
    monkeypatch.setattr(encodings, "_download", lambda _: (seen.append("download"), (TOY, ""))[1])
    assert encodings._find(file, str(nowhere / "named")) == TOY
    sha1 = hashlib.sha1(file.url.encode(), usedforsecurity=False).hexdigest()
    assert seen == ["named/toy.tiktoken", f"named/{sha1}", f"cache/{sha1}", "package/x", "download"]


@pytest.mark.parametrize("place", ["named/toy.tiktoken", "named/SHA1", "cache/SHA1", "package/x"])
def test_a_file_is_found_in_each_place(nowhere: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Each place serves alone."""
    file = toy_file()
    path = nowhere / place.replace("SHA1", file.cache_name)
    path.parent.mkdir()
    path.write_bytes(TOY)
    spec = type("Spec", (), {"submodule_search_locations": [str(nowhere / "package")]})
    monkeypatch.setattr(encodings.importlib.util, "find_spec", lambda _: spec)
    assert encodings._find(file, str(nowhere / "named")) == TOY


def test_a_wrong_file_is_an_error_only_where_it_was_named(nowhere: Path) -> None:
    """In the named folder a wrong hash is a mistake to report; elsewhere the search goes on."""
    file = toy_file()
    (nowhere / "cache").mkdir()
    (nowhere / "cache" / file.cache_name).write_bytes(TOY + b"Yw== 2\n")
    with pytest.raises(UnknownTokenizerError):
        encodings._find(file, "")
    (nowhere / "cache" / file.cache_name).unlink()
    (nowhere / "cache" / file.cache_name).mkdir()
    with pytest.raises(UnknownTokenizerError):
        encodings._find(file, "")
    (nowhere / "toy.tiktoken").write_bytes(b"")
    with pytest.raises(VocabularyError, match=r"toy\.tiktoken is not the vocabulary toy: its SHA-256 is e3b0c442"):
        encodings._find(file, str(nowhere))


def test_a_wrong_file_in_the_folder_is_seen_though_the_name_is_kept(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changing GUARDTOK_VOCAB_DIR is noticed at the next call."""
    good, bad = nowhere / "good", nowhere / "bad"
    for folder in (good, bad):
        folder.mkdir()
    (bad / "guardtok.tiktoken").write_bytes(TOY)
    (bad / "r50k_base.tiktoken").write_bytes(TOY)
    monkeypatch.setenv("GUARDTOK_VOCAB_DIR", str(good))
    kept = load_tokenizer("guardtok")
    monkeypatch.setenv("GUARDTOK_VOCAB_DIR", str(bad))
    assert load_tokenizer("guardtok").fingerprint == kept.fingerprint
    with pytest.raises(VocabularyError):
        load_tokenizer("r50k_base")


def test_the_embedded_file_is_only_taken_from_the_package(nowhere: Path) -> None:
    """`guardtok` needs no folder, cache or network."""
    assert hashlib.sha256(encodings._find(EMBEDDED_FILE, "")).hexdigest() == EMBEDDED_FILE.sha256


@pytest.mark.parametrize("name", [name for name in VOCABULARIES if name != "guardtok"])
def test_a_file_that_is_nowhere_is_a_quick_clear_error(nowhere: Path, name: str) -> None:
    """Offline the error says where it looked and how to mend it, in no time and without the network's traceback."""
    start = time.monotonic()
    with pytest.raises(UnknownTokenizerError, match="GUARDTOK_VOCAB_DIR names, or install") as caught:
        load_tokenizer(name)
    assert time.monotonic() - start < 2
    assert caught.value.__context__ is None


def test_the_last_place_is_tiktokens_download(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tiktoken downloads is checked by hash and kept in tiktoken's cache."""
    monkeypatch.setattr(socket, "create_connection", lambda *_: socket.socket())
    monkeypatch.setattr(tiktoken.load, "read_file", lambda _: TOY)
    file = toy_file()
    assert encodings._find(file, "") == TOY
    assert (nowhere / "cache" / file.cache_name).read_bytes() == TOY
    (nowhere / "cache" / file.cache_name).unlink()
    monkeypatch.setattr(tiktoken.load, "read_file", lambda _: TOY[:-1])
    with pytest.raises(UnknownTokenizerError, match="not by download"):
        encodings._find(file, "")


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"TIKTOKEN_CACHE_DIR": "a", "DATA_GYM_CACHE_DIR": "b"}, "a"),
        ({"DATA_GYM_CACHE_DIR": "b"}, "b"),
        ({"TIKTOKEN_CACHE_DIR": "", "DATA_GYM_CACHE_DIR": "b"}, ""),
        ({}, str(Path(tempfile.gettempdir(), "data-gym-cache"))),
    ],
)
def test_tiktokens_cache_is_where_tiktoken_has_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    """The first variable that is set decides; empty turns the cache off."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert encodings._tiktoken_cache() == folder


def test_a_package_is_searched_without_importing_it(tmp_path: Path) -> None:
    """Looking for a file in litellm does not run litellm."""
    package = tmp_path / "litellm"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    program = (
        "import sys; from guardtok import encodings; from guardtok.vocabularies import VOCABULARIES\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "print(*encodings._unnamed_places(VOCABULARIES['cl100k_base'].file), 'litellm' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    inside = package / "litellm_core_utils" / "tokenizers" / "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
    assert done.stdout.split()[1:] == [str(inside), "False"]


def test_what_only_looks_like_a_package_is_passed_over(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module without a specification, as programs make them by hand, makes the search go on."""

    def fail(name: str) -> None:
        raise ValueError(f"{name}.__spec__ is None")

    monkeypatch.setattr(encodings.importlib.util, "find_spec", fail)
    assert [path.parent.name for path in encodings._unnamed_places(toy_file())] == ["cache"]


def test_behind_a_proxy_the_address_is_not_tried_first(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A direct connection proves nothing where only a proxy leads out."""
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://proxy.invalid"})
    monkeypatch.setattr(tiktoken.load, "read_file", lambda _: TOY)
    assert encodings._find(toy_file(), "") == TOY


def test_loading_leaves_the_process_alone(vocab: Callable[[str], Tokenizer]) -> None:
    """Neither the environment nor tiktoken's registry is written."""
    environment, registered = dict(os.environ), dict(tiktoken.registry.ENCODINGS)
    vocab("cl100k_base")
    assert (dict(os.environ), tiktoken.registry.ENCODINGS) == (environment, registered)


# What names mean.


@pytest.mark.parametrize("name", OPENAI)
def test_the_tables_are_tiktokens(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Special tokens, addresses and hashes are those that the installed tiktoken has."""
    loaded: list[tuple[str, str]] = []
    monkeypatch.setattr(
        openai_public, "load_tiktoken_bpe", lambda url, expected_hash: loaded.append((url, expected_hash)) or {}
    )
    monkeypatch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", lambda **_: {})
    vocabulary = VOCABULARIES[name]
    assert vocabulary.special_tokens == openai_public.ENCODING_CONSTRUCTORS[name]()["special_tokens"]
    if name != "gpt2":  # tiktoken reads the same ranks from files of an older layout.
        assert loaded == [(vocabulary.file.url, vocabulary.file.sha256)]


@given(st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("aAé1 \t\n\r'/.<sdm\u0301"))))
def test_the_patterns_cut_as_tiktokens_do(text: str) -> None:
    """However tiktoken spells a pattern, the pieces are the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
        patch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", lambda **_: {})
        for name in OPENAI:
            theirs = openai_public.ENCODING_CONSTRUCTORS[name]()["pat_str"]
            assert regex.findall(VOCABULARIES[name].pattern, text) == regex.findall(theirs, text)


def test_litellms_files_have_tiktokens_cache_names() -> None:
    """OpenAI's files lie in litellm under the names of tiktoken's cache."""
    for name in ("p50k_base", "cl100k_base", "o200k_base"):
        file = VOCABULARIES[name].file
        assert file.packages == (("litellm", "litellm", f"litellm_core_utils/tokenizers/{file.cache_name}"),)


def test_gpt2_encodes_as_published(vocab: Callable[[str], Tokenizer]) -> None:
    """The known ids of GPT-2; r50k_base is the same vocabulary."""
    gpt2 = vocab("gpt2")
    assert gpt2.encode_ordinary("Hello, MyNewToken_1 is a new token. ", at_start=True) == (
        [15496, 11, 2011, 3791, 30642, 62, 16, 318, 257, 649, 11241, 13, 220]
    )
    assert [(token.form, token.id) for token in gpt2.control_tokens] == [("<|endoftext|>", 50256)]
    assert gpt2.fingerprint == vocab("r50k_base").fingerprint


def test_qwen_encodes_as_published(vocab: Callable[[str], Tokenizer]) -> None:
    """The known ids of Qwen-7B for a form that is only text, and the pieces around one that is parsed."""
    qwen = vocab("qwen")
    text = 'print("<|endoftext|>")'
    assert qwen.encode_ordinary(text, at_start=True) == [1350, 9639, 91, 8691, 723, 427, 91, 82598]
    assert qwen.encode_ordinary('print("', at_start=True) == [1350, 445]
    assert qwen.encode_ordinary('")', at_start=False) == [899]
    ids = {token.form: token.id for token in qwen.control_tokens}
    assert len(ids) == 208
    assert ids["<|endoftext|>"] == 151643
    assert ids["<|im_end|>"] == 151645
    assert (ids["<|extra_0|>"], ids["<|extra_204|>"]) == (151646, 151850)


def test_cl100k_has_five_control_tokens_and_cl100k_im_two_more(vocab: Callable[[str], Tokenizer]) -> None:
    """The ChatML variant differs from the published encoding in nothing else."""
    plain, chat = vocab("cl100k_base"), vocab("cl100k_im")
    assert [(token.form, token.id, token.role) for token in plain.control_tokens] == [
        ("<|endoftext|>", 100257, Role.EOS),
        ("<|fim_prefix|>", 100258, Role.FIM),
        ("<|fim_middle|>", 100259, Role.FIM),
        ("<|fim_suffix|>", 100260, Role.FIM),
        ("<|endofprompt|>", 100276, plain.control_tokens[4].role),
    ]
    added = set(chat.control_tokens) - set(plain.control_tokens)
    assert {(token.form, token.id, token.role) for token in added} == {
        ("<|im_start|>", 100264, Role.TURN),
        ("<|im_end|>", 100265, Role.TURN),
    }
    assert chat.encode_ordinary("a <|im_end|> b", at_start=True) == plain.encode_ordinary(
        "a <|im_end|> b", at_start=True
    )


def test_harmony_has_two_forms_of_one_id(vocab: Callable[[str], Tokenizer]) -> None:
    """`<|endofprompt|>` is also `<|reserved_200018|>`."""
    harmony = vocab("o200k_harmony")
    forms = [token.form for token in harmony.control_tokens if token.id == 200018]
    assert forms == ["<|endofprompt|>", "<|reserved_200018|>"]
    assert len(harmony.control_tokens) == 1091


@pytest.mark.parametrize("name", ["p50k_base", "p50k_edit"])
def test_p50k_is_rebuilt_from_r50k(r50k_bytes: bytes, nowhere: Path, name: str) -> None:
    """r50k's file and 24 runs of spaces are p50k's file: its hash, which tiktoken pins, says so."""
    (nowhere / "r50k_base.tiktoken").write_bytes(r50k_bytes)
    file = VOCABULARIES[name].file
    assert hashlib.sha256(encodings._find(file, str(nowhere))).hexdigest() == file.sha256


def test_a_real_vocabulary_survives_pickling(vocab: Callable[[str], Tokenizer]) -> None:
    """A hundred thousand ranks arrive whole."""
    tokenizer = vocab("cl100k_im")
    copy = pickle.loads(pickle.dumps(tokenizer))  # noqa: S301  # It was pickled right here.
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.encode_ordinary("Hello 😀", at_start=True) == tokenizer.encode_ordinary("Hello 😀", at_start=True)


def test_a_panic_of_a_real_vocabulary_is_a_typed_error(vocab: Callable[[str], Tokenizer]) -> None:
    """A million spaces before a word are more than the regex engine of cl100k_base takes."""
    tokenizer = vocab("cl100k_base")
    with pytest.raises(TokenizerError, match="PanicException on a text of 1000001 characters"):
        tokenizer.encode_ordinary(" " * 1_000_000 + "x", at_start=True)
