"""The command line of bai-daemon: arguments, options, variables, help, and exit codes."""

import ast
import json
import os
import re
import signal
import sys
import time

import click
import pytest

import benchmarkai
from benchmarkai.daemon import backends
from benchmarkai.daemon.install import how_to_install
from benchmarkai.daemon.options import secret_option
from tests.daemon.harness import PATH, PIPES, run_daemon
from tests.helpers import (
    BAI_DAEMON,
    BAI_EMIT,
    NOT_MEASURED,
    ROOT,
    WAIT,
    bounded,
    finish,
    read_text,
    run,
    run_python,
    start,
    wait_until,
)

# Each with its name in help and messages.
PROGRAMS = [
    ([BAI_DAEMON], "bai-daemon"),
    ([sys.executable, "-m", "benchmarkai.daemon"], "python -m benchmarkai.daemon"),
]


def run_command(*command, options=(), **more):
    """Run bai-daemon with a command, and return its Result."""
    return run_daemon("stdout", *options, "--", *command, **more)


def folder_of(result):
    """Return the temporary folder of a daemon, from its log."""
    return os.path.dirname(re.search(r"spool (\S+)", result.err).group(1))


# With a command


def test_a_command_publishes_to_a_pipe_of_its_own(tmp_path):
    script = "bai-emit a=1; python -c \"from benchmarkai import emit; emit({'b': 2})\"; echo out"
    options = ["--label", "run=42"]
    result = run_command("sh", "-c", script, options=options, env={"PATH": PATH})
    assert result.code == 0, result.err
    lines = sorted(result.out.splitlines())
    assert lines[0] == "out"
    metrics = [json.loads(line) for line in lines[1:]]
    assert sorted(metric["name"] for metric in metrics) == ["a", "b"]
    assert [metric["labels"] for metric in metrics] == [{"run": "42"}] * 2
    assert "received 2, delivered 2, rejected 0, waiting 0" in result.err.splitlines()[-1]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "command, code",
    [
        (["true"], 0),
        (["false"], 1),
        (["sh", "-c", "exit 42"], 42),
        (["sh", "-c", "kill -9 $$"], 137),
        (["/none/such"], 127),
        (["/"], 126),
    ],
)
def test_the_exit_code_is_that_of_the_command(command, code, tmp_path):
    result = run_command(*command)
    assert (result.code, result.out) == (code, "")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "command, code, message",
    [
        ("/none/such", 127, "cannot run '/none/such': command not found"),
        ("/", 126, "cannot run '/': Permission denied"),
    ],
)
def test_nothing_is_delivered_if_the_command_cannot_be_started(command, code, message, tmp_path):
    spool = str(tmp_path / "spool")
    script = 'printf \'{"a": 1}\\n\' > "$BENCHMARK_AI_FIFO_FILEPATH"'
    options = ["--spool", spool, "--shutdown-timeout", "30"]
    # A metric waits, because the first run could not deliver it.
    with open("/dev/full", "w") as full:
        assert run_command("sh", "-c", script, options=options, stdout=full).code == 1
    result = run_command(command, options=options)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert "1 metric is kept in " + spool in result.err
    assert "received 0, delivered 0, rejected 0, waiting 1" in result.err.splitlines()[-1]
    assert json.loads(run_command("true", options=options).out)["name"] == "a"


def test_arguments_after_the_command_are_its_own():
    result = run_command("echo", "--help", "-x", "--", "a")
    assert (result.code, result.out) == (0, "--help -x -- a\n")


@pytest.mark.parametrize("own_code, code", [(0, 1), (3, 3)])
def test_with_a_command_a_rejected_line_is_a_failure(own_code, code):
    script = f'echo hello > "$BENCHMARK_AI_FIFO_FILEPATH"; exit {own_code}'
    result = run_command("sh", "-c", script)
    assert (result.code, result.out) == (code, "")
    assert os.path.exists(os.path.join(folder_of(result), "pipe.spool.refused"))


def test_ignored_signals_stay_ignored():
    script = "trap '' HUP; exec \"$0\" stdout -- sh -c 'kill -HUP $PPID; kill -HUP $$; echo on'"
    result = run(["sh", "-c", script, BAI_DAEMON])
    assert (result.code, result.out) == (0, "on\n")


def test_the_command_does_not_get_the_settings_of_the_daemon():
    env = {"BAI_DAEMON_TOKEN": "secret", "BAI_DAEMON_LABEL": "run=1"}
    result = run_command("env", env=env)
    assert "BAI_DAEMON" not in result.out
    assert "secret" not in result.out
    assert "BENCHMARK_AI=fifo" in result.out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_passed_on_to_the_command(number):
    code = (
        "import os, signal, sys, time\n"
        "def handle(number, frame): os.write(1, b'got %d\\n' % number); sys.exit(7)\n"
        f"signal.signal({int(number)}, handle)\n"
        "print('ready', flush=True)\n"
        f"time.sleep({WAIT})"
    )
    process = start([BAI_DAEMON, "stdout", "--", sys.executable, "-c", code], **PIPES)
    assert bounded(process.stdout.readline) == b"ready\n"
    process.send_signal(number)
    result = finish(process)
    assert (result.code, result.out) == (7, f"got {int(number)}\n")
    assert f"passed {number.name} on to the command" in result.err


# Runs its arguments on a terminal of its own, types Ctrl-C once they print "ready", and prints
# what they print.
TERMINAL = """
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
text = b""
while True:
    try:
        data = os.read(terminal, 1000)
    except OSError:  # EIO: everybody has closed it
        break
    if b"ready" not in text and b"ready" in text + data:
        os.write(terminal, b"\\x03")
    text += data
os.write(1, text)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_ctrl_c_in_a_terminal_reaches_the_command_once():
    code = (
        "import signal, time\n"
        "received = []\n"
        "signal.signal(signal.SIGINT, lambda number, frame: received.append(number))\n"
        "print('ready', flush=True)\n"
        "deadline = time.monotonic() + 30\n"
        "while not received and time.monotonic() < deadline: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"  # a second one would come soon
        "print('received', len(received))\n"
    )
    command = [BAI_DAEMON, "stdout", "--", sys.executable, "-c", code]
    result = run([sys.executable, "-c", TERMINAL, *command])
    assert result.code == 0, result.out
    assert "received 1\r\n" in result.out
    assert "passed SIGINT on" not in result.out


def test_background_processes_of_the_command_are_not_waited_for():
    script = f"(exec >/dev/null 2>&1; sleep {WAIT}) & echo $!"
    started = time.monotonic()
    result = run_command("sh", "-c", script)
    os.kill(int(result.out), signal.SIGKILL)  # it is still there
    assert result.code == 0
    assert time.monotonic() - started < WAIT / 2


# Arguments, options and variables


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--label", "x", "stdout"], "No such option"),
        (["stdout", "-v"], "No such option"),
        (["stdout", "--fifo", "p", "--"], "there is no command after --"),
        (["stdout", "--fifo", "--", "true"], "Option '--fifo' requires an argument"),
        (["status"], "Missing option '--spool'"),
    ],
)
def test_a_bad_usage_is_told_with_the_usage(arguments, message):
    result = run_daemon(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Usage: bai-daemon ")
    assert result.err.splitlines()[-1].startswith("Error: " + message)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nope"], "no backend 'nope': " + ", ".join(backends.NAMES)),
        (["stdout", "--batch-size", "0"], "invalid value for '--batch-size'"),
    ],
)
def test_a_bad_value_is_told_in_one_line(arguments, message):
    result = run_daemon(*arguments)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith("bai-daemon: " + message)


def test_a_backend_that_starts_with_a_dash_is_no_crash():
    # Some versions of click show the help.
    result = run_daemon("--", "-x")
    assert result.code == 2 or result.out.startswith("Usage: ")
    assert "Traceback" not in result.err


def test_labels_that_the_server_cannot_hold_are_told_in_one_line():
    for client in ("prometheus_client", "urllib3"):
        pytest.importorskip(client)
    result = run_daemon("prometheus", "--label", "a-b=1")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith("bai-daemon: the labels cannot be sent: Prometheus does not allow")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["stdout", "--spool", ""], "it is empty"),
        (["stdout", "--label", "x"], "'x' is not NAME=VALUE"),
        (["stdout", "--label", "=x"], "'=x' is not NAME=VALUE"),
        (["stdout", "--label", b"a=\xff"], "is not UTF-8"),
        (["stdout", "--label", "a=1", "--label", "a=2"], "'a' is given twice"),
        (["stdout", "--spool-limit", "x"], "'x' is not a size: write bytes, such as 500M or 2G"),
        (["stdout", "--spool-limit", "0"], "'0' is not a size: write bytes, such as 500M or 2G"),
        (["stdout", "--spool-limit", "-1K"], "'-1K' is not a size"),
        (["stdout", "--fifo-mode", "9"], "'9' is not a file mode: write it in octal, such as 0622"),
        (["stdout", "--fifo-mode", "1000"], "'1000' is not a file mode"),
        (["stdout", "--batch-size", "0"], "0 is not in the range"),
    ],
)
def test_a_bad_value_says_what_to_write(arguments, message, tmp_path):
    result = run_daemon(*arguments, env={"BENCHMARK_AI_FIFO_FILEPATH": str(tmp_path / "pipe")})
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert message in result.err
    assert os.listdir(tmp_path) == []


def test_a_pipe_that_cannot_be_used_is_an_error(tmp_path):
    path = str(tmp_path / "file")
    with open(path, "w"):
        pass
    result = run_daemon("stdout", "--fifo", path)
    assert (result.code, result.out) == (1, "")
    (line,) = result.err.splitlines()
    assert f"bai-daemon ERROR: {path!r} is not a named pipe, and was left as it is" in line


def test_every_option_may_be_a_variable(tmp_path):
    path = str(tmp_path / "other")
    env = {
        "BENCHMARK_AI_FIFO_FILEPATH": path,
        "BAI_DAEMON_LABEL": "run=42 host=a",
        "BAI_DAEMON_LOG_LEVEL": "error",
        "BAI_DAEMON_SPOOL": path + ".kept",
    }
    process = start([BAI_DAEMON, "stdout"], env=env, **PIPES)
    wait_until(lambda: os.path.exists(path + ".kept"))
    assert run([BAI_EMIT, "--fifo", path, "a=1"]).code == 0
    process.terminate()
    result = finish(process)
    assert json.loads(result.out)["labels"] == {"run": "42", "host": "a"}
    assert (result.code, result.err) == (0, "")
    assert os.path.exists(path + ".kept")


def test_the_version_is_printed():
    assert run_daemon("--version") == (0, f"bai-daemon {benchmarkai.__version__}\n", "")


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_the_help_lists_the_backends(option):
    result = run_daemon(option)
    assert (result.code, result.err) == (0, "")
    names = {
        title: [line.split()[0] for line in part.splitlines()]
        for title, part in re.findall(r"^(\w.*):\n((?:  \w.*\n)+)", result.out, re.M)
    }
    assert names == {"Backends": list(backends.NAMES), "Other commands": ["status"]}
    assert "  stdout         Print metrics, each as a line of JSON.\n" in result.out


@pytest.mark.slow
@pytest.mark.parametrize("name", backends.NAMES)
def test_every_backend_has_help_with_an_example(name):
    result = run_daemon(name, "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"Usage: bai-daemon {name} [OPTIONS] [-- COMMAND...]\n")
    assert "$ bai-daemon " + name in result.out
    assert "Exit codes:" in result.out


@pytest.mark.slow
@pytest.mark.parametrize("name", backends.NAMES)
def test_every_backend_and_option_is_documented(name):
    page = read_text("docs", "daemon.md")
    assert f"`{name}`" in page
    for option in re.findall(r"^  (--[\w-]+)", run_daemon(name, "--help").out, re.M):
        assert option == "--help" or f"`{option}" in page, option


def test_a_missing_extra_is_an_error_that_says_how_to_install_it(tmp_path):
    # As if it were not installed, whether it is or not.
    (tmp_path / "urllib3.py").write_text("raise ImportError(name='urllib3')")
    result = run_daemon("influxdb", "--database", "x", env={"PYTHONPATH": str(tmp_path)})
    remedy = how_to_install(["urllib3>=1.26"])
    assert result == (2, "", f"bai-daemon: urllib3 is not installed: {remedy}\n")


def test_what_a_message_tells_to_install_is_what_the_extras_have():
    (extras,) = (
        keyword.value
        for node in ast.walk(ast.parse(read_text("setup.py")))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "extras_require"
    )
    needed = {name: needs for name, needs in backends.REQUIREMENTS.items() if needs}
    assert needed == ast.literal_eval(extras)


def test_without_click_it_says_what_to_install(tmp_path):
    (tmp_path / "click.py").write_text("raise ImportError('hidden')")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), ROOT])}
    message = f"click is not installed: {how_to_install(['click>=8'])}\n"
    for program, name in PROGRAMS:
        assert run([*program, "--help"], env=env) == (1, "", f"{name}: {message}")


def test_ctrl_c_before_the_start_is_exit_code_130():
    code = (
        "from benchmarkai.daemon import app, cli\n"
        "def interrupt(*arguments): raise KeyboardInterrupt\n"
        "app.run = interrupt\n"
        "cli.main()"
    )
    assert run_python(code, "stdout") == (130, "", "\n")  # the line of ^C


def test_the_module_is_the_same_program():
    for program, name in PROGRAMS:
        result = run([*program, "nope"], cwd=ROOT)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith(f"{name}: no backend 'nope': stdout, ")
        result = run([*program, "stdout", "true"], cwd=ROOT)
        assert result.err.startswith(f"Usage: {name} stdout [OPTIONS] ")
        assert result.err.endswith(f"write -- before the command: {name} stdout -- true\n")


def test_an_old_click_is_an_error_that_says_how_to_upgrade_it():
    code = (
        "import click\n"
        "del click.Context.get_parameter_source\n"  # as if it were click 7
        "from benchmarkai.daemon import cli\n"
        "cli.main()"
    )
    message = "bai-daemon: click 8 or newer is required: pip install --upgrade click\n"
    assert run_python(code, "--version") == (1, "", message)


def test_the_library_and_the_command_load_nothing_of_the_daemon():
    code = (
        "import sys; from benchmarkai import emit; emit({'a': 1})\n"
        "import benchmarkai.command.main, benchmarkai.command.options, benchmarkai.command.stream\n"
        "assert not [name for name in sys.modules if 'daemon' in name or name == 'sqlite3']"
    )
    assert run_python(code, env=NOT_MEASURED) == (0, '{"a": 1}\n', "")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["python", "train.py", "--batch-size", "32"],
            "write -- before the command: bai-daemon stdout -- python train.py --batch-size 32",
        ),
        (["--label", "a=b c", "true"], "bai-daemon stdout --label 'a=b c' -- true"),
        (["--spool=s", "cat", "a b", "--help"], "bai-daemon stdout --spool=s -- cat 'a b' --help"),
        (["--spool", "cat", "cat"], "bai-daemon stdout --spool cat -- cat"),
        (["run=42", "--", "true"], "'run=42' is not an option"),
        (["run=42", "--"], "'run=42' is not an option"),
        (["echo", "a", "--", "b"], "'echo' is not an option"),
    ],
)
def test_a_command_without_dashes_is_a_usage_error(arguments, message):
    result = run_daemon("stdout", *arguments)
    assert (result.code, result.out) == (2, "")
    last_line = result.err.splitlines()[-1]
    assert message in last_line
    assert last_line.endswith(message) or "--" in arguments


def test_dashes_after_a_command_belong_to_it():
    result = run_command("echo", "a", "--", options=["--log-level", "error"])
    assert result == (0, "a --\n", "")


def test_help_is_shown_before_the_missing_command_is_reported():
    result = run_daemon("stdout", "--help", "--")
    assert result.code == 0
    assert result.out.startswith("Usage: bai-daemon stdout ")


def test_completion_after_the_dashes_prints_no_error():
    env = {
        "_BAI_DAEMON_COMPLETE": "bash_complete",
        "COMP_WORDS": "bai-daemon stdout -- ",
        "COMP_CWORD": "3",
    }
    assert run_daemon(env=env).err == ""


def test_an_empty_secret_file_takes_precedence_over_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("BAI_DAEMON_PASSWORD", "from the variable")
    (tmp_path / "empty").touch()
    command = click.Command(
        "test", params=[secret_option("--password", "the password")], callback=click.echo
    )
    for arguments, password in (
        ([], "from the variable"),
        (["--password-file", str(tmp_path / "empty")], ""),
    ):
        context = command.make_context("test", arguments)
        assert context.params == {"password": password}
