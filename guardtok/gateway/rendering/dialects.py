"""How a server is asked for a completion of ids, and how its answer reads: OpenAI's completions, and llama.cpp's own.

Facts: vLLM and SGLang take `prompt` as a list of ids at `/v1/completions`, as OpenAI's reference has it; llama.cpp's
server takes it there and at `/completion` (its tools/server/README.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from guardtok.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from guardtok.gateway.rendering.fields import ChatFields


class Piece(NamedTuple):
    """What one choice said, whole or in part.

    Attributes:
        choice: Which of the answers.
        text: What it said.
        finish_reason: Why it ended (`stop`, `length` …), or None while it goes on.
    """

    choice: int
    text: str
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, or one event of a streamed one.

    Attributes:
        pieces: What its choices said.
        usage: Tokens by kind, as OpenAI has them, or None.
        model: The model, as the upstream names it, or None.
    """

    pieces: tuple[Piece, ...]
    usage: Mapping[str, Any] | None
    model: str | None


class Dialect(Protocol):
    """One interface for completions of ids."""

    @property
    def path(self) -> str:
        """The path that is asked."""

    def ask(self, ids: Sequence[int], fields: ChatFields) -> dict[str, Any]:
        """Return the body of the question.

        Raises:
            RequestError: It asks for what the interface does not have.
        """

    def read(self, data: Any) -> Reply:  # noqa: ANN401 - JSON values
        """Read an answer or an event of a stream.

        Raises:
            ValueError: It is of no shape that the interface has. (So are KeyError and TypeError to be taken.)
        """


class Completions:
    """`/v1/completions`, as OpenAI, vLLM and SGLang have it."""

    path = "/v1/completions"

    def ask(self, ids: Sequence[int], fields: ChatFields) -> dict[str, Any]:
        """Return the body of the question."""
        body: dict[str, Any] = {"prompt": list(ids), **fields.sampling, "n": fields.choices, "stream": fields.stream}
        if fields.model is not None:
            body["model"] = fields.model
        if fields.stream and fields.include_usage:
            body["stream_options"] = {"include_usage": True}
        return body

    def read(self, data: Any) -> Reply:  # noqa: ANN401 - JSON values
        """Read an answer or an event of a stream."""
        pieces = tuple(
            Piece(_of(int, choice["index"]), _of(str, choice["text"]), _perhaps(str, choice.get("finish_reason")))
            for choice in _of(list, data["choices"])
        )
        return Reply(pieces, _perhaps(dict, data.get("usage")), _perhaps(str, data.get("model")))


_LLAMA_NAMES = MappingProxyType({"max_tokens": "n_predict", "repetition_penalty": "repeat_penalty"})
_LLAMA_LACKS = frozenset({"min_tokens", "stop_token_ids"})
_LLAMA_REASONS = MappingProxyType({"eos": "stop", "word": "stop", "limit": "length"})


class LlamaCpp:
    """`/completion`, llama.cpp's own."""

    path = "/completion"

    def ask(self, ids: Sequence[int], fields: ChatFields) -> dict[str, Any]:
        """Return the body of the question.

        Raises:
            RequestError: More than one answer, or a way to choose tokens that llama.cpp does not have.
        """
        if fields.choices != 1:
            raise RequestError("request.rendered", "$.n", "llama.cpp gives one answer. Ask once for each.")
        for name in sorted(_LLAMA_LACKS & fields.sampling.keys()):
            raise RequestError("request.rendered", f"$.{name}", "llama.cpp has no such option. Leave it out.")
        named = {_LLAMA_NAMES.get(name, name): value for name, value in fields.sampling.items()}
        if isinstance(named.get("stop"), str):
            named["stop"] = [named["stop"]]
        return {"prompt": list(ids), **named, "stream": fields.stream}

    def read(self, data: Any) -> Reply:  # noqa: ANN401 - JSON values
        """Read an answer or an event of a stream."""
        text = _of(str, data["content"])
        if data.get("stop") is not True:
            return Reply((Piece(0, text, None),), None, None)
        prompt, answer = _of(int, data["tokens_evaluated"]), _of(int, data["tokens_predicted"])
        usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
        reason = _LLAMA_REASONS[data["stop_type"]]
        return Reply((Piece(0, text, reason),), usage, _perhaps(str, data.get("model")))


DIALECTS: Mapping[str, Dialect] = MappingProxyType({"completions": Completions(), "llama.cpp": LlamaCpp()})
"""The interfaces by the name that `guardtok serve --ids-api` takes."""


def _of(kind: type, value: Any) -> Any:  # noqa: ANN401 - JSON values
    if not isinstance(value, kind):
        raise ValueError(f"{kind.__name__} expected")  # noqa: TRY004 - the answer's value is wrong, not the call
    return value


def _perhaps(kind: type, value: Any) -> Any:  # noqa: ANN401 - JSON values
    return None if value is None else _of(kind, value)
