"""`GuardedTokenizer`: the interface of a fast tokenizer of transformers, with a policy behind it.

The need is code that already calls `apply_chat_template` and `tokenizer(…)`: it can be handed a guarded tokenizer as it
is. Ids come from the guard alone; padding, tensors and decoding are the wrapped tokenizer's own. What would encode text
past the guard, or change the tokenizer, is not there.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple, NoReturn, cast

from guardtok.errors import (
    NotTextError,
    TokenizerMismatchError,
    UnguardedError,
    UnsupportedError,
    near_match,
)
from guardtok.ruleset import bind
from guardtok.text import Text
from guardtok.violation import broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from transformers import BatchEncoding, PreTrainedTokenizerFast
    from transformers.utils.generic import PaddingStrategy

    from guardtok.encoded import Encoded
    from guardtok.guard import Guard
    from guardtok.tokenizer import RuledTokenizer

_READABLE = frozenset(
    {f"{name}_token{end}" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask") for end in ("", "_id")}
    | {"added_tokens_decoder", "added_tokens_encoder", "all_special_ids", "all_special_tokens", "special_tokens_map"}
    | {"chat_template", "clean_up_tokenization_spaces", "is_fast", "name_or_path", "pad_token_type_id", "vocab_size"}
    | {"max_len_single_sentence", "model_input_names", "model_max_length", "padding_side", "truncation_side"}
    | {"batch_decode", "convert_ids_to_tokens", "convert_tokens_to_ids", "convert_tokens_to_string", "decode", "pad"}
    | {"get_added_vocab", "get_chat_template", "get_vocab", "num_special_tokens_to_add", "save_pretrained", "vocab"}
)
"""What is the wrapped tokenizer's own: nothing here makes ids of text or changes the tokenizer."""


class _Shape(NamedTuple):
    """How ids are cut and filled up, as transformers works it out from a call's arguments."""

    padding: PaddingStrategy
    max_length: int | None
    pad_to_multiple_of: int | None
    padding_side: str | None
    truncates: bool


class GuardedTokenizer:
    """A fast tokenizer of transformers whose ids come from a guard. Immutable and picklable.

    Differs from the wrapped tokenizer in what it refuses: pairs of texts, words that were split before, offsets and
    overflowing tokens have no guarded counterpart and raise `UnsupportedError`. `return_assistant_tokens_mask` works
    for templates without `{% generation %}` too; see `Encoded.mask`.

    Args:
        guard: A guard that is bound to this tokenizer.
        tokenizer: The tokenizer. It is copied: what happens to it later changes nothing here.
        source: Who writes the plain strings that `__call__` and `encode` are given. A `Text` keeps its own labels.

    Raises:
        TokenizerMismatchError: The guard is bound to another tokenizer, or its policy adds tokens that this one lacks.
        UnknownSourceError: A source that the policy does not know.
    """

    __slots__ = ("_affixes", "_guard", "_source", "_wrapped")
    _affixes: tuple[tuple[int, ...], tuple[int, ...]]
    _guard: Guard
    _source: str
    _wrapped: PreTrainedTokenizerFast

    def __init__(self, guard: Guard, tokenizer: PreTrainedTokenizerFast, *, source: str) -> None:
        _refuse_mismatch(guard, tokenizer)
        guard.check("", source=source)
        wrapped = copy.deepcopy(tokenizer)
        # `pad` would advise to let the tokenizer itself encode.
        wrapped.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
        self._fill(guard, wrapped, source)

    def _fill(self, guard: Guard, wrapped: PreTrainedTokenizerFast, source: str) -> None:
        fill = super().__setattr__
        fill("_guard", guard)
        fill("_wrapped", wrapped)
        fill("_source", source)
        fill("_affixes", cast("RuledTokenizer", guard.tokenizer).affixes)

    def __reduce__(self) -> tuple[object, tuple[Guard, PreTrainedTokenizerFast, str]]:
        return _restore, (self._guard, self._wrapped, self._source)

    def __repr__(self) -> str:
        return f"<GuardedTokenizer source={self._source!r} of {self._guard!r}>"

    def __len__(self) -> int:
        return len(self._wrapped)

    def __getattr__(self, name: str) -> object:
        if name in _READABLE:
            return getattr(self._wrapped, name)
        known = _READABLE | {"apply_chat_template", "encode", "guard", "source", "with_source"}
        raise UnguardedError(
            f"A guarded tokenizer has no attribute {name[:64]!r}: it has what cannot encode text past the guard or "
            f"change the tokenizer.{near_match(name, known)} Use the tokenizer that you wrapped for anything else."
        )

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise UnguardedError(
            f"A guarded tokenizer cannot be changed. Set {name[:64]!r} on the tokenizer before it is guarded."
        )

    @property
    def guard(self) -> Guard:
        """The guard."""
        return self._guard

    @property
    def source(self) -> str:
        """Who writes the plain strings."""
        return self._source

    def with_source(self, source: str) -> GuardedTokenizer:
        """Return the same tokenizer for plain strings of another source.

        Raises:
            UnknownSourceError: A source that the policy does not know.
        """
        self._guard.check("", source=source)
        return _restore(self._guard, self._wrapped, source)

    def __call__(  # noqa: PLR0913 - transformers' signature
        self,
        text: str | Sequence[str],
        text_pair: None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        **unsupported: object,
    ) -> BatchEncoding:
        """Encode a text, or a list of texts, as transformers' `tokenizer(…)` does.

        Raises:
            RefusedError: The policy blocks a form that a text holds.
            NotTextError: Something else than strings.
            UnsupportedError: A text pair, or an argument that has no guarded counterpart.
            GuardtokError: Whatever else `Guard.encode` raises.
        """
        _refuse_unsupported({"text_pair": text_pair, **unsupported})
        shape = self._shape(padding, truncation, max_length, pad_to_multiple_of, padding_side)
        alone = isinstance(text, str)
        encoded = [self._encode(text)] if isinstance(text, str) else self._encode_batch(text)
        before, after = self._affixes if add_special_tokens else ((), ())
        rows = [self._cut(out.ids, shape, len(before) + len(after)) for out in encoded]
        wants = {
            "token_type_ids": return_token_type_ids,
            "attention_mask": return_attention_mask,
            "special_tokens_mask": return_special_tokens_mask,
            "length": return_length,
        }
        columns: dict[str, list[list[int]]] = {"input_ids": [[*before, *row, *after] for row in rows]}
        columns["special_tokens_mask"] = [[1] * len(before) + [0] * len(row) + [1] * len(after) for row in rows]
        return self._finish(columns, shape, wants, return_tensors, alone=alone)

    def encode(self, text: str, text_pair: None = None, **options: object) -> list[int]:
        """Encode a text to ids, with the arguments of `__call__`.

        Raises:
            GuardtokError: Whatever `__call__` raises.
        """
        ids: list[int] = self(text, text_pair, **options)["input_ids"]  # type: ignore[arg-type]
        return ids

    def apply_chat_template(  # noqa: PLR0913, PLR0917 - transformers' signature
        self,
        conversation: Sequence[object],
        tools: Sequence[object] | None = None,
        documents: Sequence[object] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,  # noqa: FBT001, FBT002
        continue_final_message: bool | str = False,  # noqa: FBT001, FBT002
        tokenize: bool = True,  # noqa: FBT001, FBT002
        *,
        sanitize_control_tokens: bool = True,  # noqa: ARG002 - they always are
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, object] | None = None,
        **template_kwargs: object,
    ) -> object:
        """Render a conversation, or a list of them, and encode it, as transformers' `apply_chat_template` does.

        Returns:
            A `BatchEncoding`; with `return_dict=False` its ids; with `tokenize=False` a `Text`, which is a string that
            knows who wrote what of it, so that encoding it later is guarded too.

        Raises:
            RefusedError: The policy blocks a form that the conversation holds.
            UnsupportedError: An argument that has no guarded counterpart.
            ValueError: Arguments that do not go together.
            GuardtokError: Whatever else `Guard.encode_chat` raises.
        """
        if return_assistant_tokens_mask and not (return_dict and tokenize):
            raise ValueError("return_assistant_tokens_mask=True needs return_dict=True and tokenize=True.")
        template = self._wrapped.get_chat_template(chat_template, cast("list[dict[str, object]] | None", tools))
        first = conversation[0] if isinstance(conversation, (list, tuple)) and conversation else None
        alone = not (isinstance(first, (list, tuple)) or hasattr(first, "messages"))
        chats = [conversation] if alone else list(conversation)

        def each(method: Callable[..., Encoded | Text]) -> list[Encoded | Text]:
            return [
                method(
                    getattr(chat, "messages", chat),
                    template,
                    tools=tools,
                    documents=documents,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=continue_final_message,
                    **template_kwargs,
                )
                for chat in chats
            ]

        if not tokenize:
            texts = each(self._guard.render_chat)
            return texts[0] if alone else texts
        more = dict(tokenizer_kwargs or {})
        fills = {name: more.pop(name, None) for name in ("pad_to_multiple_of", "padding_side")}
        wants = {f"return_{name}": more.pop(f"return_{name}", None) for name in _OPTIONAL}
        _refuse_unsupported(more)
        shape = self._shape(padding, truncation, max_length, fills["pad_to_multiple_of"], fills["padding_side"])
        encoded: list[Encoded] = each(self._guard.encode_chat)  # type: ignore[assignment]
        columns = {"input_ids": [self._cut(out.ids, shape) for out in encoded]}
        columns["special_tokens_mask"] = [[0] * len(row) for row in columns["input_ids"]]
        if return_assistant_tokens_mask:
            columns["assistant_masks"] = [self._cut(out.mask(), shape) for out in encoded]
        wanted = {name: wants[f"return_{name}"] for name in _OPTIONAL}
        out = self._finish(columns, shape, wanted, return_tensors, alone=alone)
        return out if return_dict else out["input_ids"]

    def _encode(self, text: str) -> Encoded:
        return self._guard.encode(text, source=None if isinstance(text, Text) else self._source)

    def _encode_batch(self, texts: Iterable[str]) -> list[Encoded]:
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
            raise NotTextError(
                "A guarded tokenizer encodes a str or a list of str. Join split words, and keep ids as ids."
            )
        if any(isinstance(text, Text) for text in texts):
            return [self._encode(text) for text in texts]
        return self._guard.encode_batch(texts, source=self._source)

    def _shape(
        self, padding: object, truncation: object, max_length: int | None, multiple: object, side: object
    ) -> _Shape:
        # transformers' own reading of its arguments, errors and warnings included.
        strategy, cutting, length, _ = self._wrapped._get_padding_truncation_strategies(  # type: ignore[no-untyped-call]  # noqa: SLF001
            padding=padding, truncation=truncation, max_length=max_length, pad_to_multiple_of=multiple
        )
        if cutting.value == "only_second":
            raise UnsupportedError("truncation='only_second' is for pairs of texts, which have no guarded counterpart.")
        return _Shape(strategy, length, multiple, side, cutting.value != "do_not_truncate")  # type: ignore[arg-type]

    def _cut(self, row: list[int], shape: _Shape, room: int = 0) -> list[int]:
        """Return so many ids that they fit, with room for as many more."""
        if not shape.truncates or shape.max_length is None or len(row) + room <= shape.max_length:
            return row
        keep = shape.max_length - room
        if keep < 0:
            raise ValueError(f"max_length={shape.max_length} leaves no room for the tokenizer's own {room} tokens.")
        return row[:keep] if self._wrapped.truncation_side == "right" else row[len(row) - keep :]

    def _finish(
        self,
        columns: dict[str, list[list[int]]],
        shape: _Shape,
        wants: Mapping[str, object],
        return_tensors: str | None,
        *,
        alone: bool,
    ) -> BatchEncoding:
        """Add what the call or the model asks for, pad, and make tensors, with the library's own code."""
        from transformers import BatchEncoding

        usual = self._wrapped.model_input_names
        wanted = {name: name in usual if wants[name] is None else bool(wants[name]) for name in _OPTIONAL}
        ids = columns["input_ids"]
        columns["token_type_ids"] = [[0] * len(row) for row in ids]
        columns["attention_mask"] = [[1] * len(row) for row in ids]
        data: dict[str, object] = {
            name: column for name, column in columns.items() if wanted.get(name, True) and name != "assistant_masks"
        }
        if shape.padding.value != "do_not_pad" and ids:
            data = dict(
                self._wrapped.pad(
                    cast("dict[str, list[list[int]]]", data),
                    padding=shape.padding,
                    max_length=shape.max_length,
                    pad_to_multiple_of=shape.pad_to_multiple_of,
                    padding_side=shape.padding_side,
                    return_attention_mask=wanted["attention_mask"],
                )
            )
        padded: list[list[int]] = data["input_ids"]  # type: ignore[assignment]
        if "assistant_masks" in columns:
            left = (shape.padding_side or self._wrapped.padding_side) == "left"
            data["assistant_masks"] = [
                [0] * (len(row) - len(mask)) * left + mask + [0] * (len(row) - len(mask)) * (not left)
                for row, mask in zip(padded, columns["assistant_masks"], strict=True)
            ]
        if wanted["length"]:
            data["length"] = [len(row) for row in padded]
        if alone and return_tensors is None:
            data = {name: column if name == "length" else column[0] for name, column in data.items()}  # type: ignore[index]
        return BatchEncoding(data, tensor_type=return_tensors)


_OPTIONAL = ("token_type_ids", "attention_mask", "special_tokens_mask", "length")


def _refuse_unsupported(arguments: Mapping[str, object]) -> None:
    # False, None and their kin ask for nothing.
    asked = [name for name, value in arguments.items() if value and name != "verbose"]
    if asked:
        raise UnsupportedError(
            f"{', '.join(sorted(asked))[:200]}: this has no guarded counterpart. A guarded tokenizer takes single "
            "texts and whole conversations; leave it out."
        )


def _refuse_mismatch(guard: Guard, tokenizer: PreTrainedTokenizerFast) -> None:
    from guardtok.encodings import load_tokenizer

    if bind(guard.policy, load_tokenizer(tokenizer)).fingerprint != guard.ruleset.fingerprint:
        raise TokenizerMismatchError(
            "The guard is not bound to this tokenizer, or it changed since. Load it with it: "
            "Guard.load(policy, tokenizer)."
        )
    known = tokenizer.get_vocab()
    bound = cast("RuledTokenizer", guard.tokenizer)
    missing = [token.form for token in bound.control_tokens if known.get(token.form) != token.id]
    if missing:
        raise TokenizerMismatchError(
            f"The policy adds {broken(missing[0])!r}, which the tokenizer does not have, so it could not decode it. "
            "Add it to the tokenizer, then load the guard: tokenizer.add_tokens([…])."
        )


def _restore(guard: Guard, wrapped: PreTrainedTokenizerFast, source: str) -> GuardedTokenizer:
    made = GuardedTokenizer.__new__(GuardedTokenizer)
    made._fill(guard, wrapped, source)  # noqa: SLF001 - the other constructor
    return made
