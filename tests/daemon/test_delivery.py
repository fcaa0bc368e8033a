"""From the spool to the server: batches, retries, and what is rejected."""

import math
import os
import random
import re
import shutil
import threading

import pytest

from benchmarkai.daemon.backends.base import Answer, FatalError, Rejected, Unavailable
from benchmarkai.daemon.delivery import Delivery, DeliveryThread
from benchmarkai.daemon.spool import Spool, SpoolFull
from tests.daemon.fakes import NEVER, FakeBackend, VirtualClock, fail, run_steps
from tests.daemon.harness import rejected_entries
from tests.helpers import bounded, wait_until


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture
def spool(tmp_path, clock):
    folder = tmp_path / "folder"
    folder.mkdir()
    with Spool(str(folder / "spool"), 1 << 30, clock=clock) as spool:
        spool.begin({"run": "42"}, "a server")
        yield spool


@pytest.fixture
def longest_pauses(monkeypatch):
    """The random pauses are as long as they can be."""
    monkeypatch.setattr(random, "uniform", lambda shortest, longest: longest)


@pytest.fixture
def make_delivery(spool, clock):
    """A function that returns a delivery from the spool."""

    def call(backend, batch_size=1000, flush_interval=1.0):
        return Delivery(spool, backend, batch_size, flush_interval, clock)

    return call


@pytest.fixture
def deliver(make_delivery, clock):
    """A function that delivers all that is in the spool, and returns the delivery."""

    def call(backend, batch_size=1000):
        delivery = make_delivery(backend, batch_size)
        delivery.finish()
        run_steps(delivery, clock)
        return delivery

    return call


def add(spool, *values, name="a"):
    spool.add([(name, value) for value in values])


def rejected_values(spool):
    return [entry["value"] for entry in rejected_entries(spool)]


# Batches


def test_metrics_are_sent_in_order_and_removed(spool, deliver):
    backend = FakeBackend()
    add(spool, *range(10))
    delivery = deliver(backend, batch_size=4)
    assert backend.accepted == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (delivery.delivered, delivery.rejected, spool.waiting()) == (10, 0, 0)
    assert delivery.last_error is None


@pytest.mark.parametrize("size, maximum, expected", [(4, 3, 3), (3, 4, 3), (4, None, 4)])
def test_a_batch_is_no_larger_than_the_backend_accepts(spool, deliver, size, maximum, expected):
    backend = FakeBackend()
    backend.max_batch_size = maximum
    add(spool, *range(5))
    deliver(backend, batch_size=size)
    assert backend.calls == [list(range(expected)), list(range(expected, 5))]


def test_a_step_makes_at_most_one_request(spool, clock, make_delivery):
    backend = FakeBackend(rule=reject_threes)
    delivery = make_delivery(backend, batch_size=7)
    delivery.finish()
    add(spool, *range(1, 40))
    before = 0
    while delivery.step() is not None:
        assert len(backend.calls) - before <= 1
        before = len(backend.calls)
    assert (delivery.delivered, delivery.rejected) == (26, 13)


def test_what_an_earlier_daemon_has_left_is_sent_at_once(spool, make_delivery, clock):
    backend = FakeBackend()
    add(spool, 1)
    run_steps(make_delivery(backend, flush_interval=NEVER), clock)
    assert backend.accepted == [[1]]
    assert clock.now == VirtualClock().now


@pytest.fixture
def idle_delivery(make_delivery, longest_pauses):
    """A delivery of three at once that has found an empty spool."""
    delivery = make_delivery(FakeBackend(), batch_size=3, flush_interval=NEVER)
    assert delivery.step() == math.inf
    return delivery


def sent_by(delivery):
    return delivery._backend.calls


def test_a_full_batch_is_sent_at_once(spool, idle_delivery):
    add(spool, 1, 2)
    assert idle_delivery.step() == NEVER
    add(spool, 3)
    assert [idle_delivery.step(), idle_delivery.step()] == [0.0, 0.0]
    assert sent_by(idle_delivery) == [[1, 2, 3]]
    assert idle_delivery.step() == math.inf


def test_a_partial_batch_is_sent_after_the_flush_interval(spool, clock, idle_delivery):
    for number in (1, 2):
        add(spool, number)
        assert idle_delivery.step() == NEVER
        clock.now += NEVER - 1
        add(spool, -number)
        assert idle_delivery.step() == 1.0
        clock.now += 1
        assert [idle_delivery.step(), idle_delivery.step()] == [0.0, 0.0]
        assert idle_delivery.step() == math.inf
    assert sent_by(idle_delivery) == [[1, -1], [2, -2]]


def test_the_moment_of_a_partial_batch_is_random(spool, clock, make_delivery):
    pauses = []
    for number in range(200):
        delivery = make_delivery(FakeBackend(), flush_interval=10.0)
        assert delivery.step() == math.inf
        add(spool, number)
        pauses.append(delivery.step())
        run_steps(delivery, clock)
    assert all(5 <= pause <= 10 for pause in pauses)
    assert min(pauses) < 6 and max(pauses) > 9


def test_a_partial_batch_is_sent_once_the_spool_is_full(spool, idle_delivery, monkeypatch):
    add(spool, 1)
    assert idle_delivery.step() == NEVER
    monkeypatch.setattr(spool, "_limit", 1)
    assert [idle_delivery.step(), idle_delivery.step()] == [0.0, 0.0]
    assert sent_by(idle_delivery) == [[1]]


def test_finishing_sends_what_waits_at_once(spool, idle_delivery):
    add(spool, 1)
    assert idle_delivery.step() == NEVER
    idle_delivery.finish()
    assert [idle_delivery.step(), idle_delivery.step()] == [0.0, 0.0]
    assert idle_delivery.step() is None
    assert sent_by(idle_delivery) == [[1]]


def test_the_labels_in_a_name_are_read_before_it_is_sent(spool, deliver):
    found = []
    add(spool, 1, name='a{b="c"}')
    add(spool, 2, name="b")
    deliver(FakeBackend(found.extend))
    assert [(metric.name, metric.labels) for metric in found] == [
        ("a", {"run": "42", "b": "c"}),
        ("b", {"run": "42"}),
    ]


def test_the_labels_in_a_name_may_be_left_there(spool, clock):
    found = []
    add(spool, 1, name='a{b="c"}')
    delivery = Delivery(spool, FakeBackend(found.extend), 1, 1.0, clock, name_labels=False)
    run_steps(delivery, clock)
    assert [(metric.name, metric.labels) for metric in found] == [('a{b="c"}', {"run": "42"})]


def test_a_backend_may_reject_the_labels_in_a_name(spool, deliver):
    backend = FakeBackend()
    backend.reason_to_reject_labels = lambda labels: "bad" if "b" in labels else None
    add(spool, 1, name='a{b="c"}')
    add(spool, 2, name="b")
    deliver(backend)
    assert backend.accepted == [[2]]
    (entry,) = rejected_entries(spool)
    assert (entry["name"], entry["labels"]) == ("a", {"run": "42", "b": "c"})


# Retries


@pytest.mark.parametrize(
    "error, reason",
    [
        (Unavailable("HTTP 503: not now"), "HTTP 503: not now"),
        (ValueError("what is this?"), "ValueError: what is this?"),
        (OSError(104, "Connection reset by peer"), "ConnectionResetError: [Errno 104] Connection "),
    ],
)
def test_an_error_is_followed_by_a_retry(
    spool, clock, make_delivery, longest_pauses, messages, error, reason
):
    backend = FakeBackend(fail(error), fail(error))
    add(spool, 1, 2)
    delivery = make_delivery(backend)
    run_steps(delivery, clock, until=lambda: delivery.last_error)
    assert delivery.last_error.startswith(reason)
    run_steps(delivery, clock)
    assert backend.calls == [[1, 2]] * 3
    assert backend.accepted == [[1, 2]]
    assert (delivery.delivered, delivery.last_error, spool.waiting()) == (2, None, 0)
    first, second, last = messages()
    assert first.startswith("cannot deliver: " + reason)
    assert first.endswith("; 2 metrics waiting; next retry in 0.5 s")
    assert second == first.replace("0.5 s", "1.0 s")
    assert last == "delivering again"


def test_a_pause_too_short_to_show_is_no_pause(spool, clock, make_delivery, messages, monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda shortest, longest: shortest)
    add(spool, 1)
    run_steps(make_delivery(FakeBackend(fail(Unavailable("busy")))), clock)
    assert messages()[0] == "cannot deliver: busy; 1 metric waiting; retrying at once"


def failed_delivery(spool, clock, make_delivery, failures, **options):
    """Return a delivery after so many failures in a row."""
    add(spool, 1)
    error = Unavailable("HTTP 503: not now", **options)
    backend = FakeBackend(rule=fail(error))
    delivery = make_delivery(backend)
    run_steps(delivery, clock, until=lambda: len(backend.calls) == failures)
    return delivery


def test_no_request_is_made_before_a_retry_is_due(spool, clock, make_delivery, longest_pauses):
    delivery = failed_delivery(spool, clock, make_delivery, failures=1)
    clock.now += 0.375
    add(spool, *range(1000))
    assert delivery.step() == 0.125
    assert len(sent_by(delivery)) == 1
    clock.now += 0.125
    delivery.step()
    assert len(sent_by(delivery)) == 2


@pytest.mark.parametrize(
    "failures, longest", [(1, 0.5), (2, 1), (3, 2), (4, 4), (6, 16), (7, 30), (8, 30), (2000, 30)]
)
def test_retries_back_off_exponentially_up_to_half_a_minute(
    spool, clock, make_delivery, longest_pauses, failures, longest
):
    delivery = failed_delivery(spool, clock, make_delivery, failures)
    assert delivery.step() == longest


def test_the_pauses_between_retries_are_random(spool, clock, make_delivery):
    delivery = failed_delivery(spool, clock, make_delivery, 100)
    pauses = []
    for _ in range(200):
        pauses.append(delivery.step())
        clock.now += pauses[-1]
        delivery.step()
    assert all(0 <= pause <= 30 for pause in pauses)
    assert min(pauses) < 10 and max(pauses) > 20
    assert len(set(pauses)) > 100


def test_after_a_success_the_pauses_are_short_again(spool, clock, make_delivery, longest_pauses):
    error = fail(Unavailable("down"))
    backend = FakeBackend(*[error] * 10, lambda metrics: None, error)
    delivery = make_delivery(backend)
    add(spool, 1)
    run_steps(delivery, clock)
    add(spool, 2)
    run_steps(delivery, clock, until=lambda: len(backend.calls) == 12)
    assert delivery.step() == 0.5


def test_a_retry_comes_no_sooner_than_the_server_wants(
    spool, clock, make_delivery, longest_pauses, messages
):
    delivery = failed_delivery(spool, clock, make_delivery, 1, retry_after=1000)
    assert messages() == [
        "cannot deliver: HTTP 503: not now; 1 metric waiting; next retry in 1500.0 s"
    ]
    assert delivery.step() == 1500.0


def test_daemons_that_a_server_has_sent_away_do_not_come_back_together(spool, clock, make_delivery):
    pauses = [
        failed_delivery(spool, clock, make_delivery, 1, retry_after=60).step() for _ in range(200)
    ]
    assert all(60 <= pause <= 90 for pause in pauses)
    assert min(pauses) < 65 and max(pauses) > 85
    # A short pause of the server leaves the back-off as it is.
    pauses = [
        failed_delivery(spool, clock, make_delivery, 7, retry_after=1).step() for _ in range(200)
    ]
    assert all(1 <= pause <= 31 for pause in pauses)
    assert min(pauses) < 8 and max(pauses) > 24


def test_finishing_shortens_the_pauses_to_half_a_second(
    spool, clock, make_delivery, longest_pauses
):
    delivery = failed_delivery(spool, clock, make_delivery, 1, retry_after=1000)
    clock.now += 0.125
    delivery.finish()
    assert delivery.step() == 0.375
    for calls in (2, 3):
        clock.now += 0.5
        assert delivery.step() == 0.5
        assert len(sent_by(delivery)) == calls


def test_a_failed_delivery_does_not_wait_for_a_batch_to_fill(spool, clock, make_delivery):
    backend = FakeBackend(rule=fail(Rejected("HTTP 401: who are you?")))
    delivery = make_delivery(backend, flush_interval=NEVER)
    assert delivery.step() == math.inf
    add(spool, 1)
    clock.now += delivery.step()
    start = clock.now
    run_steps(delivery, clock, until=lambda: len(backend.calls) == 6)
    assert clock.now - start < NEVER


def test_each_error_is_logged_once_while_the_delivery_finishes(spool, make_delivery, messages):
    errors = [Unavailable("HTTP 503"), Unavailable("HTTP 503"), Unavailable("HTTP 502")]
    delivery = make_delivery(FakeBackend(*map(fail, errors)))
    add(spool, 1)
    delivery.finish()
    run_steps(delivery, delivery._clock)
    assert [re.sub(";.*", "", message) for message in messages()] == [
        "cannot deliver: HTTP 503",
        "cannot deliver: HTTP 502",
        "delivering again",
    ]


def test_an_error_that_is_logged_already_is_not_logged_while_the_delivery_finishes(
    spool, clock, make_delivery, messages
):
    delivery = failed_delivery(spool, clock, make_delivery, 1)
    delivery.finish()
    run_steps(delivery, clock, until=lambda: len(sent_by(delivery)) == 5)
    assert len(messages()) == 1


def test_a_fatal_error_ends_the_delivery_and_the_metrics_stay(spool, clock, make_delivery):
    delivery = make_delivery(FakeBackend(fail(FatalError("cannot write to stdout"))))
    add(spool, 1, 2)
    with pytest.raises(FatalError):
        run_steps(delivery, clock)
    assert (delivery.delivered, delivery.rejected, spool.waiting()) == (0, 0, 2)


# What is rejected


def reject_threes(metrics):
    if any(metric.value % 3 == 0 for metric in metrics):
        raise Rejected("HTTP 400: a multiple of three")


def name_threes(metrics):
    return [(metric, "a multiple of three") for metric in metrics if metric.value % 3 == 0]


def test_a_rejected_batch_is_split_until_each_bad_metric_is_found(spool, deliver, messages):
    backend = FakeBackend(rule=reject_threes)
    add(spool, *range(1, 9))
    delivery = deliver(backend)
    assert sorted(sum(backend.accepted, [])) == [1, 2, 4, 5, 7, 8]
    assert (delivery.delivered, delivery.rejected, spool.waiting()) == (6, 2, 0)
    assert [(entry["value"], entry["reason"]) for entry in rejected_entries(spool)] == [
        (3, "HTTP 400: a multiple of three"),
        (6, "HTTP 400: a multiple of three"),
    ]
    message = "rejected 1 metric: 'a': HTTP 400: a multiple of three: see "
    assert messages() == [message + spool.rejects.path] * 2


def test_a_rejected_metric_is_kept_with_all_that_is_known_of_it(spool, deliver):
    backend = FakeBackend(lambda metrics: [(metrics[0], "it is bad")])
    add(spool, 0.5, 2)
    bad = spool.oldest(1)[0]
    deliver(backend)
    assert backend.accepted == [[2]]
    assert rejected_entries(spool) == [
        {
            "id": bad.id,
            "time": bad.time,
            "name": "a",
            "value": 0.5,
            "labels": {"run": "42"},
            "reason": "it is bad",
        }
    ]


def positions(count):
    """Return pairs of the size of a batch and a position in it."""
    small = [(size, position) for size in range(1, 18) for position in range(size)]
    sizes = [random.randint(18, 1100) for _ in range(count)]
    return small + [(size, random.randrange(size)) for size in sizes]


def test_one_bad_metric_is_found_with_a_number_of_requests_that_grows_like_the_logarithm(
    spool, clock, make_delivery
):
    def reject_negative(metrics):
        if any(metric.value < 0 for metric in metrics):
            raise Rejected("HTTP 400: it is negative")

    backend = FakeBackend(rule=reject_negative)
    delivery = make_delivery(backend, batch_size=2000, flush_interval=0.0)
    add(spool, 0)
    run_steps(delivery, clock)
    for size, position in positions(60):
        values = list(range(size))
        values[position] = -1
        backend.calls, backend.accepted, rejected = [], [], delivery.rejected
        add(spool, *values)
        run_steps(delivery, clock)
        del values[position]
        assert sum(backend.accepted, []) == values
        assert delivery.rejected == rejected + 1
        requests = len(backend.calls)
        assert requests <= 2 * math.log2(size) + 2, (size, position, requests)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50, 99])
def test_a_batch_that_is_rejected_for_its_size_is_delivered_in_parts(spool, deliver, limit):
    def too_large(metrics):
        if len(metrics) > limit:
            raise Rejected("HTTP 413: too large")

    backend = FakeBackend(rule=too_large)
    add(spool, *range(100))
    delivery = deliver(backend)
    assert sum(backend.accepted, []) == list(range(100))
    assert (delivery.delivered, delivery.rejected, spool.waiting()) == (100, 0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_each_metric_is_accepted_once_or_rejected_once(spool, clock, make_delivery, seed):
    chance = random.Random(seed)
    bad = {value for value in range(300) if chance.random() < chance.choice([0.02, 0.5, 1.0])}
    faults = chance.choice([0.0, 0.3])
    limit = chance.randint(1, 400)

    def answer(metrics):
        if chance.random() < faults:
            raise Unavailable("HTTP 503")
        found = [metric for metric in metrics if metric.value in bad]
        if len(metrics) > limit or (found and chance.random() < 0.7):
            raise Rejected("HTTP 400")
        return [(metric, "it is bad") for metric in found]

    backend = FakeBackend(rule=answer)
    delivery = make_delivery(backend, batch_size=chance.randint(1, 400))
    for number in range(0, 300, 50):
        add(spool, *range(number, number + 50), name=f"series {number}")
    add(spool, 1000)  # which is good
    delivery.finish()
    run_steps(delivery, clock)
    good = [value for value in [*range(300), 1000] if value not in bad]
    assert sorted(sum(backend.accepted, [])) == good
    assert sorted(rejected_values(spool)) == sorted(bad)
    assert (delivery.delivered, delivery.rejected) == (len(good), len(bad))
    assert spool.waiting() == 0


def test_what_a_server_rejects_is_recorded_before_it_gets_the_rest(spool, clock, make_delivery):
    backend = FakeBackend(lambda metrics: None, rule=fail(Rejected("HTTP 400: bad")))
    add(spool, 0)
    delivery = make_delivery(backend)
    run_steps(delivery, clock)
    add(spool, *range(1000))
    run_steps(delivery, clock, until=lambda: delivery.rejected == 3)
    assert len(backend.calls) < 30
    assert rejected_values(spool) == [0, 1, 2]
    assert [metric.value for metric in spool.oldest(2)] == [3, 4]
    assert spool.waiting() == 997


def test_nothing_is_lost_if_the_process_is_killed_while_a_batch_is_split(spool, clock, tmp_path):
    accepted = tmp_path / "accepted"

    def answer(metrics):
        reject_threes(metrics)
        with open(accepted, "a") as file:
            file.writelines(f"{metric.value}\n" for metric in metrics)

    backend = FakeBackend(rule=answer)
    add(spool, *range(301))
    path = spool.path
    spool.close()
    for steps in [1, 2, 5, 10, 50, 100, 200]:
        child = os.fork()
        if not child:
            delivery = Delivery(Spool(path, 1 << 30, clock=clock), backend, 100, 1.0)
            for _ in range(steps):
                delivery.step()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    with Spool(path, 1 << 30, clock=clock) as left:
        assert 0 < left.waiting() < 250
        add(left, 301)  # which the server accepts, whatever else is left
        run_steps(Delivery(left, backend, 100, 1.0, clock), clock)
        assert left.waiting() == 0
        assert rejected_values(left) == list(range(0, 301, 3))
    good = [number for number in range(302) if number % 3]
    assert sorted(map(int, accepted.read_text().split())) == good


def test_an_integer_beyond_the_range_of_a_double_is_rejected(spool, deliver):
    backend = FakeBackend()
    add(spool, 1, 10**400, -(10**400), 2)
    delivery = deliver(backend)
    assert backend.accepted == [[1, 2]]
    assert (delivery.delivered, delivery.rejected) == (2, 2)
    reason = "the integer is larger than a double can be (1.8e308)"
    assert [(entry["value"], entry["reason"]) for entry in rejected_entries(spool)] == [
        (10**400, reason),
        (-(10**400), reason),
    ]


@pytest.mark.parametrize("labels", [{"\ud800": "1"}, {"host": "\udcff"}])
def test_text_that_cannot_be_encoded_is_rejected(spool, deliver, labels):
    spool.begin(labels, "a server")
    add(spool, 1)
    backend = FakeBackend()
    deliver(backend)
    assert backend.calls == []
    (entry,) = rejected_entries(spool)
    assert entry["reason"] == "a label has half a character (a lone surrogate)"


class PickyBackend(FakeBackend):
    def reason_to_reject_labels(self, labels):
        return "the label a-b is bad" if "a-b" in labels else None

    def reason_to_reject(self, metric):
        return "it is negative" if metric.value < 0 else None


def test_what_the_backend_cannot_hold_is_rejected_without_a_request(spool, deliver, messages):
    spool.begin({"a-b": "1"}, "a server")
    add(spool, 1, 2)
    spool.begin({"run": "42"}, "a server")
    add(spool, 3, -4, 5)
    add(spool, *range(6, 10))
    backend = PickyBackend()
    delivery = deliver(backend, batch_size=4)
    assert backend.calls == [[3], [5, 6, 7, 8], [9]]
    assert (delivery.delivered, delivery.rejected, spool.waiting()) == (6, 3, 0)
    assert [(entry["value"], entry["reason"]) for entry in rejected_entries(spool)] == [
        (1, "the label a-b is bad"),
        (2, "the label a-b is bad"),
        (-4, "it is negative"),
    ]
    assert messages() == [
        f"rejected 3 metrics, the first is 'a': the label a-b is bad: see {spool.rejects.path}"
    ]


# A server that takes some, or says of how many it has rejected


def postpone_threes(metrics):
    threes = [metric for metric in metrics if metric.value % 3 == 0]
    return Answer(postponed=threes, reason="HTTP 429: busy", retry_after=60)


def test_only_what_a_server_has_postponed_is_sent_again(spool, clock, make_delivery, messages):
    backend = FakeBackend(postpone_threes, postpone_threes)
    delivery = make_delivery(backend, batch_size=7)
    add(spool, *range(1, 10))
    run_steps(delivery, clock)
    assert backend.calls == [[1, 2, 3, 4, 5, 6, 7], [3, 6], [3, 6], [8, 9]]
    assert (delivery.delivered, delivery.rejected, spool.waiting()) == (9, 0, 0)
    assert clock.now >= VirtualClock().now + 120  # as the server has asked, twice
    assert messages()[0].startswith("cannot deliver: HTTP 429: busy; 4 metrics waiting; next retry")
    assert messages()[-1] == "delivering again"


def test_what_a_server_has_not_postponed_is_done_with_at_once(spool, clock, make_delivery):
    delivery = make_delivery(FakeBackend(postpone_threes))
    add(spool, *range(1, 10))
    run_steps(delivery, clock, until=lambda: delivery.last_error is not None)
    assert [metric.value for metric in spool.oldest(10)] == [3, 6, 9]
    assert (delivery.delivered, delivery.last_error) == (6, "HTTP 429: busy")


def test_a_server_that_takes_some_of_a_batch_may_reject_others(spool, deliver):
    def answer(metrics):
        one, two, three = metrics
        return Answer([(one, "HTTP 400: bad")], [two], reason="busy")

    add(spool, 1, 2, 3)
    backend = FakeBackend(answer)
    delivery = deliver(backend)
    assert backend.accepted == [[3], [2]]
    assert (delivery.delivered, delivery.rejected) == (2, 1)
    assert rejected_values(spool) == [1]


def test_a_server_that_has_taken_none_rejects_none(spool, clock, make_delivery):
    def answer(metrics):
        return Answer([(metrics[0], "HTTP 400: bad")], metrics[1:], reason="busy")

    add(spool, 1, 2)
    backend = FakeBackend(answer)
    delivery = make_delivery(backend)
    run_steps(delivery, clock)
    assert backend.accepted == [[], [1, 2]]
    assert (delivery.delivered, delivery.rejected) == (2, 0)


def test_what_a_backend_has_left_for_another_request_is_sent_at_once(
    spool, clock, make_delivery, messages
):
    def send_one(metrics):
        return Answer(postponed=metrics[1:]) if len(metrics) > 1 else None

    backend = FakeBackend(rule=send_one)
    delivery = make_delivery(backend)
    add(spool, 1, 2, 3)
    assert [delivery.step() for _ in range(3)] == [0.0] * 3
    assert delivery.delivered == 2
    run_steps(delivery, clock)
    assert backend.calls == [[1, 2, 3], [2, 3], [3]]
    assert (delivery.delivered, clock.now) == (3, VirtualClock().now)
    assert messages() == []


def test_a_batch_that_is_rejected_with_all_its_metrics_is_not_sent_again(spool, deliver):
    answer = Answer(unidentified=2, reason="too old")
    backend = FakeBackend(lambda metrics: answer)
    add(spool, 1, 2)
    delivery = deliver(backend)
    assert backend.calls == [[1, 2]]
    assert (delivery.delivered, delivery.rejected) == (0, 2)
    entries = rejected_entries(spool)
    assert [(entry["value"], entry["reason"]) for entry in entries] == [
        (1, "too old"),
        (2, "too old"),
    ]


def test_nothing_is_sent_again_of_a_batch_of_which_a_server_has_rejected_some(
    spool, deliver, messages
):
    answer = Answer(unidentified=2, reason="too old")
    backend = FakeBackend(lambda metrics: answer)
    add(spool, 1, 2, 3)
    delivery = deliver(backend)
    assert backend.calls == [[1, 2, 3]]
    assert (delivery.delivered, delivery.rejected, spool.waiting()) == (1, 2, 0)
    (entry,) = rejected_entries(spool)
    assert (entry["rejected"], entry["reason"]) == (2, "2 of these 3: too old")
    assert [metric["value"] for metric in entry["metrics"]] == [1, 2, 3]
    assert all(metric["labels"] == {"run": "42"} for metric in entry["metrics"])
    assert messages() == [
        "rejected 2 metrics, the first is one of the 3 metrics from 'a' on: too old: see "
        + spool.rejects.path
    ]
    assert spool.take_back_rejected(also_new=True) == 0
    assert len(rejected_entries(spool)) == 1


# A server that has not accepted any metric yet


def name_all(metrics):
    return [(metric, "it is bad") for metric in metrics]


@pytest.mark.parametrize("answer", [fail(Rejected("it is bad")), name_all], ids=["all", "items"])
@pytest.mark.parametrize("names", ["a", "abc", "abcdefghijklmnopqrstuvwxyz"])
def test_a_server_that_has_not_accepted_any_metric_cannot_reject_one(
    spool, clock, make_delivery, messages, answer, names
):
    for name in names:
        add(spool, 1, 2, 3, name=name)
    backend = FakeBackend(rule=answer)
    delivery = make_delivery(backend, batch_size=20)
    run_steps(delivery, clock, until=lambda: len(messages()) == 5)
    assert (delivery.delivered, delivery.rejected, spool.waiting()) == (0, 0, 3 * len(names))
    assert not os.path.exists(spool.rejects.path)
    assert len(backend.calls) <= 5 * (1 + 8)
    assert delivery.last_error == (
        "it is bad (the server has not accepted any metric yet, so this may be a mistake in the "
        "options: all metrics are kept)"
    )
    assert messages()[0].startswith(f"cannot deliver: {delivery.last_error}; {3 * len(names)} ")


@pytest.mark.parametrize("answer", [fail(Rejected("it is bad")), name_all], ids=["all", "items"])
def test_a_rejected_metric_that_waits_alone_is_sent_once_for_each_retry(
    spool, clock, make_delivery, messages, answer
):
    add(spool, 1)
    backend = FakeBackend(rule=answer)
    run_steps(make_delivery(backend), clock, until=lambda: len(messages()) == 5)
    assert backend.calls == [[1]] * 5


def test_the_metrics_of_a_server_that_was_misconfigured_are_delivered_in_the_end(
    spool, clock, make_delivery
):
    backend = FakeBackend(*[fail(Rejected("HTTP 404: no such database"))] * 50)
    add(spool, *range(100))
    delivery = make_delivery(backend)
    run_steps(delivery, clock)
    assert sorted(sum(backend.accepted, [])) == list(range(100))
    assert (delivery.delivered, delivery.rejected, delivery.last_error) == (100, 0, None)


@pytest.mark.parametrize("rule", [reject_threes, name_threes])
def test_a_server_that_has_accepted_a_metric_can_reject_others(spool, clock, make_delivery, rule):
    backend = FakeBackend(rule=rule)
    delivery = make_delivery(backend)
    add(spool, 3, 6, 9)
    run_steps(delivery, clock, until=lambda: delivery.last_error)
    assert (delivery.rejected, spool.waiting()) == (0, 3)
    add(spool, 1, name="b")
    run_steps(delivery, clock)
    assert (delivery.delivered, delivery.rejected, spool.waiting()) == (1, 3, 0)
    assert rejected_values(spool) == [3, 6, 9]


def test_a_metric_beyond_the_first_batch_proves_the_server(spool, clock, make_delivery, messages):
    def reject_old_labels(metrics):
        if any(metric.labels for metric in metrics):
            raise Rejected("HTTP 400: bad label")

    spool.begin({"bad": "label"}, "a server")
    spool.add([("a", number) for number in range(5000)])
    spool.begin({}, "a server")
    add(spool, 5000)
    backend = FakeBackend(rule=reject_old_labels)
    delivery = make_delivery(backend)
    run_steps(delivery, clock, until=lambda: delivery.delivered or len(backend.calls) > 9)
    assert delivery.delivered == 1
    run_steps(delivery, clock)
    assert (delivery.delivered, delivery.rejected, spool.waiting()) == (1, 5000, 0)
    assert rejected_values(spool) == list(range(5000))


def test_an_error_while_a_server_is_tried_is_followed_by_a_retry(spool, clock, make_delivery):
    rejected = fail(Rejected("HTTP 400"))
    backend = FakeBackend(rejected, fail(Unavailable("HTTP 503")), rejected)
    delivery = make_delivery(backend)
    add(spool, 1, 2, name="a")
    add(spool, 3, name="b")
    run_steps(delivery, clock)
    assert sorted(sum(backend.accepted, [])) == [1, 2, 3]
    assert (delivery.delivered, delivery.rejected) == (3, 0)


def test_a_metric_that_the_backend_cannot_hold_is_not_tried(spool, clock, make_delivery):
    backend = PickyBackend(rule=fail(Rejected("HTTP 400")))
    delivery = make_delivery(backend, batch_size=1)
    add(spool, 1, name="a")
    add(spool, -2, name="b")
    run_steps(delivery, clock, until=lambda: delivery.last_error)
    assert backend.calls == [[1]]
    assert spool.waiting() == 2


# A spool that cannot be written


@pytest.mark.parametrize("method", ["reject", "remove"])
def test_what_cannot_be_recorded_is_not_sent_again(
    spool, clock, make_delivery, monkeypatch, longest_pauses, messages, method
):
    original, errors = getattr(spool, method), [SpoolFull("the disk is full")] * 3

    def no_room_at_first(*arguments):
        if errors:
            raise errors.pop()
        return original(*arguments)

    monkeypatch.setattr(spool, method, no_room_at_first)
    backend = FakeBackend(lambda metrics: [(metrics[0], "it is bad")])
    add(spool, 1, 2)
    delivery = make_delivery(backend)
    run_steps(delivery, clock)
    assert backend.calls == [[1, 2]]
    assert rejected_values(spool) == [1]
    assert (delivery.delivered, delivery.rejected, spool.waiting()) == (1, 1, 0)
    message = "cannot deliver: the disk is full; 2 metrics waiting; next retry in {} s"
    assert messages() == [
        *(message.format(pause) for pause in (0.5, 1.0, 2.0)),
        f"rejected 1 metric: 'a': it is bad: see {spool.rejects.path}",
        "delivering again",
    ]
    assert delivery.last_error is None


def test_the_rest_of_a_batch_waits_until_the_answer_is_recorded(
    spool, clock, make_delivery, monkeypatch
):
    backend = FakeBackend(lambda metrics: None, rule=reject_threes)
    delivery = make_delivery(backend)
    add(spool, 1)
    run_steps(delivery, clock)
    add(spool, 2, 3)
    original, errors = spool.remove, [SpoolFull("the disk is full")] * 5

    def no_room_at_first(metrics):
        if errors:
            raise errors.pop()
        original(metrics)

    monkeypatch.setattr(spool, "remove", no_room_at_first)
    run_steps(delivery, clock, until=lambda: not errors)
    assert backend.calls == [[1], [2, 3], [2]]
    run_steps(delivery, clock)
    assert backend.calls == [[1], [2, 3], [2], [3]]
    assert (delivery.delivered, rejected_values(spool)) == (2, [3])


def test_a_removed_folder_of_the_spool_does_not_stop_the_delivery(spool, deliver):
    backend = FakeBackend()
    add(spool, 1)
    shutil.rmtree(os.path.dirname(spool.path))
    assert deliver(backend).delivered == 1
    assert backend.accepted == [[1]]


# The thread


@pytest.fixture
def start_thread(spool):
    """A function that starts a delivery from the spool in a thread."""
    threads = []

    def call(backend, flush_interval=0.01):
        threads.append(DeliveryThread(Delivery(spool, backend, 1000, flush_interval)))
        threads[-1].start()
        return threads[-1]

    yield call
    for thread in threads:
        thread.stop()
        wait_until(lambda: not thread.is_alive())


def test_the_thread_delivers_what_it_is_told_about(spool, start_thread):
    backend = FakeBackend()
    thread = start_thread(backend)
    for number in range(3):
        add(spool, number)
        thread.notify()
        wait_until(lambda: spool.waiting() == 0)
    thread.finish()
    wait_until(lambda: not thread.is_alive())
    assert sum(backend.accepted, []) == [0, 1, 2]
    assert thread.failure is None


def test_the_thread_makes_a_step_only_when_one_is_due_or_there_is_news(spool):
    steps = []
    delivery = Delivery(spool, FakeBackend(), 1000, NEVER)
    delivery.step = lambda: steps.append(1) or NEVER
    with DeliveryThread(delivery) as thread:
        thread.start()
        for number in range(1, 20):
            wait_until(lambda: len(steps) == number)
            thread.notify()
        wait_until(lambda: len(steps) == 20)


def test_the_thread_waits_for_the_end_of_a_batch_whatever_news_there_is(spool, start_thread):
    backend = FakeBackend()
    thread = start_thread(backend, flush_interval=NEVER)
    steps = []
    step = thread.delivery.step
    thread.delivery.step = lambda: steps.append(1) or step()
    wait_until(lambda: thread._is_idle)
    add(spool, 1)
    thread.notify(urgent=False)
    wait_until(lambda: not thread._is_idle)
    for number in range(2, 20):
        add(spool, number)
        thread.notify(urgent=False)
    assert len(steps) == 1
    thread.notify()
    wait_until(lambda: len(steps) == 2)


def test_finishing_ends_the_wait_for_a_batch(spool, start_thread):
    backend = FakeBackend()
    thread = start_thread(backend, flush_interval=NEVER)
    wait_until(lambda: thread.delivery._flush_at is None)
    add(spool, 1)
    thread.notify()
    thread.finish()
    wait_until(lambda: not thread.is_alive())
    assert backend.accepted == [[1]]


def test_a_fatal_error_ends_the_thread(spool, start_thread):
    add(spool, 1)
    thread = start_thread(FakeBackend(fail(FatalError("cannot write to stdout"))))
    wait_until(lambda: not thread.is_alive())
    assert thread.failure == "cannot write to stdout"


def test_a_thread_that_was_never_started_can_be_stopped(spool):
    backend = FakeBackend()
    add(spool, 1)
    with DeliveryThread(Delivery(spool, backend, 1000, NEVER)) as thread:
        pass
    bounded(thread.stop)
    assert not thread.is_alive()
    assert (backend.calls, thread.failure, spool.waiting()) == ([], None, 1)


@pytest.mark.parametrize("values", [[], [1]])
def test_stopping_ends_a_pause(spool, start_thread, values):
    backend = FakeBackend(rule=fail(Unavailable("not now", retry_after=1000)))
    add(spool, *values)
    thread = start_thread(backend, flush_interval=NEVER)
    wait_until(lambda: thread.delivery.last_error or not values)
    thread.stop()
    assert not thread.is_alive()
    assert (backend.accepted, thread.failure, spool.waiting()) == ([], None, len(values))


def test_stopping_does_not_wait_for_a_server_that_does_not_respond(spool, start_thread):
    response = threading.Event()
    backend = FakeBackend(lambda metrics: bounded(response.wait) and None)
    add(spool, 1)
    thread = start_thread(backend)
    wait_until(lambda: backend.calls)
    bounded(thread.stop, limit=30)
    assert thread.is_alive()
    response.set()
    wait_until(lambda: not thread.is_alive())


def test_a_second_stop_does_not_wait_for_a_hung_request(spool, start_thread, monkeypatch):
    response = threading.Event()
    add(spool, 1)
    backend = FakeBackend(lambda metrics: bounded(response.wait) and None)
    thread = start_thread(backend)
    wait_until(lambda: backend.calls)
    joins = []
    monkeypatch.setattr(thread, "join", joins.append)
    thread.stop()
    thread.stop()
    assert len(joins) == 1
    monkeypatch.undo()
    response.set()
