"""Processes that die in the middle of the daemon's code, as with SIGKILL or a loss of power."""

import contextlib
import itertools
import os
import shutil
import signal
import sys
import traceback

import benchmarkai.daemon
from tests.helpers import FULL, bounded

_CODE = os.path.dirname(benchmarkai.daemon.__file__)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def run_in_child(function):
    """Run the function in a forked process, and return whether it was killed."""
    pid = os.fork()
    if not pid:
        try:
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = bounded(lambda: os.waitpid(pid, 0))
    assert status in (0, signal.SIGKILL), f"the process has ended with the status {status}"
    return status == signal.SIGKILL


def deaths(prepare, function, folder, step):
    """Let a process die in many places of the daemon's code that the function runs.

    prepare: creates what the function needs in a folder, which it is given.
    function: is called with a copy of that folder.
    folder: where the folders are.
    step: the number of lines from one death to the next; it is 1 at full size.

    Yields the folder after each death, and after the run that came to its end.
    """
    origin = folder / "origin"
    origin.mkdir()
    prepare(str(origin))
    for number in itertools.count(1, 1 if FULL else step):
        copy = str(folder / str(number))
        shutil.copytree(origin, copy)

        def run(number=number, copy=copy):
            lines = itertools.count(1)

            def trace(frame, event, argument):
                if not frame.f_code.co_filename.startswith(_CODE):
                    return None
                if event == "line" and next(lines) == number:
                    die()
                return trace

            sys.settrace(trace)
            function(copy)
            sys.settrace(None)

        died = run_in_child(run)
        yield copy
        shutil.rmtree(copy)
        if not died:
            break
    assert number > 10 * step, "the function runs hardly any code of the daemon"


@contextlib.contextmanager
def small_disk(folder, size):
    """Mount an empty file system of so many bytes in the folder, or skip the test."""
    import pytest

    from tests.helpers import run

    os.mkdir(folder)
    if run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder]).code:
        pytest.skip("cannot mount a file system")
    try:
        yield folder
    finally:
        assert run(["umount", "-l", folder]).code == 0
