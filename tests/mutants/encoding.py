"""Mutants of what makes ids: of the scan, the decision, the encode and its proof."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from guardtok import Guard, clean, decide, encode, examine, intake
from guardtok.adapters.hf import HfTokenizer
from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.rules import Rules
from guardtok.text import Text
from guardtok.violation import Action
from tests.mutants import guards

if TYPE_CHECKING:
    from tests.mutants import Patch


def parse_everything(_patch: Patch) -> Guard:
    """Encode a prompt as it was before there was a guard: whatever is in a text is parsed."""

    class Mutant(Guard):
        __slots__ = ()

        def encode(self, text: str, **options: Any) -> Any:  # noqa: ANN401 - as of a Guard
            return _with_ids(super().encode(text, **options), _parse(self, str.__str__(text)))

    return guards.plain(Mutant)


def decode_and_encode_again(_patch: Patch) -> Guard:
    """Bring ids into a canonical form by way of their text."""

    class Mutant(Guard):
        __slots__ = ()

        def encode(self, text: str, **options: Any) -> Any:  # noqa: ANN401 - as of a Guard
            made = super().encode(text, **options)
            return _with_ids(made, _parse(self, self.tokenizer.decode_bytes(made.ids).decode()))  # type: ignore[union-attr]

    return guards.plain(Mutant)


def mark_with_nul(_patch: Patch) -> Guard:
    """Mark untrusted stretches in the text itself, with a character that nobody is supposed to send."""

    class Mutant(Guard):
        __slots__ = ()

        def encode(self, text: str, **options: Any) -> Any:  # noqa: ANN401 - as of a Guard
            labelled = text if isinstance(text, Text) else Text(text, source=options["source"])
            made = super().encode(text, **options)
            marked = "".join(
                piece if run.source == "template" else f"\0{piece}\0"
                for run in labelled.runs
                for piece in [str.__str__(labelled)[run.start : run.end]]
            )
            encoding = self.tokenizer.encoding  # type: ignore[union-attr]
            ids: list[int] = []
            for number, piece in enumerate(marked.split("\0")):
                ids += encoding.encode_ordinary(piece) if number % 2 else _parse(self, piece)
            return _with_ids(made, ids)

    return guards.plain(Mutant)


def leave_ids_unchecked(patch: Patch) -> Guard:
    """Believe that text in which no form was parsed makes no reserved id."""
    patch(encode, "_leaked", lambda _ids, _reserved: frozenset())
    patch(Rules, "find_weak", lambda _self, _text: frozenset())
    return guards.unigram()


def trust_special_alone(patch: Patch) -> Guard:
    """Take the library's word for it: what is not special is no control token."""
    guard = guards.thinking()
    special = {token.id for token in guard.tokenizer.control_tokens if token.special}  # type: ignore[union-attr]
    library = guard.tokenizer.to_library()  # type: ignore[union-attr]
    library.encode_special_tokens = True

    def encode_ordinary(_self: object, text: str, *, at_start: bool) -> list[int]:
        return list(library.encode(text, add_special_tokens=False).ids)

    patch(HfTokenizer, "encode_ordinary", encode_ordinary)
    patch(encode, "_leaked", lambda ids, reserved: (reserved & special).intersection(ids))
    return guard


def forget_media(patch: Patch) -> Guard:
    """Take a placeholder of an image for content."""
    return _forget(patch, "<|image_pad|>")


def forget_unused_slots(patch: Patch) -> Guard:
    """Take slots that nobody uses for harmless."""
    return _forget(patch, "<|reserved_special_token_7|>")


def _forget(patch: Patch, form: str) -> Guard:
    guard = guards.many()
    encoding = guard.tokenizer.encoding  # type: ignore[union-attr]
    id_ = encoding.encode_single_token(form)

    def encode_ordinary(_self: object, text: str, *, at_start: bool) -> list[int]:
        return list(encoding.encode(text, allowed_special={form}, disallowed_special=()))

    patch(TiktokenTokenizer, "encode_ordinary", encode_ordinary)
    patch(encode, "_leaked", lambda ids, reserved: (reserved - {id_}).intersection(ids))
    return guard


def take_the_first_form(patch: Patch) -> Guard:
    """Read the shortest of the forms that begin at one place."""
    patch(decide, "leftmost_longest", lambda match: (match[1], match[2]))
    return guards.overlapping()


def forget_the_joint(patch: Patch) -> Guard:
    """Look at each part of a text alone."""
    whole = examine.scan

    def scan(taken: Any, ruleset: Any) -> Any:  # noqa: ANN401 - as the scan has it
        return [match for match in whole(taken, ruleset) if taken.run_at(match[1]) == taken.run_at(match[2] - 1)]

    patch(examine, "scan", scan)
    return guards.blocking()


def let_escape_win(patch: Patch) -> Guard:
    """Let the milder of two verdicts on one text win."""
    whole = decide.decide

    def decide_mildly(*arguments: Any) -> Any:  # noqa: ANN401 - as the decision has it
        decided = whole(*arguments)
        mild = any(finding.action is Action.ESCAPE for finding, _ in decided.groups)
        return replace(decided, refused=None) if mild else decided

    patch(examine, "decide", decide_mildly)
    return guards.blocking()


def replace_both_halves(patch: Patch) -> Guard:
    """Take each half of a surrogate pair for a lone one."""

    def repair(text: str, runs: Any, _surrogates: object) -> Any:  # noqa: ANN401 - as the intake has it
        repaired = re.sub("[\ud800-\udfff]", "\ufffd", text)
        return intake.Intake(repaired, repaired.encode(), runs)

    patch(intake, "_repair", repair)
    return guards.plain()


def miss_a_panic(patch: Patch) -> Guard:
    """Catch what is an Exception, and no more."""
    patch(encode, "is_failure", lambda error: isinstance(error, Exception))
    return guards.panicking()


def search_in_quadratic_time(patch: Patch) -> Guard:
    """Search what is left of a text again and again."""
    whole = clean.find

    def find(data: bytes, automata: Any) -> Any:  # noqa: ANN401 - as the scan has it
        for start in range(0, len(data), 8):
            data[start:].find(b"<")
        return whole(data, automata)

    patch(clean, "find", find)
    return guards.plain()


def cut_off_the_end(_patch: Patch) -> Guard:
    """Cut what is too long for the model, and with it the token that ends the turn."""

    class Mutant(Guard):
        __slots__ = ()

        def encode(self, text: str, **options: Any) -> Any:  # noqa: ANN401 - as of a Guard
            made = super().encode(text, **options)
            return _with_ids(made, list(made.ids)[:2_000])

    return guards.plain(Mutant)


def drop_empty_texts(_patch: Patch) -> Guard:
    """Leave empty texts out of a batch."""

    class Mutant(Guard):
        __slots__ = ()

        def encode_batch(self, texts: Any, **options: Any) -> Any:  # noqa: ANN401 - as of a Guard
            return super().encode_batch([text for text in texts if text], **options)

    return guards.plain(Mutant)


def join_documents(_patch: Patch) -> Guard:
    """Encode documents in one go, a separator between them, and cut the ids where it stands."""

    class Mutant(Guard):
        __slots__ = ()

        def encode_batch(self, texts: Any, **_: Any) -> Any:  # noqa: ANN401 - as of a Guard
            made: list[list[int]] = [[]]
            for id_ in _parse(self, "</s>".join(texts)):
                if id_ == guards.FORMS["</s>"]:
                    made.append([])
                else:
                    made[-1].append(id_)
            return [SimpleNamespace(ids=ids) for ids in made]

    return guards.plain(Mutant)


def key_the_cache_wrongly(_patch: Patch) -> Guard:
    """Remember what was encoded by the text without the white space around it."""
    cache: dict[str, Any] = {}

    class Mutant(Guard):
        __slots__ = ()

        def encode(self, text: str, **options: Any) -> Any:  # noqa: ANN401 - as of a Guard
            if isinstance(text, Text):
                return super().encode(text, **options)
            key = text.strip()
            if key not in cache:
                cache[key] = super().encode(text, **options)
            return cache[key]

    return guards.plain(Mutant)


def _parse(guard: Guard, text: str) -> list[int]:
    return list(guard.tokenizer.encoding.encode(text, allowed_special="all"))  # type: ignore[union-attr]


def _with_ids(made: Any, ids: list[int]) -> Any:  # noqa: ANN401 - what stands for an Encoded
    return SimpleNamespace(ids=ids, violations=made.violations)
