"""The speed of bai-daemon, and beside it collectd: python benchmarks/daemon.py prints two tables.

Run by tox -e bench, with the servers of the tests; needs collectd.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "tests"), os.path.join(HERE, "..", "tests", "servers")]

import servers  # noqa: E402
from conftest import wait_until  # noqa: E402

from benchmarkai.daemon.spool import Spool  # noqa: E402

MANY, SOME = 1000000, 20000  # metrics for the real servers, and for the slow stand-ins
SECONDS = 10  # for each rate
RATES = (1000, 50000)

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


def line_of(number):
    return b'{"alexnet.layer%d": %r}\n' % (number % 50, 0.42 + number / 99991)


def seconds_of(pid):
    """Return the seconds of the processor that the process has used."""
    with open("/proc/%d/stat" % pid) as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_of(pid):
    """Return the MiB of memory that the process had in use at the most."""
    with open("/proc/%d/status" % pid) as file:
        return int(re.search(r"VmHWM:\s+(\d+)", file.read()).group(1)) / 1024


def waiting_in(pipe):
    import fcntl
    import termios

    count = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return int.from_bytes(count, sys.byteorder)


def pipe_to_spool(folder):
    """Return metrics a second, and the peak of memory, while no server answers."""
    words = ["influxdb", "--url", "http://127.0.0.1:9", "--database", "x"]
    daemon = servers.Daemon(folder, *words, "--shutdown-timeout", "0")
    os.sched_setaffinity(daemon.process.pid, {0})
    data = b"".join(map(line_of, range(MANY)))
    pipe = os.open(daemon.path, os.O_RDWR)
    start = time.monotonic()
    position = 0
    while position < len(data):
        end = data.rfind(b"\n", position, position + 4096) + 1
        os.write(pipe, data[position:end])
        position = end
    while waiting_in(pipe):
        time.sleep(0.001)
    rate = MANY / (time.monotonic() - start)
    peak = peak_of(daemon.process.pid)
    daemon.stop()
    assert "received %d," % MANY in daemon.logged()
    return rate, peak


def spool_to_server(folder, count, *words):
    """Return metrics a second out of a full spool."""
    spool = Spool(str(folder / "spool"), {"run": "42"}, 1 << 40)
    for first in range(0, count, 1000):
        spool.add([("alexnet.layer%d" % (n % 50), n / 99991) for n in range(first, first + 1000)])
    spool.close()
    command = [servers.BAI_DAEMON, *words, "--spool", str(folder / "spool")]
    command += ["--shutdown-timeout", "300", "--batch-size", "5000", "--", "true"]
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds = time.monotonic() - start
    assert "delivered %d, refused 0, waiting 0" % count in done.stderr, done.stderr
    return count / seconds


def at_rate(rate, send, pid):
    """Return the share of a core, and the peak of memory, that the process takes."""
    before = seconds_of(pid)
    start = time.monotonic()
    sent = 0
    while time.monotonic() < start + SECONDS:
        due = int((time.monotonic() - start) * rate)
        while sent < due:
            count = min(due - sent, 100)
            send(range(sent, sent + count))
            sent += count
        time.sleep(0.001)
    time.sleep(2)  # what is still on its way is its work too
    return (seconds_of(pid) - before) / SECONDS, peak_of(pid), sent


def rows_in(server):
    text = servers.request(server.url + "/metrics")
    return sum(
        int(count) for count in re.findall(r"^vm_rows_inserted_total\{.*\} (\d+)$", text, re.M)
    )


class GraphiteVictoria(servers.VictoriaMetrics):
    def command(self):
        self.graphite = servers.free_port()
        return super().command() + ["-graphiteListenAddr=127.0.0.1:%d" % self.graphite]


def daemon_at(folder, server, rate):
    words = ["influxdb", "--url", server.url, "--database", "x", "--batch-size", "5000"]
    daemon = servers.Daemon(folder, *words)
    pipe = os.open(daemon.path, os.O_WRONLY)

    def send(numbers):
        os.write(pipe, b"".join(map(line_of, numbers)))

    found = at_rate(rate, send, daemon.process.pid)
    daemon.stop()
    return found


def collectd_at(folder, server, rate):
    config = folder / "collectd.conf"
    config.write_text(COLLECTD.format(folder=folder, port=server.graphite))
    program = shutil.which("collectd") or "/usr/sbin/collectd"
    process = subprocess.Popen([program, "-f", "-C", str(config)], stderr=subprocess.DEVNULL)
    try:
        wait_until((folder / "socket").exists)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(folder / "socket"))
        answers = connection.makefile("rb")

        def send(numbers):
            lines = [
                "PUTVAL bench/alexnet/gauge-layer%d interval=1 N:%r\n" % (n % 50, 0.42 + n / 99991)
                for n in numbers
            ]
            connection.sendall("".join(lines).encode())
            for _ in lines:
                answers.readline()

        found = at_rate(rate, send, process.pid)
    finally:
        process.terminate()
        process.wait(30)
    return found


def main():
    root = Path(tempfile.mkdtemp())
    started = []

    def folder():
        return Path(tempfile.mkdtemp(dir=root))

    def server(kind):
        started.append(kind(folder()))
        return started[-1]

    try:
        print("| from | to | metrics a second | at least |")
        print("|---|---|---|---|")
        rate, peak = pipe_to_spool(folder())
        print("| pipe | spool, one core, no server: peak %.0f MiB | %d | 100000 |" % (peak, rate))
        influxdb = ["influxdb", "--database", "benchmarks", "--url"]
        os.environ["AWS_ENDPOINT_URL"] = server(servers.Moto).url
        for name, count, words in (
            ("stdout", MANY, ["stdout"]),
            ("InfluxDB", MANY, influxdb + [server(servers.InfluxDB).url]),
            ("VictoriaMetrics", MANY, influxdb + [server(servers.VictoriaMetrics).url]),
            ("Pushgateway", MANY, ["prometheus", "--gateway", server(servers.Pushgateway).url]),
            (
                "Elasticsearch (stand-in)",
                SOME,
                ["elasticsearch", "--url", server(servers.Noida).url],
            ),
            ("OpenSearch (stand-in)", SOME, ["opensearch", "--url", server(servers.Osmem).url]),
            ("CloudWatch (stand-in)", SOME, ["cloudwatch", "--region", "eu-west-1"]),
            ("OTLP (stand-in)", SOME, ["otlp", "--url", server(servers.Oteltap).url]),
        ):
            print("| spool | %s | %d | |" % (name, spool_to_server(folder(), count, *words)))
        print()
        print("| into VictoriaMetrics | metrics a second | of a core | peak memory | arrived |")
        print("|---|---|---|---|---|")
        for rate in RATES:
            for name, run in (("bai-daemon", daemon_at), ("collectd", collectd_at)):
                target = server(GraphiteVictoria)
                share, peak, sent = run(folder(), target, rate)
                arrived = rows_in(target) / sent
                row = (name, sent / SECONDS, share * 100, peak, arrived * 100)
                print("| %s | %d | %.1f %% | %.0f MiB | %.1f %% |" % row)
    finally:
        for each in started:
            each.end()
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
