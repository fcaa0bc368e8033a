"""The times of metrics."""

import pytest

from benchmarkai.daemon import times
from benchmarkai.daemon.times import Times
from tests.daemon.fakes import VirtualClock

MS = 10**6
SECOND = 10**9


@pytest.fixture
def clock():
    return VirtualClock()


def pairs_of(*names):
    return [(name, 0) for name in names]


def give(made, *names):
    plan = made.plan(pairs_of(*names))
    made.keep(plan)
    return list(plan.times)


def test_each_metric_has_a_time_of_its_own(clock):
    made = Times(clock)
    now = clock.time()
    assert give(made, "a", "a", "b") == [now + 1, now + 2, now + 3]
    assert give(made, "a") == [now + 4]
    assert (made.newest, made.shared) == (now + 4, 0)


def test_the_metrics_of_a_series_are_a_step_apart(clock):
    made = Times(clock, MS)
    now = clock.time()
    assert give(made, "a", "a", "b", "a") == [now + 1, now + 1 + MS, now + 3, now + 1 + 2 * MS]
    clock.now += 0.001
    assert give(made, "b", "a") == [now + 3 + MS, now + 1 + 3 * MS]
    clock.now += 1
    assert give(made, "a") == [clock.time() + 1]
    assert made.shared == 0


def test_two_notations_of_a_series_are_the_same(clock):
    made = Times(clock, MS)
    found = give(made, 'a{b="c",d="e"}', 'a{d="e", b="c"}', 'a{b="c"}')
    assert found[1] == found[0] + MS
    assert found[2] < found[1]


def test_no_series_is_more_than_ten_seconds_ahead_of_the_clock(clock):
    made = Times(clock, MS)
    now = clock.time()
    found = give(made, *["a"] * 10100)
    assert found[:10000] == [now + 1 + number * MS for number in range(10000)]
    assert made.shared == 100
    # They share a millisecond, but no time.
    assert found[10000:] == [found[9999] + number for number in range(1, 101)]
    assert give(made, "b") == [now + 10101]
    clock.now += 0.001
    assert give(made, "a", "a") == [found[-1] + MS, found[-1] + MS + 1]
    assert made.shared == 101


def test_what_is_not_kept_is_not_given(clock):
    made = Times(clock, MS)
    give(made, "a")
    first = made.plan(pairs_of("a", "b"))
    newest = made.newest
    assert made.plan(pairs_of("a", "b")) == first
    assert (made.newest, made.shared) == (newest, 0)


@pytest.mark.parametrize("step", [0, MS])
def test_no_metrics_have_no_times(clock, step):
    made = Times(clock, step)
    assert give(made) == []
    assert made.newest == 0
    now = clock.time()
    assert give(made, "a") == [now + 1]


def test_after_a_restart_no_time_is_given_again(clock):
    before = Times(clock, MS)
    give(before, *["a"] * 100)
    after = Times(clock, MS)
    after.go_on_from(before.newest)
    first = before.newest + MS + 1
    assert give(after, "a", "a") == [first, first + MS]


def test_times_follow_a_clock_that_was_set_back_by_more_than_a_minute(clock, caplog):
    caplog.set_level("INFO", "bai-daemon")
    made = Times(clock, MS)
    give(made, *["a"] * 100)
    clock.now -= 5
    before = made.newest
    assert give(made, "a") == [before + MS]
    clock.now -= 56
    now = clock.time()
    assert list(made.plan([]).times) == []
    assert not caplog.messages
    assert give(made, "a", "a") == [now + 1, now + 1 + MS]
    assert made.newest == now + 1 + MS
    assert caplog.messages == [
        "the clock is 61 s behind the newest metric: it was set back, or was wrong before; times "
        "follow the clock"
    ]


def test_series_that_are_not_ahead_of_the_clock_are_forgotten(clock, monkeypatch):
    monkeypatch.setattr(times, "_MAX_SERIES", 10)
    made = Times(clock, MS)
    found = {}
    for _ in range(5):
        for number in range(30):
            clock.now += 0.001
            (moment,) = give(made, str(number))
            assert moment >= found.get(number, 0) + MS
            found[number] = moment
            assert len(made._last) <= 11
    assert made.shared == 0


def test_more_series_ahead_of_the_clock_than_are_remembered_may_share_times(clock, monkeypatch):
    monkeypatch.setattr(times, "_MAX_SERIES", 10)
    made = Times(clock, MS)
    now = clock.time()
    for _ in range(50):
        plan = made.plan(pairs_of(*map(str, range(30))))
        made.keep(plan)
        assert len(made._last) <= 30
    assert made.newest <= now + 10 * SECOND
    assert made.shared == 49 * 30
