"""A deterministic simulation of the daemon: from a seed to a history of faults, and its check.

world.py   the world around a daemon: time, pipes, disks, a server. All of it fails on demand.
history.py a history drawn from a seed: lives of daemons, and what happens to them.
check.py   what must hold afterwards, whatever has happened.

python -m tests.daemon.simulation SEED replays one seed, with the log of its daemons.
"""
