"""A command that bai-emit or bai-daemon runs: its start, its signals, and its exit code."""

import errno
import os
import signal
import subprocess

from benchmarkai._compat import PY2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Mapping, Optional, Sequence  # noqa: F401

# The signals that are passed on to a command.
PASSED_SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

# Those of job control and of terminals, which concern the command too.
JOB_SIGNALS = (signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)

# A terminal sends these to all processes in its foreground.
_TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH)


class CommandError(Exception):
    """The command cannot be started.

    exit_code: the exit code that a shell gives for the reason.
    """

    def __init__(self, reason, exit_code):
        # type: (str, int) -> None
        super(CommandError, self).__init__(reason)
        self.exit_code = exit_code


class Child(object):
    """A running command. It has the standard streams and the inherited descriptors of this process.

    SIGCHLD must not be ignored, or the system would not keep the exit code.

    command: the program and its arguments.
    env: its environment; None leaves it that of this process.
    prepare: called in the new process before it becomes the command.

    Raises CommandError.
    """

    def __init__(self, command, env=None, prepare=None):
        # type: (Sequence[str], Optional[Mapping[str, str]], Optional[Callable[[], None]]) -> None
        try:
            self._process = subprocess.Popen(
                command,
                env=env,
                close_fds=False,  # Python's own are not inheritable
                # Python ignores SIGPIPE and SIGXFSZ. Only Python 3 restores them by itself.
                preexec_fn=_restore_signals if PY2 else prepare,
            )
        except (EnvironmentError, TypeError, ValueError) as error:  # NUL in an argument
            raise _explain(error, command[0], os.environ if env is None else env)

    @property
    def pid(self):
        # type: () -> int
        return self._process.pid

    def send(self, number, early=False, from_terminal=None):
        # type: (int, bool, Optional[bool]) -> bool
        """Pass a signal on to the command, unless it has come to both from the terminal.

        early: whether it may have come before the command was there.
        from_terminal: whether the terminal has sent it, and not a process; None: it is unknown.

        Return whether it was passed on.
        """
        if self._process.returncode is not None:
            return False
        try:
            group = os.getpgid(self.pid)
            if number not in _TERMINAL_SIGNALS:
                from_terminal = False
            elif from_terminal is None:
                from_terminal = _is_in_foreground()
            if from_terminal and not early and group == os.getpgrp():
                return False
            # Terminals, and shells that suspend and continue a job, send to all of a group.
            if group == self.pid and (from_terminal or number in JOB_SIGNALS):
                os.killpg(group, number)
            else:
                self._process.send_signal(number)
        except EnvironmentError as error:
            # It has just ended, or it runs as another user, as sudo does.
            if error.errno not in (errno.ESRCH, errno.EPERM):
                raise
            return False
        return True

    def poll(self):
        # type: () -> Optional[int]
        """Return the exit code of the command, or None as long as it runs.

        It is 128 + N if signal N has ended the command, as in shells.
        """
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code


def _explain(error, program, env):
    # type: (Exception, str, Mapping[str, str]) -> CommandError
    reason = getattr(error, "strerror", None) or str(error)
    code = getattr(error, "errno", None)
    if code == errno.ENOENT:
        folders = [""] if "/" in program else env.get("PATH", "").split(os.pathsep)
        if any(os.path.isfile(os.path.join(folder, program)) for folder in folders):
            return CommandError("its interpreter or loader is not found", 127)
        return CommandError("command not found", 127)
    if code == errno.EACCES and os.path.isfile(program) and not os.stat(program).st_mode & 0o111:
        reason += ": make it executable with chmod +x"
    return CommandError(reason, 126)


def _restore_signals():
    # type: () -> None
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def _is_in_foreground():
    # type: () -> bool
    """Return whether there is a terminal that sends its signals to this process."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except EnvironmentError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except EnvironmentError:
        return False
    finally:
        os.close(terminal)
