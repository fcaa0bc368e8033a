"""A whole process for one metric: the plain call, and what others take to start."""

import os

from benchmarks import report
from benchmarks.processes import Command, count_instructions, measure

ROUNDS = 100

PLAIN = "`bai-emit alexnet.latency=0.42`"
PYTHON = "`python -c pass`"
RATIO = "CPU time relative to " + PYTHON

_WORD = "alexnet.latency=0.42"
_CLICK = os.path.join(os.path.dirname(__file__), "plain_click.py")


def _jq(lab):
    path = lab.find("jq", "apt-get install jq")
    return path and Command([path, "-n", "-c", '{"alexnet.latency": 0.42}'])


def _dog(lab):
    path = lab.peers and os.path.join(lab.peers, "bin", "dog")
    return path and Command([lab.python, path, "--version"], {"PYTHONPATH": lab.peers})


def _otel_cli(lab):
    path = lab.find("otel-cli", "see https://github.com/equinix-labs/otel-cli")
    return path and Command([path, "version"])


# The command of each row, or None.
_COMMANDS = {
    PLAIN: lambda lab: Command([lab.bin("bai-emit"), _WORD]),
    PYTHON: lambda lab: Command([lab.python, "-c", "pass"]),
    "the same metric, with click and json": lambda lab: Command([lab.python, _CLICK, _WORD]),
    "`jq -n -c '{\"alexnet.latency\": 0.42}'`": _jq,
    "`dog --version`: DogStatsD's command": _dog,
    "`otel-cli version`: a program in Go": _otel_cli,
}

TABLE = report.Table(
    "process",
    {
        "instructions": report.count,
        "CPU time": report.seconds,
        "time": report.seconds,
        RATIO: report.ratio,
        "peak memory": report.mebibytes,
    },
    list(_COMMANDS),
)


def measure_calls(lab, scale):
    commands = {row: command for row in _COMMANDS if (command := _COMMANDS[row](lab))}
    figures = {
        (row, "instructions"): [count] for row, count in count_instructions(commands).items()
    }
    for _ in range(max(1, int(ROUNDS * scale))):
        usages = {row: measure(command) for row, command in commands.items()}
        for row, usage in usages.items():
            for column, value in (
                ("CPU time", usage.cpu),
                ("time", usage.seconds),
                (RATIO, usage.cpu / usages[PYTHON].cpu),
                ("peak memory", usage.memory),
            ):
                figures.setdefault((row, column), []).append(value)
    return figures
