"""From the wire to a dialect and back: a body is read under its cap, judged in a thread, and answered in any case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guardtok.errors import RequestError, is_failure
from guardtok.gateway import bodies
from guardtok.gateway.decision import Blame, Call, Refusal, sane_id
from guardtok.gateway.refusing import refuse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from guardtok.gateway.gatekeeper import Gatekeeper


@dataclass(frozen=True, slots=True)
class Answer:
    """What a dialect says.

    Attributes:
        body: A JSON value.
        status: The HTTP status.
        decision_id: Of the decision that it tells, for `x-guardtok-decision-id`.
    """

    body: Any
    status: int = 200
    decision_id: str | None = None


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one kind of caller asks, and how it is answered.

    Attributes:
        name: For people, and the `route` of decisions is its path.
        path: Where it is asked.
        judge: Takes the gatekeeper, the parsed body and who calls. A RequestError that it raises is refused.
        refuse: Makes the answer where nothing was judged, for the body cannot be read or guardtok failed; takes the
            refusal and the decision's id, if there is one.
    """

    name: str
    path: str
    judge: Callable[[Gatekeeper, Any, Call], Answer]
    refuse: Callable[[Refusal, str | None], Answer]


def make_endpoint(dialect: Dialect, gatekeeper: Gatekeeper, max_body: int) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint that speaks a dialect."""
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response

    async def answer(request: Request) -> Response:
        headers = request.scope["headers"]
        call = Call(
            dialect.path, sane_id(request.headers.get("x-request-id")), request.client.host if request.client else None
        )
        try:
            encoding = bodies.encoding_of(headers)
            raw = await bodies.read(request.receive, max_body, headers)
        except RequestError as error:
            return respond(_turn_away(dialect, gatekeeper, error, call))
        except bodies.DisconnectedError:
            return Response(status_code=400)  # Nobody hears it.
        # A large body takes a tenth of a second: others are served meanwhile.
        return respond(await run_in_threadpool(_judge, dialect, gatekeeper, raw, encoding, max_body, call))

    def respond(given: Answer) -> Response:
        headers = {} if given.decision_id is None else {"x-guardtok-decision-id": given.decision_id}
        try:
            body = bodies.dump(given.body)
        except (RequestError, ValueError):
            # Something that is not judged, and is given back, cannot be said in UTF-8.
            refusal = Refusal(Blame.SHAPE, bodies.BAD_JSON, "$", "The body holds text that is no text.")
            given = dialect.refuse(refusal, given.decision_id)
            body = bodies.dump(given.body)
        return Response(body, given.status, headers, media_type="application/json")

    return answer


def _judge(  # noqa: PLR0913, PLR0917 - what a thread is handed
    dialect: Dialect, gatekeeper: Gatekeeper, raw: bytes, encoding: str, max_body: int, call: Call
) -> Answer:
    try:
        return dialect.judge(gatekeeper, bodies.parse(bodies.decode(raw, encoding, max_body)), call)
    except BaseException as error:
        if not is_failure(error):
            raise
        return _turn_away(dialect, gatekeeper, error, call)


def _turn_away(dialect: Dialect, gatekeeper: Gatekeeper, error: BaseException, call: Call) -> Answer:
    try:
        decision = gatekeeper.turn_away(error, dialect.name, call).decision
    except BaseException as broken:
        if not is_failure(broken):
            raise
        return dialect.refuse(refuse(broken), None)  # The gatekeeper is what broke.
    return dialect.refuse(decision.refusal or refuse(error), decision.id)
