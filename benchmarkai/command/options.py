"""The click command of bai-emit: options, help, completion and usage errors."""

import os

import click

from benchmarkai import __version__, settings
from benchmarkai.command.help import EPILOG, HELP
from benchmarkai.command.words import decode_argument
from benchmarkai.errors import short_repr
from benchmarkai.stdout import StdoutSink, write_stderr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple  # noqa: F401

    from benchmarkai.command.patterns import PatternReader  # noqa: F401

    _Prepare = Callable[..., Callable[[], int]]


def run(arguments, prepare, completing):
    # type: (List[str], _Prepare, bool) -> int
    """Run the click command with these arguments, and return the exit code.

    prepare: called with the words, the options as open_sink() takes them, and the reader as
        publish_stream() takes it. It returns the function that publishes, or raises ValueError
        for a mistake in them.
    completing: whether a shell asks for completions.
    """
    if completing:
        return _complete(arguments, prepare)
    # Not main(): in click 8.0 and older it refuses to run with Python 3.6 in the C locale.
    try:
        with bai_emit.make_context("bai-emit", list(arguments), obj=prepare) as context:
            return bai_emit.invoke(context)  # type: ignore[no-any-return]
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        write_stderr(_describe(error, arguments))
        return error.exit_code
    except UnicodeError:  # Python 2, in the messages of click
        write_stderr("bai-emit: options must be ASCII: see bai-emit --help\n")
        return click.UsageError.exit_code


class _BadValue(click.ClickException):
    """A value of an option or an argument is rejected."""

    exit_code = click.UsageError.exit_code


def _describe(error, arguments):
    # type: (click.ClickException, Sequence[str]) -> str
    """Return a line about a bad value, and the usage with any other error."""
    message = error.format_message()
    if isinstance(error, _BadValue):
        return "bai-emit: %s\n" % message
    if isinstance(error, click.BadParameter):
        return "bai-emit: %s\n" % (message[:1].lower() + message[1:].rstrip("."))
    if isinstance(error, click.NoSuchOption):
        start = error.option_name
        if any(argument.startswith(start) and "=" in argument for argument in arguments):
            message = message.rstrip(".") + " (put -- before a metric whose name starts with -)"
    usage = click.Context(bai_emit, info_name="bai-emit").get_usage()
    return "%s\nTry 'bai-emit --help' for help.\n\nError: %s\n" % (usage, message)


def _complete(arguments, prepare):
    # type: (List[str], _Prepare) -> int
    try:
        bai_emit.main(arguments, prog_name="bai-emit", obj=prepare)
    except SystemExit as end:
        code = end.code  # type: Any
    except KeyError:  # COMP_WORDS, which the shell would set
        code = 1
    # click 7 runs the command if it does not know the instruction; click 8 says nothing.
    if code == 1 and hasattr(click.Command, "shell_complete"):
        write_stderr(
            "bai-emit: _BAI_EMIT_COMPLETE is %s: set it to bash_source, zsh_source or fish_source, "
            "or unset it\n" % short_repr(os.environ["_BAI_EMIT_COMPLETE"])
        )
        return click.UsageError.exit_code
    return code or 0


class _Command(click.Command):
    """What follows the first -- is the command of --time, or more arguments."""

    def parse_args(self, context, arguments):
        # type: (click.Context, List[str]) -> List[str]
        end = arguments.index("--") if "--" in arguments else len(arguments)
        rest = super(_Command, self).parse_args(context, arguments[:end])
        after = tuple(arguments[end + 1 :])
        if context.params.get("time") is None:
            context.params["words"] = (context.params["words"] or ()) + after
            after = ()
        context.params["command"] = after
        return rest


def _print(text):
    # type: (Callable[[click.Context], str]) -> Callable[[click.Context, Any, Any], None]
    def callback(context, parameter, value):
        # type: (click.Context, click.Parameter, bool) -> None
        if value and not context.resilient_parsing:
            StdoutSink().write([text(context) + "\n"])
            context.exit()

    return callback


def _check(check):
    # type: (Callable[[str, str], Any]) -> Callable[[click.Context, Any, Any], Any]
    def callback(context, parameter, value):
        # type: (click.Context, click.Parameter, Optional[str]) -> Optional[str]
        if value is not None:
            try:
                check(parameter.opts[0], value)
            except ValueError as error:
                raise _BadValue(str(error))
        return value

    return callback


def _check_not_empty(name, value):
    # type: (str, str) -> None
    if not value:
        what = "the path of the pipe" if name == "--fifo" else "the name of the metric"
        raise ValueError("%s is empty: give %s" % (name, what))


def _parse_patterns(context, parameter, values):
    # type: (click.Context, click.Parameter, Sequence[str]) -> Optional[PatternReader]
    if not values:
        return None
    # Imported here because completion and help do not need it.
    from benchmarkai.command.patterns import Pattern, PatternReader

    try:
        return PatternReader([Pattern(decode_argument(value)) for value in values])
    except ValueError as error:
        raise _BadValue("--pattern: %s" % error)


def _option(name, variable, text, **attributes):
    # type: (str, str, str, **Any) -> click.Option
    return click.Option([name], help="%s  [env var: %s]" % (text, variable), **attributes)


def _run(mode, fifo, max_wait, wait_step, pattern, time, words, command):
    # type: (Optional[str], Optional[str], Optional[str], Optional[str], Optional[PatternReader], Optional[str], Tuple[str, ...], Tuple[str, ...]) -> int  # noqa: E501
    context = click.get_current_context()
    if fifo and mode == "stdout":
        raise click.UsageError("--fifo means --mode fifo: leave one of them out", context)
    given = (
        (settings.MODE, "--mode", "fifo" if fifo else mode),
        (settings.FIFO_PATH, "--fifo", fifo),
        (settings.MAX_WAIT, "--max-wait", max_wait),
        (settings.WAIT_STEP, "--wait-step", wait_step),
    )
    options = {variable: (name, text) for variable, name, text in given if text is not None}
    if pattern is not None and (time is not None or words not in ((), ("-",))):
        other = "--time" if time is not None else short_repr(words[0])
        raise click.UsageError("--pattern reads stdin: leave %s out" % other, context)
    try:
        if time is not None:
            # Mistakes in the arguments are found before the command runs.
            context.obj((time + "=1234567.123456",) + words, options)
            code, seconds = _run_and_measure(context, command)
            if code:
                return code
            words = ("%s=%r" % (time, round(seconds, 6)),) + words
        publish = context.obj(words, options, pattern)
    except ValueError as error:
        raise _BadValue(str(error))
    return publish()  # type: ignore[no-any-return]


def _run_and_measure(context, command):
    # type: (click.Context, Sequence[str]) -> Tuple[int, float]
    if not command:
        raise click.UsageError(
            "--time has no command: put one after --, as in bai-emit --time build.seconds -- make",
            context,
        )
    # Imported here because only this needs subprocess, which is slow to import.
    from benchmarkai.child import CommandError
    from benchmarkai.command.timing import run_and_measure

    try:
        return run_and_measure(command)
    except CommandError as error:
        write_stderr("bai-emit: cannot run %s: %s\n" % (short_repr(command[0]), error))
        return error.exit_code, 0.0


bai_emit = _Command(
    "bai-emit",
    callback=_run,
    help=HELP,
    epilog=EPILOG,
    add_help_option=False,
    context_settings={"max_content_width": 100},
    params=[
        click.Argument(["words"], metavar="[NAME=VALUE]...", nargs=-1, type=click.UNPROCESSED),
        _option(
            "--mode",
            settings.MODE,
            "Where metrics go. Default: %s" % settings.DEFAULT_MODE,
            type=click.Choice(["stdout", "fifo"], case_sensitive=False),
        ),
        _option(
            "--fifo",
            settings.FIFO_PATH,
            "The named pipe; implies --mode fifo. Default: %s" % settings.DEFAULT_FIFO_PATH,
            metavar="PATH",
            type=click.Path(readable=False),
            callback=_check(_check_not_empty),
        ),
        _option(
            "--max-wait",
            settings.MAX_WAIT,
            "How long a record may wait for the pipe. Default: %s" % settings.DEFAULT_MAX_WAIT,
            metavar="SECONDS",
            callback=_check(settings.parse_seconds),
        ),
        _option(
            "--wait-step",
            settings.WAIT_STEP,
            "Time between checks for the pipe. Default: %s" % settings.DEFAULT_WAIT_STEP,
            metavar="SECONDS",
            callback=_check(settings.parse_positive_seconds),
        ),
        click.Option(
            ["--pattern"],
            metavar="NAME=REGEX",
            multiple=True,
            type=click.UNPROCESSED,
            callback=_parse_patterns,
            help="Search each line of stdin for the regular expression (Python's re), and publish "
            "its group 1, or all of the match, as NAME. Repeatable.",
        ),
        click.Option(
            ["--time"],
            metavar="NAME",
            type=click.UNPROCESSED,
            callback=_check(_check_not_empty),
            help="Run the command after --, and publish the seconds that it takes as NAME, unless "
            "it fails. Exits with its exit code.",
        ),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print(lambda context: "bai-emit %s" % __version__),
            help="Show the version.",
        ),
        click.Option(
            ["-h", "--help"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print(lambda context: context.get_help()),
            help="Show this message.",
        ),
    ],
)
