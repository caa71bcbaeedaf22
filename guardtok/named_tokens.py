"""Which token begins a text, which ends one, which fills it up: names for tokens of a vocabulary that names none.

A rank file of tiktoken's says nothing of that, so whoever uses one says it. A name for a string that is no control
token would be harmless-looking text at best, and at worst a padding that ordinary text can write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from guardtok.errors import UnknownTokenError, near_match
from guardtok.violation import broken

if TYPE_CHECKING:
    from collections.abc import Mapping

    from guardtok.tokenizer import ControlToken, Tokenizer


@dataclass(frozen=True, slots=True)
class NamedTokens:
    """Control tokens by their use; None where there is none. Made by `name_tokens`.

    Attributes:
        bos_token: Begins a text.
        eos_token: Ends one.
        pad_token: Fills a batch up.
    """

    bos_token: ControlToken | None = None
    eos_token: ControlToken | None = None
    pad_token: ControlToken | None = None

    @property
    def forms(self) -> Mapping[str, str]:
        """The surface forms by name, as chat templates ask for them; names without a token are left out."""
        named = ((name, getattr(self, name)) for name in self.__slots__)
        return {name: token.form for name, token in named if token is not None}


def name_tokens(
    tokenizer: Tokenizer, *, bos_token: str | None = None, eos_token: str | None = None, pad_token: str | None = None
) -> NamedTokens:
    """Return the control tokens of these forms.

    Raises:
        UnknownTokenError: One is no control token of the tokenizer's; the error names the nearest, both written broken.
    """
    given = {"bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token}
    named = check_names(tokenizer, {name: form for name, form in given.items() if form is not None})
    known = {token.form: token for token in tokenizer.control_tokens}
    return NamedTokens(**{name: known[form] for name, form in named.items()})


def check_names(tokenizer: Tokenizer, named: Mapping[str, str]) -> Mapping[str, str]:
    """Return forms by name, each of which is a control token of the tokenizer's.

    Raises:
        UnknownTokenError: One is none; the error names the nearest, both written broken.
    """
    known = {token.form for token in tokenizer.control_tokens}
    for name, form in named.items():
        if form not in known:
            near = near_match(broken(form[:64]), map(broken, known))
            raise UnknownTokenError(
                f"{name}: {broken(form[:64])!r} (written broken) is no control token of {tokenizer.name!r}.{near} "
                "Give one that it has, or add it to the policy's `custom_tokens`."
            )
    return dict(named)
