"""What became of the metrics, and the exit code."""

import pytest

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
