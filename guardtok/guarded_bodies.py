"""The doors of a guard that whole bodies go through: requests and replies, in the protocols that guardtok knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guardtok.beginnings import Beginnings
    from guardtok.breaking import Breaker
    from guardtok.examine import Examiner
    from guardtok.requests.reply_stream import ReplyStream
    from guardtok.requests.request import Rewriter, SanitizedRequest
    from guardtok.ruleset import Ruleset
    from guardtok.violation import Verdict


class GuardedBodies:
    """The part of `Guard` that takes whole bodies. What they need is loaded when the first one comes."""

    __slots__ = ()
    _ruleset: Ruleset
    _examiner: Examiner
    _breaker: Breaker
    _beginnings: Beginnings

    def sanitize_chat(self, body: object, *, protocol: str, request_id: str | None = None) -> SanitizedRequest:
        """Sanitize the body of a whole request: every string and key in it, each under its own source and JSON path.

        Args:
            body: Plain JSON values: what `json.loads` gives. A `Text` in it keeps its labels.
            protocol: One of `guardtok.requests.PROTOCOLS`, such as `openai.chat`.
            request_id: Copied into the violations.

        Raises:
            RefusedError: The policy blocks a form that the body holds; it carries everything that was found.
            RequestError: The body has the wrong shape, or holds what no caller may send; it names the JSON path.
            LimitError: All strings together are longer than `limits.max_chars`.
            SurrogateError: A lone surrogate under `surrogates: refuse`.
            UnknownSourceError: A `Text` in it names a source that the policy does not know.
            VerificationError: A form could not be broken; nothing is returned.
        """
        from guardtok.requests.protocols import label_request

        return self._rewriter.sanitize(body, label_request(protocol), protocol, request_id)

    def check_chat(self, body: object, *, protocol: str, request_id: str | None = None) -> Verdict:
        """Say what the policy makes of the body of a request. Never raises because of what JSON holds.

        Raises:
            RequestError: No such protocol.
            UnknownSourceError: A `Text` in it names a source that the policy does not know.
            VerificationError: A form could not be broken.
        """
        from guardtok.requests.protocols import label_request

        return self._rewriter.check(body, label_request(protocol), request_id)

    def sanitize_reply(self, body: object, *, protocol: str, request_id: str | None = None) -> SanitizedRequest:
        """Sanitize a whole answer of a model, as `sanitize_chat` does a request, and with the same errors.

        Log probabilities beside a text that is changed are left out: they would spell it as it was.
        """
        from guardtok.requests.probabilities import drop_probabilities
        from guardtok.requests.replies import label_reply

        made = self._rewriter.sanitize(body, label_reply(protocol), protocol, request_id)
        if made.changed:
            drop_probabilities(body, made.body)
        return made

    def reply_stream(self, *, protocol: str, request_id: str | None = None) -> ReplyStream:
        """Begin an answer that comes in server-sent events and goes on in them, sanitized as it would be whole.

        Args:
            protocol: One of `guardtok.requests.PROTOCOLS`.
            request_id: Copied into the violations.

        Raises:
            RequestError: No such protocol.
        """
        from guardtok.requests.replies import find_dialect
        from guardtok.requests.reply_stream import ReplyStream

        return ReplyStream(self._rewriter, find_dialect(protocol), protocol, request_id)

    @property
    def _rewriter(self) -> Rewriter:
        from guardtok.requests.request import Rewriter

        return Rewriter(self._ruleset, self._examiner, self._breaker, self._beginnings)
