"""bai-emit --time: the duration of a command, which runs as it would without it."""

import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from tests.helpers import BAI_EMIT, bounded, finish, is_installed, run, start, wait_until

PIPES = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def timed(*command, **options):
    return run([BAI_EMIT, "--time", "build.seconds"] + list(command), **options)


def test_the_seconds_of_a_command_are_published_after_its_output():
    result = timed("jobs=4", "--", "sh", "-c", "sleep 0.3; echo built; echo warning >&2")
    built, line = result.out.splitlines()
    assert (result.code, built, result.err) == (0, "built", "warning\n")
    metrics = json.loads(line, object_pairs_hook=list)
    assert [name for name, _ in metrics] == ["build.seconds", "jobs"]
    assert 0.28 <= metrics[0][1] < 30 and metrics[1][1] == 4


def test_the_seconds_go_to_the_pipe_in_fifo_mode(fifo):
    assert timed("--fifo", fifo.path, "--", "echo", "built") == (0, "built\n", "")
    assert set(json.loads(fifo.read())) == {"build.seconds"}


@pytest.mark.parametrize(
    "command, code",
    [
        (["sh", "-c", "exit 3"], 3),
        (["sh", "-c", "kill -9 $$"], 137),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["/nonexistent"], 127),
        (["nonexistent"], 127),
        (["/"], 126),
    ],
)
def test_a_command_that_fails_is_not_published_and_its_exit_code_returned(fifo, command, code):
    result = timed("--fifo", fifo.path, "--", *command)
    assert (result.code, result.out, fifo.read()) == (code, "", "")
    if code in (126, 127):
        reason = "command not found" if code == 127 else "Permission denied"
        assert result.err == "bai-emit: cannot run '%s': %s\n" % (command[0], reason)


def test_a_script_that_cannot_be_started_is_told_what_it_lacks(tmpdir):
    script = tmpdir.join("bench.sh")
    script.write("#!/bin/sh\r\ntrue\n")  # as an editor of Windows writes it
    message = "bai-emit: cannot run '%s': %%s\n" % script
    reason = "Permission denied: make it executable with chmod +x"
    assert timed("--", str(script)) == (126, "", message % reason)
    script.chmod(0o755)
    reason = "its interpreter or loader is not found"
    assert timed("--", str(script)) == (127, "", message % reason)
    # Also where the script is found in PATH.
    path = str(tmpdir) + os.pathsep + os.environ["PATH"]
    message = "bai-emit: cannot run 'bench.sh': %s\n" % reason
    assert timed("--", "bench.sh", env={"PATH": path}) == (127, "", message)


def test_a_command_that_succeeds_but_cannot_be_published_is_exit_code_1(tmpdir):
    result = timed("--fifo", str(tmpdir.join("none")), "--max-wait", "0", "--", "echo", "built")
    assert (result.code, result.out) == (1, "built\n")
    assert "there is no pipe at" in result.err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--time", "t"], "--time has no command: put one after --"),
        (["--time", "t", "--"], "--time has no command: put one after --"),
        (["--time", "t", "echo", "ran"], "'echo' has no '='"),
        (["--time", "", "--", "echo", "ran"], "--time is empty: give the name of the metric"),
        (["--time", "t", "a=x", "--", "echo", "ran"], "the value of 'a=x' is not a number"),
        (["--time", "t", "t=1", "--", "echo", "ran"], "'t' is given twice"),
        (["--time", "t", "--mode", "x", "--", "echo", "ran"], "--mode"),
        (["--time", "t" * 4076, "--mode", "fifo", "--", "echo", "ran"], "shorten the name"),
        (["--time", "t" * 5000, "--mode", "fifo", "--", "echo", "ran"], "shorten the name"),
        (["--time", "t", "--time", "", "--", "echo", "ran"], "--time is empty"),
    ],
)
def test_a_mistake_is_found_before_the_command_runs(arguments, message):
    result = run([BAI_EMIT] + arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err


def test_the_command_gets_its_arguments_as_they_are():
    script = "import sys; print(sys.argv[1:])"
    arguments = ["--mode", "fifo", "--", "a b", "-h", ""]
    result = timed("--", sys.executable, "-c", script, *arguments)
    assert result.out.splitlines()[0] == repr(arguments)


def test_the_command_has_the_streams_and_descriptors_of_the_caller(tmpdir):
    script = '"$0" --time t -- sh -c "cat; cat <&7; echo out >&8" 7<"$1" 8>"$2"'
    given, taken = tmpdir.join("given"), tmpdir.join("taken")
    given.write("seven\n")
    result = run(["sh", "-c", script, BAI_EMIT, str(given), str(taken)], stdin=b"stdin\n")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[:2] == ["stdin", "seven"]
    assert taken.read() == "out\n"


def test_the_command_is_ended_by_a_closed_pipe_as_usual():
    # Python ignores SIGPIPE; the shell would see an error of printf and go on.
    script = "while :; do printf 'x\\n'; done; exit 0"
    result = run(["sh", "-c", '"$0" --time t -- sh -c "$1" | head -n 1', BAI_EMIT, script])
    assert result == (0, "x\n", "")


TRAP = "trap 'echo got; exit 5' %s; echo ready; while :; do sleep 0.05; done"


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"])
def test_signals_are_passed_on_to_the_command(name):
    process = start([BAI_EMIT, "--time", "t", "--", "sh", "-c", TRAP % name], **PIPES)
    assert bounded(process.stdout.readline) == b"ready\n"
    process.send_signal(getattr(signal, "SIG" + name))
    assert finish(process) == (5, "got\n", "")


# Loaded into bai-emit only. SIGTERM comes just before its first wait for the command, and therefore
# does not interrupt it.
LATE_SIGNAL = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/types.h>

__attribute__((constructor)) static void start(void) { unsetenv("LD_PRELOAD"); }

pid_t waitpid(pid_t pid, int *status, int options) {
    static int is_sent;
    struct sigaction action;
    sigaction(SIGTERM, NULL, &action);
    if (action.sa_handler != SIG_DFL && !is_sent++) raise(SIGTERM);
    return ((pid_t (*)(pid_t, int *, int))dlsym(RTLD_NEXT, "waitpid"))(pid, status, options);
}
"""


@pytest.mark.skipif(not is_installed("g++"), reason="needs a compiler")
def test_a_signal_that_comes_just_before_a_wait_is_passed_on(tmpdir):
    source, library = tmpdir.join("late.c"), str(tmpdir.join("late.so"))
    source.write(LATE_SIGNAL)
    compiler = ["g++", "-x", "c", "-shared", "-fPIC", "-o", library, str(source), "-ldl"]
    subprocess.check_call(compiler)
    command = [sys.executable, BAI_EMIT, "--time", "t", "--", "sleep", "60"]
    assert run(command, env={"LD_PRELOAD": library}) == (143, "", "")


def test_a_signal_that_is_ignored_stays_ignored():
    script = "trap '' HUP; exec \"$0\" --time t -- sh -c 'echo ready; sleep 0.3; echo done'"
    process = start(["sh", "-c", script, BAI_EMIT], **PIPES)
    assert bounded(process.stdout.readline) == b"ready\n"
    process.send_signal(signal.SIGHUP)
    result = finish(process)
    assert (result.code, result.out.splitlines()[0]) == (0, "done")


def test_a_command_fails_also_where_the_caller_ignores_sigchld():
    script = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    command = [BAI_EMIT, "--time", "t", "--", "sh", "-c", "exit 3"]
    execute = "os.execv(sys.argv[1], sys.argv[1:])"
    assert run([sys.executable, "-c", script + execute] + command) == (3, "", "")


def test_a_signal_to_the_whole_group_is_the_end_of_both():
    for _ in range(10):
        arguments = [BAI_EMIT, "--time", "t", "--", "sh", "-c", "echo ready; exec sleep 60"]
        process = start(arguments, **PIPES)
        assert bounded(process.stdout.readline) == b"ready\n"
        os.killpg(process.pid, signal.SIGTERM)
        assert finish(process) == (143, "", "")


def read_until(word, terminal, text=b""):
    """Return the text and what is printed on the terminal after it, up to the word at least."""
    while word not in text:
        text += bounded(lambda: os.read(terminal, 1000))
    return text


def test_ctrl_c_reaches_a_command_in_a_group_of_its_own():
    pid, master = pty.fork()
    if not pid:
        script = "import os, time; os.setpgid(0, 0); os.write(1, b'ready'); time.sleep(60)"
        os.execv(BAI_EMIT, [BAI_EMIT, "--time", "t", "--", sys.executable, "-c", script])
    read_until(b"ready", master)
    os.write(master, b"\x03")
    wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid)
    os.close(master)


# Runs bai-emit, which hears that its command has started only once a line is typed.
SLOW_START = """
import os, runpy, subprocess
start = subprocess.Popen.__init__
def start_and_wait(*arguments, **options):
    start(*arguments, **options)
    while True:
        try:
            os.read(0, 100)
            break
        except EnvironmentError:  # EINTR, on Python 2
            pass
subprocess.Popen.__init__ = start_and_wait
runpy.run_module("benchmarkai", run_name="__main__")
"""


@pytest.mark.parametrize("program", [[BAI_EMIT], [sys.executable, "-c", SLOW_START]])
def test_ctrl_c_in_a_terminal_reaches_the_command_once(program):
    script = (
        "trap 'echo got' INT; echo ready; n=0; while [ $n -lt 10 ]; do sleep 0.05; n=$((n+1)); done"
    )
    pid, master = pty.fork()
    if not pid:
        os.execv(program[0], program + ["--time", "t", "--", "bash", "-c", script])
    text = read_until(b"ready", master)
    os.write(master, b"\x03")
    text = read_until(b"got", master, text)
    os.write(master, b"\n")
    try:
        text = read_until(b'{"t": ', master, text)
    finally:
        os.close(master)
        _, status = os.waitpid(pid, 0)
    assert text.count(b"got") == 1
    assert b"Traceback" not in text and os.WEXITSTATUS(status) == 0


def test_a_signal_that_comes_while_the_command_starts_is_passed_on():
    program = [sys.executable, "-c", SLOW_START, "--time", "t", "--"]
    process = start(program + ["sh", "-c", TRAP % "TERM"], **PIPES)
    assert bounded(process.stdout.readline) == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert finish(process, stdin=b"\n") == (5, "got\n", "")


def test_a_command_ended_by_ctrl_c_is_exit_code_130():
    process = start(
        [BAI_EMIT, "--time", "t", "--", "sh", "-c", "echo ready; exec sleep 60"], **PIPES
    )
    assert bounded(process.stdout.readline) == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert finish(process) == (130, "", "")
