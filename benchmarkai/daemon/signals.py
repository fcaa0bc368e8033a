"""The signals of the daemon: those that it handles, and those that it passes on to a command."""

import contextlib
import ctypes
import logging
import os
import select
import signal
import struct
from types import FrameType
from typing import Callable, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from benchmarkai.child import JOB_SIGNALS, PASSED_SIGNALS, Child
from benchmarkai.daemon.log import log

# Without a command, SIGUSR1 does not stop the daemon: it asks for its status.
STOP_SIGNALS = frozenset(PASSED_SIGNALS) - {signal.SIGUSR1}

_SIGSET_SIZE = 128  # bytes of a sigset_t, in glibc and musl
_INFO = struct.Struct("I4xi116x")  # signalfd_siginfo: ssi_signo, ssi_code
_SI_KERNEL = 0x80  # ssi_code: sent by the kernel, as for a terminal
_WNOTHREAD = 0x20000000  # waitid(2), Linux: not the children of other threads


class Signals:
    """Collects signals while its context is open, so that they do not end the process.

    with_command: whether a command will be started, which gets them too.

    fileno() becomes readable when a signal arrives, SIGCHLD included. Signals that are ignored,
    as nohup ignores SIGHUP, stay ignored, also in the command. At the end the previous handlers
    come back, except where somebody else has changed them meanwhile.

    On Linux the signals are blocked, and signalfd(2) says whether the terminal has sent them. On
    other systems, and for a signal that reaches another thread, which may not block it, handlers
    collect them. SIGCHLD is never blocked: a child that inherits that may never see the end of
    its own children. The others that a library starts, such as credential_process of AWS, do
    inherit, and so Ctrl-C does not end them while the daemon delivers what is left.
    """

    def __init__(self, with_command: bool) -> None:
        self._numbers = PASSED_SIGNALS + JOB_SIGNALS if with_command else PASSED_SIGNALS
        self._received: List[int] = []
        self._child: Optional[Child] = None
        self._is_told_to_suspend = False

    def __enter__(self) -> "Signals":
        with contextlib.ExitStack() as stack:
            self._reader, writer = os.pipe()
            for descriptor in (self._reader, writer):
                stack.callback(os.close, descriptor)
                os.set_blocking(descriptor, False)
            old_descriptor = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
            stack.callback(signal.set_wakeup_fd, old_descriptor)
            # Without a handler, the end of a child would not wake anybody.
            self._handle(stack, signal.SIGCHLD, lambda number, frame: None)
            self._handled = [
                number for number in self._numbers if signal.getsignal(number) is not signal.SIG_IGN
            ]
            for number in self._handled:
                self._handle(stack, number, lambda number, frame: self._received.append(number))
            self._old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            self._descriptor = self._reader
            self._signalfd = _open_signalfd(self._handled)
            if self._signalfd is not None:
                stack.callback(os.close, self._signalfd)
                self._descriptor = self._block(stack, self._signalfd)
            self._restore = stack.pop_all()
        return self

    @staticmethod
    def _handle(
        stack: contextlib.ExitStack,
        number: int,
        handler: Callable[[int, Optional[FrameType]], None],
    ) -> None:
        old = signal.signal(number, handler)

        def restore() -> None:
            if signal.getsignal(number) is handler:
                signal.signal(number, old)

        stack.callback(restore)

    def _block(self, stack: contextlib.ExitStack, signalfd: int) -> int:
        """Block the signals. Return a descriptor for both those and the ones with handlers."""
        both = stack.enter_context(select.epoll())
        for descriptor in (self._reader, signalfd):
            both.register(descriptor, select.EPOLLIN)
        signal.pthread_sigmask(signal.SIG_BLOCK, self._handled)
        stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, self._old_mask)
        # What has not been taken must not end the process once it is not blocked any more.
        stack.callback(self._read)
        return both.fileno()

    def __exit__(self, *error: object) -> None:
        self._restore.close()

    def fileno(self) -> int:
        return self._descriptor

    def start(self, command: Sequence[str], env: Mapping[str, str]) -> Child:
        """Start the command that gets the signals, also those that have arrived before it.

        Call it before there are other threads.

        Raises child.CommandError.
        """
        early = self._read()
        self._child = Child(command, env, self._restore_in_command)
        for number, _ in early:
            self._pass_on(number, early=True)
        return self._child

    def _restore_in_command(self) -> None:
        # Otherwise a handler would swallow what arrives before the program is executed.
        for number in self._handled:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)

    def take(self) -> List[int]:
        """Return the numbers of the signals that have arrived since the last call.

        As long as the command runs, they are passed on to it. SIGTSTP suspends this process, but
        not before the command, which may handle or ignore it.
        """
        if self._child is not None and self._child.poll() is not None:
            self._child = None
            self._is_told_to_suspend = False
        numbers = []
        for number, from_terminal in self._read():
            numbers.append(number)
            self._pass_on(number, from_terminal=from_terminal)
        if os.getpid() == 1:
            _reap_orphans(self._child)
        if self._is_told_to_suspend and (self._child is None or _is_stopped(self._child)):
            self._is_told_to_suspend = False
            _suspend()
        return numbers

    def _read(self) -> List[Tuple[int, Optional[bool]]]:
        """Return the signals that have arrived, and whether the terminal has sent them."""
        for _ in _blocks(self._reader, 4096):
            pass
        handled, self._received = self._received, []
        received: List[Tuple[int, Optional[bool]]] = [(number, None) for number in handled]
        if self._signalfd is not None:
            for block in _blocks(self._signalfd, _INFO.size):
                number, code = _INFO.unpack(block)
                received.append((number, code == _SI_KERNEL))
        return received

    def _pass_on(
        self, number: int, early: bool = False, from_terminal: Optional[bool] = None
    ) -> None:
        if number in (signal.SIGTSTP, signal.SIGCONT):
            self._is_told_to_suspend = number == signal.SIGTSTP
        if self._child is None:
            return
        if number == signal.SIGCONT and not _is_stopped(self._child):
            return  # shells continue all processes of a job
        if self._child.send(number, early, from_terminal):
            # A terminal may change its size many times a second.
            level = logging.INFO if number in PASSED_SIGNALS else logging.DEBUG
            log.log(level, "passed %s on to the command", signal.Signals(number).name)


def _open_signalfd(numbers: Iterable[int]) -> Optional[int]:
    """Return a descriptor for these signals, or None if the system has none of that kind."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "signalfd"):
        return None
    mask = ctypes.create_string_buffer(_SIGSET_SIZE)
    libc.sigemptyset(mask)
    for number in numbers:
        libc.sigaddset(mask, number)
    descriptor = libc.signalfd(-1, mask, os.O_NONBLOCK | os.O_CLOEXEC)
    return descriptor if descriptor >= 0 else None


def _blocks(descriptor: int, size: int) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        while True:
            yield os.read(descriptor, size)


def _is_stopped(child: Child) -> bool:
    """Return whether the command is stopped, as by SIGTSTP; True if the system cannot tell."""
    if not hasattr(os, "waitid"):
        return True
    with contextlib.suppress(ChildProcessError):  # it has ended
        options = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
        state = os.waitid(os.P_PID, child.pid, options)
        return state is not None and state.si_code == os.CLD_STOPPED
    return False


def _suspend() -> None:
    """Do what SIGTSTP does by default, which may be nothing: see setpgid(2), orphaned groups."""
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTSTP])
    signal.raise_signal(signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    signal.signal(signal.SIGTSTP, handler)


def _reap_orphans(child: Optional[Child]) -> None:
    """Remove the ended processes that process 1 of a container has inherited.

    The command, and what a library has started in another thread, have somebody who waits for
    them.
    """
    with contextlib.suppress(ChildProcessError):
        while True:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT | _WNOTHREAD
            ended = os.waitid(os.P_ALL, 0, options)
            if ended is None or (child is not None and ended.si_pid == child.pid):
                return
            os.waitpid(ended.si_pid, 0)
