"""The metric, and its time as text."""

import pytest

from benchmarkai.daemon.metric import format_time


@pytest.mark.parametrize(
    "time, text",
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (1700000000123456789, "2023-11-14T22:13:20.123456789Z"),
        (2**63 - 1, "2262-04-11T23:47:16.854775807Z"),
    ],
)
def test_a_time_has_all_of_its_nine_decimals(time, text):
    assert format_time(time) == text
