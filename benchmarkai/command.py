"""bai-emit: from words or stdin to the sink, with an exit code at the end.

Plain words and records are published from here. Whatever needs options, help or a usage error
goes on to the click command, which comes back here to publish.
"""

import os
import sys

from benchmarkai._compat import decode_utf8
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
        if os.environ.get(COMPLETION):
            return _with_click(words)
        if words != ["-"] and any(word.startswith("-") for word in words):
            return _with_click(words)
        try:
            sink, texts = prepare(words, {})
        except ValueError as error:
            mistake = error
        else:
            return publish(sink, texts)
        return _with_click(words, mistake)
    except KeyboardInterrupt:
        return INTERRUPTED
    except MemoryError:
        say("out of memory: raise the limit of this process")
    except (EnvironmentError, FifoError) as error:
        say(_reason(error))
    return NOT_DELIVERED


def prepare(words, options):
    """Return the sink, and the lines for the words: None if the records of stdin are meant.

    options: see open_sink().

    Raises ValueError for what is wrong with the words or the settings.
    """
    sink = open_sink(options, notify=say)
    if words and list(words) != ["-"]:
        return sink, lines(parse_words([_utf8(word) for word in words]), sink.longest)
    if not words and sys.stdin is not None and sys.stdin.isatty():
        raise ValueError(
            "nothing to publish: write NAME=VALUE, such as loss=0.42, or pipe records in, or "
            "give a single - to type them"
        )
    return sink, None


def publish(sink, texts):
    """Publish the lines, or without any the records on stdin, and return the exit code.

    Raises FifoError, and OSError (IOError on Python 2), when the lines cannot be delivered.
    """
    if texts is not None:
        sink.write(texts)
        return PUBLISHED
    # Not before it is needed: it takes json and re, which are slow to import.
    from benchmarkai.stream import Stopped, publish_stream

    try:
        return REFUSED if publish_stream(sink, say) else PUBLISHED
    except Stopped as stop:
        rest = "nothing from this line on was published"
        if stop.partly:
            rest = "it was published in part, and nothing after it"
        say("line %d: %s: %s" % (stop.line, _reason(stop.cause), rest))
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


def _reason(error):
    return getattr(error, "strerror", None) or error


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
        return decode_utf8(data)
    except UnicodeDecodeError:
        raise ValueError("%s is not UTF-8: write it in UTF-8" % show(word))
