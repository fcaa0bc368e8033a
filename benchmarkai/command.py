"""bai-emit: from words or stdin to the sink, with an exit code at the end.

Plain words and records are published from here. Whatever needs options, help or a usage error
goes on to the click command, which comes back here to publish.
"""

import os
import sys

from benchmarkai.emitter import open_sink
from benchmarkai.errors import FifoError
from benchmarkai.metrics import lines, show
from benchmarkai.stdout import descriptor_of, write_all
from benchmarkai.words import parse_words

PUBLISHED, NOT_DELIVERED, REFUSED, INTERRUPTED = 0, 1, 2, 130

COMPLETION = "_BAI_EMIT_COMPLETE"  # the variable through which click completes words


def main():
    """Run bai-emit with the words of the command line, and return the exit code."""
    words = sys.argv[1:]
    try:
        if COMPLETION in os.environ or words != ["-"] and any(w.startswith("-") for w in words):
            return _with_click(words)
        return _plainly(words)
    except KeyboardInterrupt:
        return INTERRUPTED
    except MemoryError:
        say("out of memory: raise the limit of this process")
    except (EnvironmentError, FifoError) as error:
        say(reason(error))
    return NOT_DELIVERED


def run(words, options):
    """Publish the words, or the records on stdin, and return the exit code.

    options: see open_sink().

    Raises ValueError for what is wrong with the words or the settings; FifoError, and OSError
    (IOError on Python 2), when the metrics of the words cannot be delivered.
    """
    sink = open_sink(options, notify=say)
    if words and list(words) != ["-"]:
        pairs = parse_words([_utf8(word) for word in words])
        sink.write(lines(pairs, sink.longest))
        return PUBLISHED
    if not words and sys.stdin is not None and sys.stdin.isatty():
        raise ValueError(
            "nothing to publish: write NAME=VALUE, such as loss=0.42, or pipe records in, or "
            "give a single - to type them"
        )
    # Not before it is needed: it takes json and re, which are slow to import.
    from benchmarkai.stream import Stopped, publish_stream

    try:
        return REFUSED if publish_stream(sink, say) else PUBLISHED
    except Stopped as stop:
        say(
            "line %d: %s: nothing from this line on was published" % (stop.line, reason(stop.cause))
        )
        return NOT_DELIVERED


def say(message):
    """Write one line to stderr, if there is anybody to take it."""
    to_stderr("bai-emit: %s\n" % message)


def to_stderr(text):
    try:
        descriptor = descriptor_of(sys.stderr)
        if descriptor is None:
            sys.stderr.write(text)
            sys.stderr.flush()
        else:
            encoding = getattr(sys.stderr, "encoding", None) or "ascii"
            write_all(descriptor, text.encode(encoding, "backslashreplace"))
    except EnvironmentError:
        pass


def reason(error):
    """Return in words why something could not be delivered."""
    return getattr(error, "strerror", None) or error


def _plainly(words):
    try:
        return run(words, {})
    except ValueError as mistake:
        return _with_click(words, mistake)


def _with_click(words, mistake=None):
    try:
        from benchmarkai.cli import command_line
    except ImportError:
        say(mistake or "options and help need click: install it with pip install click")
        return REFUSED
    return command_line(words)


def _utf8(word):
    """Return the text of a word of the command line, whatever the locale says."""
    try:
        data = word if isinstance(word, bytes) else os.fsencode(word)  # novm
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("%s is not UTF-8: write it in UTF-8" % show(word))
