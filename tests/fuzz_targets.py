"""Tokenizers for the fuzzer: one with nothing wrong, and broken ones, each for one oracle; a child imports them.

The fuzzer is asked to tell them apart, so a broken one differs from the good one by its fault alone.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import tiktoken

from guardtok import Guard, Policy

FORMS = {"<|a|>": 256, "<|end|>": 257, "</s>": 258}


class Good:
    """Bytes, and three control tokens that only `encode` parses."""

    n_vocab = 259
    special_tokens = FORMS

    def encode_ordinary(self, text: str) -> list[int]:
        return list(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode())

    def encode_ordinary_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode_ordinary(text) for text in texts]

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        while text:
            form = next((form for form in FORMS if text.startswith(form)), None)
            ids += [FORMS[form]] if form else self.encode_ordinary(text[0])
            text = text[len(form or text[0]) :]
        return ids

    def decode(self, ids: list[int]) -> bytes:
        names = {id_: form.encode() for form, id_ in FORMS.items()}
        return b"".join(names.get(id_) or bytes([id_]) for id_ in ids)


class Leaky(Good):
    """Parses a token at the door for ordinary text, if white space stands before it."""

    def encode_ordinary(self, text: str) -> list[int]:
        head, found, tail = text.partition("\t</s>")
        return (
            [*super().encode_ordinary(head + "\t"), 258, *super().encode_ordinary(tail)]
            if found
            else list(super().encode_ordinary(text))
        )


class Lossy(Good):
    """Loses a character that nobody sees."""

    def encode_ordinary(self, text: str) -> list[int]:
        return super().encode_ordinary(text.replace("\u2060", ""))


class Liar(Good):
    """Says that it has fewer ids than it makes."""

    n_vocab = 240


class Forgetful(Good):
    """Encodes the same text differently the second time."""

    last = ""

    def encode_ordinary(self, text: str) -> list[int]:
        again = text == self.last
        self.last = "" if again else text
        return super().encode_ordinary(text + "!" if again and "\u00ad" in text else text)


class Shared(Good):
    """Keeps what it is working on in itself, where another thread finds it."""

    def encode_ordinary(self, text: str) -> list[int]:
        self.text = text
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0)
        return super().encode_ordinary(self.text)


class Shuffled(Good):
    """Gives the results of a batch in another order."""

    def encode_ordinary_batch(self, texts: list[str]) -> list[list[int]]:
        return super().encode_ordinary_batch(texts)[::-1]


class Shortest(Good):
    """Reads a token as another that it begins with."""

    special_tokens = FORMS | {"<|a|>b": 259}
    n_vocab = 260

    def decode(self, ids: list[int]) -> bytes:
        return b"".join(b"<|a|>b" if id_ == 259 else super(Shortest, self).decode([id_]) for id_ in ids)


class Twins(Good):
    """Has one id for two tokens."""

    special_tokens = FORMS | {"<|other|>": 257}


class Raising(Good):
    """Fails on NUL with an error that says nothing."""

    def encode_ordinary(self, text: str) -> list[int]:
        if "\0" in text:
            raise KeyError(text)
        return super().encode_ordinary(text)


class Words(Good):
    """Returns no ids but words."""

    def encode_ordinary(self, text: str) -> Any:  # noqa: ANN401 - which is the fault
        return [text]


class Quadratic(Good):
    """Takes time that grows as the square of the text."""

    def encode_ordinary(self, text: str) -> list[int]:
        if len(text) > 500:
            end = time.process_time() + (len(text) / 100_000) ** 2
            while time.process_time() < end:
                pass
        return super().encode_ordinary(text)


class Ending(Good):
    """Ends its process."""

    def encode_ordinary(self, text: str) -> list[int]:
        if "\u200b" in text:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_ordinary(text)


class Hanging(Good):
    """Never comes back."""

    def encode_ordinary(self, text: str) -> list[int]:
        if "\u2028" in text:
            time.sleep(1_000)
        return super().encode_ordinary(text)


class Talkative(Good):
    """Prints, and reads what nobody has written."""

    def encode_ordinary(self, text: str) -> list[int]:
        if text.endswith("a"):
            print("\x1b[31m", text.encode())  # noqa: T201 - which is the fault
        return super().encode_ordinary(text)


good = Good()
ending = Ending()
hanging = Hanging()
talkative = Talkative()


def overlapping() -> tiktoken.Encoding:
    """Return an encoding with the tokens X1 to X199, for which tiktoken has no order."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    special = {f"X{number}": 1000 + number for number in range(1, 200)}
    return tiktoken.Encoding("overlapping", pat_str="(?s:.)", mergeable_ranks=ranks, special_tokens=special)


def broken_module() -> None:
    """Fail while a target is made."""
    raise RuntimeError("no \x1b[31m target")


POLICY = """\
guardtok: 1
name: fuzzed
foreign: ignore
lookalikes: ignore
sources:
  template: {default: allow}
  "*": {default: escape}
"""


def guard(kind: type[Guard] = Guard) -> Guard:
    """Return a guard over a small encoding."""
    from guardtok.adapters.tiktoken import TiktokenTokenizer

    ranks = {bytes([byte]): byte for byte in range(256)} | {b"<|": 300, b"\n<|": 301, b"ab": 302}
    special = {"<|im_start|>": 400, "<|im_end|>": 401, "</s>": 402}
    encoding = tiktoken.Encoding("guarded", pat_str="(?s:.+)", mergeable_ranks=ranks, special_tokens=special)
    return kind(Policy.parse(POLICY), TiktokenTokenizer(encoding), sinks=())
