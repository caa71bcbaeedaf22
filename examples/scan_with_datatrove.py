"""A filter for datatrove's pipelines, between a reader and a tokenizer.

datatrove encodes documents with control tokens parsed: a page that quotes one ends a document, or opens a turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from datatrove.pipeline.filters.base_filter import BaseFilter

from guardtok.corpus import ArrowScanner

if TYPE_CHECKING:
    from datatrove.data import Document


class ControlTokenFilter(BaseFilter):
    """Leaves out documents that hold control tokens; with `action="escape"` it breaks them and keeps the document."""

    name = "guardtok"

    def __init__(self, policy: str = "corpus", action: str = "drop", tokenizer: str | None = None) -> None:
        super().__init__(batch_size=1_000)
        self.scan = ArrowScanner(policy, ["text"], action, tokenizer=tokenizer)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Scan one document."""
        return self.filter_batch([doc])[0]

    def filter_batch(self, batch: list[Document]) -> list[bool | tuple[bool, str]]:
        """Scan a batch, and change the documents' texts if the action does."""
        table = pa.table({"text": pa.array([doc.text for doc in batch], pa.large_string()), "at": range(len(batch))})
        kept = self.scan(table).to_pydict()
        texts = dict(zip(kept["at"], kept["text"], strict=True))
        for at, text in texts.items():
            batch[at].text = text
        return [True if at in texts else (False, "control_token") for at in range(len(batch))]
