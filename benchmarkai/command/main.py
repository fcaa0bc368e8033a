"""bai-emit: from arguments or stdin to the sink, with an exit code at the end.

Only options and completion need click; options.py has the click command.
"""

import os
import sys

from benchmarkai.command.words import decode_argument, parse_words
from benchmarkai.errors import FifoError
from benchmarkai.metrics import encode
from benchmarkai.settings import open_sink
from benchmarkai.stdout import StdoutSink, write_stderr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType  # noqa: F401
    from typing import (  # noqa: F401
        Any,
        Callable,
        List,
        Mapping,
        NoReturn,
        Sequence,
        Tuple,
    )

    from benchmarkai.settings import Sink  # noqa: F401

PUBLISHED, NOT_DELIVERED, REJECTED, INTERRUPTED = 0, 1, 2, 130


def run():
    # type: () -> NoReturn
    """Run main(), and end the process with its exit code.

    The interpreter takes a fifth of the time of a plain call to free what it has. The process ends
    without that if nothing depends on it.
    """
    code = main()
    if not _needs_finalization(sys._getframe(1)):
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        except Exception:  # closed, or full: Python has a message and an exit code for that
            pass
    sys.exit(code)


def _needs_finalization(program):
    # type: (FrameType) -> bool
    """Return whether anything is left to do at the end of the process.

    program: the frame of the script, which runs by itself or by python -m, unless a profiler, a
        debugger or a test runs it.
    """
    caller = program.f_back
    while caller is not None and caller.f_globals.get("__name__") == "runpy":
        caller = caller.f_back
    # Functions for the end are registered with atexit: coverage.py's, for example.
    return bool(
        caller is not None
        or "atexit" in sys.modules
        or "threading" in sys.modules
        or sys.flags.inspect
    )


def main():
    # type: () -> int
    """Run bai-emit with the arguments of this process, and return its exit code."""
    arguments = sys.argv[1:]
    completing = bool(os.environ.get("_BAI_EMIT_COMPLETE"))
    try:
        if completing or (
            arguments != ["-"] and any(argument.startswith("-") for argument in arguments)
        ):
            return _run_click(arguments, completing)
        try:
            publish = _prepare(arguments, {})
        except ValueError as error:
            _report(str(error))
            return REJECTED
        return publish()
    except KeyboardInterrupt:
        return INTERRUPTED
    except MemoryError:
        _report("out of memory: raise the limit of this process")
    except (EnvironmentError, FifoError) as error:
        _report(_reason_of(error))
    return NOT_DELIVERED


def _prepare(arguments, options, reader=None):
    # type: (Sequence[Any], Mapping[str, Tuple[str, str]], Any) -> Callable[[], int]
    """Return the function that publishes the arguments, or stdin, and returns the exit code.

    arguments: NAME=VALUE words; none, or a single "-", stands for stdin.
    options: see open_sink().
    reader: see publish_stream().

    Raises ValueError for a mistake in the arguments or the settings. The function raises
    FifoError, and OSError (IOError on Python 2), if the arguments cannot be delivered.
    """
    sink = open_sink(options, notify=_report, alone=True)
    if arguments and list(arguments) != ["-"]:
        pairs = parse_words([decode_argument(argument) for argument in arguments])
        lines = encode(pairs, sink.max_line_size)
        return lambda: _publish_lines(sink, lines)
    if not arguments and sys.stdin is not None and sys.stdin.isatty():
        raise ValueError(
            "nothing to publish: write NAME=VALUE, such as loss=0.42, or pipe records in, or "
            "give a single - to type them (see bai-emit --help)"
        )
    return lambda: _publish_stdin(sink, reader)


def _publish_lines(sink, lines):
    # type: (Sink, List[str]) -> int
    sink.write(lines)
    return PUBLISHED


def _publish_stdin(sink, reader):
    # type: (Sink, Any) -> int
    # Imported here because it needs json and re, which are slow to import.
    from benchmarkai.command.stream import StreamStopped, publish_stream

    try:
        return REJECTED if publish_stream(sink, _report, reader) else PUBLISHED
    except StreamStopped as stop:
        consequence = "nothing from this line on was published"
        if stop.partly:
            consequence = "part of it was published, and nothing after it"
        _report("line %d: %s: %s" % (stop.line, _reason_of(stop.cause), consequence))
        return NOT_DELIVERED


def _run_click(arguments, completing):
    # type: (List[str], bool) -> int
    """Let the click command handle the arguments. Without click, there is only some help."""
    try:
        from benchmarkai.command.options import run
    except ImportError:
        from benchmarkai.command.help import INSTALL_CLICK, without_click

        text = None if completing else without_click(arguments)
        if text is None:
            _report("options and completion need click: " + INSTALL_CLICK)
            return REJECTED
        StdoutSink().write([text])
        return PUBLISHED
    return run(arguments, _prepare, completing)


def _report(message):
    # type: (str) -> None
    write_stderr("bai-emit: %s\n" % message)


def _reason_of(error):
    # type: (BaseException) -> str
    return getattr(error, "strerror", None) or str(error)
