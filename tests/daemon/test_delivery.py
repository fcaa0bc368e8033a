"""From the spool to the server: batches, retries, and what is rejected."""

import json
import os
import shutil
import threading

import pytest
import tenacity

from benchmarkai.daemon import delivery as delivery_module
from benchmarkai.daemon.backends.base import Backend, FatalError, Rejected, Unavailable
from benchmarkai.daemon.delivery import Delivery
from benchmarkai.daemon.spool import Spool, SpoolFull
from tests.helpers import bounded, wait_until

NEVER = 3600.0  # seconds


class FakeBackend(Backend):
    """Keeps the values that it accepts, one list for each call of send().

    answers: for the calls in turn, a function of the metrics; afterwards it accepts all.
    """

    def __init__(self, *answers):
        self.answers = list(answers)
        self.calls = []
        self.accepted = []

    def send(self, metrics):
        values = [metric.value for metric in metrics]
        self.calls.append(values)
        answer = self.answers.pop(0)(metrics) if self.answers else None
        bad = [metric.value for metric, _ in answer or []]
        self.accepted.append([value for value in values if value not in bad])
        return answer


def fail(error):
    def answer(metrics):
        raise error

    return answer


@pytest.fixture
def spool(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with Spool(str(folder / "spool"), {"run": "42"}, 1 << 30) as spool:
        yield spool


@pytest.fixture
def no_backoff(monkeypatch):
    """Retries come at once, unless the server asks for a pause."""
    monkeypatch.setattr(delivery_module, "_backoff", lambda state: 0.0)


@pytest.fixture
def start_delivery(spool, no_backoff):
    """A function that starts a delivery from the spool."""
    deliveries = []

    def call(backend, batch_size=1000, flush_interval=0.01):
        deliveries.append(Delivery(spool, backend, batch_size, flush_interval))
        deliveries[-1].start()
        return deliveries[-1]

    yield call
    for delivery in deliveries:
        delivery.stop()
        wait_until(lambda: not delivery.is_alive())


def add(spool, *values):
    spool.add([("a", value) for value in values])


def finish(delivery):
    delivery.finish()
    wait_until(lambda: not delivery.is_alive())


def rejected_entries(spool):
    with open(spool.rejected_path) as file:
        return [json.loads(line) for line in file]


def test_metrics_are_sent_in_order_and_removed(spool, start_delivery):
    backend = FakeBackend()
    add(spool, *range(10))
    delivery = start_delivery(backend, batch_size=4)
    finish(delivery)
    assert backend.accepted == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (delivery.delivered, delivery.rejected, spool.waiting()) == (10, 0, 0)
    assert (delivery.failure, delivery.last_error) == (None, None)


def test_a_batch_is_no_larger_than_the_backend_accepts(spool, start_delivery):
    backend = FakeBackend()
    backend.max_batch_size = 3
    add(spool, *range(5))
    finish(start_delivery(backend, batch_size=4))
    assert backend.calls == [[0, 1, 2], [3, 4]]


def test_a_full_batch_is_sent_at_once(spool, start_delivery):
    backend = FakeBackend()
    start_delivery(backend, batch_size=3, flush_interval=NEVER)
    add(spool, 1, 2)
    add(spool, 3)
    wait_until(lambda: backend.accepted == [[1, 2, 3]])


def test_a_partial_batch_is_sent_after_the_flush_interval(spool, start_delivery):
    backend = FakeBackend()
    start_delivery(backend, batch_size=3, flush_interval=0.05)
    add(spool, 1)
    wait_until(lambda: backend.accepted == [[1]])
    add(spool, 2)
    wait_until(lambda: backend.accepted == [[1], [2]])


def test_a_partial_batch_is_sent_once_the_spool_is_full(spool, start_delivery, monkeypatch):
    backend = FakeBackend()
    start_delivery(backend, batch_size=1000, flush_interval=NEVER)
    add(spool, 1)
    monkeypatch.setattr(spool, "_limit", 1)
    wait_until(lambda: backend.accepted == [[1]])


def test_finishing_sends_what_waits_at_once(spool, start_delivery):
    backend = FakeBackend()
    delivery = start_delivery(backend, batch_size=1000, flush_interval=NEVER)
    add(spool, 1)
    finish(delivery)
    assert backend.accepted == [[1]]


@pytest.mark.parametrize(
    "error, reason",
    [
        (Unavailable("HTTP 503: not now"), "HTTP 503: not now"),
        (ValueError("what is this?"), "ValueError: what is this?"),
        (OSError(104, "Connection reset by peer"), "ConnectionResetError: [Errno 104] Connection "),
    ],
)
def test_an_error_is_followed_by_a_retry(spool, start_delivery, messages, error, reason):
    backend = FakeBackend(fail(error), fail(error))
    add(spool, 1, 2)
    delivery = start_delivery(backend)
    wait_until(lambda: spool.waiting() == 0)
    finish(delivery)
    assert backend.calls == [[1, 2]] * 3
    assert backend.accepted == [[1, 2]]
    assert (delivery.delivered, delivery.failure) == (2, None)
    first, second, last = messages()
    assert first.startswith(f"cannot deliver: {reason}")
    assert first == second
    assert first.startswith("cannot deliver: " + reason)
    assert first.endswith("; 2 metrics waiting; next retry in 0.0 s")
    assert last == "delivering again"


def test_a_retry_comes_no_sooner_than_the_server_wants(spool, start_delivery, messages):
    backend = FakeBackend(fail(Unavailable("HTTP 429: slow down", retry_after=1000)))
    add(spool, 1)
    delivery = start_delivery(backend)
    wait_until(messages)
    assert messages() == [
        "cannot deliver: HTTP 429: slow down; 1 metric waiting; next retry in 1000.0 s"
    ]
    finish(delivery)  # which shortens that pause
    assert backend.accepted == [[1]]


def test_retries_back_off_with_jitter_up_to_half_a_minute():
    class State:
        outcome = None

        def __init__(self, attempt_number):
            self.attempt_number = attempt_number

    for attempt, limit in [(1, 0.5), (2, 1), (3, 2), (6, 16), (7, 30), (100, 30)]:
        pauses = [delivery_module._pause_before_retry(State(attempt)) for _ in range(200)]
        assert all(0 <= pause <= limit for pause in pauses)
        assert max(pauses) > limit / 2
        assert len(set(pauses)) > 100


def test_a_fatal_error_ends_the_delivery_and_the_metrics_stay(spool, start_delivery):
    delivery = start_delivery(FakeBackend(fail(FatalError("cannot write to stdout"))))
    add(spool, 1, 2)
    wait_until(lambda: not delivery.is_alive())
    assert delivery.failure == "cannot write to stdout"
    assert (delivery.delivered, delivery.rejected, spool.waiting()) == (0, 0, 2)


# What is rejected


def reject_threes(metrics):
    if any(metric.value % 3 == 0 for metric in metrics):
        raise Rejected("HTTP 400: a multiple of three")


def test_a_rejected_batch_is_split_until_each_bad_metric_is_found(spool, start_delivery, messages):
    backend = FakeBackend(*[reject_threes] * 100)
    add(spool, *range(1, 9))
    delivery = start_delivery(backend)
    finish(delivery)
    assert sorted(sum(backend.accepted, [])) == [1, 2, 4, 5, 7, 8]
    assert (delivery.delivered, delivery.rejected, spool.waiting()) == (6, 2, 0)
    assert [(entry["value"], entry["reason"]) for entry in rejected_entries(spool)] == [
        (3, "HTTP 400: a multiple of three"),
        (6, "HTTP 400: a multiple of three"),
    ]
    assert messages() == [
        "rejected 2 of 8 metrics, the first is 'a': HTTP 400: a multiple of three: see "
        + spool.rejected_path
    ]


def test_a_rejected_metric_is_kept_with_all_that_is_known_of_it(spool, start_delivery):
    backend = FakeBackend(lambda metrics: [(metrics[0], "it is bad")])
    add(spool, 0.5, 2)
    time = spool.oldest(1)[0].time
    finish(start_delivery(backend))
    assert backend.accepted == [[2]]
    assert rejected_entries(spool) == [
        {"time": time, "name": "a", "value": 0.5, "labels": {"run": "42"}, "reason": "it is bad"}
    ]


def test_an_integer_beyond_the_range_of_a_double_is_rejected(spool, start_delivery):
    backend = FakeBackend()
    add(spool, 1, 10**400, -(10**400), 2)
    finish(start_delivery(backend))
    assert backend.accepted == [[1, 2]]
    reason = "the integer is larger than a double can be (1.8e308)"
    assert [(entry["value"], entry["reason"]) for entry in rejected_entries(spool)] == [
        (10**400, reason),
        (-(10**400), reason),
    ]


def test_text_that_cannot_be_encoded_is_rejected(spool, start_delivery):
    def encode(metrics):
        "\ud800".encode("utf-8")

    add(spool, 1)
    finish(start_delivery(FakeBackend(encode)))
    (entry,) = rejected_entries(spool)
    assert "surrogates not allowed" in entry["reason"]


class PickyBackend(FakeBackend):
    def reason_to_reject_labels(self, labels):
        return "the label a-b is bad" if "a-b" in labels else None

    def reason_to_reject(self, metric):
        return "it is negative" if metric.value < 0 else None


def test_waiting_metrics_whose_labels_the_backend_rejects_are_rejected_one_by_one(
    tmp_path, messages
):
    path = str(tmp_path / "spool")
    with Spool(path, {"a-b": "1"}, 1 << 30) as old:
        add(old, 1, 2)
    with Spool(path, {"run": "42"}, 1 << 30) as new:
        add(new, 3, -4, 5)
        add(new, *range(6, 10))
        backend = PickyBackend()
        with Delivery(new, backend, 4, 0.01) as delivery:
            delivery.start()
            finish(delivery)
        assert backend.calls == [[3], [5, 6, 7, 8], [9]]
        assert (delivery.delivered, delivery.rejected, new.waiting()) == (6, 3, 0)
        assert [(entry["value"], entry["reason"]) for entry in rejected_entries(new)] == [
            (1, "the label a-b is bad"),
            (2, "the label a-b is bad"),
            (-4, "it is negative"),
        ]
    assert messages() == [
        "rejected 3 of 4 metrics, the first is 'a': the label a-b is bad: see " + new.rejected_path
    ]


# A spool that cannot be written


@pytest.mark.parametrize("method", ["reject", "remove"])
def test_a_write_to_a_full_spool_is_retried(spool, start_delivery, monkeypatch, messages, method):
    original, errors = getattr(spool, method), [SpoolFull("the disk is full")] * 2

    def no_room_at_first(*arguments):
        if errors:
            raise errors.pop()
        return original(*arguments)

    monkeypatch.setattr(spool, method, no_room_at_first)
    backend = FakeBackend(lambda metrics: [(metrics[0], "it is bad")])
    add(spool, 1, 2)
    delivery = start_delivery(backend)
    wait_until(lambda: spool.waiting() == 0)
    finish(delivery)
    assert backend.calls == [[1, 2]]
    assert [entry["value"] for entry in rejected_entries(spool)] == [1]
    assert (delivery.delivered, delivery.rejected) == (1, 1)
    message = "cannot deliver: the disk is full; 2 metrics waiting; next retry in 0.0 s"
    assert messages()[:3] == [message, message, "delivering again"]


def test_a_removed_folder_of_the_spool_does_not_stop_the_delivery(spool, start_delivery):
    backend = FakeBackend()
    delivery = start_delivery(backend, flush_interval=0.5)
    shutil.rmtree(os.path.dirname(spool.path))
    add(spool, 1)
    wait_until(lambda: backend.accepted or not delivery.is_alive())
    assert delivery.failure is None
    assert backend.accepted == [[1]]


# The end


def test_a_delivery_that_was_never_started_can_be_stopped(spool):
    backend = FakeBackend()
    add(spool, 1)
    with Delivery(spool, backend, 1000, NEVER) as delivery:
        pass
    bounded(delivery.stop)
    assert not delivery.is_alive()
    assert (backend.calls, delivery.failure, spool.waiting()) == ([], None, 1)


def test_stopping_ends_a_pause_between_retries(spool, start_delivery):
    backend = FakeBackend(fail(Unavailable("not now", retry_after=1000)))
    add(spool, 1)
    delivery = start_delivery(backend)
    wait_until(lambda: delivery.last_error)
    delivery.stop()
    assert not delivery.is_alive()
    assert delivery.last_error == "not now"
    assert (backend.accepted, delivery.failure, spool.waiting()) == ([], None, 1)


def test_stopping_ends_the_wait_for_a_batch(spool, start_delivery):
    delivery = start_delivery(FakeBackend(), flush_interval=NEVER)
    delivery.stop()
    assert not delivery.is_alive()


def test_stopping_does_not_wait_for_a_server_that_does_not_respond(spool):
    response = threading.Event()
    backend = FakeBackend(lambda metrics: response.wait(60) and None)
    add(spool, 1)
    delivery = Delivery(spool, backend, 1000, 0.01)
    delivery.start()
    wait_until(lambda: backend.calls)
    bounded(delivery.stop, limit=30)
    assert delivery.is_alive()
    response.set()
    wait_until(lambda: not delivery.is_alive())


def test_failures_are_not_logged_while_the_delivery_finishes(spool, no_backoff, messages):
    backend = FakeBackend(*[fail(Unavailable("HTTP 503: not now"))] * 2)
    with Delivery(spool, backend, 1000, NEVER) as delivery:
        add(spool, 1)
        delivery.finish()
        delivery.start()
        wait_until(lambda: not delivery.is_alive())
    assert backend.accepted == [[1]]
    assert messages() == ["delivering again"]


def test_the_last_error_is_forgotten_once_a_retry_succeeds(spool, start_delivery):
    add(spool, 1)
    delivery = start_delivery(FakeBackend(fail(Unavailable("down"))))
    wait_until(lambda: delivery.delivered == 1)
    assert delivery.last_error is None


def test_the_pause_takes_its_argument_by_the_name_that_old_versions_of_tenacity_use():
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    assert delivery_module._pause_before_retry(retry_state=state) >= 0


def test_a_second_stop_does_not_wait_for_a_hung_request(spool, start_delivery, monkeypatch):
    released = threading.Event()
    add(spool, 1)
    backend = FakeBackend(lambda metrics: bounded(released.wait) and None)
    delivery = start_delivery(backend)
    wait_until(lambda: backend.calls)
    joins = []
    monkeypatch.setattr(delivery, "join", joins.append)
    delivery.stop()
    delivery.stop()
    assert len(joins) == 1
    monkeypatch.undo()
    released.set()
