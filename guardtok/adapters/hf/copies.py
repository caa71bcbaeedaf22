"""Private copies of a tokenizer that parse no control token, each for a place where ordinary text can stand.

Flags on a tokenizer that others hold would change what they get, and they may change it back. So nothing here is the
caller's: the copies are made from the written-out tokenizer, without its control tokens, its truncation, its padding
and its post-processor. They share one model.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from guardtok.adapters.hf.document import flatten, library
from guardtok.errors import TokenizerError, is_failure
from guardtok.tokenizer import WHITE_SPACE, Normalized

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import tokenizers

    from guardtok.adapters.hf.document import AddedToken, Document

_TINY = {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "x"}
_EACH_CHARACTER = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
_PROBE = "<q>"


class Copies:
    """The copies of one tokenizer. Immutable in what they return, and safe to share between threads.

    Args:
        document: The tokenizer, written out.
        model: Its model; nobody else has it.
        kept: The added tokens that are text, which the copies go on to parse.
        name: The tokenizer's name, for errors.

    Raises:
        TokenizerError: A token that is text gets an id that means something else.
    """

    def __init__(
        self, document: Document, model: tokenizers.models.Model, kept: Sequence[AddedToken], name: str
    ) -> None:
        self._name = name
        self._model = model
        parts = document.parts
        self.normalizes = bool(document.normalizers)
        normalizer = parts["normalizer"] if self.normalizes else None
        plain, later, inside = (_without_prefix(parts["pre_tokenizer"], which) for which in ("none", "first", "all"))
        self._align = _assemble(normalizer, _EACH_CHARACTER) if self.normalizes else None
        self._normalizer = self._align.normalizer if self._align is not None else None
        self._without_lead = _assemble(_without_prepend(normalizer), None).normalizer if self.normalizes else None
        self._made = document.blanks
        # What is normalised already is not normalised again; there the tokens are spelled as normalised.
        inner = [(token, self.normalize(token.content)) for token in kept if token.normalized]
        inner += [(token, token.content) for token in kept if not token.normalized and self._is_stable(token.content)]
        raw = [(token, token.content) for token in kept]
        self._ids: dict[int, int] = {}
        self._start = self._copy(normalizer, plain, raw)
        self._later = self._start if later == plain else self._copy(normalizer, later, raw)
        if self.normalizes:
            self._inner_start = self._copy(None, plain, inner)
            self._inner_later = self._inner_start if later == plain else self._copy(None, later, inner)
        else:
            self._inner_start, self._inner_later = self._start, self._later
        self._inside = self._inner_later if inside == later else self._copy(None, inside, inner)
        self._splits = inside != later and len(list(flatten(parts["pre_tokenizer"]))) > 1
        self._blanks = WHITE_SPACE | document.blanks
        self._words = _assemble(None, None)
        self._words.add_tokens([library().AddedToken(_PROBE, single_word=True, normalized=False)])

    @property
    def plain(self) -> tokenizers.Tokenizer:
        """The copy that encodes text from its beginning."""
        return self._start

    def encode(self, text: str, *, at_start: bool) -> list[int]:
        """Encode text; see `Tokenizer.encode_ordinary`."""
        return self._encode(self._start if at_start else self._later, text)

    def encode_normalized(self, text: str, *, at_start: bool, inside: bool) -> list[int]:
        """Encode text that is normalised; see `RuledTokenizer.encode_normalized`."""
        if not inside:
            return self._encode(self._inner_start if at_start else self._inner_later, text)
        if not self._splits:
            return self._encode(self._inside, text)
        # Each word gets a prefix of its own. The first goes on from what stands before it, and the others do not.
        end = next((place for place, char in enumerate(text) if char in self._blanks), len(text))
        return self._encode(self._inside, text[:end]) + self._encode(self._inner_later, text[end:])

    def normalize(self, text: str) -> str:
        """Normalise text."""
        normalizer = self._normalizer
        if normalizer is None:
            return text
        return str(self._guarded(lambda: normalizer.normalize_str(text), text))

    def normalize_form(self, form: str) -> str:
        """Normalise a form without what the normaliser puts before every text."""
        bare = self._without_lead
        return form if bare is None else str(self._guarded(lambda: bare.normalize_str(form), form))

    def align(self, text: str) -> Normalized:
        """Normalise text, and say where each character came from."""
        aligner = self._align
        if aligner is None:
            return Normalized(text, tuple((place, place + 1) for place in range(len(text))))
        spans = self._guarded(lambda: aligner.encode(text, add_special_tokens=False).offsets, text)
        return Normalized(self.normalize(text), tuple(spans))

    def is_word(self, char: str) -> bool:
        """Whether a character is a part of a word. The library is asked, for its Unicode is its own."""
        found = self._guarded(lambda: self._words.encode(_PROBE + char, add_special_tokens=False).tokens, char)
        return bool(found[0] != _PROBE)

    def _is_stable(self, form: str) -> bool:
        """Whether a token that is looked for in the text is found in the normalised text just the same."""
        return self.normalize_form(form) == form and self._made.isdisjoint(form)

    def _encode(self, tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
        if not text:
            return []
        # A batch of one lets other threads run, and computes no offsets.
        ids = self._guarded(lambda: tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids, text)
        return [self._ids.get(id_, id_) for id_ in ids] if self._ids else ids

    def _guarded(self, call: Callable[[], Any], text: str) -> Any:  # noqa: ANN401 - what the call returns
        try:
            return call()
        except BaseException as error:
            if not is_failure(error):
                raise
            failure = type(error).__name__
        # Raised out here it has no context: the library's own error may quote the text.
        raise TokenizerError(f"{self._name}: tokenizers failed with {failure} on a text of {len(text)} characters.")

    def _copy(
        self,
        normalizer: dict[str, Any] | None,
        pre_tokenizer: dict[str, Any] | None,
        kept: Sequence[tuple[AddedToken, str]],
    ) -> tokenizers.Tokenizer:
        shell = _assemble(normalizer, pre_tokenizer)
        made: tokenizers.Tokenizer = library().Tokenizer(self._model)
        if normalizer is not None:
            made.normalizer = shell.normalizer
        if pre_tokenizer is not None:
            made.pre_tokenizer = shell.pre_tokenizer
        for token, content in kept:
            flags = {
                "lstrip": token.lstrip,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
                "normalized": token.normalized and normalizer is not None,
            }
            made.add_tokens([library().AddedToken(content, **flags)])
            given = made.token_to_id(content)
            if given is None or given == token.id:
                continue
            if made.model.id_to_token(given) is not None or self._ids.get(given, token.id) != token.id:
                raise TokenizerError(
                    f"{self._name}: the added token with the id {token.id} is text, and the library gives it the id "
                    f"{given} of another token, for there are gaps in the vocabulary. Leave it out of "
                    "`text_tokens`, or fill the gaps."
                )
            self._ids[given] = token.id
        return made


def _assemble(normalizer: dict[str, Any] | None, pre_tokenizer: dict[str, Any] | None) -> tokenizers.Tokenizer:
    """Return a tokenizer of these parts whose model knows nothing."""
    parts = {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": None}
    head: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": []}
    made: tokenizers.Tokenizer = library().Tokenizer.from_str(json.dumps({**head, **parts, "model": _TINY}))
    return made


def _without_prefix(pre_tokenizer: dict[str, Any] | None, which: str) -> dict[str, Any] | None:
    """Return a pre-tokenizer that puts no prefix before a text: not the one for the `first` alone, or not `all`."""
    changed = copy.deepcopy(pre_tokenizer)
    for part in flatten(changed):
        if part["type"] == "Metaspace" and which in {part["prepend_scheme"], "all"}:
            part["prepend_scheme"] = "never"
        elif part["type"] == "ByteLevel" and which == "all":
            part["add_prefix_space"] = False
    return changed


def _without_prepend(normalizer: dict[str, Any] | None) -> dict[str, Any]:
    rest = [part for part in flatten(normalizer) if part["type"] != "Prepend"]
    return {"type": "Sequence", "normalizers": rest}
