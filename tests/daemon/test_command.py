"""With bai-daemon in front of it, a command runs as it would without it."""

import contextlib
import fcntl
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios

import pytest

from tests.daemon.harness import PATH, PIPES
from tests.helpers import BAI_DAEMON, WAIT, bounded, finish, kill, run, start, wait_until

# Prints its process id, and the name of each signal that it gets, some of which end it. A signal
# just before signal.pause() would be printed only with the next one; a pipe keeps it.
REPORT = f"""
import os, signal
def report(number, frame):
    os.write(1, signal.Signals(number).name.encode() + b"\\n")
    if number == signal.SIGTERM:
        os._exit(7)
for name in "TERM INT HUP QUIT USR1 USR2 CONT WINCH".split():
    signal.signal(getattr(signal, "SIG" + name), report)
reader, writer = os.pipe()
os.set_blocking(writer, False)
signal.set_wakeup_fd(writer)
os.write(1, b"command %d\\n" % os.getpid())
signal.alarm({WAIT})
while True:
    os.read(reader, 1)
"""
REPORTER = [sys.executable, "-c", REPORT]

# Puts the rest of its arguments into a process group of its own.
CODE = "import os, sys; os.setpgid(0, 0); os.execvp(sys.argv[1], sys.argv[1:])"
IN_OWN_GROUP = [sys.executable, "-c", CODE]


class Terminal:
    """A program on a terminal of its own, which does not echo what is typed.

    Nor do Ctrl-C and Ctrl-Z discard what was printed and not read yet.
    """

    def __init__(self, *command, env=None):
        self.master, slave = pty.openpty()
        attributes = termios.tcgetattr(slave)
        attributes[3] &= ~termios.ECHO
        attributes[3] |= termios.NOFLSH
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        self.process = start(
            command, env, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), **streams
        )
        os.close(slave)
        self.text = ""

    def type(self, text):
        os.write(self.master, text.encode())

    def resize(self, rows):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, 80, 0, 0))

    def wait_for(self, pattern):
        """Wait until the text matches; return the match, and drop the text up to its end."""
        while True:
            match = re.search(pattern, self.text)
            if match:
                self.text = self.text[match.end() :]
                return match
            try:
                self.text += bounded(lambda: os.read(self.master, 1000)).decode()
            except OSError:  # EIO: everybody has closed it
                raise AssertionError(f"no {pattern} in {self.text!r}") from None

    def close(self):
        os.close(self.master)
        kill(self.process)


@pytest.fixture
def shell():
    """A shell with job control, on a terminal."""
    env = {"PS1": "$ ", "PATH": PATH, "HISTFILE": "/dev/null"}
    terminal = Terminal("bash", "--norc", "--noprofile", "--noediting", "-i", env=env)
    yield terminal
    terminal.close()


def start_in(shell, *wrapper, program=(BAI_DAEMON,)):
    """Start the reporter, in a wrapper, with a daemon; return the ids of daemon and reporter."""
    command = [*program, "stdout", "--log-level", "error", "--", *wrapper, *REPORTER]
    shell.type(shlex.join(command) + "\n")
    command_id = int(shell.wait_for(r"command (\d+)\r\n").group(1))
    daemon_id = command_id
    while parent(daemon_id) != shell.process.pid:
        daemon_id = parent(daemon_id)
    return daemon_id, command_id


def parent(process_id):
    return int(re.search(r"PPid:\t(\d+)", read(process_id, "status")).group(1))


def read(process_id, name):
    with open(f"/proc/{process_id}/{name}") as file:
        return file.read()


def state(process_id):
    return re.search(r"State:\t(.)", read(process_id, "status")).group(1)


def wait_until_all_are(expected, process_ids):
    wait_until(lambda: all(state(process_id) in expected for process_id in process_ids))


def end(shell, daemon_id):
    """End the command, and check its exit code."""
    os.kill(daemon_id, signal.SIGTERM)
    shell.wait_for("SIGTERM\r\n")
    shell.type("echo code $?\n")
    shell.wait_for("code 7\r\n")


def check_that_no_other_signal_comes(shell, daemon_id):
    wait_until(lambda: re.search(r"ShdPnd:\t0+\n", read(daemon_id, "status")))
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        os.kill(daemon_id, number)
        match = shell.wait_for(f"{number.name}\r\n")
        assert match.string[: match.start()] == ""


# Signals


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("wrapper", [[], IN_OWN_GROUP])
def test_a_signal_from_another_process_reaches_a_command_on_the_same_terminal(
    shell, number, wrapper
):
    daemon_id, _ = start_in(shell, *wrapper)
    os.kill(daemon_id, number)
    shell.wait_for(f"{number.name}\r\n")
    check_that_no_other_signal_comes(shell, daemon_id)
    end(shell, daemon_id)


@pytest.mark.slow
@pytest.mark.parametrize("key, name", [("\x03", "SIGINT"), ("\x1c", "SIGQUIT")])
@pytest.mark.parametrize("wrapper", [[], IN_OWN_GROUP, ["setsid"]])
def test_a_key_reaches_the_command_once(shell, key, name, wrapper):
    daemon_id, _ = start_in(shell, *wrapper)
    shell.type(key)
    shell.wait_for(f"{name}\r\n")
    check_that_no_other_signal_comes(shell, daemon_id)
    end(shell, daemon_id)


@pytest.mark.parametrize("wrapper", [[], IN_OWN_GROUP])
def test_ctrl_z_suspends_both_and_fg_continues_them(shell, wrapper):
    both = start_in(shell, *wrapper)
    for _ in range(2):
        shell.type("\x1a")
        shell.wait_for("Stopped")
        wait_until_all_are("T", both)
        shell.type("echo shell; fg\n")
        shell.wait_for("shell\r\n")
        shell.wait_for("SIGCONT\r\n")
        wait_until_all_are("SR", both)
        check_that_no_other_signal_comes(shell, both[0])
    end(shell, both[0])


@pytest.mark.parametrize("wrapper", [[], IN_OWN_GROUP, ["timeout", str(WAIT)]])
def test_sigtstp_suspends_both_and_sigcont_continues_them(shell, wrapper):
    both = start_in(shell, *wrapper)
    for said_by_shell in ("Stopped", ""):  # once: then it has taken the terminal back
        os.kill(both[0], signal.SIGTSTP)
        shell.wait_for(said_by_shell)
        wait_until_all_are("T", both)
        os.kill(both[0], signal.SIGCONT)
        shell.wait_for("SIGCONT\r\n")
        wait_until_all_are("SR", both)
    shell.type("fg\n")
    shell.wait_for("bai-daemon stdout")  # fg has found the job, and says what it is
    end(shell, both[0])


def test_the_daemon_runs_on_if_the_command_does_not_want_to_be_suspended(shell):
    both = start_in(shell, "env", "--ignore-signal=TSTP")
    shell.type("\x1a\x03")
    shell.wait_for("SIGINT\r\n")  # so Ctrl-Z has come too
    check_that_no_other_signal_comes(shell, both[0])
    assert not {state(process_id) for process_id in both} & {"T"}
    end(shell, both[0])


# Gets the signals of its arguments once its command has ended.
AFTER_COMMAND = """
import os, sys
from benchmarkai.daemon.signals import Signals
with Signals(True) as signals:
    child = signals.start(["true"], os.environ)
    while child.poll() is None:
        pass
    for number in sys.argv[1:]:
        os.kill(os.getpid(), int(number))
    signals.take()
print("goes", "on")
"""


@pytest.mark.parametrize("numbers", [[signal.SIGTSTP], [signal.SIGTSTP, signal.SIGWINCH]])
def test_after_its_command_sigtstp_suspends_the_daemon_alone(shell, numbers):
    words = [sys.executable, "-c", AFTER_COMMAND, *[str(int(number)) for number in numbers]]
    shell.type(shlex.join(words) + "\n")
    match = shell.wait_for("Stopped|goes on")
    assert match.group() == "Stopped"
    shell.type("fg\n")
    shell.wait_for("goes on\r\n")


def test_sigtstp_is_without_effect_where_no_shell_could_continue_the_daemon():
    process = start([BAI_DAEMON, "stdout", "--", *REPORTER], **PIPES)
    bounded(process.stdout.readline)
    process.send_signal(signal.SIGTSTP)
    process.send_signal(signal.SIGTERM)
    result = finish(process)
    assert (result.code, result.out) == (7, "SIGTERM\n")


def test_job_control_works_on_a_system_without_signalfd(shell):
    code = (
        "from benchmarkai.daemon import cli, signals\n"
        "signals._open_signalfd = lambda numbers: None\n"
        "cli.main()"
    )
    both = start_in(shell, program=[sys.executable, "-c", code])
    shell.type("\x1a")
    shell.wait_for("Stopped")
    wait_until_all_are("T", both)
    shell.type("fg\n")
    shell.wait_for("SIGCONT\r\n")
    wait_until_all_are("SR", both)
    shell.type("\x03")
    shell.wait_for("SIGINT\r\n")
    check_that_no_other_signal_comes(shell, both[0])
    end(shell, both[0])


@pytest.mark.parametrize("wrapper", [[], IN_OWN_GROUP])
def test_a_resized_terminal_reaches_the_command(shell, wrapper):
    daemon_id, _ = start_in(shell, *wrapper)
    shell.resize(30)
    shell.wait_for("SIGWINCH\r\n")
    check_that_no_other_signal_comes(shell, daemon_id)
    end(shell, daemon_id)


def test_sigwinch_from_another_process_reaches_the_command(shell):
    daemon_id, _ = start_in(shell)
    os.kill(daemon_id, signal.SIGWINCH)
    shell.wait_for("SIGWINCH\r\n")
    check_that_no_other_signal_comes(shell, daemon_id)
    end(shell, daemon_id)


def masks(text):
    return re.findall(r"^Sig(?:Blk|Ign):\t(\w+)$", text, re.M)


def test_the_command_blocks_and_ignores_the_signals_that_the_caller_does():
    def prepare():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGRTMIN])
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)

    command = ["cat", "/proc/self/status"]
    expected = run(command, preexec_fn=prepare)
    result = run([BAI_DAEMON, "stdout", "--", *command], preexec_fn=prepare)
    assert result.code == 0
    assert masks(result.out) == masks(expected.out) != []


def test_a_signal_that_comes_before_the_command_reaches_it(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from benchmarkai.daemon import cli, signals\n"
        "start = signals.Signals.start\n"
        "def start_late(*arguments):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return start(*arguments)\n"
        "signals.Signals.start = start_late\n"
        "cli.main()"
    )
    result = run([sys.executable, "-c", code, "stdout", "--", "sleep", str(WAIT)])
    assert result.code == 128 + signal.SIGTERM


# Descriptors


def test_the_command_has_the_descriptors_of_the_caller():
    script = "bai-daemon stdout -- cat <(echo hi)"
    result = run(["bash", "-c", script], env={"PATH": PATH})
    assert (result.code, result.out) == (0, "hi\n")


def test_make_shares_its_job_server_with_the_command(tmp_path):
    (tmp_path / "Makefile").write_text("all:\n\t+@bai-daemon stdout -- $(MAKE) -f inner.mk\n")
    (tmp_path / "inner.mk").write_text("all: a b\na b:\n\t@echo $@\n")
    result = run(["make", "-j2", "-C", str(tmp_path)], env={"PATH": PATH})
    assert result.code == 0, result.err
    assert "jobserver unavailable" not in result.err


def test_the_command_has_none_of_the_descriptors_of_the_daemon():
    reader, writer = os.pipe()
    code = "from tests.daemon.harness import open_descriptors as o; print(sorted(o()))"
    command = [sys.executable, "-c", code]
    options = {"pass_fds": [reader, writer]}
    expected = run(command, **options)
    result = run([BAI_DAEMON, "stdout", "--", *command], **options)
    assert result.code == 0
    assert result.out == expected.out
    assert str(writer) in result.out
    os.close(reader)
    os.close(writer)


# Process 1 of a container


CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def can_unshare():
    with contextlib.suppress(OSError):
        return subprocess.call([*CONTAINER, "true"], stderr=subprocess.DEVNULL) == 0
    return False


as_process_1 = pytest.mark.skipif(not can_unshare(), reason="needs unshare, as root")

# Makes orphans, and waits until somebody has reaped them.
ORPHANS = f"""
import os, sys, time
orphans = []
for _ in range(3):
    reader, writer = os.pipe()
    if not os.fork():
        orphan = os.fork()
        if not orphan:
            while os.getppid() != 1:
                time.sleep(0.001)
            os._exit(5)
        os.write(writer, b"%d" % orphan)
        os._exit(0)
    os.wait()
    orphans.append(int(os.read(reader, 20)))
deadline = time.monotonic() + {WAIT / 2}
while any(os.path.exists("/proc/%d" % orphan) for orphan in orphans):
    assert time.monotonic() < deadline, "there are zombies"
    time.sleep(0.01)
sys.exit(42)
"""


@as_process_1
def test_as_process_1_the_daemon_reaps_orphans_while_its_command_runs():
    command = [BAI_DAEMON, "stdout", "--", sys.executable, "-c", ORPHANS]
    assert run([*CONTAINER, *command]).code == 42


@as_process_1
def test_as_process_1_the_daemon_reaps_orphans_without_a_command(tmp_path):
    script = (
        '(until [ -p pipe ]; do sleep 0.01; done; "$0" -c "$1"; echo $? >code; kill -TERM 1) & '
        'exec "$2" stdout --fifo pipe'
    )
    command = ["sh", "-c", script, sys.executable, ORPHANS, BAI_DAEMON]
    result = run([*CONTAINER, *command], cwd=tmp_path)
    assert (result.code, (tmp_path / "code").read_text()) == (0, "42\n"), result.err


# Prints the exit codes of processes that the daemon or a library has started.
EXIT_CODES = """
import os, subprocess, threading
from benchmarkai.daemon.signals import Signals
assert os.getpid() == 1
own, library = [], []
def run():
    for _ in range(100):
        library.append(subprocess.call(["sh", "-c", "exit 3"]))
with Signals(True) as signals:
    for _ in range(100):
        child = signals.start(["sh", "-c", "exit 4"], os.environ)
        while child.poll() is None:
            signals.take()
        own.append(child.poll())
    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        signals.take()
print(own.count(4), library.count(3))
"""


@as_process_1
def test_as_process_1_the_exit_codes_of_other_processes_stay_right():
    result = run([*CONTAINER, sys.executable, "-c", EXIT_CODES])
    assert result == (0, "100 100\n", "")
