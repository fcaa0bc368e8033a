import datetime
import json

from benchmarkai.daemon.backends import BackendBase, Broken
from benchmarkai.stdout import Stdout


class Backend(BackendBase):
    """Print metrics, each as a line of JSON.

    \b
      $ bai-daemon stdout -- bai-emit loss=0.42
      {"time": "2026-01-31T12:00:00.123456789Z", "name": "loss", "value": 0.42, "labels": {}}
    """

    def __init__(self):
        self._stdout = Stdout()

    def send(self, metrics):
        lines = [
            json.dumps(
                {
                    "time": iso(metric.time),
                    "name": metric.name,
                    "value": metric.value,
                    "labels": metric.labels,
                }
            )
            + "\n"
            for metric in metrics
        ]
        try:
            # One by one: a command may print there too.
            self._stdout.write(lines)
        except EnvironmentError as error:
            failure = Broken(error.strerror or str(error))
        else:
            return
        raise failure


def iso(nanoseconds):
    """Return the time as in ISO 8601, in UTC, with all its digits."""
    seconds, rest = divmod(nanoseconds, 10**9)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return "%s.%09dZ" % (moment.strftime("%Y-%m-%dT%H:%M:%S"), rest)
