"""What the benchmarks should find, and what of it the README shows."""

from typing import NamedTuple, Sequence

from benchmarks import call, daemon, emit, stream


class Goal(NamedTuple):
    """The worst of the rows decides whether it is reached.

    table: the name of the table in run.py.
    bound: what is wanted at most, or at least.
    """

    claim: str
    table: str
    column: str
    rows: Sequence[str]
    bound: float
    is_least: bool = False


GOALS = [
    Goal("plain call: instructions, on CPython 3.11", "call", "instructions", [call.PLAIN], 36.5e6),
    Goal(
        "plain call: CPU time relative to `python -c pass`", "call", call.RATIO, [call.PLAIN], 1.0
    ),
    Goal("`emit()` of one metric: instructions", "emit", "instructions", [emit.ONE], 10.8e3),
    Goal("`emit()` of twenty metrics: instructions", "emit", "instructions", [emit.TWENTY], 84e3),
    Goal(
        "stream in the forms that are printed most: instructions relative to `jq`",
        "stream",
        stream.RATIO,
        stream.CANONICAL,
        0.38,  # as before
    ),
    Goal(
        "stream in any form: instructions relative to `jq`",
        "stream",
        stream.RATIO,
        stream.TABLE.rows,
        0.85,
    ),
    Goal(
        "stream in any form: CPU time relative to `jq`",
        "stream",
        stream.CPU_RATIO,
        stream.TABLE.rows,
        0.85,
    ),
    Goal("stream in any form: peak memory", "stream", "peak memory", stream.TABLE.rows, 11),
    Goal(
        "daemon, InfluxDB's protocol: metrics a second, on one core",
        "rate",
        daemon.RATE,
        [daemon.INFLUXDB_SINK, daemon.VICTORIA],
        100e3,
        is_least=True,
    ),
    *[
        Goal(
            f"daemon, {name}: metrics for a second of its CPU time",
            "rate",
            daemon.CPU_RATE,
            rows,
            bound,
            is_least=True,
        )
        for name, rows, bound in (
            ("Elasticsearch and OpenSearch", daemon.BULK, 20e3),
            ("OTLP", daemon.OTLP, 60e3),
            ("Kafka", daemon.KAFKA, 80e3),
            ("stdout", daemon.STDOUT, 120e3),
        )
    ],
    Goal("daemon, InfluxDB's protocol: peak memory", "rate", daemon.MEMORY, daemon.INFLUXDB, 48),
    Goal("daemon, stdout: peak memory", "rate", daemon.MEMORY, daemon.STDOUT, 40),
    Goal(
        "daemon at 50,000 metrics a second: CPU time of a core",
        "load",
        daemon.CORE,
        [daemon.FAST_LOAD],
        0.5,
    ),
    Goal(
        "daemon at 1,000 metrics a second: CPU time of a core",
        "load",
        daemon.CORE,
        [daemon.SLOW_LOAD],
        0.03,
    ),
    Goal("daemon without metrics: wake-ups a second", "idle", daemon.WAKE_UPS, daemon.IDLE.rows, 2),
]


class Claim(NamedTuple):
    claim: str
    table: str
    column: str
    rows: Sequence[str]


SUMMARY = [
    Claim(
        "`bai-emit alexnet.latency=0.42`: CPU time relative to `python -c pass`",
        "call",
        call.RATIO,
        [call.PLAIN],
    ),
    Claim(
        "`emit()` into the pipe: CPU time relative to `print(json.dumps(metrics), flush=True)`",
        "emit",
        emit.RATIO,
        [emit.ONE],
    ),
    Claim(
        "a stream into `bai-emit`: CPU time relative to `jq -c .`, by the form of the lines",
        "stream",
        stream.CPU_RATIO,
        stream.TABLE.rows,
    ),
    Claim(
        "`bai-daemon` into VictoriaMetrics, on one core: metrics a second",
        "rate",
        daemon.RATE,
        [daemon.VICTORIA],
    ),
    Claim("its peak memory", "rate", daemon.MEMORY, [daemon.VICTORIA]),
]
