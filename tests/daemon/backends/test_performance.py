"""The sinks of the benchmarks accept what the daemon sends."""

import pytest

from benchmarks import daemon
from benchmarks.lab import Lab


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", [row for row in daemon.RATES.rows if "a sink" in row or "mock" in row]
)
def test_a_sink_takes_all_metrics(row, tmp_path):
    figures = daemon.measure_rates(Lab(str(tmp_path)), 0, [row])
    assert list(figures) == [(row, column) for column in daemon.RATES.columns]
