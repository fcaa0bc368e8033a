"""The command that the daemon runs: its environment, its signals, and its exit code."""

import os
import signal
import subprocess
from typing import Optional, Sequence

from benchmarkai import settings
from benchmarkai.daemon.log import log

# A terminal sends these to all processes in its foreground, the command among them.
_TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGQUIT)


class CommandError(Exception):
    """The command cannot be started.

    exit_code: the exit code that a shell gives for the reason.
    """

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class Child:
    """A running command, which publishes its metrics to the pipe.

    command: the program and its arguments.
    fifo: the path of the pipe.

    Raises CommandError.
    """

    def __init__(self, command: Sequence[str], fifo: str) -> None:
        # The daemon's own settings, which may be secrets, do not concern the command.
        env = {
            name: value for name, value in os.environ.items() if not name.startswith("BAI_DAEMON_")
        }
        env[settings.MODE] = "fifo"
        env[settings.FIFO_PATH] = os.path.abspath(fifo)
        try:
            self._process = subprocess.Popen(command, env=env)
        except OSError as error:
            exit_code = 127 if isinstance(error, FileNotFoundError) else 126
            raise CommandError(error.strerror or str(error), exit_code) from error

    def send(self, number: int) -> None:
        """Pass a signal on to the command, unless it has come to both from the terminal."""
        if number in _TERMINAL_SIGNALS and _is_in_foreground():
            return
        log.info("passing %s on to the command", signal.Signals(number).name)
        self._process.send_signal(number)

    def poll(self) -> Optional[int]:
        """Return the exit code of the command, a negative number for a signal, or None."""
        return self._process.poll()


def _is_in_foreground() -> bool:
    """Return whether there is a terminal that sends its signals to this process."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
