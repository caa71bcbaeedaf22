"""Envelopes of the dialects, checked where they come in. What lies in them is the walker's to check.

Peers add fields with every release, so what is not named is allowed; and it is not passed on.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, InstanceOf, ValidationError

from guardtok.errors import RequestError

# pydantic refuses strings with lone surrogates; what becomes of those is for the policy to say.
AnyText = Annotated[str, InstanceOf()]
Mapping = dict[AnyText, Any]

E = TypeVar("E", bound="Envelope")

_OTHER_TYPE = "this is of another type than is asked for."
_FACTS = {"missing": "this field is missing.", "extra_forbidden": "there is a field that nobody knows here."}


class Envelope(BaseModel):
    """A body of a dialect: its fields are of the types that they say, without coercion."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, protected_namespaces=())


def take(kind: type[E], body: object) -> E:
    """Return a body as the envelope that its dialect asks for.

    Raises:
        RequestError: It is none (`request.shape`). The first field that is wrong is named, and no value.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # Of what an error says, its type is one of a known few, and its place names fields of ours, but for one.
        unknown = first["type"] == "extra_forbidden"
        steps = first["loc"][:-1] if unknown else first["loc"]
        path = "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
        raise RequestError("request.shape", path, _FACTS.get(first["type"], _OTHER_TYPE)) from None
