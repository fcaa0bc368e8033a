"""A clock and a server under the control of a test."""

import math

from benchmarkai.daemon.backends.base import Backend
from benchmarkai.daemon.clock import Clock

NEVER = 3600.0  # seconds


class VirtualClock(Clock):
    """A clock that moves when it is told to, and whenever somebody waits."""

    def __init__(self):
        self.now = 1000.0

    def time(self):
        return 10**18 + int(self.now * 10**9)

    def monotonic(self):
        return self.now

    def wait(self, seconds, *sources):
        self.now += seconds


class FakeBackend(Backend):
    """Keeps the values that it gets and those that it accepts, one list for each call of send().

    answers: for the calls in turn, a function of the metrics.
    rule: the same for all later calls. By default it accepts all.
    """

    def __init__(self, *answers, rule=lambda metrics: None):
        self.answers = list(answers)
        self.rule = rule
        self.calls = []
        self.accepted = []

    def send(self, metrics):
        values = [metric.value for metric in metrics]
        self.calls.append(values)
        answer = (self.answers.pop(0) if self.answers else self.rule)(metrics)
        bad = [metric.value for metric, _ in answer or []]
        self.accepted.append([value for value in values if value not in bad])
        return answer


def fail(error):
    """Return an answer that raises the error."""

    def answer(metrics):
        raise error

    return answer


def run_steps(delivery, clock, until=lambda: False, limit=100000):
    """Make steps, and let the time between them pass, until the condition or the end."""
    for _ in range(limit):
        pause = delivery.step()
        if until() or pause is None or pause == math.inf:
            return
        clock.now += pause
    raise AssertionError(f"it goes on after {limit} steps")
