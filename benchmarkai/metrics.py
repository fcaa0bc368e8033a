"""What a metric is, and its JSON: pure functions from names and numbers to text."""

from benchmarkai._compat import PY2, integer_types, text_types

_LARGEST = 1.7976931348623157e308  # of an IEEE 754 double

# What JSON shows as it is: printable ASCII but for the quote and the backslash.
_ORDINARY = "".join(map(chr, range(0x20, 0x7F))).replace('"', "").replace("\\", "")

# float() takes an array of one such element, but what comes out is not the number it held.
_NOT_NUMBERS = ("bool", "complex", "datetime", "timedelta", "<U", ">U", "|S")

# The names seen so far, ready for the line: benchmarks publish the same few again and again.
_members = {}
_REMEMBERED = 1024
_LONGEST_REMEMBERED = 256

_FINITE_ONLY = (
    "JSON (RFC 8259) has no NaN and no infinities, and metrics servers refuse or drop them: "
    "leave the metric out, or publish a finite number"
)


def members(pairs):
    """Return the members of a JSON object, one text a metric, such as '"loss": 0.42'.

    pairs: an iterable of (name, value). The texts are those of json.dumps().

    Raises TypeError for what is no name or no number, and ValueError for an empty name, a
    name given twice, a number that is not finite, and no metrics at all.
    """
    texts = []
    for name, value in pairs:
        kind = type(value)
        if kind is float:
            if not -_LARGEST <= value <= _LARGEST:
                raise ValueError(_not_finite(name, value))
            number = repr(value)
        elif kind is int:
            try:
                number = repr(value)
            except ValueError:  # Python 3.11 limits the digits of an int
                raise ValueError(_too_many_digits(name))
        else:
            number = _number(name, value)
        try:
            texts.append(_members[name] + number)
        except (KeyError, TypeError):
            texts.append(_member(name, value) + number)
    if not texts:
        raise ValueError('no metrics to publish: give at least one, such as {"loss": 0.42}')
    return texts


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


def lines(texts, longest=None):
    """Return the lines that carry these members, each a JSON object and a newline.

    longest: the most bytes of a line; the members go on several lines, in order, where one
    would be longer. Without it there is one line.

    Raises ValueError for a member that is too long for a line of its own.
    """
    line = "{" + ", ".join(texts) + "}\n"
    if longest is None or len(line) <= longest:
        return [line]
    room = longest - len("{}\n")
    result = []
    first = used = 0
    for index, text in enumerate(texts):
        if len(text) > room:
            raise ValueError(
                "%s takes %d bytes as JSON, and a line of the pipe holds %d: shorten the name"
                % (_shorten(text), len(text), room)
            )
        if used + len(text) > room:
            result.append("{" + ", ".join(texts[first:index]) + "}\n")
            first, used = index, 0
        used += len(text) + len(", ")
    result.append("{" + ", ".join(texts[first:]) + "}\n")
    return result


def show(value):
    """Return one short line that shows the value in an error message."""
    try:
        text = repr(value)
    except Exception:  # the value's own code, and integers beyond Python's limit of digits
        text = "a value of type " + type(value).__name__
    if PY2 and text[:2] in ("u'", 'u"'):
        text = text[1:]
    return _shorten(" ".join(text.split()))


def _shorten(text):
    return text if len(text) <= 80 else text[:60] + "..." + text[-17:]


def _member(name, value):
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
    member = quoted + ": "
    if len(member) <= _LONGEST_REMEMBERED:
        if len(_members) >= _REMEMBERED:
            _members.clear()
        _members[name] = member
    return member


def _number(name, value):
    if isinstance(value, (bool, bytes, type(None)) + text_types):
        raise TypeError(_not_a_number(name, value))
    if isinstance(value, float):
        if not -_LARGEST <= float(value) <= _LARGEST:
            raise ValueError(_not_finite(name, value))
        # The float's own: numpy's repr() is np.float64(0.42).
        return float.__repr__(value)
    try:
        if not isinstance(value, integer_types):
            value = _converted(name, value)
            if isinstance(value, float):
                return _number(name, value)
        # A subclass such as IntEnum may show itself otherwise; a Python 2 long ends in L.
        return int.__repr__(value) if isinstance(value, int) else str(value)
    except ValueError as error:
        if "digits" in str(error):
            raise ValueError(_too_many_digits(name))
        raise


def _converted(name, value):
    """Return the int or float that a number of another type converts itself to."""
    if any(word in str(getattr(value, "dtype", "")) for word in _NOT_NUMBERS):
        raise TypeError(_not_a_number(name, value))
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


def _too_many_digits(name):
    return (
        "%s is an integer of more digits than Python writes (sys.get_int_max_str_digits()): "
        "publish it as a float" % show(name)
    )
