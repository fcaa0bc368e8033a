"""The daemon under faults: each metric carries a number of its own, and each must arrive.

FAULTS=full takes the full size.
"""

import collections
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time

import pytest
from conftest import finish, run, start, wait_until
from servers import (  # noqa: F401
    BAI_DAEMON,
    BAI_EMIT,
    InfluxDB,
    Proxy,
    VictoriaMetrics,
    daemons,
    request,
    servers,
)

FULL = os.environ.get("FAULTS") == "full"

# Emits the numbers from one to another, one a call.
EMITTER = """
import os, sys
from benchmarkai import emit
first, last = int(sys.argv[1]), int(sys.argv[2])
for number in range(first, last):
    emit({"writer%d" % (number % 7): number})
"""


def emitter(daemon, first, last, wait=60):
    env = {
        "BENCHMARK_AI": "fifo",
        "BENCHMARK_AI_FIFO_FILEPATH": daemon.path,
        "BENCHMARK_AI_FIFO_MAX_WAIT_TIME": str(wait),
        "BENCHMARK_AI_FIFO_WAIT_TIME_STEP": "0.01",
    }
    words = [sys.executable, "-c", EMITTER, str(first), str(last)]
    return start(words, env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def end_of(process):
    result = finish(process)
    assert (result.code, result.err) == (0, "")


def influxdb(server, *words):
    return ["influxdb", "--url", server.url, "--database", "benchmarks"] + list(words)


def numbers_in(server):
    """Return how often each number is there."""
    found = collections.Counter()
    for series in server.query("SELECT value FROM /.*/"):
        found.update(int(row[1]) for row in series["values"])
    return found


def check(server, count, most_twice=0):
    """Each number arrived, and at most so many of them twice; return how many."""
    found = numbers_in(server)
    assert set(found) == set(range(count)), "%d of %d" % (len(found), count)
    twice = sum(found.values()) - count
    print("%d metrics, each arrived, %d twice" % (count, twice))
    assert twice <= most_twice
    return twice


def until_summary(daemon, text="delivered"):
    wait_until(lambda: text in daemon.logged())


def test_the_server_is_down_at_the_start(servers, daemons):  # noqa: F811
    server = servers(InfluxDB)
    server.end()
    daemon = daemons(*influxdb(server))
    end_of(emitter(daemon, 0, 1000))
    until_summary(daemon, "cannot deliver")
    server.start()
    wait_until(lambda: len(numbers_in(server)) == 1000)
    assert daemon.stop() == 0
    check(server, 1000)
    assert "delivering again" in daemon.logged()
    assert "received 1000, delivered 1000, refused 0, waiting 0" in daemon.logged()


def test_the_server_is_down_for_a_while(servers, daemons):  # noqa: F811
    server = servers(InfluxDB)
    daemon = daemons(*influxdb(server))
    writers = [emitter(daemon, first, first + 2000) for first in range(0, 16000, 2000)]
    wait_until(lambda: numbers_in(server))
    server.end()
    for writer in writers:
        end_of(writer)
    until_summary(daemon, "cannot deliver")
    server.start()
    wait_until(lambda: len(numbers_in(server)) == 16000)
    assert daemon.stop() == 0
    check(server, 16000)


@pytest.mark.parametrize(
    "fault",
    ["slow", "half", "drop", (429, {"Retry-After": "1"}), (503, {"Retry-After": "x"}), (500, {})],
    ids=str,
)
def test_a_server_that_answers_badly_for_a_while(servers, daemons, fault):  # noqa: F811
    server = servers(InfluxDB)
    proxy = servers(Proxy, server, lambda number: fault if number in (1, 2, 4) else None)
    daemon = daemons(*influxdb(proxy, "--batch-size", "200"))
    end_of(emitter(daemon, 0, 1000))
    wait_until(lambda: len(numbers_in(server)) == 1000)
    assert daemon.stop() == 0, daemon.logged()
    assert proxy.harmed >= 2
    check(server, 1000)
    if fault[0] == 429:
        pauses = re.findall(r"HTTP 429.*next try in ([0-9.]+) s", daemon.logged())
        assert pauses and all(float(pause) >= 1 for pause in pauses)


def test_a_metric_that_the_server_refuses_costs_no_other(servers, daemons):  # noqa: F811
    server = servers(InfluxDB)
    # From now on the field of this measurement is a text.
    request(server.url + "/write?db=benchmarks", b'writer3 value="text"')
    daemon = daemons(*influxdb(server))
    end_of(emitter(daemon, 0, 700))
    assert daemon.stop() == 0
    with open(daemon.spool + ".refused") as file:
        refused = [json.loads(line) for line in file]
    assert sorted(entry["value"] for entry in refused) == list(range(3, 700, 7))
    assert all("HTTP 400" in entry["reason"] for entry in refused)
    found = {}
    for series in server.query("SELECT value FROM /.*/"):
        if series["name"] != "writer3":
            found[series["name"]] = [row[1] for row in series["values"]]
    arrived = sorted(value for values in found.values() for value in values)
    assert arrived == [number for number in range(700) if number % 7 != 3]
    assert "delivered 600, refused 100, waiting 0" in daemon.logged()


def test_killed_at_random_moments_with_the_pipe_held_open(servers, daemons):  # noqa: F811
    kills, each = (50, 4000) if FULL else (10, 1000)
    server = servers(InfluxDB)
    daemon = daemons(*influxdb(server, "--flush-interval", "0.05"))
    holder = os.open(daemon.path, os.O_RDWR)
    count = 16 * each
    writers = [emitter(daemon, first, first + each) for first in range(0, count, each)]
    seed = random.randrange(10**6)
    print("seed", seed)
    moments = random.Random(seed)
    for _ in range(kills):
        time.sleep(moments.uniform(0, 0.3))  # the moment, not a wait for something
        daemon.kill()
        daemon = daemons(*influxdb(server, "--flush-interval", "0.05"))
    for writer in writers:
        end_of(writer)
    wait_until(lambda: len(numbers_in(server)) == count)
    assert daemon.stop() == 0
    os.close(holder)
    # What one peek showed may come again, once for each kill.
    check(server, count, most_twice=kills * 2**20 // 16)


def test_a_million_metrics_while_the_server_is_down(servers, daemons, tmp_path):  # noqa: F811
    count = 1000000 if FULL else 100000
    server = servers(InfluxDB)
    server.end()
    daemon = daemons(*influxdb(server, "--batch-size", "5000", "--shutdown-timeout", "50"))
    file = tmp_path / "stream"
    with open(str(file), "w") as stream:
        stream.writelines("writer%d=%d\n" % (number % 7, number) for number in range(count))
    with open(str(file)) as stdin:
        process = start([BAI_EMIT, "--fifo", daemon.path], stdin=stdin, stderr=subprocess.PIPE)
        assert (process.wait(60), process.stderr.read()) == (0, b"")
    with open("/proc/%d/status" % daemon.process.pid) as status:
        peak = int(re.search(r"VmHWM:\s+(\d+) kB", status.read()).group(1))
    print("peak resident memory: %d MiB" % (peak // 1024))
    assert peak < 150 * 1024
    server.start()
    assert daemon.stop() == 0, daemon.logged()
    check(server, count)


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


def test_the_disk_is_full(servers, daemons, small_disk):  # noqa: F811
    server = servers(InfluxDB)
    server.end()
    spool = str(small_disk / "spool")
    daemon = daemons(*influxdb(server, "--spool", spool, "--batch-size", "5000"))
    writers = [emitter(daemon, first, first + 40000) for first in range(0, 160000, 40000)]
    until_summary(daemon, "has less than 16 MiB left: metrics stay in the pipe, and emitters wait")
    # Others take what is left.
    filler = small_disk / "filler"
    with pytest.raises(OSError):
        with open(str(filler), "wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
    server.start()
    until_summary(daemon, "database or disk is full")
    filler.unlink()
    for writer in writers:
        end_of(writer)
    wait_until(lambda: len(numbers_in(server)) == 160000)
    assert daemon.stop() == 0, daemon.logged()
    check(server, 160000)
    assert "taking metrics again" in daemon.logged()


def test_a_corrupt_spool_is_put_aside_and_the_daemon_goes_on(servers, daemons):  # noqa: F811
    server = servers(InfluxDB)
    server.end()
    daemon = daemons(*influxdb(server, "--shutdown-timeout", "0"))
    end_of(emitter(daemon, 0, 20000))
    assert daemon.stop() == 1
    assert "20000 metrics are kept in %s" % daemon.spool in daemon.logged()
    with open(daemon.spool, "r+b") as file:
        file.seek(os.path.getsize(daemon.spool) // 2)
        file.write(os.urandom(30000))
    server.start()
    daemon = daemons(*influxdb(server))
    end_of(emitter(daemon, 20000, 20100))
    assert daemon.stop() == 0, daemon.logged()
    saved = int(re.search(r"the spool was broken: (\d+) metrics", daemon.logged()).group(1))
    found = numbers_in(server)
    assert saved > 2000
    assert sum(found.values()) == saved + 100
    assert set(range(20000, 20100)) <= set(found)


def test_a_clock_that_jumps(servers, daemons):  # noqa: F811
    server = servers(InfluxDB)
    for first, offset in ((0, 0), (100, -86400), (200, -172800), (300, 0)):
        code = "import time; now = time.time_ns; time.time_ns = lambda: now() + %d" % (
            offset * 10**9
        )
        code += "; from benchmarkai.daemon.cli import main; main()"
        daemon = daemons(*influxdb(server), program=[sys.executable, "-c", code])
        end_of(emitter(daemon, first, first + 100))
        assert daemon.stop() == 0
    check(server, 400)
    times = []
    for series in server.query("SELECT value FROM /.*/"):
        times += [(row[1], row[0]) for row in series["values"]]
    in_order = [when for _, when in sorted(times)]
    assert in_order == sorted(set(in_order))


def test_victoria_metrics_after_it_was_down(servers, daemons):  # noqa: F811
    server = servers(VictoriaMetrics)
    server.end()
    daemon = daemons(*influxdb(server))
    end_of(emitter(daemon, 0, 100))
    until_summary(daemon, "cannot deliver")
    server.start()
    wait_until(lambda: len(server.points()) == 100)
    assert daemon.stop() == 0
    assert sorted(point[2] for point in server.points()) == list(range(100))


def test_with_a_command_what_is_left_is_kept_and_sent_later(servers, tmp_path):  # noqa: F811
    server = servers(InfluxDB)
    server.end()
    words = [BAI_DAEMON] + influxdb(server, "--shutdown-timeout", "0.1")
    result = run(words + ["--", "bai-emit", "a=0"], env={"TMPDIR": str(tmp_path)})
    assert result.code == 1
    command = re.search(r"1 metrics are kept in \S+: send them with: (.*)", result.err).group(1)
    server.start()
    again = run(["sh", "-c", command.replace("--shutdown-timeout 0.1", "")])
    assert again.code == 0, again.err
    check(server, 1)
