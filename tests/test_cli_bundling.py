"""`guardtok policy bundle` and `verify`."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from bundled import PEM, PUBLIC
from command_line import guardtok

from guardtok import Policy

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a policy and both halves of a key."""
    (tmp_path / "p.yaml").write_text("guardtok: 1\nname: mine\nextends: strict\n", encoding="utf-8")
    (tmp_path / "key.pem").write_bytes(PEM)
    (tmp_path / "key.pub.pem").write_bytes(PUBLIC)
    return tmp_path


def make(folder: Path, revision: int = 7) -> Path:
    """Make a bundle."""
    bundle = folder / "p.tar.gz"
    ran = guardtok(
        "policy", "bundle", folder / "p.yaml", "--key", folder / "key.pem", "--revision", revision, "-o", bundle
    )
    assert (ran.status, ran.out) == (0, "")
    assert f"revision {revision}" in ran.err
    return bundle


def test_what_was_bundled_is_verified(folder: Path) -> None:
    """Name, revision, digest and files are shown, for people and as JSON."""
    bundle = make(folder)
    shown = guardtok("policy", "verify", bundle, "--key", folder / "key.pub.pem")
    assert (shown.status, shown.err) == (0, "")
    assert "revision  7\n" in shown.out
    (record,) = guardtok("policy", "verify", bundle, "--key", folder / "key.pub.pem", "--format", "json").objects
    assert (record["name"], record["revision"]) == ("mine", 7)
    assert record["digest"] == Policy.load(folder / "p.yaml").digest
    assert {"0/p.yaml", "1/strict.yaml", "2/chatml.yaml"} <= record["files"].keys()


def test_a_refused_bundle_is_a_mistake(folder: Path) -> None:
    """A stale or an altered bundle, a bare policy and the wrong half of the key end in status 2 with the reason."""
    bundle = make(folder)
    verify = ["policy", "verify", bundle, "--key", folder / "key.pub.pem"]
    assert guardtok(*verify, "--min-revision", "7").status == 0
    stale = guardtok(*verify, "--min-revision", "8")
    assert (stale.status, stale.out) == (2, "")
    assert "revision 7, and at least 8" in stale.err
    bundle.write_bytes(bundle.read_bytes()[:-1])
    for arguments in (verify, ["policy", "verify", folder / "p.yaml", *verify[3:]], [*verify[:4], folder / "key.pem"]):
        ran = guardtok(*arguments)
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith("Error: ")


def test_a_failed_bundle_leaves_the_old_one(folder: Path) -> None:
    """A policy with a mistake makes no bundle, touches none, and leaves no file behind."""
    bundle = make(folder)
    before = bundle.read_bytes()
    (folder / "p.yaml").write_text("guardtok: 1\nextend: strict\n", encoding="utf-8")
    ran = guardtok("policy", "bundle", folder / "p.yaml", "--key", folder / "key.pem", "--revision", "8", "-o", bundle)
    assert ran.status == 2
    assert bundle.read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["key.pem", "key.pub.pem", "p.tar.gz", "p.yaml"]
    missing = folder / "absent" / "b.tar.gz"
    assert (
        guardtok("policy", "bundle", "strict", "--key", folder / "key.pem", "--revision", "8", "-o", missing).status
        == 2
    )


def test_the_date_can_be_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With SOURCE_DATE_EPOCH two runs make the same bytes; what is no number of seconds is refused."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert make(folder).read_bytes() == make(folder).read_bytes()
    (record,) = guardtok("policy", "verify", make(folder), "--key", folder / "key.pub.pem", "--format", "json").objects
    assert record["created"] == "2023-11-14T22:13:20Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    ran = guardtok("policy", "bundle", "strict", "--key", folder / "key.pem", "--revision", "1", "-o", folder / "b.tgz")
    assert ran.status == 2
    assert "SOURCE_DATE_EPOCH" in ran.err


def test_keys_of_openssl_fit(folder: Path) -> None:
    """The two commands of the manual make keys that sign and verify."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not here")
    for command in (
        ["genpkey", "-algorithm", "ed25519", "-out", "key.pem"],
        ["pkey", "-in", "key.pem", "-pubout", "-out", "key.pub.pem"],
    ):
        subprocess.run([openssl, *command], cwd=folder, check=True, capture_output=True)
    assert (folder / "key.pem").read_bytes() != PEM
    assert guardtok("policy", "verify", make(folder), "--key", folder / "key.pub.pem").status == 0
