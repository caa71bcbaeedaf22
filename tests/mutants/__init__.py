"""Guards that are broken on purpose, each in one small way that people get wrong, and what must find it.

A fuzzer that finds nothing has proven nothing until it has been seen to find something. So every attack class has a
mutant here that it must kill alone: one campaign of that class over the mutant finds something, by the oracle that is
named, and the same campaign over the guard without the fault finds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from guardtok.fuzz import campaign, fuzz
from tests.mutants import chats, encoding, guards, text

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok import Guard
    from guardtok.fuzz import Report
    from guardtok.fuzz.campaign import Progress


class Patch(Protocol):
    """Sets an attribute, and sets it back later: pytest's `monkeypatch.setattr`."""

    def __call__(self, target: Any, name: str, value: object) -> None:  # noqa: ANN401 - whatever has attributes
        """Set it."""
        ...


@dataclass(frozen=True, slots=True)
class Mutant:
    """A broken guard.

    Attributes:
        build: Breaks the guard, and returns it.
        whole: Returns the guard that is not broken.
        attack: The attack class that must find it.
        oracle: The oracle that must.
        cases: So many cases are enough.
    """

    build: Callable[[Patch], Guard]
    whole: Callable[[], Guard]
    attack: str
    oracle: str
    cases: int = 100

    @property
    def name(self) -> str:
        """What it does wrong, in words."""
        return self.build.__name__.replace("_", " ")

    def __str__(self) -> str:
        return self.build.__name__


MUTANTS = (
    Mutant(encoding.parse_everything, guards.plain, "A1", "leak"),
    Mutant(text.log_forms, guards.plain, "A1", "log"),
    Mutant(encoding.take_the_first_form, guards.overlapping, "A1", "overlap"),
    Mutant(encoding.trust_special_alone, guards.thinking, "A2", "leak"),
    Mutant(encoding.leave_ids_unchecked, guards.unigram, "A3", "leak"),
    Mutant(text.skip_the_normaliser, guards.folding, "A4", "leak"),
    Mutant(text.miss_small_letters, guards.folding, "A4", "leak"),
    Mutant(text.normalise_afterwards, guards.plain, "A4", "leak"),
    Mutant(text.escape_with_zero_width, guards.watching, "A5", "split"),
    Mutant(text.drop_hidden_characters_afterwards, guards.plain, "A5", "leak"),
    Mutant(encoding.key_the_cache_wrongly, guards.plain, "A6", "round trip"),
    Mutant(text.strip_once, guards.stripping, "A7", "leak"),
    Mutant(encoding.mark_with_nul, guards.plain, "A8", "leak"),
    Mutant(chats.check_before_the_template, guards.talking, "A9", "forge"),
    Mutant(chats.check_each_part_alone, guards.plain, "A10", "forge"),
    Mutant(encoding.forget_the_joint, guards.blocking, "A10", "split"),
    Mutant(text.look_at_each_chunk_alone, guards.plain, "A10", "split"),
    Mutant(text.hold_back_one_too_few, guards.plain, "A10", "split"),
    Mutant(text.keep_the_end, guards.plain, "A10", "split", 200),
    Mutant(chats.check_content_alone, guards.plain, "A11", "forge"),
    Mutant(chats.ignore_keys, guards.plain, "A11", "forge"),
    Mutant(text.unescape_afterwards, guards.plain, "A12", "leak"),
    Mutant(encoding.replace_both_halves, guards.plain, "A13", "round trip"),
    Mutant(text.scan_before_the_repair, guards.smiling, "A13", "leak"),
    Mutant(chats.let_ids_through, guards.requesting, "A14", "leak"),
    Mutant(encoding.decode_and_encode_again, guards.plain, "A15", "leak"),
    Mutant(encoding.let_escape_win, guards.blocking, "A16", "drift"),
    Mutant(encoding.forget_media, guards.many, "A18", "leak"),
    Mutant(encoding.miss_a_panic, guards.panicking, "A19", "crash", 15),
    Mutant(encoding.search_in_quadratic_time, guards.plain, "A19", "crash", 15),
    Mutant(encoding.cut_off_the_end, guards.plain, "A19", "erase", 15),
    Mutant(text.log_the_text, guards.excerpting, "A20", "log"),
    Mutant(encoding.forget_unused_slots, guards.many, "A21", "leak"),
    Mutant(encoding.join_documents, guards.plain, "A22", "split"),
    Mutant(encoding.drop_empty_texts, guards.plain, "plain", "split"),
)
"""Every mutant, in the order of the attack classes."""


def hunt(mutant: Mutant, patch: Patch, attack: str | None = None) -> Report:
    """Run a campaign of one attack class over a mutant, by default its own, until something is found.

    Findings are made a little smaller, and not as small as they get.
    """
    own = attack is None
    patch(campaign, "MAX_SHRINKS", 20)
    patch(campaign, "MAX_COSTLY", 1)
    guard = mutant.build(patch)

    def stop(progress: Progress) -> None:
        if progress.findings:
            raise KeyboardInterrupt

    oracles = [mutant.oracle] if own else []
    attacks = [mutant.attack if attack is None else attack]
    return fuzz(guard, cases=mutant.cases, seconds=None, attacks=attacks, oracles=oracles, on_progress=stop)
