from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from guardtok.encodings import load_tokenizer
from guardtok.errors import UnknownTokenError
from guardtok.named_tokens import NamedTokens, name_tokens
from guardtok.tokenizer import ControlToken, Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from guardtok.tokenizer import Tokenizer

TOKENIZER = load_tokenizer("guardtok")


def test_names_lead_to_tokens_and_to_forms() -> None:
    """Each name has the control token of its form, and templates get the forms of those that are there."""
    named = name_tokens(TOKENIZER, eos_token="<|im_end|>", pad_token="<|endoftext|>")  # noqa: S106 - no passwords
    assert (named.bos_token, named.eos_token) == (None, ControlToken("<|im_end|>", 8450, Role.TURN))
    assert named.forms == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    assert name_tokens(TOKENIZER) == NamedTokens()


@pytest.mark.parametrize("name", ["bos_token", "eos_token", "pad_token"])
def test_only_a_known_special_token_can_be_named(vocab: Callable[[str], Tokenizer], name: str) -> None:
    """Qwen-7B's rule: an ordinary word, or a token that it does not have, is refused with the nearest that it has."""
    with pytest.raises(
        UnknownTokenError, match=rf"^{name}: '<_\|extra_205\|>'.* Did you mean '<_\|extra_\d+\|>'\?"
    ) as caught:
        name_tokens(vocab("qwen"), **{name: "<|extra_205|>"})
    assert "<|extra" not in str(caught.value)
    for word in ("<pad>", "hello", "", "<|endoftext|", "\x1b[31m" * 100):
        with pytest.raises(UnknownTokenError) as caught:
            name_tokens(vocab("qwen"), **{name: word})
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1000
    assert name_tokens(vocab("qwen"), **{name: "<|endoftext|>"}).forms == {name: "<|endoftext|>"}
