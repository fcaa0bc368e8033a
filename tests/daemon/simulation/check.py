"""What must hold after a history, whatever has happened in it."""

from collections import defaultdict

from tests.daemon.simulation.history import SHUTDOWN_TIMEOUT, History, read_rejected
from tests.daemon.simulation.world import START

MAX_DELAY = 100.0  # seconds that a line may have to wait while the disk is full


def check_seed(seed):
    """Run the history of a seed, and check it.

    Raises AssertionError, which says how to replay it.
    """
    try:
        with History(seed) as history:
            history.run()
            check(history)
    except Exception as error:
        raise AssertionError(
            f"seed {seed}: {type(error).__name__}: {error}\n"
            f"replay: python -m tests.daemon.simulation {seed}"
        ) from error


def check(history):
    rejected = read_rejected(history.spool_path)
    arrived = defaultdict(list)
    for identity, time, name, value in history.server.arrived:
        arrived[value].append((identity, time, name))
    check_nothing_is_lost(history, arrived, rejected)
    check_nothing_comes_twice(history, arrived)
    check_what_is_rejected(history, arrived, rejected)
    check_times(history)
    for life in history.lives[:-1]:
        check_life(life)


def check_nothing_is_lost(history, arrived, rejected):
    missing = set(history.acknowledged) - set(arrived) - set(rejected) - history.excused
    assert not missing, f"{len(missing)} are lost: {sorted(missing)[:5]}"
    assert not history.lives[-1].waiting, f"{history.lives[-1].waiting} are not delivered"
    for value, places in arrived.items():
        assert value in history.acknowledged, f"{value} was never accepted from its writer"
        assert all(name == history.acknowledged[value][0] for _, _, name in places)


def check_nothing_comes_twice(history, arrived):
    for value, places in arrived.items():
        if value in history.excused:
            continue
        identities = {identity for identity, _, _ in places}
        assert len(identities) == 1, f"{value} has come as {identities}"
        assert len({time for _, time, _ in places}) == 1, f"{value} has come with several times"
        if len(places) > 1:
            assert identities <= history.server.uncertain, f"{value} has come twice for no reason"


def check_what_is_rejected(history, arrived, rejected):
    disturbed = any(life.killed or life.disk_was_full for life in history.lives)
    for value, entry in rejected.items():
        assert entry["reason"].endswith("after True"), f"{value} was rejected by an unproven server"
        assert entry["name"] == "bad" or entry["reason"].startswith("all"), entry
        if value in arrived and not disturbed:
            assert entry["id"] in history.server.uncertain, f"{value} was rejected and delivered"


def check_times(history):
    """Times are those of the clock, and follow the order of the writers while the clock does."""
    last = {}
    facts = history.acknowledged
    for identity, time, _, value in sorted(
        history.server.arrived, key=lambda entry: facts[entry[3]][3]
    ):
        _, writer, written, _ = facts[value]
        if value in history.excused:
            continue
        assert was_time(history, time, written), f"{value} has a time that never was"
        if not history.clock_jumped_back:
            place = (time, int(identity.rpartition("-")[2]))
            assert last.get(writer, (0, 0)) <= place, f"{value} has come before its time"
            last[writer] = place


def was_time(history, time, written):
    """Return whether the clock has shown the time, or up to a minute less, soon after `written`."""
    ends = [when for when, _ in history.jumps[1:]] + [float("inf")]
    for (start, offset), end in zip(history.jumps, ends):
        first = max(start, written)
        last = min(end, written + MAX_DELAY)
        if first <= last:
            if START + offset + first * 1e9 - 1e6 <= time <= START + offset + (last + 61) * 1e9:
                return True
    return False


def check_life(life):
    name = f"life {life.number}"
    if life.killed or life.outcome is None:
        return
    outcome = life.outcome
    if outcome.kept:
        assert outcome.waiting == life.waiting, f"{name} says {outcome.waiting}, not {life.waiting}"
    assert outcome.failure is None, f"{name}: {outcome.failure}"
    if outcome.exit_code == 0:
        assert not life.waiting and outcome.stored, f"{name} has lied"
    # Two drains, the deliveries, and a request that may be under way.
    took = life.ended_at - life.stopped_at
    assert took <= 3 * SHUTDOWN_TIMEOUT + 2, f"{name} took {took} s to end"
    settled = outcome.delivered + outcome.rejected
    bound = 60 + 3 * settled + 40 * life.duration
    assert life.requests <= bound, f"{name}: {life.requests} requests in {life.duration} s"
