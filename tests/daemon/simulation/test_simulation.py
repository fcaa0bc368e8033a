"""Histories from seeds: whatever happens to a daemon, it keeps its promises."""

import logging
import multiprocessing
import os

import pytest

from tests.daemon.simulation.check import check_seed
from tests.helpers import FULL

# bin/test runs 300 of them on one Python, and a few on the others.
SEEDS = int(os.environ.get("SEEDS", 30))


@pytest.fixture(autouse=True)
def no_log(monkeypatch):
    monkeypatch.setattr(logging.getLogger("bai-daemon"), "disabled", True)


def failure_of(seed):
    """Return why the history of the seed fails its check, or None."""
    try:
        check_seed(seed)
    except AssertionError as error:
        return str(error)
    return None


@pytest.mark.slow
def test_no_history_breaks_a_promise():
    for seed in range(SEEDS):
        check_seed(seed)


@pytest.mark.skipif(not FULL, reason="FAULTS=full")
def test_none_of_many_histories_breaks_a_promise():
    with multiprocessing.Pool(os.cpu_count()) as pool:
        failures = pool.imap_unordered(failure_of, range(20000), chunksize=10)
        assert [failure for failure in failures if failure] == []


def test_a_seed_always_gives_the_same_history():
    from tests.daemon.simulation.history import History

    arrived = []
    for _ in range(2):
        with History(7) as history:
            history.run()
            arrived.append([entry[1:] for entry in history.server.arrived])
    assert arrived[0] == arrived[1] != []
