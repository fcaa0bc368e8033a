"""Elasticsearch and OpenSearch: what is sent, what their responses mean, and what is created.

The cluster here enforces what the documentation of both says, and what the stand-ins forgive.
"""

import collections
import datetime
import gzip
import hashlib
import hmac
import http.server
import json
import sys
import urllib.parse

import pytest

from benchmarkai.daemon import backends, cli
from benchmarkai.daemon.backends.base import Answer, Rejected, Unavailable
from benchmarkai.daemon.install import how_to_install
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.redaction import redact
from tests.daemon.backends.servers import FakeServer, write_response

LABELS_TYPE = {"elasticsearch": "flattened", "opensearch": "flat_object"}
JSON = {"Content-Type": "application/json"}
MAX_TERM_SIZE = 32766  # bytes, in Lucene

both = pytest.mark.parametrize("name", LABELS_TYPE)

Request = collections.namedtuple("Request", "method path query headers raw body")


class Error(Exception):
    def __init__(self, status, kind, reason="no"):
        super().__init__(reason)
        self.status = status
        self.error = {"type": kind, "reason": reason}


class Cluster:
    """A server with indices, aliases, data streams and permissions.

    A field that an index lacks gets the type of its first value, and so does an index that _bulk
    creates by itself:
    https://www.elastic.co/docs/manage-data/data-store/mapping/dynamic-field-mapping

    respond: a function of a request, which returns (status, headers, body) to respond with, or
        None for the response of the cluster.
    denied: the pairs (method, beginning of the path) that a user has no permission for.
    types: the types of fields that it knows.
    """

    def __init__(self):
        self.indices = {}  # the fields of each, by name
        self.streams = set()
        self.time_series = set()  # the indices that choose the ids
        self.aliases = {}
        self.templates = {}
        self.documents = []
        self.ids = set()
        self.requests = []
        self.denied = []
        self.types = {"date_nanos", "keyword", "double", *LABELS_TYPE.values()}
        self.respond = lambda request: None
        cluster = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_request(self):
                raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                is_gzip = self.headers.get("Content-Encoding") == "gzip"
                url = urllib.parse.urlsplit(self.path)
                request = Request(
                    self.command,
                    url.path,
                    url.query,
                    self.headers,
                    raw,
                    gzip.decompress(raw) if is_gzip else raw,
                )
                cluster.requests.append(request)
                found = cluster.respond(request) or cluster.handle(request)
                if found == "drop":
                    self.close_connection = True
                    return
                write_response(self, *found)

            do_GET = do_HEAD = do_POST = do_PUT = handle_request

            def log_message(self, *arguments):
                pass

        self._server = FakeServer(Handler)
        self.url = self._server.url

    def stop(self):
        self._server.stop()

    def asked(self):
        """Return the method and the path of each request."""
        return [f"{request.method} {request.path}" for request in self.requests]

    def handle(self, request):
        try:
            for method, path in self.denied:
                if request.method == method and request.path.startswith(path):
                    raise Error(403, "security_exception", "action is unauthorized")
            return 200, JSON, json.dumps(self.result(request)).encode()
        except Error as error:
            return error.status, JSON, json.dumps({"error": error.error}).encode()

    def result(self, request):
        *kind, name = request.path.strip("/").split("/")
        if request.method == "HEAD":
            if name not in {*self.indices, *self.streams, *self.aliases}:
                raise Error(404, "index_not_found_exception")
            return {}
        if request.method == "POST":
            (index,) = kind
            return self.bulk(index, request.body.decode())
        content = json.loads(request.body or b"{}")
        if kind == ["_data_stream"]:
            self.create_stream(name)
        elif kind == ["_index_template"]:
            if name in self.templates:
                raise Error(400, "illegal_argument_exception", "it already exists")
            self.check_types(content["template"]["mappings"])
            self.templates[name] = content
        else:
            self.create_index(name, content)
        return {"acknowledged": True}

    def create_index(self, name, content):
        if name in {*self.indices, *self.streams}:
            raise Error(400, "resource_already_exists_exception")
        if name in self.aliases:
            raise Error(400, "invalid_index_name_exception", "already exists as alias")
        if "data_stream" in self.template(name):
            raise Error(400, "illegal_argument_exception", "use create data stream api instead")
        self.indices[name] = self.check_types(content["mappings"])

    def create_stream(self, name):
        if name in {*self.indices, *self.streams}:
            raise Error(400, "resource_already_exists_exception")
        template = self.template(name)
        if "data_stream" not in template:
            raise Error(400, "illegal_argument_exception", "no matching index template found")
        self.streams.add(name)
        self.indices[name] = self.check_types(template["template"]["mappings"])

    def template(self, name):
        """Return the template for the name, or {}."""
        found = [t for t in self.templates.values() if name in t["index_patterns"]]
        return max(found, key=lambda template: template["priority"], default={})

    def check_types(self, mappings):
        fields = {name: dict(field) for name, field in mappings["properties"].items()}
        for name, field in fields.items():
            if field["type"] not in self.types:
                reason = f"No handler for type [{field['type']}] declared on field [{name}]"
                raise Error(400, "mapper_parsing_exception", reason)
        return fields

    def bulk(self, name, text):
        assert text.endswith("\n")
        name = self.aliases.get(name, name)
        if name not in self.indices:
            if "data_stream" in self.template(name):
                self.create_stream(name)
            else:
                self.indices[name] = {}
        lines = text.splitlines()
        items = []
        for operation, document in zip(lines[::2], lines[1::2]):
            ((kind, options),) = json.loads(operation).items()
            try:
                self.index(name, kind, options.get("_id"), json.loads(document))
                items.append({kind: {"status": 201}})
            except Error as error:
                items.append({kind: {"status": error.status, "error": error.error}})
        return {"errors": True, "items": items}

    def index(self, name, kind, identity, document):
        if name in self.streams:
            assert kind == "create" and "@timestamp" in document
        if name in self.time_series:
            # The id is made of the time and the dimensions:
            # https://www.elastic.co/docs/manage-data/data-store/data-streams/time-series-data-stream-tsds
            if identity is not None:
                raise Error(400, "document_parsing_exception", "_id must be unset")
            identity = (document["@timestamp"], document["name"])
        if identity is not None and (name, identity) in self.ids:
            raise Error(409, "version_conflict_engine_exception")
        self.check_document(self.indices[name], document)
        self.ids.add((name, identity))
        self.documents.append(document)

    def check_document(self, fields, document):
        """Check it, and add what it has to the fields of the index."""
        for name, value in document.items():
            if name in fields and fields[name]["type"] in LABELS_TYPE.values():
                check_terms(fields[name], value)
            elif isinstance(value, dict):
                inner = {f"{name}.{key}": text for key, text in value.items()}
                self.check_document(fields, inner)
            else:
                check_path(fields, name)
                is_float = isinstance(value, float)
                kind = "text" if isinstance(value, str) else "float" if is_float else "long"
                fields.setdefault(name, {"type": kind})


def check_terms(field, labels):
    """Check that Lucene can hold the labels.

    https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/ignore-above
    """
    for name, value in labels.items():
        is_ignored = len(value.encode("utf-16-le")) // 2 > field.get("ignore_above", 2**31)
        if not is_ignored and len(f"{name}\0{value}".encode()) > MAX_TERM_SIZE:
            raise Error(400, "illegal_argument_exception", "immense term")


def check_path(fields, name):
    """Check that no name is both a value and an object, since a dot leads into an object.

    https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/subobjects
    """
    for other in fields:
        if other.startswith(name + ".") or name.startswith(other + "."):
            raise Error(400, "mapper_parsing_exception", f"{name} is a value and an object")


@pytest.fixture
def cluster():
    started = Cluster()
    yield started
    started.stop()


def make(name, cluster, **options):
    return backends.load(name)(url=cluster.url, **options)


def metric(name="a", value=1, **labels):
    return Metric("id " + name, 1764215000123456789, name, value, labels)


def failing(status, kind="broken", method=None, headers=None):
    """Return what makes a cluster respond with an error, to one method or to all."""
    body = json.dumps({"error": {"type": kind, "reason": "no"}, "status": status}).encode()
    response = (status, {**JSON, **(headers or {})}, body)
    return lambda request: response if method in (None, request.method) else None


# What is sent


@both
def test_a_document_has_a_time_a_name_a_value_and_labels(cluster, name):
    values = [2**60 + 1, -(2**63), 10**30 + 1, 0.1 + 0.2, 1e-9]
    metrics = [metric(f'größe "{n}"\n', value, run="4\\2") for n, value in enumerate(values)]
    assert make(name, cluster).send(metrics) is None
    assert cluster.documents == [
        {
            "@timestamp": "2025-11-27T03:43:20.123456789Z",
            "name": f'größe "{number}"\n',
            "value": value,
            "labels": {"run": "4\\2"},
        }
        for number, value in enumerate(values)
    ]


@both
def test_each_document_has_the_labels_of_its_metric(cluster, name):
    metrics = [metric("a", run="1"), metric("b", run="2"), metric("c")]
    make(name, cluster).send(metrics)
    labels = [document["labels"] for document in cluster.documents]
    assert labels == [{"run": "1"}, {"run": "2"}, {}]


@both
def test_the_default_index_is_not_that_of_other_documents_nor_of_a_builtin_template(cluster, name):
    make(name, cluster).send([metric()])
    assert list(cluster.indices) == ["benchmark-metrics"]


@both
def test_the_name_of_an_index_may_have_any_character(cluster, name):
    make(name, cluster, index="<größe-{now/d}>").send([metric()])
    path = "/%3Cgr%C3%B6%C3%9Fe-%7Bnow%2Fd%7D%3E"
    assert cluster.asked() == [f"HEAD {path}", f"PUT {path}", f"POST {path}/_bulk"]


@both
def test_documents_are_compressed(cluster, name):
    metrics = [metric(str(number)) for number in range(100)]
    make(name, cluster).send(metrics)
    request = cluster.requests[-1]
    assert request.headers["Content-Encoding"] == "gzip"
    assert request.headers["Content-Type"] == "application/x-ndjson"
    assert len(request.raw) < len(request.body) / 5
    assert [document["name"] for document in cluster.documents] == [m.name for m in metrics]


@both
def test_the_response_has_only_what_is_read(cluster, name):
    make(name, cluster).send([metric()])
    query = urllib.parse.parse_qs(cluster.requests[-1].query)
    assert query == {"filter_path": ["items.*.status,items.*.error,items.*.failure_store"]}


@both
def test_a_document_that_is_sent_again_is_a_delivery(cluster, name):
    backend = make(name, cluster)
    for _ in range(2):
        assert backend.send([metric("a"), metric("b")]) is None
    assert len(cluster.documents) == 2


@both
def test_without_ids_the_server_chooses_them(cluster, name):
    backend = make(name, cluster, no_ids=True)
    for _ in range(2):
        assert backend.send([metric("a"), metric("b")]) is None
    assert b"_id" not in cluster.requests[-1].body
    assert len(cluster.documents) == 4


@both
def test_a_time_series_data_stream_takes_documents_without_ids(cluster, name):
    cluster.indices["x"] = {}
    cluster.streams.add("x")
    cluster.time_series.add("x")
    metrics = [metric("a"), metric("b")]
    assert len(make(name, cluster, data_stream="x").send(metrics).rejected) == 2
    backend = make(name, cluster, data_stream="x", no_ids=True)
    assert backend.send(metrics) is None
    assert len(cluster.documents) == 2


@pytest.fixture
def time_series(cluster):
    """A time series data stream that has the metric a."""
    cluster.indices["x"] = {}
    cluster.streams.add("x")
    cluster.time_series.add("x")


CONFLICT = (
    "HTTP 409: version_conflict_engine_exception: no: a metric with this time and these dimensions "
    "exists; see --time-step"
)


@both
def test_another_value_of_the_same_time_is_rejected_by_a_time_series(cluster, time_series, name):
    backend = make(name, cluster, data_stream="x", no_ids=True)
    one, two = metric("a", 1), metric("a", 2)._replace(own_id="another")
    assert backend.send([one, two, metric("b")]).rejected == [(two, CONFLICT)]
    assert [document["value"] for document in cluster.documents] == [1, 1]


@both
@pytest.mark.parametrize("status, is_stored", [(429, False), (502, True)])
def test_a_time_series_may_have_stored_what_got_no_response(
    cluster, time_series, name, status, is_stored
):
    backend = make(name, cluster, data_stream="x", no_ids=True)
    metrics = [metric("a"), metric("b")]
    backend.send(metrics)
    cluster.respond = lambda request: (status, {}, b"") if request.method == "POST" else None
    with pytest.raises(Unavailable):
        backend.send(metrics)
    cluster.respond = lambda request: None
    expected = None if is_stored else Answer([(metric, CONFLICT) for metric in metrics], [])
    assert backend.send(metrics) == expected


@both
def test_a_document_in_a_failure_store_is_rejected(cluster, name):
    """https://www.elastic.co/docs/manage-data/data-store/data-streams/failure-store"""
    kept = {"create": {"status": 201, "failure_store": "used"}}
    other = {"create": {"status": 201, "failure_store": "not_applicable_or_unknown"}}
    metrics, answer = answer_to(cluster, name, kept, other)
    reason = "it is in the failure store of the index 'benchmark-metrics' only"
    assert answer.rejected == [(metrics[0], reason)]


# Labels


@both
def test_labels_with_and_without_dots_live_together(cluster, name):
    metrics = [
        metric("a", **{"a": "1", "a.b": "2"}),
        metric("b", **{"a": "1"}),
        metric("c", **{"a.b.c": "1", "k8s.pod": "x"}),
        metric("d", **{"k8s": "1"}),
    ]
    assert make(name, cluster).send(metrics) is None
    assert [document["labels"] for document in cluster.documents] == [m.labels for m in metrics]


@both
def test_a_label_that_an_index_of_another_form_cannot_hold_rejects_its_metric_alone(cluster, name):
    cluster.indices["old"] = {"labels.a": {"type": "keyword"}}
    first, second = metric("a", **{"a.b": "2"}), metric("b")
    answer = make(name, cluster, index="old").send([first, second])
    ((rejected, reason),) = answer.rejected
    assert rejected == first
    assert reason == "HTTP 400: mapper_parsing_exception: labels.a.b is a value and an object"


@pytest.mark.parametrize("value", ["v" * 40000, "€" * 20000, "€" * 8191, "😀" * 4095])
def test_a_long_label_does_not_reject_a_metric(cluster, value):
    backend = make("elasticsearch", cluster)
    labels = {"ß" * 4095: value}
    assert backend.reason_to_reject_labels(labels) is None
    assert backend.send([metric(**labels)]) is None
    assert cluster.documents[0]["labels"] == labels


@pytest.mark.parametrize(
    "name, longest, longer, reason",
    [
        (
            "elasticsearch",
            {"n" + "ß" * 4095: "1"},
            {"ß" * 4096: "1"},
            "the name of the label 'ßßßßßßßßßßßß...ßßßßßßßßßßßßß' is longer than 8191 bytes: "
            "shorten it",
        ),
        (
            "opensearch",
            {"ß": "v" * (MAX_TERM_SIZE - len("labels.ss="))},
            {"ß": "v" * (MAX_TERM_SIZE - len("labels.ss=") + 1)},
            "the label 'ß' and its value are longer than 32 kB, which OpenSearch cannot index: "
            "shorten it",
        ),
    ],
)
def test_a_label_that_is_too_long_to_index_is_named(cluster, name, longest, longer, reason):
    backend = make(name, cluster)
    assert backend.reason_to_reject_labels(longest) is None
    assert backend.send([metric(**longest)]) is None
    assert backend.reason_to_reject_labels({"run": "42", **longer}) == reason


# The index


@both
def test_an_index_is_created_once_with_types(cluster, name):
    backend = make(name, cluster, index="x")
    for text in ("a", "b"):
        backend.send([metric(text)])
    assert cluster.asked() == ["HEAD /x", "PUT /x", "POST /x/_bulk", "POST /x/_bulk"]
    fields = {field: mapping["type"] for field, mapping in cluster.indices["x"].items()}
    assert fields == {
        "@timestamp": "date_nanos",
        "name": "keyword",
        "value": "double",
        "labels": LABELS_TYPE[name],
    }


@both
@pytest.mark.parametrize("kind", ["index", "alias", "data stream"])
def test_what_exists_is_used_and_the_master_is_not_asked(cluster, name, kind):
    cluster.indices["x-1"] = {}
    if kind == "alias":
        cluster.aliases["x"] = "x-1"
    else:
        cluster.indices["x"] = {}
        if kind == "data stream":
            cluster.streams.add("x")
    assert make(name, cluster, index="x").send([metric()]) is None
    assert cluster.asked() == ["HEAD /x", "POST /x/_bulk"]
    assert cluster.requests[0].query == "local=true"


@both
def test_a_key_that_can_only_write_is_enough(cluster, name, caplog):
    cluster.indices["x"] = {}
    cluster.denied = [("HEAD", "/"), ("PUT", "/")]
    backend = make(name, cluster, index="x")
    for text in ("a", "b"):
        assert backend.send([metric(text)]) is None
    assert cluster.asked()[-2:] == ["POST /x/_bulk"] * 2
    assert caplog.messages == [
        "cannot create the index 'x': HTTP 403: security_exception: action is unauthorized; "
        "sending anyway, as if it existed"
    ]


@both
def test_what_is_not_allowed_is_logged_once_whatever_fails_later(cluster, name, caplog):
    cluster.indices["x"] = {}
    cluster.denied = [("HEAD", "/"), ("PUT", "/")]
    backend = make(name, cluster, index="x")
    cluster.respond = failing(503, method="POST")
    for _ in range(2):
        with pytest.raises(Unavailable):
            backend.send([metric()])
    assert len(caplog.messages) == 1


@both
@pytest.mark.parametrize("kind", ["index", "alias", "data stream"])
def test_a_key_that_can_create_but_not_look_uses_what_exists(cluster, name, kind):
    cluster.indices["x-1"] = {}
    if kind == "alias":
        cluster.aliases["x"] = "x-1"
    elif kind == "index":
        cluster.indices["x"] = {}
    else:
        mappings = {"properties": {"value": {"type": "double"}}}
        cluster.templates["t"] = {
            "index_patterns": ["x"],
            "priority": 0,
            "data_stream": {},
            "template": {"mappings": mappings},
        }
    cluster.denied = [("HEAD", "/")]
    assert make(name, cluster, index="x").send([metric()]) is None
    assert cluster.asked() == ["HEAD /x", "PUT /x", "POST /x/_bulk"]


@both
def test_a_server_that_does_not_take_the_parameter_local_gets_an_index(cluster, name):
    cluster.respond = failing(400, method="HEAD")
    assert make(name, cluster, index="x").send([metric()]) is None
    assert cluster.asked() == ["HEAD /x", "PUT /x", "POST /x/_bulk"]


@both
@pytest.mark.parametrize("status", [404, 405])
def test_a_gateway_that_passes_nothing_but_bulk_requests_is_enough(cluster, name, status):
    cluster.indices["x"] = {}
    cluster.respond = lambda request: (
        None if request.method == "POST" else (status, {"Content-Type": "text/html"}, b"No")
    )
    assert make(name, cluster, index="x").send([metric()]) is None


@both
@pytest.mark.parametrize("method", ["HEAD", "PUT"])
@pytest.mark.parametrize(
    "fault",
    [
        failing(429, headers={"Retry-After": "7"}),
        failing(408),
        failing(500),
        failing(503),
        failing(300),
        failing(302, headers={"Location": "/login"}),
        lambda request: "drop",
    ],
)
def test_an_index_that_cannot_be_created_for_now_is_created_later(cluster, name, method, fault):
    backend = make(name, cluster, index="x")
    cluster.respond = lambda request: fault(request) if request.method == method else None
    with pytest.raises(Unavailable) as caught:
        backend.send([metric()])
    assert cluster.asked()[-1] == f"{method} /x"
    if "HTTP 429" in str(caught.value):
        assert caught.value.retry_after == 7
    cluster.respond = lambda request: None
    assert backend.send([metric()]) is None
    assert cluster.indices["x"]["value"]["type"] == "double"


@both
@pytest.mark.parametrize(
    "status, kind",
    [
        (400, "validation_exception"),  # there are as many shards as the cluster allows
        (400, "bad"),
        (401, "security_exception"),
        (403, "cluster_block_exception"),  # the cluster is read-only for now
        (413, "bad"),
        (422, "bad"),
    ],
)
def test_an_index_that_cannot_be_created_is_named(cluster, name, status, kind):
    cluster.respond = failing(status, kind, "PUT")
    with pytest.raises(Unavailable) as caught:
        make(name, cluster, index="x").send([metric()])
    assert str(caught.value) == f"cannot create the index 'x': HTTP {status}: {kind}: no"
    assert cluster.asked() == ["HEAD /x", "PUT /x"]


@both
def test_a_server_that_does_not_say_why_is_named(cluster, name):
    cluster.respond = failing(503, method="HEAD")
    with pytest.raises(Unavailable) as caught:
        make(name, cluster, index="x").send([metric()])
    url = f"{cluster.url}/x?local=true"
    assert str(caught.value) in (
        f"cannot look for the index 'x': HTTP 503: {url}",
        "cannot look for the index 'x': HTTP 503: /x?local=true",
    )


@pytest.mark.parametrize(
    "name, needed", [("elasticsearch", "Elasticsearch 7.3"), ("opensearch", "OpenSearch 2.7")]
)
@pytest.mark.parametrize("option", ["index", "data_stream"])
def test_a_server_that_is_too_old_for_the_labels_is_named(cluster, name, needed, option):
    cluster.types = {"date_nanos", "keyword", "double"}
    target = f"the {option.replace('_', ' ')} 'x'"
    with pytest.raises(Unavailable) as caught:
        make(name, cluster, **{option: "x"}).send([metric()])
    assert str(caught.value) == (
        f"cannot create {target}: HTTP 400: mapper_parsing_exception: No handler for type "
        f"[{LABELS_TYPE[name]}] declared on field [labels] (labels need {needed} or newer: for an "
        f"older server, create {target} yourself)"
    )
    assert cluster.indices == {}


@both
def test_a_server_that_comes_back_without_its_data_gets_an_index_with_types(cluster, name):
    backend = make(name, cluster, index="x")
    backend.send([metric("a")])
    cluster.respond = lambda request: "drop"
    with pytest.raises(Unavailable):
        backend.send([metric("b")])
    cluster.indices.clear()
    cluster.respond = lambda request: None
    backend.send([metric("b")])
    assert cluster.indices["x"]["value"]["type"] == "double"


@both
@pytest.mark.parametrize("methods", [["HEAD", "PUT", "POST"], ["HEAD"], ["PUT"], ["POST"]])
def test_a_login_page_is_neither_an_index_nor_a_delivery(cluster, name, methods):
    page = (200, {"Content-Type": "text/html"}, b"<html>Please log in</html>")
    backend = make(name, cluster)
    cluster.respond = lambda request: page if request.method in methods else None
    if methods != ["HEAD"]:
        with pytest.raises(Unavailable) as caught:
            backend.send([metric()])
        product = {"elasticsearch": "Elasticsearch", "opensearch": "OpenSearch"}[name]
        assert str(caught.value).startswith("unexpected response, HTTP 200")
        assert str(caught.value).endswith(f"; is this {product}?")
    cluster.respond = lambda request: page if request.method in methods[:1] == ["HEAD"] else None
    assert make(name, cluster).send([metric()]) is None
    assert cluster.indices["benchmark-metrics"]["value"]["type"] == "double"


# Data streams


@both
def test_a_data_stream_is_created_with_a_template(cluster, name):
    backend = make(name, cluster, data_stream="x")
    for text in ("a", "b"):
        assert backend.send([metric(text)]) is None
    assert cluster.asked() == [
        "HEAD /x",
        "PUT /_data_stream/x",
        "PUT /_index_template/x",
        "PUT /_data_stream/x",
        "POST /x/_bulk",
        "POST /x/_bulk",
    ]
    assert cluster.requests[2].query == "create=true"
    assert cluster.streams == {"x"}
    assert cluster.indices["x"]["value"]["type"] == "double"
    assert cluster.indices["x"]["labels"]["type"] == LABELS_TYPE[name]


@both
def test_a_template_that_applies_to_a_data_stream_is_used(cluster, name):
    mappings = {"properties": {"value": {"type": "keyword"}}}
    cluster.templates["t"] = {
        "index_patterns": ["x"],
        "priority": 0,
        "data_stream": {},
        "template": {"mappings": mappings},
    }
    make(name, cluster, data_stream="x").send([metric()])
    assert cluster.asked() == ["HEAD /x", "PUT /_data_stream/x", "POST /x/_bulk"]
    assert list(cluster.templates) == ["t"]
    assert cluster.streams == {"x"}
    assert cluster.indices["x"]["value"]["type"] == "keyword"


@both
def test_a_template_for_plain_indices_does_not_apply_to_a_data_stream(cluster, name):
    cluster.templates["t"] = {"index_patterns": ["x"], "priority": 500, "template": {}}
    make(name, cluster, data_stream="x").send([metric()])
    assert cluster.streams == {"x"}
    assert cluster.indices["x"]["value"]["type"] == "double"


@both
def test_a_template_that_another_daemon_has_just_made_is_used(cluster, name):
    def race(request):
        if request.path.startswith("/_index_template") and not cluster.templates:
            cluster.handle(request)

    cluster.respond = race
    assert make(name, cluster, data_stream="x").send([metric()]) is None
    assert cluster.streams == {"x"}


@both
@pytest.mark.parametrize("status", [403, 503])
def test_without_a_template_there_is_no_plain_index_in_place_of_a_data_stream(
    cluster, name, status
):
    fault = failing(status, "bad")
    cluster.respond = lambda request: fault(request) if "_template" in request.path else None
    backend = make(name, cluster, data_stream="x")
    with pytest.raises(Unavailable) as caught:
        backend.send([metric()])
    assert str(caught.value) == f"cannot create the data stream 'x': HTTP {status}: bad: no"
    assert cluster.asked()[-1] == "PUT /_data_stream/x"
    cluster.respond = lambda request: None
    assert backend.send([metric()]) is None
    assert cluster.streams == {"x"}


@both
def test_a_key_that_can_only_write_is_enough_for_a_data_stream(cluster, name):
    cluster.indices["x"] = {}
    cluster.streams.add("x")
    cluster.denied = [("HEAD", "/"), ("PUT", "/")]
    assert make(name, cluster, data_stream="x").send([metric()]) is None
    assert cluster.asked() == ["HEAD /x", "PUT /_data_stream/x", "POST /x/_bulk"]


@both
@pytest.mark.parametrize("status, kind", [(503, "bad"), (403, "cluster_block_exception")])
def test_a_data_stream_that_cannot_be_created_for_now_is_created_later(cluster, name, status, kind):
    backend = make(name, cluster, data_stream="x")
    cluster.respond = failing(status, kind, "PUT")
    with pytest.raises(Unavailable, match=f"data stream 'x': HTTP {status}"):
        backend.send([metric()])
    assert cluster.asked() == ["HEAD /x", "PUT /_data_stream/x"]
    cluster.respond = lambda request: None
    assert backend.send([metric()]) is None
    assert cluster.streams == {"x"}


@both
def test_an_index_and_a_data_stream_contradict_each_other(cluster, name):
    with pytest.raises(ValueError) as caught:
        make(name, cluster, index="a", data_stream="b")
    assert str(caught.value) == "give either --index or --data-stream, not both"


@both
@pytest.mark.parametrize(
    "options, target",
    [
        ({}, "http://h:1"),
        ({"index": "x"}, "http://h:1 index=x"),
        ({"data_stream": "x"}, "http://h:1 data_stream=x"),
    ],
)
def test_the_place_is_an_index_or_a_data_stream(name, options, target):
    values = {"url": "http://h:1", "index": None, "data_stream": None, **options}
    assert cli._target(name, backends.load(name), values) == f"{name} {target}"


# What responses mean


def item(status, kind=None, reason=None, cause=None):
    error = {"type": kind, "reason": reason, "caused_by": cause}
    return {"create": {"status": status, "error": error}}


def answer_to(cluster, name, *items):
    """Return the metrics, and the answer to them."""
    metrics = [metric(str(number)) for number in range(len(items))]
    body = json.dumps({"errors": True, "items": items}).encode()
    cluster.indices["benchmark-metrics"] = {}
    cluster.respond = lambda request: (200, JSON, body) if request.method == "POST" else None
    return metrics, make(name, cluster).send(metrics)


@both
@pytest.mark.parametrize("good", [200, 201, 409])
def test_the_items_with_status_400_are_rejected(cluster, name, good):
    bad = item(400, "mapper_parsing_exception", "failed to parse", {"reason": "not a long"})
    metrics, answer = answer_to(cluster, name, item(good), bad, {"create": {"status": 400}})
    assert answer == Answer(
        [
            (metrics[1], "HTTP 400: mapper_parsing_exception: failed to parse: not a long"),
            (metrics[2], "HTTP 400: None"),
        ],
        [],
    )


@both
@pytest.mark.parametrize("status", [300, 403, 404, 429, 500, 503])
def test_an_item_that_the_server_is_too_busy_for_is_postponed_alone(cluster, name, status):
    metrics, answer = answer_to(
        cluster, name, item(201), item(status, "busy"), item(400, "bad"), item(503, "down")
    )
    assert answer == Answer(
        rejected=[(metrics[2], "HTTP 400: bad")],
        postponed=[metrics[1], metrics[3]],
        reason=f"HTTP {status}: busy",
    )


@both
@pytest.mark.parametrize("status", [403, 404, 429, 503])
def test_a_server_that_is_too_busy_for_all_items_is_unavailable(cluster, name, status):
    with pytest.raises(Unavailable) as caught:
        answer_to(cluster, name, item(status, "busy"), item(503, "down"))
    assert str(caught.value) == f"HTTP {status}: busy"


@both
@pytest.mark.parametrize(
    "kind, reason",
    [
        ("index_closed_exception", "closed"),
        ("invalid_index_name_exception", "must be lowercase"),
        ("illegal_argument_exception", "no write index is defined for alias [x]. The write index"),
    ],
)
def test_an_index_in_a_wrong_state_does_not_reject_a_metric(cluster, name, kind, reason):
    metrics, answer = answer_to(cluster, name, item(201), item(400, kind, reason))
    assert answer == Answer([], [metrics[1]], reason=f"HTTP 400: {kind}: {reason}")


@both
@pytest.mark.parametrize(
    "body, found",
    [
        (b'{"items": [{"create": {"status": 201}}]}', "1 item"),
        (b'{"items": [{"create": {"status": 201}}, {"index": {"status": 201}}]}', "0 items"),
        (b'{"items": [{"create": {"status": 201}}, {"create": {}}]}', "0 items"),
        (b'{"items": null}', "0 items"),
        (b"{}", "0 items"),
        (b"null", "0 items"),
        (b"\xff", "0 items"),
        (b"", "0 items"),
    ],
)
def test_a_response_without_an_item_for_each_metric_is_not_a_delivery(cluster, name, body, found):
    cluster.respond = lambda request: (200, JSON, body) if request.method == "POST" else None
    with pytest.raises(Unavailable) as caught:
        make(name, cluster).send([metric("a"), metric("b")])
    assert f", with {found} instead of 2; is this " in str(caught.value)


@both
@pytest.mark.parametrize("status", [400, 422])
def test_a_bulk_request_that_is_rejected_as_a_whole_is_worth_a_retry(cluster, name, status):
    cluster.respond = failing(status, "bad", "POST")
    with pytest.raises(Unavailable) as caught:
        make(name, cluster, index="x").send([metric("a"), metric("b")])
    assert str(caught.value) == f"cannot write to the index 'x': HTTP {status}: bad: no"


@both
def test_a_bulk_request_that_is_too_large_is_rejected_and_so_split(cluster, name):
    cluster.respond = failing(413, "large", "POST")
    with pytest.raises(Rejected) as caught:
        make(name, cluster).send([metric("a"), metric("b")])
    assert str(caught.value) == "HTTP 413: large: no"


@both
def test_a_busy_server_says_when_to_ask_again(cluster, name):
    cluster.respond = failing(429, "busy", "POST", {"Retry-After": "7"})
    with pytest.raises(Unavailable) as caught:
        make(name, cluster).send([metric()])
    assert (str(caught.value), caught.value.retry_after) == ("HTTP 429: busy: no", 7)


@both
def test_an_error_that_is_not_json_is_shown(cluster, name):
    response = (502, {"Content-Type": "text/html"}, b"<html>Bad\ngateway</html>")
    cluster.respond = lambda request: response if request.method == "POST" else None
    with pytest.raises(Unavailable) as caught:
        make(name, cluster).send([metric()])
    assert str(caught.value) == "HTTP 502: <html>Bad gateway</html>"


# Authentication in AWS


def expected_signature(request, host, region, service):
    """Return what the header Authorization has to be.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    date = request.headers["X-Amz-Date"]
    credential = request.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
    names = ["host", "x-amz-content-sha256", "x-amz-date"]
    for name in ("content-type", "x-amz-security-token"):
        if name in request.headers:
            names.append(name)
    names.sort()
    values = {name: request.headers[name] for name in names}
    values["host"] = host
    payload = hashlib.sha256(request.raw).hexdigest()
    query = urllib.parse.urlencode(
        sorted(urllib.parse.parse_qsl(request.query)), quote_via=urllib.parse.quote, safe="-_.~"
    )
    canonical = [request.method, urllib.parse.quote(request.path), query]
    canonical += [f"{name}:{values[name]}" for name in names]
    canonical += ["", ";".join(names), payload]
    scope = f"{date[:8]}/{region}/{service}/aws4_request"
    digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", date, scope, digest])
    key = ("AWS4secret-of-" + credential).encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), "sha256").digest()
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    return (
        f"AWS4-HMAC-SHA256 Credential={credential}/{scope}, SignedHeaders={';'.join(names)}, "
        f"Signature={signature}"
    )


def is_signed(request, host, region="eu-west-1", service="es"):
    is_whole = request.headers["X-Amz-Content-SHA256"] == hashlib.sha256(request.raw).hexdigest()
    expected = expected_signature(request, host, region, service)
    return is_whole and request.headers["Authorization"] == expected


@pytest.fixture
def aws(monkeypatch, tmp_path):
    """The credentials of AWS are those of the variables, and of no file and no machine."""
    pytest.importorskip("boto3", reason="pip install boto3")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-key1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    return monkeypatch


def test_requests_to_aws_are_signed(cluster, aws):
    aws.setenv("AWS_SESSION_TOKEN", "token-of-key1")
    metrics = [metric(str(number)) for number in range(100)]
    backend = make("opensearch", cluster, index="größe", aws_auth=True)
    assert backend.send(metrics) is None
    assert [request.method for request in cluster.requests] == ["HEAD", "PUT", "POST"]
    host = cluster.url.partition("//")[2]
    for request in cluster.requests:
        assert is_signed(request, host)
        assert request.headers["X-Amz-Security-Token"] == "token-of-key1"
    request = cluster.requests[-1]
    assert request.headers["Content-Encoding"] == "gzip"
    assert not is_signed(request._replace(raw=request.raw + b"x"), host)
    assert not is_signed(request._replace(query=request.query + "x"), host)
    assert redact("secret-of-key1 token-of-key1") == "*** ***"


def test_requests_to_amazon_serverless_are_signed_for_it_and_the_region_of_its_host(cluster, aws):
    host = "id.us-east-1.aoss.amazonaws.com"
    aws.delenv("AWS_DEFAULT_REGION")
    aws.setenv("HTTP_PROXY", cluster.url)
    backend = backends.load("opensearch")(url=f"http://{host}", aws_auth=True, no_ids=True)
    assert backend.send([metric()]) is None
    for request in cluster.requests:
        assert is_signed(request, host, "us-east-1", "aoss")


@pytest.mark.parametrize(
    "host, service, region",
    [
        ("search-x-1.eu-west-1.es.amazonaws.com", "es", "eu-west-1"),
        ("vpc-x-1.cn-north-1.es.amazonaws.com.cn", "es", "cn-north-1"),
        ("es.example.com", "es", "eu-west-3"),
    ],
)
def test_the_region_is_that_of_the_host_if_it_tells(cluster, aws, host, service, region):
    aws.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    aws.setenv("HTTP_PROXY", cluster.url)
    backends.load("opensearch")(url=f"http://{host}", aws_auth=True).send([metric()])
    assert is_signed(cluster.requests[-1], host, region, service)


def test_a_tunnel_to_aws_is_signed_for_the_host_in_the_header(cluster, aws):
    headers = {"Host": "search-x.eu-west-1.es.amazonaws.com"}
    make("opensearch", cluster, aws_auth=True, header=headers).send([metric()])
    assert is_signed(cluster.requests[-1], headers["Host"])


def test_credentials_that_expire_are_renewed(cluster, aws, tmp_path):
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    # They expire so soon that each use renews them.
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=60)
    (tmp_path / "process").write_text(
        f"echo >>{tmp_path}/calls; n=$(wc -l <{tmp_path}/calls)\n"
        'printf \'{"Version": 1, "AccessKeyId": "key%s", "SecretAccessKey": "secret-of-key%s", '
        f'"SessionToken": "token-of-key%s", "Expiration": "{soon.isoformat()}"}}\' $n $n $n\n'
    )
    (tmp_path / "config").write_text(f"[default]\ncredential_process = sh {tmp_path}/process\n")
    make("opensearch", cluster, aws_auth=True).send([metric()])
    keys = {request.headers["X-Amz-Security-Token"] for request in cluster.requests}
    assert len(keys) > 1
    host = cluster.url.partition("//")[2]
    assert all(is_signed(request, host) for request in cluster.requests)
    assert redact(" ".join(sorted(keys))) == " ".join(["***"] * len(keys))


def test_aws_auth_without_boto3_says_what_to_install(cluster, aws):
    aws.setitem(sys.modules, "boto3", None)
    with pytest.raises(ValueError) as caught:
        make("opensearch", cluster, aws_auth=True)
    assert str(caught.value) == "--aws-auth needs boto3: " + how_to_install(["boto3"])


def test_aws_auth_without_a_region_says_how_to_set_it(cluster, aws):
    aws.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ValueError, match="needs a region: set AWS_DEFAULT_REGION"):
        make("opensearch", cluster, aws_auth=True)


def test_aws_auth_without_credentials_says_how_to_set_them(cluster, aws):
    aws.delenv("AWS_ACCESS_KEY_ID")
    aws.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ValueError, match="no credentials: set AWS_ACCESS_KEY_ID"):
        make("opensearch", cluster, aws_auth=True)


def test_a_user_and_aws_auth_contradict_each_other(cluster):
    with pytest.raises(ValueError) as caught:
        make("opensearch", cluster, aws_auth=True, user="me")
    assert str(caught.value) == "give either --user or --aws-auth, not both"
