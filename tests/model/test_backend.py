"""Keras starts without a word, and on one thread where it is told to."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from stpipe.model import backend

START = """
from stpipe.model import backend
backend.start(one_thread=True)
import tensorflow as tf
print(tf.config.threading.get_intra_op_parallelism_threads(), tf.config.threading.get_inter_op_parallelism_threads())
backend.start(one_thread=True)
float(tf.reduce_sum(tf.ones(3)))
backend.start(one_thread=True)
"""


def test_it_starts_quietly_on_one_thread() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["1", "1"]
    assert done.stderr == ""


def test_what_native_code_says_comes_out_if_the_start_fails(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with backend._native_stderr_held():
            os.write(2, b"no such driver")
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert "no such driver" in capfd.readouterr().err


def test_what_native_code_says_is_held_back_otherwise(capfd: pytest.CaptureFixture[str]) -> None:
    with backend._native_stderr_held():
        os.write(2, b"oneDNN is on")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"
