"""The clocks of the daemon, and its only way to wait."""

import os
import time

import pytest

from benchmarkai.daemon.clock import Clock
from tests.daemon.fakes import NEVER
from tests.helpers import bounded


class Pipe:
    def __init__(self):
        self.reader, self.writer = os.pipe()

    def fileno(self):
        return self.reader


@pytest.fixture
def pipes():
    made = [Pipe(), Pipe()]
    yield made
    for pipe in made:
        os.close(pipe.reader)
        os.close(pipe.writer)


def test_the_time_is_that_of_the_system_in_nanoseconds():
    before = time.time_ns()
    assert before <= Clock().time() <= time.time_ns()


def test_the_other_clock_is_monotonic():
    before = time.monotonic()
    assert before <= Clock().monotonic() <= time.monotonic()


@pytest.mark.parametrize("number", [0, 1])
def test_waiting_ends_when_a_source_is_readable(pipes, number):
    os.write(pipes[number].writer, b"x")
    bounded(lambda: Clock().wait(NEVER, *pipes))


def test_waiting_without_any_data_ends_after_the_given_time(pipes):
    before = time.monotonic()
    bounded(lambda: Clock().wait(0.05, *pipes))
    bounded(lambda: Clock().wait(0.05))
    assert time.monotonic() - before >= 0.09  # poll(2) has milliseconds
