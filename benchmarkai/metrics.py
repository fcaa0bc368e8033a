"""What a metric is, and its JSON. Pure functions from names and numbers to text."""

from benchmarkai._compat import PY2, integer_types, text_types
from benchmarkai.errors import short_repr, shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union  # noqa: F401

# Python 3.11 and newer convert no integer with more digits, and older ones take ever longer.
MAX_DIGITS = 4300

_MAX_FLOAT = 1.7976931348623157e308  # the largest IEEE 754 double

# The characters that JSON strings contain as they are: printable ASCII, except " and \.
_UNESCAPED = (
    " !#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~"
)

_SHORT_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}

# The encoded names, such as '"loss": '. Benchmarks publish the same few names again and again.
_prefixes = {}  # type: Dict[Any, str]
_MAX_PREFIXES = 1024
_MAX_PREFIX_LENGTH = 256

# Encoded lines with %a in place of the numbers, by their names joined with newlines. Names that
# contain one have none: if they join to the text of others, they are too few for that template.
_templates = {}  # type: Dict[str, bytes]
_MAX_TEMPLATES = 128
_MAX_NAMES_LENGTH = 2048

_unicode = text_types[1]

_NOT_FINITE = (
    "JSON (RFC 8259) has no NaN and no infinities, and metrics servers reject or drop them: "
    "leave the metric out, or publish a finite number"
)
_NO_METRICS = 'no metrics to publish: give at least one, such as {"loss": 0.42}'


def encode(pairs, max_line_size=None):
    # type: (Iterable[Tuple[Any, Any]], Optional[int]) -> List[str]
    """Return the metrics as lines, each a JSON object and a newline, in ASCII.

    The text is the same as that of json.dumps().

    pairs: (name, value) of each metric.
    max_line_size: bytes. Metrics that do not fit on one line take several, in order; None
        means always one line.

    Raises TypeError if a name is not text or a value is not a number; ValueError if there are
    no metrics, a name is empty, a value is not finite, or a metric does not fit on a line.
    """
    members = []
    for name, value in pairs:
        kind = type(value)
        if kind is float:
            if not -_MAX_FLOAT <= value <= _MAX_FLOAT:  # also true for NaN
                raise ValueError(_not_finite(name, value))
            number = repr(value)
        elif kind is int:
            number = _encode_integer(name, value)
        else:
            number = _encode_number(name, value)
        try:
            # Only for what is exactly text: a subclass may compare and concatenate in its own way.
            if type(name) is str or type(name) is _unicode:
                members.append(_prefixes[name] + number)
                continue
        except KeyError:
            pass
        members.append(_encode_name(name, value) + number)
    if not members:
        raise ValueError(_NO_METRICS)
    line = _join(members)
    if max_line_size is None or len(line) <= max_line_size:
        return [line]
    return _split(members, max_line_size)


def fill_template(metrics, max_line_size=None):
    # type: (Dict[Any, Any], Optional[int]) -> Optional[bytes]
    """Return the line that encode() returns for the items of a dict, or None: encode() decides.

    It needs a template for the names, and plain floats and ints.
    """
    try:
        # The names are joined as text, whatever a subclass of str says of itself.
        template = _templates["\n".join(metrics)]
        values = tuple(metrics.values())
        for value in values:
            # The difference is NaN for NaN and infinities.
            if type(value) is not float and type(value) is not int or value - value != 0.0:
                return None
        line = template % values
    except (KeyError, TypeError, ValueError):
        return None  # there is no template, a name is not text, or an int has too many digits
    return line if max_line_size is None or len(line) <= max_line_size else None


def make_template(names):
    # type: (Dict[Any, Any]) -> None
    """Make the template for the names of a dict that encode() has accepted, unless they are long.

    It is made when they come for the second time, because some names never come again.

    Python 3.4 cannot fill it, and Python 2 does not: its dict may hold a name twice.
    """
    key = "\n".join(names)
    if len(key) > _MAX_NAMES_LENGTH or key.count("\n") >= len(names):
        return
    if key not in _templates:
        if len(_templates) >= _MAX_TEMPLATES:
            _templates.clear()
        _templates[key] = b""  # which cannot be filled
        return
    members = [_encode_name(name, None).replace("%", "%%") + "%a" for name in names]
    _templates[key] = _join(members).encode("ascii")


def _join(members):
    # type: (Sequence[str]) -> str
    return "{" + ", ".join(members) + "}\n"


def check(pairs):
    # type: (Iterable[Tuple[Any, Any]]) -> None
    """Raise the error that encode() would raise for these pairs on a line of any size."""
    empty = True
    for name, value in pairs:
        empty = False
        kind = type(value)
        if not (kind is float or kind is int) or not -_MAX_FLOAT <= value <= _MAX_FLOAT:
            _encode_number(name, value)
        if type(name) is not _unicode or not name:
            _encode_name(name, value)
    if empty:
        raise ValueError(_NO_METRICS)


def check_unique(pairs):
    # type: (Iterable[Tuple[Any, Any]]) -> None
    """Raise ValueError if two of the (name, value) pairs have the same name."""
    seen = set()
    for name, value in pairs:
        if PY2 and isinstance(name, bytes):
            name = name.decode("utf-8", "replace")
        if name in seen:
            raise ValueError(
                "%s is given twice, the second time as %s: give each metric once"
                % (short_repr(name), short_repr(value))
            )
        seen.add(name)


def _split(members, max_line_size):
    # type: (List[str], int) -> List[str]
    room = max_line_size - len("{}\n")
    lines = []
    first = used = 0
    for index, member in enumerate(members):
        if len(member) > room:
            raise ValueError(
                "%s takes %d bytes as JSON, and a line of the pipe holds %d: shorten the name"
                % (shorten(member), len(member), room)
            )
        if used + len(member) > room:
            lines.append(_join(members[first:index]))
            first, used = index, 0
        used += len(member) + len(", ")
    lines.append(_join(members[first:]))
    return lines


def _encode_name(name, value):
    # type: (Any, Any) -> str
    if not isinstance(name, text_types):
        raise TypeError(
            "the name %s of the value %s is of type %s: a metric's name is text, "
            'such as "alexnet.latency"' % (short_repr(name), short_repr(value), type(name).__name__)
        )
    name = "".join([name])  # exactly text, without what a subclass has made of it
    if not name:
        raise ValueError(
            "the name of the value %s is empty: give it one, such as "
            '"alexnet.latency"' % short_repr(value)
        )
    text = name
    if text.strip(_UNESCAPED):
        if isinstance(text, bytes):  # Python 2
            try:
                text = text.decode("utf-8")
            except UnicodeDecodeError:
                raise ValueError(
                    "the name %s of the value %s is not UTF-8: decode it, and pass it as unicode"
                    % (short_repr(name), short_repr(value))
                )
        # Not json's: loading it takes longer than all else, and fails in a signal handler or while
        # the interpreter ends.
        text = "".join([c if c in _UNESCAPED else _escape(c) for c in text])
    prefix = '"' + str(text) + '": '
    if len(prefix) <= _MAX_PREFIX_LENGTH:
        if len(_prefixes) >= _MAX_PREFIXES:
            _prefixes.clear()
        _prefixes[name] = prefix
    return prefix


def _escape(character):
    # type: (str) -> str
    """Return the escape sequence of a character in a JSON string (RFC 8259, section 7)."""
    short = _SHORT_ESCAPES.get(character)
    if short is not None:
        return short
    code = ord(character)
    if code < 0x10000:
        return "\\u%04x" % code
    code -= 0x10000
    return "\\u%04x\\u%04x" % (0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF))


def _encode_number(name, value):
    # type: (Any, Any) -> str
    if isinstance(value, (bool, bytes, type(None)) + text_types):
        raise TypeError(_not_a_number(name, value))
    if isinstance(value, float):
        if not -_MAX_FLOAT <= float.__float__(value) <= _MAX_FLOAT:
            raise ValueError(_not_finite(name, value))
        # Not repr(): that of a numpy float is np.float64(0.42).
        return float.__repr__(value)
    if not isinstance(value, integer_types):
        value = _convert_scalar(name, value)
        if isinstance(value, float):
            return _encode_number(name, value)
    return _encode_integer(name, value)


def _encode_integer(name, value):
    # type: (Any, int) -> str
    try:
        # Not repr(): a subclass such as IntEnum may have its own. A Python 2 long ends in L.
        return int.__repr__(value) if isinstance(value, int) else integer_types[1].__str__(value)
    except ValueError:  # Python 3.11 limits the digits of an int
        raise ValueError(
            "%s is an integer with more digits than Python converts "
            "(sys.get_int_max_str_digits()): publish it as a float" % short_repr(name)
        )


def _convert_scalar(name, value):
    # type: (Any, Any) -> Union[int, float]
    """Return the int or float to which a scalar of another type converts itself."""
    if not _may_be_number(value):
        raise TypeError(_not_a_number(name, value))
    if hasattr(value, "detach"):
        value = value.detach()  # torch warns when a tensor with a gradient becomes a number
    if hasattr(type(value), "__index__"):
        try:
            return type(value).__index__(value)  # type: ignore[no-any-return]
        except Exception:  # a tensor of floats has the method, and raises
            pass
    if not hasattr(type(value), "__float__") or any(n != 1 for n in getattr(value, "shape", ())):
        raise TypeError(_not_a_number(name, value))
    try:
        return float(value)
    except (OverflowError, ValueError):  # such as Fraction(10 ** 400), Decimal("sNaN")
        raise ValueError(_not_finite(name, value))
    except Exception:  # whatever the type's own code raises
        raise TypeError(_not_a_number(name, value))


def _may_be_number(value):
    # type: (Any) -> bool
    """Return whether a scalar holds a number, as far as the type of its elements tells.

    An array of one string, boolean, date or structure converts itself to a float too.
    """
    if hasattr(value, "encode"):  # like a string
        return False
    dtype = str(getattr(value, "dtype", "float"))
    # Such as "float64", "torch.int8", "<class 'numpy.float32'>"; "[('x', '<i4')]" is a structure.
    # In the other byte order the name is short, such as ">f8".
    kind = dtype.lower()
    if dtype[:1] in ("[", "{") or not (
        "int" in kind or "float" in kind or dtype[:2] in ("<i", ">i", "<u", ">u", "<f", ">f")
    ):
        return False
    mask = getattr(value, "mask", None)  # type: Any  # of numpy's masked arrays: the value is missing
    return not hasattr(mask, "any") or not mask.any()


def _not_a_number(name, value):
    # type: (Any, Any) -> str
    return "%s is %s, of type %s: the value of a metric is one number, such as 0.42" % (
        short_repr(name),
        short_repr(value),
        type(value).__name__,
    )


def _not_finite(name, value):
    # type: (Any, Any) -> str
    return "%s is %s: %s" % (short_repr(name), short_repr(value), _NOT_FINITE)
