"""What Elasticsearch and OpenSearch have in common: documents, written in bulk."""

from typing import Any, Dict, List, Mapping, NoReturn, Sequence, Tuple, Union

from benchmarkai.daemon.backends import base
from benchmarkai.daemon.backends.base import Answer, Rejected, Unavailable
from benchmarkai.daemon.metric import Metric, format_time
from benchmarkai.daemon.options import option, secret_option, url_option, user_option

_MAPPING = {
    # Without it, the first value decides on the type: a long would truncate later values, and a
    # float would round them.
    "properties": {
        "@timestamp": {"type": "date_nanos"},
        "name": {"type": "keyword"},
        "value": {"type": "double"},
    },
    "dynamic_templates": [
        {"labels": {"path_match": "labels.*", "mapping": {"type": "keyword"}}},
    ],
}

_TOO_LARGE = 413
_CONFLICT = 409  # the document was indexed before, and the response got lost


class BulkBackend(base.Backend):
    """Writes a document for each metric. Its id is that of the metric, so a retry is harmless."""

    options = [
        url_option("http://localhost:9200", "The server."),
        option("--index", "The index.", default="job-metrics", show_default=True),
        user_option(),
        secret_option("--password", "the password"),
    ]
    place = ["url", "index"]

    def __init__(self, index: str) -> None:
        self._index = index
        self._has_index = False

    def create_index(self, name: str, mapping: Mapping[str, Any]) -> None:
        """Create the index. Raises whatever the client raises."""
        raise NotImplementedError

    def bulk(self, operations: Sequence[Mapping[str, Any]]) -> Any:
        """Return the response of the server, a dict. Raises whatever the client raises."""
        raise NotImplementedError

    def error_from(self, error: Exception) -> Union[None, Unavailable, Rejected]:
        """Return what an error that the client has raised means, or None if the client did not."""
        raise NotImplementedError

    def send(self, metrics: Sequence[Metric]) -> Answer:
        operations: List[Dict[str, Any]] = []
        for metric in metrics:
            operations.append({"create": {"_index": self._index, "_id": metric.id}})
            operations.append(
                {
                    "@timestamp": format_time(metric.time),
                    "name": metric.name,
                    "value": metric.value,
                    "labels": metric.labels,
                }
            )
        if not self._has_index:
            self._ensure_index()
        try:
            response = self.bulk(operations)
        except Exception as error:
            self._raise_failure(
                error,
                f"cannot write to the index {self._index!r}",
                is_too_large=getattr(error, "status_code", None) == _TOO_LARGE,
            )
        return Answer(_rejected_items(metrics, response))

    def _ensure_index(self) -> None:
        try:
            self.create_index(self._index, _MAPPING)
        except Exception as error:
            if getattr(error, "error", None) != "resource_already_exists_exception":
                self._raise_failure(error, f"cannot create the index {self._index!r}")
        self._has_index = True

    def _raise_failure(
        self, error: Exception, problem: str, is_too_large: bool = False
    ) -> NoReturn:
        """Raise what an error means that the client has raised.

        The response to a request names the metrics that are rejected. If the server rejects the
        request itself, the settings are wrong, unless it is too large: then it is split.
        """
        failure = self.error_from(error)
        if failure is None:
            raise error
        if isinstance(failure, Rejected) and not is_too_large:
            failure = Unavailable(f"{problem}: {failure}")
        raise failure from error


def _rejected_items(metrics: Sequence[Metric], response: Any) -> List[Tuple[Metric, str]]:
    try:
        items = [item["create"] for item in response["items"]]
        statuses = [item["status"] for item in items]
    except (KeyError, TypeError):
        items = statuses = []
    if len(items) != len(metrics):
        raise Unavailable(f"the response has {len(items)} items instead of {len(metrics)}")
    rejected = []
    for metric, item, status in zip(metrics, items, statuses):
        if status < 300 or status == _CONFLICT:
            continue
        reason = f"HTTP {status}: {_describe(item.get('error'))}"
        if status != 400:
            raise Unavailable(reason)  # a retry finds the accepted ones with _CONFLICT
        rejected.append((metric, reason))
    return rejected


def _describe(error: Any) -> str:
    if not isinstance(error, dict):
        return str(error)
    cause = error.get("caused_by") or {}
    return ": ".join(filter(None, [error.get("type"), error.get("reason"), cause.get("reason")]))
