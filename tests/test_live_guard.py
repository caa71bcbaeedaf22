"""The guard in force: exchanged when its files change, kept when they are no policy, one for each request."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import structlog
from bundled import PEM, PUBLIC

from guardtok import Guard, Policy
from guardtok.bundles import make_bundle
from guardtok.encodings import load_tokenizer
from guardtok.errors import BundleError, PolicyError
from guardtok.gateway import live
from guardtok.gateway.live import LiveGuard, Reload
from guardtok.gateway.origin import folders_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from pathlib import Path

BLOCKS = 'guardtok: 1\nname: p\nsources:\n  user: {default: block}\n  "*": {default: escape}\n'
ESCAPES = 'guardtok: 1\nname: p\nsources:\n  user: {default: escape}\n  "*": {default: escape}\n'
OTHERS = ESCAPES.replace("user: {default: escape}", "user: {default: strip}")
SOON = 20.0
"""Seconds within which a change is heard of, on a busy machine too."""


def action(guards: LiveGuard) -> str:
    """Return what the policy in force makes of a user's token."""
    return guards.current.guard.check("<|im_start|>", source="user").action.value


async def until(fact: Callable[[], bool]) -> None:
    """Wait until a fact holds."""
    end = time.monotonic() + SOON
    while not fact():
        assert time.monotonic() < end, "nothing was heard of the change"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def watching(guards: LiveGuard) -> AsyncIterator[None]:
    """Watch for the time of a block."""
    stop = asyncio.Event()
    task = asyncio.create_task(guards.watch(stop))
    await asyncio.sleep(0.5)  # Until the system's watch stands.
    try:
        yield
    finally:
        stop.set()
        await task


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a policy that blocks."""
    path = tmp_path / "p.yaml"
    path.write_text(BLOCKS, encoding="utf-8")
    return path


def load(path: Path, told: list[Reload] | None = None, **options: bytes) -> LiveGuard:
    """Return a guard that follows a file."""
    return LiveGuard.load(path, sinks=(), told=() if told is None else [told.append], **options)


def test_a_guard_that_was_given_stays() -> None:
    """Without a file there is nothing to reload, and nothing to watch."""
    guards = LiveGuard(Guard(Policy.parse(BLOCKS)), 3)
    assert guards.current.revision == 3
    assert guards.reload() == Reload("unchanged", guards.current)
    asyncio.run(guards.watch(asyncio.Event()))


def test_a_reload_takes_what_the_file_says_now(file: Path) -> None:
    """The guard is exchanged whole; a snapshot that a request has taken stays what it was."""
    told: list[Reload] = []
    guards = load(file, told)
    began = guards.current
    file.write_text(ESCAPES, encoding="utf-8")
    assert guards.reload().result == "loaded"
    assert action(guards) == "escape"
    assert began.guard.check("<|im_start|>", source="user").action.value == "block"
    assert [(each.result, each.snapshot) for each in told] == [("loaded", began), ("loaded", guards.current)]


def test_the_same_policy_is_not_exchanged(file: Path) -> None:
    """A comment changes no digest, so the guard, its caches and its date stay."""
    guards = load(file)
    before = guards.current
    file.write_text(f"# reviewed\n{BLOCKS}", encoding="utf-8")
    assert guards.reload().result == "unchanged"
    assert guards.current is before


@pytest.mark.parametrize(
    "text", [None, "", "guardtok: 1\nsource: {}\n", "guardtok: 2\n", BLOCKS[:-20], "\0", "extends: [", "a: &a [*a]"]
)
def test_what_is_no_policy_leaves_the_old_one(file: Path, text: str | None) -> None:
    """A file that is gone, empty, half, misspelled or rubbish is logged, told of, and changes nothing."""
    told: list[Reload] = []
    guards = load(file, told)
    before = guards.current
    if text is None:
        file.unlink()
    else:
        file.write_text(text, encoding="utf-8")
    with structlog.testing.capture_logs() as logs:
        made = guards.reload()
    assert (made.result, guards.current) == ("refused", before)
    assert made.problem
    assert told[-1] is made
    assert [(log["event"], log["log_level"], log["result"]) for log in logs] == [
        ("guardtok.policy_reload", "error", "refused")
    ]
    file.write_text(ESCAPES, encoding="utf-8")
    assert guards.reload().result == "loaded"


def test_a_policy_that_no_guard_can_be_built_from_leaves_the_old_one(file: Path) -> None:
    """What fails only when the guard is built (a token that nobody knows, another tokenizer) is refused, too."""
    guards = LiveGuard.load(file, load_tokenizer("guardtok"), sinks=())
    before = guards.current
    file.write_text("guardtok: 1\nname: p\ntokenizer: {name: another}\n", encoding="utf-8")
    assert guards.reload().result == "refused"
    assert guards.current is before


def test_no_problem_spells_a_control_token(file: Path) -> None:
    """What is logged of a broken policy has every form in it broken."""
    guards = load(file)
    file.write_text('guardtok: 1\nforms: ["<|im_start|>", "<|im_start|>"]\n', encoding="utf-8")
    made = guards.reload()
    assert made.result == "refused"
    assert "<_|im_start|>" in made.problem
    assert "<|im_start|>" not in made.problem


def test_one_who_fails_to_listen_harms_nobody(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An observer of reloads that raises is reported and the rest are told."""
    told: list[Reload] = []

    def fail(_: Reload) -> None:
        raise ZeroDivisionError

    guards = LiveGuard.load(file, sinks=(), told=[fail, told.append])
    assert guards.reload().result == "unchanged"
    assert len(told) == 2
    assert "ZeroDivisionError" in caplog.text


def test_a_new_lock_file_is_a_change(tmp_path: Path) -> None:
    """The ids that a lock file pins are part of what a policy decides, though not of its digest."""
    file = tmp_path / "p.yaml"
    file.write_text(f'{BLOCKS}custom_tokens: {{"<|mine|>": auto}}\n', encoding="utf-8")
    guards = LiveGuard.load(file, load_tokenizer("guardtok"), sinks=())
    assert guards.current.guard.tokenizer is not None
    plain = load_tokenizer("guardtok")
    number = next(token.id for token in guards.current.guard.tokenizer.control_tokens if token.form == "<|mine|>")
    pins = f'{{"<|mine|>": {number}}}'
    lock = f'{{"guardtok_lock": 1, "tokenizer": "guardtok", "fingerprint": "{plain.fingerprint}", "ids": {pins}}}'
    file.with_name("p.lock.json").write_text(lock, encoding="utf-8")
    assert guards.reload().result == "loaded"
    assert guards.reload().result == "unchanged"


def test_requests_never_see_half_a_policy(file: Path) -> None:
    """While the file goes back and forth, every reader has one policy or the other, built whole."""
    guards = load(file)
    stop = threading.Event()
    seen: list[str] = []

    def read() -> None:
        while not stop.is_set():
            snapshot = guards.current
            mine = snapshot.guard.policy.sources["user"].default
            assert mine is not None
            verdict = snapshot.guard.check("<|im_start|>", source="user")
            seen.append("same" if verdict.action is mine.action else "torn")

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(10):
        file.write_text(ESCAPES if turn % 2 == 0 else BLOCKS, encoding="utf-8")
        assert guards.reload().result == "loaded"
    stop.set()
    for thread in threads:
        thread.join()
    assert set(seen) == {"same"}


def test_a_change_is_heard(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written over, replaced, deleted and come back: the watch takes each up, and survives the deletion."""
    monkeypatch.setattr(live, "POLL", 60.0)  # Which would hide a watch that is deaf.

    async def follow() -> None:
        told: list[Reload] = []
        guards = load(file, told)
        async with watching(guards):
            file.write_text(ESCAPES, encoding="utf-8")
            await until(lambda: action(guards) == "escape")
            other = file.with_name("new")
            other.write_text(BLOCKS, encoding="utf-8")
            other.replace(file)
            await until(lambda: action(guards) == "block")
            file.unlink()
            await until(lambda: told[-1].result == "refused")
            assert action(guards) == "block"
            file.write_text(ESCAPES, encoding="utf-8")
            await until(lambda: action(guards) == "escape")
        assert [each.result for each in told] == ["loaded", "loaded", "loaded", "refused", "loaded"]

    asyncio.run(follow())


def test_what_a_policy_extends_is_watched(tmp_path: Path) -> None:
    """A parent in another folder counts, and so does one that the policy extends only since a reload."""

    async def follow() -> None:
        for name, text in {"a": BLOCKS, "b": BLOCKS}.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "parent.yaml").write_text(text, encoding="utf-8")
        (tmp_path / "own").mkdir()
        file = tmp_path / "own" / "p.yaml"
        file.write_text("guardtok: 1\nname: p\nextends: ../a/parent.yaml\n", encoding="utf-8")
        guards = load(file)
        async with watching(guards):
            (tmp_path / "a" / "parent.yaml").write_text(ESCAPES, encoding="utf-8")
            await until(lambda: action(guards) == "escape")
            file.write_text("guardtok: 1\nname: p\nextends: ../b/parent.yaml\n", encoding="utf-8")
            await until(lambda: action(guards) == "block")
            await asyncio.sleep(0.5)
            (tmp_path / "b" / "parent.yaml").write_text(ESCAPES, encoding="utf-8")
            await until(lambda: action(guards) == "escape")

    asyncio.run(follow())


def mount(folder: Path, version: str, text: str) -> None:
    """Write a policy as Kubernetes mounts a ConfigMap: a folder of the version, a link to it, a link through that."""
    (folder / f"..{version}").mkdir(parents=True)
    (folder / f"..{version}" / "p.yaml").write_text(text, encoding="utf-8")
    (folder / "..data_tmp").symlink_to(f"..{version}")
    (folder / "..data_tmp").replace(folder / "..data")
    if not (folder / "p.yaml").is_symlink():
        (folder / "p.yaml").symlink_to("..data/p.yaml")


def test_a_config_map_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each swap of `..data` is heard, and what changes in the folder that it leads to now."""
    monkeypatch.setattr(live, "POLL", 60.0)  # Which would hide a watch that is deaf.

    async def follow() -> None:
        mount(tmp_path / "m", "1", BLOCKS)
        guards = load(tmp_path / "m" / "p.yaml")
        async with watching(guards):
            for version, text, then in (("2", ESCAPES, "escape"), ("3", BLOCKS, "block"), ("4", ESCAPES, "escape")):
                mount(tmp_path / "m", version, text)
                await until(lambda then=then: action(guards) == then)  # type: ignore[misc]
                await asyncio.sleep(1)  # Until the new folder is watched.
                (tmp_path / "m" / f"..{version}" / "p.yaml").write_text(OTHERS, encoding="utf-8")
                await until(lambda: action(guards) == "strip")

    asyncio.run(follow())


def test_a_link_to_the_folder_is_followed(tmp_path: Path) -> None:
    """`current -> v1` above the policy is watched where the link lies."""

    async def follow() -> None:
        for name, text in {"v1": BLOCKS, "v2": ESCAPES}.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "p.yaml").write_text(text, encoding="utf-8")
        (tmp_path / "current").symlink_to("v1")
        guards = load(tmp_path / "current" / "p.yaml")
        async with watching(guards):
            (tmp_path / "next").symlink_to("v2")
            (tmp_path / "next").replace(tmp_path / "current")
            await until(lambda: action(guards) == "escape")

    asyncio.run(follow())


def test_the_folders_of_a_link_are_found(tmp_path: Path) -> None:
    """Of each link on the way the folder in which it lies; of a folder that is gone, what is left above; no circle."""
    mount(tmp_path / "m", "1", BLOCKS)
    (tmp_path / "a").symlink_to(tmp_path / "m")
    found = set(folders_of([tmp_path / "a" / "p.yaml"]))
    assert found == {tmp_path, tmp_path / "m", tmp_path / "m" / "..1"}
    assert set(folders_of([tmp_path / "gone" / "far" / "p.yaml"])) == {tmp_path}
    (tmp_path / "round").symlink_to("round")
    assert tmp_path in folders_of([tmp_path / "round" / "p.yaml"])


def test_a_storm_of_changes_is_one_reload_or_a_few(file: Path) -> None:
    """Changes are taken up when the folder is quiet, and other files of the folder cause no reload at all."""

    async def follow() -> None:
        told: list[Reload] = []
        guards = load(file, told)
        async with watching(guards):
            for turn in range(60):
                file.write_text(f"{ESCAPES}# {turn}\n", encoding="utf-8")
                await asyncio.sleep(0.01)
            await until(lambda: action(guards) == "escape")
            await asyncio.sleep(0.8)
            assert len(told) <= 4
            told.clear()
            for _ in range(20):
                file.with_name("other.log").write_text("noise", encoding="utf-8")
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.8)
            assert told == []

    asyncio.run(follow())


def test_without_a_watch_the_files_are_looked_at(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no watch (none left, a network's file system), a change is found all the same."""

    def none_left(*_: object, **__: object) -> None:
        raise OSError(28, "OS file watch limit reached")

    async def follow() -> None:
        guards = load(file)
        async with watching(guards):
            file.write_text(ESCAPES, encoding="utf-8")
            await until(lambda: action(guards) == "escape")

    monkeypatch.setattr("watchfiles.awatch", none_left)
    monkeypatch.setattr(live, "POLL", 0.2)
    asyncio.run(follow())


def test_a_folder_that_cannot_be_looked_into_ends_no_watch(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rights that are taken away and given back; the policy is followed afterwards as before."""
    denied = []

    def look(files: Iterable[Path]) -> Mapping[Path, tuple[int, int]]:
        if len(denied) < 2:
            denied.append(1)
            raise PermissionError(13, "Permission denied")
        return folders_of(files)

    async def follow() -> None:
        guards = load(file)
        async with watching(guards):
            await until(lambda: len(denied) == 2)
            file.write_text(ESCAPES, encoding="utf-8")
            await until(lambda: action(guards) == "escape")

    monkeypatch.setattr(live, "folders_of", look)
    monkeypatch.setattr(live, "POLL", 0.2)
    asyncio.run(follow())


def test_what_a_broken_policy_lacks_may_come_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parent that is not there yet is in no watched folder: it is tried again, and told of but once."""

    async def follow() -> None:
        told: list[Reload] = []
        file = tmp_path / "p.yaml"
        file.write_text(BLOCKS, encoding="utf-8")
        guards = load(file, told)
        async with watching(guards):
            file.write_text("guardtok: 1\nname: p\nextends: elsewhere/parent.yaml\n", encoding="utf-8")
            await until(lambda: told[-1].result == "refused")
            await asyncio.sleep(0.7)
            assert [each.result for each in told] == ["loaded", "refused"]
            (tmp_path / "elsewhere").mkdir()
            (tmp_path / "elsewhere" / "parent.yaml").write_text(ESCAPES, encoding="utf-8")
            await until(lambda: action(guards) == "escape")

    monkeypatch.setattr(live, "POLL", 0.2)
    asyncio.run(follow())


def test_a_bundle_only_goes_forward(tmp_path: Path) -> None:
    """A higher revision is loaded, the same again is nothing, a lower one or another content is refused."""
    file = tmp_path / "p.yaml"
    bundle = tmp_path / "p.tar.gz"

    def sign(text: str, revision: int) -> None:
        file.write_text(text, encoding="utf-8")
        bundle.write_bytes(make_bundle(file, PEM, revision, 0))

    sign(BLOCKS, 7)
    guards = load(bundle, bundle_key=PUBLIC)
    assert (action(guards), guards.current.revision) == ("block", 7)
    assert guards.reload().result == "unchanged"
    for text, revision, why in (
        (ESCAPES, 6, "revision 6, and at least 7"),
        (ESCAPES, 7, "same number and says something else"),
        (ESCAPES.replace("name: p", "name: q"), 9, "another policy than the one in force"),
    ):
        sign(text, revision)
        made = guards.reload()
        assert (made.result, action(guards)) == ("refused", "block")
        assert why in made.problem
    sign(ESCAPES, 8)
    assert guards.reload().result == "loaded"
    assert (action(guards), guards.current.revision) == ("escape", 8)
    sign(ESCAPES, 9)
    assert guards.reload().result == "loaded"
    bundle.write_bytes(file.read_bytes())
    assert guards.reload().result == "refused"


def test_where_a_key_is_configured_nothing_bare_is_loaded(file: Path, tmp_path: Path) -> None:
    """A bare policy, a shipped policy's name and an old bundle are refused; a bundle without a key is, too."""
    for path in (file, "strict"):
        with pytest.raises(BundleError):
            LiveGuard.load(path, bundle_key=PUBLIC)
    bundle = tmp_path / "p.tar.gz"
    bundle.write_bytes(make_bundle(file, PEM, 7, 0))
    with pytest.raises(BundleError, match="at least 8"):
        LiveGuard.load(bundle, bundle_key=PUBLIC, min_revision=8)
    with pytest.raises(BundleError, match="no key says who may sign it"):
        LiveGuard.load(bundle)
    with pytest.raises(PolicyError):
        LiveGuard.load(tmp_path / "absent.yaml")
