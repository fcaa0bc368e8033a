"""The installed bai-daemon as a process, with its backend stdout."""

import json
import os
import re
import signal
import stat
import subprocess
import sys

import pytest
from conftest import ROOT, WAIT, finish, run, start, wait_until

from benchmarkai.daemon import backends

FOLDER = os.path.dirname(sys.executable)
BAI_DAEMON = os.path.join(FOLDER, "bai-daemon")
BAI_EMIT = os.path.join(FOLDER, "bai-emit")

PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


class Daemon:
    """A bai-daemon that runs until it is told to stop."""

    def __init__(self, folder, *options, **more):
        self.path = os.path.join(folder, "pipe")
        self.process = start(
            [BAI_DAEMON, "stdout", "--fifo", self.path, "--flush-interval", "0.01"] + list(options),
            **dict(PIPES, **more),
        )
        wait_until(lambda: os.path.exists(self.path) or self.process.poll() is not None)

    def emit(self, *words, **options):
        return run([BAI_EMIT, "--fifo", self.path] + list(words), **options)

    def write(self, data):
        with open(self.path, "wb") as pipe:
            pipe.write(data)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.end()

    def end(self):
        result = finish(self.process)
        result.metrics = [json.loads(line) for line in result.out.splitlines()]
        result.pairs = [(metric["name"], metric["value"]) for metric in result.metrics]
        return result


@pytest.fixture
def daemon(tmpdir):
    started = []

    def call(*options, **more):
        started.append(Daemon(str(tmpdir), *options, **more))
        return started[-1]

    yield call
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.communicate()


def with_command(*words, **options):
    return run([BAI_DAEMON, "stdout"] + list(words), **options)


def folder_of(result):
    return os.path.dirname(re.search(r"spool (\S+)", result.err).group(1))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_comes_is_delivered_until_it_is_told_to_stop(daemon, number):
    running = daemon("--label", "run=42", "--label", "host=a=b")
    assert running.emit("alexnet.latency=0.42", "größe=16").code == 0
    running.write(b'{"from the shell": 1}\n')
    assert running.emit("last=1").code == 0
    result = running.stop(number)
    assert result.code == 0
    assert result.pairs == [
        ("alexnet.latency", 0.42),
        ("größe", 16),
        ("from the shell", 1),
        ("last", 1),
    ]
    for metric in result.metrics:
        assert list(metric) == ["time", "name", "value", "labels"]
        assert metric["labels"] == {"run": "42", "host": "a=b"}
        assert re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$", metric["time"])
    assert sorted({metric["time"] for metric in result.metrics}) == [
        metric["time"] for metric in result.metrics
    ]
    assert "received 4, delivered 4, refused 0, waiting 0" in result.err.splitlines()[-1]
    assert not os.path.exists(running.path)


# Emits until the pipe is gone, and prints how many times it could.
FIRE = """
import os, sys
os.environ.update(BENCHMARK_AI="fifo", BENCHMARK_AI_FIFO_FILEPATH=sys.argv[1],
                  BENCHMARK_AI_FIFO_MAX_WAIT_TIME="0")
from benchmarkai import FifoError, emit
number = 0
while True:
    try:
        emit({sys.argv[2]: number})
    except FifoError:
        break
    number += 1
print(number)
"""


@pytest.mark.parametrize("attempt", range(3))
def test_told_to_stop_under_fire_it_loses_nothing(daemon, tmpdir, attempt):
    seen = tmpdir.join("seen")
    with open(str(seen), "wb") as stdout:
        running = daemon(stdout=stdout)
    names = ["a", "b", "c"]
    code = [sys.executable, "-c", FIRE, running.path]
    emitters = [start(code + [name], stdout=subprocess.PIPE) for name in names]
    wait_until(lambda: seen.size() > 1 << 20)
    running.process.send_signal(signal.SIGTERM)
    assert finish(running.process).code == 0
    counts = {name: int(finish(emitter).out) for name, emitter in zip(names, emitters)}
    values = {name: [] for name in names}
    for line in seen.readlines():
        metric = json.loads(line)
        values[metric["name"]].append(metric["value"])
    assert {name: len(values[name]) for name in names} == counts
    assert all(values[name] == list(range(counts[name])) for name in names)


def test_a_metric_is_delivered_while_it_runs(daemon):
    running = daemon()
    running.emit("a=1")
    assert json.loads(running.process.stdout.readline())["name"] == "a"
    running.emit("b=2")
    assert json.loads(running.process.stdout.readline())["name"] == "b"
    assert running.stop().code == 0


def test_bad_lines_are_kept_and_told_and_cost_nothing_else(daemon):
    running = daemon()
    running.write(b'{"a": 1}\nhello\n{"b": NaN}\n{"c": 3}\n{"no newline": 4}')
    wait_until(lambda: os.path.exists(running.path + ".spool.refused"))
    result = running.stop()
    assert result.pairs == [("a", 1), ("c", 3), ("no newline", 4)]
    assert result.code == 0
    with open(running.path + ".spool.refused") as file:
        refused = [json.loads(line) for line in file]
    assert [entry["line"] for entry in refused] == ["hello", '{"b": NaN}']
    assert "refused 2 lines, the first is 'hello'" in result.err
    assert "received 3, delivered 3, refused 2, waiting 0" in result.err


def test_refused_lines_are_told_once_a_second_at_most(daemon):
    running = daemon()
    for number in range(200):
        running.write(b"hello %d\n" % number)
    result = running.stop()
    assert result.err.count("refused 1 lines") <= 2
    counts = re.findall(r"refused (\d+) lines", result.err)
    assert sum(map(int, counts)) == 200


def test_the_pipe_can_be_written_and_not_read_by_others(daemon):
    running = daemon("--fifo-mode", "0602")
    wait_until(lambda: stat.S_IMODE(os.stat(running.path).st_mode) == 0o602)
    wait_until(lambda: os.path.exists(running.path + ".spool"))
    assert stat.S_IMODE(os.stat(running.path + ".spool").st_mode) == 0o600
    assert running.stop().code == 0


def test_the_second_daemon_on_a_pipe_says_so_and_ends(daemon):
    first = daemon()
    first.emit("a=1")
    second = daemon("--spool", first.path + ".other").end()
    assert (second.code, second.out) == (1, "")
    assert "another daemon reads the pipe %r" % first.path in second.err
    assert first.emit("b=2").code == 0
    assert first.stop().pairs == [("a", 1), ("b", 2)]


def test_a_pipe_that_was_there_stays(daemon, tmpdir):
    path = str(tmpdir.join("pipe"))
    os.mkfifo(path)
    running = daemon()
    assert running.emit("a=1").code == 0
    assert running.stop().pairs == [("a", 1)]
    assert os.path.exists(path)


def test_a_pipe_that_is_removed_is_made_anew(daemon):
    running = daemon()
    running.emit("a=1")
    os.unlink(running.path)
    wait_until(lambda: os.path.exists(running.path))
    assert running.emit("b=2").code == 0
    result = running.stop()
    assert result.pairs == [("a", 1), ("b", 2)]
    assert "was removed: it was made anew" in result.err


def test_when_the_spool_is_full_emitters_wait_and_nothing_is_lost(daemon, tmpdir):
    # The backend takes nothing while nobody reads its stdout: a pipe of 64 KiB.
    log = tmpdir.join("log")
    with open(str(log), "wb") as stderr:
        running = daemon("--spool-limit", "300K", "--batch-size", "100", stderr=stderr)
    file = tmpdir.join("stream")
    file.write("".join("name=%d\n" % number for number in range(200000)))
    with open(str(file)) as stdin:
        emitter = start([BAI_EMIT, "--fifo", running.path], stdin=stdin, **PIPES)
    message = "has reached its limit: metrics stay in the pipe, and emitters wait"
    wait_until(lambda: message in log.read())
    assert os.path.getsize(running.path + ".spool") < 4000000
    lines = [running.process.stdout.readline() for _ in range(200000)]
    assert [json.loads(line)["value"] for line in lines] == list(range(200000))
    assert finish(emitter).code == 0
    result = running.stop()
    assert result.code == 0
    assert "taking metrics again" in log.read()


def test_what_could_not_be_delivered_is_delivered_by_the_next_one(daemon, tmpdir):
    with open("/dev/full", "wb") as full:
        running = daemon(stdout=full)
        running.emit("a=1", "b=2")
        result = finish(running.process)
    assert result.code == 1
    assert "the delivery ended: cannot write to stdout" in result.err
    assert "received 2, delivered 0, refused 0, waiting 2" in result.err
    command = re.search("send them with: (.*)", result.err).group(1)
    again = run(["sh", "-c", command], env={"PATH": FOLDER + ":" + os.environ["PATH"]})
    assert again.code == 0, again.err
    assert [json.loads(line)["name"] for line in again.out.splitlines()] == ["a", "b"]


# With a command


def test_with_a_command_one_line_is_enough(tmpdir):
    script = "bai-emit a=1; python -c \"from benchmarkai import emit; emit({'b': 2})\"; echo out"
    env = {"PATH": FOLDER + ":" + os.environ["PATH"], "TMPDIR": str(tmpdir)}
    result = with_command("--label", "run=42", "--", "sh", "-c", script, env=env)
    assert result.code == 0, result.err
    lines = sorted(result.out.splitlines())
    assert lines[0] == "out"
    names = [json.loads(line)["name"] for line in lines[1:]]
    assert sorted(names) == ["a", "b"]
    assert os.listdir(str(tmpdir)) == []


@pytest.mark.parametrize(
    "words, code",
    [
        (["true"], 0),
        (["false"], 1),
        (["sh", "-c", "exit 42"], 42),
        (["sh", "-c", "kill -9 $$"], 137),
        (["/none/such"], 127),
        (["/"], 126),
    ],
)
def test_the_exit_code_is_that_of_the_command(words, code, tmpdir):
    result = with_command("--", *words, env={"TMPDIR": str(tmpdir)})
    assert result.code == code
    assert os.listdir(str(tmpdir)) == []


def test_words_behind_the_command_are_its_own(tmpdir):
    result = with_command("--", "echo", "--help", "-x", "--", "a")
    assert result.out == "--help -x -- a\n"


def test_the_exit_code_tells_that_something_was_refused(tmpdir):
    script = 'echo hello > "$BENCHMARK_AI_FIFO_FILEPATH"; exit %d'
    env = {"TMPDIR": str(tmpdir)}
    for own, code in ((0, 1), (3, 3)):
        result = with_command("--", "sh", "-c", script % own, env=env)
        assert result.code == code
        assert os.path.exists(os.path.join(folder_of(result), "pipe.spool.refused"))


def test_what_is_ignored_stays_so():
    script = "trap '' HUP; exec \"$0\" stdout -- sh -c 'kill -HUP $PPID; kill -HUP $$; echo on'"
    result = run(["sh", "-c", script, BAI_DAEMON])
    assert (result.code, result.out) == (0, "on\n")


def test_the_settings_of_the_daemon_are_not_given_to_the_command():
    env = {"BAI_DAEMON_TOKEN": "secret", "BAI_DAEMON_LABEL": "run=1"}
    result = with_command("--", "env", env=env)
    assert "BAI_DAEMON" not in result.out
    assert "BENCHMARK_AI=fifo" in result.out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_passed_on_to_the_command(number):
    code = (
        "import os, signal, sys, time\n"
        "def handle(number, frame): os.write(1, b'got %%d\\n' %% number); sys.exit(7)\n"
        "signal.signal(%d, handle)\n"
        "print('ready', flush=True)\n"
        "time.sleep(%d)" % (number, WAIT)
    )
    command = [BAI_DAEMON, "stdout", "--", sys.executable, "-c", code]
    process = start(command, start_new_session=True, **PIPES)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    result = finish(process)
    assert result.out == "got %d\n" % number
    assert result.code == 7


def test_what_the_command_leaves_running_is_waited_for_no_longer(tmpdir):
    script = "(exec >/dev/null 2>&1; sleep %d) & echo $!" % WAIT
    result = with_command("--", "sh", "-c", script)
    os.kill(int(result.out), signal.SIGKILL)  # it is still there
    assert result.code == 0


# Words and variables


@pytest.mark.parametrize(
    "words, message",
    [
        (["--label", "x", "stdout"], "No such option"),
        (["nope"], "No such command"),
        (["stdout", "--fifo", "p", "--"], "there is no command after --"),
        (["stdout", "--spool", ""], "it is empty"),
        (["stdout", "--label", "x"], "'x' is not NAME=VALUE, such as run=42"),
        (["stdout", "--label", "=x"], "'=x' is not NAME=VALUE"),
        (["stdout", "--label", b"a=\xff"], "is not UTF-8"),
        (["stdout", "--label", "a=1", "--label", "a=2"], "'a' is given twice"),
        (["stdout", "--spool-limit", "x"], "'x' is not a size: write bytes, such as 500M or 2G"),
        (["stdout", "--fifo-mode", "9"], "'9' is not a mode of a file"),
        (["stdout", "--batch-size", "0"], "0 is not in the range"),
    ],
)
def test_a_mistake_is_a_usage_error(words, message, tmpdir):
    result = run([BAI_DAEMON] + words, env={"BENCHMARK_AI_FIFO_FILEPATH": str(tmpdir.join("pipe"))})
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert os.listdir(str(tmpdir)) == []


def test_every_option_may_be_a_variable(daemon, tmpdir):
    path = str(tmpdir.join("other"))
    env = {
        "BENCHMARK_AI_FIFO_FILEPATH": path,
        "BAI_DAEMON_LABEL": "run=42 host=a",
        "BAI_DAEMON_LOG_LEVEL": "error",
        "BAI_DAEMON_SPOOL": path + ".kept",
    }
    process = start([BAI_DAEMON, "stdout"], env=env, **PIPES)
    wait_until(lambda: os.path.exists(path))
    assert run([BAI_EMIT, "--fifo", path, "a=1"]).code == 0
    process.terminate()
    result = finish(process)
    assert json.loads(result.out)["labels"] == {"run": "42", "host": "a"}
    assert result.err == ""
    assert os.path.exists(path + ".kept")


@pytest.mark.parametrize("name", backends.NAMES)
def test_every_backend_has_help_with_an_example(name):
    result = run([BAI_DAEMON, name, "--help"])
    assert result.code == 0
    assert "$ bai-daemon " + name in result.out
    assert "Exit codes:" in result.out


@pytest.mark.parametrize("name", backends.NAMES)
def test_every_backend_and_option_is_in_the_readme(name):
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        readme = file.read()
    assert "`%s`" % name in readme
    for option in re.findall(r"^  (--[\w-]+)", run([BAI_DAEMON, name, "--help"]).out, re.M):
        assert option == "--help" or "`%s" % option in readme, option


def test_a_backend_whose_extra_is_missing_says_how_to_install_it(tmpdir):
    # As if it were not installed, whether it is or not.
    tmpdir.join("influxdb_client.py").write("raise ImportError(name='influxdb_client')")
    tmpdir.join("urllib3.py").write("")
    result = run([BAI_DAEMON, "influxdb", "--database", "x"], env={"PYTHONPATH": str(tmpdir)})
    assert result.code == 2
    assert result.err.splitlines()[-1] == (
        "Error: influxdb_client is not installed: pip install 'benchmarkai-client-lib[influxdb]'"
    )


def test_the_emitter_imports_nothing_of_the_daemon():
    code = (
        "import sys; from benchmarkai import emit; emit({'a': 1});"
        "import benchmarkai.command, benchmarkai.cli, benchmarkai.stream;"
        "assert not [name for name in sys.modules if 'daemon' in name or name == 'sqlite3']"
    )
    assert run([sys.executable, "-c", code]).code == 0
