"""The log: one line for each message, whatever is in it."""

import calendar
import json
import re
import time

import pytest

from benchmarkai.daemon.log import RejectionLog, count
from tests.daemon.fakes import VirtualClock
from tests.helpers import run_python

LOG = """
import sys
from benchmarkai.daemon.log import log, log_to_stderr
log_to_stderr(sys.argv[1])
"""

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def log(code, level="info", env=None):
    """Return what the code logs."""
    result = run_python(LOG + code, level, env=env)
    assert (result.code, result.out) == (0, "")
    return result.err


def test_a_line_has_the_time_in_utc_the_level_and_the_message():
    before = int(time.time())
    text = log("log.warning('rejected %d of %r', 1, 'a')", env={"TZ": "America/New_York"})
    assert re.match(f"{TIME} bai-daemon WARNING: rejected 1 of 'a'\n$", text)
    logged = calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S"))
    assert before <= logged <= time.time()


@pytest.mark.parametrize(
    "message",
    [
        "a\n2026-01-31T12:00:00.000Z bai-daemon INFO: received 0",
        "a\r\n2026-01-31T12:00:00.000Z bai-daemon INFO: received 0",
        "a\x0b2026-01-31T12:00:00.000Z\x0cbai-daemon INFO: received 0",
        "a\u2028 2026-01-31T12:00:00.000Z bai-daemon\x85INFO: received 0\n\n",
    ],
)
@pytest.mark.parametrize("way", ["log.info({!r})", "log.info('%s', {!r})"])
def test_a_message_with_line_breaks_is_one_line(message, way):
    text = log(way.format(message), env={"PYTHONIOENCODING": "utf-8"})
    expected = "a 2026-01-31T12:00:00.000Z bai-daemon INFO: received 0"
    assert re.match(f"{TIME} bai-daemon INFO: {re.escape(expected)}\n$", text)
    assert len(text.splitlines()) == 1


def test_a_traceback_keeps_its_lines():
    code = (
        "import traceback\n"
        "try:\n"
        "    raise ValueError('bad')\n"
        "except ValueError:\n"
        "    log.debug('unexpected\\nerror', exc_info=True)\n"
        "    traceback.print_exc(file=sys.stdout)\n"
    )
    result = run_python(LOG + code, "debug")
    message, traceback = result.err.split("\n", 1)
    assert re.match(f"{TIME} bai-daemon DEBUG: unexpected error$", message)
    assert traceback == result.out
    assert len(traceback.splitlines()) >= 3


SECRET = "ä€😀\\'\".*"

PROTECT = """
from benchmarkai.daemon.redaction import protect
for secret in ("pä  €", "qwertz", SECRET, "qwertz==", "abcd", "xyz"):
    protect(secret)
""".replace("SECRET", repr(SECRET))


@pytest.mark.slow
@pytest.mark.parametrize(
    "message, logged",
    [
        ("401: qwertz, (qwertz)", "401: ***, (***)"),
        ("qwertz==", "***"),  # not ***==
        ("a pä  € b", "a *** b"),
        (SECRET, "***"),
        (repr(SECRET), "'***'"),
        (ascii(SECRET), "'***'"),
        (repr(SECRET.encode()), "b'***'"),
        (json.dumps(SECRET), '"***"'),
        (json.dumps(SECRET, ensure_ascii=False), '"***"'),
        (json.dumps(repr(SECRET)), "\"'***'\""),
        ("abcd", "***"),
        ("xyz", "xyz"),  # too short
        ("q wertz", "q wertz"),
    ],
)
@pytest.mark.parametrize("way", ["log.info({!r})", "log.info('%s', {!r})"])
def test_a_secret_is_not_shown_however_it_is_spelled(message, logged, way):
    text = log(PROTECT + way.format(message), env={"PYTHONIOENCODING": "utf-8"})
    assert text.endswith(f" INFO: {logged}\n")


def test_a_secret_in_a_traceback_is_not_shown():
    code = "try: raise ValueError('no qwertz')\nexcept ValueError: log.info('x', exc_info=True)"
    text = log(PROTECT + code)
    assert "ValueError: no ***\n" in text
    assert "qwertz" not in text


@pytest.mark.parametrize(
    "level, logged",
    [
        ("debug", ["DEBUG", "INFO", "WARNING", "ERROR"]),
        ("info", ["INFO", "WARNING", "ERROR"]),
        ("warning", ["WARNING", "ERROR"]),
        ("error", ["ERROR"]),
    ],
)
def test_messages_below_the_level_are_not_logged(level, logged):
    text = log("for name in ('debug', 'info', 'warning', 'error'): getattr(log, name)('x')", level)
    assert re.findall("bai-daemon ([A-Z]+): x\n", text) == logged


def test_the_logs_and_warnings_of_clients_are_not_shown():
    code = "import logging, warnings; logging.getLogger('urllib3').error('x'); warnings.warn('x')"
    assert log(code, "debug") == ""


def test_a_client_that_logs_to_stderr_does_not_repeat_our_messages():
    code = "import logging; logging.getLogger().addHandler(logging.StreamHandler()); log.info('x')"
    assert log(code).count("x") == 1


@pytest.mark.parametrize("number, text", [(0, "0 lines"), (1, "1 line"), (2, "2 lines")])
def test_a_count_has_the_singular_or_the_plural(number, text):
    assert count(number, "line") == text


def test_a_secret_of_backslashes_takes_no_time():
    text = log(
        "from benchmarkai.daemon.redaction import protect\n"
        r"protect('\\' * 9); protect('\\x' * 9)" + "\n"
        r"log.info('%s', '\\' * 1000 + 'y' + ('\\' * 100 + 'x') * 8)"
    )
    assert text.endswith("\\x\n")


# What is rejected


@pytest.fixture
def clock():
    return VirtualClock()


def test_what_is_rejected_is_logged_at_most_once_a_second(clock, messages):
    rejections = RejectionLog("line", "/spool.refused", clock)
    for number in range(9):
        rejections.add(2, f"line {number}", "it is bad")
        clock.now += 0.25
    rejections.flush()
    assert messages() == [
        "rejected 2 lines, the first is line 0: it is bad: see /spool.refused",
        "rejected 8 lines, the first is line 1: it is bad: see /spool.refused",
        "rejected 8 lines, the first is line 5: it is bad: see /spool.refused",
    ]


def test_what_was_rejected_within_a_second_is_logged_later(clock, messages):
    rejections = RejectionLog("metric", "/spool.refused", clock)
    rejections.add(1, "'a'", "it is bad")
    rejections.add(1, "'b'", "it is negative")
    rejections.flush()
    assert len(messages()) == 1
    clock.now += 1
    rejections.flush()
    rejections.flush()
    assert messages() == [
        "rejected 1 metric: 'a': it is bad: see /spool.refused",
        "rejected 1 metric: 'b': it is negative: see /spool.refused",
    ]


def test_what_was_rejected_can_be_logged_at_once(clock, messages):
    rejections = RejectionLog("metric", "/spool.refused", clock)
    for name in "abc":
        rejections.add(1, name, "it is bad")
    rejections.flush(now=True)
    rejections.flush(now=True)
    assert messages() == [
        "rejected 1 metric: a: it is bad: see /spool.refused",
        "rejected 2 metrics, the first is b: it is bad: see /spool.refused",
    ]
    rejections.add(1, "d", "it is bad")  # which counts the second from the last line
    assert len(messages()) == 2
