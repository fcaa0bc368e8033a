"""The click command of bai-emit: options, help, completion and usage errors."""

import os

import click

from benchmarkai import __version__, command, emitter
from benchmarkai.stdout import Stdout

_HELP = """Publish the metrics of a benchmark, as JSON, to stdout or to a named pipe.

\b
  $ bai-emit alexnet.latency=0.42
  {"alexnet.latency": 0.42}
  $ bai-emit alexnet.latency=0.42 alexnet.batchsize=16
  {"alexnet.latency": 0.42, "alexnet.batchsize": 16}
  $ echo '{"alexnet.latency": 0.42}' | bai-emit
  {"alexnet.latency": 0.42}
  $ ./my_benchmark | bai-emit          # one record a line, each published as it is printed

Without words, or with the single word -, it reads records from stdin: JSON objects, or lines
of NAME=VALUE words. After -- come names that begin with "-".
"""

_EPILOG = """\b
Exit codes:
  0    everything was published
  1    something could not be delivered (the pipe, a closed or full stdout)
  2    something in the words, the options, the variables or the records was refused
  130  Ctrl-C
"""


def command_line(words):
    """Run the click command with these words, and return the exit code."""
    if os.environ.get(command.COMPLETION):
        return bai_emit.main(words, prog_name="bai-emit")
    # Not main(): that of click 8.0 and older refuses Python 3.6 in the C locale.
    try:
        with bai_emit.make_context("bai-emit", list(words)) as context:
            return bai_emit.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        message = error.format_message()
        if isinstance(error, click.NoSuchOption):
            message += " (put -- before a metric whose name begins with -)"
        usage = error.ctx.get_usage() + "\n" if getattr(error, "ctx", None) else ""
        command.to_stderr("%sTry 'bai-emit --help' for help.\n\nError: %s\n" % (usage, message))
        return error.exit_code
    except UnicodeError:  # Python 2, in the messages of click
        command.say("the options are ASCII: see bai-emit --help")
        return command.REFUSED


def _print(text):
    def callback(context, parameter, value):
        if value and not context.resilient_parsing:
            Stdout().write([text(context) + "\n"])
            context.exit()

    return callback


def _checked(check):
    def callback(context, parameter, value):
        if value is not None:
            try:
                check(parameter.opts[0], value)
            except ValueError as error:
                raise click.UsageError(str(error), context)
        return value

    return callback


def _not_empty(name, value):
    if not value:
        raise ValueError("%s is empty: give the path of the pipe" % name)


def _option(name, variable, text, **more):
    return click.option(name, help="%s  [env var: %s]" % (text, variable), **more)


@click.command(
    help=_HELP,
    epilog=_EPILOG,
    add_help_option=False,
    context_settings={"max_content_width": 100},
)
@click.argument("words", metavar="[NAME=VALUE]...", nargs=-1, type=click.UNPROCESSED)
@_option(
    "--mode",
    emitter.MODE,
    "Where the metrics go: stdout is the default.",
    type=click.Choice(["stdout", "fifo"], case_sensitive=False),
)
@_option(
    "--fifo",
    emitter.FIFO_PATH,
    "The named pipe; this option means --mode fifo. Default: %s" % emitter.DEFAULT_PATH,
    metavar="PATH",
    type=click.Path(readable=False),
    callback=_checked(_not_empty),
)
@_option(
    "--max-wait",
    emitter.MAX_WAIT,
    "The longest that one record waits for the pipe. Default: %s" % emitter.DEFAULT_MAX_WAIT,
    metavar="SECONDS",
    callback=_checked(emitter.seconds),
)
@_option(
    "--wait-step",
    emitter.WAIT_STEP,
    "Between two looks at the pipe. Default: %s" % emitter.DEFAULT_WAIT_STEP,
    metavar="SECONDS",
    callback=_checked(emitter.positive_seconds),
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print(lambda context: "bai-emit %s" % __version__),
    help="Show the version.",
)
@click.option(
    "-h",
    "--help",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print(lambda context: context.get_help()),
    help="Show this text.",
)
@click.pass_context
def bai_emit(context, words, mode, fifo, max_wait, wait_step):
    if fifo and mode == "stdout":
        raise click.UsageError("--fifo means --mode fifo: leave one of them out", context)
    given = (
        (emitter.MODE, "--mode", "fifo" if fifo else mode),
        (emitter.FIFO_PATH, "--fifo", fifo),
        (emitter.MAX_WAIT, "--max-wait", max_wait),
        (emitter.WAIT_STEP, "--wait-step", wait_step),
    )
    options = {variable: (name, text) for variable, name, text in given if text is not None}
    try:
        sink, texts = command.prepare(words, options)
    except ValueError as error:
        raise click.UsageError(str(error), context)
    return command.publish(sink, texts)
