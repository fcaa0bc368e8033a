"""What became of the metrics: the exit code, the last lines of the log, and what they say."""

import shlex
import sys

import click
import pytest

from benchmarkai.daemon import backends, cli
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


def make_context(*arguments, program="bai-daemon"):
    """Return the context of the command with these arguments: the backend, and its options."""
    command = cli.bai_daemon.get_command(None, arguments[0])
    parent = click.Context(cli.bai_daemon, info_name=program)
    return command.make_context(arguments[0], [*arguments[1:], "--", "true"], parent=parent)


def test_the_command_for_the_rest_is_that_of_the_python_that_ran_the_module():
    context = make_context("stdout", program="python -m benchmarkai.daemon")
    command = f"{shlex.quote(sys.executable)} -m benchmarkai.daemon stdout --spool s "
    assert cli._resend_command(context, "s").startswith(command)


def reported(messages, **counts):
    """Return the log of an outcome."""
    context = make_context("stdout")
    cli._report(context, Outcome(spool="/the spool", **counts))
    return messages()


NUMBERS = "received 3, delivered {delivered}, rejected {rejected}, waiting {waiting}"
GONE = "the spool /the spool was removed, and could not be created again"
SEND = "send with: bai-daemon stdout --spool '/the spool' --shutdown-timeout 60 -- true"


@pytest.mark.parametrize(
    "counts, lines",
    [
        (DELIVERED, []),
        (REJECTED, []),
        (RETRIED, []),
        (WAITING, ["2 metrics are kept in /the spool: " + SEND]),
        (dict(WAITING, waiting=1), ["1 metric is kept in /the spool: " + SEND]),
        (
            dict(WAITING, last_error="HTTP 503"),
            ["cannot deliver: HTTP 503", "2 metrics are kept in /the spool: " + SEND],
        ),
        (
            dict(WAITING, failure="cannot write to stdout", last_error="HTTP 503"),
            [
                "delivery stopped: cannot write to stdout",
                "2 metrics are kept in /the spool: " + SEND,
            ],
        ),
        (FAILED, ["delivery stopped: cannot write to stdout"]),
        (
            dict(WAITING, kept=False),
            ["2 metrics are lost: " + GONE],
        ),
        (
            dict(WAITING, waiting=1, kept=False),
            ["1 metric is lost: " + GONE],
        ),
        (dict(DELIVERED, kept=False), []),
    ],
)
def test_the_last_lines_of_the_log_tell_what_became_of_the_metrics(messages, counts, lines):
    assert reported(messages, **counts) == [*lines, NUMBERS.format(**counts)]


def test_what_is_left_is_sent_with_the_same_options_of_the_backend(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my token").write_text("qwertz")
    monkeypatch.setenv("BAI_DAEMON_DATABASE", "of the variable")
    options = ["--url", "http://h:1/", "--token-file", "my token", "--label", "run=42"]
    words = shlex.split(cli._resend_command(make_context("influxdb", *options), "/spool"))
    assert words == [
        *("bai-daemon", "influxdb", "--url", "http://h:1", "--database", "of the variable"),
        *("--token-file", str(tmp_path / "my token")),
        *("--spool", "/spool", "--shutdown-timeout", "60", "--", "true"),
    ]


def test_options_that_are_repeated_or_have_no_value_are_sent_again_too(tmp_path):
    (tmp_path / "headers").write_text("X-Secret=qwertz")
    options = ["--header", "A=b c", "--header=D=e=f", "--header-file", str(tmp_path / "headers")]
    options += ["--insecure", "--no-name-labels"]
    words = shlex.split(cli._resend_command(make_context("prometheus", *options), "/spool"))
    assert words == [
        *("bai-daemon", "prometheus", "--insecure", "--header", "A=b c", "--header", "D=e=f"),
        *("--header-file", str(tmp_path / "headers"), "--no-name-labels"),
        *("--spool", "/spool", "--shutdown-timeout", "60", "--", "true"),
    ]


def test_a_secret_in_a_variable_is_not_in_the_command_that_sends_what_is_left(monkeypatch):
    monkeypatch.setenv("BAI_DAEMON_TOKEN", "qwertz")
    assert "qwertz" not in cli._resend_command(make_context("influxdb", "--database", "d"), "/s")


@pytest.mark.parametrize(
    "arguments, target",
    [
        (["stdout"], "stdout"),
        (["influxdb", "--database", "d"], "influxdb http://localhost:8086 database=d"),
        (
            ["prometheus", "--job", "j", "--gateway", "http://h:1", "--user", "me"],
            "prometheus http://h:1 job=j",
        ),
        (["cloudwatch"], "cloudwatch namespace=BenchmarkAI"),
        (["cloudwatch", "--region", "r"], "cloudwatch namespace=BenchmarkAI region=r"),
    ],
)
def test_the_target_is_the_place_that_the_options_name(arguments, target):
    options = make_context(*arguments).params
    assert cli._target(arguments[0], backends.load(arguments[0]), options) == target


@pytest.mark.parametrize(
    "secret, arguments",
    [
        ("TOKEN", ["influxdb", "--database", "d"]),
        ("PASSWORD", ["elasticsearch", "--user", "me"]),
        ("API_KEY", ["elasticsearch"]),
    ],
)
def test_the_target_has_no_secret(monkeypatch, secret, arguments):
    monkeypatch.setenv("BAI_DAEMON_" + secret, "qwertz")
    options = make_context(*arguments).params
    assert options[secret.lower()] == "qwertz"
    target = cli._target(arguments[0], backends.load(arguments[0]), options)
    assert "qwertz" not in target
