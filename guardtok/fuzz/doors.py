"""A library's own ways from text to ids and back, as a few callables, so that every oracle asks all libraries alike.

What is asked is the library itself, at the door that its manual names for ordinary text, and not guardtok's adapter of
it, which knows better. The adapter only says which tokens there are. Where there is none, the object is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import TYPE_CHECKING, Any, TypeAlias

from guardtok.adapters.hf import HfTokenizer
from guardtok.adapters.tiktoken import TiktokenTokenizer
from guardtok.dialects import catalogue
from guardtok.errors import TokenizerError, is_failure
from guardtok.tokenizer import ControlToken, RuledTokenizer, TokenClass, Tokenizer

if TYPE_CHECKING:
    import sentencepiece
    import tiktoken
    import tokenizers
    import transformers

Encode: TypeAlias = Callable[[str], list[int]]
Decode: TypeAlias = Callable[[list[int]], "bytes | str"]
Chat: TypeAlias = Callable[[list[Any], "list[Any] | None"], list[int]]

_LIMIT = 2**63


@dataclass(frozen=True, slots=True)
class Doors:
    """A tokenizer as its library offers it.

    Attributes:
        name: Its name, for people.
        library: The library and its version.
        encode: Ordinary text to ids, by the door that promises to parse nothing.
        decode: Ids to text or bytes.
        parse: Text to ids with control tokens parsed, or None where there is no such door.
        batch: Several ordinary texts at once, or None.
        twin: A second door that should give the ids of `encode` where nothing is parsed, or None.
        chat: A conversation to ids, by the door that promises to parse nothing of the messages, or None.
        tokens: Its control tokens.
        reserved: Ids that no ordinary text may become.
        n_vocab: One more than the highest id, or None where nobody says.
        adapter: guardtok's adapter, or None.
        declared: What it may raise because of a text.
    """

    name: str
    library: str
    encode: Encode
    decode: Decode
    parse: Encode | None = None
    batch: Callable[[list[str]], list[list[int]]] | None = None
    twin: Encode | None = None
    chat: Chat | None = None
    tokens: tuple[ControlToken, ...] = ()
    reserved: frozenset[int] = frozenset()
    n_vocab: int | None = None
    adapter: Tokenizer | None = None
    declared: tuple[type[BaseException], ...] = (ValueError, TypeError)
    notes: tuple[str, ...] = field(default=())

    @property
    def rules(self) -> RuledTokenizer | None:
        """The adapter of a tokenizer that normalises or has rules for its tokens, or None."""
        return self.adapter if isinstance(self.adapter, RuledTokenizer) else None

    @property
    def lossy(self) -> frozenset[int]:
        """Ids that stand for whatever is not known."""
        return frozenset(token.id for token in self.tokens if token.kind is TokenClass.UNKNOWN)


def through_tiktoken(encoding: tiktoken.Encoding, adapter: Tokenizer) -> Doors:
    """Return the doors of a tiktoken encoding."""
    return Doors(
        adapter.name,
        _version("tiktoken"),
        encode=encoding.encode_ordinary,
        decode=encoding.decode_bytes,
        parse=lambda text: encoding.encode(text, allowed_special="all"),
        batch=lambda texts: encoding.encode_ordinary_batch(texts, num_threads=2),
        twin=lambda text: encoding.encode(text, disallowed_special=()),
        tokens=adapter.control_tokens,
        reserved=adapter.reserved_ids,
        n_vocab=adapter.n_vocab,
        adapter=adapter,
    )


def through_tokenizers(backend: tokenizers.Tokenizer, adapter: Tokenizer | None, name: str) -> Doors:
    """Return the doors of huggingface's library: with its promise to encode special tokens as text, and without it."""
    import tokenizers as library

    ordinary = library.Tokenizer.from_str(backend.to_str())
    ordinary.encode_special_tokens = True
    parsing = library.Tokenizer.from_str(backend.to_str())
    parsing.encode_special_tokens = False
    for each in (ordinary, parsing):
        each.no_truncation()
        each.no_padding()
    tokens = adapter.control_tokens if adapter is not None else _added(backend)
    return Doors(
        name,
        _version("tokenizers"),
        encode=lambda text: ordinary.encode(text, add_special_tokens=False).ids,
        decode=lambda ids: ordinary.decode(ids, skip_special_tokens=False),
        parse=lambda text: parsing.encode(text, add_special_tokens=False).ids,
        batch=lambda texts: [each.ids for each in ordinary.encode_batch(texts, add_special_tokens=False)],
        tokens=tokens,
        reserved=adapter.reserved_ids if adapter is not None else frozenset(token.id for token in tokens),
        n_vocab=adapter.n_vocab if adapter is not None else max(backend.get_vocab().values(), default=-1) + 1,
        adapter=adapter,
        notes=()
        if adapter is not None
        else ("guardtok has no adapter for this tokenizer; the library is asked alone",),
    )


def through_transformers(tokenizer: transformers.PreTrainedTokenizerFast, adapter: Tokenizer | None) -> Doors:
    """Return the doors of transformers: the backend's, and the chat template with control tokens sanitized."""
    doors = through_tokenizers(tokenizer.backend_tokenizer, adapter, tokenizer.name_or_path or "transformers")

    def chat(messages: list[Any], tools: list[Any] | None) -> list[int]:
        made: Any = tokenizer.apply_chat_template(
            messages, tools=tools, return_dict=False, sanitize_control_tokens=True
        )
        return as_ids(made)

    return Doors(
        doors.name,
        _version("transformers"),
        encode=lambda text: tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"],
        decode=doors.decode,
        parse=lambda text: tokenizer(text, add_special_tokens=False)["input_ids"],
        batch=lambda texts: tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"],
        chat=chat if tokenizer.chat_template else None,
        tokens=doors.tokens,
        reserved=doors.reserved,
        n_vocab=doors.n_vocab,
        adapter=adapter,
        notes=doors.notes,
    )


def through_sentencepiece(processor: sentencepiece.SentencePieceProcessor, adapter: Tokenizer) -> Doors:
    """Return the doors of SentencePiece, which has one for all text."""
    return Doors(
        adapter.name,
        _version("sentencepiece"),
        encode=processor.encode_as_ids,
        decode=processor.decode_ids,
        batch=lambda texts: processor.encode(texts, out_type=int),
        tokens=adapter.control_tokens,
        reserved=adapter.reserved_ids,
        n_vocab=adapter.n_vocab,
        adapter=adapter,
    )


def through_adapter(adapter: Tokenizer) -> Doors:
    """Return the doors of an object that already is what guardtok asks of a tokenizer."""
    from guardtok.errors import GuardtokError

    return Doors(
        adapter.name,
        "guardtok.tokenizer.Tokenizer",
        encode=lambda text: as_ids(adapter.encode_ordinary(text, at_start=True)),
        decode=adapter.decode_bytes,
        tokens=adapter.control_tokens,
        reserved=adapter.reserved_ids,
        n_vocab=adapter.n_vocab,
        adapter=adapter,
        declared=(GuardtokError, UnicodeError),
    )


def parser_of(tokenizer: Tokenizer) -> Encode | None:
    """Return how the library behind an adapter encodes with its control tokens parsed; None if it never does."""
    if isinstance(tokenizer, TiktokenTokenizer):
        encoding = tokenizer.encoding
        return lambda text: encoding.encode(text, allowed_special="all")
    if isinstance(tokenizer, HfTokenizer):
        try:
            library = tokenizer.to_library()
        except TokenizerError:
            return None  # A policy has added tokens, of which the library knows nothing.
        return lambda text: library.encode(text, add_special_tokens=False).ids
    return None


def through_object(found: Any, name: str) -> Doors:  # noqa: ANN401 - anything that encodes and decodes
    """Return the doors of anything with `encode` and `decode`; `encode_ordinary` is preferred where it is there.

    Its control tokens are what its attributes say (`special_tokens`, `get_added_vocab()` …), else every form of the
    catalogue that it makes one id of, and that this id decodes to.
    """
    encode = getattr(found, "encode_ordinary", found.encode)
    parse = found.encode if hasattr(found, "encode_ordinary") else None
    batch = getattr(found, "encode_ordinary_batch", None)
    size = getattr(found, "n_vocab", getattr(found, "vocab_size", None))
    tokens = _stated(found) or _probed(parse or encode, found.decode)
    return Doors(
        name,
        f"{type(found).__module__}.{type(found).__qualname__}",
        encode=encode,
        decode=found.decode,
        parse=parse,
        batch=batch,
        tokens=tokens,
        reserved=frozenset(token.id for token in tokens),
        n_vocab=_as_id(size),
        notes=() if tokens else ("no control token of this tokenizer is known, so no leak can be seen",),
    )


def _stated(found: Any) -> tuple[ControlToken, ...]:  # noqa: ANN401 - anything that encodes and decodes
    """Return the control tokens that an object's attributes name."""
    for name in ("special_tokens", "_special_tokens", "get_added_vocab", "added_tokens"):
        stated = getattr(found, name, None)
        try:
            table = stated() if callable(stated) else stated
        except Exception:  # noqa: BLE001, S112 - another's code; there are other names to ask
            continue
        if not isinstance(table, dict) or not all(isinstance(form, str) for form in table):
            continue
        ids = {form: id_ for form, each in table.items() if (id_ := _as_id(each)) is not None}
        if len(ids) == len(table):
            return tuple(ControlToken(form, id_) for form, id_ in sorted(ids.items(), key=lambda each: each[1]))
    return ()


def _probed(parse: Callable[[str], Any], decode: Callable[[list[int]], Any]) -> tuple[ControlToken, ...]:
    """Return the forms of the catalogue that come out as one id which decodes to them."""
    found = []
    for form in catalogue():
        try:
            ids = as_ids(parse(form))
            spelled = decode(ids)
        except BaseException as error:
            if not is_failure(error):
                raise
            continue
        if len(form) > 1 and len(ids) == 1 and spelled in {form, form.encode()}:
            found.append(ControlToken(form, ids[0]))
    return tuple(found)


def _added(backend: tokenizers.Tokenizer) -> tuple[ControlToken, ...]:
    added = backend.get_added_tokens_decoder()
    return tuple(ControlToken(each.content, id_, special=each.special) for id_, each in sorted(added.items()))


def as_ids(made: Any) -> list[int]:  # noqa: ANN401 - whatever an encoder returns
    """Return ids as a list of ints.

    Raises:
        TypeError: They are none.
    """
    if isinstance(made, (str, bytes)):
        raise TypeError("Text is no sequence of ids.")
    if isinstance(made, dict):
        raise TypeError("A mapping is no sequence of ids.")
    listed = made.tolist() if hasattr(made, "tolist") else list(made)
    if all(type(each) is int and abs(each) < _LIMIT for each in listed):
        return listed
    ids = [id_ for each in listed if (id_ := _as_id(each)) is not None]
    if len(ids) != len(listed):
        raise TypeError("Ids are integers.")
    return ids


def _as_id(value: Any) -> int | None:  # noqa: ANN401 - whatever stands for an id
    """Return an integer of any library's as an int; None for what is none, a truth value, or beyond 64 bits."""
    try:
        id_ = None if isinstance(value, bool) else index(value)
    except TypeError:
        return None
    return id_ if id_ is not None and abs(id_) < _LIMIT else None


def _version(package: str) -> str:
    from importlib import metadata

    return f"{package} {metadata.version(package)}"


def words_of(doors: Doors, wanted: Sequence[int]) -> tuple[str, ...]:
    """Return what these ids decode to, where it is text and no control token."""
    forms = {token.form for token in doors.tokens}
    found: dict[str, None] = {}
    for id_ in wanted:
        if id_ in doors.reserved:
            continue
        try:
            made = doors.decode([id_])
            word = made if isinstance(made, str) else made.decode()
        except BaseException as error:
            if not is_failure(error):
                raise
            continue
        if word and word not in forms and "\ufffd" not in word:
            found[word] = None
    return tuple(found)
