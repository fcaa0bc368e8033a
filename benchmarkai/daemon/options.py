"""The options of bai-daemon, and what the options of its backends are made of."""

import os
import unicodedata
from typing import Any, Callable, Dict, Optional, Pattern, Sequence

import click

from benchmarkai import settings
from benchmarkai.daemon.redaction import protect

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def option(name: str, help: str, **attributes: Any) -> click.Option:
    """Return an option that may also be given by the variable BAI_DAEMON_NAME."""
    attributes.setdefault("callback", _reject_empty)
    attributes.setdefault("envvar", variable(name))
    return click.Option([name], help=help, show_envvar=True, **attributes)


def pairs_option(
    name: str, help: str, check: Callable[[Dict[str, str]], Any] = lambda pairs: None
) -> click.Option:
    """Return an option for NAME=VALUE, which may be repeated. Its value is a dict.

    In its variable, the pairs are on lines, as a value may contain spaces.

    check: called with the dict; raises click.BadParameter.
    """

    def parse(
        context: click.Context, parameter: click.Parameter, words: Sequence[str]
    ) -> Dict[str, str]:
        pairs = _parse_pairs(context, parameter, [word for word in words if word.strip()])
        check(pairs)
        return pairs

    return option(
        name,
        help + " May be repeated.",
        metavar="NAME=VALUE",
        multiple=True,
        type=_Line(),
        callback=parse,
    )


def secret_pairs_option(
    name: str,
    help: str,
    names: Pattern[str],
    is_secret: Callable[[str], Any] = bool,
    check: Callable[[Dict[str, str]], Any] = lambda pairs: None,
) -> click.Option:
    """Return an option for a file with a secret NAME=VALUE on each line. Its value is a dict.

    names: matches all of each NAME.
    is_secret: whether the value of this name is one.
    check: called with the dict; raises click.BadParameter, whose message shows no value.
    """

    def read(
        context: click.Context, parameter: click.Parameter, path: Optional[str]
    ) -> Dict[str, str]:
        if path is None:
            return {}
        _note_secret_file(context, parameter, path)
        pairs: Dict[str, str] = {}
        # No message shows what is in the file.
        try:
            lines = read_file(path).decode("utf-8").splitlines()
        except UnicodeDecodeError:
            raise click.BadParameter(f"{path!r} is not UTF-8 text") from None
        for number, line in enumerate(lines, 1):
            key, _, value = (part.strip() for part in line.partition("="))
            if line.strip():
                if is_secret(key):
                    protect(value)
                if not (value and names.fullmatch(key)) or key in pairs:
                    raise click.BadParameter(
                        f"line {number} of {path!r} is not NAME=VALUE, with another NAME each"
                    )
                pairs[key] = value
        check(pairs)
        return pairs

    return click.Option(
        [name],
        type=click.Path(allow_dash=True),
        callback=read,
        envvar=variable(name),
        show_envvar=True,
        metavar="FILE",
        help=help,
    )


def file_option(name: str, help: str) -> click.Option:
    """Return an option for the path of a file. Its value is absolute."""
    path = click.Path(exists=True, dir_okay=False, readable=True)
    return option(name, help, metavar="FILE", type=path, callback=_absolute_path)


def url_option(default: str, help: str, name: str = "--url") -> click.Option:
    """Return an option for the URL of a server."""
    return option(name, help, metavar="URL", default=default, show_default=True, callback=check_url)


def user_option() -> click.Option:
    """Return an option for the name of a user, who has a password."""
    return option("--user", "The user name; see --password-file.", callback=_check_user)


def secret_option(name: str, description: str, is_ascii: bool = False) -> click.Option:
    """Return an option for a file with a secret; a variable may hold the secret instead.

    On the command line all users of the machine could read it.

    is_ascii: whether the secret is sent as it is in a header, which holds nothing else.
    """

    def read(
        context: click.Context, parameter: click.Parameter, path: Optional[str]
    ) -> Optional[str]:
        if path is None:
            source, data = variable(name), os.environb.get(os.fsencode(variable(name)))
        else:
            source, data = repr(path), read_file(path)
            _note_secret_file(context, parameter, path)
        if data is None:
            return None
        try:
            secret = _parse_secret(data, is_ascii)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint=source) from None
        protect(secret)
        return secret

    file_variable = variable(name + "-file")
    return click.Option(
        [name + "-file", name.lstrip("-").replace("-", "_")],
        type=click.Path(allow_dash=True),
        callback=read,
        envvar=file_variable,
        metavar="FILE",
        help=f"A file with {description}; {variable(name)} may hold it instead.  "
        f"[env var: {file_variable}]",
    )


def secret_files(context: click.Context) -> Dict[str, str]:
    """Return the paths of the files that secrets were read from, by the name of the parameter."""
    files: Dict[str, str] = context.meta.setdefault(__name__ + ".secret_files", {})
    return files


def _note_secret_file(context: click.Context, parameter: click.Parameter, path: str) -> None:
    absolute = path if path == "-" else os.path.abspath(path)
    secret_files(context)[parameter.name or ""] = absolute


def variable(name: str) -> str:
    """Return the environment variable for the option of this name."""
    return "BAI_DAEMON_" + name.lstrip("-").upper().replace("-", "_")


def read_file(path: str) -> bytes:
    """Return what is in a file; - is stdin. Raises click.BadParameter."""
    try:
        with click.open_file(path, "rb") as file:
            data: bytes = file.read()
            return data
    except OSError as error:
        raise click.BadParameter(f"{path!r}: {error.strerror}") from error


def _reject_empty(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    if value == "":
        raise click.BadParameter("it is empty")
    return value


def check_url(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Return the URL without a slash at its end. A callback of click."""
    # The order matters: a message shows the value only if it cannot hold a password.
    if "@" in value:
        raise click.BadParameter("leave out the user and the password: --help shows their options")
    if "?" in value or "#" in value:
        raise click.BadParameter("leave out what follows the ? or #: a path is appended to the URL")
    if not value.startswith(("http://", "https://")):
        raise click.BadParameter(f"{value!r} starts with neither http:// nor https://")
    return value.rstrip("/")


def _check_user(
    context: click.Context, parameter: click.Parameter, value: Optional[str]
) -> Optional[str]:
    if value is None:
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise click.BadParameter(f"{value!r} is not UTF-8") from None
    if ":" in value or _has_control_characters(value):
        # The value may be USER:PASSWORD.
        raise click.BadParameter(
            "it has a colon or a control character, which Basic authentication cannot express; "
            "see --password-file for the password"
        )
    _reject_empty(context, parameter, value)
    return value


def _parse_secret(data: bytes, is_ascii: bool) -> str:
    """Return the secret. The message of a ValueError does not show it."""
    try:
        secret = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text: write nothing but the secret, in UTF-8") from None
    if _has_control_characters(secret):
        raise ValueError(
            "it has a line break or another control character: write nothing but the secret, on "
            "one line"
        )
    if is_ascii and not (secret.isascii() and secret.isprintable()):
        raise ValueError("it has a character that is not printable ASCII: copy the secret again")
    return secret


def _has_control_characters(text: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text)


class _Line(click.types.StringParamType):
    name = "text"
    envvar_list_splitter = "\n"


def _parse_pairs(
    context: click.Context, parameter: click.Parameter, words: Sequence[str]
) -> Dict[str, str]:
    pairs: Dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if not (name and value):
            raise click.BadParameter(f"{word!r} is not NAME=VALUE")
        try:
            word.encode("utf-8")
        except UnicodeEncodeError:
            raise click.BadParameter(f"{word!r} is not UTF-8") from None
        if name in pairs:
            raise click.BadParameter(f"{name!r} is given twice")
        pairs[name] = value
    return pairs


def _absolute_path(
    context: click.Context, parameter: click.Parameter, path: Optional[str]
) -> Optional[str]:
    return None if path is None else os.path.abspath(path)


def _parse_size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    unit = _UNITS.get(value[-1:].upper(), 1)
    try:
        size = int(value[:-1] if unit > 1 else value) * unit
    except ValueError:
        size = 0
    if size <= 0:
        raise click.BadParameter(f"{value!r} is not a size: write bytes, such as 500M or 2G")
    return size


def _parse_time_step(context: click.Context, parameter: click.Parameter, value: str) -> int:
    number = value.rstrip("nusm")
    factor = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}.get(value[len(number) :], 0)
    if value == "0":
        return 0
    if not (number.isdecimal() and number.isascii() and 0 < int(number) * factor <= 10**9):
        raise click.BadParameter(f"{value!r} is not a time of up to 1s: write 1ms, or 0 for none")
    return int(number) * factor


def _parse_mode(context: click.Context, parameter: click.Parameter, value: str) -> int:
    try:
        mode = int(value, 8)
    except ValueError:
        mode = 0
    if not 0o200 <= mode <= 0o777:
        raise click.BadParameter(f"{value!r} is not a file mode: write it in octal, such as 0622")
    return mode


# What every backend's command takes besides its own options.
COMMON: Sequence[click.Parameter] = [
    click.Argument(
        ["command"],
        nargs=-1,
        type=click.UNPROCESSED,
        metavar="[-- COMMAND...]",
        shell_complete=click.Path().shell_complete,
    ),
    click.Option(
        ["--fifo"],
        metavar="PATH",
        type=click.Path(readable=False),
        default=settings.DEFAULT_FIFO_PATH,
        envvar=settings.FIFO_PATH,
        show_default=True,
        show_envvar=True,
        help="The named pipe. With a command, it is in a temporary folder by default.",
    ),
    option(
        "--fifo-mode",
        "File mode of the pipe: who may write to it. Others should not read.",
        metavar="MODE",
        callback=_parse_mode,
        default="0622",
        show_default=True,
    ),
    option(
        "--label",
        "A label for all metrics, such as run=42. May be repeated.",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_parse_pairs,
    ),
    option(
        "--no-name-labels",
        'Read no labels in names such as latency{model="alexnet"}.',
        is_flag=True,
    ),
    option(
        "--time-step",
        "Shortest time between metrics of a series: 1ms for a server that keeps milliseconds.",
        metavar="TIME",
        callback=_parse_time_step,
        default="0",
        show_default=True,
    ),
    option(
        "--spool",
        "The file in which metrics wait for the server.  [default: next to the pipe]",
        metavar="PATH",
        type=click.Path(readable=False),
    ),
    option(
        "--spool-limit",
        "Maximum spool size: bytes, or a suffix K, M or G. Emitters block once it is reached.",
        metavar="SIZE",
        callback=_parse_size,
        default="1G",
        show_default=True,
    ),
    option(
        "--refused-limit",
        "Maximum size of SPOOL.refused. What is rejected beyond it is counted, but not kept.",
        metavar="SIZE",
        callback=_parse_size,
        default="64M",
        show_default=True,
    ),
    click.Option(
        ["--retry-refused"],
        is_flag=True,
        help="Take the metrics in SPOOL.refused back into the spool, and send them again.",
    ),
    option(
        "--batch-size",
        "Maximum number of metrics in a request.",
        metavar="N",
        type=click.IntRange(min=1),
        default=1000,
        show_default=True,
    ),
    option(
        "--flush-interval",
        "How long metrics wait for a batch to fill.",
        metavar="SECONDS",
        type=click.FloatRange(min=0.001, max=3600),
        default=1.0,
        show_default=True,
    ),
    option(
        "--shutdown-timeout",
        "Time for the last deliveries; after a command, time without any progress.",
        metavar="SECONDS",
        type=click.FloatRange(min=0),
        default=8.0,
        show_default=True,
    ),
    option(
        "--status-interval",
        "Time between log lines with the status, if there is news; 0 for none.",
        metavar="SECONDS",
        type=click.FloatRange(min=0),
        default=60.0,
        show_default=True,
    ),
    option(
        "--log-level",
        "The lowest level to log, on stderr.",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default="info",
        show_default=True,
    ),
]
