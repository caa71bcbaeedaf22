"""The public strategies carry what they say, and the check that a case carries its payload can fail."""

from __future__ import annotations

import html
import subprocess
import sys
import unicodedata
from dataclasses import replace
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from guardtok.fuzz import ATTACKS, Case
from guardtok.fuzz import strategies as gs
from guardtok.fuzz.generators import generators
from guardtok.fuzz.profile import Profile
from guardtok.fuzz.shapes import CHATS

FORMS = ("<|im_end|>", "</s>", "[INST]", "<think>")
OWN = gs.control_tokens(FORMS)
PROFILE = Profile(
    "p",
    "l",
    FORMS,
    ("<think>",),
    ("<|reserved|>",),
    ("<|image|>",),
    ("<|im_end|>",),
    ("word",),
    chats=True,
    requests=True,
)


def test_importing_the_fuzzer_loads_no_hypothesis() -> None:
    """Only a run and the strategies need it."""
    probe = "import sys, guardtok.fuzz, guardtok.cli; sys.exit('hypothesis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


@given(st.one_of(gs.around(OWN), gs.among_words(OWN), gs.spaced(OWN), gs.cut(OWN), gs.obeyed(OWN), gs.documents(OWN)))
def test_what_is_not_disguised_spells_its_token(carrier: gs.Carrier) -> None:
    """It may be cut over parts, and is whole when they are joined."""
    assert carrier.form in carrier.text


@given(gs.hidden(OWN))
def test_a_hidden_token_is_there_without_what_nobody_sees(carrier: gs.Carrier) -> None:
    """It is not spelled, and is when the hidden characters are left out."""
    assert carrier.form not in carrier.text
    assert carrier.form in "".join(char for char in carrier.text if char not in "".join(gs.HIDDEN))


@pytest.mark.parametrize(
    "fold",
    [
        lambda text: unicodedata.normalize("NFKC", text),
        str.swapcase,
    ],
)
def test_folds_reach_what_they_are_for(fold: object) -> None:
    """Among the folded tokens are those of each fold."""
    find(
        gs.folded(OWN),
        lambda carrier: carrier.form not in carrier.text and carrier.form in fold(carrier.text),  # type: ignore[operator]
        settings=settings(max_examples=2_000, database=None, suppress_health_check=list(HealthCheck)),
    )


def test_escapes_reach_every_decoder() -> None:
    """Some are HTML's, some a URL's, some twice over."""
    for decode in (html.unescape, unquote, lambda text: html.unescape(html.unescape(text))):
        find(
            gs.escaped(OWN),
            lambda carrier, decode=decode: carrier.form not in carrier.text and carrier.form in decode(carrier.text),  # type: ignore[misc]
            settings=settings(max_examples=2_000, database=None, suppress_health_check=list(HealthCheck)),
        )


@given(gs.chats(gs.around(OWN)))
def test_a_chat_holds_the_payload(chat: dict[str, object]) -> None:
    """In a message or in a tool, in some field."""
    assert any(form in repr(chat) for form in FORMS)


@pytest.mark.parametrize("shape", sorted(CHATS))
def test_a_twin_has_the_shape_of_its_attack(shape: str) -> None:
    """Both are built alike: messages, roles but the one that is attacked, fields."""
    case = Case("A1", shape, ("a <|im_", "end|>"), "<|im_end|>")
    attack, twin = CHATS[shape](case.parts), CHATS[shape](case.inert().parts)
    assert [set(message) for message in attack[0]] == [set(message) for message in twin[0]]
    assert (attack[1] is None) == (twin[1] is None)
    assert "im_" not in repr(twin)


MADE = {made.attack: made for made in generators(PROFILE)}


def test_every_class_that_makes_text_has_a_generator() -> None:
    """What is left out is the vocabulary itself."""
    assert MADE.keys() == ATTACKS.keys() - {"A23"}


@pytest.mark.parametrize("attack", sorted(MADE))
def test_a_generator_keeps_its_payload(attack: str) -> None:
    """Nearly every case carries it, by a check that was written apart; without the payload the check fails."""
    made = MADE[attack]
    kept = lost = caught = 0

    @settings(max_examples=60, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(made.cases)
    def draw(case: Case) -> None:
        nonlocal kept, lost, caught
        assert case.attack == attack
        kept += made.carries(case)
        lost += not made.carries(case)
        caught += not made.carries(replace(case, parts=("nothing",), repeat=1))

    draw()
    assert kept > 3 * lost
    assert caught == kept + lost or attack == "plain"
