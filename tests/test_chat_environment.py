"""The Jinja environment writes what transformers' own writes, and labels what it keeps."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError
from transformers.utils.chat_template_utils import _compile_jinja_template

from guardtok import Text
from guardtok.chat.environment import ChatEnvironment
from guardtok.chat.json_text import expand, to_json
from guardtok.chat.labelled import wrap
from guardtok.chat.labels import TOOLS, Label
from guardtok.text import UNKNOWN, runs_of

ENVIRONMENT = ChatEnvironment()
STRINGS = st.text(" \t\n'\"<>&\\/%{}abcABC_é😀ßİ-", max_size=10)
LEAVES = STRINGS | st.integers(-5, 5) | st.booleans() | st.none() | st.floats(allow_nan=False, width=16)
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(STRINGS, v, max_size=3), max_leaves=8)

EXPRESSIONS = [
    each.strip()
    for line in """
x ;; x ~ y ;; x + y ;; x * 3 ;; x | upper ;; x | lower ;; x | title ;; x | capitalize ;; x | trim ;; x | length
x.strip() ;; x.lstrip('a') ;; x.rstrip() ;; x.split() ;; x.split('a') ;; x.split('a', 1)[-1] ;; x.rsplit(None, 1)
x.splitlines() ;; x.replace('a', y) ;; x | replace('a', y) ;; x | replace('a', y, 1) ;; x.upper() ;; x.title()
x.swapcase() ;; x.partition('a') ;; x[1:] ;; x[:-1] ;; x[::-1] ;; x[::2] ;; x[0] ;; x[-1] ;; x[5] ;; x | first
x | last ;; x | list ;; x | reverse ;; x | indent ;; x | indent(2, true) ;; x | indent(2, blank=true)
x | indent('>') ;; x | e ;; x | escape ;; x | forceescape ;; x | safe ;; (x | safe) + y ;; x + (y | safe)
(x | safe) ~ y ;; (x | safe | e) ;; ((x | safe).replace('a', y)) ;; (x | safe) * 2 ;; (x | safe).strip() + y
(x | safe) % () ;; '%s-%s' % (x, y) ;; '%s' | format(x) ;; '%5s|%-5s|%%' | format(x, y) ;; '{} {}'.format(x, y)
'{0!r:>9} {1:>5}'.format(x, y) ;; '{a}'.format_map({'a': x}) ;; '{{}}{}'.format(x) ;; x.format()
'{x.y}'.format(x=x) ;; [x, y] | join ;; [x, y] | join(', ') ;; [x, y] | join(x) ;; [x, 1, none] | join('-')
x | join('.') ;; [{'a': x}] | join(attribute='a') ;; v | tojson ;; v | tojson(indent=2) ;; v | tojson(ensure_ascii=true)
v | tojson(sort_keys=true) ;; v | tojson(separators=(',', ':')) ;; [x, {'k': y, x: [1, v]}] | tojson
{'a': x} | tojson | safe ;; v | string ;; v | length ;; v | list ;; v | first ;; v | last ;; v.items()
v.keys() | list ;; v.values() | list ;; v | items | list ;; v | dictsort ;; v.get('a', y) ;; v['a'] ;; v[0]
v[1:] ;; v[::-1] ;; v is mapping ;; v is string ;; v is iterable ;; v is sequence ;; v is none ;; v is number
v is defined ;; 'a' in v ;; v == v ;; v != x ;; dict(a=x) ;; dict(a=x).items() | list ;; namespace(a=x).a
x | default('d') ;; '' | default(x, true) ;; x if x else y ;; x | wordcount ;; x | center(12) ;; x | truncate(5)
x | wordwrap(3) ;; x | urlencode ;; x | int ;; x | float ;; x | striptags ;; x | list | sort ;; x is upper
x | map('upper') | list ;; [x, y] | map('length') | list ;; [x, y] | select('string') | list ;; [x, y] | unique | list
[x, y] | sort ;; [x, y] | max ;; [x, y] | sum(start='') ;; [x] + [y] ;; v + [x] ;; [x] + v ;; v * 2 ;; (v, x)
v | pprint ;; {'a': x} | xmlattr ;; x.startswith('a') ;; x.find('a') ;; x.count('a') ;; x.isdigit() ;; x.encode()
x.zfill(12) ;; x.removeprefix('a') ;; x.removesuffix('a') ;; x.join([y, y]) ;; x.__class__ ;; x.runs is defined
v._guardtok_raw is defined ;; v.copy() ;; x.casefold() == y.casefold() ;; loop is defined ;; x ~ 1 ~ none ~ 1.5 ~ true
""".strip().splitlines()
    for each in line.split(";;")
]

BLOCKS = [
    "{% for c in x %}{{ loop.index }}{{ c }}{{ ',' if not loop.last }}{% endfor %}",
    "{% for k in v %}{{ k }}{% endfor %}",
    "{% set z %}a{{ x }}{% endset %}{{ z }}{{ z | length }}",
    "{% set z | upper %}a{{ x }}{% endset %}{{ z }}",
    "{% macro m(a, b='-') %}<{{ a }}{{ b }}>{% endmacro %}{{ m(x) }}{{ m(x, y) | trim }}{% call m(x) %}{% endcall %}",
    "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}{{ x }}{% endcall %}",
    "{% filter lower %}{{ x }}B{% endfilter %}",
    "  {% if x == 'a' %}\n A\n  {% elif x in ['b', y] %}\n B\n  {% else %}\n C\n  {% endif %}\n",
    "{%- for c in [x, y] -%}\n {{ c }}{% if loop.first %}{% continue %}{% endif %}!{% break %}\n{% endfor %}",
    "{% generation %}{{ x }}!{% endgeneration %}",
    "{% set ns = namespace(t='') %}{% for c in [x, y] %}{% set ns.t = ns.t + c %}{% endfor %}{{ ns.t }}",
    "{% autoescape true %}{{ x }}{{ x ~ '<' }}{{ [x] | join('<') }}{{ x | replace('a', '<') }}{% endautoescape %}",
    "{{ raise_exception('no ' + x) }}",
    "{{ x }}\n",
    "{# a #}{% raw %}{{ x }}{% endraw %}",
    "{{ strftime_now('%Y') }}{{ strftime_now(x) | length > 99 }}",
    "{{ 'a' 'b' }}{{ ['a', ('b', {'c': 'd'})] }}{{ 1.5 }}{{ 'x' ~ 1 }}{{ 'ab' | upper | list }}",
]
TEMPLATES = [f"{{{{ {each} }}}}" for each in EXPRESSIONS] + BLOCKS


def run(template: Any, **variables: Any) -> str:  # noqa: ANN401 - a Jinja template and its variables
    """Return what a template writes, or that it fails."""
    try:
        return str(template.render(**variables))
    except Exception as error:  # noqa: BLE001 - both must fail, and alike
        return next(kind.__name__ for kind in (TemplateError, TypeError, Exception) if isinstance(error, kind))


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=12)
@given(STRINGS, STRINGS, VALUES)
def test_templates_write_what_transformers_writes(template: str, x: str, y: str, v: Any) -> None:  # noqa: ANN401
    """For any strings and data, the characters are the same; an expression that fails there fails here."""
    theirs = run(_compile_jinja_template(template), x=x, y=y, v=v)
    labelled = {name: wrap(value, Label(name), name, mixed=False) for name, value in {"x": x, "y": y, "v": v}.items()}
    ours = run(ENVIRONMENT.from_string(template), **labelled)
    if "runs" in template:
        assert theirs == ours == "False"
    elif not any(odd in template for odd in ("v.items()", "v.keys()", "v.values()", "encode", "pprint", "__class__")):
        # Views of a dictionary print as lists here; a list of them is the same.
        assert ours == theirs


@pytest.mark.parametrize("template", [each for each in TEMPLATES if "strftime" not in each])
@settings(max_examples=12)
@given(STRINGS, STRINGS, VALUES)
def test_no_template_calls_anothers_characters_its_own(template: str, x: str, y: str, v: Any) -> None:  # noqa: ANN401
    """What is labelled `template` was written in the template: its characters are all among the template's."""
    labelled = {name: wrap(value, Label(name), name, mixed=False) for name, value in {"x": x, "y": y, "v": v}.items()}
    compiled = ENVIRONMENT.from_string(template)
    try:
        pieces = list(compiled.root_render_func(compiled.new_context(labelled)))
    except Exception:  # noqa: BLE001 - nothing was written
        return
    text = Text("", source=UNKNOWN).join(pieces)
    for run_ in text.runs:
        piece = str(text)[run_.start : run_.end]
        if run_.source == "template":
            assert piece.strip().lower() in template.replace("\\n", "\n").lower() or set(piece) <= set(
                template + "ABCD"
            )
        elif run_.source in ("x", "y") and "\\" not in piece:  # In a dump, that is more than one for one.
            origin = str(labelled[run_.source])
            assert piece.casefold() == origin[run_.offset : run_.offset + len(piece)].casefold()


@given(VALUES, st.booleans(), st.none() | st.integers(0, 3) | st.just("\t"), st.booleans())
def test_dumps_are_jsons_and_know_every_string(value: Any, ascii_only: bool, indent: Any, sort: bool) -> None:  # noqa: ANN401, FBT001
    """A dump is what `json.dumps` gives; decoding the characters of one path gives the string or key that is there."""
    options = {"ensure_ascii": ascii_only, "indent": indent, "sort_keys": sort}
    dumped = to_json(wrap(value, TOOLS, "$", mixed=False), **options)
    assert dumped == json.dumps(value, **options)
    detailed = expand(dumped)
    assert detailed == dumped
    if not isinstance(value, (dict, list)):
        return
    assert {run_.source for run_ in detailed.runs} <= {"tool_definition"}
    found: dict[str, str] = {}
    for run_ in detailed.runs:
        if not (run_.path == "$" or isinstance(_at(value, run_.path), (dict, list))):
            found[run_.path] = found.get(run_.path, "") + str(detailed)[run_.start : run_.end]
    for path, spelled in found.items():
        assert json.loads(f'"{spelled}"') == _at(value, path)


def _at(value: Any, path: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value at a path, or the key where the path ends in `~`."""

    def walk(inner: Any, here: str) -> Any:  # noqa: ANN401 - any JSON value
        if here == path:
            return inner
        children = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        for key, child in children:
            name = f"[{key}]" if isinstance(key, int) else f".{key}" if key.isidentifier() else f"[{key!r}]"
            if path == f"{here}{name}~":
                return key
            if path.startswith(here + name) and (found := walk(child, here + name)) is not None:
                return found
        return None

    return walk(value, "$")


def test_a_dump_of_several_sources_is_labelled_at_once() -> None:
    """A message's own dump knows who wrote what."""
    label = Label("unknown", {"content": Label("user"), "name": Label("name")})
    dumped = to_json(wrap({"content": "a\nb", "name": "n"}, label, "$.m", mixed=False))
    assert [(run_.source, str(dumped)[run_.start : run_.end], run_.offset) for run_ in runs_of(dumped)] == [
        ("unknown", '{"', 0),
        ("unknown", "content", 0),
        ("unknown", '": "', 9),
        ("user", "a", 0),
        ("user", "\\n", 1),
        ("user", "b", 2),
        ("unknown", '", "', 17),
        ("unknown", "name", 0),
        ("unknown", '": "', 25),
        ("name", "n", 0),
        ("unknown", '"}', 30),
    ]
