"""Bytes of a stream into records: names and numbers, or the reason why they are none."""

import json
import re

from benchmarkai._compat import decode_utf8
from benchmarkai.metrics import check_unique, show
from benchmarkai.words import MOST_DIGITS, parse_words

LONGEST = 1 << 20  # bytes of a record
_TOO_LONG = "the record is longer than %d bytes: split it" % LONGEST

_LONG_INTEGER = re.compile(r"(?<![0-9])[0-9]{%d}" % (MOST_DIGITS + 1))
_BOM = b"\xef\xbb\xbf"

# One metric on a line, as metrics.lines() writes it. With up to 15 significant digits a number
# shows that by its form alone, because a double keeps them; longer texts need a look at the
# number. The lines are short enough for any pipe (POSIX: 512 bytes).
_NAME = r"[%s][%s]{0,199}"
_NUMBER = (
    r"(?:-?(?!0\.0000)(?:0|[1-9][0-9]{0,15})\.(?:[0-9]{0,20}[1-9]|0)"
    r"|0|-?[1-9][0-9]{0,199}"
    r"|-?[1-9](?:\.[0-9]{0,20}[1-9])?e(?:-0[5-9]|-[1-9][0-9]|\+1[6-9]|\+[2-9][0-9]))"
)
_OBJECT_NAME = _NAME % ((r" !#-\[\]-~",) * 2)
_WORD_NAME = _NAME % (r"!#-<>-\[\]-z|}~", r"!#-<>-\[\]-~")
_CANONICAL_OBJECTS = re.compile(r'(?:\{"%s": %s\}\n)+\Z' % (_OBJECT_NAME, _NUMBER))
_CANONICAL_WORDS = re.compile(r"(?:%s=%s\n)+\Z" % (_WORD_NAME, _NUMBER))
_LONG_NUMBER_OF_OBJECT = re.compile(r'": (.{17,})\}')
_LONG_NUMBER_OF_WORD = re.compile(r"=(.{17,})")

# One word on a line, with a number in its plainest form.
_PLAIN_WORD = re.compile(r"^(?!\{)(\S+)=(-?(?:0|[1-9][0-9]{0,17})(\.[0-9]{1,30})?)$", re.MULTILINE)

# As tuples of (name, value), a name that is given twice does not get lost.
_decode = json.JSONDecoder(object_pairs_hook=tuple).decode


class Records(object):
    """Finds the records in a stream that comes in blocks.

    A record is a JSON object, on one line or on several, or a line of NAME=VALUE words.
    feed() and end() return a list of (line, pairs, problem): the number of the line where the
    record begins, and either its (name, value) pairs, or a text that says why it has none. In
    place of the pairs there may be a text: the lines to publish, one for each from this one on.

    Metrics are flat, so a line that begins with "{", or that is a line of words, cannot be
    inside of an object: where one comes, the object before it was broken.
    """

    def __init__(self):
        self.line = 1  # the number of the line that comes next
        self._rest = bytearray()  # a line that has not ended yet
        self._too_long = False  # that line is longer than a record may be, and was refused
        self._object = None  # an _Object that has not ended yet

    def waiting_line(self):
        """Return the number of the first line that is not in any record so far."""
        return self.line if self._object is None else self._object.line

    def feed(self, block):
        """Return the records that end in this block of bytes."""
        found = []
        start = len(self._rest)
        self._rest += block
        if self.line == 1 and self._rest[: len(_BOM)] == _BOM:
            del self._rest[: len(_BOM)]
            start = 0
        end = self._rest.rfind(b"\n", start) + 1
        if end:
            whole = bytes(self._rest[:end])
            del self._rest[:end]
            found = self._lines(whole)
        if len(self._rest) > LONGEST:
            if not self._too_long:
                self._too_long = True
                found.extend(self._refuse_long(self._rest))
            del self._rest[:]
        return found

    def end(self):
        """Return the records that end with the stream."""
        found = self.feed(b"\n") if self._rest or self._too_long else []
        return found + self._break_off()

    def _lines(self, whole):
        if b"\r" in whole:
            whole = whole.replace(b"\r\n", b"\n")
        if self._object is None and not self._too_long:
            # Many lines at once take a fraction of the time that they take one by one.
            text = _canonical(whole)
            if text is not None:
                first = self.line
                self.line += text.count("\n")
                return [(first, text, None)]
            pairs = plain_objects(whole) if whole[:1] == b"{" else _plain_words(whole)
            if pairs is not None:
                first = self.line
                self.line += len(pairs)
                return [(first + index, each, None) for index, each in enumerate(pairs)]
        found = []
        for line in whole[:-1].split(b"\n"):
            found.extend(self._one_line(line))
            self.line += 1
        return found

    def _one_line(self, line):
        if self._too_long:  # here it ends at last
            self._too_long = False
            return []
        if len(line) > LONGEST:
            return self._refuse_long(line)
        problem = None
        try:
            text = decode_utf8(line).strip(" \t")
        except UnicodeDecodeError as error:
            text = line.decode("utf-8", "replace").strip(" \t")
            problem = "%s is not UTF-8 (byte %d): write it in UTF-8" % (
                show(text),
                error.start + 1,
            )
        if text[:1] == "{":
            found = self._break_off()
            self._object = _Object(self.line)
            return found + self._continue(text, problem)
        if self._object is None:
            if problem:
                return [(self.line, None, problem)]
            return [_record(self.line, _words, text)] if text else []
        if "=" in text and not problem:
            words = _record(self.line, _words, text)
            if words[2] is None:
                return self._break_off() + [words]
        return self._continue(text, problem)

    def _continue(self, text, problem):
        record = self._object
        record.add(text, problem)
        if record.depth > 0:
            return []
        self._object = None
        return [_record(record.line, record.pairs)]

    def _break_off(self):
        record, self._object = self._object, None
        if record is None:
            return []
        if record.problem is None:
            begin = show(record.lines[0][:80])
            record.problem = 'the object that begins with %s is not closed: end it with "}"' % begin
        return [_record(record.line, record.pairs)]

    def _refuse_long(self, line):
        if self._object is None or line[:16].lstrip()[:1] == b"{":
            return self._break_off() + [(self.line, None, _TOO_LONG)]
        self._object.refuse_long()
        return []


class _Object(object):
    """A JSON object whose lines come one by one."""

    def __init__(self, line):
        self.line = line
        self.lines = []
        self.size = 0
        self.depth = 0  # of the braces that are open
        self.problem = None  # a text

    def add(self, text, problem):
        # Without escapes, every second part between quotes is outside of the strings.
        parts = text.replace("\\\\", "").replace('\\"', "").split('"')
        bare = "".join(parts[::2])
        self.depth += bare.count("{") - bare.count("}")
        if len(parts) % 2 == 0 and text.endswith("}"):
            self.depth = 0  # a string is not closed; what looks like the end of the object is it
        self.problem = self.problem or problem
        self.lines.append(text)
        self.size += len(text) + 1
        if self.size > LONGEST + 1:
            self.refuse_long()

    def refuse_long(self):
        self.problem = _TOO_LONG
        self.lines = []

    def pairs(self):
        if self.problem:
            raise ValueError(self.problem)
        return parse_object("\n".join(self.lines))


def parse_object(text):
    """Return the (name, value) pairs of a JSON object; ValueError unless it is one, and flat."""
    if _LONG_INTEGER.search(text):
        raise ValueError(
            "a number has more than %d digits: write it shorter, such as 1e100" % MOST_DIGITS
        )
    try:
        pairs = _decode(text)
    except ValueError as error:
        raise ValueError("%s is not one JSON object: %s" % (show(text[:80]), error))
    except RuntimeError:
        raise ValueError("%s is nested too deep: metrics are flat" % show(text[:80]))
    if not isinstance(pairs, tuple):
        raise ValueError("%s is not a JSON object" % show(text[:80]))
    for name, value in pairs:
        if isinstance(value, (list, tuple)):
            raise ValueError(
                "the value of %s is an %s: metrics are flat, write each number under a name "
                "of its own" % (show(name), "array" if type(value) is list else "object")
            )
    check_unique(pairs)
    return pairs


def _canonical(whole):
    """Return the lines to publish where each line holds one metric as it is written there."""
    try:
        text = whole.decode("ascii")
    except UnicodeDecodeError:
        return None
    if _CANONICAL_WORDS.match(text):
        long_numbers = _LONG_NUMBER_OF_WORD.findall(text)
        text = '{"' + text[:-1].replace("=", '": ').replace("\n", '}\n{"') + "}\n"
    elif _CANONICAL_OBJECTS.match(text):
        long_numbers = _LONG_NUMBER_OF_OBJECT.findall(text)
    else:
        return None
    return text if list(map(repr, map(float, long_numbers))) == long_numbers else None


def plain_objects(whole):
    """Return the pairs of each line where each holds one whole object, else None.

    None of them can reach over the joint ",\\n" between a "}" and a "{": a string cannot hold a
    newline, and only an array, which needs a "[", can go on with an object after a comma.
    """
    count = whole.count(b"\n")
    if (
        len(whole) > LONGEST
        or whole[-2:] != b"}\n"
        or whole.count(b"}\n{") != count - 1
        or whole.count(b"{") != count
        or b"[" in whole
    ):
        return None
    try:
        text = decode_utf8(whole)
        if _LONG_INTEGER.search(text):
            return None
        objects = _decode("[" + text[:-1].replace("}\n{", "},\n{") + "]")
        for pairs in objects:
            if len(pairs) > 1:
                check_unique(pairs)
    except (ValueError, RuntimeError):  # one of them is broken: find out which
        return None
    return objects if len(objects) == count else None


def _plain_words(whole):
    """Return the pairs of each line where each holds one plain word, else None."""
    try:
        words = _PLAIN_WORD.findall(decode_utf8(whole))
    except UnicodeDecodeError:
        return None
    if len(words) != whole.count(b"\n"):
        return None
    return [
        ((name, float(number) if fraction else int(number)),) for name, number, fraction in words
    ]


def _record(line, parse, *arguments):
    try:
        return line, parse(*arguments), None
    except ValueError as error:
        # Not the error: its traceback would keep what is here for longer.
        return line, None, str(error)


def _words(text):
    return parse_words([word for word in re.split("[\t\r ]", text) if word])
