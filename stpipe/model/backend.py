"""Keras and its backend, started quietly and on as many threads as a worker may have."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


def start(*, one_thread: bool = False) -> None:
    """Import Keras with its backend, once a process.

    Parameters
    ----------
    one_thread : bool
        Hold TensorFlow to one thread: workers share the cores, and sums have one order. Without effect on a
        TensorFlow that has run in this process already, which keeps the threads it has.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _native_stderr_held() if "keras" not in sys.modules else _nothing():
        import keras
    # Blocks of a new shape are traced anew, which is meant: the warning that follows is for training loops.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if not one_thread or keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        return


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _native_stderr_held() -> Iterator[None]:
    """Hold back what native code writes to stderr; give it out if the block fails.

    While it loads, TensorFlow says that oneDNN is on, below its own log levels, in every worker.
    """
    try:
        kept = os.dup(2)
    except OSError:  # no stderr at all, as under pythonw
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
