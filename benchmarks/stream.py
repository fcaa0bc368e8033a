"""Many lines through one process: bai-emit, and jq -c with the same metrics as JSON."""

import json

from benchmarks import report
from benchmarks.processes import Command, instructions_of_each, measure

ROUNDS = 7
LINES = 100000
COUNTED = 1500  # lines whose instructions are counted

INSTRUCTIONS, INSTRUCTIONS_JQ, RATIO = "instructions a line", "those of `jq`", "ratio"
CPU_RATIO, TIME_RATIO = "CPU time relative to `jq`", "time relative to `jq`"


def _value(number):
    """Return a number whose text has six decimals, or more due to the rounding of floats."""
    return 0.42 + number / 500000


def _three(value):
    return {"loss": value, "accuracy": 1 - value, "seconds": 7 * value}


def _words(metrics):
    return " ".join("%s=%r" % pair for pair in metrics.items())


# The line for a number; as words, and for jq as JSON, if it is not JSON.
_FORMS = {
    "JSON, as `json.dumps` prints it": [lambda x: json.dumps({"loss": x})],
    "the same, always with all digits": [lambda x: json.dumps({"loss": x / 3})],
    "JSON, as `jq -c` prints it": [lambda x: '{"loss":%r}' % x],
    "JSON, `%.6f`": [lambda x: '{"loss": %.6f}' % x],
    "JSON, `%.17g`": [lambda x: '{"loss": %.17g}' % x],
    "JSON, three metrics a line": [lambda x: json.dumps(_three(x))],
    "JSON, a name in Unicode": [lambda x: '{"größe": %r}' % x],
    "JSON, an escaped name": [lambda x: json.dumps({"größe": x})],
    "words, as Python prints numbers": [lambda x: "loss=%r" % x, lambda x: '{"loss": %r}' % x],
    "words, `%.17g`": [lambda x: "loss=%.17g" % x, lambda x: '{"loss": %.17g}' % x],
    "words, `%e`": [lambda x: "loss=%e" % x, lambda x: '{"loss": %e}' % x],
    "words, three metrics a line": [lambda x: _words(_three(x)), lambda x: json.dumps(_three(x))],
}
CANONICAL = ["JSON, as `json.dumps` prints it", "words, as Python prints numbers"]

TABLE = report.Table(
    "lines",
    {
        INSTRUCTIONS: report.count,
        INSTRUCTIONS_JQ: report.count,
        RATIO: report.ratio,
        "CPU time a line": report.seconds,
        CPU_RATIO: report.ratio,
        TIME_RATIO: report.ratio,
        "peak memory": report.mebibytes,
    },
    list(_FORMS),
)


def _commands(lab, lines):
    """Return the command of each form and program, with so many lines on stdin."""
    programs = [("bai-emit", [lab.bin("bai-emit")])]
    jq = lab.find("jq", "apt-get install jq")
    if jq:
        programs.append(("jq", [jq, "-c", "."]))
    commands = {}
    for number, (form, formats) in enumerate(_FORMS.items()):
        # The last one is for jq.
        for (program, arguments), format_line in zip(programs, (formats[0], formats[-1])):
            path = lab.path(f"{lines}-{number}-{program}")
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(format_line(_value(n)) + "\n" for n in range(lines))
            commands[form, program] = Command(arguments, stdin=path)
    return commands


def measure_streams(lab, scale):
    figures = {}

    def add(form, column, value):
        figures.setdefault((form, column), []).append(value)

    counted = instructions_of_each(
        lambda lines: _commands(lab, lines), max(100, int(COUNTED * scale))
    )
    for (form, program), count in counted.items():
        if program == "bai-emit":
            add(form, INSTRUCTIONS, count)
        else:
            add(form, INSTRUCTIONS_JQ, count)
            add(form, RATIO, counted[form, "bai-emit"] / count)
    lines = max(100, int(LINES * scale))
    commands = _commands(lab, lines)
    for _ in range(max(1, int(ROUNDS * scale))):
        usages = {key: measure(command) for key, command in commands.items()}
        for form in _FORMS:
            own, jq = usages[form, "bai-emit"], usages.get((form, "jq"))
            add(form, "CPU time a line", own.cpu / lines)
            add(form, "peak memory", own.memory)
            if jq:
                add(form, CPU_RATIO, own.cpu / jq.cpu)
                add(form, TIME_RATIO, own.seconds / jq.seconds)
    return figures
