"""What a template itself wrote: the oracle of the forgery benchmark, which shares nothing with guardtok.

The template's own text is moved into another alphabet before it is rendered: every character of a literal that goes to
the output becomes the same character, 0x100000 higher. Literals that are compared or given to a function stay, so the
template takes the same branches and removes the same text. In what comes out, the high characters are the template's
and all others somebody else's. Moved back it must be, byte for byte, what transformers renders; else nothing is said.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    import jinja2

HIGH = 0x100000
ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
_STAYS = "\"'&"
_PASSES_ON = {"trim", "safe", "string"}


class Written(NamedTuple):
    """A rendered chat, and which of its characters the template wrote.

    Attributes:
        text: What transformers renders.
        own: For each character, whether the template wrote it.
    """

    text: str
    own: tuple[bool, ...]

    def tokens(self, forms: re.Pattern[str]) -> list[tuple[int, str]]:
        """Return place and form of each control token that the template wrote whole, leftmost and longest first."""
        return [(match.start(), match.group()) for match in forms.finditer(self.text) if self._is_own(match)]

    def carries(self, form: str) -> bool:
        """Return whether the form stands somewhere that the template did not write whole."""
        overlapping = re.finditer(f"(?={re.escape(form)})", self.text)
        return any(not all(self.own[place.start() : place.start() + len(form)]) for place in overlapping)

    def _is_own(self, match: re.Match[str]) -> bool:
        return all(self.own[match.start() : match.end()])


def pattern_of(forms: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of these forms, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))) or "(?!)")


def write(template: str, plain: str, arguments: dict[str, Any], tokens: dict[str, str]) -> Written | None:
    """Render with the template's text in the high alphabet.

    Args:
        template: The Jinja source.
        plain: What transformers renders for the same arguments.
        arguments: Everything that the template is given but its special tokens.
        tokens: `bos_token` and its kin, which are the template's too.

    Returns:
        The text with its labels, or None where the two renderings differ.
    """
    high = {name: _raise(text) for name, text in tokens.items()}
    rendered = _compile(template).render(**{**high, **arguments})
    own = tuple(ord(character) >= HIGH for character in rendered)
    text = "".join(
        chr(ord(character) - HIGH) if mine else character for character, mine in zip(rendered, own, strict=True)
    )
    return Written(text, _with_roles(text, own)) if text == plain else None


def _with_roles(text: str, own: tuple[bool, ...]) -> tuple[bool, ...]:
    """Count a known role between two pieces of the template's text as the template's: `'<|' + role + '|>'`."""
    labels = list(own)
    for match in re.finditer("|".join(ROLES), text):
        low, high = match.span()
        if not any(own[low:high]) and low and high < len(own) and own[low - 1] and own[high]:
            labels[low:high] = [True] * (high - low)
    return tuple(labels)


def _raise(text: str) -> str:
    """Move text to the high alphabet, but for white space, which `trim` sees, and quotes, which `safe` escapes."""
    return "".join(c if c.isspace() or c in _STAYS or ord(c) > 0xFFFF else chr(ord(c) + HIGH) for c in text)


@functools.lru_cache(maxsize=256)
def _compile(template: str) -> jinja2.Template:
    from jinja2 import nodes
    from transformers.utils.chat_template_utils import _compile_jinja_template

    environment = _compile_jinja_template(template).environment
    tree = environment.parse(template)
    for node in tree.find_all(nodes.TemplateData):
        node.data = _raise(node.data)
    for output in tree.find_all(nodes.Output):
        output.nodes = [_tag(node) for node in output.nodes]
    for assignment in tree.find_all(nodes.Assign):
        assignment.node = _tag(assignment.node)
    return environment.from_string(tree)


def _tag(node: Any) -> Any:  # noqa: ANN401 - Jinja builds its nodes without types
    """Return an expression with the literals raised whose characters go on to its value."""
    from jinja2 import nodes

    match node:
        case nodes.Const(value=str(value)):
            return nodes.Const(_raise(value)).set_lineno(node.lineno)
        case nodes.Add():
            node.left, node.right = _tag(node.left), _tag(node.right)
        case nodes.Concat():
            node.nodes = [_tag(part) for part in node.nodes]
        case nodes.CondExpr():
            node.expr1, node.expr2 = _tag(node.expr1), node.expr2 and _tag(node.expr2)
        case nodes.Filter(name=name) if name in _PASSES_ON:
            node.node = _tag(node.node)
        case nodes.List():
            node.items = [_tag(item) if isinstance(item, nodes.Add) else item for item in node.items]
        case _:
            pass
    return node
