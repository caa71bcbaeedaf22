from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from guardtok import Policy
from guardtok.cli import main
from guardtok.errors import GuardtokError, SettingsError
from guardtok.gateway.decision import Call
from guardtok.gateway.running import Running
from guardtok.gateway.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_an_empty_key_does_not_turn_verification_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A secret that did not arrive leaves an empty variable: that is a mistake, here and on the command line."""
    with pytest.raises(SettingsError, match="GUARDTOK_BUNDLE_KEY"):
        Settings.from_env({"GUARDTOK_POLICY": "strict", "GUARDTOK_BUNDLE_KEY": ""})
    assert Settings.from_env({"GUARDTOK_BUNDLE_KEY": ""}, policy="strict", bundle_key="key.pem").bundle_key == "key.pem"
    monkeypatch.setenv("GUARDTOK_BUNDLE_KEY", "")
    assert main(["serve", "--policy", "strict", "--port", "0"]) == 2
    assert "GUARDTOK_BUNDLE_KEY is empty" in capsys.readouterr().err


def test_every_setting_has_a_variable() -> None:
    """The environment alone configures all of it."""
    environ = {
        "GUARDTOK_POLICY": "strict",
        "GUARDTOK_TOKENIZER": "guardtok",
        "GUARDTOK_MAX_BODY": "1000",
        "GUARDTOK_MAX_REPLY": "2000",
        "GUARDTOK_PREFIXES": "/v1, /llm",
        "GUARDTOK_UNKNOWN_ROUTE": "pass",
        "GUARDTOK_OPEN_PATHS": "/v1/files",
        "GUARDTOK_FLAT_ERRORS": "TRUE",
        "GUARDTOK_DECISION_LOG": "-",
        "GUARDTOK_METRICS": "0",
        "GUARDTOK_BUNDLE_KEY": "key.pem",
        "GUARDTOK_MIN_REVISION": "7",
    }
    assert Settings.from_env(environ) == Settings(
        policy="strict",
        tokenizer="guardtok",
        max_body=1000,
        max_reply=2000,
        prefixes=("/v1", "/llm"),
        unknown_route="pass",
        open_paths=("/v1/files",),
        flat_errors=True,
        decision_log="-",
        metrics=False,
        bundle_key="key.pem",
        min_revision=7,
    )
    assert {f"GUARDTOK_{name.upper()}" for name in Settings.__slots__} == set(environ)


def test_an_argument_goes_before_its_variable() -> None:
    """None is no argument, and an empty variable none either."""
    environ = {
        "GUARDTOK_POLICY": "strict",
        "GUARDTOK_MAX_BODY": "",
        "GUARDTOK_TOKENIZER": "t",
        "GUARDTOK_PREFIXES": "/a",
    }
    made = Settings.from_env(environ, policy="chatml", tokenizer=None, prefixes=["/b"])
    assert made == Settings(policy="chatml", tokenizer="t", prefixes=("/b",))


def test_findings_are_in_one_log(tmp_path: Path) -> None:
    """In the decision log where there is one, and else in the process's own."""
    for log, lines in ((None, 1), (tmp_path / "log.jsonl", 0)):
        running = Running.of(Settings(policy="strict", decision_log=log))
        with capture_logs() as logged:
            running.gatekeeper.judge_text("<|im_end|>", "user", Call("test"))
        assert len(logged) == lines
        asyncio.run(running.stop())


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MAX_BODY", "8MB"),
        ("MAX_BODY", "-1"),
        ("MAX_BODY", "0"),
        ("MAX_BODY", "9" * 5000),
        ("MAX_REPLY", "1e6"),
        ("PREFIXES", "v1"),
        ("PREFIXES", ","),
        ("OPEN_PATHS", "files"),
        ("UNKNOWN_ROUTE", "open"),
        ("FLAT_ERRORS", "maybe"),
        ("METRICS", "on"),
    ],
)
def test_a_variable_that_says_nothing_stops_the_start(variable: str, value: str) -> None:
    """The error names the setting, and repeats no value."""
    with pytest.raises(SettingsError, match=rf"(?i){variable}") as caught:
        Settings.from_env({f"GUARDTOK_{variable}": value})
    assert value not in str(caught.value) or value == ","


def test_a_setting_that_is_misspelled_is_named() -> None:
    """With the nearest one that there is."""
    with pytest.raises(TypeError, match="open_paths"):
        Settings.from_env({}, open_path=("/",))


def test_a_prefix_alone_is_no_list() -> None:
    """A string is a sequence of paths only by accident."""
    with pytest.raises(SettingsError, match="prefixes"):
        Settings(prefixes="/v1")  # type: ignore[arg-type]


def test_a_key_without_a_bundle_is_refused(tmp_path: Path) -> None:
    """Whoever configures a key means that nothing unsigned is ever in force."""
    key = tmp_path / "key.pem"
    with pytest.raises(SettingsError, match="bundle_key"):
        Settings(policy="strict", bundle_key=key).load_guard()
    key.write_text("-----BEGIN PUBLIC KEY-----\n")
    for policy in ("strict", Policy.load("strict")):
        with pytest.raises(GuardtokError):
            Settings(policy=policy, bundle_key=key).load_guard()


def test_a_revision_without_a_key_is_a_mistake() -> None:
    """A bare policy has no revision: who asks for one would be asking nobody."""
    with pytest.raises(SettingsError, match="bundle_key"):
        Settings.from_env({"GUARDTOK_POLICY": "strict", "GUARDTOK_MIN_REVISION": "7"})


def test_a_policy_may_be_an_object() -> None:
    """It has no file that could change."""
    policy = Policy.load("strict")
    assert Settings(policy=policy).build().current.guard.policy is policy


def test_decisions_are_logged_and_counted(tmp_path: Path) -> None:
    """The log is written at the stop; the numbers are in the registry that the application shows."""
    log = tmp_path / "log.jsonl"
    before: Any = REGISTRY.get_sample_value
    # Whoever names no policy at first has registered nothing yet.
    with pytest.raises(SettingsError, match="GUARDTOK_POLICY"):
        Running.of(Settings(metrics=True))
    running = Running.of(Settings(policy="strict", decision_log=log, metrics=True))
    running.gatekeeper.judge_text("<|im_end|>", "user", Call("test"))
    asyncio.run(running.stop())
    (line,) = log.read_text().splitlines()
    assert json.loads(line)["path"] == "text/user"
    labels = {"stage": "text"}
    assert before("guardtok_scan_duration_seconds_count", labels) == 1
    assert before("guardtok_policy_reload_total", {"result": "loaded"}) == 1
    with pytest.raises(SettingsError, match="gatekeeper"):
        Running.of(Settings(policy="strict", metrics=True))


def test_a_policy_is_followed_while_it_runs(tmp_path: Path) -> None:
    """From the first request on, with or without a lifespan, and until the end."""
    path = tmp_path / "policy.yaml"
    path.write_text("guardtok: 1\nname: one\nsources: {'*': {default: escape}}\n")
    running = Running.of(Settings(policy=path))

    async def run() -> None:
        running.start()
        running.start()
        await asyncio.sleep(0.1)
        path.write_text("guardtok: 1\nname: two\nsources: {'*': {default: escape}}\n")
        for _ in range(1000):
            if running.gatekeeper.current.guard.policy.name == "two":
                break
            await asyncio.sleep(0.01)
        await running.stop()

    asyncio.run(run())
    assert running.gatekeeper.current.guard.policy.name == "two"
