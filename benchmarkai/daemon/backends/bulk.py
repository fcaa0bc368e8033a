"""What Elasticsearch and OpenSearch have in common: documents, written in bulk."""

from benchmarkai.daemon.backends import BackendBase, Unavailable, option, secret, url
from benchmarkai.daemon.backends.stdout import iso

_MAPPING = {
    # Without it the type of the first value counts: a long would cut the others, a float is short.
    "properties": {
        "@timestamp": {"type": "date_nanos"},
        "name": {"type": "keyword"},
        "value": {"type": "double"},
    },
    "dynamic_templates": [
        {"labels": {"path_match": "labels.*", "mapping": {"type": "keyword"}}},
    ],
}

_HERE_ALREADY = 409  # the document has come before, and its answer was lost


class BulkBackend(BackendBase):
    """One document a metric, whose id is that of the metric: sent twice, it is there once."""

    options = [
        url("http://localhost:9200", "The server."),
        option("--index", "The index.", default="job-metrics", show_default=True),
        option("--user", "The name of the user, with a password."),
        secret("--password", "the password"),
    ]

    def __init__(self, index):
        self._index = index
        self._has_index = False

    def create_index(self, name, mapping):
        """Make the index unless it exists already. Raises as the client does."""
        raise NotImplementedError

    def bulk(self, operations):
        """Return the answer of the server, a dict. Raises as the client does."""
        raise NotImplementedError

    def failure(self, error):
        """Return Unavailable or Rejected for an error that the client raised, or None."""
        raise NotImplementedError

    def send(self, metrics):
        operations = []
        for metric in metrics:
            operations.append({"create": {"_index": self._index, "_id": metric.id}})
            operations.append(
                {
                    "@timestamp": iso(metric.time),
                    "name": metric.name,
                    "value": metric.value,
                    "labels": metric.labels,
                }
            )
        try:
            if not self._has_index:
                self.create_index(self._index, _MAPPING)
                self._has_index = True
            answer = self.bulk(operations)
        except Exception as error:
            failure = self.failure(error)
            if failure is None:
                raise
        else:
            return _refused(metrics, answer)
        raise failure


def _refused(metrics, answer):
    refused = []
    try:
        results = [(item["create"]["status"], item["create"]) for item in answer["items"]]
    except (KeyError, TypeError):
        results = []
    if len(results) != len(metrics):
        raise Unavailable("the answer has %d items for %d metrics" % (len(results), len(metrics)))
    for metric, (status, result) in zip(metrics, results):
        if status < 300 or status == _HERE_ALREADY:
            continue
        reason = "HTTP %d: %s" % (status, _reason(result.get("error")))
        if status != 400:
            raise Unavailable(reason)  # the others have come: then they are here already
        refused.append((metric, reason))
    return refused


def _reason(error):
    if not isinstance(error, dict):
        return error
    cause = error.get("caused_by") or {}
    return ": ".join(filter(None, [error.get("type"), error.get("reason"), cause.get("reason")]))
