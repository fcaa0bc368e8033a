"""The file of what was rejected: one JSON object a line."""

import contextlib
import errno
import io
import json
import os
import stat
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from benchmarkai.daemon.files import remove_files, replace_file
from benchmarkai.daemon.log import log
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.redaction import redact
from benchmarkai.metrics import check
from benchmarkai.stdout import write_all

Entry = Mapping[str, Any]


class RejectsFile:
    """Keeps rejected lines and metrics, up to a limit.

    path: the path of the file.
    limit: its maximum size in bytes. What is rejected beyond it is counted, and not kept.
    """

    def __init__(self, path: str, limit: int) -> None:
        self.path = path
        self._limit = limit
        self._retried = path[: -len(".refused")] + ".retried"
        self._told = False

    def append(self, entries: Sequence[Entry]) -> None:
        """Append the entries.

        Raises OSError if the file cannot be written, and then has written nothing.
        """
        self._append(b"".join(map(_encode, entries)))

    def absorb(self, other: "RejectsFile") -> None:
        """Move what is in another file to this one, unless there is no room for it.

        Raises OSError, and then nothing has been moved.
        """
        try:
            with open(other.path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return
        if self._append(data):
            os.unlink(other.path)

    def _append(self, data: bytes) -> bool:
        """Append the data, and return whether it was within the limit."""
        # With O_NONBLOCK, a pipe that somebody has put there is not waited for.
        flags = os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self.path, flags, 0o600)
        with contextlib.closing(io.FileIO(descriptor, "r+")) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise OSError(errno.EPERM, "it is not a regular file of this user")
            if status.st_size and os.pread(descriptor, 1, status.st_size - 1) != b"\n":
                data = b"\n" + data  # somebody has edited the file
            if status.st_size + len(data) > self._limit:
                self._tell()
                return False
            self._told = False
            try:
                write_all(file, data)
            except OSError:
                os.ftruncate(file.fileno(), status.st_size)
                raise
            return True

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            log.error(
                "%s has reached its limit of %d bytes: what is rejected from now on is counted, "
                "and not kept; move the file away, or raise --refused-limit",
                self.path,
                self._limit,
            )

    # Taking metrics back goes in steps, each of which may be the last one of this process:
    # set_aside(), then take_back(), then the caller stores the metrics, then done(). The next
    # process goes on from take_back(). Until done(), nothing is delivered or rejected.

    def set_aside(self) -> None:
        """Begin to take back the metrics that are in the file now."""
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, self._retried)

    def take_back(self, default_id: str) -> List[Metric]:
        """Return the metrics that were set aside, if there are any. Other entries stay.

        default_id: the prefix of the ids of metrics that were kept without one.
        """
        try:
            with open(self._retried, "rb") as file:
                lines = file.read().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        metrics: List[Metric] = []
        others = bytearray()
        for line in lines:
            metric = _decode(line, default_id)
            if metric is None:
                others += line
            else:
                metrics.append(metric)
        if others and not os.path.exists(self.path):
            replace_file(self.path, bytes(others)).close()
        return metrics

    def done(self) -> None:
        """End taking back: the metrics are stored elsewhere."""
        remove_files(self._retried)


def metric_entry(metric: Metric, reason: str) -> Entry:
    return {**_describe(metric), "reason": redact(reason)}


def batch_entry(metrics: Sequence[Metric], rejected: int, reason: str) -> Entry:
    """Return one entry for metrics of which so many were rejected, nobody knows which.

    It cannot be taken back, because all others would be sent twice.
    """
    return {
        "metrics": [_describe(metric) for metric in metrics],
        "rejected": rejected,
        "reason": f"{rejected} of these {len(metrics)}: {redact(reason)}",
    }


def line_entry(line: bytes, reason: str, time: int) -> Entry:
    return {"time": time, "line": line.decode("utf-8", "backslashreplace"), "reason": reason}


def _describe(metric: Metric) -> Dict[str, Any]:
    return {
        "id": metric.id,
        "time": metric.time,
        "name": metric.name,
        "value": metric.value,
        "labels": metric.labels,
    }


def _encode(entry: Entry) -> bytes:
    return json.dumps(entry).encode("ascii") + b"\n"


def _decode(line: bytes, default_id: str) -> Optional[Metric]:
    """Return the metric on the line, or None if it is something else."""
    try:
        entry = json.loads(line)
        time, name, value, labels = (entry[key] for key in ("time", "name", "value", "labels"))
        pair: Tuple[str, Any] = (name, value)
        check([pair])
        texts = [*labels, *labels.values(), entry.get("id", "")]
        "".join([name, *texts]).encode("utf-8")  # or it has half a character
        if type(time) is not int or not 0 <= time < 1 << 63:
            return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return Metric(entry.get("id") or f"{default_id}-{time}", time, name, value, labels)
