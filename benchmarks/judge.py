"""One template under attack: three ways from a conversation to ids, and a judge of what comes out.

The judge takes the tokens that the template wrote from `benchmarks.tagging`, and the places of the tokens that came out
from the bytes of the ids. It asks guardtok nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.attacks import Attack, attacks
from benchmarks.tagging import Written, pattern_of, write
from guardtok import Guard, Policy
from guardtok.errors import GuardtokError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transformers import PreTrainedTokenizerFast

    from benchmarks.conversations import Chat
    from benchmarks.templates import Template

POLICY = """\
guardtok: 1
name: forgery
description: Only the template may write control tokens.
foreign: ignore
sources:
  template: {default: allow}
  "*": {default: escape}
"""

COLUMNS = ("apply_chat_template", "sanitize_control_tokens", "guardtok")


@dataclass(slots=True)
class Tally:
    """What became of the attacks of one shape under one column."""

    forged: int = 0
    lost: int = 0
    altered: int = 0
    refused: int = 0
    errors: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Shape:
    """The attacks of one shape."""

    attacks: int = 0
    vacuous: int = 0
    unsure: int = 0
    branches: int = 0
    reported: int = 0
    columns: dict[str, Tally] = field(default_factory=lambda: {name: Tally() for name in COLUMNS})

    def add(self, other: Shape) -> None:
        """Count what was counted elsewhere, too."""
        for name in ("attacks", "vacuous", "unsure", "branches", "reported"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for column, tally in self.columns.items():
            more = other.columns[column]
            for name in ("forged", "lost", "altered", "refused"):
                setattr(tally, name, getattr(tally, name) + getattr(more, name))
            for error, count in more.errors.items():
                tally.errors[error] = tally.errors.get(error, 0) + count


@dataclass(slots=True)
class Benign:
    """What became of the conversations without an attack."""

    chats: int = 0
    equal: int = 0
    tokens: int = 0
    lost: int = 0
    unsure: int = 0
    differ: list[str] = field(default_factory=list)


class Bench:
    """One template with its tokenizer and the three ways through it."""

    def __init__(self, template: Template, *, nfkc: bool = False) -> None:
        self.template = template
        self.tokenizer = template.tokenizer(nfkc=nfkc)
        self.forms = pattern_of(template.control)
        self.reserved = {index: token.content for index, token in self.tokenizer.added_tokens_decoder.items()}
        self.guard = Guard.load(Policy.parse(POLICY), self.tokenizer, sinks=[])
        self.bytes = spelled_ids(self.tokenizer)
        self.branches_reported = False

    def render(self, chat: Chat) -> Written | None:
        """Return what transformers renders, with the template's characters known; None where it raises.

        Raises:
            Unsure: The oracle renders something else.
        """
        arguments = {"add_generation_prompt": False, **chat.arguments()}
        try:
            plain = self.tokenizer.apply_chat_template(chat.messages, tokenize=False, **arguments)
        except Exception:  # noqa: BLE001 - a template may raise anything; then there is no attack
            return None
        written = write(
            self.template.source, plain, {"messages": chat.messages, **arguments}, self.tokenizer.special_tokens_map
        )
        if written is None:
            raise Unsure
        return written

    def encode(self, column: str, chat: Chat) -> list[int]:
        """Return the ids of a conversation, one of the three ways."""
        if column == "guardtok":
            out = self.guard.encode_chat(chat.messages, **chat.arguments())
            self.branches_reported = any(violation.rule == "template_branch" for violation in out.violations)
            return out.ids
        sanitize = column == "sanitize_control_tokens"
        ids: list[int] = self.tokenizer.apply_chat_template(
            chat.messages, return_dict=False, sanitize_control_tokens=sanitize, **chat.arguments()
        )
        return ids

    def judge(self, ids: list[int], written: Written) -> tuple[bool, bool, bool]:
        """Return whether ids hold a forged token, lack one of the template's, and decode to another text."""
        expected = [(len(written.text[:place].encode()), form) for place, form in written.tokens(self.forms)]
        place, found, data = 0, [], []
        for index in ids:
            if index in self.reserved:
                found.append((place, self.reserved[index]))
            data.append(self.bytes[index])
            place += len(self.bytes[index])
        if b"".join(data) == written.text.encode():
            return bool(set(found) - set(expected)), bool(set(expected) - set(found)), False
        normalizer = self.tokenizer.backend_tokenizer.normalizer
        fold = normalizer.normalize_str if normalizer else str
        altered = fold(b"".join(data).decode(errors="replace")) != fold(written.text)
        # Places mean nothing in another text; what tokens there are, and in what order, still does.
        got, want = [form for _, form in found], [form for _, form in expected]
        missing = Counter(want) - Counter(got)
        return bool(Counter(got) - Counter(want)) or (got != want and not missing), bool(missing), altered


class Unsure(Exception):  # noqa: N818 - it is no error of anybody's
    """The oracle cannot say what the template wrote."""


def spelled_ids(tokenizer: PreTrainedTokenizerFast) -> list[bytes]:
    """Return the bytes of each id of a byte-level vocabulary."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    byte = {character: number for number, character in bytes_to_unicode().items()}
    added = {index: token.content.encode() for index, token in tokenizer.added_tokens_decoder.items()}
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return [added.get(index) or bytes(byte[character] for character in name) for index, name in enumerate(names)]


def variables_of(template: Template) -> tuple[str, ...]:
    """Return the variables that a caller may fill: those that the template reads and nothing sets by itself."""
    import jinja2.meta
    from transformers.utils.chat_template_utils import _compile_jinja_template

    environment = _compile_jinja_template(template.source).environment
    read = jinja2.meta.find_undeclared_variables(environment.parse(template.source))
    usual = {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"}
    return tuple(sorted(read - usual - set(environment.globals)))


def measure_benign(bench: Bench, chats: list[Chat], totals: Benign) -> None:
    """Compare the ids of benign conversations with those of `apply_chat_template`, and count the template's tokens."""
    for chat in chats:
        try:
            written = bench.render(chat)
        except Unsure:
            totals.unsure += 1
            continue
        if written is None:
            continue
        totals.chats += 1
        totals.tokens += len(written.tokens(bench.forms))
        try:
            ids = bench.encode("guardtok", chat)
        except GuardtokError as error:
            totals.differ.append(f"{bench.template.name}, {chat.name}: {type(error).__name__}")
            continue
        if ids == bench.encode("apply_chat_template", chat):
            totals.equal += 1
        else:
            totals.differ.append(f"{bench.template.name}, {chat.name}: other ids")
        totals.lost += bench.judge(ids, written)[1]


def measure_attacks(bench: Bench, made: Iterable[tuple[Attack, list[str] | None]], shapes: dict[str, Shape]) -> None:
    """Run attacks, each given with the tokens that the template writes for its harmless twin."""
    for attack, twin in made:
        shape = shapes[attack.shape]
        shape.attacks += 1
        try:
            written = bench.render(attack.chat)
        except Unsure:
            shape.unsure += 1
            continue
        if written is None or not written.carries(attack.probe):
            shape.vacuous += 1
            continue
        branch = twin is not None and twin != [form for _, form in written.tokens(bench.forms)]
        shape.branches += branch
        for column, tally in shape.columns.items():
            try:
                ids = bench.encode(column, attack.chat)
            except Exception as error:
                if column == "guardtok" and not isinstance(error, GuardtokError):
                    raise
                tally.refused += 1
                tally.errors[type(error).__name__] = tally.errors.get(type(error).__name__, 0) + 1
                continue
            forged, lost, altered = bench.judge(ids, written)
            tally.forged += forged
            tally.lost += lost
            tally.altered += altered
        shape.reported += branch and bench.branches_reported


def with_twins(
    bench: Bench, forms: list[str], cuts: tuple[int | None, ...], step: int = 1, first: int = 0
) -> Iterator[tuple[Attack, list[str] | None]]:
    """Yield the attacks with these tokens, each with what the template writes for its twin; of all, every so many."""
    variables = variables_of(bench.template)
    twins = [twin_tokens(bench, twin.chat) for twin in attacks(forms[0], variables, lambda _: "x", cuts=cuts)]
    for form in forms:
        pairs = list(zip(attacks(form, variables, cuts=cuts), twins, strict=True))
        yield from pairs[first % step :: step]


def twin_tokens(bench: Bench, chat: Chat) -> list[str] | None:
    """Return the tokens that the template writes for a harmless conversation, or None where it raises."""
    try:
        written = bench.render(chat)
    except Unsure:
        return None
    return written and [form for _, form in written.tokens(bench.forms)]
