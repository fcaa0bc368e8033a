"""The contract of a backend, and the errors with which it answers."""

from typing import Any, ClassVar, Mapping, NamedTuple, Optional, Sequence, Tuple

import click

from benchmarkai.daemon.metric import Metric

TIMEOUT = 30  # seconds that a server may be silent


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


class Answer(NamedTuple):
    """What a server has said about the metrics of a request. It has accepted all others.

    rejected: those that it will never accept, each with the reason.
    postponed: those that it is too busy for, or that were not sent. They are sent later.
    unidentified: how many it has rejected without saying which. None of the metrics, except for
        those that are postponed, is sent again.
    reason: why it has postponed some, or rejected some without saying which. Those that are
        postponed without a reason are sent at once.
    retry_after: as in Unavailable, for those that are postponed.
    """

    rejected: Sequence[Tuple[Metric, str]] = ()
    postponed: Sequence[Metric] = ()
    unidentified: int = 0
    reason: str = ""
    retry_after: Optional[float] = None


class Backend:
    """Sends metrics to one kind of server.

    The docstring of a subclass is the help of its command. The values of its options are the
    keyword arguments of its __init__(), which imports the client, so that a missing one is
    reported at the start.

    options: what the command takes besides the common options.
    place: the names of the options that say where the metrics go, such as "url". They tell
        whether what waits in a spool was meant for another place.
    max_batch_size: the number of metrics that send() accepts at once, or None.
    """

    options: ClassVar[Sequence[click.Option]] = ()
    place: ClassVar[Sequence[str]] = ()
    max_batch_size: ClassVar[Optional[int]] = None

    def __init__(self, **options: Any) -> None:
        pass

    def reason_to_reject_labels(self, labels: Mapping[str, str]) -> Optional[str]:
        """Return why the server cannot hold these labels, or None. Does not ask the server."""
        return None

    def reason_to_reject_name(self, name: str) -> Optional[str]:
        """Return why the server cannot hold a metric of this name, or None."""
        return None

    def reason_to_reject(self, metric: Metric) -> Optional[str]:
        """Return why the server cannot hold the value or the time of the metric, or None."""
        return None

    def send(self, metrics: Sequence[Metric]) -> Optional[Answer]:
        """Send the metrics, and return what the server has said; None if it has accepted them all.

        Raises Unavailable; Rejected if the server rejects all because some are bad, and then they
        are sent again in smaller batches; FatalError. Any other error counts as Unavailable.
        """
        raise NotImplementedError
