"""What a resize on disk costs: time against `cp` of the same files, both brought to the disk, and peak memory.

The script makes a checkpoint in bfloat16 of 2 GB, in shards as transformers writes them and in one file, resizes it,
and copies the same files with `cp`, in turn, several times. A ratio is that of the medians. In shards only the files
with a table of the vocabulary are written and the others are linked; in one file everything is written and read back.
Peak memory is that of a process which does nothing but plan and apply.

    python -m benchmarks.resize_disk [--smoke] [--folder DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from guardtok.extension import Extension, NewToken, Placement
from guardtok.resize.safetensors_file import render_header

AIM_MB = 256
AIM_RATIO = 1.3
LIMIT = 500_000_000
"""Bytes of a shard."""

CHILD = """
import json, resource, sys, time
from guardtok.resize.disk_apply import apply_dir
from guardtok.resize.disk_planning import plan_resize_dir
from benchmarks.resize_disk import extension
begin = time.perf_counter()
apply_dir(plan_resize_dir(sys.argv[1], extension(int(sys.argv[3])), 64), sys.argv[2])
print(time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """A model like Llama's, by its sizes."""

    rows: int
    width: int
    inner: int
    layers: int


FULL = Shape(rows=128_256, width=2048, inner=5632, layers=9)
SMOKE = Shape(rows=2_000, width=64, inner=128, layers=4)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: seconds, megabytes, and what was written."""

    what: str
    size_mb: float
    written_mb: float
    resize_s: float
    copy_s: float
    ratio: float
    peak_mb: float

    def __str__(self) -> str:
        """Return the line."""
        return (
            f"{self.what:<12} {self.size_mb:>8.0f} {self.written_mb:>10.0f} {self.resize_s:>9.2f} {self.copy_s:>7.2f} "
            f"{self.ratio:>6.2f} {self.peak_mb:>8.0f}"
        )


def extension(rows: int) -> Extension:
    """Return an extension of a hundred tokens."""
    tokens = tuple(
        NewToken(f"<|{turn}|>", rows + turn, Placement.APPEND, (turn, turn + 1, turn + 2)) for turn in range(100)
    )
    return Extension("extended", "base", tokens, rows, rows + 100, "", "")


def tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a model's tensors."""
    made: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.rows, shape.width)}
    for layer in range(shape.layers):
        name = f"model.layers.{layer}"
        made |= {f"{name}.self_attn.{each}_proj.weight": (shape.width, shape.width) for each in "qkvo"}
        made |= {f"{name}.mlp.{each}_proj.weight": (shape.inner, shape.width) for each in ("gate", "up")}
        made[f"{name}.mlp.down_proj.weight"] = (shape.width, shape.inner)
    return made | {"lm_head.weight": (shape.rows, shape.width)}


def make(folder: Path, shape: Shape, limit: int) -> None:
    """Write a checkpoint with random values, in shards of about so many bytes."""
    folder.mkdir()
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    held = 0
    for name, extents in tensors(shape).items():
        size = 2 * extents[0] * extents[1]
        if held and held + size > limit:
            shards.append({})
            held = 0
        shards[-1][name] = extents
        held += size
    # A megabyte of values between 2^-6 and 2^-5, of either sign, over and over: copying does not care what it copies.
    block = b"".join(bytes([low, 0x3C | (low & 1) << 7]) for low in os.urandom(1 << 19))
    places = {}
    for number, shard in enumerate(shards, start=1):
        place = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        sizes = {name: 2 * extents[0] * extents[1] for name, extents in shard.items()}
        with (folder / place).open("wb") as file:
            file.write(
                render_header(((name, "BF16", shard[name], size) for name, size in sizes.items()), {"format": "pt"})
            )
            left = sum(sizes.values())
            while left:
                left -= file.write(block[: min(left, len(block))])
            os.fsync(file.fileno())
        places |= dict.fromkeys(shard, place)
    if len(shards) > 1:
        total = sum(2 * extents[0] * extents[1] for extents in tensors(shape).values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "config.json").write_text(
        json.dumps({"vocab_size": shape.rows, "tie_word_embeddings": False}), encoding="utf-8"
    )


def resize(old: Path, new: Path, shape: Shape) -> tuple[float, float]:
    """Return seconds and peak megabytes of a resize in a process of its own; the time is without its start."""
    arguments = [sys.executable, "-c", CHILD, str(old), str(new), str(shape.rows)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak


def copy(old: Path, new: Path) -> float:
    """Return the seconds that `cp` takes to bring the same files to the disk."""
    begin = time.perf_counter()
    subprocess.run(["/bin/cp", "-r", str(old), str(new)], check=True)
    for path in new.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return time.perf_counter() - begin


def measure(what: str, old: Path, shape: Shape, runs: int) -> Row:
    """Return the line for one checkpoint."""
    resizes, copies, peaks, written = [], [], [], 0
    for turn in range(runs):
        new, twin = old.with_name(f"{what}-new"), old.with_name(f"{what}-copy")
        # In turn first and second, so that neither always meets the warmer cache.
        for step in ("resize", "copy") if turn % 2 else ("copy", "resize"):
            if step == "copy":
                copies.append(copy(old, twin))
            else:
                seconds, peak = resize(old, new, shape)
                resizes.append(seconds)
                peaks.append(peak)
        written = sum(path.stat().st_size for path in new.iterdir() if path.stat().st_nlink == 1)
        shutil.rmtree(new)
        shutil.rmtree(twin)
    size = sum(path.stat().st_size for path in old.iterdir())
    ratio = statistics.median(resizes) / statistics.median(copies)
    return Row(
        what, size / 1e6, written / 1e6, statistics.median(resizes), statistics.median(copies), ratio, max(peaks)
    )


def main() -> None:
    """Measure, print, and write the rows as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a small checkpoint, to see that everything runs")
    parser.add_argument("--folder", type=Path, help="where to write 6 GB for a while; by default a temporary directory")
    parser.add_argument("--runs", type=int, default=3, help="how often each is done")
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()
    shape, runs = (SMOKE, 1) if arguments.smoke else (FULL, arguments.runs)
    rows = []
    print(f"{'checkpoint':<12} {'MB':>8} {'written MB':>10} {'resize s':>9} {'cp s':>7} {'ratio':>6} {'peak MB':>8}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        for what, limit in (("shards", 100_000 if arguments.smoke else LIMIT), ("one file", 1 << 62)):
            old = Path(scratch) / what.replace(" ", "-")
            make(old, shape, limit)
            rows.append(measure(what, old, shape, runs))
            print(rows[-1])
            shutil.rmtree(old)
    print(f"aims: ratio ≤ {AIM_RATIO}, peak ≤ {AIM_MB} MB")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
