"""One call of one library, timed with pyperf: python calls.py WORK [pyperf's options].

Run by run.py, in the environment of the library.
"""

import json
import os
import sys

import pyperf

ONE = {"alexnet.latency": 0.42}
TWENTY = {"alexnet.layer%d.latency" % n: 0.42 + n for n in range(20)}


def open_pipe():
    return os.open(os.environ["BENCHMARK_AI_FIFO_FILEPATH"], os.O_WRONLY)


def emit(metrics):
    from benchmarkai import emit

    return emit, metrics


def emit_stdout():
    os.dup2(open_pipe(), 1)
    return emit(ONE)


def print_json():
    os.dup2(open_pipe(), 1)
    return lambda metrics: print(json.dumps(metrics), flush=True), ONE


def bare_write():
    return os.write, open_pipe(), b'{"alexnet.latency": 0.42}\n'


def dogstatsd():
    from datadog.dogstatsd import DogStatsd

    return DogStatsd(disable_buffering=True).gauge, "alexnet.latency", 0.42


def pystatsd():
    from statsd import StatsClient

    return StatsClient("127.0.0.1", 8125).gauge, "alexnet.latency", 0.42


def prometheus_textfile():
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    gauge = Gauge("alexnet_latency", "seconds", registry=registry)
    path = os.path.join(os.environ["BENCH_FOLDER"], "metrics.prom")

    def publish(value):
        gauge.set(value)
        write_to_textfile(path, registry)

    return publish, 0.42


WORKS = {
    "emit one, stdout": emit_stdout,
    "print(json.dumps(one), flush=True)": print_json,
    "emit one, FIFO": lambda: emit(ONE),
    "emit twenty, FIFO": lambda: emit(TWENTY),
    "os.write of the same bytes": bare_write,
    "DogStatsD": dogstatsd,
    "pystatsd": pystatsd,
    "prometheus_client, textfile": prometheus_textfile,
}


def main():
    # pyperf starts this file again for each of its processes, with the same arguments.
    runner = pyperf.Runner(add_cmdline_args=lambda command, args: command.append(args.work))
    runner.argparser.add_argument("work", choices=sorted(WORKS))
    args = runner.parse_args()
    function, *arguments = WORKS[args.work]() if args.worker else (None,)
    runner.bench_func(args.work, function, *arguments)


if __name__ == "__main__":
    sys.exit(main())
