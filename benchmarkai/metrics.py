"""What a metric is, and its JSON: pure functions from names and numbers to text."""

from benchmarkai._compat import PY2, integer_types, text_types

_LARGEST = 1.7976931348623157e308  # of an IEEE 754 double

# What JSON shows as it is: printable ASCII but for the quote and the backslash.
_ORDINARY = "".join(map(chr, range(0x20, 0x7F))).replace('"', "").replace("\\", "")

# The types of elements (numpy's dtype and its likes) that float() takes though they hold no
# numbers: an array of one text, one truth value, one time becomes a number without a word.
_NOT_NUMBERS = ("bool", "complex", "datetime", "timedelta", "object", "<U", ">U", "|S")

# What a member of the object begins with, such as '"loss": ', by the name: benchmarks publish
# the same few names again and again.
_starts = {}
_REMEMBERED = 1024
_LONGEST_REMEMBERED = 256

_FINITE_ONLY = (
    "JSON (RFC 8259) has no NaN and no infinities, and metrics servers refuse or drop them: "
    "leave the metric out, or publish a finite number"
)


def lines(pairs, longest=None):
    """Return the lines that carry the metrics: each a JSON object and a newline.

    pairs: an iterable of (name, value). The text is that of json.dumps().
    longest: the most bytes of a line. Where one would be longer there are several, with the
    metrics in their order; without it there is always one.

    Raises TypeError for what is no name or no number, and ValueError for an empty name, a
    number that is not finite, a metric that is too long for a line, and no metrics at all.
    """
    members = []
    for name, value in pairs:
        kind = type(value)
        if kind is float:
            if not -_LARGEST <= value <= _LARGEST:
                raise ValueError(_not_finite(name, value))
            number = repr(value)
        elif kind is int:
            number = _digits(name, value)
        else:
            number = _number(name, value)
        try:
            members.append(_starts[name] + number)
        except (KeyError, TypeError):
            members.append(_start(name, value) + number)
    if not members:
        raise ValueError('no metrics to publish: give at least one, such as {"loss": 0.42}')
    line = "{" + ", ".join(members) + "}\n"
    if longest is None or len(line) <= longest:
        return [line]
    return _split(members, longest)


def check_unique(pairs):
    """Raise ValueError where two of the (name, value) pairs have the same name."""
    seen = set()
    for name, value in pairs:
        if PY2 and isinstance(name, bytes):
            name = name.decode("utf-8", "replace")
        if name in seen:
            raise ValueError(
                "%s is given twice, the second time as %s: give each metric once"
                % (show(name), show(value))
            )
        seen.add(name)


def show(value):
    """Return one short line that shows the value in an error message."""
    try:
        text = repr(value)
    except Exception:  # the value's own code, and integers beyond Python's limit of digits
        text = "a value of type " + type(value).__name__
    if PY2 and text[:2] in ("u'", 'u"'):
        text = text[1:]
    return _shorten(" ".join(text.split()))


def _split(members, longest):
    room = longest - len("{}\n")
    result = []
    first = used = 0
    for index, member in enumerate(members):
        if len(member) > room:
            raise ValueError(
                "%s takes %d bytes as JSON, and a line of the pipe holds %d: shorten the name"
                % (_shorten(member), len(member), room)
            )
        if used + len(member) > room:
            result.append("{" + ", ".join(members[first:index]) + "}\n")
            first, used = index, 0
        used += len(member) + len(", ")
    result.append("{" + ", ".join(members[first:]) + "}\n")
    return result


def _shorten(text):
    return text if len(text) <= 80 else text[:60] + "..." + text[-17:]


def _start(name, value):
    if not isinstance(name, text_types):
        raise TypeError(
            "the name %s of the value %s is of type %s: a metric's name is text, "
            'such as "alexnet.latency"' % (show(name), show(value), type(name).__name__)
        )
    if not name:
        raise ValueError(
            "the name of the value %s is empty: give it one, such as "
            '"alexnet.latency"' % show(value)
        )
    if name.strip(_ORDINARY):
        from json.encoder import encode_basestring_ascii

        try:
            quoted = encode_basestring_ascii(name)
        except UnicodeDecodeError:  # Python 2
            raise ValueError(
                "the name %s of the value %s is not UTF-8: decode it, and give it as unicode"
                % (show(name), show(value))
            )
    else:
        quoted = '"' + str(name) + '"' if PY2 else '"' + name + '"'
    start = quoted + ": "
    if len(start) <= _LONGEST_REMEMBERED:
        if len(_starts) >= _REMEMBERED:
            _starts.clear()
        _starts[name] = start
    return start


def _number(name, value):
    if isinstance(value, (bool, bytes, type(None)) + text_types):
        raise TypeError(_not_a_number(name, value))
    if isinstance(value, float):
        if not -_LARGEST <= float(value) <= _LARGEST:
            raise ValueError(_not_finite(name, value))
        # The float's own: numpy's repr() is np.float64(0.42).
        return float.__repr__(value)
    if not isinstance(value, integer_types):
        value = _converted(name, value)
        if isinstance(value, float):
            return _number(name, value)
    return _digits(name, value)


def _digits(name, value):
    try:
        # A subclass such as IntEnum may show itself otherwise; a Python 2 long ends in L.
        return int.__repr__(value) if isinstance(value, int) else str(value)
    except ValueError:  # Python 3.11 limits the digits of an int
        raise ValueError(
            "%s is an integer of more digits than Python writes (sys.get_int_max_str_digits()): "
            "publish it as a float" % show(name)
        )


def _converted(name, value):
    """Return the int or float that a number of another type converts itself to."""
    kind = str(getattr(value, "dtype", ""))
    if any(word in kind for word in _NOT_NUMBERS) or hasattr(value, "encode"):
        raise TypeError(_not_a_number(name, value))
    if hasattr(value, "detach"):
        value = value.detach()  # torch warns where a tensor with a gradient becomes a number
    if hasattr(type(value), "__index__"):
        try:
            return type(value).__index__(value)
        except Exception:  # a tensor of floats has the method, and refuses
            pass
    if not hasattr(type(value), "__float__") or any(n != 1 for n in getattr(value, "shape", ())):
        raise TypeError(_not_a_number(name, value))
    try:
        return float(value)
    except (OverflowError, ValueError):  # such as Fraction(10 ** 400), Decimal("sNaN")
        raise ValueError(_not_finite(name, value))
    except Exception:  # whatever the type's own code raises
        raise TypeError(_not_a_number(name, value))


def _not_a_number(name, value):
    return "%s is %s, of type %s: the value of a metric is one number, such as 0.42" % (
        show(name),
        show(value),
        type(value).__name__,
    )


def _not_finite(name, value):
    return "%s is %s: %s" % (show(name), show(value), _FINITE_ONLY)
