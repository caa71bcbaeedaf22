"""A completion of ids → the chat completion that the caller asked for, whole or as a stream of chunks."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from guardtok.errors import GuardtokError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from guardtok.gateway.rendering.dialects import Piece, Reply
    from guardtok.gateway.rendering.fields import ChatFields


class UpstreamError(GuardtokError, ValueError):
    """The upstream's answer is none: not JSON, of another shape, or broken off before it said why it ended."""


@dataclass(slots=True)
class ChatAnswer:
    """One answer in the making.

    Attributes:
        fields: What was asked.
        id: Of the answer.
        created: Seconds since the epoch.
        ended: The choices that said why they ended.
    """

    fields: ChatFields
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    ended: set[int] = field(default_factory=set)
    _begun: set[int] = field(default_factory=set)
    _model: str | None = None
    _usage: Mapping[str, Any] | None = None

    def whole(self, reply: Reply) -> dict[str, Any]:
        """Return an answer that came whole.

        Raises:
            UpstreamError: A choice is missing, comes twice, or does not say why it ended.
        """
        pieces = sorted(reply.pieces)
        if [piece.choice for piece in pieces] != list(range(self.fields.choices)) or not all(
            piece.finish_reason for piece in pieces
        ):
            raise UpstreamError("The upstream's answer is not as many ended choices as were asked for.")
        choices = [
            {
                "index": piece.choice,
                "message": {"role": "assistant", "content": piece.text, "refusal": None},
                "logprobs": None,
                "finish_reason": piece.finish_reason,
            }
            for piece in pieces
        ]
        body = self._head("chat.completion", reply.model, choices)
        return body if reply.usage is None else {**body, "usage": dict(reply.usage)}

    def chunks(self, reply: Reply) -> Iterator[dict[str, Any]]:
        """Yield what one event of a stream says, as chunks.

        Raises:
            UpstreamError: A choice that was not asked for, or that goes on after its end.
        """
        self._model = self._model or reply.model
        self._usage = reply.usage or self._usage
        for piece in reply.pieces:
            if not 0 <= piece.choice < self.fields.choices or piece.choice in self.ended:
                raise UpstreamError("The upstream speaks for a choice that was not asked for, or has ended.")
            yield self._chunk(piece)

    def last(self) -> dict[str, Any] | None:
        """Return the chunk with the usage that ends a stream, if one was asked for and the upstream told it.

        Raises:
            UpstreamError: The stream broke off: not every choice said why it ended.
        """
        if len(self.ended) != self.fields.choices:
            raise UpstreamError("The upstream's stream broke off before the answer ended.")
        if not self.fields.include_usage or self._usage is None:
            return None
        return {**self._head("chat.completion.chunk", self._model, []), "usage": dict(self._usage)}

    def _chunk(self, piece: Piece) -> dict[str, Any]:
        delta: dict[str, Any] = {"content": piece.text} if piece.text or piece.finish_reason is None else {}
        if piece.choice not in self._begun:
            self._begun.add(piece.choice)
            delta = {"role": "assistant", "content": piece.text}
        if piece.finish_reason is not None:
            self.ended.add(piece.choice)
        choice = {"index": piece.choice, "delta": delta, "logprobs": None, "finish_reason": piece.finish_reason}
        return self._head("chat.completion.chunk", self._model, [choice])

    def _head(self, kind: str, model: str | None, choices: list[dict[str, Any]]) -> dict[str, Any]:
        named = self.fields.model or model or ""
        return {"id": self.id, "object": kind, "created": self.created, "model": named, "choices": choices}
