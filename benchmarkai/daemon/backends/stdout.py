import datetime
import json
import sys

from benchmarkai.daemon.backends import BackendBase


class Backend(BackendBase):
    """Print each metric as a line of JSON: its time, name, value, labels.

    \b
      $ bai-daemon stdout -- bai-emit loss=0.42
      {"time": "2026-01-31T12:00:00.123456789Z", "name": "loss", "value": 0.42, "labels": {}}
    """

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
        sys.stdout.write("".join(lines))
        sys.stdout.flush()


def iso(nanoseconds):
    """Return the time as in ISO 8601, in UTC, with all its digits."""
    seconds, rest = divmod(nanoseconds, 10**9)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return "%s.%09dZ" % (moment.strftime("%Y-%m-%dT%H:%M:%S"), rest)
