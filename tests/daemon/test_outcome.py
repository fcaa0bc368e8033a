"""What became of the metrics: the exit code, and the last lines of the log."""

import pytest

from benchmarkai.daemon import cli
from benchmarkai.daemon.outcome import Outcome

DELIVERED = {"received": 3, "delivered": 3, "rejected": 0, "waiting": 0}
WAITING = dict(DELIVERED, delivered=1, waiting=2)
REJECTED = dict(DELIVERED, delivered=2, rejected=1)
LOST = dict(DELIVERED, stored=False)
FAILED = dict(DELIVERED, failure="cannot write to stdout")
RETRIED = dict(DELIVERED, last_error="HTTP 503")  # and then delivered


@pytest.mark.parametrize(
    "counts, is_complete, is_complete_with_command",
    [
        (DELIVERED, True, True),
        (RETRIED, True, True),
        (REJECTED, True, False),
        (WAITING, False, False),
        (LOST, False, False),
        (FAILED, False, False),
        (dict(REJECTED, waiting=1), False, False),
        (dict(LOST, rejected=1), False, False),
        (dict(FAILED, rejected=1), False, False),
        (dict.fromkeys(DELIVERED, 0), True, True),
    ],
)
@pytest.mark.parametrize(
    "command_code, exit_code",
    [(None, 0), (0, 0), (1, 1), (3, 3), (126, 126), (127, 127), (137, 137)],
)
def test_the_exit_code_is_that_of_the_command_or_1_if_incomplete(
    counts, is_complete, is_complete_with_command, command_code, exit_code
):
    outcome = Outcome(spool="/spool", command_code=command_code, **counts)
    complete = is_complete if command_code is None else is_complete_with_command
    assert outcome.is_complete is complete
    assert outcome.exit_code == (exit_code or (0 if complete else 1))


def reported(messages, **counts):
    """Return the log of an outcome, each line with its level."""
    command = cli.bai_daemon.get_command(None, "stdout")
    context = command.make_context("stdout", ["--", "true"])
    cli._report(context, Outcome(spool="/the spool", **counts))
    return messages()


NUMBERS = "received 3, delivered {delivered}, rejected {rejected}, waiting {waiting}"
SEND = "send with: bai-daemon stdout --spool '/the spool' --shutdown-timeout 60 -- true"


@pytest.mark.parametrize(
    "counts, lines",
    [
        (DELIVERED, []),
        (REJECTED, []),
        (RETRIED, []),
        (WAITING, ["2 metrics kept in /the spool: " + SEND]),
        (dict(WAITING, waiting=1), ["1 metric kept in /the spool: " + SEND]),
        (
            dict(WAITING, last_error="HTTP 503"),
            ["cannot deliver: HTTP 503", "2 metrics kept in /the spool: " + SEND],
        ),
        (
            dict(WAITING, failure="cannot write to stdout", last_error="HTTP 503"),
            ["delivery stopped: cannot write to stdout", "2 metrics kept in /the spool: " + SEND],
        ),
        (FAILED, ["delivery stopped: cannot write to stdout"]),
        (
            dict(WAITING, kept=False),
            ["2 metrics lost: the spool /the spool was removed, and could not be created again"],
        ),
        (dict(DELIVERED, kept=False), []),
    ],
)
def test_the_last_lines_of_the_log_tell_what_became_of_the_metrics(messages, counts, lines):
    assert reported(messages, **counts) == [*lines, NUMBERS.format(**counts)]
