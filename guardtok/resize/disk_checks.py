"""What can be seen in a checkpoint's headers and configs to be wrong, for plans and for the doctor alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guardtok.extension import Placement
from guardtok.finding import Finding, Severity
from guardtok.resize.json_file import shown
from guardtok.resize.stored_configs import CONFIG, is_quantised, sizes, tied_by_flag
from guardtok.resize.tensor_names import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from guardtok.extension import Extension
    from guardtok.resize.checkpoint import Checkpoint
    from guardtok.resize.tensor_names import Census

DTYPES = frozenset({"F64", "F32", "F16", "BF16"})
"""Types of elements of which means are taken."""

MAX_WIDTH = 1 << 20
"""The longest row that is worked with, in elements."""

OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".ggml", ".onnx", ".npz", ".tflite")
"""Ends of names of files that hold weights, or the state of a training, in another format."""

_GENERATES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
# Classes of transformers whose head has no bias, so that a stored one was added by hand, and is dropped or refused.
_WITHOUT_BIAS = frozenset(
    {"gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "t5"}
)
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors")


def extension_findings(extension: Extension, rows: int) -> Iterator[Finding]:
    """Yield what is wrong with an extension, by itself and for a model with so many rows."""
    seen: dict[int, str] = {}
    for token in extension.tokens:
        where = shown(token.form)
        if seen.setdefault(token.id, token.form) != token.form:
            yield Finding("id-twice", Severity.ERROR, where, f"The id {token.id} has two tokens.", "Give each its own.")
        if not 0 <= token.id < extension.rows:
            fact = f"Its id {token.id} is not below the {extension.rows} rows that the extension asks for."
            yield Finding("id-out-of-range", Severity.ERROR, where, fact, "Make the extension again.")
        if token.placement is Placement.APPEND and token.id < extension.base_rows:
            fact = f"It is said to be appended, and its id {token.id} is one of the base's {extension.base_rows}."
            yield Finding("placement-wrong", Severity.ERROR, where, fact, "Make the extension again.")
        if any(not 0 <= each < rows for each in token.pieces):
            fact = f"It was spelled by an id that is no row of the model, which has {rows}."
            yield Finding("pieces-unknown", Severity.ERROR, where, fact, "Extend the tokenizer that the model has.")
        if token.placement is Placement.PRESENT and token.id >= rows:
            fact = f"The base has it as {token.id}, and the model has {rows} rows."
            yield Finding("rows-too-few", Severity.WARNING, where, fact, "It gets a row now, the mean of all others.")
    if extension.rows < extension.base_rows:
        fact = f"It has fewer rows, {extension.rows}, than its base, {extension.base_rows}."
        yield Finding("rows-wrong", Severity.ERROR, "the extension", fact, "Make the extension again.")
    if rows < extension.base_rows:
        fact = f"The model has {rows} rows, and its tokenizer has ids up to {extension.base_rows - 1}."
        yield Finding("rows-too-few", Severity.WARNING, shown(extension.base), fact, "The missing rows are added too.")


def census_findings(census: Census, rows: int) -> Iterator[Finding]:
    """Yield what stands against resizing the tensors that a census found."""
    for each in census.claimed:
        where = shown(each.tensor.name)
        if each.tensor.dtype not in DTYPES:
            fact = f"Its elements are {each.tensor.dtype}, of which no mean is taken."
            yield Finding("dtype", Severity.ERROR, where, fact, "Resize the checkpoint before it is quantised.")
        if not each.rows_first:
            fact = f"Its dimension {each.dim} counts tokens, so a row's bytes do not lie together."
            yield Finding("rows-not-first", Severity.ERROR, where, fact, "Resize the model in memory.")
        elif each.width > MAX_WIDTH:
            fact = f"A row has {each.width} elements; at most {MAX_WIDTH} are worked with."
            yield Finding("row-too-long", Severity.ERROR, where, fact)
    for name in census.unclaimed:
        fact = f"It has a dimension of {rows}, as the embedding, and its name is not known."
        mend = "Say what it is (`claims`, `--claim NAME=head`), or that this is chance (`waive`, `--waive NAME`)."
        yield Finding("unclaimed", Severity.ERROR, shown(name), fact, mend)
    for each in census.other_rows:
        fact = (
            f"By its name it is an {each.role}" if each.role is Role.EMBEDDING else f"By its name it is a {each.role}"
        )
        fact += f", and it has {each.rows} rows where the embedding has {rows}."
        mend = "If that is meant and new tokens need no row in it, waive it (`waive`, `--waive NAME`)."
        yield Finding("rows-disagree", Severity.ERROR, shown(each.tensor.name), fact, mend)
    for name in census.packed:
        fact = "It belongs to a table of the vocabulary whose weights are packed."
        yield Finding("packed", Severity.ERROR, shown(name), fact, "Resize the checkpoint before it is quantised.")


def config_findings(config: Mapping[str, Any] | None, rows: int, census: Census) -> Iterator[Finding]:
    """Yield where a config and the tensors disagree: on the vocabulary's size, on ties, on a bias."""
    if config is None:
        yield Finding(
            "config-missing", Severity.WARNING, CONFIG, "There is none.", "Change the model's size where it is kept."
        )
        return
    found = sizes(config)
    if rows not in found.values():
        said = ", ".join(f"{'.'.join(path)} {value}" for path, value in found.items()) or "no size"
        fact = f"The embedding has {rows} rows, and the config says {said}."
        yield Finding("vocab-size-disagrees", Severity.ERROR, CONFIG, fact, f"Set `vocab_size` to {rows}.")
    heads = [shown(each.tensor.name) for each in census.claimed if each.role is Role.HEAD]
    tied = tied_by_flag(config)
    if tied and heads:
        fact = "The config ties the head to the embedding, and a head is stored as well. Loaders take the embedding."
        yield Finding("duplicate-head", Severity.WARNING, heads[0], fact, "Leave the head out, or untie the config.")
    classes = config.get("architectures")
    names = [each for each in classes if isinstance(each, str)] if isinstance(classes, list) else []
    if tied is False and not heads and any(each.endswith(_GENERATES) for each in names):
        fact = "The config does not tie the head to the embedding, and no head is stored. Loaders make a random one."
        yield Finding("head-missing", Severity.ERROR, CONFIG, fact, "Set `tie_word_embeddings`, or store the head.")
    if str(config.get("model_type")) in _WITHOUT_BIAS:
        for each in census.claimed:
            if each.role is Role.BIAS:
                fact = "Models of this type have no bias here: it moves every logit, or is dropped when it is loaded."
                mend = "Remove it, and find out who added it."
                yield Finding("bias-appeared", Severity.ERROR, shown(each.tensor.name), fact, mend)
    if is_quantised(config):
        fact = "The config says that weights are quantised."
        yield Finding("quantised", Severity.WARNING, CONFIG, fact, "Make sure that the vocabulary's tables are not.")


def left_out(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return what does not go into a resized checkpoint: folders, other formats of the weights, stray tensors."""
    other = (name for name in checkpoint.files if name.endswith(OTHER_WEIGHTS))
    hidden = (name for name in checkpoint.files if name.startswith("."))
    return tuple(sorted({*checkpoint.skipped, *checkpoint.strays, *other, *hidden}))


def companion_findings(checkpoint: Checkpoint, names: Iterable[str]) -> Iterator[Finding]:
    """Yield what to know of the files that a resize leaves out, and of adapters."""
    for name in names:
        fact = "It is left out of the resized checkpoint: guardtok would not know how to resize what is in it."
        yield Finding("left-out", Severity.NOTE, shown(name), fact)
    for name in _ADAPTERS:
        if name in checkpoint.files:
            fact = "An adapter lies here. If it touches embedding or head, it no longer fits after a resize."
            yield Finding("adapter", Severity.WARNING, name, fact, "Merge it first.")
            return
