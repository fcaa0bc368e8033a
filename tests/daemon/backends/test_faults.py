"""The daemon under faults: each metric carries a number of its own, and each must arrive.

The sizes are small by default; FAULTS=full runs the full ones.
"""

import collections
import os
import random
import re
import shutil
import sys
import time

import pytest

from benchmarkai.daemon.clock import Clock
from benchmarkai.daemon.spool import Spool
from tests.daemon.backends.servers import (
    InfluxDB,
    Proxy,
    Server,
    VictoriaMetrics,
    find_program,
    request,
)
from tests.daemon.harness import PATH, PIPES, run_daemon
from tests.helpers import BAI_EMIT, FULL, WAIT, finish, run, start, wait_until

# Emits the numbers from the first to the last, each with a call of its own.
EMITTER = """
import sys
from benchmarkai import emit
first, last = int(sys.argv[1]), int(sys.argv[2])
for number in range(first, last):
    emit({"writer%d" % (number % 7): number})
"""


def start_emitter(daemon, first, last):
    env = {
        "BENCHMARK_AI": "fifo",
        "BENCHMARK_AI_FIFO_FILEPATH": daemon.path,
        "BENCHMARK_AI_FIFO_MAX_WAIT_TIME": str(WAIT),
        "BENCHMARK_AI_FIFO_WAIT_TIME_STEP": "0.01",
    }
    command = [sys.executable, "-c", EMITTER, str(first), str(last)]
    return start(command, env, **PIPES)


def emit_numbers(daemon, first, last):
    assert finish(start_emitter(daemon, first, last)) == (0, "", "")


def to(server, *options):
    """Return the arguments of a daemon that delivers to the server."""
    return ["influxdb", "--url", server.url, "--database", "benchmarks", *options]


def numbers_in(server):
    """Return how often each number has arrived."""
    found = collections.Counter()
    for series in server.query("SELECT value FROM /.*/"):
        found.update(int(row[1]) for row in series["values"])
    return found


def wait_for_numbers(server, count):
    wait_until(lambda: len(numbers_in(server)) == count)


def check_numbers(server, count):
    """Check that each number has arrived, and none twice."""
    found = numbers_in(server)
    assert set(found) == set(range(count)), f"{len(found)} of {count}"
    assert sum(found.values()) == count


def test_nothing_is_lost_if_the_server_is_down_at_the_start(start_server, start_daemon):
    server = start_server(InfluxDB)
    server.stop()
    daemon = start_daemon(*to(server))
    emit_numbers(daemon, 0, 1000)
    daemon.wait_for_log("cannot deliver")
    server.start()
    wait_for_numbers(server, 1000)
    assert daemon.stop().code == 0
    check_numbers(server, 1000)
    assert "delivering again" in daemon.logged()
    assert "received 1000, delivered 1000, rejected 0, waiting 0" in daemon.logged()


def test_nothing_is_lost_if_the_server_is_down_for_a_while(start_server, start_daemon):
    server = start_server(InfluxDB)
    daemon = start_daemon(*to(server))
    emitters = [start_emitter(daemon, first, first + 2000) for first in range(0, 16000, 2000)]
    wait_until(lambda: numbers_in(server))
    server.stop()
    for emitter in emitters:
        assert finish(emitter) == (0, "", "")
    daemon.wait_for_log("cannot deliver")
    server.start()
    wait_for_numbers(server, 16000)
    assert daemon.stop().code == 0
    check_numbers(server, 16000)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("slow", marks=pytest.mark.slow),
        "half",
        "drop",
        pytest.param((429, {"Retry-After": "1"}), marks=pytest.mark.slow),
        (503, {"Retry-After": "x"}),
        (500, {}),
    ],
    ids=str,
)
def test_nothing_is_lost_if_the_server_fails_for_a_while(start_server, start_daemon, fault):
    server = start_server(InfluxDB)
    proxy = start_server(Proxy, server, lambda number: fault if number in (1, 2, 4) else None)
    daemon = start_daemon(*to(proxy, "--batch-size", "200"))
    emit_numbers(daemon, 0, 1000)
    wait_for_numbers(server, 1000)
    assert daemon.stop().code == 0, daemon.logged()
    assert proxy.faults >= 2
    check_numbers(server, 1000)
    if fault[0] == 429:
        pauses = re.findall(r"HTTP 429.*next retry in ([0-9.]+) s", daemon.logged())
        assert pauses and all(float(pause) >= 1 for pause in pauses)


def test_a_rejected_metric_does_not_affect_the_others(start_server, start_daemon):
    server = start_server(InfluxDB)
    # From now on the field of this measurement is a text.
    request(server.url + "/write?db=benchmarks", b'writer3 value="text"')
    daemon = start_daemon(*to(server))
    emit_numbers(daemon, 0, 700)
    assert daemon.stop().code == 0
    rejected = daemon.rejected_entries()
    assert sorted(entry["value"] for entry in rejected) == list(range(3, 700, 7))
    assert all("HTTP 400" in entry["reason"] for entry in rejected)
    arrived = []
    for series in server.query("SELECT value FROM /.*/"):
        if series["name"] != "writer3":
            arrived += [row[1] for row in series["values"]]
    assert sorted(arrived) == [number for number in range(700) if number % 7 != 3]
    assert "delivered 600, rejected 100, waiting 0" in daemon.logged()


# A server that has not accepted any metric yet

NOT_PROVEN = (
    "(the server has not accepted any metric yet, so this may be a mistake in the options: all "
    "metrics are kept)"
)


@pytest.mark.parametrize("status, note", [(400, NOT_PROVEN), (404, "HTTP 404")])
def test_nothing_is_rejected_by_a_wrong_server(start_server, start_daemon, status, note):
    server = start_server(InfluxDB)
    is_wrong = True
    proxy = start_server(Proxy, server, lambda number: (status, {}) if is_wrong else None)
    daemon = start_daemon(*to(proxy))
    emit_numbers(daemon, 0, 100)
    wait_until(lambda: daemon.logged().count(f"cannot deliver: HTTP {status}: ") == 2)
    assert note in daemon.logged()
    assert len(proxy.bodies) <= 3 * (1 + 8)
    assert not os.path.exists(daemon.rejected)
    is_wrong = False
    wait_for_numbers(server, 100)
    assert daemon.stop().code == 0
    assert "delivered 100, rejected 0, waiting 0" in daemon.logged()


class HttpsInfluxDB(InfluxDB):
    """One that responds with HTTP 400 to requests without TLS."""

    def command(self):
        openssl = find_program("openssl", "openssl")
        subject = ["-subj", "/CN=127.0.0.1", "-days", "1", "-keyout", "key", "-out", "certificate"]
        created = run(
            [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject], cwd=self.folder
        )
        assert created.code == 0, created.err
        command = super().command()
        with open(os.path.join(self.folder, "influxdb.conf"), "a") as file:
            file.write(
                "https-enabled = true\n"
                'https-certificate = "certificate"\n'
                'https-private-key = "key"\n'
            )
        return command

    def start(self):
        Server.start(self)


def test_nothing_is_rejected_by_a_server_that_wants_https(start_server, start_daemon):
    wrong = start_server(HttpsInfluxDB)
    daemon = start_daemon(*to(wrong, "--shutdown-timeout", "0"))
    # The server closes the connection before it has read a long request, whose sender may then see
    # no response.
    emit_numbers(daemon, 0, 1)
    daemon.wait_for_log("Client sent an HTTP request to an HTTPS server")
    daemon.wait_for_log(NOT_PROVEN)
    emit_numbers(daemon, 1, 100)
    assert daemon.stop().code == 1
    assert "delivered 0, rejected 0, waiting 100" in daemon.logged()
    assert not os.path.exists(daemon.rejected)
    right = start_server(InfluxDB)
    daemon = start_daemon(*to(right))
    wait_for_numbers(right, 100)
    assert daemon.stop().code == 0
    assert (
        f"the spool holds 100 metrics for influxdb {wrong.url} database=benchmarks: "
        in daemon.logged()
    )
    assert f": delivering to influxdb {right.url}" in daemon.logged()


def test_bad_metrics_of_an_earlier_run_do_not_stop_a_good_one(start_server, start_daemon):
    server = start_server(InfluxDB)
    # From now on the field of this measurement is a text.
    request(server.url + "/write?db=benchmarks", b'bad value="text"')
    server.stop()
    daemon = start_daemon(*to(server, "--shutdown-timeout", "0"))
    daemon.emit(stdin=b"".join(b"bad=%d\n" % number for number in range(300)))
    assert daemon.stop().code == 1
    server.start()
    daemon = start_daemon(*to(server, "--batch-size", "100"))
    daemon.wait_for_log(NOT_PROVEN)
    daemon.emit("good=1")
    wait_until(lambda: server.query("SELECT value FROM good"))
    assert daemon.stop().code == 0
    assert "delivered 1, rejected 300, waiting 0" in daemon.logged()
    assert [entry["value"] for entry in daemon.rejected_entries()] == list(range(300))


class ClockOfLastMonth(Clock):
    def time(self):
        return super().time() - 30 * 24 * 3600 * 10**9


def test_metrics_that_are_too_old_for_the_server_do_not_stop_newer_ones(
    start_server, start_daemon, tmp_path
):
    server = start_server(InfluxDB)
    policy = "ALTER RETENTION POLICY autogen ON benchmarks DURATION 1h SHARD DURATION 1h"
    request(server.url + "/query", {"q": policy})
    with Spool(str(tmp_path / "pipe.spool"), 1 << 30, clock=ClockOfLastMonth()) as spool:
        spool.begin({}, f"influxdb {server.url}")
        spool.add([("writer0", number) for number in range(50)])
    with Spool(str(tmp_path / "pipe.spool"), 1 << 30) as spool:
        spool.begin({}, f"influxdb {server.url}")
        spool.add([("writer0", number) for number in range(50, 100)])
    daemon = start_daemon(*to(server))
    wait_for_numbers(server, 50)
    assert daemon.stop().code == 0
    assert sorted(numbers_in(server)) == list(range(50, 100))
    assert [entry["value"] for entry in daemon.rejected_entries()] == list(range(50))
    assert "points beyond retention policy" in daemon.rejected_entries()[0]["reason"]


@pytest.mark.slow
def test_nothing_is_lost_if_the_daemon_is_killed_at_random_moments(start_server, start_daemon):
    kills, each = (50, 4000) if FULL else (10, 1000)
    server = start_server(InfluxDB)
    daemon = start_daemon(*to(server, "--flush-interval", "0.05"))
    holder = os.open(daemon.path, os.O_RDWR)
    count = 16 * each
    emitters = [start_emitter(daemon, first, first + each) for first in range(0, count, each)]
    seed = random.randrange(10**6)
    print("seed", seed)
    moments = random.Random(seed)
    for _ in range(kills):
        time.sleep(moments.uniform(0, 0.3))  # the random moment
        daemon.kill()
        daemon = start_daemon(*to(server, "--flush-interval", "0.05"))
    for emitter in emitters:
        assert finish(emitter) == (0, "", "")
    wait_for_numbers(server, count)
    assert daemon.stop().code == 0
    os.close(holder)
    # What was on its way when the daemon was killed is sent again, and is the same point.
    check_numbers(server, count)


def peak_memory(pid):
    """Return the most memory that the process has used so far, in KiB."""
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read()).group(1))


@pytest.mark.slow
def test_memory_stays_small_while_the_server_is_down(start_server, start_daemon, tmp_path):
    count = 1000000 if FULL else 100000
    server = start_server(InfluxDB)
    server.stop()
    daemon = start_daemon(*to(server, "--batch-size", "5000", "--shutdown-timeout", "50"))
    with open(tmp_path / "stream", "w") as stream:
        stream.writelines(f"writer{number % 7}={number}\n" for number in range(count))
    with open(tmp_path / "stream") as stdin:
        emitter = start([BAI_EMIT, "--fifo", daemon.path], stdin=stdin, **PIPES)
    assert finish(emitter) == (0, "", "")
    peak = peak_memory(daemon.pid)
    print(f"peak resident memory: {peak // 1024} MiB")
    assert peak < 150 * 1024
    server.start()
    assert daemon.stop().code == 0, daemon.logged()
    check_numbers(server, count)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 18 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=18m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or run(mount).code:
        pytest.skip("a small file system cannot be mounted: run the tests as root")
    yield folder
    assert run(["umount", "-l", str(folder)]).code == 0


@pytest.mark.slow
def test_nothing_is_lost_while_the_disk_is_full(start_server, start_daemon, small_disk):
    server = start_server(InfluxDB)
    server.stop()
    spool = str(small_disk / "spool")
    daemon = start_daemon(*to(server, "--spool", spool, "--batch-size", "5000"))
    emitters = [start_emitter(daemon, first, first + 40000) for first in range(0, 160000, 40000)]
    daemon.wait_for_log(
        "has less than 16 MiB left: metrics stay in the pipe, and emitters block until it has room"
    )
    # Other programs use up what is left.
    filler = small_disk / "filler"
    with pytest.raises(OSError):
        with open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
    server.start()
    daemon.wait_for_log("database or disk is full")
    filler.unlink()
    for emitter in emitters:
        assert finish(emitter) == (0, "", "")
    wait_for_numbers(server, 160000)
    assert daemon.stop().code == 0, daemon.logged()
    check_numbers(server, 160000)
    assert "accepting metrics again" in daemon.logged()


def test_a_corrupt_spool_is_moved_aside_and_the_daemon_goes_on(start_server, start_daemon):
    server = start_server(InfluxDB)
    server.stop()
    daemon = start_daemon(*to(server, "--shutdown-timeout", "0"))
    emit_numbers(daemon, 0, 20000)
    assert daemon.stop().code == 1
    assert f"20000 metrics are kept in {daemon.spool}: send with: " in daemon.logged()
    with open(daemon.spool, "r+b") as file:
        file.seek(os.path.getsize(daemon.spool) // 2)
        file.write(os.urandom(30000))
    server.start()
    daemon = start_daemon(*to(server))
    emit_numbers(daemon, 20000, 20100)
    assert daemon.stop().code == 0, daemon.logged()
    message = r"the spool was corrupt: saved (\d+) metrics of it; the old file is now '(.*)'"
    saved, corrupt = re.search(message, daemon.logged()).groups()
    assert os.path.exists(corrupt)
    found = numbers_in(server)
    assert int(saved) > 2000
    assert sum(found.values()) == int(saved) + 100
    assert set(range(20000, 20100)) <= set(found)


def start_with_clock(start_daemon, server, seconds):
    """Start a daemon whose clock is so many seconds ahead."""
    code = (
        f"import time; now = time.time_ns; time.time_ns = lambda: now() + {seconds * 10**9}\n"
        "from benchmarkai.daemon.cli import main; main()"
    )
    return start_daemon(*to(server), program=[sys.executable, "-c", code])


def times_in(server):
    """Return the times of all points, by their values, in seconds."""
    times = {}
    for series in server.query("SELECT value FROM /.*/"):
        times.update({int(row[1]): row[0] / 1e9 for row in series["values"]})
    return [times[number] for number in sorted(times)]


@pytest.mark.slow
def test_times_increase_although_the_clock_is_set_back_a_little(start_server, start_daemon):
    server = start_server(InfluxDB)
    for first, seconds in ((0, 0), (100, -20), (200, -40), (300, 0)):
        daemon = start_with_clock(start_daemon, server, seconds)
        emit_numbers(daemon, first, first + 100)
        assert daemon.stop().code == 0
    check_numbers(server, 400)
    times = times_in(server)
    assert times == sorted(times)


@pytest.mark.slow
def test_times_are_right_again_once_a_wrong_clock_has_been_set(start_server, start_daemon):
    server = start_server(InfluxDB)
    before = time.time()
    for first, days in ((0, 365), (100, 0)):
        daemon = start_with_clock(start_daemon, server, days * 24 * 3600)
        emit_numbers(daemon, first, first + 100)
        assert daemon.stop().code == 0
    check_numbers(server, 200)
    times = times_in(server)
    assert min(times[:100]) > before + 364 * 24 * 3600
    assert before - 1 < min(times[100:]) and max(times[100:]) < time.time() + 1
    assert " s behind the newest metric: it was set back, or was wrong before" in daemon.logged()


def test_nothing_is_lost_if_victoria_metrics_is_down_at_the_start(start_server, start_daemon):
    server = start_server(VictoriaMetrics)
    server.stop()
    daemon = start_daemon(*to(server))
    emit_numbers(daemon, 0, 100)
    daemon.wait_for_log("cannot deliver")
    server.start()
    wait_until(lambda: len(server.points()) == 100)
    assert daemon.stop().code == 0
    assert sorted(point[2] for point in server.points()) == list(range(100))


def test_metrics_that_are_kept_after_a_command_are_sent_by_the_command_in_the_log(start_server):
    server = start_server(InfluxDB)
    server.stop()
    arguments = to(server, "--shutdown-timeout", "0.1")
    env = {"PATH": PATH}
    result = run_daemon(*arguments, "--", "bai-emit", "a=0", env=env)
    assert result.code == 1
    command = re.search(r"1 metric is kept in \S+: send with: (.*)", result.err).group(1)
    server.start()
    again = run(["sh", "-c", command], env=env)
    assert again.code == 0, again.err
    check_numbers(server, 1)
