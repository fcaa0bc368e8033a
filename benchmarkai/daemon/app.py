"""The composition of the daemon: opens all parts, runs the service, closes them again."""

import contextlib
import fcntl
import gc
import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import Callable, Mapping, Optional, Sequence

from benchmarkai.child import CommandError
from benchmarkai.daemon.backends.base import Backend
from benchmarkai.daemon.clock import Clock
from benchmarkai.daemon.database import SpoolError
from benchmarkai.daemon.delivery import Delivery, DeliveryThread
from benchmarkai.daemon.intake import Intake
from benchmarkai.daemon.lock import Locked, Untrusted, lock_file
from benchmarkai.daemon.log import count, log
from benchmarkai.daemon.outcome import Outcome
from benchmarkai.daemon.pipe import Pipe, PipeError
from benchmarkai.daemon.service import Service
from benchmarkai.daemon.siblings import absorb_siblings, open_spool
from benchmarkai.daemon.signals import Signals
from benchmarkai.daemon.spool import Spool, SpoolFull


class StartError(Exception):
    """The pipe or the spool cannot be used."""


@dataclass(frozen=True)
class Settings:
    """What the options and variables of bai-daemon say. Sizes are in bytes, times in seconds.

    fifo: the path of the pipe; None creates one in a temporary folder.
    spool: the path of the spool; None puts it next to the pipe.
    no_name_labels: whether names that end in labels are left as they are.
    time_step: how far apart the times of a series are, in nanoseconds; 0 for any.
    command: the program to run, and its arguments; empty without one.
    target: the server, for the log and the spool.
    """

    fifo: Optional[str]
    fifo_mode: int
    labels: Mapping[str, str]
    no_name_labels: bool
    time_step: int
    spool: Optional[str]
    spool_limit: int
    refused_limit: int
    retry_refused: bool
    batch_size: int
    flush_interval: float
    shutdown_timeout: float
    status_interval: float
    command: Sequence[str]
    target: str


def run(
    settings: Settings, backend: Backend, report: Callable[[Outcome], None] = lambda outcome: None
) -> Outcome:
    """Run a daemon until its command ends, or without one until it is told to stop.

    report: called with the outcome while signals still do not end the process.

    Raises StartError.
    """
    gc.freeze()  # the modules, so that garbage collection does not look at them again and again
    with Signals(with_command=bool(settings.command)) as signals:
        if settings.fifo is not None:
            outcome = _run(settings, backend, signals, settings.fifo)
        else:
            outcome = _run_in_temporary_folder(settings, backend, signals)
        report(outcome)
        return outcome


def _run_in_temporary_folder(settings: Settings, backend: Backend, signals: Signals) -> Outcome:
    """Run with the pipe in a new folder, which is removed unless the spool in it is needed."""
    try:
        folder = tempfile.mkdtemp(prefix="bai-daemon-")
    except OSError as error:
        raise StartError(
            f"cannot create a temporary folder for the pipe: {error.strerror}: set TMPDIR to a "
            "folder in which you can write, or choose a path (--fifo)"
        ) from error
    try:
        outcome = _run(settings, backend, signals, os.path.join(folder, "pipe"))
    except StartError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if outcome.is_complete or settings.spool is not None:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _run(settings: Settings, backend: Backend, signals: Signals, fifo: str) -> Outcome:
    clock = Clock()
    path = os.path.abspath(settings.spool or fifo + ".spool")
    with contextlib.ExitStack() as stack:
        try:
            pipe = _open_pipe(fifo, settings.fifo_mode, stack)
            spool = stack.enter_context(
                open_spool(
                    path,
                    settings.spool_limit,
                    settings.refused_limit,
                    clock,
                    settings.time_step,
                    may_share=bool(settings.command),
                )
            )
            intake = _prepare(settings, spool, path, clock)
        except (PipeError, SpoolError, SpoolFull) as error:
            raise StartError(str(error)) from error
        delivery = Delivery(
            spool,
            backend,
            settings.batch_size,
            settings.flush_interval,
            clock,
            name_labels=not settings.no_name_labels,
        )
        thread = stack.enter_context(DeliveryThread(delivery))
        service = Service(
            signals,
            pipe,
            spool,
            intake,
            thread,
            clock,
            settings.shutdown_timeout,
            settings.status_interval,
            before_finish=lambda: absorb_siblings(spool, path, clock),
        )
        log.info(
            "reading %s, spool %s (%d waiting), delivering to %s",
            fifo,
            spool.path,
            spool.waiting(),
            settings.target,
        )
        try:
            command_code = service.run(settings.command)
        except CommandError as error:
            log.error("cannot run %r: %s", settings.command[0], error)
            command_code = error.exit_code
        outcome = service.outcome(command_code)
        if spool.path != path and not spool.is_needed():
            spool.delete()
        return outcome


def _open_pipe(path: str, mode: int, stack: contextlib.ExitStack) -> Pipe:
    """Open the pipe, and keep other daemons away from it.

    Whoever may write to the pipe could lock the pipe itself, so a file beside it is locked.

    Raises PipeError.
    """
    try:
        stack.enter_context(lock_file(path + ".lock"))
    except Locked:
        raise PipeError(
            f"another daemon reads the pipe {path!r}: stop it, or choose another path (--fifo)"
        ) from None
    except Untrusted:
        raise PipeError(
            f"{path + '.lock'!r} is not a file of this user: remove it, or choose another path "
            "(--fifo)"
        ) from None
    except OSError:
        # The folder is not ours to write in, or is not there, which the pipe says better.
        pipe = stack.enter_context(Pipe(path, mode))
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(pipe.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            return pipe
        raise PipeError(
            f"another process has locked the pipe {path!r}: stop it, or choose another path "
            "(--fifo)"
        ) from None
    return stack.enter_context(Pipe(path, mode))


def _prepare(settings: Settings, spool: Spool, path: str, clock: Clock) -> Intake:
    """Bring the spool in order, after whatever has become of earlier daemons.

    Raises SpoolFull.
    """
    if spool.corrupt_path is not None:
        log.error(
            "the spool was corrupt: saved %s of it; the old file is now %r",
            count(spool.waiting(), "metric"),
            spool.corrupt_path,
        )
    intake = Intake(spool, clock)
    # Before anything is rejected, which would hide the lines that an earlier process was to keep.
    taken = spool.take_back_rejected(also_new=settings.retry_refused)
    intake.recover()
    if taken or settings.retry_refused:
        log.info("took back %s from %s", count(taken, "rejected metric"), spool.rejects.path)
    other = spool.begin(settings.labels, settings.target)
    if other is not None:
        log.warning(
            "the spool holds %s for %s: delivering to %s",
            count(spool.waiting(), "metric"),
            other,
            settings.target,
        )
    absorb_siblings(spool, path, clock)
    return intake
