"""`import guardtok` stays cheap: nothing is imported that only some users need."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Extras, and dependencies that only one verb, one sink or one file format needs.
DEFERRED = {
    "anyio",
    "awkward",
    "click",
    "cryptography",
    "datasets",
    "fsspec",
    "gigatoken",
    "hypothesis",
    "jinja2",
    "litellm",
    "mistral_common",
    "numpy",
    "openai_harmony",
    "opentelemetry",
    "prometheus_client",
    "pyarrow",
    "ray",
    "rich",
    "riptoken",
    "ruamel",
    "safetensors",
    "sentencepiece",
    "structlog",
    "tokenizers",
    "torch",
    "transformers",
    "watchfiles",
}

# The finder sees every import that is tried, so a guarded `try: import torch` counts where torch is not installed, too.
PROBE = """
import sys

class Witness:
    tried = set()

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        cls.tried.add(name.partition(".")[0])

sys.meta_path.insert(0, Witness)
{statement}
print(*Witness.tried)
"""


def tried_by(statement: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter tries to import for a statement."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement)], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_guardtok_loads_nothing_that_can_wait() -> None:
    """Neither an extra nor a costly dependency is loaded before it is used."""
    tried = tried_by("import guardtok")
    assert "guardtok" in tried
    assert tried & DEFERRED == set()


@pytest.mark.parametrize(
    "module", ["guardtok.corpus", "guardtok.corpus.scan", "guardtok.cli", "guardtok.harmony", "guardtok.testing"]
)
def test_what_is_built_on_a_format_or_for_tests_needs_no_extra(module: str) -> None:
    """Harmony is rendered without its library, and tokenizers are checked without a test runner."""
    assert tried_by(f"import {module}").isdisjoint(
        {"openai_harmony", "pytest", "hypothesis", "mistral_common", "tokenizers", "pyarrow", "fsspec", "ray"}
    )


@pytest.mark.parametrize(
    "statement",
    ["from guardtok import plan_resize", "from guardtok.resize import init", "import guardtok.resize.receipt"],
)
def test_what_speaks_of_models_waits_for_torch(statement: str) -> None:
    """Plans, initialisers and receipts can be named where torch is not installed."""
    assert tried_by(statement) & DEFERRED == set()


def test_without_torch_the_extra_is_named() -> None:
    """Whoever resizes without torch is told what to install, by a typed error."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import guardtok\n"
        "from guardtok.errors import MissingExtraError\n"
        "try: guardtok.plan_resize(None, None)\n"
        "except MissingExtraError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'guardtok[torch]'" in done.stdout


@pytest.mark.parametrize("module", ["live", "decision_log", "metrics", "spans"])
def test_what_operates_a_gateway_waits_for_its_packages(module: str) -> None:
    """Who only checks texts in process can hold a live guard and a decision log without the extra."""
    assert tried_by(f"import guardtok.gateway.{module}, guardtok.bundles") & DEFERRED == set()


@pytest.mark.parametrize("statement", ["import click", "try: import litellm\nexcept ImportError: pass"])
def test_the_probe_sees_imports(statement: str) -> None:
    """The probe would notice, whether or not the package is installed."""
    assert tried_by(statement) & DEFERRED
