"""The speed of bai-daemon, compared with collectd: python -m benchmarks.daemon prints two tables.

Run by tox -e bench in the checkout, with the servers of the tests; needs collectd.
"""

import fcntl
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from benchmarkai.daemon.spool import Spool
from tests.daemon.backends import servers
from tests.daemon.harness import Daemon, run_daemon
from tests.helpers import WAIT, bounded, finish, kill_leftovers, start, wait_until

MANY, SOME = 1000000, 20000  # metrics for the real servers, and for the slow stand-ins
SECONDS = 10  # for each rate
RATES = (1000, 50000)  # metrics a second
LIMIT = 600  # seconds for the longest steps

COLLECTD = """
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
    Port "{port}"
  </Node>
</Plugin>
"""


def format_line(number):
    return b'{"alexnet.layer%d": %r}\n' % (number % 50, 0.42 + number / 99991)


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory(pid):
    """Return the most memory that the process has used so far, in MiB."""
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmHWM:\s+(\d+)", file.read()).group(1)) / 1024


def bytes_in(pipe):
    count = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return int.from_bytes(count, sys.byteorder)


def pipe_to_spool(folder):
    """Return the metrics a second, and the peak memory, while no server responds."""
    arguments = ["influxdb", "--url", "http://127.0.0.1:9", "--database", "x"]
    daemon = Daemon(folder, *arguments, "--shutdown-timeout", "0")
    os.sched_setaffinity(daemon.pid, {0})
    data = b"".join(map(format_line, range(MANY)))
    pipe = os.open(daemon.path, os.O_RDWR)

    def write_all():
        position = 0
        while position < len(data):
            end = data.rfind(b"\n", position, position + 4096) + 1
            os.write(pipe, data[position:end])
            position = end

    started = time.monotonic()
    bounded(write_all, LIMIT)
    wait_until(lambda: not bytes_in(pipe))
    rate = MANY / (time.monotonic() - started)
    os.close(pipe)
    peak = peak_memory(daemon.pid)
    assert f"received {MANY}, " in daemon.stop().err
    return rate, peak


def spool_to_server(folder, count, *arguments):
    """Return the metrics a second out of a full spool."""
    path = str(folder / "spool")
    with Spool(path, 1 << 40) as spool:
        spool.begin({"run": "42"}, "a benchmark")
        for first in range(0, count, 1000):
            numbers = range(first, first + 1000)
            spool.add([(f"alexnet.layer{n % 50}", n / 99991) for n in numbers])
    options = ["--spool", path, "--shutdown-timeout", "300", "--batch-size", "5000"]
    started = time.monotonic()
    result = run_daemon(*arguments, *options, "--", "true", stdout=subprocess.DEVNULL, limit=LIMIT)
    seconds = time.monotonic() - started
    assert f"delivered {count}, rejected 0, waiting 0" in result.err, result.err
    return count / seconds


def at_rate(rate, send, pid):
    """Call send() with so many numbers a second.

    Returns the share of a core that the process takes, its peak memory, and how many were sent.
    """
    before = cpu_seconds(pid)
    started = time.monotonic()
    sent = 0
    while time.monotonic() < started + SECONDS:
        due = int((time.monotonic() - started) * rate)
        while sent < due:
            count = min(due - sent, 100)
            send(range(sent, sent + count))
            sent += count
        time.sleep(0.001)
    time.sleep(2)  # what is still on its way is part of its work
    return (cpu_seconds(pid) - before) / SECONDS, peak_memory(pid), sent


def rows_in(server):
    text = servers.request(server.url + "/metrics")
    pattern = re.compile(r"^vm_rows_inserted_total\{.*\} (\d+)$", re.MULTILINE)
    return sum(map(int, pattern.findall(text)))


class GraphiteVictoria(servers.VictoriaMetrics):
    def command(self):
        self.graphite = servers.free_port()
        return [*super().command(), f"-graphiteListenAddr=127.0.0.1:{self.graphite}"]


def daemon_at(folder, server, rate):
    arguments = ["influxdb", "--url", server.url, "--database", "x", "--batch-size", "5000"]
    daemon = Daemon(folder, *arguments)
    pipe = os.open(daemon.path, os.O_WRONLY)
    found = at_rate(
        rate, lambda numbers: os.write(pipe, b"".join(map(format_line, numbers))), daemon.pid
    )
    os.close(pipe)
    daemon.stop()
    return found


def collectd_at(folder, server, rate):
    config = folder / "collectd.conf"
    config.write_text(COLLECTD.format(folder=folder, port=server.graphite))
    program = shutil.which("collectd") or "/usr/sbin/collectd"
    process = start([program, "-f", "-C", str(config)], stderr=subprocess.DEVNULL)
    wait_until((folder / "socket").exists)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(WAIT)
        connection.connect(str(folder / "socket"))
        with connection.makefile("rb") as responses:

            def send(numbers):
                lines = [
                    f"PUTVAL bench/alexnet/gauge-layer{n % 50} interval=1 N:{0.42 + n / 99991!r}\n"
                    for n in numbers
                ]
                connection.sendall("".join(lines).encode())
                for _ in lines:
                    responses.readline()

            found = at_rate(rate, send, process.pid)
    process.terminate()
    finish(process)
    return found


def print_tables(folder, start_server):
    """Print the tables. Both arguments are functions: for a new folder, for a new server."""
    print("| from | to | metrics a second | at least |")
    print("|---|---|---|---|")
    rate, peak = pipe_to_spool(folder())
    print(f"| pipe | spool, one core, no server: peak {peak:.0f} MiB | {rate:.0f} | 100000 |")
    influxdb = ["influxdb", "--database", "benchmarks", "--url"]
    os.environ.update(servers.AWS_CREDENTIALS, AWS_ENDPOINT_URL=start_server(servers.Moto).url)
    os.environ["OTEL_EXPORTER_OTLP_COMPRESSION"] = "none"  # the stand-in does not know gzip
    for name, count, arguments in (
        ("stdout", MANY, ["stdout"]),
        ("InfluxDB", MANY, [*influxdb, start_server(servers.InfluxDB).url]),
        ("VictoriaMetrics", MANY, [*influxdb, start_server(servers.VictoriaMetrics).url]),
        ("Pushgateway", MANY, ["prometheus", "--gateway", start_server(servers.Pushgateway).url]),
        (
            "Elasticsearch (stand-in)",
            SOME,
            ["elasticsearch", "--url", start_server(servers.Noida).url],
        ),
        ("OpenSearch (stand-in)", SOME, ["opensearch", "--url", start_server(servers.Osmem).url]),
        ("CloudWatch (stand-in)", SOME, ["cloudwatch", "--region", "eu-west-1"]),
        ("OTLP (stand-in)", SOME, ["otlp", "--url", start_server(servers.Oteltap).url]),
        ("Kafka (tansu)", SOME, ["kafka", "--bootstrap", start_server(servers.Tansu).bootstrap]),
    ):
        rate = spool_to_server(folder(), count, *arguments)
        print(f"| spool | {name} | {rate:.0f} | |")
    print()
    print("| into VictoriaMetrics | metrics a second | of a core | peak memory | arrived |")
    print("|---|---|---|---|---|")
    for rate in RATES:
        for name, run in (("bai-daemon", daemon_at), ("collectd", collectd_at)):
            server = start_server(GraphiteVictoria)
            share, peak, sent = run(folder(), server, rate)
            arrived = rows_in(server) / sent
            row = (name, sent / SECONDS, share * 100, peak, arrived * 100)
            print("| %s | %d | %.1f %% | %.0f MiB | %.1f %% |" % row)


def main():
    root = tempfile.mkdtemp()
    started = []

    def folder():
        return Path(tempfile.mkdtemp(dir=root))

    def start_server(kind):
        started.append(kind(folder()))
        return started[-1]

    try:
        print_tables(folder, start_server)
    finally:
        for server in started:
            server.stop()
        kill_leftovers()
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
