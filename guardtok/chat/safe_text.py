"""What the filter `safe` makes: a `Text` that joins with other text as `markupsafe.Markup` does.

Chat templates write `"…"|safe + tool.name`, and Jinja then escapes the name for HTML. Whoever wants the same string as
an unguarded pipeline has to do so too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, SupportsIndex

from guardtok.text import UNKNOWN, Text, labelled, runs_of

if TYPE_CHECKING:
    from collections.abc import Iterable

_ENTITIES = (("&", "&amp;"), (">", "&gt;"), ("<", "&lt;"), ("'", "&#39;"), ('"', "&#34;"))


class SafeText(Text):
    """A text that is HTML already: what is joined to it is escaped, unless it is HTML too."""

    __slots__ = ()

    def __html__(self) -> SafeText:
        return self

    def __add__(self, other: str) -> SafeText:
        return as_safe(Text.__add__(self, escape(other))) if _can_join(other) else NotImplemented

    def __radd__(self, other: str) -> SafeText:
        return as_safe(Text.__radd__(self, escape(other))) if _can_join(other) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> SafeText:
        return as_safe(Text.__mul__(self, times))

    __rmul__ = __mul__

    def __mod__(self, values: Any) -> str:  # noqa: ANN401 - as `str` has it
        # Seldom enough that the labels need not be kept: markupsafe knows how to escape what is formatted.
        from markupsafe import Markup

        return as_safe(str.__str__(Markup(str.__str__(self)) % values))  # noqa: S704 - it is HTML already

    def join(self, parts: Iterable[str], /) -> SafeText:
        """Join `parts`, escaped, with this text between them."""
        return as_safe(Text.join(self, [escape(part) for part in parts]))

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> SafeText:
        """Return the text with `new`, escaped, in the place of `old`."""
        return as_safe(Text.replace(self, old, escape(new), count))


def _can_join(value: object) -> bool:
    return isinstance(value, str) or hasattr(value, "__html__")


def as_safe(value: object) -> SafeText:
    """Return text that counts as HTML from now on, its labels kept. What is no string becomes one."""
    text = value if isinstance(value, str) else str(value)
    return labelled(str.__str__(text), runs_of(text), SafeText)


def escape(value: object) -> SafeText:
    """Escape for HTML, as `markupsafe.escape` does; what is HTML already stays as it is."""
    if hasattr(value, "__html__"):
        return as_safe(value.__html__())
    text = value if isinstance(value, str) else str(value)
    for char, entity in _ENTITIES:
        if char in text:
            text = (text if isinstance(text, Text) else Text(text, source=UNKNOWN)).replace(char, entity)
    return as_safe(text)
