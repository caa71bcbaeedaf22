"""Runs guardtok's command line in this process, so that a test sees status, output and errors apart."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

from guardtok.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Ran:
    """What became of a command."""

    status: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The lines of the output, read as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


def guardtok(*arguments: str | Path, stdin: bytes = b"") -> Ran:
    """Run a command with these arguments and this standard input."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        status = main(list(map(str, arguments)))
    written = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return Ran(status, *written)
