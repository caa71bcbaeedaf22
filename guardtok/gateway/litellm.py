"""guardtok as a guardrail in LiteLLM's proxy: every request as it goes to the upstream, and every reply.

LiteLLM hands a guardrail either extracted texts, which leave out names, arguments, tools' descriptions, documents and
token ids, or the whole request, to those that bring hooks of their own. This one brings its own.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from typing_extensions import assert_never

from guardtok.errors import MissingExtraError, RequestError, VerificationError, is_failure
from guardtok.gateway.decision import Blame, Call, Refusal, sane_id
from guardtok.gateway.guardrails.inputs import Inputs, judge_reply, judge_request
from guardtok.gateway.litellm_bodies import protocol_of, put_body, read_logged, take_body
from guardtok.gateway.litellm_replies import Chunks, protocol_of_stream, to_json, write_back
from guardtok.gateway.litellm_replies import protocol_of as protocol_of_reply
from guardtok.gateway.refusing import refuse
from guardtok.gateway.running import Running
from guardtok.gateway.settings import Settings
from guardtok.requests.replies import are_ruled

try:
    from litellm.exceptions import GuardrailRaisedException
    from litellm.integrations.custom_guardrail import CustomGuardrail
    from litellm.types.guardrails import GuardrailEventHooks
except ImportError:
    _MISSING = "The guardrail for LiteLLM needs litellm. Install it with: pip install 'guardtok[litellm]'"
    raise MissingExtraError(_MISSING) from None

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping

    from guardtok.gateway.decision import Decision
    from guardtok.gateway.gatekeeper import Gatekeeper
    from guardtok.gateway.live import Snapshot
    from guardtok.gateway.reply_gate import ReplyGate

_PROVIDER = "guardtok"
_SHOWN = 32
"""So many violations are told to LiteLLM's loggers; the decision log has them all."""


class GuardtokGuardrail(CustomGuardrail):
    """Guards what passes through a LiteLLM proxy, in the modes `pre_call`, `post_call` and `logging_only`.

    Args:
        policy: A shipped policy's name or a path; `GUARDTOK_POLICY` if not given.
        tokenizer: The tokenizer that the model uses; `GUARDTOK_TOKENIZER` if not given.
        settings: More of `guardtok.gateway.settings.Settings`, by name.
        gatekeeper: What decides, for those who build one themselves; nothing else may be given then.
        kwargs: LiteLLM's own: `guardrail_name`, `event_hook`, `default_on` …

    Raises:
        GuardtokError: The policy, the tokenizer or a setting cannot be used.
    """

    use_native_lifecycle_hooks: ClassVar[bool] = True
    records_own_guardrail_information: ClassVar[bool] = True

    def __init__(
        self,
        *,
        policy: str | None = None,
        tokenizer: str | None = None,
        settings: Mapping[str, Any] | None = None,
        gatekeeper: Gatekeeper | None = None,
        **kwargs: Any,  # noqa: ANN401 - LiteLLM's
    ) -> None:
        if gatekeeper is None:
            given = {"policy": policy, "tokenizer": tokenizer, **(settings or {})}
            self._running = Running.of(Settings.from_env(os.environ, **given))
        else:
            self._running = Running(gatekeeper)
        self._gatekeeper = self._running.gatekeeper
        # A reply is judged by the policy that its request began with. LiteLLM's log object is what the hooks share.
        self._begun: WeakKeyDictionary[Any, Snapshot] = WeakKeyDictionary()
        kwargs.setdefault("guardrail_name", _PROVIDER)
        kwargs["supported_event_hooks"] = self.get_supported_event_hooks()
        super().__init__(**kwargs)

    @classmethod
    def get_supported_event_hooks(cls) -> list[GuardrailEventHooks]:
        """Return the modes that a configuration may name."""
        return [GuardrailEventHooks.pre_call, GuardrailEventHooks.post_call, GuardrailEventHooks.logging_only]

    async def async_pre_call_hook(
        self,
        user_api_key_dict: Any,  # noqa: ANN401, ARG002 - LiteLLM's signature
        cache: Any,  # noqa: ANN401, ARG002 - LiteLLM's signature
        data: dict[str, Any],
        call_type: str,
    ) -> dict[str, Any]:
        """Judge a request; return its data with the caller's fields as they may go on, changed in place.

        Raises:
            GuardrailRaisedException: The request is refused.
        """
        protocol, call = protocol_of(call_type, data), self._call(data, call_type)
        with self._closed():
            # The policy's files are followed in the proxy's own event loop, which there was none of at the start.
            self._running.start()
            snapshot = self._gatekeeper.current
            self._begin(data, snapshot)
            try:
                body = take_body(data)
            except RequestError as error:
                turned = self._gatekeeper.turn_away(error, protocol, call, snapshot)
                self._record(turned.decision, data, GuardrailEventHooks.pre_call)
                self._check(turned.refusal)
                raise
            # In a thread, for a body of megabytes would hold up every other request of this process.
            outcome = await asyncio.to_thread(self._gatekeeper.judge_request, body.fields, protocol, call, snapshot)
            self._record(outcome.decision, data, GuardrailEventHooks.pre_call)
            self._check(outcome.refusal)
            if outcome.decision.changed:
                put_body(data, body, outcome.body)
        return data

    async def async_post_call_success_hook(
        self,
        data: dict[str, Any],
        user_api_key_dict: Any,  # noqa: ANN401, ARG002 - LiteLLM's signature
        response: Any,  # noqa: ANN401 - a reply of any class of LiteLLM's
    ) -> Any:  # noqa: ANN401 - the same
        """Judge a reply that came whole; return it, changed in place where the policy asks for that.

        Raises:
            GuardrailRaisedException: The reply is refused.
        """
        protocol = protocol_of_reply(response)
        with self._closed():
            snapshot = self._begun_with(data) or self._gatekeeper.current
            # An embedding, an image and a transcript are nothing that an assistant says.
            if protocol is None or not are_ruled(snapshot.guard.policy):
                return response
            old, call = to_json(response), self._call(data, _call_type_of(data))
            outcome = await asyncio.to_thread(self._gatekeeper.judge_reply, old, protocol, call, snapshot)
            self._record(outcome.decision, data, GuardrailEventHooks.post_call)
            self._check(outcome.refusal)
            if not outcome.decision.changed:
                return response
            made = write_back(response, old, outcome.body)
            if to_json(made) != outcome.body:
                raise VerificationError("A reply of LiteLLM's did not take what was to be changed in it.")
            return made

    async def async_post_call_streaming_iterator_hook(
        self,
        user_api_key_dict: Any,  # noqa: ANN401, ARG002 - LiteLLM's signature
        response: AsyncIterator[Any],
        request_data: dict[str, Any],
    ) -> AsyncGenerator[Any, None]:
        """Judge a reply as it comes: yield its chunks as they may go on, what could still become a form held back.

        Raises:
            GuardrailRaisedException: The rest of the reply is refused.
        """
        snapshot = self._begun_with(request_data) or self._gatekeeper.current
        if not are_ruled(snapshot.guard.policy):
            async for chunk in response:
                yield chunk
            return
        chunks = Chunks(lambda first: self._open(first, request_data, snapshot))
        try:
            async for chunk in response:
                # An error of the upstream's goes on as it is; one in here is a refusal.
                with self._closed():
                    made, refusal = chunks.feed(chunk)
                for one in made:
                    yield one
                self._check(refusal)
            with self._closed():
                made, refusal = chunks.finish()
            for one in made:
                yield one
            self._check(refusal)
        finally:
            decision = chunks.close()
            if decision is not None:
                self._record(decision, request_data, GuardrailEventHooks.post_call)

    async def async_logging_hook(
        self,
        kwargs: dict[str, Any],
        result: Any,  # noqa: ANN401 - LiteLLM's signature
        call_type: str,
    ) -> tuple[dict[str, Any], Any]:
        """Judge a call that is over, for the log alone: nothing is refused or changed."""
        self._running.start()
        return await asyncio.to_thread(self.logging_hook, kwargs, result, call_type)

    def logging_hook(
        self,
        kwargs: dict[str, Any],
        result: Any,  # noqa: ANN401 - LiteLLM's signature
        call_type: str,
    ) -> tuple[dict[str, Any], Any]:
        """Judge a call that is over, for the log alone: nothing is refused or changed."""
        snapshot = self._gatekeeper.current
        scratch: dict[str, Any] = {"metadata": {}}
        body, protocol = read_logged(kwargs, call_type)
        call = self._call(kwargs, call_type)
        asked = self._gatekeeper.judge_request(body, protocol, call, snapshot)
        self._record(asked.decision, scratch, GuardrailEventHooks.logging_only)
        reply = kwargs.get("async_complete_streaming_response") or kwargs.get("complete_streaming_response") or result
        spoken = protocol_of_reply(reply)
        if spoken is not None and are_ruled(snapshot.guard.policy):
            said = self._gatekeeper.judge_reply(to_json(reply), spoken, call, snapshot)
            self._record(said.decision, scratch, GuardrailEventHooks.logging_only)
        logged = kwargs.get("standard_logging_object")
        if not isinstance(logged, dict):
            return kwargs, result
        found = scratch["metadata"].get("standard_logging_guardrail_information", [])
        told = {**logged, "guardrail_information": [*(logged.get("guardrail_information") or ()), *found]}
        return {**kwargs, "standard_logging_object": told}, result

    async def apply_guardrail(
        self,
        inputs: Any,  # noqa: ANN401 - LiteLLM's GenericGuardrailAPIInputs
        request_data: dict[str, Any],
        input_type: str,
        logging_obj: Any = None,  # noqa: ANN401, ARG002 - LiteLLM's signature
    ) -> Any:  # noqa: ANN401 - LiteLLM's GenericGuardrailAPIInputs
        """Judge extracted texts, for the proxy's `/guardrails/apply_guardrail`; traffic takes the other hooks.

        Raises:
            GuardrailRaisedException: They are refused.
        """
        names = {"texts": "texts", "messages": "structured_messages", "tools": "tools", "tool_calls": "tool_calls"}
        taken = Inputs(**{ours: inputs.get(theirs) for ours, theirs in names.items()})
        if input_type != "request" and not are_ruled(self._gatekeeper.current.guard.policy):
            return inputs
        judge = judge_request if input_type == "request" else judge_reply
        hook = GuardrailEventHooks.pre_call if input_type == "request" else GuardrailEventHooks.post_call
        with self._closed():
            judged = await asyncio.to_thread(
                judge, self._gatekeeper, taken, self._call(request_data, "apply_guardrail")
            )
            self._record(judged.outcome.decision, request_data, hook)
            self._check(judged.outcome.refusal)
        made = {theirs: getattr(judged.inputs, ours) for ours, theirs in names.items()}
        return {**inputs, **{name: value for name, value in made.items() if value is not None}}

    @contextmanager
    def _closed(self) -> Iterator[None]:
        """Make a refusal of whatever breaks: LiteLLM would show an error's own text, which can quote."""
        try:
            yield
        except GuardrailRaisedException:
            raise
        except BaseException as error:
            if not is_failure(error):
                raise
            raise self._error(refuse(error)) from None

    def _call(self, data: Mapping[str, Any], call_type: object) -> Call:
        call_id = data.get("litellm_call_id")
        return Call(
            f"litellm:{getattr(call_type, 'value', call_type)}", sane_id(call_id) if isinstance(call_id, str) else None
        )

    def _open(self, chunk: Any, data: Mapping[str, Any], snapshot: Snapshot) -> ReplyGate:  # noqa: ANN401 - any class
        call_type = _call_type_of(data)
        protocol = protocol_of_stream(chunk, call_type)
        if protocol is None:
            message = "A streamed reply of this kind cannot be judged. Ask for it whole, or guard replies elsewhere."
            raise self._error(Refusal(Blame.SHAPE, "request.protocol", "", message))
        return self._gatekeeper.open_reply(protocol, self._call(data, call_type), snapshot)

    def _begin(self, data: Mapping[str, Any], snapshot: Snapshot) -> None:
        log = data.get("litellm_logging_obj")
        if log is not None:
            self._begun[log] = snapshot

    def _begun_with(self, data: Mapping[str, Any]) -> Snapshot | None:
        log = data.get("litellm_logging_obj")
        return None if log is None else self._begun.get(log)

    def _check(self, refusal: Refusal | None) -> None:
        if refusal is not None:
            raise self._error(refusal)

    def _error(self, refusal: Refusal) -> GuardrailRaisedException:
        match refusal.blame:
            case Blame.POLICY | Blame.SHAPE:
                judged = True
            case Blame.FAILURE:
                judged = False
            case _:
                assert_never(refusal.blame)
        return GuardrailRaisedException(
            guardrail_name=self.guardrail_name,
            message=refusal.message,
            should_wrap_with_default_message=False,
            status_code=400 if judged else 500,
            blocked_content=judged,
        )

    def _record(self, decision: Decision, data: dict[str, Any], hook: GuardrailEventHooks) -> None:
        rules: dict[str, int] = {}
        for violation in decision.violations:
            rules[violation.rule] = rules.get(violation.rule, 0) + violation.count
        told = {"action": decision.action.value, "changed": decision.changed, "findings": decision.count}
        if decision.refusal is not None:
            told["rule"] = decision.refusal.rule
        details = [{"rule": v.rule, "path": v.path, "action": v.action.value} for v in decision.violations[:_SHOWN]]
        self.add_standard_logging_guardrail_information_to_request_data(
            guardrail_json_response=told,
            request_data=data,
            guardrail_status=_status_of(decision),
            start_time=decision.started,
            end_time=decision.started + decision.seconds,
            duration=decision.seconds,
            masked_entity_count=rules,
            guardrail_provider=_PROVIDER,
            event_type=hook,
            tracing_detail={
                "guardrail_id": decision.id,
                "policy_template": decision.snapshot.guard.policy.name,
                "detection_method": "control-tokens",
                "match_details": details,
                "patterns_checked": len(decision.snapshot.guard.ruleset.forms),
                "guardrail_action": decision.action.value,
            },
        )


def _call_type_of(data: Mapping[str, Any]) -> object:
    return getattr(data.get("litellm_logging_obj"), "call_type", "reply")


def _status_of(decision: Decision) -> Any:  # noqa: ANN401 - one of LiteLLM's words
    if decision.refusal is not None:
        is_failure = decision.refusal.blame is Blame.FAILURE
        return "guardrail_failed_to_respond" if is_failure else "guardrail_intervened"
    if decision.changed:
        return "guardrail_intervened"
    return "guardrail_flagged" if decision.count else "success"
