"""What a backend is, and which there are."""

import email.utils
import importlib
import os
import time

import click

# The modules, each with one class named Backend, in the order of the help.
NAMES = ["stdout", "elasticsearch", "opensearch", "cloudwatch", "prometheus", "influxdb", "otlp"]

TIMEOUT = 30  # seconds that a request may take

_LONGEST_RETRY_AFTER = 3600.0  # seconds


class Unavailable(Exception):
    """The server cannot take the metrics for now: they are sent again.

    retry_after: the seconds after which the server wants to be asked again, or None.
    """

    def __init__(self, reason, retry_after=None):
        super(Unavailable, self).__init__(reason)
        self.retry_after = retry_after


class Rejected(Exception):
    """The server will never take these metrics as they are: one of them at least is bad."""


class Broken(Exception):
    """The backend cannot go on: the daemon ends, and keeps the metrics."""


class BackendBase(object):
    """Sends metrics to a server of one kind. The docstring of a class is its text of help.

    extra: what pip installs for it, if it needs anything.
    options: click options, whose values __init__() is called with.
    most: the metrics that it can take at once, or None.

    __init__() imports the client, so that its absence is found at the start.
    """

    extra = None
    options = ()
    most = None

    def objection(self, metric):
        """Return why the server cannot hold the metric as it is, or None. No server is asked."""

    def send(self, metrics):
        """Return when the server has taken the metrics (Metric), all with finite values.

        It may return a list of (metric, reason): those that the server refused for good.

        Raises Unavailable, or Rejected if it cannot tell which of them the server refuses; what
        it did take of them is sent again. Other errors are taken for Unavailable.
        """
        raise NotImplementedError


def load(name):
    return importlib.import_module("benchmarkai.daemon.backends." + name).Backend


def option(name, text, **more):
    """Return a click option that may also be given by the variable BAI_DAEMON_NAME."""
    more.setdefault("callback", _not_empty)
    return click.option(name, help=text, envvar=variable(name), show_envvar=True, **more)


def variable(name):
    return "BAI_DAEMON_" + name.lstrip("-").upper().replace("-", "_")


def _not_empty(context, parameter, value):
    if value == "":
        raise click.BadParameter("it is empty")
    return value


def secret(name, text):
    """Return a click option for the file of a secret, which may also be in a variable.

    On the command line everybody could read it.
    """

    def value(context, parameter, file):
        return file.read().strip() if file else os.environ.get(variable(name))

    return click.option(
        name + "-file",
        name.lstrip("-").replace("-", "_"),
        type=click.File(),
        callback=value,
        envvar=variable(name + "-file"),
        metavar="FILE",
        help="The file with %s; or put it into %s.  [env var: %s]"
        % (text, variable(name), variable(name + "-file")),
    )


def url(default, text, name="--url"):
    def checked(context, parameter, value):
        if "@" in value.split("//")[-1].split("/")[0]:
            raise click.BadParameter("leave the user and the password out: see --help for them")
        if not value.startswith(("http://", "https://")):
            raise click.BadParameter("%r begins with neither http:// nor https://" % value)
        return value.rstrip("/")

    return option(name, text, metavar="URL", default=default, show_default=True, callback=checked)


def retry_after(headers):
    """Return the seconds of a Retry-After header (RFC 9110, 10.2.3), an hour at most, or None."""
    value = (headers or {}).get("Retry-After")
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            then = email.utils.parsedate_to_datetime(value)
            seconds = then.timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(0.0, seconds), _LONGEST_RETRY_AFTER) if seconds == seconds else None


def check_answer(status, reason, headers=None):
    """Raise Rejected or Unavailable unless the status of an answer of HTTP says it went well."""
    if status < 300:
        return
    reason = "HTTP %d: %s" % (status, " ".join(str(reason).split())[:300])
    # The others may end when somebody has mended the server, the database, or the rights.
    if status in (400, 413, 422):
        raise Rejected(reason)
    raise Unavailable(reason, retry_after(headers))
