"""Real chat templates and, for each, a real transformers tokenizer with its family's control tokens.

The templates are files of other projects and lie outside this repository: `GUARDTOK_TEMPLATE_DIR`, or the directory
`../shared/templates` beside the checkout, holds `*.jinja` and `tokens.json` (per file `bos`, `eos` and `control`). The
vocabulary is a small byte-level BPE that is trained here, because those of most of these families are not to be had.
What matters for forgery is the same: which strings are added tokens, which of them are special, and how the library
finds them.
"""

from __future__ import annotations

import functools
import json
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE = 3_000

# Families register such tokens with `special: false`: they are parsed all the same. Qwen 2.5, Qwen 3 and Phi 4 say so
# in their files; for the others it is assumed of their tokens for tools and thoughts, and all else counts as special.
NOT_SPECIAL = ("think", "tool", "arg_")

# What none of the files does, and models in use do.
OWN = {
    # As NVIDIA's Nemotron Nano v2 does with the switch that it reads out of the text.
    "own_replace": (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{{ message.content.replace('/no_think', '').replace('/think', '') }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    # As templates for completion do: nothing of the template's between two messages.
    "own_completion": (
        "{% for message in messages %}{{ message.content }}{% endfor %}"
        "{% if not add_generation_prompt %}<|im_end|>{% endif %}"
    ),
    # Cohere's and Granite's way with documents, a name beside the role, and a variable for the caller.
    "own_documents": (
        "{% for document in documents or [] %}<|im_start|>document {{ document.title }}\n"
        "{{ document.text }}<|im_end|>\n{% endfor %}{% for message in messages %}<|im_start|>{{ message.role }}"
        "{% if message.name %} name={{ message.name }}{% endif %}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if suffix is defined %}{{ suffix }}{% endif %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template with the control tokens of its family.

    Attributes:
        name: The file's name without its ending.
        source: The Jinja source.
        bos: What `bos_token` is, or None.
        eos: What `eos_token` is.
        control: Every control token of the family.
    """

    name: str
    source: str
    bos: str | None
    eos: str
    control: tuple[str, ...]

    def tokenizer(self, *, nfkc: bool = False) -> PreTrainedTokenizerFast:
        """Return a tokenizer of its own, as users of transformers have it.

        Args:
            nfkc: With an NFKC normaliser, and added tokens that are looked for in the normalised text.
        """
        from tokenizers import AddedToken, Tokenizer
        from tokenizers.normalizers import NFKC
        from transformers import PreTrainedTokenizerFast

        backend = Tokenizer.from_str(_vocabulary())
        if nfkc:
            backend.normalizer = NFKC()
        for form in self.control:
            special = not any(part in form for part in NOT_SPECIAL)
            token = AddedToken(form, special=special, normalized=nfkc)
            if special:
                backend.add_special_tokens([token])
            else:
                backend.add_tokens([token])
        named = {"bos_token": self.bos, "eos_token": self.eos, "pad_token": self.eos}
        # As token objects: a plain string would be registered anew, with other flags.
        flags = {token.content: token for token in backend.get_added_tokens_decoder().values()}
        wrapped = PreTrainedTokenizerFast(
            tokenizer_object=backend, **{key: flags[form] for key, form in named.items() if form is not None}
        )
        wrapped.chat_template = self.source
        return wrapped


def find_directory(given: Path | None = None) -> Path | None:
    """Return the directory of templates: the one given, `GUARDTOK_TEMPLATE_DIR`, or the one beside the checkout."""
    named = os.environ.get("GUARDTOK_TEMPLATE_DIR")
    beside = Path(__file__).parents[2] / "shared" / "templates"
    for directory in (given, Path(named) if named else None, beside):
        if directory is not None and (directory / "tokens.json").is_file():
            return directory
    return None


def load_templates(directory: Path | None) -> list[Template]:
    """Return the templates of a directory, in the order of their names, and the own ones."""
    templates = []
    if directory is not None:
        families: dict[str, dict[str, Any]] = json.loads((directory / "tokens.json").read_text(encoding="utf-8"))
        for file, family in sorted(families.items()):
            source = (directory / file).read_text(encoding="utf-8")
            templates.append(Template(Path(file).stem, source, family["bos"], family["eos"], tuple(family["control"])))
    chatml = ("<|im_end|>", "<|im_start|>", "<|endoftext|>", "<think>", "</think>")
    return templates + [Template(name, source, None, "<|im_end|>", chatml) for name, source in OWN.items()]


@functools.cache
def _vocabulary() -> str:
    """Return a byte-level BPE as the JSON that the library reads, trained on the standard library's text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    library = Path(sysconfig.get_path("stdlib"))
    texts = [(library / name).read_text(encoding="utf-8") for name in ("argparse.py", "typing.py", "ast.py")]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return str(backend.to_str())
