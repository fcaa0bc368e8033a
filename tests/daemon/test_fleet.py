"""The requests of many daemons are spread over time, and docs/scale.md shows how."""

import itertools

import pytest

from benchmarks import fleet
from tests.helpers import read_text


def peaks(seconds, window, moment=None, **options):
    """Return the most arrivals within a window, with jitter and without.

    moment: to count only the first request of each daemon from then on.
    """

    def run():
        found = fleet.run_fleet(seconds, **options)
        times = fleet.returns(found, moment) if moment else itertools.chain(*found)
        return fleet.peak(times, window)

    jittered = run()
    with fleet.without_jitter():
        return jittered, run()


@pytest.mark.parametrize("interval", [1.0, 10.0])
def test_daemons_that_start_together_do_not_send_together(interval):
    jittered, together = peaks(4 * interval, interval / 10, flush_interval=interval)
    assert together == fleet.DAEMONS
    assert jittered < 0.4 * fleet.DAEMONS


@pytest.mark.slow
def test_daemons_with_the_same_retry_after_do_not_come_back_together():
    jittered, together = peaks(98, 1, moment=10, outage=fleet.Outage(5, 10, 60))
    assert together == fleet.DAEMONS
    assert jittered < 0.15 * fleet.DAEMONS


@pytest.mark.slow
def test_daemons_do_not_come_back_together_after_an_outage_without_retry_after():
    jittered, together = peaks(98, 1, moment=60, outage=fleet.Outage(5, 60))
    assert together == fleet.DAEMONS
    assert jittered < 0.2 * fleet.DAEMONS


@pytest.mark.slow
def test_the_document_shows_what_the_simulation_prints():
    text = read_text("docs", "scale.md")
    for histogram in fleet.simulate():
        assert histogram in text
