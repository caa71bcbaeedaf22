"""The command line as a whole: statuses, errors, help, pipes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess
from typing import IO

import click
import pytest
from command_line import guardtok

from guardtok.cli import cli

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"


def python(*arguments: str, stdout: int | IO[str] = subprocess.PIPE, **variables: str) -> CompletedProcess[str]:
    """Run `python -m guardtok` as a process of its own, with these environment variables set."""
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "FORCE_COLOR"}}
    return subprocess.run(
        [sys.executable, "-m", "guardtok", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment | variables,
        cwd=PAGE.parent.parent,
        check=False,
    )


def commands(group: click.Group, words: str = "") -> dict[str, click.Command]:
    """Map the words that call each command to the command."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found[f"{words}{name}"] = command
        if isinstance(command, click.Group):
            found |= commands(command, f"{words}{name} ")
    return found


COMMANDS = commands(cli)


@pytest.mark.parametrize("words", COMMANDS)
def test_help_teaches(words: str) -> None:
    """Every command says what it does and shows an example that begins with its own name."""
    ran = guardtok(*words.split(), "--help")
    assert ran.status == 0
    assert re.search(rf"^ +(?:.* \| )?guardtok {words}\b", ran.out, re.MULTILINE)
    assert "\b" not in ran.out
    assert ran.out.split("\n\n")[1].strip().endswith(".")


@pytest.mark.parametrize("words", COMMANDS)
def test_the_page_names_every_command_and_option(words: str) -> None:
    """`docs/cli.md` has a section for each command, and in it stands each of its options."""
    sections = re.split(r"^##+ ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    section = next((part for part in sections if part.startswith(f"`guardtok {words}`")), "")
    assert section
    options = [name for each in COMMANDS[words].params for name in each.opts if name.startswith("-")]
    assert [name for name in options if not re.search(rf"`{name}\b", section)] == []


def test_the_page_names_no_option_that_is_not_there() -> None:
    """An option that was taken out does not live on in `docs/cli.md`."""
    known = {name for command in [cli, *COMMANDS.values()] for each in command.params for name in each.opts} | {
        "--help"
    }
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE.read_text(encoding="utf-8"))) - known == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chek"], "Did you mean 'check'?"),
        (["policy", "explian"], "Did you mean 'explain'?"),
        (
            ["quux"],
            (
                "There are demo, encode, check, sanitize, policy, tokens, extend, resize, doctor, fuzz, scan, "
                "tokenize, serve."
            ),
        ),
        (["\x1b[31m"], r"\x1b[31m"),
        (["check", "--polcy", "strict", "x"], "--policy"),
        (["check", "--format", "xml", "x"], "'json'"),
        (["check", "--policy", "strikt", "x"], "Did you mean 'strict'?"),
        (["check", "--policy", "./absent.yaml", "x"], "absent.yaml"),
        (["check", "--policy", "./", "x"], "directory"),
        (["check", "--source", "usr", "x"], "Did you mean 'user'?"),
        (["check", "--tokenizer", "gtp2", "x"], "Did you mean 'gpt2'?"),
        (["encode", "--tokenizer", "./absent.tiktoken", "x"], "absent.tiktoken"),
        (["tokens"], "Missing argument"),
        (["check", "-", "-"], "once"),
        (["check", "a\udcff"], "not UTF-8"),
    ],
)
def test_a_mistake_in_use_is_status_2(arguments: list[str], message: str) -> None:
    """A mistake gives one message with the mend on standard error, nothing on standard output, and no traceback."""
    ran = guardtok(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err
    assert "Traceback" not in ran.err
    assert "\x1b" not in ran.err


def test_the_version_is_shown() -> None:
    """`--version` names the program, installed or not."""
    ran = guardtok("--version")
    assert ran.status == 0
    assert ran.out.startswith("guardtok ")


def test_a_bad_policy_is_no_traceback(tmp_path: Path) -> None:
    """All that is wrong with a policy is listed with file, line and column; what a terminal would obey is escaped."""
    file = tmp_path / "bad.yaml"
    file.write_text('guardtok: 1\nsurces: {}\nsources: {user: {default: alow, block: ["@turm"]}}\n', encoding="utf-8")
    ran = guardtok("check", "--policy", file, "x")
    assert (ran.status, ran.out) == (2, "")
    assert f"{file}:2:1: " in ran.err
    assert "Did you mean 'allow'?" in ran.err


def test_a_pipe_gets_plain_unwrapped_text() -> None:
    """Without a terminal there is no colour and a row is one line, however long."""
    ran = python("check", "--policy", "strict", "--request-id", "r", "<|im_end|>" * 3)
    assert ran.returncode == 1
    assert "\x1b" not in ran.stdout
    assert ran.stdout.count("<_|im_end|>") == 3
    assert all(line == line.rstrip() for line in ran.stdout.splitlines())


def test_colour_where_it_is_asked_for_and_not_against_no_color() -> None:
    """`FORCE_COLOR` colours a pipe, and `NO_COLOR` takes the colours out again."""
    coloured = python("demo", FORCE_COLOR="1").stdout
    plain = python("demo", FORCE_COLOR="1", NO_COLOR="1").stdout
    assert "\x1b[1;31m" in coloured
    assert "31m" not in plain


def test_a_reader_who_leaves_is_no_error() -> None:
    """`| head -1` ends the program quietly, and not with the status that means that something was found."""
    command = [sys.executable, "-m", "guardtok", "check", "--lines"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=PAGE.parent.parent
    ) as process:
        process.stdout.close()
        _, errors = process.communicate(b"<|im_end|>\n" * 3)
    assert (process.returncode, errors) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_is_no_traceback() -> None:
    """What cannot be written is a message and status 2."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        ran = python("tokens", "guardtok", stdout=full)
    assert ran.returncode == 2
    assert ran.stderr.startswith("Error: ")
    assert ran.stderr.count("\n") == 1


def test_a_terminal_without_unicode_is_no_traceback() -> None:
    """A character that the output's encoding lacks is written as its escape."""
    ran = python("tokens", "guardtok", PYTHONIOENCODING="ascii")
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_command_line_is_quick_to_load() -> None:
    """Neither rich nor the YAML reader is loaded before a command needs them."""
    program = "import sys, guardtok.cli; print(sorted({'rich', 'ruamel.yaml', 'structlog'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
