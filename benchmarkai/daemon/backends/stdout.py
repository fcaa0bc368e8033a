from typing import Sequence

from benchmarkai.daemon.backends import base
from benchmarkai.daemon.backends.documents import Documents
from benchmarkai.daemon.metric import Metric
from benchmarkai.stdout import StdoutSink


class Backend(base.Backend):
    """Print metrics, each as a line of JSON.

    \b
      $ bai-daemon stdout -- bai-emit loss=0.42
      {"time": "2026-01-31T12:00:00.123456789Z", "name": "loss", "value": 0.42, "labels": {}}
    """

    def __init__(self) -> None:
        self._documents = Documents()
        self._stdout = StdoutSink()

    def send(self, metrics: Sequence[Metric]) -> None:
        lines = [document + "}\n" for document in self._documents.write(metrics)]
        try:
            # One by one, because a command may print to the same stdout.
            self._stdout.write(lines)
        except OSError as error:
            raise base.FatalError(error.strerror or str(error)) from error
