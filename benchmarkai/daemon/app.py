"""The composition of the daemon: opens all parts, runs the service, closes them again."""

import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import Callable, Mapping, Optional, Sequence

from benchmarkai.child import CommandError
from benchmarkai.daemon.backends.base import Backend
from benchmarkai.daemon.database import SpoolError
from benchmarkai.daemon.delivery import Delivery
from benchmarkai.daemon.log import count, log
from benchmarkai.daemon.outcome import Outcome
from benchmarkai.daemon.pipe import Pipe, PipeError
from benchmarkai.daemon.service import Service
from benchmarkai.daemon.signals import Signals
from benchmarkai.daemon.spool import Spool


class StartError(Exception):
    """The pipe or the spool cannot be used."""


@dataclass(frozen=True)
class Settings:
    """What the options and variables of bai-daemon say. Sizes are in bytes, times in seconds.

    fifo: the path of the pipe; None creates one in a temporary folder.
    spool: the path of the spool; None puts it next to the pipe.
    command: the program to run, and its arguments; empty without one.
    target: the server, for the log.
    """

    fifo: Optional[str]
    fifo_mode: int
    labels: Mapping[str, str]
    spool: Optional[str]
    spool_limit: int
    batch_size: int
    flush_interval: float
    shutdown_timeout: float
    command: Sequence[str]
    target: str


def run(
    settings: Settings, backend: Backend, report: Callable[[Outcome], None] = lambda outcome: None
) -> Outcome:
    """Run a daemon until its command ends, or without one until it is told to stop.

    report: called with the outcome while signals still do not end the process.

    Raises StartError.
    """
    with Signals(with_command=bool(settings.command)) as signals:
        if settings.fifo is not None:
            outcome = _run(settings, backend, signals, settings.fifo)
        else:
            outcome = _run_in_temporary_folder(settings, backend, signals)
        report(outcome)
        return outcome


def _run_in_temporary_folder(settings: Settings, backend: Backend, signals: Signals) -> Outcome:
    """Run with the pipe in a new folder, which is removed if the outcome is complete."""
    folder = tempfile.mkdtemp(prefix="bai-daemon-")
    try:
        outcome = _run(settings, backend, signals, os.path.join(folder, "pipe"))
    except StartError:
        shutil.rmtree(folder)
        raise
    if outcome.is_complete:
        shutil.rmtree(folder)
    return outcome


def _run(settings: Settings, backend: Backend, signals: Signals, fifo: str) -> Outcome:
    with contextlib.ExitStack() as stack:
        path = os.path.abspath(settings.spool or fifo + ".spool")
        try:
            pipe = stack.enter_context(Pipe(fifo, settings.fifo_mode))
            spool = stack.enter_context(Spool(path, settings.labels, settings.spool_limit))
        except (PipeError, SpoolError) as error:
            raise StartError(str(error)) from error
        delivery = stack.enter_context(
            Delivery(spool, backend, settings.batch_size, settings.flush_interval)
        )
        service = Service(signals, pipe, spool, delivery, settings.shutdown_timeout)
        if spool.corrupt_path is not None:
            log.error(
                "the spool was corrupt: saved %s of it; the old file is now %r",
                count(spool.waiting(), "metric"),
                spool.corrupt_path,
            )
        log.info(
            "reading %s, spool %s (%d waiting), delivering to %s",
            fifo,
            path,
            spool.waiting(),
            settings.target,
        )
        try:
            command_code = service.run(settings.command)
        except CommandError as error:
            log.error("cannot run %r: %s", settings.command[0], error)
            command_code = error.exit_code
        return Outcome(
            received=service.intake.received,
            delivered=delivery.delivered,
            rejected=service.intake.rejected + delivery.rejected,
            waiting=spool.waiting(),
            spool=path,
            stored=service.stored,
            failure=delivery.failure,
            last_error=delivery.last_error,
            command_code=command_code,
        )
