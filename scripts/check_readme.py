"""Runs what the README shows: its Python examples with their results, its commands, its policy, and its links.

python scripts/check_readme.py
"""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

from guardtok.policy import parse_policy

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def main() -> int:
    """Check everything, print what is wrong, and return how much that is."""
    text = README.read_text(encoding="utf-8")
    failed = doctest.testfile(str(README), module_relative=False, encoding="utf-8").failed
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        parse_policy(block, place="README.md")
    commands = re.findall(r"^\$ (guardtok .*)$", text, re.MULTILINE)
    commands += [command for command in re.findall(r"`(guardtok [^`]+)`", text) if "…" not in command]
    for command in commands:
        words = shlex.split(command)
        # In the prose a command may stand without its arguments; its help must know it.
        words += [] if f"$ {command}" in text else ["--help"]
        run = subprocess.run([sys.executable, "-m", *words], check=False, capture_output=True, text=True)
        if run.returncode:
            print(f"{command}: exit status {run.returncode}\n{run.stderr}")
            failed += 1
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if not (ROOT / link).exists():
            print(f"README.md links to {link}, which is not there.")
            failed += 1
    print(f"README: {len(commands)} commands, {failed} wrong")
    return min(failed, 1)


if __name__ == "__main__":
    raise SystemExit(main())
