"""The world around a daemon, in virtual time: clocks, pipes, a disk, a server, and sudden death.

Real are the code of the daemon, SQLite and the files. Each call that leaves the daemon is a step,
before and after which it may be killed; then its files are kept as they were at that moment.
"""

import contextlib
import errno
import heapq
import itertools
import os
import shutil
import sqlite3
from unittest import mock

from benchmarkai.daemon import files, rejects
from benchmarkai.daemon.backends.base import Answer, Backend, Rejected, Unavailable
from benchmarkai.daemon.clock import Clock

CAPACITY = 1 << 16  # bytes of a pipe
START = 1_700_000_000 * 10**9  # nanoseconds


class Killed(BaseException):
    """The process is dead. Whatever it tries to do afterwards raises this again."""


class World(Clock):
    """Time, and what happens in it.

    folder: for the files of the daemon.
    """

    def __init__(self, folder, rng):
        self.folder = folder
        self.rng = rng
        self.now = 0.0
        self.offset = 0  # nanoseconds that the clock is wrong
        self.events = []
        self.order = itertools.count()
        self.steps_to_live = None
        self.dead = False
        self.disk_is_full = False
        self.disk_was_full = False
        self.connections = []
        self.pipes = {}  # by path, as the file system has them
        self.thread = None
        self.signals = []

    # Time

    def time(self):
        return START + self.offset + int(self.now * 1e9)

    def monotonic(self):
        return self.now

    def at(self, time, function, *arguments):
        """Call the function at that time."""
        heapq.heappush(self.events, (time, next(self.order), function, arguments))

    def run_events(self):
        """Let everything happen that is due."""
        while self.events and self.events[0][0] <= self.now:
            _, _, function, arguments = heapq.heappop(self.events)
            function(*arguments)

    def wait(self, seconds, *sources):
        self.step()
        deadline = self.now + seconds
        while True:
            self.run_events()
            if self.thread is not None:
                self.thread.run_due_steps()
            if any(source.is_ready() for source in sources):
                break
            next_time = min(
                [deadline]
                + [event[0] for event in self.events[:1]]
                + ([self.thread.due] if self.thread is not None else [])
            )
            self.now = max(self.now, next_time)
            if self.now >= deadline:
                break
        self.step()

    # Death

    def step(self):
        if self.dead:
            raise Killed()
        self.now += 1e-5
        if self.steps_to_live is not None:
            self.steps_to_live -= 1
            if self.steps_to_live <= 0:
                self.die()

    def die(self):
        self.steps_to_live = None
        if os.path.isdir(self.folder):
            shutil.copytree(self.folder, self.folder + ".dead")
        else:
            os.mkdir(self.folder + ".dead")
        self.dead = True
        raise Killed()

    def bury(self):
        """Clean up after the daemon has ended, and give the next one its files."""
        for connection in self.connections:
            sqlite3.Connection.close(connection)
        self.connections.clear()
        was_dead, self.dead, self.steps_to_live = self.dead, False, None
        if was_dead:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.rename(self.folder + ".dead", self.folder)
        self.thread = None
        self.signals.clear()

    # The disk

    def write(self, *arguments):
        """Fail if the disk is full. To be called before each write."""
        self.step()
        if self.disk_is_full and self.rng.random() < 0.8:
            self.disk_was_full = True
            raise OSError(errno.ENOSPC, "No space left on device")

    @contextlib.contextmanager
    def patched(self):
        """Make the calls of the daemon to the system steps in this world."""
        world = self

        class Connection(sqlite3.Connection):
            def __init__(self, *arguments, **options):
                world.step()
                super().__init__(*arguments, **options)
                world.connections.append(self)

            def execute(self, sql, *arguments):
                world.step()
                self._fail_if_full(sql)
                result = super().execute(sql, *arguments)
                world.step()
                return result

            def executemany(self, sql, rows):
                world.step()
                self._fail_if_full(sql)
                result = super().executemany(sql, rows)
                world.step()
                return result

            def executescript(self, sql):
                world.step()
                self._fail_if_full(sql)
                result = super().executescript(sql)
                world.step()
                return result

            def __exit__(self, *error):
                if error[0] is None or issubclass(error[0], Exception):
                    world.step()
                result = super().__exit__(*error)
                if not world.dead:
                    world.step()
                return result

            def close(self):
                world.step()
                super().close()
                with contextlib.suppress(ValueError):  # closed before
                    world.connections.remove(self)

            @staticmethod
            def _fail_if_full(sql):
                if sql.startswith(("INSERT", "UPDATE", "DELETE", "VACUUM", "BEGIN")):
                    try:
                        world.write()
                    except OSError:
                        raise sqlite3.OperationalError("database or disk is full") from None

        def stepping(function, before=self.step):
            def call(*arguments, **options):
                before()
                result = function(*arguments, **options)
                world.step()
                return result

            return call

        connect = sqlite3.connect
        with contextlib.ExitStack() as stack:
            for target, name, new in (
                (sqlite3, "connect", lambda *a, **o: connect(*a, factory=Connection, **o)),
                (os, "rename", stepping(os.rename)),
                (os, "unlink", stepping(os.unlink)),
                (files, "write_all", stepping(files.write_all, self.write)),
                (rejects, "write_all", stepping(rejects.write_all, self.write)),
            ):
                stack.enter_context(mock.patch.object(target, name, new))
            yield


class KernelPipe:
    """What the kernel keeps of a named pipe, whoever has it open."""

    def __init__(self):
        self.data = b""
        self.readers = 0
        self.is_filled = False

    def write(self, data):
        """Write like emit(). Returns whether it was possible; raises BrokenPipeError."""
        if not self.readers:
            raise BrokenPipeError()
        if self.is_filled or len(self.data) + len(data) > CAPACITY:
            return False
        self.data += data
        return True


class SimulatedPipe:
    """Takes the place of benchmarkai.daemon.pipe.Pipe."""

    def __init__(self, world, path):
        self.world = world
        self.path = path
        world.step()
        self.created = path not in world.pipes
        if self.created:
            world.pipes[path] = KernelPipe()
        self.kernel = world.pipes[path]
        self.kernel.readers += 1
        self._remaining = None
        self._is_open = True

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        self.world.step()
        if self._is_open:
            self._is_open = False
            if self.created and self.is_in_place():
                del self.world.pipes[self.path]
            self.hang_up()

    def hang_up(self):
        """Close it as the kernel does for a process that has ended."""
        self.kernel.readers -= 1
        self.kernel.is_filled = False

    def is_ready(self):
        return bool(self.kernel.data)

    def is_in_place(self):
        return self.world.pipes.get(self.path) is self.kernel

    def reopen(self):
        return SimulatedPipe(self.world, self.path)

    def move(self, file, offset):
        data = self.kernel.data[: self._remaining]
        self.world.step()
        if data.strip(b"\n") or (data and not self.kernel.is_filled):
            self.world.write()
            os.pwrite(file, data, offset)
            self.kernel.data = self.kernel.data[len(data) :]
            if self._remaining is not None:
                self._remaining -= len(data)
            self.world.step()
            return len(data)
        return 0

    def end(self):
        self.world.step()
        if not self.created and self.is_in_place():
            self._remaining = len(self.kernel.data)
            return False
        self.kernel.is_filled = True
        if not self.kernel.data.endswith(b"\n"):
            self.kernel.data += b"\n"
        return True


class SimulatedSignals:
    """Takes the place of benchmarkai.daemon.signals.Signals."""

    def __init__(self, world):
        self.world = world

    def is_ready(self):
        return bool(self.world.signals)

    def take(self):
        # Also where the daemon does not wait, time passes, and its other thread goes on.
        self.world.step()
        self.world.run_events()
        if self.world.thread is not None:
            self.world.thread.run_due_steps()
        taken = list(self.world.signals)
        self.world.signals.clear()
        return taken


class SimulatedThread:
    """Takes the place of benchmarkai.daemon.delivery.DeliveryThread."""

    def __init__(self, world, delivery, server):
        self.world = world
        self.delivery = delivery
        self.server = server
        self.due = float("inf")
        self.failure = None
        self._has_news = False

    def start(self):
        self.due = self.world.now

    def is_alive(self):
        return self.due is not None and self.world.thread is self

    def notify(self, urgent=True):
        self._has_news = self._has_news or urgent or self.due == float("inf")

    def finish(self):
        self.delivery.finish()
        self.notify()

    def stop(self):
        self.due = float("inf")

    def run_due_steps(self):
        if self.due is None:
            return
        if self._has_news:
            self.due = max(self.world.now, self.server.busy_until)
            self._has_news = False
        if self.due <= self.world.now:
            pause = self.delivery.step()
            if pause is None:
                self.world.thread = None
                self.due = None
                return
            self.due = max(self.world.now + pause, self.server.busy_until)


class Server(Backend):
    """A metrics server. Its mode says what it does with the metrics.

    arrived: (id, time, name, value) of each metric that it has stored.
    """

    MODES = (
        *("up", "down", "slow", "busy"),
        *("rejects some", "rejects all", "names bad", "loses answers"),
    )

    def __init__(self, world):
        self.world = world
        self.mode = "up"
        self.busy_until = 0.0
        self.arrived = []
        self.uncertain = set()  # ids whose answer was lost
        self.requests = 0
        self.has_accepted = False  # from the daemon that lives now

    def send(self, metrics):
        self.requests += 1
        self.world.step()
        mode = self.mode
        slow = 5.0 if mode == "slow" else 0.05
        self.busy_until = self.world.now + self.world.rng.uniform(0.001, slow)
        bad = [metric for metric in metrics if metric.name.startswith("bad")]
        if mode == "down":
            raise Unavailable("down")
        if mode == "rejects all":
            raise Rejected(f"all, after {self.has_accepted}")
        if mode == "names bad":
            good = [metric for metric in metrics if metric not in bad]
            self.store(good)
            self.has_accepted = self.has_accepted or bool(good)
            self.world.step()
            return Answer([(metric, f"bad, after {self.has_accepted}") for metric in bad])
        if mode == "busy" and not bad:
            taken = [metric for metric in metrics if self.world.rng.random() < 0.5]
            self.store(taken)
            self.has_accepted = self.has_accepted or bool(taken)
            self.world.step()
            postponed = [metric for metric in metrics if metric not in taken]
            return Answer(postponed=postponed, reason="busy")
        if mode == "loses answers" and self.world.rng.random() < 0.5:
            if not bad:
                self.store(metrics)
                self.uncertain.update(metric.id for metric in metrics)
            raise Unavailable("the answer was lost")
        if bad:
            raise Rejected(f"some, after {self.has_accepted}")
        self.store(metrics)
        self.has_accepted = True
        self.world.step()
        return None

    def store(self, metrics):
        for metric in metrics:
            self.arrived.append((metric.id, metric.time, metric.name, metric.value))
