"""The contract of a backend, and the errors with which it answers."""

from typing import Any, ClassVar, List, Mapping, Optional, Sequence, Tuple

import click

from benchmarkai.daemon.metric import Metric


class Unavailable(Exception):
    """The server does not accept the metrics at the moment. They are sent again.

    retry_after: the seconds after which the server wants to be asked again, or None.
    """

    def __init__(self, reason: str, retry_after: Optional[float] = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Rejected(Exception):
    """The server will never accept these metrics: at least one of them is bad."""


class FatalError(Exception):
    """The backend cannot go on. The daemon ends, and keeps the metrics."""


class Backend:
    """Sends metrics to one kind of server.

    The docstring of a subclass is the help of its command. The values of its options are the
    keyword arguments of its __init__(), which imports the client, so that a missing one is
    reported at the start.

    options: what the command takes besides the common options.
    max_batch_size: the number of metrics that send() accepts at once, or None.
    """

    options: ClassVar[Sequence[click.Option]] = ()
    max_batch_size: ClassVar[Optional[int]] = None

    def __init__(self, **options: Any) -> None:
        pass

    def reason_to_reject_labels(self, labels: Mapping[str, str]) -> Optional[str]:
        """Return why the server cannot hold these labels, or None. Does not ask the server."""
        return None

    def reason_to_reject(self, metric: Metric) -> Optional[str]:
        """Return why the server cannot hold the metric, apart from its labels, or None."""
        return None

    def send(self, metrics: Sequence[Metric]) -> Optional[List[Tuple[Metric, str]]]:
        """Return once the server has accepted the metrics.

        Returns those that it has rejected for good, each with the reason, or None.

        Raises Unavailable; Rejected if the server rejects some without saying which, and then
        all of them are sent again in smaller batches; FatalError. Any other error counts as
        Unavailable.
        """
        raise NotImplementedError
