import contextlib
import copy
import os
import re
import socket
import uuid
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import unquote

import click
from click.core import ParameterSource

from benchmarkai import __version__
from benchmarkai.daemon.backends import base, http
from benchmarkai.daemon.backends.base import Answer, Unavailable
from benchmarkai.daemon.log import log
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.options import check_url, option, variable
from benchmarkai.daemon.redaction import protect

_PATH = "/v1/metrics"
_PROTOBUF = "application/x-protobuf"

# What the semantic conventions want for a stable service.instance.id.
# https://opentelemetry.io/docs/specs/semconv/registry/attributes/service/
_NAMESPACE = uuid.UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")

_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")


def _variables(setting: str) -> List[str]:
    """Return the variables for a setting of an exporter, the one that counts first.

    https://opentelemetry.io/docs/specs/otel/protocol/exporter/
    """
    return [f"OTEL_EXPORTER_OTLP_METRICS_{setting}", f"OTEL_EXPORTER_OTLP_{setting}"]


_URL_VARIABLES = [variable("--url"), *_variables("ENDPOINT")]

# The settings of an exporter that are options of all HTTP backends.
_SETTINGS = {
    "--ca-file": "CERTIFICATE",
    "--client-cert": "CLIENT_CERTIFICATE",
    "--client-key": "CLIENT_KEY",
}


def _first_set(variables: Sequence[str]) -> Optional[str]:
    return next((name for name in variables if os.environ.get(name)), None)


def _with_variables(shared: click.Option) -> click.Option:
    """Return the option of all HTTP backends, with the variables of an exporter."""
    name = shared.opts[0]
    if name not in _SETTINGS:
        return shared
    own = copy.copy(shared)
    own.envvar = [variable(name), *_variables(_SETTINGS[name])]
    return own


def _parse_url(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Return the URL that metrics are posted to."""
    source = None
    if context.get_parameter_source("url") is ParameterSource.ENVIRONMENT:
        source = _first_set(_URL_VARIABLES)
    try:
        url = check_url(context, parameter, value)
    except click.BadParameter as error:
        raise click.BadParameter(error.message, param_hint=source) from None
    if source == _URL_VARIABLES[1] and not value.endswith(_PATH):  # it is used as it is
        # No --url means the same, so the command that sends what is left needs the variable too.
        context.set_parameter_source("url", ParameterSource.DEFAULT)
        return value
    return url if url.endswith(_PATH) else url + _PATH


class Backend(base.Backend):
    """Export to an OpenTelemetry collector, or to Prometheus 3, over OTLP/HTTP.

    Each metric becomes a point of a gauge, and its labels become the attributes of the point. The
    attributes of the resource are service.name, service.instance.id (the spool), host.name, and
    those in OTEL_RESOURCE_ATTRIBUTES. Secret headers, such as those that a vendor requires, may be
    in OTEL_EXPORTER_OTLP_HEADERS.

    \b
      $ bai-daemon otlp --url http://localhost:4318
      $ bai-daemon otlp --url http://localhost:9090/api/v1/otlp    # Prometheus
      $ bai-daemon otlp --label run=42 -- ./my_benchmark.sh
    """

    options = [
        option(
            "--url",
            "The collector. /v1/metrics is appended, unless the URL ends with it.",
            metavar="URL",
            default="http://localhost:4318",
            show_default=True,
            envvar=_URL_VARIABLES,
            callback=_parse_url,
        ),
        option(
            "--service-name",
            "The name of the service in the resource.  [default: benchmark]",
            metavar="NAME",
            envvar=[variable("--service-name"), "OTEL_SERVICE_NAME"],
        ),
        *map(_with_variables, http.OPTIONS),
    ]
    place = ["url"]

    def __init__(self, url: str, service_name: Optional[str], **connection: Any) -> None:
        from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
        from opentelemetry.proto.metrics.v1 import metrics_pb2

        connection["header"] = {**_headers(connection), **(connection.get("header") or {})}
        self._client = http.Client(url, compress=_compression() != "none", **connection)
        self._service = metrics_service_pb2
        self._point = metrics_pb2.NumberDataPoint
        self._resource = {"host.name": socket.gethostname(), **_resource_attributes()}
        named = service_name or self._resource.get("service.name") or "benchmark"
        self._resource["service.name"] = named
        self._warning = ""

    def reason_to_reject_labels(self, labels: Mapping[str, str]) -> Optional[str]:
        # https://opentelemetry.io/docs/specs/otel/common/#attribute
        if "__name__" in labels:
            return "Prometheus takes an attribute named __name__ for the name of the metric"
        return "OTLP does not allow a label without a name" if "" in labels else None

    def send(self, metrics: Sequence[Metric]) -> Optional[Answer]:
        # The rules: https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
        body = self._encode(metrics)
        response = self._client.request("POST", "", body, {"Content-Type": _PROTOBUF})
        if response.status >= 300:
            raise self._failure(response)
        partial_success = self._parse(response).partial_success
        rejected = min(partial_success.rejected_data_points, len(metrics))
        message = " ".join(partial_success.error_message.split())
        if rejected > 0:
            # Must not be sent again.
            return Answer(unidentified=rejected, reason=message or "rejected by the collector")
        if message and message != self._warning:
            log.warning("the collector accepts the metrics, but warns: %s", message)
            self._warning = message
        return None

    def _encode(self, metrics: Sequence[Metric]) -> bytes:
        request = self._service.ExportMetricsServiceRequest()
        scopes: Dict[str, Any] = {}
        gauges: Dict[Tuple[str, str], Any] = {}
        templates: Dict[int, Any] = {}
        for metric in metrics:
            # A metric that another spool has left was perhaps sent from there, and must then be
            # the same point again.
            spool = metric.id.rpartition("-")[0]
            points = gauges.get((spool, metric.name))
            if points is None:
                if spool not in scopes:
                    scopes[spool] = self._add_scope(request, spool)
                points = scopes[spool].metrics.add(name=metric.name).gauge.data_points
                gauges[spool, metric.name] = points
            template = templates.get(id(metric.labels))
            if template is None:
                template = templates[id(metric.labels)] = self._point()
                _add_attributes(template, metric.labels)
            point = points.add()
            point.CopyFrom(template)  # faster than adding the attributes
            point.time_unix_nano = metric.time
            if isinstance(metric.value, int) and -(2**63) <= metric.value < 2**63:
                point.as_int = metric.value
            else:
                point.as_double = float(metric.value)
        encoded: bytes = request.SerializeToString()
        return encoded

    def _add_scope(self, request: Any, spool: str) -> Any:
        resource_metrics = request.resource_metrics.add()
        instance = {"service.instance.id": str(uuid.uuid5(_NAMESPACE, spool))}
        _add_attributes(resource_metrics.resource, {**instance, **self._resource})
        scope_metrics = resource_metrics.scope_metrics.add()
        scope_metrics.scope.name = "benchmarkai"
        scope_metrics.scope.version = __version__
        return scope_metrics

    def _parse(self, response: Any) -> Any:
        """Return the message in a successful response.

        Prometheus responds without a body, and then without a Content-Type.
        """
        kind = _content_type(response)
        message = self._service.ExportMetricsServiceResponse()
        try:
            if response.data and kind not in (_PROTOBUF, ""):
                raise ValueError()
            message.ParseFromString(response.data)
        except Exception as error:
            raise Unavailable(
                f"unexpected response, HTTP {response.status} {kind}".rstrip()
                + "; is this an OTLP collector?"
            ) from error
        return message

    def _failure(self, response: Any) -> Exception:
        """Return the error that a response means: a google.rpc.Status should be in it."""
        # Its message has the number and the type of this one's error_message.
        status = self._service.ExportMetricsPartialSuccess()
        with contextlib.suppress(Exception):
            status.ParseFromString(response.data)
        text = status.error_message or response.data.decode("utf-8", "replace")
        text = f"{self._client.url}: {text}"
        return http.error_for(response.status, text, response.headers) or Unavailable(text)


def _add_attributes(message: Any, attributes: Mapping[str, str]) -> None:
    for name, value in attributes.items():
        message.attributes.add(key=name).value.string_value = value


def _content_type(response: Any) -> str:
    kind: str = response.headers.get("Content-Type", "")
    return kind.partition(";")[0].strip().lower()


def _compression() -> str:
    return os.environ.get(_first_set(_variables("COMPRESSION")) or "", "gzip")


def _headers(options: Mapping[str, Any]) -> Dict[str, str]:
    """Return the headers in the variables, without those that the options have."""
    source = _first_set(_variables("HEADERS"))
    if source is None:
        return {}
    try:
        headers = _parse_pairs(os.environ[source])
        http.check_headers(headers)
    except ValueError as error:
        raise ValueError(f"{source} {error}, such as api-key=a%20b") from None
    except click.BadParameter as error:
        raise ValueError(f"{source}: {error.message}") from None
    for value in headers.values():
        protect(value)
    given = {name.lower() for name in http.headers_of(options)}
    # In the usual case, so that the client's own Authorization takes the place of one of these.
    return http.title_case({name: headers[name] for name in headers if name.lower() not in given})


def _resource_attributes() -> Dict[str, str]:
    """Return what OTEL_RESOURCE_ATTRIBUTES says.

    A mistake makes all of it be ignored, as the specification wants it:
    https://opentelemetry.io/docs/specs/otel/resource/sdk/
    """
    text = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    try:
        return _parse_pairs(text)
    except ValueError as error:
        log.warning("OTEL_RESOURCE_ATTRIBUTES=%r is ignored: it %s", text, error)
        return {}


def _parse_pairs(text: str) -> Dict[str, str]:
    """Return what a variable with a list of pairs says.

    Raises ValueError, without showing the text, which may be secret.
    """
    pairs = {}
    for pair in filter(str.strip, text.split(",")):
        name, separator, value = (part.strip() for part in pair.partition("="))
        if not (name and separator) or _BAD_ESCAPE.search(pair):
            raise ValueError("is not NAME=VALUE,NAME=VALUE with percent-encoded values")
        try:
            pairs[unquote(name, errors="strict")] = unquote(value, errors="strict")
            pair.encode("utf-8")
        except UnicodeError:
            raise ValueError("is not UTF-8") from None
    return pairs
