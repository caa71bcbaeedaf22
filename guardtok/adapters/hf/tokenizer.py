"""`HfTokenizer`: huggingface's `tokenizers`, and transformers' fast tokenizers, as guardtok's `Tokenizer`.

The library parses every added token that it sees in a text, those that it does not call special too; it finds some only
after its normaliser has made them; and its models hold the same strings in their own vocabularies. Behind this class it
only ever encodes ordinary text.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from guardtok.adapters.hf.copies import Copies
from guardtok.adapters.hf.document import AddedToken, affixes, library, read, write_out
from guardtok.adapters.hf.forms import Forms, as_control_token
from guardtok.adapters.hf.spelling import Spelling
from guardtok.dialects import role_of
from guardtok.errors import TokenizerError
from guardtok.placing import refuse_second_ids
from guardtok.tokenizer import ControlToken, TokenClass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import tokenizers
    import transformers

    from guardtok.adapters.hf.document import Document
    from guardtok.tokenizer import Ids, Normalized, Pattern

_TEXT = frozenset({TokenClass.SPACE, TokenClass.TEXT})


@dataclass(frozen=True, slots=True)
class _Habits:
    """What transformers' tokenizers know of conversations, which decides no id of a text."""

    chat_template: str | Mapping[str, str] | None = None
    named_tokens: Mapping[str, str] = field(default_factory=dict)


class HfTokenizer:
    """A tokenizer of huggingface's library, and the control tokens that a policy adds to it.

    It is written out and copied when this is made: what happens to the caller's object later changes nothing here, and
    nothing here changes it. Immutable, picklable and safe to share between threads.

    Args:
        tokenizer: A `tokenizers.Tokenizer`, or a fast tokenizer of transformers.
        name: A name for people and logs; by default what transformers loaded it from, or the model's type.
        custom_tokens: Ids by form of control tokens that the tokenizer does not have. One that it has under the same id
            changes nothing.
        text_tokens: Added tokens that are text: any source may write them. Those that it does not have change nothing.

    Raises:
        TokenizerError: It is a slow tokenizer, or none; a part of it is written in Python, or makes ids random; a
            custom token's form or id is taken.
        MissingExtraError: `tokenizers` is not installed.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer | transformers.PreTrainedTokenizerFast,
        *,
        name: str | None = None,
        custom_tokens: Mapping[str, int] | None = None,
        text_tokens: Iterable[str] = (),
    ) -> None:
        backend = _backend(tokenizer)
        given = name or str(getattr(tokenizer, "name_or_path", "") or type(backend.model).__name__.lower())
        self._fill(write_out(backend, given), given, custom_tokens or {}, frozenset(text_tokens), _habits(tokenizer))

    @classmethod
    def from_json(cls, text: str, *, name: str) -> HfTokenizer:
        """Return the tokenizer that a `tokenizer.json` describes.

        Raises:
            TokenizerError: As for the class, or the library cannot read the text.
        """
        return _restore(text, name, {}, frozenset(), _Habits())

    def _fill(
        self,
        document: Document,
        name: str,
        custom: Mapping[str, int],
        text_tokens: frozenset[str],
        habits: _Habits,
    ) -> None:
        self._document = document
        self._habits = habits
        self._name = name
        self._text_tokens = text_tokens
        self._model: tokenizers.models.Model = _load(document, name).model
        self._bare: tokenizers.Tokenizer = library().Tokenizer(self._model)
        declared = {token.id: token for token in document.added_tokens}
        kinds = {token.id: self._classify(token) for token in declared.values()}
        kept = [token for token in declared.values() if kinds[token.id] in _TEXT]
        self._copies = Copies(document, self._model, kept, name)
        self._forms = Forms(document, self._bare, self._copies)
        found = [as_control_token(token, kinds[token.id]) for token in declared.values()]
        found += self._forms.find_undeclared({token.content for token in declared.values()})
        self._own = tuple(sorted(found, key=_order))
        self._custom: dict[str, int] = {}
        self._n_vocab = max(self._bare.get_vocab().values(), default=-1) + 1
        self._n_vocab = max([self._n_vocab, *(token.id + 1 for token in self._own)])
        self._set_custom(custom)

    def _classify(self, token: AddedToken) -> TokenClass:
        kind = self._document.classify(token)
        return TokenClass.TEXT if kind is TokenClass.CONTROL and token.content in self._text_tokens else kind

    def _set_custom(self, custom: Mapping[str, int]) -> None:
        own = {token.form: token.id for token in self._own}
        custom = {form: id_ for form, id_ in custom.items() if own.get(form) != id_}
        self._forms.refuse_collisions(own, custom, self._n_vocab)
        self._custom = dict(custom)
        added = [ControlToken(form, id_, role_of(form, id_)) for form, id_ in custom.items()]
        self._added_tokens = tuple(sorted([*self._own, *added], key=_order))
        self._control_tokens = tuple(token for token in self._added_tokens if token.kind not in _TEXT)
        self._patterns = dict(self._forms.find_patterns(self._control_tokens))
        self._reserved_ids = frozenset(self._forms.find_reserved(self._control_tokens))
        self._folds = dict(self._forms.find_folds(self._control_tokens))
        decoder = _load_decoder(self._document)
        self._spelling = Spelling(
            self._document,
            self._bare.id_to_token,
            None if decoder is None else decoder.decode,
            {token.id: token.form for token in self._added_tokens if token.kind is not TokenClass.BYTE},
        )

    def __repr__(self) -> str:
        return f"<HfTokenizer {self._name!r}, {len(self._control_tokens)} control tokens>"

    def __reduce__(self) -> tuple[object, tuple[str, str, dict[str, int], frozenset[str], _Habits]]:
        return _restore, (self._document.text, self._name, self._custom, self._text_tokens, self._habits)

    @property
    def name(self) -> str:
        """A short name for people and logs."""
        return self._name

    @property
    def chat_template(self) -> str | Mapping[str, str] | None:
        """The chat template of transformers' tokenizer, or several by name, or None."""
        return self._habits.chat_template

    @property
    def named_tokens(self) -> Mapping[str, str]:
        """What transformers' tokenizer calls `bos_token`, `eos_token` …, which its chat templates may write."""
        return self._habits.named_tokens

    @property
    def parallel(self) -> bool:
        """Whether threads that encode run side by side."""
        return True

    @property
    def control_tokens(self) -> tuple[ControlToken, ...]:
        """Every added token that is no text, special or not, and the custom ones, in the order of their ids."""
        return self._control_tokens

    @property
    def added_tokens(self) -> tuple[ControlToken, ...]:
        """Every added token of every class, in the order of their ids, and the control tokens that are not added."""
        return self._added_tokens

    @property
    def reserved_ids(self) -> frozenset[int]:
        """Ids of the control tokens, and of the model's own tokens that spell the same, unless it is one character."""
        return self._reserved_ids

    @property
    def ruled(self) -> bool:
        """Whether any control token has a rule: that of the leftmost and longest does not say all."""
        return self._ruled

    @cached_property
    def _ruled(self) -> bool:
        tokens = self._control_tokens
        passes = {token.normalized for token in tokens}
        return (
            any(token.lstrip or token.rstrip or token.single_word for token in tokens)
            or len(passes) > 1
            or (True in passes and self.normalizes)
        )

    @property
    def normalizes(self) -> bool:
        """Whether there is a normaliser."""
        return self._copies.normalizes

    @property
    def patterns(self) -> Mapping[str, Pattern]:
        """By form, the control tokens that are looked for in the normalised text."""
        return self._patterns

    @property
    def folds(self) -> Mapping[str, str]:
        """By form, what it is in the normalised text: the forms that other characters can be normalised to."""
        return self._folds

    @property
    def affixes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that the library puts before and after one text (`add_special_tokens=True`).

        Raises:
            TokenizerError: The post-processor does something else too.
        """
        return affixes(self._document, self._name)

    @property
    def n_vocab(self) -> int:
        """One more than the highest id, custom tokens included."""
        return max([self._n_vocab, *(id_ + 1 for id_ in self._custom.values())])

    @property
    def fingerprint(self) -> str:
        """`sha256:…` over the model, the added tokens, every part that decides ids, custom and text tokens."""
        return self._fingerprints[0]

    @property
    def base_fingerprint(self) -> str:
        """The fingerprint without custom tokens; equal to `fingerprint` where there are none."""
        return self._fingerprints[1]

    @cached_property
    def _fingerprints(self) -> tuple[str, str]:
        # How it decodes, truncates and pads decides no id.
        tree = json.loads(self._document.text)
        facts = {key: tree.get(key) for key in ("model", "added_tokens", "normalizer", "pre_tokenizer")}
        facts |= {"library": "tokenizers", "text_tokens": sorted(self._text_tokens)}
        try:
            facts["affixes"] = self.affixes
        except TokenizerError:
            facts["affixes"] = tree["post_processor"]

        def digest(custom: Mapping[str, int]) -> str:
            text = json.dumps(facts | {"custom_tokens": custom}, sort_keys=True)
            return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

        return digest(self._custom), digest({})

    def with_custom_tokens(self, ids: Mapping[str, int]) -> HfTokenizer:
        """Return a tokenizer that also has these control tokens, id by form; this one stays as it is.

        Raises:
            TokenizerError: A form or an id that already means something else.
        """
        refuse_second_ids(self._name, self._custom, ids)
        made = copy.copy(self)
        for name in ("_ruled", "_fingerprints"):
            made.__dict__.pop(name, None)
        made._set_custom({**self._custom, **ids})  # noqa: SLF001 - a copy of this one
        return made

    def to_library(self) -> tokenizers.Tokenizer:
        """Return the library's own tokenizer, a new object: it parses every token that it finds in a text.

        Raises:
            TokenizerError: This one has custom or text tokens, of which the library's knows nothing.
        """
        if self._custom or self._text_tokens:
            what = "custom tokens" if self._custom else "added tokens that are text here"
            raise TokenizerError(f"{self._name} has {what}, and its library knows nothing of them. Use it without.")
        made: tokenizers.Tokenizer = library().Tokenizer.from_str(self._document.text)
        return made

    def with_text_tokens(self, forms: Iterable[str]) -> HfTokenizer:
        """Return a tokenizer for which these added tokens are text; this one stays as it is.

        Forms that it does not have change nothing.
        """
        wanted = self._text_tokens | ({token.content for token in self._document.added_tokens} & frozenset(forms))
        if wanted == self._text_tokens:
            return self
        return _restore(self._document.text, self._name, self._custom, wanted, self._habits)

    def encode_ordinary(self, text: str, *, at_start: bool) -> Ids:
        """Encode text in which no control token is parsed. Added tokens that are text are.

        Raises:
            TokenizerError: The library failed or panicked.
        """
        return self._copies.encode(text, at_start=at_start)

    def encode_ordinary_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Return `encode_ordinary` of each text, in the library's threads; none of them begins the output.

        Raises:
            TokenizerError: The library failed or panicked.
        """
        return list(self._copies.encode_batch(texts))

    def encode_normalized(self, text: str, *, at_start: bool, inside: bool) -> Ids:
        """Encode normalised text in which no control token is parsed; see `RuledTokenizer.encode_normalized`.

        Raises:
            TokenizerError: The library failed or panicked.
        """
        return self._copies.encode_normalized(text, at_start=at_start, inside=inside)

    def normalize(self, text: str) -> str:
        """Normalise text as it is before it is encoded.

        Raises:
            TokenizerError: The library failed or panicked.
        """
        return self._copies.normalize(text)

    def align(self, text: str) -> Normalized:
        """Normalise text and say where each character came from, which takes much longer.

        Raises:
            TokenizerError: The library failed or panicked.
        """
        return self._copies.align(text)

    def is_word(self, char: str) -> bool:
        """Whether a character is a part of a word, so that no `single_word` token may stand next to it."""
        return self._copies.is_word(char)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Decode ids, control tokens included, to the bytes that they stand for.

        Where the decoder works id by id (byte-level, byte fallback, Metaspace) these are the text's own bytes, with the
        prefix that some tokenizers write before a text. Elsewhere (WordPiece) they are the decoded text's as UTF-8.

        Raises:
            KeyError: For an id that is not in the vocabulary.
        """
        return self._spelling.spell(ids, self._name)


def _restore(
    text: str, name: str, custom: Mapping[str, int], text_tokens: frozenset[str], habits: _Habits
) -> HfTokenizer:
    tokenizer = HfTokenizer.__new__(HfTokenizer)
    tokenizer._fill(read(text, name), name, custom, text_tokens, habits)  # noqa: SLF001 - the other constructor
    return tokenizer


def _habits(tokenizer: object) -> _Habits:
    """Copy what transformers keeps beside the library's object."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = {str(name): str(source) for name, source in template.items()}
    named = getattr(tokenizer, "special_tokens_map", {})
    return _Habits(template, {name: str(token) for name, token in named.items() if isinstance(token, str)})


def _backend(tokenizer: tokenizers.Tokenizer | transformers.PreTrainedTokenizerFast) -> tokenizers.Tokenizer:
    """Return the library's object inside whatever was given."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if isinstance(backend, library().Tokenizer):
        found: tokenizers.Tokenizer = backend
        return found
    if hasattr(tokenizer, "apply_chat_template"):
        raise TokenizerError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which parses in Python. Load the fast one: "
            "AutoTokenizer.from_pretrained(…), or its tokenizer.json."
        )
    raise TokenizerError(
        f"A {type(tokenizer).__name__} is no tokenizer of huggingface's. Give a tokenizers.Tokenizer or a fast "
        "tokenizer of transformers."
    )


def _load(document: Document, name: str) -> tokenizers.Tokenizer:
    try:
        made: tokenizers.Tokenizer = library().Tokenizer.from_str(document.text)
    except Exception as error:  # noqa: BLE001 - the library raises plain Exception
        failure = type(error).__name__
    else:
        return made
    raise TokenizerError(
        f"{name}: tokenizers cannot read this tokenizer.json ({failure}). Write it again with the installed version."
    )


def _load_decoder(document: Document) -> tokenizers.decoders.Decoder | None:
    if document.parts["decoder"] is None:
        return None
    tiny = {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "x"}
    text = json.dumps({"version": "1.0", "added_tokens": [], "model": tiny, "decoder": document.parts["decoder"]})
    made: tokenizers.decoders.Decoder | None = library().Tokenizer.from_str(text).decoder
    return made


def _order(token: ControlToken) -> tuple[int, str]:
    return token.id, token.form
