"""The environment of the tests, and the fixtures that several of them use."""

import os

import pytest

from tests.helpers import FifoReader, kill_leftovers

# Set by many containers, it hides mistakes in buffering.
os.environ.pop("PYTHONUNBUFFERED", None)
for variable in list(os.environ):
    if variable.startswith("BENCHMARK_AI"):
        del os.environ[variable]


@pytest.fixture
def fifo(tmpdir):
    """A named pipe that is open for reading."""
    reader = FifoReader(str(tmpdir.join("fifo")))
    reader.open()
    yield reader
    reader.close()


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
    yield
    kill_leftovers()
