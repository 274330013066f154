"""What a worker process does before its first task; kept apart from the command line, which would load all methods."""

from __future__ import annotations

from stpipe.core.ports import Learner
from stpipe.execution.context import RunContext
from stpipe.io.mosaic_stage import MosaicContext
from stpipe.io.scratch import forget_stores, use_one_thread

_prepared: set[str] = set()
"""Run ids whose method this process has loaded."""


def start_fill_worker(context: RunContext) -> None:
    """Ready a worker process for blocks: one decoding thread, the method loaded, nothing cached of older stores."""
    use_one_thread()
    forget_stores()
    # The survey has no use for the method, and once in a process is enough. A method that learns is readied by the
    # tasks: by the one that learns, and by the blocks with what it learned.
    if context.scales and context.plan.run_id not in _prepared and not isinstance(context.filler, Learner):
        context.filler.prepare()
        _prepared.add(context.plan.run_id)


def start_mosaic_worker(_: MosaicContext) -> None:
    """Ready a worker process for the mosaic."""
    use_one_thread()
    forget_stores()
