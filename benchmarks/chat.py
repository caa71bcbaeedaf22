"""What a guarded conversation costs: `Guard.encode_chat` against transformers' `apply_chat_template`, paired.

Conversation, template and vocabulary are the same on every side: Qwen's, as a transformers tokenizer and as
tiktoken's, or the embedded one where `qwen` is not to be found. All sides give the same ids, else nothing is timed.
`sanitized` is transformers' `sanitize_control_tokens=True`. The sides of a pair are timed one right after the other:
the figure is the median of the pairs' ratios. The policy is `chatml` with every view and every family that it knows.

    python -m benchmarks.chat [--smoke] [--json FILE] [--templates DIR] [--tokenizer qwen] [--seconds 5]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.conversations import Chat, assistant, call, make_tool, result, system, user
from benchmarks.encode import timed
from benchmarks.templates import OWN, find_directory, load_templates
from guardtok import Guard
from guardtok.encodings import load_tokenizer
from guardtok.errors import EngineError, MissingExtraError, UnknownTokenizerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerFast

    from guardtok.adapters.tiktoken import TiktokenTokenizer

TEMPLATE = "qwen2_5"
AIMS = {"guardtok, transformers' tokenizer": 1.1, "guardtok, tiktoken": 0.5}
PROSE = (
    "The harbour was quiet when the boats came in, and nobody asked what they had brought. It's 7 o'clock, she said; "
    "the tide will turn within the hour. (We had 1,204 crates, 12 of them wet.) "
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        chat: The conversation.
        ids: How many ids it is.
        side: What is compared with the plain `apply_chat_template`.
        plain_us: Median time of the plain side, in microseconds.
        side_us: Median time of this side.
        ratio: Median of the pairs' ratios.
        aim: What the ratio should not exceed, or None.
    """

    chat: str
    ids: int
    side: str
    plain_us: float
    side_us: float
    ratio: float
    aim: float | None

    def __str__(self) -> str:
        """Return the line."""
        aim = f"≤ {self.aim:.1f}" if self.aim else ""
        return (
            f"{self.chat:<22} {self.ids:>7,} {self.side:<34} {self.plain_us:>11,.0f} {self.side_us:>11,.0f} "
            f"{self.ratio:>7.2f} {aim:>6}"
        )


def make_chats() -> list[Chat]:
    """Return the conversations: one short turn, a long one, and many turns with ten tools."""
    prompt = {"add_generation_prompt": True}
    short = [system("You are a helpful assistant."), user("What is the capital of France, and why?")]
    page = (PROSE * 10)[:2_000]
    long = [user(page) if turn % 2 == 0 else assistant(page) for turn in range(11)]
    tools = [make_tool(f"get_weather_{number}", f"Return the weather. {PROSE[:90]}") for number in range(10)]
    many = [system("Use tools.")]
    for turn in range(10):
        arguments = {"city": "Zürich", "unit": "celsius", "days": turn}
        many += [user(PROSE), call(arguments), result('{"temperature": 21.5, "unit": "celsius"}'), assistant(PROSE)]
    return [
        Chat("one short turn", short, variables=prompt),
        Chat("11 turns of 2 KB", long, variables=prompt),
        Chat("41 turns, ten tools", many, tools=tools, variables=prompt),
    ]


def as_transformers(tokenizer: TiktokenTokenizer, template: str) -> PreTrainedTokenizerFast:
    """Return a tiktoken vocabulary as transformers has it: the same ids, pattern and special tokens."""
    import base64

    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    encoding = tokenizer.encoding
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ranks.tiktoken")
        ranks = sorted(encoding._mergeable_ranks.items(), key=lambda item: item[1])
        path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks))
        backend = TikTokenConverter(str(path), pattern=encoding._pat_str, add_prefix_space=False).converted()
    for form, _ in sorted(encoding._special_tokens.items(), key=lambda item: item[1]):
        backend.add_special_tokens([AddedToken(form, special=True, normalized=False)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=backend)
    wrapped.chat_template = template
    return wrapped


def make_sides(name: str, template: str) -> dict[str, Callable[[Chat], list[int]]]:
    """Return every way to encode a conversation; the first is the one that all others are compared with."""
    tokenizer = load_tokenizer(name)
    wrapped = as_transformers(tokenizer, template)  # type: ignore[arg-type] - a named one is tiktoken's

    def unguarded(chat: Chat, *, sanitize: bool) -> list[int]:
        ids: list[int] = wrapped.apply_chat_template(
            chat.messages, tools=chat.tools, return_dict=False, sanitize_control_tokens=sanitize, **chat.variables
        )
        return ids

    def guarded(chat: Chat, guard: Guard) -> list[int]:
        return guard.encode_chat(chat.messages, template, tools=chat.tools, **chat.variables).ids

    sides: dict[str, Callable[[Chat], list[int]]] = {
        "plain": partial(unguarded, sanitize=False),
        "sanitized": partial(unguarded, sanitize=True),
        "guardtok, transformers' tokenizer": partial(guarded, guard=Guard.load("chatml", wrapped)),
        "guardtok, tiktoken": partial(guarded, guard=Guard.load("chatml", name)),
    }
    with contextlib.suppress(EngineError, MissingExtraError):
        sides["guardtok, gigatoken"] = partial(guarded, guard=Guard.load("chatml", name, engine="gigatoken"))
    return sides


def measure(chat: Chat, side: str, sides: dict[str, Callable[[Chat], list[int]]], seconds: float) -> Row:
    """Time one side against the plain one, pair by pair, for about so many seconds."""
    plain, other = partial(sides["plain"], chat), partial(sides[side], chat)
    ids = plain()
    if other() != ids:
        raise SystemExit(f"{side}: other ids than apply_chat_template. There is nothing to compare.")
    loops = max(1, int(0.005 / (timed(plain, 1) or 1e-6)))
    pairs = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(pairs) < 3:
        # Each side goes first in turn: the second of a pair finds warmer caches.
        if len(pairs) % 2:
            second, first = timed(other, loops), timed(plain, loops)
            pairs.append((first, second))
        else:
            pairs.append((timed(plain, loops), timed(other, loops)))
    plains, others = zip(*pairs, strict=True)
    ratio = statistics.median(second / first for first, second in pairs)
    return Row(
        chat.name,
        len(ids),
        side,
        statistics.median(plains) * 1e6,
        statistics.median(others) * 1e6,
        ratio,
        AIMS.get(side),
    )


def main() -> int:
    """Measure, print the table, write it as JSON where asked. A missed aim is a figure, not a failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a moment per case: does it run, not how fast")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--templates", type=Path, help="directory with *.jinja and tokens.json")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to time each line")
    parser.add_argument("--tokenizer", help="default: qwen, or the embedded one where that is not to be found")
    arguments = parser.parse_args()
    name = arguments.tokenizer or ("guardtok" if arguments.smoke else choose_tokenizer())
    directory = find_directory(arguments.templates)
    found = {template.name: template.source for template in load_templates(directory)}
    template = found.get(TEMPLATE, OWN["own_documents"])
    versions = (
        f"transformers {version('transformers')}, tiktoken {version('tiktoken')}, Python {platform.python_version()}"
    )
    print(f"{name}, template {TEMPLATE if TEMPLATE in found else 'own'}, {versions}, {platform.machine()}")
    print(f"{'conversation':<22} {'ids':>7} {'side':<34} {'plain µs':>11} {'side µs':>11} {'ratio':>7} {'aim':>6}")
    sides = make_sides(name, template)
    rows = []
    for chat in make_chats():
        for side in list(sides)[1:]:
            rows.append(measure(chat, side, sides, 0.05 if arguments.smoke else arguments.seconds))
            print(rows[-1], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0


def choose_tokenizer() -> str:
    """Return `qwen` if it is here, else the embedded tokenizer's name."""
    try:
        return load_tokenizer("qwen").name
    except UnknownTokenizerError:
        return "guardtok"


if __name__ == "__main__":
    raise SystemExit(main())
