"""How a daemon is doing: the line in its log, and bai-daemon status."""

import json
import os
import signal
import stat
import sys

import pytest

from benchmarkai.daemon.database import SpoolError
from benchmarkai.daemon.spool import Spool
from benchmarkai.daemon.status import Status, StatusFile, read_status
from tests.daemon.harness import FAILING, run_daemon
from tests.helpers import wait_until

STATUS = Status(
    received=9,
    delivered=4,
    rejected=2,
    waiting=3,
    oldest_age=12.6,
    spool_bytes=4096,
    disk_free_bytes=1 << 30,
    last_error="HTTP 503: not now",
)


@pytest.mark.parametrize(
    "status, line",
    [
        (
            STATUS,
            "received 9, delivered 4, rejected 2, waiting 3, the oldest for 13 s, "
            "spool 4096 bytes, disk 1073741824 bytes free, last error: HTTP 503: not now",
        ),
        (
            Status(0, 0, 0, 0, None, None, None, None),
            "received 0, delivered 0, rejected 0, waiting 0",
        ),
        (
            Status(9, 9, 0, 0, None, None, None, None, shared_times=5),
            "received 9, delivered 9, rejected 0, waiting 0, 5 too many for times a step apart",
        ),
    ],
)
def test_the_line_tells_what_is_known(status, line):
    assert str(status) == line


# The file


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "spool")


def age(path, seconds):
    """Let the file look as if it had been written so many seconds ago."""
    now = os.stat(path).st_mtime
    os.utime(path, (now - seconds, now - seconds))


def test_the_status_of_a_living_daemon_is_what_it_has_written(path):
    with StatusFile(path) as file:
        file.update(STATUS)
        assert read_status(path) == {
            "alive": True,
            "pid": os.getpid(),
            "received": 9,
            "delivered": 4,
            "rejected": 2,
            "waiting": 3,
            "oldest_age": 12.6,
            "spool_bytes": 4096,
            "disk_free_bytes": 1 << 30,
            "last_error": "HTTP 503: not now",
            "shared_times": 0,
        }
        assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600
    assert os.listdir(os.path.dirname(path)) == []


def test_a_status_that_has_not_changed_is_not_written_again(path):
    with StatusFile(path) as file:
        file.update(STATUS)
        written = os.stat(file.path).st_ino
        age(file.path, 1000)
        file.update(STATUS)
        assert os.stat(file.path).st_ino == written
        assert read_status(path)["alive"]  # though it shows that the daemon is
        file.update(Status(10, 4, 2, 4, 12.6, 4096, 1 << 30, None))
        assert read_status(path)["received"] == 10


def test_a_status_file_that_somebody_removed_is_written_again(path):
    with StatusFile(path) as file:
        file.update(STATUS)
        os.unlink(file.path)
        file.update(STATUS)
        file.update(STATUS)
        assert read_status(path)["alive"]


def test_a_status_file_that_cannot_be_written_hinders_nothing(tmp_path):
    with StatusFile(str(tmp_path / "no such folder" / "spool")) as file:
        file.update(STATUS)


def test_a_link_in_place_of_the_new_file_is_not_followed(path, tmp_path):
    private = tmp_path / "private"
    private.write_text("private")
    os.symlink(private, path + ".status.new")
    with StatusFile(path) as file:
        file.update(STATUS)
    assert private.read_text() == "private"


@pytest.mark.parametrize("seconds, alive", [(5, True), (20, False)])
def test_a_daemon_that_has_not_touched_its_file_for_a_while_is_dead(path, seconds, alive):
    with Spool(path, 1 << 30) as spool:
        spool.add([("a", 1), ("b", 2)])
    file = StatusFile(path)
    file.update(STATUS)
    age(file.path, seconds)
    status = read_status(path)
    assert (status["alive"], status["waiting"]) == (alive, 3 if alive else 2)


@pytest.mark.parametrize("text", ["", "{", "not JSON"])
def test_a_broken_status_file_counts_as_none(path, text):
    with Spool(path, 1 << 30) as spool:
        spool.add([("a", 1)])
    with open(path + ".status", "w") as file:
        file.write(text)
    assert read_status(path) == {"alive": False, "waiting": 1}


def test_a_daemon_that_hangs_is_not_alive_though_it_uses_the_spool(path):
    with Spool(path, 1 << 30), StatusFile(path) as file:
        file.update(STATUS)
        age(file.path, 1000)
        status = read_status(path)
        assert (status["alive"], status["received"]) == (False, 9)


def test_to_ask_for_the_status_of_a_dead_daemon_changes_nothing(path):
    with Spool(path, 1 << 30) as spool:
        spool.add([("a", 1), ("b", 2)])
        spool.rejects.append([{"line": "x"}])
    before = {name: os.stat(f"{path}{name}").st_mtime_ns for name in ("", ".refused")}
    files = sorted(os.listdir(os.path.dirname(path)))
    assert read_status(path) == {"alive": False, "waiting": 2}
    assert {name: os.stat(f"{path}{name}").st_mtime_ns for name in before} == before
    assert sorted(os.listdir(os.path.dirname(path))) == files


def test_without_a_spool_there_is_no_status(path):
    with pytest.raises(SpoolError, match="there is no spool '.*/spool'"):
        read_status(path)
    assert os.listdir(os.path.dirname(path)) == []


@pytest.mark.parametrize("file", ["text", "folder"])
def test_a_spool_that_cannot_be_read_is_an_error(tmp_path, file):
    path = tmp_path / "spool"
    if file == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"SQLite format 3\0" + bytes(5000))
    with pytest.raises(SpoolError):
        read_status(str(path))


# The command


def run_status(path):
    """Run bai-daemon status, and return its exit code and what it has printed."""
    result = run_daemon("status", "--spool", path)
    assert result.err == ""
    (line,) = result.out.splitlines()
    return result.code, json.loads(line)


@pytest.mark.slow
def test_the_status_of_a_daemon_that_delivers_is_a_success(start_daemon):
    daemon = start_daemon("stdout", "--flush-interval", "0.01")
    daemon.emit("a=1", "b=2")
    wait_until(lambda: len(daemon.pairs()) == 2)
    wait_until(lambda: run_status(daemon.spool)[1].get("delivered") == 2)
    code, status = run_status(daemon.spool)
    assert (code, status["alive"], status["pid"]) == (0, True, daemon.pid)
    assert (status["received"], status["rejected"], status["waiting"]) == (2, 0, 0)
    assert status["last_error"] is None
    daemon.emit("c=3")
    assert daemon.stop().code == 0
    assert [name for name, _ in daemon.pairs()] == ["a", "b", "c"]
    assert run_status(daemon.spool) == (1, {"alive": False, "waiting": 0})


def start_failing(start_daemon):
    return start_daemon(
        "stdout", "--shutdown-timeout", "0", program=[sys.executable, "-c", FAILING]
    )


@pytest.mark.slow
def test_the_status_of_a_daemon_that_cannot_deliver_is_a_failure(start_daemon):
    daemon = start_failing(start_daemon)
    daemon.emit("a=1")
    wait_until(lambda: run_status(daemon.spool)[1].get("last_error"))
    code, status = run_status(daemon.spool)
    assert (code, status["alive"], status["waiting"]) == (1, True, 1)
    assert status["last_error"] == "it is down"
    assert 0 < status["oldest_age"] < 3600
    assert 0 < status["spool_bytes"] < 1 << 20
    assert status["disk_free_bytes"] > 0
    assert daemon.stop().code == 1


@pytest.mark.slow
def test_the_metrics_of_a_killed_daemon_are_counted_and_stay(start_daemon):
    daemon = start_failing(start_daemon)
    daemon.emit("a=1", "b=2")
    wait_until(lambda: run_status(daemon.spool)[1].get("waiting") == 2)
    daemon.kill()
    assert run_status(daemon.spool)[0] == 1  # for now, it looks as if it was alive
    age(daemon.spool + ".status", 1000)
    for _ in range(2):
        assert run_status(daemon.spool) == (1, {"alive": False, "waiting": 2})
    again = start_daemon("stdout")
    wait_until(lambda: again.pairs() == [("a", 1), ("b", 2)])
    assert again.stop().code == 0


def test_the_status_of_what_is_no_spool_is_an_error(tmp_path):
    (tmp_path / "text").write_text("private")
    for name, message in [
        ("none", f"bai-daemon: there is no spool {str(tmp_path / 'none')!r}\n"),
        ("text", f"bai-daemon: {str(tmp_path / 'text')!r} is not a spool, and was left as it is: "),
    ]:
        result = run_daemon("status", "--spool", str(tmp_path / name))
        assert (result.code, result.out) == (1, "")
        assert result.err.startswith(message)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
    assert (tmp_path / "text").read_text() == "private"


# The log


def test_sigusr1_logs_the_status(start_daemon):
    daemon = start_daemon("stdout", "--flush-interval", "0.01")
    # One line is rejected, and one metric, whose value is beyond the range of a double.
    daemon.write(b'{"a": 1}\nhello\n{"b": 1' + b"0" * 400 + b"}\n")
    wait_until(lambda: "rejected 1 metric" in daemon.logged())
    wait_until(daemon.metrics)
    daemon.process.send_signal(signal.SIGUSR1)
    daemon.wait_for_log("received 2, delivered 1, rejected 2, waiting 0, spool ")
    result = daemon.stop()
    assert result.code == 0
    assert result.err.endswith("received 2, delivered 1, rejected 2, waiting 0\n")


@pytest.mark.slow
def test_the_status_is_logged_in_intervals(start_daemon):
    daemon = start_daemon("stdout", "--flush-interval", "0.01", "--status-interval", "0.1")
    daemon.emit("a=1")
    daemon.wait_for_log("received 1, delivered 1, rejected 0, waiting 0, spool ")
    assert daemon.stop().code == 0
