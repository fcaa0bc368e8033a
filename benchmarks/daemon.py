"""bai-daemon on a core of its own: what it delivers, and what that and waiting take.

The servers, and what writes to the pipe, are on another core.
"""

import contextlib
import functools
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Sequence

import pytest

from benchmarks import report
from benchmarks.lab import ROOT
from benchmarks.processes import MEASURED, OTHER, pinned
from tests.daemon.backends import servers
from tests.daemon.harness import Daemon
from tests.helpers import WAIT, bounded, finish, kill, start, wait_until

ROUNDS = 3
SECONDS = 10  # for which a load lasts, and a daemon is idle
LIMIT = 300  # seconds for the longest steps


class Sink:
    """A server that accepts everything, and costs the daemon nothing."""

    def __init__(self, folder, kind):
        self.process = start(
            [sys.executable, "-m", "benchmarks.sinks", kind], cwd=ROOT, stdout=subprocess.PIPE
        )
        self.bootstrap = bounded(self.process.stdout.readline).decode().strip()
        self.url = "http://" + self.bootstrap

    def stop(self):
        kill(self.process)


HttpSink = functools.partial(Sink, kind="http")
KafkaSink = functools.partial(Sink, kind="kafka")


class Way(NamedTuple):
    """From the pipe to a server.

    count: metrics, for some seconds.
    arguments, env: of bai-daemon, with what they need to know of the server in braces.
    """

    count: int
    kind: Any
    arguments: Sequence[str]
    env: Dict[str, str] = {}

    def arguments_for(self, server):
        return [argument.format(server) for argument in self.arguments]

    def env_for(self, server):
        return {name: value.format(server) for name, value in self.env.items()}


_INFLUXDB = ["influxdb", "--database=benchmarks", "--url={0.url}"]
_ELASTICSEARCH = ["elasticsearch", "--url={0.url}"]
_OPENSEARCH = ["opensearch", "--url={0.url}"]
_OTLP = ["otlp", "--url={0.url}"]
_KAFKA = ["kafka", "--bootstrap={0.bootstrap}"]

INFLUXDB_SINK, VICTORIA = "`influxdb`, a sink", "`influxdb`, VictoriaMetrics"
_WAYS = {
    INFLUXDB_SINK: Way(500000, HttpSink, _INFLUXDB),
    VICTORIA: Way(500000, servers.VictoriaMetrics, _INFLUXDB),
    "`influxdb`, InfluxDB": Way(300000, servers.InfluxDB, _INFLUXDB),
    "`elasticsearch`, a sink": Way(60000, HttpSink, _ELASTICSEARCH),
    "`elasticsearch`, the stand-in noida-db": Way(20000, servers.Noida, _ELASTICSEARCH),
    "`opensearch`, a sink": Way(60000, HttpSink, _OPENSEARCH),
    "`opensearch`, the stand-in osmem": Way(5000, servers.Osmem, _OPENSEARCH),
    "`otlp`, a sink": Way(200000, HttpSink, _OTLP),
    "`otlp`, the stand-in oteltap": Way(
        # It does not know gzip.
        30000,
        servers.Oteltap,
        _OTLP,
        {"OTEL_EXPORTER_OTLP_COMPRESSION": "none"},
    ),
    "`kafka`, librdkafka's mock": Way(200000, KafkaSink, _KAFKA),
    "`kafka`, tansu": Way(100000, servers.Tansu, _KAFKA),
    "`prometheus`, Pushgateway": Way(
        200000, servers.Pushgateway, ["prometheus", "--gateway={0.url}"]
    ),
    "`cloudwatch`, the stand-in moto": Way(
        10000,
        servers.Moto,
        ["cloudwatch", "--region=eu-west-1"],
        {"AWS_ENDPOINT_URL": "{0.url}", **servers.AWS_CREDENTIALS},
    ),
    "`stdout`, a file": Way(400000, None, ["stdout"]),
}


def _rows(backend):
    return [row for row in _WAYS if row.startswith(f"`{backend}`")]


INFLUXDB, STDOUT, OTLP, KAFKA = map(_rows, ("influxdb", "stdout", "otlp", "kafka"))
BULK = _rows("elasticsearch") + _rows("opensearch")
RATE, CPU_RATE, MEMORY = "metrics a second", "in a second of its CPU time", "peak memory"

RATES = report.Table(
    "from the pipe to",
    {RATE: report.rate, CPU_RATE: report.rate, MEMORY: report.mebibytes},
    list(_WAYS),
)

SLOW, FAST = 1000, 50000
CORE = "CPU time of a core"
_LOADS = [
    (f"{name}, {rate:,} a second", name, rate)
    for rate in (SLOW, FAST)
    for name in ("`bai-daemon`", "collectd", "Telegraf")
]
SLOW_LOAD, FAST_LOAD = (f"`bai-daemon`, {rate:,} a second" for rate in (SLOW, FAST))

LOADS = report.Table(
    "into VictoriaMetrics",
    {
        CORE: report.percent,
        MEMORY: report.mebibytes,
        "arrived": report.percent,
    },
    [row for row, _, _ in _LOADS],
)

WAKE_UPS = "wake-ups a second"
IDLE = report.Table(
    "a daemon without metrics", {WAKE_UPS: report.number}, ["`influxdb`", "`stdout`"]
)

_COLLECTD = """
Hostname "bench"
BaseDir "{folder}"
PIDFile "{folder}/pid"
TypesDB "/usr/share/collectd/types.db"
Interval 1
LoadPlugin unixsock
LoadPlugin write_graphite
<Plugin unixsock>
  SocketFile "{folder}/socket"
</Plugin>
<Plugin write_graphite>
  <Node "victoria">
    Host "127.0.0.1"
    Port "{server.graphite}"
  </Node>
</Plugin>
"""

_TELEGRAF = """
[agent]
  flush_interval = "1s"
  metric_buffer_limit = 1000000
[[inputs.socket_listener]]
  service_address = "unix://{folder}/socket"
  data_format = "influx"
[[outputs.influxdb]]
  urls = ["{server.url}"]
  database = "benchmarks"
  skip_database_creation = true
"""


def measure_daemon(lab, scale):
    """Return the figures of each table."""
    # Servers, and this process, which writes.
    with pinned(OTHER):
        return {
            "rate": measure_rates(lab, scale),
            "load": measure_loads(lab, scale),
            "idle": measure_idle(lab, scale),
        }


@contextlib.contextmanager
def _running(lab, kind):
    """Run a server. If it is not installed, note that and return None."""
    folder = Path(tempfile.mkdtemp(dir=lab.folder))
    try:
        server = kind(folder)
    except pytest.skip.Exception as missing:
        lab.missing.add(str(missing))
        yield None
        return
    try:
        yield server
    finally:
        server.stop()


def _start_daemon(lab, arguments, **options):
    with pinned(MEASURED):
        return Daemon(tempfile.mkdtemp(dir=lab.folder), *arguments, **options)


def measure_rates(lab, scale, rows=RATES.rows):
    figures = {}
    for row in rows:
        way = _WAYS[row]
        # One at a time, because some keep a core busy with nothing to do.
        with _running(lab, way.kind) if way.kind else contextlib.nullcontext() as server:
            if way.kind and server is None:
                continue
            for _ in range(max(1, int(ROUNDS * scale))):
                count = max(1000, int(way.count * scale))
                found = deliver(lab, way.arguments_for(server), way.env_for(server), count)
                for column, value in zip(RATES.columns, found):
                    figures.setdefault((row, column), []).append(value)
    return figures


def deliver(lab, arguments, env, count):
    """Let the daemon deliver metrics as fast as it can.

    Returns their number in a second, and in a second of its CPU time, and its peak memory.
    """
    data = b"".join(map(_format_line, range(count)))
    arguments = [*arguments, "--label=run=42", f"--shutdown-timeout={LIMIT}"]
    daemon = _start_daemon(lab, arguments, env=env)
    pipe = os.open(daemon.path, os.O_WRONLY)

    def write_all():
        position = 0
        while position < len(data):
            end = data.rfind(b"\n", position, position + 4096) + 1
            os.write(pipe, data[position:end])
            position = end

    cpu = _cpu_seconds(daemon.pid)
    started = time.monotonic()
    bounded(write_all, LIMIT)
    os.close(pipe)
    daemon.process.send_signal(signal.SIGTERM)  # it ends when all is delivered
    peak = memory = _peak_memory(daemon.pid)
    while memory:
        peak = memory
        time.sleep(0.005)
        memory = _peak_memory(daemon.pid)
    seconds = time.monotonic() - started
    cpu = _cpu_seconds(daemon.pid) - cpu  # the kernel knows it until somebody waits for the process
    result = daemon.wait()
    assert f"received {count}, delivered {count}, rejected 0, waiting 0" in result.err, result.err
    return count / seconds, count / cpu, peak


def measure_loads(lab, scale):
    figures = {}
    for _ in range(max(1, int(ROUNDS * scale))):
        for row, name, rate in _LOADS:
            with _running(lab, GraphiteVictoria) as server:
                if server is None:
                    return {}
                peer = _PEERS.get(name)
                with _peer(lab, server, peer) if peer else _daemon(lab, server) as running:
                    if running is None:
                        continue
                    pid, send = running
                    found = _load(rate, send, pid, max(1, SECONDS * scale), server)
            for column, value in zip(LOADS.columns, found):
                figures.setdefault((row, column), []).append(value)
    return figures


def _load(rate, send, pid, duration, server):
    """Call send() with so many numbers a second, and wait for them to arrive in the server.

    Returns the share of a core that the process takes, its peak memory, and the share of the
    numbers that arrive.
    """
    before = _cpu_seconds(pid)
    started = time.monotonic()
    total = round(rate * duration)
    sent = 0
    while sent < total:
        due = min(total, round((time.monotonic() - started) * rate))
        while sent < due:
            count = min(due - sent, 100)
            send(range(sent, sent + count))
            sent += count
        time.sleep(0.001)
    arrived, earlier = _rows_in(server), -1
    while earlier < arrived < total:
        time.sleep(2)
        arrived, earlier = _rows_in(server), arrived
    return (_cpu_seconds(pid) - before) / duration, _peak_memory(pid), arrived / total


class GraphiteVictoria(servers.VictoriaMetrics):
    """Takes the protocol of Graphite too."""

    def command(self):
        self.graphite = servers.free_port()
        return [*super().command(), f"-graphiteListenAddr=127.0.0.1:{self.graphite}"]


def _rows_in(server):
    text = servers.request(server.url + "/metrics")
    return sum(map(int, re.findall(r"^vm_rows_inserted_total\{.*\} (\d+)$", text, re.MULTILINE)))


# Each of these runs a program, and gives its process id and the function that sends it numbers, or
# None if it is not installed.


@contextlib.contextmanager
def _daemon(lab, server):
    daemon = _start_daemon(lab, Way(0, None, _INFLUXDB).arguments_for(server))
    pipe = os.open(daemon.path, os.O_WRONLY)
    yield daemon.pid, lambda numbers: os.write(pipe, b"".join(map(_format_line, numbers)))
    os.close(pipe)
    daemon.stop()


@contextlib.contextmanager
def _peer(lab, server, peer):
    """Run the peer with its configuration, and connect to its socket."""
    program = lab.find(peer.program, peer.how)
    if program is None:
        yield None
        return
    folder = Path(tempfile.mkdtemp(dir=lab.folder))
    file = folder / "config"
    file.write_text(peer.config.format(folder=folder, server=server))
    with pinned(MEASURED):
        process = start(
            [program, *peer.arguments, str(file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(WAIT)
        wait_until((folder / "socket").exists)
        connection.connect(str(folder / "socket"))
        with connection.makefile("rb") as responses:
            yield process.pid, functools.partial(peer.send, connection, responses)
    process.terminate()
    finish(process)


def _send_to_collectd(connection, responses, numbers):
    lines = [
        f"PUTVAL bench/alexnet/gauge-layer{n % 50} interval=1 N:{0.42 + n / 99991!r}\n"
        for n in numbers
    ]
    connection.sendall("".join(lines).encode())
    for _ in lines:
        responses.readline()


def _send_to_telegraf(connection, responses, numbers):
    lines = [f"alexnet.layer{n % 50} value={0.42 + n / 99991!r}\n" for n in numbers]
    connection.sendall("".join(lines).encode())


class Peer(NamedTuple):
    """A program that takes metrics from a socket.

    how: how to install it.
    arguments: those before the path of its configuration.
    send: sends numbers; gets the connection, and a file to read its responses.
    """

    program: str
    how: str
    arguments: Sequence[str]
    config: str
    send: Callable


_PEERS = {
    "collectd": Peer(
        "collectd", "apt-get install collectd-core", ["-f", "-C"], _COLLECTD, _send_to_collectd
    ),
    "Telegraf": Peer(
        "telegraf",
        "see https://docs.influxdata.com/telegraf/v1/install/",
        ["--config"],
        _TELEGRAF,
        _send_to_telegraf,
    ),
}


def measure_idle(lab, scale):
    with _running(lab, HttpSink) as sink:
        arguments = {
            "`influxdb`": Way(0, None, _INFLUXDB).arguments_for(sink),
            "`stdout`": ["stdout"],
        }
        # Together, because they do nothing.
        daemons = {row: _start_daemon(lab, arguments[row]) for row in IDLE.rows}
        for daemon in daemons.values():
            daemon.emit("alexnet.latency=0.42")
            daemon.wait_for_log("reading ")
        time.sleep(3)  # it is delivered
        found = {}
        for _ in range(max(1, int(ROUNDS * scale))):
            duration = max(1, SECONDS * scale)
            before = {row: _wake_ups(daemon.pid) for row, daemon in daemons.items()}
            time.sleep(duration)
            for row, daemon in daemons.items():
                rate = (_wake_ups(daemon.pid) - before[row]) / duration
                found.setdefault((row, WAKE_UPS), []).append(rate)
        for daemon in daemons.values():
            daemon.stop()
    return found


def _format_line(number):
    return b'{"alexnet.layer%d": %r}\n' % (number % 50, 0.42 + number / 99991)


def _cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_memory(pid):
    """Return the most memory that the process has used so far, in MiB; None after its end."""
    with open(f"/proc/{pid}/status") as file:
        peak = re.search(r"VmHWM:\s+(\d+)", file.read())
    return peak and int(peak.group(1)) / 1024


def _wake_ups(pid):
    """Return how often the threads of the process have waited for something."""
    count = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as file:
            count += int(
                re.search(r"^voluntary_ctxt_switches:\s+(\d+)", file.read(), re.M).group(1)
            )
    return count
