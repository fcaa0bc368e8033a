"""When the requests of many daemons arrive: python -m benchmarks.fleet prints histograms.

200 daemons start in the same instant, get their metrics in the same instants, and send to one
server. The delivery is that of the daemon. The first part runs in virtual time, so it shows the
moments that the daemons choose, whatever this machine can do, and the same ones in each run. The
second part takes 20 s of real time, with spools on disk, the InfluxDB backend and HTTP over
127.0.0.1, all from one process into one server, to confirm the first; it needs the extra influxdb.
docs/scale.md shows and explains what both print.
"""

import collections
import contextlib
import http.server
import itertools
import math
import random
import shutil
import tempfile
import threading
import time
import types
from unittest import mock

from benchmarkai.daemon.backends import base, influxdb
from benchmarkai.daemon.backends.http import error_for
from benchmarkai.daemon.delivery import Delivery, DeliveryThread
from benchmarkai.daemon.log import log
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.spool import Spool
from tests.daemon.fakes import VirtualClock

DAEMONS = 200

# A metric stands for ten: this is 100 metrics a second, and at most 1000 in a request.
TICK = 0.1  # seconds between the metrics of a daemon
BATCH_SIZE = 100

SPOOLED = 100000  # metrics, to see how much space they take

WIDTH = 50  # characters of a bar


class Queue:
    """What a delivery needs of a spool."""

    rejects = types.SimpleNamespace(path="nowhere")

    def __init__(self):
        self.metrics = 0

    def waiting(self):
        return self.metrics

    def fullness(self):
        return None

    def oldest(self, count):
        return [Metric("id", 0, "alexnet.latency", 0.42, {})] * min(count, self.metrics)

    def remove(self, metrics):
        self.metrics -= len(metrics)


class Outage:
    """Answers 503 for a while, to all daemons with the same Retry-After, if any.

    start, end: seconds from the start of the daemons.
    """

    def __init__(self, start, end, retry_after=None):
        self.start = start
        self.end = end
        self._headers = {} if retry_after is None else {"Retry-After": str(retry_after)}

    def answer(self, now):
        """Return the status and the headers of an answer."""
        return (503, self._headers) if self.start <= now < self.end else (204, {})


NO_OUTAGE = Outage(math.inf, math.inf)


class Sink(base.Backend):
    """Takes the requests of one daemon, in virtual time, and notes when they arrive."""

    def __init__(self, outage, clock):
        self._outage = outage
        self._clock = clock
        self._start = clock.now
        self.arrivals = []  # seconds from the start

    def send(self, metrics):
        now = self._clock.now - self._start
        self.arrivals.append(now)
        status, headers = self._outage.answer(now)
        error = error_for(status, "busy", headers)
        if error is not None:
            raise error


def run_daemon(seconds, flush_interval, outage):
    """Run one daemon in virtual time, and return when its requests arrive at the server."""
    clock = VirtualClock()
    start = clock.now
    queue, sink = Queue(), Sink(outage, clock)
    delivery = Delivery(queue, sink, BATCH_SIZE, flush_interval, clock)
    due = start + delivery.step()
    for tick in range(round(seconds / TICK)):
        now = start + tick * TICK
        while due < now:
            clock.now = due
            due += delivery.step()
        clock.now = now
        queue.metrics += 1
        if queue.metrics in (1, BATCH_SIZE):  # otherwise nothing is due earlier
            due = now + delivery.step()
    return sink.arrivals


def run_fleet(seconds, flush_interval=1.0, outage=NO_OUTAGE):
    """Return a list for each daemon of when its requests arrive."""
    return [run_daemon(seconds, flush_interval, outage) for _ in range(DAEMONS)]


@contextlib.contextmanager
def without_jitter():
    """All that is random is as long as it can be."""
    with mock.patch("random.uniform", lambda shortest, longest: longest):
        yield


def returns(fleet, moment):
    """Return when the first request of each daemon after the moment arrives."""
    return [next(time for time in arrivals if time >= moment) for arrivals in fleet]


def peak(times, window):
    """Return the largest number of arrivals in any so many seconds."""
    times = sorted(times)
    first = most = 0
    for last, moment in enumerate(times):
        while moment - times[first] >= window:
            first += 1
        most = max(most, last - first + 1)
    return most


def histogram(title, start, end, step, jittered, together=None):
    """Return text with a line for each step; together: the arrivals without jitter."""
    bins = range(round((end - start) / step))

    def count(times):
        return collections.Counter(math.floor((time - start) / step + 1e-9) for time in times)

    counts, baseline = count(jittered), count(together or ())
    scale = WIDTH / max(counts[number] for number in bins)
    lines = [title]
    if together:
        lines.append(f"{'s':>6}  {'with jitter':{WIDTH + 5}} without")
    for number in bins:
        bar = "#" * round(counts[number] * scale)
        line = f"{start + number * step:6.1f}  {counts[number]:4d} {bar}"
        lines.append(f"{line:{WIDTH + 13}} {baseline[number]:7d}" if together else line)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def simulate_both(*arguments, **options):
    """Return a fleet with jitter, the same in each run, and one without."""
    random.seed(1)
    fleet = run_fleet(*arguments, **options)
    with without_jitter():
        return fleet, run_fleet(*arguments, **options)


def show_normal(flush_interval, start, end, step):
    fleets = simulate_both(end + flush_interval, flush_interval)
    times, together = (sorted(itertools.chain(*fleet)) for fleet in fleets)
    settled = [time for time in times if 2 * flush_interval <= time < end]
    return (
        histogram(
            f"Normal operation, --flush-interval {flush_interval}: requests in {step:g} s",
            *(start, end, step, times, together),
        )
        + f"On average {len(settled) / (end - 2 * flush_interval):.0f} requests in a second. "
        + f"In {step:g} s at most {peak(settled, step)}; without jitter, {peak(together, step)}.\n"
    )


def show_outage(name, outage, start, end, step):
    fleets = simulate_both(end, outage=outage)
    back = [returns(fleet, outage.end) for fleet in fleets]
    title = f"{name} from {outage.start} s to {outage.end} s: daemons that come back in {step} s"
    daemons = [peak(times, 1) for times in back]
    requests = [peak(itertools.chain(*fleet), 1) for fleet in fleets]
    return (
        histogram(title, start, end, step, *back)
        + f"In one second at most: {daemons[0]} daemons and {requests[0]} requests; without "
        + f"jitter, {daemons[1]} and {requests[1]}.\n"
    )


def simulate():
    """Return the histograms of the virtual part."""
    return [
        show_normal(1, 20, 21, 0.1),
        show_normal(10, 60, 70, 1),
        show_outage("503 with Retry-After: 60", Outage(20, 50, 60), 78, 114, 3),
        show_outage("503 without Retry-After", Outage(20, 80), 78, 114, 3),
    ]


def serve(outage, start, arrivals):
    """Return a server, which notes when requests arrive, in seconds from the start."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self):
            now = time.monotonic() - start
            arrivals.append(now)
            self.rfile.read(int(self.headers["Content-Length"]))
            status, headers = outage.answer(now)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = DAEMONS
        daemon_threads = True

    return Server(("127.0.0.1", 0), Handler)


def run_really(folder, seconds, outage):
    """Run the fleet in real time, and return when all its requests arrive."""
    arrivals = []
    with contextlib.ExitStack() as stack:
        spools = [
            stack.enter_context(Spool(f"{folder}/{number}", 1 << 30)) for number in range(DAEMONS)
        ]
        start = time.monotonic()
        server = serve(outage, start, arrivals)
        stack.callback(server.server_close)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        url = f"http://127.0.0.1:{server.server_port}"
        threads = []
        for spool in spools:
            backend = influxdb.Backend(url=url, database="benchmarks", token=None)
            threads.append(DeliveryThread(Delivery(spool, backend, BATCH_SIZE, 1.0)))
            stack.enter_context(threads[-1])
            threads[-1].start()
        for tick in range(round(seconds / TICK)):
            time.sleep(max(0.0, start + tick * TICK - time.monotonic()))
            for spool, thread in zip(spools, threads):
                spool.add([("alexnet.latency", 0.42)])
                thread.notify()
    return arrivals


def spooled_bytes(path):
    """Return how much of a spool one metric takes."""
    with Spool(path, 1 << 40) as spool:
        before = spool.size()
        for first in range(0, SPOOLED, 10):
            numbers = range(first, first + 10)
            spool.add([(f"alexnet.layer{n % 50}", n / 99991) for n in numbers])
        return (spool.size() - before) / SPOOLED


def main():
    log.setLevel("ERROR")  # no word about the outages
    print("\n".join(simulate()))
    folder = tempfile.mkdtemp()
    try:
        arrivals = run_really(folder, 20, Outage(6, 8, 5))
        size = spooled_bytes(f"{folder}/spool")
    finally:
        shutil.rmtree(folder)
    title = "In real time, 503 with Retry-After: 5 from 6 s to 8 s: requests in 1 s"
    print(histogram(title, 4, 17, 1, arrivals))
    print(f"A metric such as alexnet.layer42 takes {size:.0f} bytes of the spool.")


if __name__ == "__main__":
    main()
