"""The times of metrics."""

from functools import lru_cache
from typing import Any, Dict, Hashable, Mapping, NamedTuple, Sequence, Tuple

from benchmarkai.daemon.clock import Clock
from benchmarkai.daemon.log import log
from benchmarkai.daemon.series import split_name

_MAX_STEP_BACK = 60 * 10**9  # nanoseconds of the clock that times do not follow
_MAX_AHEAD = 10 * 10**9  # nanoseconds that steps may lead ahead of the clock
_MAX_SERIES = 10000  # that are remembered


class Plan(NamedTuple):
    """Times for new metrics, in nanoseconds since 1970, and what is to be remembered of them.

    end: the time after which the next ones come.
    newest: the newest time so far.
    last: the last time of each series.
    shared: as in Times.
    """

    times: Sequence[int]
    end: int
    newest: int
    last: Mapping[Hashable, int]
    shared: int


class Times:
    """Gives each metric a time of its own, and those of a series times that are a step apart.

    step: in nanoseconds; 0 if they need not be apart.

    newest: the newest time so far, in nanoseconds since 1970.
    shared: how many metrics may be less than a step after others of their series: a step would
        have led too far ahead of the clock, or too many series are ahead of it.
    """

    def __init__(self, clock: Clock, step: int = 0) -> None:
        self._clock = clock
        self._step = step
        self._start = 0  # the next times come after it
        self._last: Dict[Hashable, int] = {}  # times of the newest metrics, by series
        self.newest = 0
        self.shared = 0

    def go_on_from(self, newest: int) -> None:
        """Give no time that is less than a step after this one."""
        self.newest = newest
        self._start = newest + self._step

    def plan(self, pairs: Sequence[Tuple[str, Any]]) -> Plan:
        """Return times for new metrics, each (name, value). keep() makes them final."""
        now = self._clock.time()
        behind = self._start - now
        if pairs and behind > _MAX_STEP_BACK:
            log.warning(
                "the clock is %d s behind the newest metric: it was set back, or was wrong before; "
                "times follow the clock",
                behind // 10**9,
            )
            self._start = self.newest = now
            self._last.clear()
        if len(self._last) > _MAX_SERIES:
            self._forget(now - self._step)
        start = max(self._start, now) if pairs else self._start
        end = start + len(pairs)
        times = range(start + 1, end + 1)
        if not self._step:
            return Plan(times, end, max(end, self.newest), {}, 0)
        last: Dict[Hashable, int] = {}
        stepped = []
        shared = 0
        limit = now + _MAX_AHEAD
        for moment, (name, _) in zip(times, pairs):
            series = _series_of(name)
            before = last.get(series) or self._last.get(series, 0)
            if moment < before + self._step:
                if before + self._step <= limit:
                    moment = before + self._step
                else:
                    moment = max(moment, before + 1)
                    shared += 1
            last[series] = moment
            stepped.append(moment)
        return Plan(stepped, end, max([self.newest, *stepped]), last, shared)

    def _forget(self, until: int) -> None:
        """Forget the series without a time later than this; all of them if most are ahead."""
        ahead = {series: last for series, last in self._last.items() if last > until}
        if len(ahead) > _MAX_SERIES // 2:
            self.shared += len(ahead)
            ahead.clear()
        self._last = ahead

    def keep(self, plan: Plan) -> None:
        """Give the times of the plan."""
        self._start = plan.end
        self._last.update(plan.last)
        self.newest = plan.newest
        self.shared += plan.shared


@lru_cache(_MAX_SERIES)
def _series_of(name: str) -> Hashable:
    """Return the same for all names that mean the same series."""
    name, labels = split_name(name)
    return name, frozenset(labels.items())
