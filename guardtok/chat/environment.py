"""A Jinja environment that renders as transformers' does, and in which every character keeps its label.

What the template itself says is wrapped when it is compiled: its literals are the only characters that are labelled
`template`. Everything else has the label that it came in with, or, where a filter or a method of Jinja's drops it,
none; so a way through Jinja that nobody thought of makes a decision stricter, never looser. Nothing is marked in the
text, so there is no mark to forge.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS, do_title, make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace, pass_eval_context
from markupsafe import Markup

from guardtok.chat.json_text import to_json
from guardtok.chat.labels import TEMPLATE
from guardtok.chat.safe_text import SafeText, as_safe, escape
from guardtok.text import UNKNOWN, Text, recased

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from jinja2.nodes import EvalContext
    from jinja2.parser import Parser
    from jinja2.runtime import Context, Macro

_NOTHING = Text("", source=UNKNOWN)
_NOT_FOR_TEMPLATES = frozenset({"runs"})
"""What a `Text` has and a `str` has not."""


GENERATED = "{% generation %}"
"""The variable, of a name that no template can say, of a list of what stood in `{% generation %}` blocks, in order."""


class ChatCodeGenerator(CodeGenerator):
    """Compiles a template so that its literals are `Text` of source `template`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as Jinja has it
        super().__init__(*args, **kwargs)
        self._literals: dict[str, str] = {}

    def _literal(self, value: str) -> str:
        """Return the name of a literal, which the compiled module makes once."""
        return self._literals.setdefault(value, f"literal_{len(self._literals)}")

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:  # noqa: N802 - Jinja's name
        """Write the module, and behind it the literals that its functions read."""
        super().visit_Template(node, frame)
        for value, name in self._literals.items():
            self.writeline(f"{name} = environment.label_literal({str.__str__(value)!r})")

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        """Write a constant; one that was folded can be a list of strings."""
        self.write(self._spell(node.as_const(frame.eval_ctx)))

    def _spell(self, value: Any) -> str:  # noqa: ANN401 - any constant
        match value:
            case str():
                return self._literal(value)
            case list():
                return f"[{', '.join(map(self._spell, value))}]"
            case tuple():
                return f"({''.join(self._spell(item) + ', ' for item in value)})"
            case dict():
                return f"{{{', '.join(f'{self._spell(key)}: {self._spell(item)}' for key, item in value.items())}}}"
            case float():
                return str(value)
            case _:
                return repr(value)

    def visit_TemplateData(self, node: nodes.TemplateData, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        """Write a stretch of the template itself."""
        try:
            self.write(self._literal(node.as_const(frame.eval_ctx)))
        except nodes.Impossible:  # Whether it is escaped is known when it is rendered.
            super().visit_TemplateData(node, frame)

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return self._literal("".join(map(str, group)))

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo) -> None:
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            super()._output_child_pre(node, frame, finalize)
        else:
            self.write("environment.soften(")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        """Write `a ~ b`."""
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            super().visit_Concat(node, frame)
            return
        self.write("environment.join_softly((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Generation(Extension):
    """The block `{% generation %}`."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marking = self.call_method("_mark", [nodes.ContextReference()])
        return nodes.CallBlock(marking, [], [], body).set_lineno(line)

    def _mark(self, context: Context, caller: Macro) -> Text:
        text = _NOTHING.join([caller()])
        marked: list[Text] | None = context.get(GENERATED)
        if marked is not None:
            marked.append(text)
        return text


class _Formatter(SandboxedFormatter):
    """`str.format` whose literals keep the label of the format, and whose bare fields keep theirs."""

    def vformat(self, format_string: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        plain = super().vformat(str.__str__(format_string), args, kwargs)
        sources = {run.source for run in format_string.runs} if isinstance(format_string, Text) else {UNKNOWN}
        if len(sources) != 1:
            return plain
        (source,) = sources
        pieces: list[str] = []
        automatic = 0
        for literal, name, spec, conversion in self.parse(str.__str__(format_string)):
            pieces.append(Text(literal, source=source))
            if name is None:
                continue
            if name == "":
                name, automatic = str(automatic), automatic + 1  # noqa: PLW2901 - `{}` counts by itself
            value, _ = self.get_field(name, args, kwargs)
            bare = isinstance(value, str) and not spec and not conversion
            pieces.append(
                value
                if bare
                else super().vformat(f"{{0!{conversion}:{spec}}}" if conversion else f"{{0:{spec}}}", (value,), {})
            )
        spelled = _NOTHING.join(pieces)
        return spelled if spelled == plain else plain


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The environment; it holds no state of a rendering and can be shared."""

    code_generator_class = ChatCodeGenerator

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.filters.update(
            tojson=to_json, join=_join, safe=as_safe, replace=_replace, title=_title, indent=_indent,
            escape=escape, e=escape, forceescape=_force_escape,
        )  # fmt: skip
        self.globals.update(raise_exception=_raise, strftime_now=_now, dict=_Dict(), namespace=_Namespace)

    @staticmethod
    def concat(parts: Iterable[str]) -> Text:  # Jinja's is "".join
        """Join what a block wrote."""
        return _NOTHING.join(parts)

    @staticmethod
    def label_literal(value: str) -> Text:
        """Label what the template itself says."""
        return Text(value, source=TEMPLATE)

    @staticmethod
    def soften(value: object) -> str:
        """Return a string as it is and anything else as a plain string: nobody knows who wrote a number."""
        return value if isinstance(value, str) else str(value)

    def join_softly(self, parts: Iterable[object]) -> Text:
        """Join the operands of `~`."""
        return _NOTHING.join(map(self.soften, parts))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:  # noqa: ANN401 - as Jinja has it
        """Refuse what a string in a template does not have."""
        if attr in _NOT_FOR_TEMPLATES and isinstance(obj, Text):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:  # noqa: ANN401 - as Jinja has it
        """Replace the methods `format` and `format_map` of strings."""
        owner = getattr(value, "__self__", None)
        name = getattr(value, "__name__", "")
        if not isinstance(owner, Text) or name not in {"format", "format_map"}:
            return super().wrap_str_format(value)
        if isinstance(owner, SafeText):
            # Seldom enough that the labels need not be kept: markupsafe knows how to escape what is formatted.
            return super().wrap_str_format(getattr(Markup(str.__str__(owner)), name))  # noqa: S704 - it is HTML already
        formatter = _Formatter(self)

        def format_text(*args: Any, **kwargs: Any) -> str:  # noqa: ANN401 - as `str` has it
            if name == "format_map":
                (mapping,) = args
                return formatter.vformat(owner, (), mapping)
            return formatter.vformat(owner, args, kwargs)

        return format_text


class _Dict:
    """What a template may do with `dict`."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:  # noqa: ANN401 - as `dict` has it
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:  # noqa: ANN401 - as `dict` has it
        """Return a dictionary with one value for all keys."""
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """A namespace that stores nothing under a name with an underscore before it."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - so that `namespace(self=…)` works too
        own, *given = args
        attributes = dict(*given, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(own, attributes)

    def __setitem__(self, name: str, value: Any) -> None:  # noqa: ANN401 - as Jinja has it
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError("A template stores nothing under a name that begins with an underscore.")


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    """Write the date by a pattern; what it says besides dates is the pattern's."""
    text = datetime.now().strftime(pattern)  # noqa: DTZ005 - the local date, as in transformers
    sources = {run.source for run in pattern.runs} if isinstance(pattern, Text) else set()
    return Text(text, source=sources.pop()) if len(sources) == 1 else text


@pass_eval_context
def _join(context: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    if context.autoescape:
        return FILTERS["join"](context, value, d, attribute)  # type: ignore[no-any-return]
    if attribute is not None:
        value = map(make_attrgetter(context.environment, attribute), value)
    return _NOTHING.join(_between(map(ChatEnvironment.soften, value), ChatEnvironment.soften(d)))


def _between(parts: Iterable[str], separator: str) -> Iterable[str]:
    for number, part in enumerate(parts):
        if number and separator:
            yield separator
        yield part


@pass_eval_context
def _replace(context: EvalContext, s: Any, old: str, new: str, count: int | None = None) -> str:  # noqa: ANN401
    if context.autoescape:
        return FILTERS["replace"](context, s, old, new, count)  # type: ignore[no-any-return]
    text, new = ChatEnvironment.soften(s), ChatEnvironment.soften(new)
    if not isinstance(text, Text):
        return text.replace(str(old), new, -1 if count is None else count)
    # Not the method: outside autoescape the filter does not escape, whatever is HTML already.
    return Text.replace(text, str(old), new, -1 if count is None else count)


def _title(s: object) -> str:
    text = ChatEnvironment.soften(s)
    return recased(text, do_title(str.__str__(text)))


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:  # noqa: FBT001, FBT002
    # What the filter itself puts in, the ends of lines too, is nobody's.
    indention, newline = (
        ChatEnvironment.soften(width if isinstance(width, str) else " " * width),
        Text("\n", source=UNKNOWN),
    )
    lines = [*(s + newline).splitlines()]
    rest = [indention + line if line or blank else line for line in lines[1:]]
    text = newline.join([*lines[:1], *rest])
    return indention + text if first else text


def _force_escape(value: object) -> SafeText:
    return escape(str.__str__(value.__html__()) if hasattr(value, "__html__") else value)
