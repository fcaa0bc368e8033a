"""bai-daemon: a click command for each backend."""

import logging
import os
import shlex
import shutil
import sys
import tempfile
import time

import click

from benchmarkai import __version__, emitter
from benchmarkai.daemon import backends
from benchmarkai.daemon.delivery import Delivery
from benchmarkai.daemon.pipe import Pipe, PipeError
from benchmarkai.daemon.service import CommandError, Service, Signals
from benchmarkai.daemon.spool import Metric, Spool, SpoolError

log = logging.getLogger("bai-daemon")

if not hasattr(click.Context, "get_parameter_source"):
    sys.exit("bai-daemon: it needs click 8 or newer: pip install --upgrade click")

_HELP = """Take the metrics of benchmarks out of a named pipe, and deliver them to a metrics server.

\b
  $ bai-daemon prometheus --gateway http://localhost:9091 --job alexnet
  $ BENCHMARK_AI=fifo bai-emit alexnet.latency=0.42         # elsewhere, any number of times

With a command it makes a pipe for that alone, and ends with it:

\b
  $ bai-daemon elasticsearch --label run=42 -- ./my_benchmark.sh --epochs 10

Each backend is a subcommand: see bai-daemon BACKEND --help.
"""

_EPILOG = """\b
Exit codes:
  0    nothing is left to deliver
  1    something was not, and is kept in the spool; or the pipe or the spool cannot be used
  2    something in the words or the variables was refused
  With a command: that of the command, but 1 where the command gave 0 and something was refused
  or not delivered; 126 and 127 if it cannot be started.
"""

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class _Size(click.ParamType):
    name = "size"

    def convert(self, value, param, ctx):
        if isinstance(value, int):
            return value
        try:
            unit = _UNITS.get(value[-1:].upper(), 1)
            size = int(value[:-1] if unit > 1 else value) * unit
        except ValueError:
            size = 0
        if size <= 0:
            self.fail("%r is not a size: write bytes, such as 500M or 2G" % value)
        return size


class _Mode(click.ParamType):
    name = "mode"

    def convert(self, value, param, ctx):
        try:
            mode = int(value, 8)
        except ValueError:
            mode = 0
        if not 0o200 <= mode <= 0o777:
            self.fail("%r is not a mode of a file: write it in octal, such as 0622" % value)
        return mode


def _labels(context, parameter, words):
    labels = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise click.BadParameter("%r is not NAME=VALUE, such as run=42" % word)
        try:
            word.encode("utf-8")
        except UnicodeEncodeError:
            raise click.BadParameter("%r is not UTF-8" % word)
        if name in labels:
            raise click.BadParameter("%r is given twice" % name)
        labels[name] = value
    return labels


_COMMON = [
    click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]"),
    click.option(
        "--fifo",
        metavar="PATH",
        default=emitter.DEFAULT_PATH,
        envvar=emitter.FIFO_PATH,
        show_default=True,
        show_envvar=True,
        help="The named pipe. With a command it is in a folder of its own.",
    ),
    backends.option(
        "--fifo-mode",
        "Its permissions: who may write. Nobody else should read.",
        type=_Mode(),
        default="0622",
        show_default=True,
    ),
    backends.option(
        "--label",
        "A label for all metrics, such as run=42; any number of them.",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_labels,
    ),
    backends.option(
        "--spool",
        "The file in which metrics wait for the server.  [default: next to the pipe]",
        metavar="PATH",
    ),
    backends.option(
        "--spool-limit",
        "Its size in bytes (K, M, G) from which on emitters have to wait.",
        type=_Size(),
        default="1G",
        show_default=True,
    ),
    backends.option(
        "--batch-size",
        "The most metrics of one request.",
        type=click.IntRange(min=1),
        default=1000,
        show_default=True,
    ),
    backends.option(
        "--flush-interval",
        "Seconds for which metrics may wait for a batch to fill.",
        type=click.FloatRange(min=0.001, max=3600),
        default=1.0,
        show_default=True,
    ),
    backends.option(
        "--shutdown-timeout",
        "Seconds for the last deliveries, when it is told to stop or the command has ended.",
        type=click.FloatRange(min=0),
        default=8.0,
        show_default=True,
    ),
    backends.option(
        "--log-level",
        "What to log on stderr.",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default="info",
        show_default=True,
    ),
]


def _parameters(decorators):
    def function():
        pass

    for decorate in decorators:
        decorate(function)
    return function.__click_params__


class _Group(click.Group):
    def list_commands(self, context):
        return backends.NAMES

    def get_command(self, context, name):
        return _command(name, backends.load(name)) if name in backends.NAMES else None


@click.group(
    cls=_Group,
    help=_HELP,
    epilog=_EPILOG,
    subcommand_metavar="BACKEND [OPTIONS] [-- COMMAND...]",
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="bai-daemon", message="%(prog)s %(version)s")
def main():
    pass


def _command(name, backend):
    @click.pass_context
    def run(context, **options):
        own = {option: options.pop(option) for option in list(options) if option not in common}
        context.exit(_run(context, name, backend, own, **options))

    common = {parameter.name for parameter in _parameters(_COMMON)}
    for decorate in reversed(_COMMON):
        run = decorate(run)
    for decorate in reversed(backend.options):
        run = decorate(run)
    return click.command(name, help=backend.__doc__, epilog=_EPILOG)(run)


def _run(context, name, backend, own, command, fifo, spool, label, log_level, **settings):
    if not command and sys.argv[-1:] == ["--"]:
        raise click.UsageError("there is no command after --")
    _log_to_stderr(log_level)
    backend = _made(name, backend, own, label)
    signals = Signals(bool(command))
    folder = None
    given = context.get_parameter_source("fifo") == click.core.ParameterSource.COMMANDLINE
    if command and not given:
        folder = tempfile.mkdtemp(prefix="bai-daemon-")
        fifo = os.path.join(folder, "pipe")
    path = os.path.abspath(spool or fifo + ".spool")
    try:
        pipe = Pipe(fifo, settings["fifo_mode"])
        try:
            spool = Spool(path, label, settings["spool_limit"])
        except SpoolError:
            pipe.end()
            raise
    except (PipeError, SpoolError) as error:
        log.error("%s", error)
        if folder is not None:
            shutil.rmtree(folder)
        return 1
    if spool.salvaged:
        log.error(
            "the spool was broken: %d metrics of it were saved, what is left of it is in %r",
            spool.waiting(),
            spool.salvaged,
        )
    delivery = Delivery(spool, backend, settings["batch_size"], settings["flush_interval"])
    service = Service(
        signals, pipe, settings["fifo_mode"], spool, delivery, settings["shutdown_timeout"]
    )
    target = own.get("url") or own.get("gateway") or ""
    log.info("from %s, spool %s (%d waiting), to %s %s", fifo, path, spool.waiting(), name, target)
    try:
        code = service.run(list(command))
    except CommandError as error:
        log.error("cannot run %r: %s", command[0], error)
        code = error.code
    return _end(context, service, delivery, spool, code, folder)


def _made(name, backend, own, labels):
    try:
        backend = backend(**own)
    except ImportError as error:
        raise click.UsageError(
            "%s is not installed: pip install 'benchmarkai-client-lib[%s]'"
            % (error.name or error, name)
        )
    except Exception as error:  # whatever a client says to options that do not fit together
        raise click.UsageError(str(error))
    problem = backend.objection(Metric("", 0, "name", 0.0, labels))
    if problem:
        raise click.UsageError("the labels cannot be sent: %s" % problem)
    return backend


def _end(context, service, delivery, spool, code, folder):
    summary = service.summary()
    kept = summary["waiting"]
    if delivery.failure is not None:
        log.error("the delivery ended: %s", delivery.failure)
    elif kept and delivery.problem is not None:
        log.error("cannot deliver: %s", delivery.problem)
    if kept:
        log.error(
            "%d metrics are kept in %s: send them with: %s",
            kept,
            spool.path,
            _again(context, spool.path),
        )
    log.info(
        "received %(received)d, delivered %(delivered)d, refused %(refused)d, waiting %(waiting)d",
        summary,
    )
    spool.close()
    undelivered = bool(kept) or delivery.failure is not None or service.lost
    if code is not None:
        undelivered = undelivered or bool(summary["refused"])
    if folder is not None and not undelivered:
        shutil.rmtree(folder)
    if code is None:
        return int(undelivered)
    if code < 0:
        code = 128 - code  # as shells do for a signal
    return code or int(undelivered)


def _again(context, spool):
    """Return the command that delivers what is in the spool. It has no secrets."""
    words = ["bai-daemon", context.info_name]
    common = {parameter.name for parameter in _parameters(_COMMON)}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        default = source in (None, click.core.ParameterSource.DEFAULT)
        if parameter.name not in common and not default and parameter.secondary_opts == []:
            if not isinstance(parameter.type, click.File):
                words += [parameter.opts[0], str(context.params[parameter.name])]
    words += ["--spool", spool, "--shutdown-timeout", "60", "--", "true"]
    return " ".join(map(shlex.quote, words))


class _OneLine(logging.Formatter):
    converter = time.gmtime
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record):
        return " ".join(super(_OneLine, self).format(record).split())


def _log_to_stderr(level):
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(asctime)s bai-daemon %(levelname)s: %(message)s"))
    log.addHandler(handler)
    # What the clients log comes in the log lines here, or is not for the user.
    logging.getLogger().addHandler(logging.NullHandler())
    logging.captureWarnings(True)
    log.setLevel(level.upper())
    log.propagate = False
