"""What Elasticsearch and OpenSearch have in common: documents, written in bulk."""

import json
from typing import Any, ClassVar, List, Mapping, Optional, Sequence, Set, Tuple
from urllib.parse import quote

from benchmarkai.daemon.backends import base, http
from benchmarkai.daemon.backends.base import Answer, Rejected, Unavailable
from benchmarkai.daemon.backends.documents import Documents, encode_text
from benchmarkai.daemon.log import count, log
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.options import option, url_option

# No built-in index template applies to it, as they are for names such as metrics-*-*:
# https://www.elastic.co/docs/manage-data/data-store/templates
_DEFAULT_INDEX = "benchmark-metrics"

# Above those of Elastic's own templates (same page), for a data stream to which none of them
# applies, but perhaps one for plain indices.
_TEMPLATE_PRIORITY = 501

# The response has only what _make_answer() reads. The commas and asterisks are encoded as AWS's
# signatures require.
_BULK = "/_bulk?filter_path=items.%2A.status%2Citems.%2A.error%2Citems.%2A.failure_store"

_JSON = {"Content-Type": "application/json"}
_NDJSON = {"Content-Type": "application/x-ndjson"}

_TOO_LARGE = 413
_CONFLICT = 409  # the document was indexed before, and the response got lost
# Or, in a time series data stream, which makes the id itself:
_SAME_TIME = ": a metric with this time and these dimensions exists; see --time-step"

_EXISTS = "resource_already_exists_exception"

# A blocked cluster is not a missing permission, although both are HTTP 403.
_BLOCKED = "cluster_block_exception"

# HTTP 400 for an index that is there under this name in another form, or that comes into being
# with the types of a template: an alias has the name, or a template for data streams applies.
_NOT_AN_INDEX = ("invalid_index_name_exception", "illegal_argument_exception")

# HTTP 400 for a document, although the index is at fault:
# https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-indices-close
# https://www.elastic.co/docs/manage-data/data-store/aliases#write-index
_WRONG_SETTINGS = ("index_closed_exception", "invalid_index_name_exception")
_NO_WRITE_INDEX = "no write index is defined for alias"


class BulkBackend(base.Backend):
    """Writes a document for each metric. Its id is that of the metric, so a retry is harmless.

    product: the server.
    labels_since: the first one that has the type of the labels.
    labels_mapping: that type. Labels such as a=1 and a.b=2 go together in one document.
    """

    product: ClassVar[str]
    labels_since: ClassVar[str]
    labels_mapping: ClassVar[Mapping[str, Any]]

    options = [
        url_option("http://localhost:9200", "The server."),
        option("--index", f"The index, or an alias for it.  [default: {_DEFAULT_INDEX}]"),
        option("--data-stream", "The data stream, in place of an index.", metavar="NAME"),
        option(
            "--no-ids",
            "Let the server choose the ids, where it accepts no others. Each metric is stored at "
            "least once: twice, if a response is lost.",
            is_flag=True,
        ),
    ]
    place = ["url", "index", "data_stream"]

    def __init__(
        self,
        url: str,
        index: Optional[str] = None,
        data_stream: Optional[str] = None,
        no_ids: bool = False,
        **connection: Any,
    ) -> None:
        if index and data_stream:
            raise ValueError("give either --index or --data-stream, not both")
        name = data_stream or index or _DEFAULT_INDEX
        self._target = f"the {'data stream' if data_stream else 'index'} {name!r}"
        self._name = name
        self._path = "/" + quote(name, safe="")
        self._is_data_stream = bool(data_stream)
        self._has_ids = not no_ids
        self._documents = Documents("@timestamp", (",", ":"))
        self._client = http.Client(url, **connection)
        self._is_ready = False  # whether the target exists, or is not ours to create
        self._has_warned = False
        self._uncertain: Set[str] = set()  # ids of metrics whose response got lost

    def send(self, metrics: Sequence[Metric]) -> Optional[Answer]:
        if not self._is_ready:
            if not self._exists():
                self._create()
            self._is_ready = True
        body = self._make_body(metrics)
        is_uncertain = True
        try:
            response = self._client.request("POST", self._path + _BULK, body, _NDJSON)
            is_uncertain = not 400 <= response.status < 500
            failure = http.error_for(response.status, _reason(response), response.headers)
            if isinstance(failure, Rejected) and response.status != _TOO_LARGE:
                # A bad metric is named by its item. Here the settings are wrong.
                failure = Unavailable(f"cannot write to {self._target}: {failure}")
            if failure is not None:
                raise failure
            return self._make_answer(metrics, response)
        except Unavailable:
            # The server may come back without its data, and would create the index by itself.
            self._is_ready = False
            if is_uncertain:
                self._uncertain = {metric.id for metric in metrics}
            raise

    def _make_body(self, metrics: Sequence[Metric]) -> bytes:
        lines: List[str] = []
        operation = '{"create":{}}'
        for metric, document in zip(metrics, self._documents.write(metrics)):
            if self._has_ids:
                operation = f'{{"create":{{"_id":{encode_text(metric.id)}}}}}'
            lines.append(f"{operation}\n{document}}}\n")
        return "".join(lines).encode("ascii")

    def _make_answer(self, metrics: Sequence[Metric], response: Any) -> Optional[Answer]:
        try:
            items = [item["create"] for item in json.loads(response.data)["items"]]
            statuses = [item["status"] for item in items]
        except (ValueError, KeyError, TypeError):
            items = statuses = []
        if len(items) != len(metrics):
            raise Unavailable(
                f"unexpected response, HTTP {response.status}, with {count(len(items), 'item')} "
                f"instead of {len(metrics)}; is this {self.product}?"
            )
        rejected: List[Tuple[Metric, str]] = []
        postponed: List[Metric] = []
        reasons: List[str] = []
        for metric, item, status in zip(metrics, items, statuses):
            if item.get("failure_store") == "used":
                rejected.append((metric, f"it is in the failure store of {self._target} only"))
                continue
            if status < 300:
                continue
            error = item.get("error")
            reason = f"HTTP {status}: {_describe(error)}"
            if status == _CONFLICT:
                if not (self._has_ids or metric.id in self._uncertain):
                    rejected.append((metric, reason + _SAME_TIME))
            elif status == 400 and not _is_about_settings(error):
                rejected.append((metric, reason))
            else:
                postponed.append(metric)
                reasons.append(reason)
        if not (rejected or postponed):
            return None
        if len(postponed) == len(metrics):
            raise Unavailable(reasons[0])
        return Answer(rejected, postponed, reason=reasons[0] if reasons else "")

    def _exists(self) -> bool:
        """Return whether the target exists, or False if the server does not say.

        With local, the node that gets the request answers from its own copy of the cluster state.
        Without it, all daemons would ask the master node (before Elasticsearch 9.1):
        https://www.elastic.co/docs/api/doc/elasticsearch/v8/operation/operation-indices-exists
        https://github.com/elastic/elasticsearch/pull/125652
        """
        response = self._client.request("HEAD", self._path + "?local=true")
        if response.status < 300:
            # A login page looks like this for anything.
            return "json" in response.headers.get("Content-Type", "")
        if 400 <= response.status < 500 and response.status not in (408, 429):
            return False
        raise _Failure(response, f"cannot look for {self._target}")

    def _create(self) -> None:
        """Create the target.

        Nobody else does so with the right types: the server would take a long for a value that is
        1, and then cut the decimals off others. So this is tried again until the server says that
        it does not let us, or that the name is in use.
        """
        mappings = {
            "properties": {
                "@timestamp": {"type": "date_nanos"},
                "name": {"type": "keyword"},
                "value": {"type": "double"},
                "labels": self.labels_mapping,
            }
        }
        if self._is_data_stream:
            failure = self._create_data_stream(mappings)
        else:
            failure = self._put(self._path, {"mappings": mappings})
            if failure is not None and failure.status == 400 and failure.type not in _NOT_AN_INDEX:
                raise failure
        if failure is None:
            return
        if failure.status not in (400, 403, 404, 405) or failure.type == _BLOCKED:
            raise failure
        if not self._has_warned:
            self._has_warned = True
            log.warning("%s; sending anyway, as if it existed", failure)

    def _create_data_stream(self, mappings: Mapping[str, Any]) -> Optional["_Failure"]:
        path = "/_data_stream" + self._path
        failure = self._put(path)
        if failure is None or failure.status != 400:
            return failure
        # There is no template for it. Without one, the server would create a plain index.
        template = {
            "index_patterns": [self._name],
            "data_stream": {},
            "priority": _TEMPLATE_PRIORITY,
            "template": {"mappings": mappings},
        }
        rejection = self._put(f"/_index_template{self._path}?create=true", template)
        failure = self._put(path)
        if failure is not None:
            raise rejection or failure
        return None

    def _put(self, path: str, content: Any = None) -> Optional["_Failure"]:
        """Create something, and return why it does not exist now."""
        body = b"" if content is None else json.dumps(content).encode("ascii")
        response = self._client.request("PUT", path, body, _JSON if body else None)
        if response.status < 300:
            if b'"acknowledged"' in response.data:
                return None
            raise Unavailable(
                f"unexpected response, HTTP {response.status}; is this {self.product}?"
            )
        failure = _Failure(response, f"cannot create {self._target}")
        if failure.type == _EXISTS:
            return None
        if b"No handler for type" in response.data:
            raise Unavailable(
                f"{failure} (labels need {self.labels_since} or newer: for an older server, create "
                f"{self._target} yourself)"
            )
        return failure


class _Failure(Unavailable):
    """The server has not done what it was asked for.

    status: of the response.
    type: the type of the error, such as security_exception, or "".
    """

    def __init__(self, response: Any, problem: str) -> None:
        failure = http.error_for(response.status, _reason(response), response.headers)
        super().__init__(f"{problem}: {failure}", getattr(failure, "retry_after", None))
        error = _error_in(response)
        self.status: int = response.status
        self.type: str = error.get("type", "") if isinstance(error, dict) else ""


def _error_in(response: Any) -> Any:
    """Return what the server says about a failure: a dict, or else text."""
    try:
        return json.loads(response.data)["error"]
    except (ValueError, KeyError, TypeError):
        return response.data.decode("utf-8", "replace")


def _reason(response: Any) -> str:
    # The response to HEAD has no body.
    return "" if response.status < 300 else _describe(_error_in(response)) or response.url


def _describe(error: Any) -> str:
    if not isinstance(error, dict):
        return str(error)
    cause = error.get("caused_by") or {}
    return ": ".join(filter(None, [error.get("type"), error.get("reason"), cause.get("reason")]))


def _is_about_settings(error: Any) -> bool:
    if not isinstance(error, dict):
        return False
    return error.get("type") in _WRONG_SETTINGS or _NO_WRITE_INDEX in str(error.get("reason"))
