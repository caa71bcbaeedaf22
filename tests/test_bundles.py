"""Signed bundles: what was signed is loaded, and nothing else is."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from bundled import PEM, PUBLIC, SECRET
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from guardtok import Policy
from guardtok.bundles import load_bundle, make_bundle, open_bundle, read_key
from guardtok.bundles.archive import MAX_PACKED, MAX_UNPACKED, pack, unpack
from guardtok.bundles.manifest import MANIFEST, SIGNATURE, Manifest
from guardtok.errors import BundleError, PolicyError
from guardtok.policy.files import shipped_policies

if TYPE_CHECKING:
    from pathlib import Path

CHILD = 'guardtok: 1\nname: mine\nextends: ../base/parent.yaml\ncustom_tokens: {"<|tool|>": auto}\n'
PARENT = 'guardtok: 1\nextends: chatml\nsources:\n  user: {default: escape, block: ["<|im_start|>"]}\n'
LOCK = {"guardtok_lock": 1, "tokenizer": "guardtok", "fingerprint": f"sha256:{'0' * 64}", "ids": {"<|tool|>": 9000}}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a policy with a parent elsewhere, a shipped grandparent, a lock file and tests."""
    root = tmp_path_factory.mktemp("policies")
    (root / "own").mkdir()
    (root / "base").mkdir()
    (root / "base" / "parent.yaml").write_text(PARENT, encoding="utf-8")
    (root / "own" / "mine.lock.json").write_text(json.dumps(LOCK), encoding="utf-8")
    (root / "own" / "mine.test.yaml").write_text("guardtok_test: 1\ntests: []\n", encoding="utf-8")
    (root / "own" / "mine.yaml").write_text(CHILD, encoding="utf-8")
    return root / "own" / "mine.yaml"


@pytest.fixture(scope="module")
def made(policy: Path) -> bytes:
    """Return that policy as a bundle of revision 7."""
    return make_bundle(policy, PEM, 7, 0)


def sign(contents: dict[str, bytes], **changes: object) -> bytes:
    """Return a bundle of files with a manifest that was changed before it was signed."""
    manifest = json.loads(contents[MANIFEST]) | changes
    data = json.dumps(manifest).encode()
    return pack({**contents, MANIFEST: data, SIGNATURE: SECRET.sign(data)})


def refuse(tmp_path: Path, data: bytes, key: bytes = PUBLIC) -> str:
    """Return why a bundle is refused."""
    file = tmp_path / "hostile.tar.gz"
    file.write_bytes(data)
    with pytest.raises(BundleError) as caught:
        load_bundle(file, key)
    return str(caught.value)


def test_a_bundle_holds_what_the_policy_says_without_its_files(policy: Path, made: bytes, tmp_path: Path) -> None:
    """Digest, rules, pinned ids and all ancestors come out of the bundle alone, elsewhere."""
    (tmp_path / "b.tar.gz").write_bytes(made)
    loaded, revision = load_bundle(tmp_path / "b.tar.gz", PUBLIC)
    own = Policy.load(policy)
    assert (revision, loaded.digest) == (7, own.digest)
    assert loaded.lock is not None
    assert own.lock is not None
    assert loaded.lock.ids == own.lock.ids
    names = [loaded.name]
    parent = loaded.extends
    while parent is not None:
        assert parent.place.startswith(str(tmp_path / "b.tar.gz"))
        names.append(parent.name)
        parent = parent.extends
    assert names == ["mine", "parent", "chatml"]


def test_what_a_shipped_parent_becomes_later_changes_no_bundle(
    made: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guardtok with other shipped policies, or none, reads the same policy."""
    (tmp_path / "b.tar.gz").write_bytes(made)
    before = load_bundle(tmp_path / "b.tar.gz", PUBLIC)[0].digest
    monkeypatch.setattr("guardtok.policy.files._shipped_folder", lambda: tmp_path)
    with pytest.raises(PolicyError):
        Policy.load("chatml")
    assert load_bundle(tmp_path / "b.tar.gz", PUBLIC)[0].digest == before


@pytest.mark.parametrize("name", shipped_policies())
def test_every_shipped_policy_can_be_bundled(name: str, tmp_path: Path) -> None:
    """Its digest is the same in the bundle."""
    (tmp_path / "b.tar.gz").write_bytes(make_bundle(name, PEM, 0, 0))
    assert load_bundle(tmp_path / "b.tar.gz", PUBLIC)[0].digest == Policy.load(name).digest


def test_the_same_policy_makes_the_same_bytes(policy: Path, made: bytes) -> None:
    """A bundle can be compared by its hash; only policy, key, revision and date are in it."""
    assert make_bundle(policy, PEM, 7, 0) == made
    assert make_bundle(policy, PEM, 8, 0) != made


def test_openssl_verifies_the_signature(made: bytes, tmp_path: Path) -> None:
    """The signature is plain Ed25519 over the manifest's bytes: nobody needs guardtok to verify it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not here")
    with tarfile.open(fileobj=io.BytesIO(made), mode="r:gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "key.pem").write_bytes(PUBLIC)
    how = ["pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-rawin", "-in", MANIFEST, "-sigfile", SIGNATURE]
    done = subprocess.run([openssl, *how], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Verified Successfully" in done.stdout


@given(st.dictionaries(st.from_regex(r"[a-z0-9/._-]{1,80}", fullmatch=True), st.binary(max_size=2_000), max_size=5))
def test_an_archive_gives_back_its_files(files: dict[str, bytes]) -> None:
    """Packing and unpacking changes nothing."""
    assert unpack(pack(files), "here") == files


@given(st.data())
def test_no_changed_byte_is_taken(made: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever byte of the tar is changed, taken out or put in, the bundle is refused with a typed error."""
    tar = bytearray(gzip.decompress(made))
    at = data.draw(st.integers(0, len(tar) - 1))
    match data.draw(st.sampled_from(["change", "cut", "insert", "truncate", "append"])):
        case "change":
            tar[at] ^= data.draw(st.integers(1, 255))
        case "cut":
            del tar[at]
        case "insert":
            tar.insert(at, data.draw(st.integers(0, 255)))
        case "truncate":
            del tar[at:]
        case _:
            tar += data.draw(st.binary(min_size=1, max_size=600))
    refuse(tmp_path_factory.mktemp("changed"), gzip.compress(bytes(tar)))


@given(st.binary(max_size=400))
def test_no_rubbish_is_a_bundle(tmp_path_factory: pytest.TempPathFactory, rubbish: bytes) -> None:
    """Bytes that are no archive, and archives of rubbish, are refused with a typed error."""
    folder = tmp_path_factory.mktemp("rubbish")
    refuse(folder, rubbish)
    refuse(folder, gzip.compress(rubbish))


def with_member(made: bytes, kind: bytes | None, name: str, target: str) -> bytes:
    """Return the bundle with one more member, of a kind of tar's, or with none."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for own, content in sorted(unpack(made, "").items()):
            member = tarfile.TarInfo(own)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        if kind is not None:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    return gzip.compress(out.getvalue())


@pytest.mark.parametrize(
    ("kind", "name", "target"),
    [
        (tarfile.REGTYPE, "../../../etc/cron.d/x", ""),
        (tarfile.REGTYPE, "/etc/passwd", ""),
        (tarfile.SYMTYPE, "zz", "/etc/passwd"),
        (tarfile.LNKTYPE, "zz", "0/mine.yaml"),
        (tarfile.SYMTYPE, "0/mine.yaml", "/etc/passwd"),
        (tarfile.CHRTYPE, "zz", ""),
        (tarfile.FIFOTYPE, "zz", ""),
        (tarfile.DIRTYPE, "zz", ""),
        (tarfile.REGTYPE, "0/mine.yaml", ""),
        (tarfile.REGTYPE, MANIFEST, ""),
        (tarfile.REGTYPE, "0/extra.yaml", ""),
        (tarfile.CONTTYPE, "zz", ""),
        (tarfile.GNUTYPE_SPARSE, "zz", ""),
    ],
)
def test_hostile_members_are_refused(kind: bytes, name: str, target: str, made: bytes, tmp_path: Path) -> None:
    """Paths that lead out, links, devices, pipes, doubled and unlisted files: none is taken beside signed ones."""
    assert gzip.decompress(with_member(made, None, "", "")) == gzip.decompress(made)
    assert "hostile.tar.gz" in refuse(tmp_path, with_member(made, kind, name, target))
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.tar.gz"]


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A megabyte that unpacks to a gigabyte is given up at the bound; so is a file that is too large as it is."""
    bomb = gzip.compress(bytes(MAX_UNPACKED * 8))
    assert len(bomb) < MAX_UNPACKED // 50
    assert "unpacks to more than" in refuse(tmp_path, bomb)
    assert "has more than" in refuse(tmp_path, bytes(MAX_PACKED + 1))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({SIGNATURE: None}, "nobody signed it"),
        ({MANIFEST: None}, "nobody signed it"),
        ({SIGNATURE: b""}, "not one of the configured key"),
        ({SIGNATURE: bytes(64)}, "not one of the configured key"),
        ({MANIFEST: b"{}"}, "not one of the configured key"),
        ({"0/mine.yaml": b"guardtok: 1\n"}, "not the one that was signed"),
        ({"0/mine.lock.json": None}, "not those that the manifest lists"),
        ({"0/other.yaml": b""}, "not those that the manifest lists"),
    ],
)
def test_what_was_not_signed_is_refused(
    changes: dict[str, bytes | None], why: str, made: bytes, tmp_path: Path
) -> None:
    """No file, manifest or signature can be changed, added or left out."""
    files = unpack(made, "") | changes
    assert why in refuse(tmp_path, pack({name: data for name, data in files.items() if data is not None}))


def test_another_key_is_refused(policy: Path, tmp_path: Path) -> None:
    """A bundle that somebody else signed is refused, whole as it is."""
    other = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert "not one of the configured key" in refuse(tmp_path, make_bundle(policy, other, 7, 0))


@pytest.mark.parametrize(
    "changes",
    [
        {"guardtok_bundle": 2},
        {"guardtok_bundle": True},
        {"guardtok_bundle": "1"},
        {"revision": -1},
        {"revision": 2**63},
        {"revision": "7"},
        {"revision": 7.0},
        {"created": "yesterday"},
        {"name": "another"},
        {"name": "<|im_start|>"},
        {"policies": []},
        {"policies": ["0/mine.yaml"]},
        {"policies": ["0/mine.yaml", "1/parent.yaml"]},
        {"policies": ["1/parent.yaml", "0/mine.yaml", "2/chatml.yaml"]},
        {"policies": ["0/mine.yaml", "1/parent.yaml", "../2/chatml.yaml"]},
        {"policies": ["0/mine.yaml"] * 17},
        {"files": {}},
        {"more": 1},
    ],
)
def test_a_manifest_is_checked_although_it_is_signed(changes: dict[str, object], made: bytes, tmp_path: Path) -> None:
    """A signer's mistake is an error, never a guess."""
    data = sign(unpack(made, ""), **changes)
    (tmp_path / "b.tar.gz").write_bytes(data)
    with pytest.raises((BundleError, PolicyError)):
        load_bundle(tmp_path / "b.tar.gz", PUBLIC)
    (tmp_path / "b.tar.gz").write_bytes(sign(unpack(made, "")))
    load_bundle(tmp_path / "b.tar.gz", PUBLIC)


def test_a_bundle_is_its_gzip_member_and_no_byte_more(made: bytes, tmp_path: Path) -> None:
    """What stands behind it, a second member too, and what ends before its end is refused."""
    assert "behind the archive's end" in refuse(tmp_path, made + b"x")
    assert "behind the archive's end" in refuse(tmp_path, made + gzip.compress(b""))
    assert "ends too early" in refuse(tmp_path, made[:-1])


def test_a_signed_manifest_names_each_thing_once(made: bytes, tmp_path: Path) -> None:
    """A doubled key and a manifest of great size are refused, whoever signed them."""
    files = unpack(made, "")
    for data in (files[MANIFEST].replace(b"{", b'{"revision": 9,', 1), files[MANIFEST] + b" " * 70_000):
        json.loads(data)
        refuse(tmp_path, pack({**files, MANIFEST: data, SIGNATURE: SECRET.sign(data)}))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 60_000, b"\xff"])
def test_a_signed_manifest_of_another_shape_is_refused(data: bytes, made: bytes, tmp_path: Path) -> None:
    """Rubbish, doubled keys, great depth and great size under a valid signature end in a typed error."""
    refuse(tmp_path, pack({**unpack(made, ""), MANIFEST: data, SIGNATURE: SECRET.sign(data)}))


def signed(files: dict[str, bytes], *policies: str) -> bytes:
    """Return a bundle of any files."""
    digests = {name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in files.items()}
    manifest = Manifest("a", 1, "2026-01-01T00:00:00Z", policies, digests).to_bytes()
    return pack({**files, MANIFEST: manifest, SIGNATURE: SECRET.sign(manifest)})


def test_a_signed_parent_that_nobody_extends_is_refused(tmp_path: Path) -> None:
    """Every policy in the chain is extended by the one before it."""
    files = {"0/a.yaml": b"guardtok: 1\nname: a\n", "1/b.yaml": b"guardtok: 1\n"}
    (tmp_path / "b.tar.gz").write_bytes(signed(files, *files))
    with pytest.raises(PolicyError, match="does not extend it"):
        load_bundle(tmp_path / "b.tar.gz", PUBLIC)


@pytest.mark.parametrize(
    ("others", "policies"),
    [
        (["0/stray.yaml"], ["0/a.yaml"]),
        (["0/b.lock.json"], ["0/a.yaml"]),
        (["0/b.yaml"], ["0/a.yaml", "0/b.yaml"]),
        (["2/b.yaml"], ["0/a.yaml", "2/b.yaml"]),
        ([], ["0/a.yaml", "1/b.yaml"]),
    ],
)
def test_every_signed_file_belongs_to_a_policy(others: list[str], policies: list[str], tmp_path: Path) -> None:
    """A file that nothing reads, a policy that is not there, two in one folder: each is refused."""
    files = dict.fromkeys(["0/a.yaml", *others], b"guardtok: 1\nname: a\n")
    assert "belong to no policy, or lacks one" in refuse(tmp_path, signed(files, *policies))


def test_a_policy_that_changes_while_it_is_signed_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is signed is what was loaded and checked."""
    (tmp_path / "p.yaml").write_text("guardtok: 1\nname: mine\n", encoding="utf-8")
    monkeypatch.setattr("guardtok.bundles.make._read", lambda _: b"guardtok: 1\nname: mine\nmode: monitor\n")
    with pytest.raises(BundleError, match="changed while"):
        make_bundle(tmp_path / "p.yaml", PEM, 7, 0)


def test_a_bare_policy_and_what_is_no_file_are_refused(policy: Path, tmp_path: Path) -> None:
    """Where a key is configured, the absence of a signature is a refusal."""
    assert "no gzip archive" in refuse(tmp_path, policy.read_bytes())
    for path in (tmp_path, tmp_path / "absent", "a\0b"):
        with pytest.raises(BundleError):
            load_bundle(path, PUBLIC)


def test_an_older_revision_is_refused(made: bytes, tmp_path: Path) -> None:
    """The lowest revision that is taken is the one asked for."""
    (tmp_path / "b.tar.gz").write_bytes(made)
    assert open_bundle(tmp_path / "b.tar.gz", PUBLIC, 7).manifest.revision == 7
    with pytest.raises(BundleError, match="revision 7, and at least 8"):
        open_bundle(tmp_path / "b.tar.gz", PUBLIC, 8)


def rsa_pem(*, public: bool) -> bytes:
    """Return a key of another kind."""
    key = rsa.generate_private_key(65_537, 2_048)
    if public:
        return key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_wrong_keys_say_what_is_wrong(policy: Path, made: bytes, tmp_path: Path) -> None:
    """No PEM, the other half, another kind, an encrypted key: each has its own error, which shows no key."""
    encrypted = SECRET.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    signing = {b"": "no PEM", PUBLIC: "public one", encrypted: "encrypted", rsa_pem(public=False): "not an Ed25519"}
    for key, why in signing.items():
        with pytest.raises(BundleError, match=why) as caught:
            make_bundle(policy, key, 1, 0)
        assert "BEGIN" not in str(caught.value)
    for key, why in {b"x": "no PEM", PEM: "private one", rsa_pem(public=True): "not an Ed25519"}.items():
        assert why in refuse(tmp_path, made, key)
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BundleError, match="cannot be read"):
            read_key(path)


def test_a_revision_out_of_range_is_refused(policy: Path) -> None:
    """Revisions are numbers from 0 up."""
    with pytest.raises(BundleError, match="from 0 to"):
        make_bundle(policy, PEM, -1, 0)
