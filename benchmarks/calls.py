"""Time the calls of one library: python calls.py WORK METRICS CALLS prints two figures on stderr.

They are the seconds, and the seconds of CPU time, of one call. emit.py runs it.
"""

import json
import os
import sys
import time

PORT = int(os.environ["PORT"])  # of a StatsD server on this machine


def emit():
    from benchmarkai import emit

    return emit


def print_json():
    return lambda metrics: print(json.dumps(metrics), flush=True)


def write():
    line = b'{"alexnet.layer0.latency": 0.42}\n'
    return lambda metrics: os.write(1, line)


def dogstatsd():
    from datadog.dogstatsd import DogStatsd

    gauge = DogStatsd(host="127.0.0.1", port=PORT, disable_buffering=True).gauge
    return lambda metrics: gauge("alexnet.layer0.latency", 0.42)


def pystatsd():
    from statsd import StatsClient

    gauge = StatsClient("127.0.0.1", PORT).gauge
    return lambda metrics: gauge("alexnet.layer0.latency", 0.42)


WORKS = {
    "emit": emit,
    "print": print_json,
    "write": write,
    "dogstatsd": dogstatsd,
    "pystatsd": pystatsd,
}


def main(work, metrics, calls):
    call = WORKS[work]()
    metrics = {"alexnet.layer%d.latency" % n: 0.42 + n for n in range(int(metrics))}
    call(metrics)  # opens what there is to open
    started, cpu_started = time.perf_counter(), time.process_time()
    for _ in range(int(calls)):
        call(metrics)
    cpu, seconds = time.process_time() - cpu_started, time.perf_counter() - started
    print(seconds / int(calls), cpu / int(calls), file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
