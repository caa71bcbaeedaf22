"""Whether text can forge a control token through a chat template: every template × attack shape × control token.

Three ways to turn a conversation into ids are compared: transformers' `apply_chat_template`, the same with
`sanitize_control_tokens=True`, and `Guard.encode_chat`. An attack is a forgery when a reserved id comes out that the
template did not write; what it wrote is found by `benchmarks.tagging`, without guardtok. Only attacks count whose
payload is still in the rendered text; the others are `vacuous`. `lost` are attacks after which a token of the template
is missing, `altered` those after which the ids do not decode to the rendered text, `refused` those that got an error in
place of ids. `branches`: the template itself wrote other tokens than for a harmless payload, which is no forgery.

    python -m benchmarks.forgery [--smoke] [--templates DIR] [--json FILE] [--only TEMPLATE]

Exit status 1 if an attack forges through guardtok or makes it lose a template's token, or benign ids differ.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import defaultdict
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from benchmarks.attacks import CUTS, full_width
from benchmarks.conversations import benign_chats
from benchmarks.judge import COLUMNS, Bench, Benign, Shape, measure_attacks, measure_benign, twin_tokens, with_twins
from benchmarks.templates import Template, find_directory, load_templates

SMOKE_STEP = 5


def main() -> int:
    """Run everything, print the tables, and say whether guardtok kept what it promises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one token a template, and every fifth attack")
    parser.add_argument("--templates", type=Path, help="directory with *.jinja and tokens.json")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--only", action="append", help="only this template; may be given again")
    arguments = parser.parse_args()
    directory = find_directory(arguments.templates)
    templates = [t for t in load_templates(directory) if not arguments.only or t.name in arguments.only]
    if directory is None:
        print("No directory of templates: only the benchmark's own two are attacked. See --templates.")
    start = time.monotonic()
    shapes: dict[str, Shape] = defaultdict(Shape)
    by_template: dict[str, dict[str, Shape]] = {}
    benign = Benign()
    for number, template in enumerate(templates):
        progress(f"[{number + 1}/{len(templates)}] {template.name}, {time.monotonic() - start:.0f} s")
        by_template[template.name] = own = defaultdict(Shape)
        attack_template(template, own, benign, smoke=arguments.smoke, number=number)
        for name, shape in own.items():
            shapes[name].add(shape)
    progress("")
    seconds = time.monotonic() - start
    print_tables(shapes, benign, len(templates), seconds)
    if arguments.json:
        figures = {
            "transformers": version("transformers"),
            "seconds": seconds,
            "shapes": {name: asdict(shape) for name, shape in shapes.items()},
            "benign": asdict(benign),
            "templates": {
                name: {key: asdict(shape) for key, shape in own.items()} for name, own in by_template.items()
            },
        }
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    guarded = [shape.columns["guardtok"] for shape in shapes.values()]
    kept = not any(tally.forged or tally.lost for tally in guarded) and not benign.differ and not benign.lost
    return 0 if kept else 1


def attack_template(template: Template, shapes: dict[str, Shape], benign: Benign, *, smoke: bool, number: int) -> None:
    """Run what there is to run on one template."""
    bench = Bench(template)
    chats = list(benign_chats())
    measure_benign(bench, chats[number % 4 :: 4] if smoke else chats, benign)
    forms = [template.control[number % len(template.control)]] if smoke else list(template.control)
    cuts = (None,) if smoke else CUTS
    step = SMOKE_STEP if smoke else 1
    measure_attacks(bench, with_twins(bench, forms, cuts, step, number), shapes)
    if smoke and number % 4:
        return
    folding = Bench(template, nfkc=True)
    if not smoke:
        measure_benign(folding, chats, benign)
    for form in forms:
        twins = [twin_tokens(folding, attack.chat) for attack in full_width(form, lambda _: "x")]
        measure_attacks(folding, zip(full_width(form), twins, strict=True), shapes)


def print_tables(shapes: dict[str, Shape], benign: Benign, templates: int, seconds: float) -> None:
    """Print the attacks by shape, then what benign conversations lost."""
    versions = f"transformers {version('transformers')}, Python {platform.python_version()}"
    print(f"{templates} templates, {versions}, {seconds:.0f} s")
    print(f"{'':<49}| each column: forged, lost, altered, refused")
    header = " | ".join(f"{name:>24}" for name in COLUMNS)
    print(f"{'shape':<20} {'attacks':>8} {'vacuous':>9} {'branches':>9} | {header}")
    everything = Shape()
    for shape in shapes.values():
        everything.add(shape)
    for name, shape in [*sorted(shapes.items()), ("all", everything)]:
        tallies = [shape.columns[column] for column in COLUMNS]
        cells = " | ".join(f"{t.forged:>6}{t.lost:>6}{t.altered:>6}{t.refused:>6}" for t in tallies)
        print(f"{name:<20} {shape.attacks:>8} {shape.vacuous:>9} {shape.branches:>9} | {cells}")
    print(f"branches that guardtok reported: {everything.reported} of {everything.branches}")
    print(f"attacks that the oracle cannot judge: {everything.unsure}")
    for column in COLUMNS:
        print(f"errors in place of ids, {column}: {dict(everything.columns[column].errors)}")
    print(
        f"benign conversations: {benign.equal} of {benign.chats} have the ids of apply_chat_template; "
        f"{benign.lost} of {benign.tokens} tokens of the templates lost; {benign.unsure} unjudged"
    )
    for line in benign.differ[:20]:
        print(f"  {line}")


def progress(line: str) -> None:
    """Show where the run is: one line on a terminal, a line for each step elsewhere."""
    if sys.stderr.isatty():
        print(f"{line:<60}", end="\r" if line else "\n", file=sys.stderr, flush=True)
    elif line:
        print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
