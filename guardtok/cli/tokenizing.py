"""`guardtok tokenize`: a corpus as shards of token ids."""

from __future__ import annotations

from typing import Any

import click

from guardtok.cli.options import tokenizer_option
from guardtok.cli.scanning import INPUT_FORMATS, columns_of, progress
from guardtok.cli.streams import write_json
from guardtok.cli.trouble import FOUND, MISTAKE


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("-p", "--policy", default="corpus", show_default=True, metavar="P", help="A shipped policy, or a path.")
@tokenizer_option(default="guardtok")
@click.option("-c", "--column", default="text", show_default=True, metavar="PATH", help="The column with documents.")
@click.option("-s", "--source", default="document", show_default=True, metavar="S", help="Who wrote them.")
@click.option("-o", "--output", required=True, metavar="DIR", help="Where shards are written.")
@click.option(
    "--separator", metavar="FORM|none", help="The token behind each document.  [default: the only end of text]"
)
@click.option("--shards", type=click.Choice(["npy", "arrow"]), default="npy", show_default=True, help="Their format.")
@click.option("--shard-size", type=click.IntRange(1), default=1 << 25, show_default=True, help="Ids of a shard, about.")
@click.option("--resume", is_flag=True, help="Go on with what a run that was cut off left in --output.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Who works.")
@click.option("-j", "--processes", type=click.IntRange(1), metavar="N", help="So many at once.  [default: all]")
@click.option("--input-format", type=click.Choice(INPUT_FORMATS), help="Of all files, whatever they are called.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first problem.")
@click.option("--no-progress", is_flag=True, help="Show no progress bar on a terminal.")
@click.option("--format", "said", type=click.Choice(["text", "json"]), default="text", help="How the result is said.")
def tokenize(**options: Any) -> None:  # noqa: ANN401 - one for each option
    """Write the token ids of a corpus.

    PATHs are as for `scan`. Each document is encoded through the guard, so that nothing in it becomes a control token,
    and ends with the separator's id. What the policy refuses is left out, and makes the status 1.

    \b
    Examples:
      guardtok tokenize clean/ --tokenizer cl100k_base --output tokens/
      guardtok tokenize chats.parquet -c text -t qwen --separator '<|endoftext|>' --shards arrow -o tokens/
    """  # noqa: D301 - click looks for this character
    from guardtok.cli.scan_report import show_problems
    from guardtok.corpus.files import FileFormat
    from guardtok.corpus.scan import ScanEngine
    from guardtok.corpus.scanner import ArrowScanner
    from guardtok.corpus.tokenizing import ShardFormat, tokenize_files

    columns = columns_of((options["column"],), options["source"])
    scanner = ArrowScanner(options["policy"], columns, tokenizer=options["tokenizer"])
    wanted = options["input_format"]
    with progress(shown=not options["no_progress"]) as bar:
        result = tokenize_files(
            options["paths"],
            scanner,
            output=options["output"],
            separator=options["separator"],
            shard=options["shard_size"],
            shard_format=ShardFormat(options["shards"]),
            resume=options["resume"],
            engine=ScanEngine(options["engine"]),
            processes=options["processes"],
            file_format=FileFormat(wanted) if wanted else None,
            fail_fast=options["fail_fast"],
            begin=bar.begin,
            advance=bar.advance,
        )
    total = result.total
    show_problems(result)
    shards = len(total.shards)
    if options["said"] == "json":
        counts = {"documents": total.texts, "tokens": total.tokens, "left_out": total.dropped, "shards": shards}
        write_json(counts | {"problems": len(total.problems) + total.unlisted})
    else:
        click.echo(f"{total.texts:,} documents, {total.tokens:,} ids in {shards:,} shards; {total.dropped:,} left out")
    if total.failed or total.dropped:
        click.get_current_context().exit(MISTAKE if total.failed else FOUND)
