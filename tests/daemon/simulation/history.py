"""A history: writers, lives of daemons and their deaths, and everything that happens meanwhile."""

import contextlib
import glob
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import tempfile

from benchmarkai.daemon.database import SpoolError
from benchmarkai.daemon.delivery import Delivery
from benchmarkai.daemon.intake import Intake
from benchmarkai.daemon.service import Service
from benchmarkai.daemon.siblings import absorb_siblings
from benchmarkai.daemon.signals import STOP_SIGNALS
from benchmarkai.daemon.spool import Spool, SpoolFull
from tests.daemon.simulation.world import (
    KernelPipe,
    Killed,
    Server,
    SimulatedPipe,
    SimulatedSignals,
    SimulatedThread,
    World,
)

SHUTDOWN_TIMEOUT = 8.0  # seconds
NAMES = ("a", "b", "bad")
DAY = 24 * 3600 * 10**9


class Life:
    """What is known of one daemon after its end."""

    def __init__(self, number, path):
        self.number = number
        self.path = path
        self.killed = False
        self.outcome = None
        self.waiting = None  # metrics in the database afterwards
        self.stopped_at = None  # when it was told to stop
        self.ended_at = None
        self.requests = 0
        self.duration = 0.0
        self.disk_was_full = False


class Writer:
    """A benchmark: it writes lines, each once, and knows which ones the pipe has accepted."""

    def __init__(self, history, name, keeps_open):
        self.history = history
        self.name = name
        self.keeps_open = keeps_open
        self.pipe = None

    def emit(self, line, values, deadline):
        """Write as emit() does: whole, or not at all, waiting for a reader and for room."""
        history = self.history
        world = history.world
        try:
            if self.pipe is None or not self.keeps_open:
                self.pipe = world.pipes.get(history.path)
            if self.pipe is not None and self.pipe.write(line):
                history.acknowledge(self, values)
                return
        except BrokenPipeError:
            self.pipe = None
        if world.now < deadline:
            world.at(world.now + 0.5, self.emit, line, values, deadline)


class History:
    """Runs what it draws from a seed. Afterwards its attributes tell what has happened."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        random.seed(seed)  # the daemon draws from it too
        base = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.base = tempfile.mkdtemp(prefix="bai-simulation-", dir=base)
        folder = os.path.join(self.base, "folder")
        os.mkdir(folder)
        self.world = World(folder, self.rng)
        self.path = os.path.join(folder, "pipe")
        self.spool_path = os.path.join(folder, "spool")
        self.server = Server(self.world)
        self.writers = [
            Writer(self, f"w{number}", self.rng.random() < 0.5)
            for number in range(self.rng.randint(1, 3))
        ]
        self.next_value = 0
        self.acknowledged = {}  # by value: (name, writer, when, place in the order)
        self.garbage = 0
        self.lives = []
        self.spool_was_removed = False
        self.excused = set()  # values that somebody has destroyed together with a removed file
        self.clock_jumped_back = False
        self.jumps = [(0.0, 0)]  # (when, by how much the clock is wrong since then)
        self.shutdown_timeout = SHUTDOWN_TIMEOUT
        self.pipe_exists_before = self.rng.random() < 0.4

    def __enter__(self):
        return self

    def __exit__(self, *error):
        shutil.rmtree(self.base)

    def run(self):
        if self.pipe_exists_before:
            self.world.pipes[self.path] = KernelPipe()
        with self.world.patched():
            for number in range(self.rng.randint(1, 4)):
                self.live(number)
            self.end_well()

    # What happens

    def acknowledge(self, writer, values):
        for name, value in values:
            order = len(self.acknowledged)
            self.acknowledged[value] = (name, writer.name, self.world.now, order)

    def draw(self, number):
        """Draw what happens in a life that begins now, and how long it is."""
        rng, world = self.rng, self.world
        length = rng.uniform(0.5, rng.choice([3, 20, 200]))
        for _ in range(rng.randint(1, 12)):
            world.at(world.now + rng.uniform(0, length), self.burst, rng.choice(self.writers))
        for _ in range(rng.randint(0, 4)):
            mode = rng.choice(Server.MODES)
            world.at(world.now + rng.uniform(-0.1, length), self.set_mode, mode)
        happenings = [self.jump, self.fill_disk, self.remove_file, self.remove_pipe, self.ask]
        for happening in happenings:
            if rng.random() < 0.15:
                world.at(world.now + rng.uniform(0, length), happening)
        return length

    def burst(self, writer):
        rng = self.rng
        for _ in range(rng.choice([1, 2, 5, 20, 80])):
            if rng.random() < 0.03:
                self.world.at(self.world.now, self.write_garbage)
                continue
            names = rng.sample(NAMES, rng.randint(1, 2)) if rng.random() < 0.3 else ["a"]
            values = []
            for name in names:
                values.append((name, self.next_value))
                self.next_value += 1
            line = "{%s}\n" % ", ".join('"%s": %d' % pair for pair in values)
            writer.emit(line.encode(), values, self.world.now + 10)

    def write_garbage(self):
        pipe = self.world.pipes.get(self.path)
        junk = self.rng.choice([b"hello\n", b'{"a": NaN}\n', b"\n", b"x" * 20000, b'{"a": 1'])
        with contextlib.suppress(BrokenPipeError):
            # A fragment without an end is closed at once, so that it spoils no other line.
            if pipe is not None:
                pipe.write(junk if junk.endswith(b"\n") else junk + b"\n")

    def set_mode(self, mode):
        self.server.mode = mode

    def jump(self):
        change = self.rng.choice([-DAY, DAY, 365 * DAY, -(10**9), 10**10])
        self.world.offset += change
        self.clock_jumped_back = self.clock_jumped_back or change < 0
        self.jumps.append((self.world.now, self.world.offset))

    def fill_disk(self):
        self.world.disk_is_full = True
        self.world.at(self.world.now + self.rng.uniform(0.1, 30), self.free_disk)

    def free_disk(self):
        self.world.disk_is_full = False

    def remove_file(self):
        self.spool_was_removed = True
        name = self.rng.choice(["spool", "spool.in", ""])
        with contextlib.suppress(FileNotFoundError):
            if name:
                os.remove(os.path.join(self.world.folder, name))
            else:
                self.excused.update(read_rejected(self.spool_path))
                os.rename(self.world.folder, self.world.folder + f".{self.world.now}")

    def remove_pipe(self):
        self.world.pipes.pop(self.path, None)

    def ask(self):
        self.world.signals.append(signal.SIGUSR1)

    # The life of a daemon

    def live(self, number, at_the_end=False):
        world, server, rng = self.world, self.server, self.rng
        # As if another run used the first one at the moment.
        beside = "" if at_the_end or rng.random() < 0.8 else ".run2"
        life = Life(number, self.spool_path + beside)
        self.lives.append(life)
        length = 1.0 if at_the_end else self.draw(number)
        started = world.now
        server.has_accepted = False
        server.requests = 0
        world.disk_was_full = False
        if not at_the_end and rng.random() < 0.5:
            world.steps_to_live = int(10 ** rng.uniform(0.5, 3.3))
        stop = rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2])
        world.at(started + length, self.stop, life, stop)
        arrived = len(server.arrived)
        parts = []
        try:
            life.outcome = self.run_daemon(life, parts)
        except Killed:
            life.killed = True
        except (SpoolFull, SpoolError):
            assert world.disk_was_full  # it could not start
        if life.killed or world.disk_was_full:
            server.uncertain.update(entry[0] for entry in server.arrived[arrived:])
        life.disk_was_full = world.disk_was_full
        life.ended_at = world.now
        life.duration = world.now - started
        life.requests = server.requests
        # Whatever was planned for this daemon does not concern the next one.
        world.events = [event for event in world.events if event[2].__func__ is not History.stop]
        self.bury(parts, life)

    def stop(self, life, number):
        life.stopped_at = self.world.now
        if number in STOP_SIGNALS:
            self.world.signals.append(number)
            return
        # Without a handler the daemon dies, and its pipe with it: nobody else has that open.
        self.world.pipes.pop(self.path).data = b""
        self.world.die()

    def run_daemon(self, life, parts):
        """Do what app.py does, with the parts of this world."""
        world = self.world
        pipe = SimulatedPipe(world, self.path)
        parts.append(pipe)
        spool = Spool(life.path, 1 << 30, 1 << 30, world)
        parts.append(spool)
        with spool:
            intake = Intake(spool, world)
            also_new = self.rng.random() < 0.2
            if also_new and any(life.killed or life.disk_was_full for life in self.lives):
                # A daemon that ends between the file and the spool leaves a metric in both.
                entries = read_rejected(self.spool_path).values()
                self.server.uncertain.update(entry["id"] for entry in entries)
            spool.take_back_rejected(also_new)
            intake.recover()
            spool.begin({"life": str(life.number)}, "the server")
            absorb_siblings(spool, self.spool_path, world)
            delivery = Delivery(spool, self.server, self.rng.choice([10, 1000]), 1.0, world)
            thread = SimulatedThread(world, delivery, self.server)
            world.thread = thread
            service = Service(
                SimulatedSignals(world),
                pipe,
                spool,
                intake,
                thread,
                world,
                self.shutdown_timeout,
                60.0,
                before_finish=lambda: absorb_siblings(spool, self.spool_path, world),
            )
            parts.append(service)
            return service.outcome(service.run(()))

    def bury(self, parts, life):
        """What the kernel does when a process has ended, and a look at what it has left."""
        world = self.world
        dead = world.dead
        pipes = [part for part in parts if isinstance(part, SimulatedPipe)]
        pipes += [part._pipe for part in parts if isinstance(part, Service)]
        for pipe in set(pipes):
            if pipe._is_open:
                pipe._is_open = False
                pipe.hang_up()
            if not pipe.is_in_place():
                # Nobody finds the rest in a pipe that somebody has removed.
                self.excused.update(map(int, re.findall(rb": (\d+)", pipe.kernel.data)))
        for part in parts:
            if isinstance(part, Spool):
                with contextlib.suppress(AttributeError, OSError):
                    part._journal._file.close()
        world.bury()
        found = all(os.path.exists(life.path + suffix) for suffix in ("", ".in" if dead else ""))
        told = life.outcome is not None and not (life.outcome.stored and life.outcome.kept)
        if self.spool_was_removed and (not found or told):
            # Nobody can keep what somebody else has removed, if there is no time or no room to
            # restore it.
            self.excused.update(self.acknowledged)
        if not os.path.isdir(world.folder):
            os.mkdir(world.folder)
        if life.outcome is not None and os.path.exists(life.path):
            with contextlib.closing(sqlite3.connect(life.path)) as database:
                life.waiting = database.execute("SELECT count(*) FROM metrics").fetchone()[0]

    def end_well(self):
        """Repair everything, and let a last daemon deliver what is left."""
        world = self.world
        self.server.mode = "up"
        world.disk_is_full = False
        world.events.clear()
        # Bad metrics alone would wait for ever: they do not prove that the server is the right one.
        last = Writer(self, "last", keeps_open=False)
        world.at(
            world.now + 0.5,
            last.emit,
            b'{"a": %d}\n' % self.next_value,
            [("a", self.next_value)],
            1e9,
        )
        self.shutdown_timeout = 10000.0
        self.live(len(self.lives), at_the_end=True)


def read_rejected(spool_path):
    """Return the entries of the metrics in SPOOL.refused and SPOOL.retried, by value."""
    entries = {}
    for path in glob.glob(spool_path + "*.re*"):
        with open(path) as file:
            for line in file:
                entry = json.loads(line)
                if "value" in entry:
                    entries[entry["value"]] = entry
    return entries
