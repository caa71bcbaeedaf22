"""A body → a copy of it that shares nothing with the caller's, and a list of every string and key in it, with labels.

Bodies come from the network. What is no JSON is refused here, by place; so are bodies of too many parts, or of too many
inside one another, so that nothing behind this has to fear them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from typing_extensions import assert_never

from guardtok.chat.labels import source_of_role
from guardtok.errors import LimitError
from guardtok.policy.model import CallerTemplate, TokenIds
from guardtok.requests.arguments import UnreadableError, read_escapes, read_json
from guardtok.requests.chains import find_chains
from guardtok.requests.labels import STAND_INS, Kind, Label, Shape
from guardtok.requests.paths import spell
from guardtok.requests.roles import is_role, say_unknown
from guardtok.requests.token_ids import are_ids, copy_ids, find_reserved
from guardtok.text import UNKNOWN, Text
from guardtok.violation import Mode, visible

if TYPE_CHECKING:
    from guardtok.requests.chains import Chain
    from guardtok.requests.ledger import Ledger
    from guardtok.requests.paths import Node
    from guardtok.ruleset import Ruleset

MAX_DEPTH = 100
"""Lists and mappings inside one another."""

MAX_PARTS = 100_000
"""Strings, keys, lists and mappings of one body."""

_NUMBERS = frozenset({bool, int, float})
_SHAPES: dict[Shape, tuple[type, ...]] = {
    Shape.ANY: (object,),
    Shape.MAPPING: (dict,),
    Shape.LIST: (list, tuple),
    Shape.CONTENT: (str, list, tuple),
}
_NO_TEMPLATE = (
    "a chat template is code that writes control tokens, and the policy takes none from callers. Leave it out, or say "
    "`requests: {chat_template: allow}`."
)
_NO_IDS = (
    "token ids get past every rule about text, and the policy takes none. Send text, or say "
    "`requests: {token_ids: check}`."
)
_NO_EMBEDDINGS = (
    "embeddings get past every rule about text, and nobody can check them. Send text, or say "
    "`requests: {token_ids: allow}`."
)
_UNNAMED = Label(UNKNOWN)
_TOO_DEEP = f"more than {MAX_DEPTH} lists and mappings inside one another. Flatten it."
_TOO_MANY = f"the body has more than {MAX_PARTS:,} strings, keys, lists and mappings. Split the request."


@dataclass(slots=True)
class Inside:
    """What a string of JSON holds: the copy of its content, alone in a list, and whether it is to be written again."""

    holder: list[Any]
    rewrite: bool


class Leaf(NamedTuple):
    """A string in the copy of a body, or the key of a mapping in it.

    Attributes:
        holder: The list or mapping of the copy that holds it.
        step: Its index or key there.
        text: The string, as the caller gave it; for a key the key.
        label: Its label.
        node: The place of the holder.
        inside: For a string of JSON that was read: what it holds.
        reread: Whether this is what the escapes spell in a string that is listed before it, and is no JSON.
    """

    holder: Any
    step: Any
    text: str
    label: Label
    node: Node | None
    inside: Inside | None = None
    reread: bool = False

    @property
    def place(self) -> Node:
        """Where it is."""
        return self.node, self.step


class BodyError(Exception):
    """A body that cannot be walked to its end, for it has too many parts. Never leaves this package."""

    def __init__(self, place: Node) -> None:
        super().__init__(_TOO_MANY)
        self.place = place


class Walk:
    """One walk over one body.

    Attributes:
        leaves: Every string in it that is not empty, in the order of the document.
        keys: Every key in it that no label names.
        chains: Lists of strings that a template may join. One string may be in several.
        mixed: Whether a `Text`, which knows its sources, is among the strings.
    """

    __slots__ = ("_ledger", "_parts", "_room", "_ruleset", "_stand_ins", "chains", "keys", "leaves", "mixed")

    def __init__(self, ruleset: Ruleset, ledger: Ledger) -> None:
        self._ruleset = ruleset
        self._ledger = ledger
        self._parts = MAX_PARTS
        self._room = ruleset.policy.limits.max_chars
        self._stand_ins = {name: other for name, other in STAND_INS.items() if name not in ruleset.modes}
        self.mixed = False
        self.leaves: list[Leaf] = []
        self.keys: list[Leaf] = []
        self.chains: list[Chain] = []

    def source_of(self, label: Label) -> str:
        """Return the source of a label under the policy at hand."""
        return self._stand_ins.get(label.source, label.source)

    def copy(  # noqa: C901, PLR0911, PLR0913, PLR0917 - a case for each type; a value, its label, and where it lies
        self,
        value: Any,  # noqa: ANN401 - any JSON value
        label: Label,
        holder: Any,  # noqa: ANN401 - a list or mapping
        step: Any,  # noqa: ANN401 - an index or key
        node: Node | None,
        depth: int = 0,
    ) -> Any:  # noqa: ANN401 - any JSON value
        """Return a copy of a value, of exact JSON types; note its strings and keys.

        Args:
            value: The value.
            label: Its label.
            holder: The list or mapping of the copy that is to hold it.
            step: Its index or key there.
            node: The place of that list or mapping.
            depth: How many lists and mappings hold it.

        Raises:
            BodyError: The body has too many parts.
            LimitError: It has more characters than the policy takes.
        """
        if label.shape is not Shape.ANY and value is not None and not isinstance(value, _SHAPES[label.shape]):
            self._refuse((node, step), f"{label.shape.value} is needed here, not {name_type(value)}.")
            label = _UNNAMED
        kind = label.kind
        if kind is not Kind.TEXT:
            if kind is Kind.TEMPLATE:
                return self._take_template(value, (node, step))
            if kind is Kind.EMBEDDINGS:
                self._refuse_embeddings(value, (node, step))
                return self.copy(value, _UNNAMED, holder, step, node, depth)
            if kind is Kind.IDS or (kind is Kind.PROMPT and are_ids(value)):
                return self._take_ids(value, label, (node, step))
        if isinstance(value, str):
            return self._take_string(value, label, holder, step, node)
        if value is None or type(value) in _NUMBERS:
            return value
        place = (node, step)
        if depth >= MAX_DEPTH:
            return self._refuse(place, _TOO_DEEP)
        if isinstance(value, dict):
            self._count(0, place)
            return self._copy_mapping(value, label, place, depth)
        if isinstance(value, (list, tuple)):
            self._count(0, place)
            return self._copy_list(value, label, place, depth)
        if isinstance(value, int):
            return int.__int__(value)
        if isinstance(value, float):
            return float.__float__(value)
        return self._refuse(place, f"a JSON value is needed, not {name_type(value)}.")

    def _copy_mapping(self, value: dict[Any, Any], label: Label, place: Node, depth: int) -> dict[str, Any]:
        if label.by:
            label = self._choose(value, label, place)
        made: dict[str, Any] = {}
        fields, other = label.fields, label.other
        for given, item in value.items():
            key = given
            if type(key) is not str:
                if not isinstance(key, str):
                    self._refuse(place, f"a key is a string, not {name_type(key)}.")
                    continue
                key = str.__str__(key)
            named = fields.get(key)
            if named is None:
                self._count(len(key), place)
                if key:
                    self.keys.append(Leaf(made, key, key, label, place))
                named = other if label.guess is None else label.guess(key, item) or other
            if type(item) is str and named.kind is Kind.TEXT and named.shape is Shape.ANY:
                # Nearly everything is a plain string: it is taken here, without a call.
                self._count(len(item), place)
                if item:
                    self.leaves.append(Leaf(made, key, item, named, place))
                made[key] = item
            else:
                made[key] = self.copy(item, named, made, key, place, depth + 1)
        return made

    def _copy_list(self, value: list[Any] | tuple[Any, ...], label: Label, place: Node, depth: int) -> list[Any]:
        made: list[Any] = []
        items = label.item
        for index, item in enumerate(value):
            made.append(self.copy(item, items, made, index, place, depth + 1))
        if label.joined:
            self.chains += find_chains(made, thoughts=label.thoughts)
        return made

    def _take_string(self, value: str, label: Label, holder: Any, step: Any, node: Node | None) -> str:  # noqa: ANN401 - as copy
        place = (node, step)
        self._count(len(value), place)
        plain = value if type(value) is str else str.__str__(value)
        if plain:
            if label.kind is Kind.JSON and isinstance(value, Text):
                label = self._label_json(value, place)
            inside = None
            # Without an escape in it, all that JSON holds is spelled in it.
            if label.kind is Kind.JSON and "\\" in plain:
                inside = self.look_inside(plain, label, place)
            self.mixed = self.mixed or isinstance(value, Text)
            leaf = Leaf(holder, step, value if isinstance(value, Text) else plain, label, node, inside)
            self.leaves.append(leaf)
            if label.kind is Kind.JSON and inside is None:
                self._look_leniently(leaf, plain)
        return plain

    def _label_json(self, value: Text, place: Node) -> Label:
        """Return the label of JSON that knows who wrote it, which goes for what it decodes to as well."""
        sources = {run.source for run in value.runs}
        if len(sources) == 1 and sources <= self._ruleset.modes.keys():
            return Label(sources.pop(), kind=Kind.JSON)
        if "\\" in value:
            self._refuse(place, "JSON with escapes that several sources wrote: nobody can say whose an escape is.")
        # Without an escape, all that it holds is spelled in it.
        return _UNNAMED

    def look_inside(self, text: str, label: Label, place: Node) -> Inside | None:
        """Read a string of JSON, if it is one, and walk what it holds."""
        inner = None
        try:
            inner = read_json(text)
        except UnreadableError as error:
            self._refuse(place, str(error))
        if inner is None:
            return None
        # Readers differ in which of two equal keys counts; what goes on has one of each.
        enforced = self._ruleset.modes[self.source_of(label)] is Mode.ENFORCE
        inside = Inside([], inner.repeated and enforced)
        room, self._room = self._room, self._room + len(text)  # Its characters were counted with the string.
        inside.holder.append(self._copy_inner(inner.value, Label(label.source), inside.holder, place))
        self._room = room
        return inside

    def _look_leniently(self, leaf: Leaf, text: str) -> None:
        """Note what a lenient parser may read in a string that is no JSON; that goes on as it is or not at all."""
        read = read_escapes(text)
        if read != text:
            label = Label(leaf.label.source, kind=Kind.VERBATIM)
            self.leaves.append(leaf._replace(text=read, label=label, reread=True))

    def _copy_inner(self, value: Any, label: Label, holder: list[Any], place: Node) -> Any:  # noqa: ANN401 - any JSON value
        # Its content lies where the string lies, and not below an index.
        if isinstance(value, dict):
            self._count(0, place)
            return self._copy_mapping(value, label, place, 1)
        if isinstance(value, list):
            self._count(0, place)
            return self._copy_list(value, label, place, 1)
        return self.copy(value, label, holder, 0, place)

    def _choose(self, value: dict[Any, Any], label: Label, place: Node) -> Label:
        said = value.get(label.by)
        if label.speaker is None:
            return label.cases.get(said, label) if isinstance(said, str) else label
        kind = value.get("type")
        if isinstance(kind, str) and kind in label.cases:
            return label.cases[kind]
        where = (place, label.by)
        if said is None and label.cases and isinstance(kind, str):
            return Label(UNKNOWN, label.fields)
        if not isinstance(said, str):
            self._refuse(where, f"a message needs a {label.by}, such as 'user'; this one has {name_type(said)}.")
            return label.speaker(UNKNOWN)
        role, policy = str.__str__(said), self._ruleset.policy
        if not is_role(role, policy):
            self._ledger.object_to("request.role", spell(where), say_unknown(role, policy), len(role))
            return label.speaker(UNKNOWN)
        return label.speaker(source_of_role(role, self._ruleset.modes))

    def _take_template(self, value: Any, place: Node) -> str | None:  # noqa: ANN401 - any JSON value
        if value is None:
            return None
        if not isinstance(value, str):
            self._refuse(place, f"a chat template is a string, not {name_type(value)}.")
            return None
        self._count(len(value), place)
        if self._ruleset.policy.requests.chat_template is CallerTemplate.REFUSE:
            self._ledger.object_to("request.chat_template", spell(place), _NO_TEMPLATE, len(value))
        return str.__str__(value)

    def _refuse_embeddings(self, value: object, place: Node) -> None:
        if value is not None and self._ruleset.policy.requests.token_ids is not TokenIds.ALLOW:
            self._ledger.object_to("request.token_ids", spell(place), _NO_EMBEDDINGS)

    def _take_ids(self, value: Any, label: Label, place: Node) -> Any:  # noqa: ANN401 - any JSON value
        if value is None:
            return None
        copied = copy_ids(value)
        if copied is None:
            return self._refuse(place, "token ids are integers: one, a list, a list of lists, or keys of numbers.")
        made, ids = copied
        fact = None
        match self._ruleset.policy.requests.token_ids:
            case TokenIds.DENY if ids:
                fact = _NO_IDS
            case TokenIds.CHECK:
                fact = find_reserved(ids, self.source_of(label), self._ruleset)
            case TokenIds.DENY | TokenIds.ALLOW:
                pass
            case other:
                assert_never(other)
        if fact is not None:
            self._ledger.object_to("request.token_ids", spell(place), fact)
        return made

    def _refuse(self, place: Node, fact: str) -> None:
        """Note that a value has the wrong shape. The walk goes on without it, so that all there is is reported."""
        self._ledger.give_up("request.shape", spell(place), fact)

    def _count(self, characters: int, place: Node) -> None:
        self._parts -= 1
        self._room -= characters
        if self._parts < 0:
            raise BodyError(place)
        if self._room < 0:
            limit = self._ruleset.policy.limits.max_chars
            raise LimitError(
                f"The body has more than the {limit:,} characters that the policy takes. "
                "Cut it, or raise `limits.max_chars`."
            )


def name_type(value: object) -> str:
    """Return what a value is, without the value."""
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", dict: "a mapping", list: "a list", int: "a number", float: "a number"}
    return names.get(type(value), f"a value of type {visible(type(value).__name__)}")
