"""bai-daemon: a click group with a command for each backend."""

import json
import os
import shlex
import signal
import sys
from typing import Any, List, NoReturn, Optional, Type

import click

from benchmarkai import __version__
from benchmarkai.child import PASSED_SIGNALS
from benchmarkai.daemon import app, backends
from benchmarkai.daemon.backends.base import Backend
from benchmarkai.daemon.database import SpoolError
from benchmarkai.daemon.log import count_are, log, log_to_stderr
from benchmarkai.daemon.options import COMMON, secret_files
from benchmarkai.daemon.outcome import Outcome
from benchmarkai.daemon.redaction import redact
from benchmarkai.daemon.status import read_status

_HELP = """Read the metrics of benchmarks from a named pipe, and deliver them to a metrics server.

\b
  $ bai-daemon prometheus --gateway http://localhost:9091 --job alexnet
  $ BENCHMARK_AI=fifo bai-emit alexnet.latency=0.42         # elsewhere, any number of times

With a command, it creates a pipe for that command alone, and ends with it:

\b
  $ bai-daemon elasticsearch --label run=42 -- ./my_benchmark.sh --epochs 10

Each backend is a subcommand: see bai-daemon BACKEND --help.
"""

_EPILOG = """\b
Exit codes:
  0    nothing is left to deliver
  1    some metrics are left, and kept in the spool; or the pipe or the spool cannot be used
  2    something in the arguments, options or variables was rejected
  With a command: its exit code; 1 if that is 0 and some metrics were rejected or not delivered;
  126 or 127 if it cannot be started.
"""


def main(program: str = "bai-daemon") -> NoReturn:
    """Run bai-daemon with the arguments of this process, and exit with its exit code.

    program: how it was called, for messages.
    """
    if not hasattr(click.Context, "get_parameter_source"):
        sys.exit(f"{program}: click 8 or newer is required: pip install --upgrade click")
    try:
        sys.exit(bai_daemon.main(prog_name=program, standalone_mode=False))
    except click.Abort:  # Ctrl-C before the daemon minds it
        sys.exit(128 + signal.SIGINT)
    except click.ClickException as error:
        if _is_bad_usage(error):
            error.show()
        else:
            message = error.format_message()
            if isinstance(error, click.BadParameter):
                message = message[:1].lower() + message[1:].rstrip(".")
            click.echo(f"{program}: {message}", err=True)
        sys.exit(error.exit_code)


def _is_bad_usage(error: click.ClickException) -> bool:
    """Return whether to show the usage. Around a bad value it would hide the message."""
    if isinstance(error, click.BadParameter):
        return isinstance(error, click.MissingParameter)
    return isinstance(error, click.UsageError)


class _BadValue(click.ClickException):
    exit_code = click.UsageError.exit_code


class _Backends(click.Group):
    def list_commands(self, ctx: click.Context) -> List[str]:
        return [*self._list_backends(), *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        return super().get_command(ctx, cmd_name) or _make_command(cmd_name)

    def resolve_command(self, ctx: click.Context, args: List[str]) -> Any:
        name = args[0]  # click empties the list
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            names = ", ".join(self._list_backends())
            raise _BadValue(f"no backend {name!r}: {names}") from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in (
            ("Backends", self._list_backends()),
            ("Other commands", super().list_commands(ctx)),
        ):
            limit = formatter.width - 6 - max(map(len, names))
            with formatter.section(title):
                formatter.write_dl([(name, self._summary(ctx, name, limit)) for name in names])

    def _list_backends(self) -> List[str]:
        return [name for name in backends.list_names() if name not in self.commands]

    def _summary(self, ctx: click.Context, name: str, limit: int) -> str:
        command = self.get_command(ctx, name)
        return command.get_short_help_str(limit) if command else ""


class _BrokenCommand(click.Command):
    """A backend that cannot be loaded, for the reason in its help. The others still work."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        raise _BadValue(self.short_help or "")


class _BackendCommand(click.Command):
    # The options after the name of a program are those of the program.
    allow_interspersed_args = False

    def parse_args(self, ctx: click.Context, args: List[str]) -> List[str]:
        end = args.index("--") if "--" in args else len(args)
        own, command = args[:end], args[end + 1 :]
        try:
            rest = super().parse_args(ctx, list(own))
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # click forgets it, and so the usage, for some
            raise
        extra = list(ctx.params["command"])
        ctx.params["command"] = tuple(command)
        if ctx.resilient_parsing:  # for the completion of a shell
            return rest
        if extra and end < len(args):
            raise click.UsageError(f"{extra[0]!r} is not an option, nor a command after --", ctx)
        if extra:
            words = [*ctx.command_path.split(), *own[: -len(extra)], "--", *extra]
            raise click.UsageError(f"write -- before the command: {shlex.join(words)}", ctx)
        if end < len(args) and not command:
            raise click.UsageError("there is no command after --", ctx)
        return rest


bai_daemon = _Backends(
    "bai-daemon",
    help=_HELP,
    epilog=_EPILOG,
    subcommand_metavar="BACKEND [OPTIONS] [-- COMMAND...]",
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
)
bai_daemon = click.version_option(
    __version__, prog_name="bai-daemon", message="%(prog)s %(version)s"
)(bai_daemon)


@click.command()
@click.option(
    "--spool",
    metavar="PATH",
    type=click.Path(readable=False),
    required=True,
    help="The spool of the daemon.",
)
@click.pass_context
def status(ctx: click.Context, spool: str) -> None:
    """Print as JSON how a running daemon is doing.

    The exit code is 0 if it is alive, and its last attempt to deliver has not failed: a health
    check for containers.

    \b
      $ bai-daemon status --spool /data/spool
      {"alive": true, "pid": 7, "received": 12, "delivered": 12, "rejected": 0, "waiting": 0, ...}
    """
    try:
        found = read_status(spool)
    except SpoolError as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(found))
    ctx.exit(0 if found["alive"] and found["last_error"] is None else 1)


bai_daemon.add_command(status)


def _make_command(name: str) -> Optional[click.Command]:
    try:
        backend_type = backends.load(name)
    except backends.LoadError as error:
        return _BrokenCommand(name, short_help=str(error))
    if backend_type is None:
        return None
    own = {parameter.name for parameter in backend_type.options}

    def run(**values: Any) -> None:
        context = click.get_current_context()
        log_to_stderr(values.pop("log_level"))
        options = {key: values.pop(key) for key in list(values) if key in own}
        backend = _make_backend(name, backend_type, options)
        problem = backend.reason_to_reject_labels(values["label"])
        if problem:
            raise _BadValue(f"the labels cannot be sent: {problem}")
        settings = _make_settings(context, _target(name, backend_type, options), **values)

        def report(outcome: Outcome) -> None:
            _report(context, outcome)
            # The exit code is decided. A late signal must not change it.
            for number in PASSED_SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            # Nor must a terminal that is closed: Python flushes stderr at the end.
            try:
                sys.stderr.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())

        try:
            outcome = app.run(settings, backend, report)
        except app.StartError as error:
            log.error("%s", error)
            context.exit(1)
        context.exit(outcome.exit_code)

    return _BackendCommand(
        name,
        callback=run,
        params=[*backend_type.options, *COMMON],
        help=backend_type.__doc__,
        epilog=_EPILOG,
    )


def _make_backend(name: str, backend_type: Type[Backend], options: Any) -> Backend:
    try:
        return backend_type(**options)
    except ImportError as error:
        from benchmarkai.daemon.install import how_to_install  # which nothing else needs

        requirements = backends.REQUIREMENTS.get(name)
        remedy = how_to_install(requirements) if requirements else f"the backend {name} needs it"
        raise _BadValue(f"{error.name or error} is not installed: {remedy}") from error
    except Exception as error:  # whatever a client says to options that contradict each other
        raise _BadValue(redact(str(error))) from error


def _make_settings(
    context: click.Context, target: str, fifo: str, label: Any, command: Any, **values: Any
) -> app.Settings:
    given = context.get_parameter_source("fifo") is click.core.ParameterSource.COMMANDLINE
    return app.Settings(
        fifo=None if command and not given else fifo,
        labels=label,
        command=command,
        target=target,
        **values,
    )


def _target(name: str, backend_type: Type[Backend], options: Any) -> str:
    """Return the place that the options name, such as "influxdb http://a:8086 database=b"."""
    words = [name]
    for key in backend_type.place:
        if options[key] is not None:
            words.append(options[key] if key in ("url", "gateway") else f"{key}={options[key]}")
    return " ".join(words)


def _report(context: click.Context, outcome: Outcome) -> None:
    """Log the outcome. The last line has the numbers."""
    if outcome.failure is not None:
        log.error("delivery stopped: %s", outcome.failure)
    elif outcome.waiting and outcome.last_error is not None:
        log.error("cannot deliver: %s", outcome.last_error)
    if outcome.waiting and not outcome.kept:
        log.error(
            "%s lost: the spool %s was removed, and could not be created again",
            count_are(outcome.waiting, "metric"),
            outcome.spool,
        )
    elif outcome.waiting:
        log.error(
            "%s kept in %s: send with: %s",
            count_are(outcome.waiting, "metric"),
            outcome.spool,
            _resend_command(context, outcome.spool),
        )
    log.info(
        "received %d, delivered %d, rejected %d, waiting %d",
        outcome.received,
        outcome.delivered,
        outcome.rejected,
        outcome.waiting,
    )


def _resend_command(context: click.Context, spool: str) -> str:
    """Return the shell command that delivers what is in the spool.

    It contains no secrets, but the paths of their files. A variable that holds one must be set.
    """
    words = ["bai-daemon"]
    if context.find_root().info_name != "bai-daemon":
        words = [sys.executable, "-m", "benchmarkai.daemon"]
    words.append(context.info_name or "")
    values = {**context.params, **secret_files(context)}
    for parameter in context.command.params:
        name = parameter.name or ""
        if parameter in COMMON and name != "no_name_labels":
            continue
        if context.get_parameter_source(name) not in (None, click.core.ParameterSource.DEFAULT):
            words += _words_of(parameter.opts[0], values[name])
    words += ["--spool", spool, "--shutdown-timeout", "60", "--", "true"]
    return " ".join(map(shlex.quote, words))


def _words_of(option: str, value: Any) -> List[str]:
    if isinstance(value, bool):
        return [option] if value else []
    if isinstance(value, dict):
        return [word for pair in value.items() for word in (option, "=".join(pair))]
    return [option, str(value)]
