"""A clock and a server under the control of a test."""

import math

from benchmarkai.child import Child
from benchmarkai.daemon.backends.base import Answer, Backend
from benchmarkai.daemon.clock import Clock

NEVER = 3600.0  # seconds


class VirtualClock(Clock):
    """A clock that moves when it is told to, and whenever somebody waits.

    on_wait: called after each wait.
    """

    def __init__(self):
        self.now = 1000.0
        self.on_wait = lambda: None

    def time(self):
        return 10**18 + int(self.now * 10**9)

    def monotonic(self):
        return self.now

    def wait(self, seconds, *sources):
        self.now += seconds
        self.on_wait()


class FakeBackend(Backend):
    """Keeps the values that it gets and those that it accepts, one list for each call of send().

    answers: for the calls in turn, a function of the metrics. It returns an Answer, or what is
        rejected, or None.
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
        if not isinstance(answer, Answer):
            answer = Answer(answer or ())
        bad = {metric.sequence for metric, _ in answer.rejected}
        bad |= {metric.sequence for metric in answer.postponed}
        self.accepted.append([metric.value for metric in metrics if metric.sequence not in bad])
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


class FakeSignals:
    """The signals that a test sends.

    pending: the numbers of those that come next.
    """

    def __init__(self):
        self.pending = []
        self.child = None

    def start(self, command, env):
        self.child = Child(command, env)
        return self.child

    def take(self):
        taken, self.pending = self.pending, []
        if self.child is not None:
            for number in taken:
                self.child.send(number)
        return taken

    def fileno(self):
        raise AssertionError("a virtual clock waits for nobody")


class FakeThread:
    """Makes a step of a delivery whenever somebody waits, if one is due by the virtual clock.

    It is no thread, so the same happens in each run.
    """

    def __init__(self, delivery, clock):
        self.delivery = delivery
        self.failure = None
        self._clock = clock
        self._alive = False
        self._due = -math.inf
        clock.on_wait = self.make_step

    def start(self):
        self._alive = True

    def is_alive(self):
        return self._alive

    def notify(self, urgent=True):
        if urgent or self._due == math.inf:
            self._due = -math.inf

    def finish(self):
        self.delivery.finish()
        self.notify()

    def stop(self):
        self._alive = False

    def make_step(self):
        if self._alive and self._clock.now >= self._due:
            pause = self.delivery.step()
            if pause is None:
                self._alive = False
            else:
                self._due = self._clock.now + pause
