"""The spools of runs that overlap: each has one of its own, and one run delivers what is left."""

import contextlib
import glob
import itertools
import os
from typing import List

from benchmarkai.daemon.clock import Clock
from benchmarkai.daemon.database import SpoolError, SpoolInUse
from benchmarkai.daemon.intake import Intake
from benchmarkai.daemon.log import count, log
from benchmarkai.daemon.spool import Spool, SpoolFull

_SUFFIX = ".run"  # and a number


def open_spool(
    path: str, limit: int, refused_limit: int, clock: Clock, time_step: int, may_share: bool
) -> Spool:
    """Return the spool at the path.

    may_share: whether to return one beside it if another daemon uses it.

    Raises SpoolError.
    """
    try:
        return Spool(path, limit, refused_limit, clock, time_step)
    except SpoolInUse:
        if not may_share:
            raise
    for number in itertools.count(2):
        with contextlib.suppress(SpoolInUse):
            spool = Spool(f"{path}{_SUFFIX}{number}", limit, refused_limit, clock, time_step)
            log.info("another run uses the spool %r: this one has %r", path, spool.path)
            return spool
    raise AssertionError("unreachable")


def absorb_siblings(spool: Spool, path: str, clock: Clock) -> None:
    """Store in the spool what is left in others for the same path that nobody uses."""
    for sibling in _siblings(path):
        # Opening and closing its own file would take the lock from it: fcntl(2), advisory locks.
        if sibling == spool.path:
            continue
        try:
            _absorb(spool, sibling, clock)
        except SpoolInUse:
            pass
        except (SpoolError, SpoolFull, OSError) as error:
            log.error("cannot take the metrics from %r: %s", sibling, error)


def _absorb(spool: Spool, path: str, clock: Clock) -> None:
    with Spool(path, 1 << 62, 1 << 62, clock, spool.time_step) as other:
        other.take_back_rejected(also_new=False)
        if not Intake(other, clock).end():
            raise SpoolFull("its last data cannot be stored")
        if other.target != spool.target and other.waiting():
            log.warning("the metrics in %r were meant for %s", path, other.target)
        number = spool.absorb(other)
        spool.rejects.absorb(other.rejects)
        other.delete()
    log.info("took %s from the spool %r", count(number, "metric"), path)


def _siblings(path: str) -> List[str]:
    found = [path] if os.path.exists(path) else []
    for sibling in glob.glob(glob.escape(path + _SUFFIX) + "*"):
        if sibling[len(path + _SUFFIX) :].isdigit():
            found.append(sibling)
    return sorted(found)
