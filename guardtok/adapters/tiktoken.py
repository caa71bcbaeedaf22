"""A `tiktoken.Encoding` as guardtok's `Tokenizer`.

tiktoken decides on its own which special tokens to parse, gives no order to overlapping ones, and raises a Rust panic,
which `except Exception` does not catch, where its regex engine gives up. Behind this class it only ever encodes
ordinary text, and it fails with one typed error.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

from guardtok.dialects import role_of
from guardtok.engines.choose import TIKTOKEN, choose_engine, reload_engine
from guardtok.engines.compared import rank_file
from guardtok.errors import ExtensionError, TokenizerError, is_failure
from guardtok.named_tokens import check_names
from guardtok.placing import MAX_ID, refuse_form, refuse_id, refuse_present, refuse_second_ids
from guardtok.tokenizer import ControlToken
from guardtok.violation import broken

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import tiktoken

    from guardtok.engines.choose import Engine
    from guardtok.tokenizer import Ids


class TiktokenTokenizer:
    """A tiktoken encoding, and the control tokens that a policy adds to it.

    Immutable, picklable and safe to share between threads. The encoding's tables are read here; do not change them
    afterwards.

    Args:
        encoding: What encodes and decodes.
        name: A name for people and logs; the encoding's own by default.
        custom_tokens: Ids by form of control tokens that the encoding does not have. One that it has under the same id
            changes nothing.
        named_tokens: Forms of control tokens by the names that chat templates ask for: `bos_token`, `eos_token` …
        chat_template: The chat template that conversations are rendered with by default.

    Raises:
        TokenizerError: The encoding has an id that means two things.
        UnknownTokenError: A named token is no control token.
        ExtensionError: The id or the form of a custom token is taken, is out of range, or cannot be written as UTF-8;
            it is a `TokenizerError`.
    """

    def __init__(
        self,
        encoding: tiktoken.Encoding,
        *,
        name: str | None = None,
        custom_tokens: Mapping[str, int] | None = None,
        named_tokens: Mapping[str, str] | None = None,
        chat_template: str | None = None,
    ) -> None:
        self._encoding = encoding
        self._engine: Engine | None = None
        self._name = encoding.name if name is None else name
        # tiktoken has no public way to list ranks, special tokens or the pattern; its manual reads the same attributes.
        special = dict(encoding._special_tokens)
        ranks = encoding._mergeable_ranks
        custom = {form: id_ for form, id_ in (custom_tokens or {}).items() if special.get(form) != id_}
        _refuse_collisions(self._name, ranks, special, custom)
        self._custom = custom
        self._custom_bytes = {id_: form.encode() for form, id_ in custom.items()}
        tokens = sorted((id_, form) for form, id_ in (special | custom).items())
        self._control_tokens = tuple(ControlToken(form, id_, role_of(form, id_)) for id_, form in tokens)
        # Text that spells one character cannot be cut apart, so its ordinary id has to stay what that text becomes.
        ordinary = (ranks.get(form.encode()) for _, form in tokens if len(form) > 1)
        self._reserved_ids = frozenset(id_ for id_, _ in tokens) | {rank for rank in ordinary if rank is not None}
        self._named_tokens = check_names(self, named_tokens or {})
        self._chat_template = chat_template

    def __repr__(self) -> str:
        return f"<TiktokenTokenizer {self._name!r}, {len(self._control_tokens)} control tokens>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": self.engine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # No engine is picklable. Where this one is absent or not compared, tiktoken gives the same ids.
        engine = reload_engine(state["_encoding"], state["_engine"])
        self.__dict__.update(state, _engine=engine)

    @property
    def encoding(self) -> tiktoken.Encoding:
        """The encoding, without custom tokens."""
        return self._encoding

    @property
    def name(self) -> str:
        """A short name for people and logs."""
        return self._name

    @property
    def engine(self) -> str:
        """The name of the engine that encodes ordinary text, `tiktoken` where it is the encoding itself."""
        return TIKTOKEN if self._engine is None else self._engine.name

    @property
    def parallel(self) -> bool:
        """Whether threads that encode run side by side."""
        return self._engine is None or self._engine.parallel

    @property
    def control_tokens(self) -> tuple[ControlToken, ...]:
        """The encoding's special tokens and the custom ones, in the order of their ids, then of their forms."""
        return self._control_tokens

    @property
    def reserved_ids(self) -> frozenset[int]:
        """Ids of the control tokens, and ranks of ordinary tokens that spell the same, unless it is one character."""
        return self._reserved_ids

    @property
    def named_tokens(self) -> Mapping[str, str]:
        """Forms of control tokens by the names that chat templates ask for."""
        return self._named_tokens

    @property
    def chat_template(self) -> str | None:
        """The chat template that conversations are rendered with by default, or None."""
        return self._chat_template

    @property
    def n_vocab(self) -> int:
        """One more than the highest id, custom tokens included."""
        return max(self._encoding.n_vocab, *(id_ + 1 for id_ in self._custom.values()), 0)

    @property
    def fingerprint(self) -> str:
        """`sha256:…` over pattern, ranks, special and custom tokens; not over the name."""
        return self._fingerprints[0]

    @property
    def base_fingerprint(self) -> str:
        """The fingerprint without custom tokens; equal to `fingerprint` where there are none."""
        return self._fingerprints[1]

    @cached_property
    def _fingerprints(self) -> tuple[str, str]:
        # The ranks count as the SHA-256 of their rank file, so that anybody can check it with sha256sum.
        facts = {
            "library": "tiktoken",
            "pattern": self._encoding._pat_str,
            "ranks": hashlib.sha256(rank_file(self._encoding)).hexdigest(),
            "special_tokens": self._encoding._special_tokens,
        }

        def digest(custom: Mapping[str, int]) -> str:
            text = json.dumps(facts | {"custom_tokens": custom}, sort_keys=True)
            return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

        return digest(self._custom), digest({})

    def with_custom_tokens(self, ids: Mapping[str, int]) -> TiktokenTokenizer:
        """Return a tokenizer that also has these control tokens, id by form; this one stays as it is.

        Raises:
            TokenizerError: A form or an id that already means something else.
        """
        refuse_second_ids(self._name, self._custom, ids)
        return self._copy({**self._custom, **ids}, self._engine)

    def extended(self, name: str, ids: Mapping[str, int], without: Collection[str] = ()) -> TiktokenTokenizer:
        """Return a tokenizer around a new encoding that has more special tokens; this one stays as it is.

        Args:
            name: The new encoding's name.
            ids: The new special tokens, id by form. Custom tokens become special ones of the new encoding.
            without: Special tokens that it is not to have, because a new one has their id.

        Raises:
            TokenizerError: tiktoken cannot build it.
        """
        import tiktoken

        special = self._encoding._special_tokens | self._custom
        special = {form: id_ for form, id_ in special.items() if form not in without} | dict(ids)
        try:
            encoding = tiktoken.Encoding(
                name,
                pat_str=self._encoding._pat_str,
                mergeable_ranks=self._encoding._mergeable_ranks,
                special_tokens=special,
            )
        except BaseException as error:
            if not is_failure(error):
                raise
            failure = type(error).__name__
        else:
            kept = {name: form for name, form in self._named_tokens.items() if form in special}
            tokenizer = TiktokenTokenizer(encoding, named_tokens=kept, chat_template=self._chat_template)
            tokenizer._engine = self._engine
            return tokenizer
        raise TokenizerError(
            f"{self._name}: tiktoken cannot build an encoding with {len(special):,} special tokens: {failure}. "
            "Add fewer, or shorter ones."
        )

    def with_engine(self, name: str) -> TiktokenTokenizer:
        """Return a tokenizer whose ordinary text another engine encodes, to the same ids; this one stays as it is.

        Args:
            name: `tiktoken`, `auto`, `gigatoken` or `riptoken`, as `choose_engine` takes it.

        Raises:
            EngineError: No engine has that name, or it was not compared for this vocabulary in the installed versions.
            MissingExtraError: The engine that was named is not installed.
        """
        return self._copy(self._custom, choose_engine(self._encoding, name))

    def _copy(self, custom: Mapping[str, int], engine: Engine | None) -> TiktokenTokenizer:
        tokenizer = TiktokenTokenizer(
            self._encoding,
            name=self._name,
            custom_tokens=custom,
            named_tokens=self._named_tokens,
            chat_template=self._chat_template,
        )
        tokenizer._engine = engine
        return tokenizer

    def encode_ordinary(self, text: str, *, at_start: bool) -> Ids:  # noqa: ARG002  # tiktoken has no prefix.
        """Encode text in which nothing is parsed. An array comes from an engine that makes one, else a list.

        Raises:
            TokenizerError: tiktoken failed or panicked; a run of a million spaces makes several encodings do so.
        """
        if self._engine is not None:
            ids = self._engine.encode(text)
            if ids is not None:
                return ids
        try:
            return self._encoding.encode_ordinary(text)
        except BaseException as error:
            if not is_failure(error):
                raise
            failure = type(error).__name__
        # Raised out here the error has no context, and so nothing that could hold the text.
        raise TokenizerError(
            f"{self._name}: tiktoken failed with {failure} on a text of {len(text)} characters. "
            "Cut very long runs of white space, or set a lower limits.max_chars."
        )

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Decode ids, control tokens included, to the bytes that they stand for.

        Raises:
            KeyError: For an id that is not in the vocabulary.
        """
        try:
            if self._custom_bytes.keys().isdisjoint(ids):
                return self._encoding.decode_bytes(ids)
            one, custom = self._encoding.decode_single_token_bytes, self._custom_bytes
            return b"".join(custom[id_] if id_ in custom else one(id_) for id_ in ids)
        except OverflowError:
            raise KeyError(f"{self._name}: an id is not between 0 and {MAX_ID}") from None


def _refuse_collisions(
    name: str, ranks: Mapping[bytes, int], special: Mapping[str, int], custom: Mapping[str, int]
) -> None:
    """Raise where an id could mean two things, for then no check of ids proves anything.

    A special token may share its id with the ordinary token of its own bytes; two special tokens may share one id
    (o200k_harmony). A custom token shares with nothing.
    """
    taken = set(ranks.values())
    for form, id_ in special.items():
        if not form:
            raise TokenizerError(f"{name}: a special token is empty, so it stands everywhere. Give it a form.")
        if id_ in taken and ranks.get(form.encode()) != id_:
            raise TokenizerError(
                f"{name}: the special token {broken(form)!r} has the id {id_}, which is also the rank of other "
                "bytes, so ordinary text can produce it. Give the token an id above every rank."
            )
    taken.update(special.values())
    free = max(taken, default=-1) + 1
    problems = []
    for form, id_ in custom.items():
        problem = refuse_form(form, "custom token")
        if problem is None and form in special:
            problem = refuse_present(form, special[form])
        problem = problem or refuse_id(form, id_, taken, free)
        if problem is not None:
            problems.append(problem)
            continue
        taken.add(id_)
        free = max(free, id_ + 1)
    if problems:
        raise ExtensionError(problems)
