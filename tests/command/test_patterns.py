# -*- coding: utf-8 -*-
"""bai-emit --pattern: from the lines that a benchmark prints to records."""

from __future__ import unicode_literals

import json
import re
import subprocess
import sys

import pytest

from benchmarkai.command.patterns import Pattern, PatternReader
from benchmarkai.command.records import Problem, Record
from benchmarkai.jsonlines import MAX_RECORD_SIZE
from tests.helpers import BAI_EMIT, bounded, finish, run, start

LOSS = r"loss=loss: (\S+)"


def read(patterns, data, size=None):
    """Return [(line, metrics)] and [(line, message)] of data that arrives in blocks of a size."""
    reader = PatternReader([Pattern(pattern) for pattern in patterns])
    found = []
    for start_of_block in range(0, len(data), size or len(data)):
        found += reader.feed(data[start_of_block : start_of_block + (size or len(data))])
    found += reader.end()
    good = [(each.line, dict(each.pairs)) for each in found if isinstance(each, Record)]
    return good, [tuple(each) for each in found if isinstance(each, Problem)]


# What programs print, and the metrics in it.
PRINTED = [
    # a training log
    (
        [LOSS, "accuracy=acc(?:uracy)?[:=] *([0-9.]+)"],
        b"epoch 1, loss: 0.9\nsaved\nepoch 2, loss: 0.5 acc=0.71, took 3 s",
        [(1, {"loss": 0.9}), (3, {"loss": 0.5, "accuracy": 0.71})],
    ),
    # tqdm
    (
        ["loss=loss=([0-9.e-]+)", r"rate=([0-9.]+)it/s"],
        b"\rtrain:   0%|          | 0/938 [00:00<?, ?it/s]"
        b"\rtrain:  50%|#####     | 469/938 [00:02<00:02, 201.95it/s, loss=0.301]"
        b"\rtrain: 100%|##########| 938/938 [00:04<00:00, 203.10it/s, loss=1.5e-2]\ndone\n",
        [(1, {"loss": 0.301, "rate": 201.95}), (1, {"loss": 0.015, "rate": 203.1})],
    ),
    # perf stat, with LC_ALL=C
    (
        [r"instructions=(\d+) +instructions", r"time=([0-9.]+) seconds time elapsed"],
        b"\n Performance counter stats for 'true':\n\n"
        b"            123456      instructions              #    0.61  insn per cycle\n"
        b"       0.001234567 seconds time elapsed\n",
        [(4, {"instructions": 123456}), (5, {"time": 0.001234567})],
    ),
    # /usr/bin/time -v
    (
        [r"rss.kib=Maximum resident set size \(kbytes\): (\d+)", r"user=User time.*: (\S+)"],
        b'\tCommand being timed: "true"\n\tUser time (seconds): 0.02\n'
        b"\tMaximum resident set size (kbytes): 9876\n",
        [(2, {"user": 0.02}), (3, {"rss.kib": 9876})],
    ),
    # openssl speed, iperf
    (
        [r"sha256.16B=^sha256 +([0-9.]+)k", r"mbits=(?P<unit>)(?P<value>[0-9.]+) Mbits/sec"],
        b"sha256           37190.44k   116381.14k   277236.99k\r\n"
        b"[  5]   0.00-10.00  sec  1.10 GBytes   941 Mbits/sec    0   sender\r\n",
        [(1, {"sha256.16B": 37190.44}), (2, {"mbits": 941})],
    ),
    # without a group, an = in the pattern, other scripts, bytes that are not UTF-8
    (
        ["größe=[0-9]+"],
        "größe 7 \u0663\n".encode("utf-8") + b"\xff 8\n",
        [(1, {"größe": 7}), (2, {"größe": 8})],
    ),
    (["x=^([0-9]+)$"], b"1\r\n2\r3\n", [(1, {"x": 1}), (2, {"x": 2}), (2, {"x": 3})]),
    (["a=b=([0-9]+)"], b"b=5\n", [(1, {"a": 5})]),
    (["step=step ([0-9]+)/([0-9]+)"], b"step 7/10\n", [(1, {"step": 7})]),
]


@pytest.mark.parametrize("size", [None, 1, 7])
@pytest.mark.parametrize("patterns, data, expected", PRINTED)
def test_each_line_with_a_match_is_a_record(patterns, data, expected, size):
    assert read(patterns, data, size) == (expected, [])


@pytest.mark.parametrize(
    "value, message",
    [
        (b"nan", "the value of 'loss=nan' is not finite"),
        (b"0.5,", "the value of 'loss=0.5,' is not a number"),
        (b"1,234.5", "nothing between thousands"),
        (b"71%", "is not a number"),
        (b"a=5", "the value of 'loss=a=5' is not a number"),
        (b"\xff5", "is not a number"),
        (b"\x1b[1m5\x1b[0m", "is not a number"),
    ],
)
def test_a_match_that_is_no_number_is_rejected_with_its_line(value, message):
    data = b"loss: 1\n\nloss: " + value + b"\nloss: 2\n"
    good, ((line, problem),) = read([LOSS], data)
    assert good == [(1, {"loss": 1}), (4, {"loss": 2})]
    assert line == 3 and message in problem and "\n" not in problem
    assert problem.endswith(", or let the pattern match the number alone")


def test_a_group_that_takes_no_part_in_the_match_has_no_value():
    _, problems = read(["a=(x)?y"], b"y\n")
    assert [line for line, _ in problems] == [1] and "has no value" in problems[0][1]


def test_a_return_and_a_newline_end_one_line_wherever_blocks_end():
    for size in (None, 1, 2, 3):
        _, problems = read(["x=^([0-9]*)$"], b"1\r\n2\r\n\n", size)
        assert [line for line, _ in problems] == [3]


def test_a_name_that_two_patterns_find_in_one_line_is_rejected():
    good, problems = read(["a=x(.)", "a=y(.)"], b"x1 y2\nx3\ny4\n")
    assert good == [(2, {"a": 3}), (3, {"a": 4})]
    assert [line for line, _ in problems] == [1] and "'a' is given twice" in problems[0][1]


def test_a_pattern_that_never_matches_is_a_problem_of_the_stream():
    good, problems = read([LOSS, r"acc=acc: (\S+)"], b"loss: 1\n")
    assert good == [(1, {"loss": 1})]
    assert problems == [
        (None, r"the pattern of 'acc' has matched no line: check 'acc: (\\S+)' against the text")
    ]


@pytest.mark.parametrize("text", ["loss", "=x", "loss=", ""])
def test_a_pattern_needs_a_name_and_a_regular_expression(text):
    with pytest.raises(ValueError) as caught:
        Pattern(text)
    assert "is not NAME=REGEX: write it like" in str(caught.value)


def test_a_broken_regular_expression_is_rejected_with_the_position():
    with pytest.raises(ValueError) as caught:
        Pattern("loss=loss: (x")
    assert "the regular expression of 'loss' cannot be used: " in str(caught.value)
    if sys.version_info >= (3, 5):
        assert "at position 6, before '(x'" in str(caught.value)


def test_a_long_line_is_rejected_and_costs_no_other():
    data = b"loss: 1\n" + b"x" * (3 * MAX_RECORD_SIZE) + b" loss: 2\nloss: 3\r" + b"loss: 4"
    for size in (None, 1 << 16):
        good, problems = read([LOSS], data, size)
        assert good == [(1, {"loss": 1}), (3, {"loss": 3}), (3, {"loss": 4})]
        assert problems == [(2, "a line of more than 1048576 bytes is not searched")]


def test_an_endless_line_takes_bounded_memory():
    reader = PatternReader([Pattern(LOSS)])
    for _ in range(100):
        assert reader.feed(b"x" * (1 << 16)) == []
    assert len(reader._buffer._partial_line) <= MAX_RECORD_SIZE + (1 << 16)


def patterns_of(*patterns):
    return [argument for pattern in patterns for argument in ("--pattern", pattern)]


def test_matches_are_published_in_the_order_of_the_options():
    result = run(
        [BAI_EMIT] + patterns_of("b=b: (.)", "a=a: (.)"), stdin=b"nothing\na: 1, b: 2\nb: 3\n"
    )
    assert result == (0, '{"b": 2, "a": 1}\n{"b": 3}\n', "")


def test_a_match_is_published_as_soon_as_its_line_ends(fifo):
    arguments = [BAI_EMIT, "--fifo", fifo.path] + patterns_of(LOSS)
    process = start(
        [BAI_EMIT, "-"] + patterns_of(LOSS), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    for end in (b"\n", b"\r", b"\r\n"):
        process.stdin.write(b"loss: 0.5" + end)
        process.stdin.flush()
        assert bounded(process.stdout.readline) == b'{"loss": 0.5}\n'
    assert finish(process) == (0, "", None)
    assert run(arguments, stdin=b"loss: 0.5\n") == (0, "", "")
    assert fifo.read() == '{"loss": 0.5}\n'


@pytest.mark.parametrize(
    "arguments, stdin, code, message",
    [
        ([LOSS], b"loss: x\n", 2, "bai-emit: line 1: the value of 'loss=x' is not a number"),
        ([LOSS], b"", 2, "bai-emit: the pattern of 'loss' has matched no line"),
        ([LOSS, "a=1"], None, 2, "--pattern reads stdin: leave 'a=1' out"),
        ([LOSS, "--time", "t", "--", "true"], None, 2, "--pattern reads stdin: leave --time out"),
        (["loss=("], None, 2, "bai-emit: --pattern: the regular expression of 'loss' cannot"),
        (["loss"], None, 2, "bai-emit: --pattern: 'loss' is not NAME=REGEX"),
        (
            [LOSS, "--fifo", "/nonexistent", "--max-wait", "0"],
            b"\nloss: 1\n",
            1,
            "line 2: there is",
        ),
    ],
)
def test_mistakes_have_the_exit_codes_of_all_streams(arguments, stdin, code, message):
    result = run([BAI_EMIT, "--pattern"] + arguments, stdin=stdin)
    assert (result.code, result.out) == (code, "")
    assert message in result.err and "Traceback" not in result.err


def test_names_and_patterns_are_utf8_in_any_locale():
    pattern = "größe=größe (.)".encode("utf-8")
    result = run(
        [BAI_EMIT, b"--pattern", pattern],
        stdin="größe 5\n".encode("utf-8"),
        env={"LC_ALL": "C", "PYTHONUTF8": "0"},
    )
    assert result == (0, json.dumps({"größe": 5}) + "\n", "")


def test_any_bytes_are_searched_without_a_traceback():
    data = bytes(bytearray(range(256))) * 100 + b"\nloss: 0.5\n"
    assert run([BAI_EMIT, "--pattern", LOSS], stdin=data) == (0, '{"loss": 0.5}\n', "")


def test_a_warning_about_a_pattern_is_not_shown():
    result = run([BAI_EMIT, "--pattern", "a=[[]([0-9])"], stdin=b"[5\n")
    assert result == (0, '{"a": 5}\n', "")


def test_real_programs_print_what_the_patterns_find():
    script = (
        r"""python - <<'END' 2>&1 | "$0" --pattern 'n=step (\d+)' --pattern 'x=x=(\S+)'
import sys
for n in range(3):
    sys.stderr.write('\rstep %d x=%.3f' % (n, n / 8.0))
END"""
    ).replace("python", sys.executable, 1)
    result = run(["sh", "-c", script, BAI_EMIT])
    assert result.err == ""
    assert re.findall('"n": (.), "x": (.*)}', result.out) == [
        ("0", "0.0"),
        ("1", "0.125"),
        ("2", "0.25"),
    ]
