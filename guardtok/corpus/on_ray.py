"""The same pieces of work as tasks of Ray Data, on as many machines as there are.

Tasks hold no state: a piece that is done again, because its worker or its machine died, leaves the same output under
the same name. Scheduling, back-pressure and retries are Ray's.
"""

from __future__ import annotations

import logging
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

from guardtok.corpus.work import do_piece
from guardtok.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from guardtok.corpus.result import FileResult
    from guardtok.corpus.work import Piece, Work


def run_on_ray(job: Work, pieces: Sequence[Piece], processors: int | None) -> Iterator[tuple[Piece, FileResult]]:
    """Do pieces of work on Ray, and yield each with its result, in any order.

    Args:
        job: What is to be done. Its output must be where every machine can write.
        pieces: With what.
        processors: How many of this machine's, where Ray is not running yet; None for all. Ray is then stopped at the
            end.

    Raises:
        MissingExtraError: Ray Data is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError("To scan on Ray: pip install 'guardtok[ray]'.") from None
    if not pieces:
        return
    started = not ray.is_initialized()
    if started:
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # Each data set's beginning and end, on standard error.
        ray.init(num_cpus=processors, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        rows = [{"number": number, "piece": pickle.dumps(piece)} for number, piece in enumerate(pieces)]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(partial(_do, job=job))
        for row in done.iter_rows():
            yield pieces[row["number"]], pickle.loads(row["result"])  # noqa: S301 - made by `_do`
    finally:
        if started:
            ray.shutdown()


def _do(row: dict[str, Any], job: Work) -> dict[str, Any]:
    piece = pickle.loads(row["piece"])  # noqa: S301 - made by `run_on_ray`
    return {"number": row["number"], "result": pickle.dumps(do_piece(job, piece))}
