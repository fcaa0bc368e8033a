import logging
from typing import Any, Dict, List, Sequence, Tuple

from benchmarkai.daemon.backends import base
from benchmarkai.daemon.backends.base import Rejected, Unavailable
from benchmarkai.daemon.backends.http import error_for
from benchmarkai.daemon.metric import Metric, Value
from benchmarkai.daemon.options import url_option

_TIMEOUT = 10  # seconds, within which the exporter retries by itself


class Backend(base.Backend):
    """Export to an OpenTelemetry collector over OTLP/HTTP.

    Each metric becomes a gauge, and the labels become attributes of the resource. Headers, such as
    those that a vendor requires, come from the variable OTEL_EXPORTER_OTLP_HEADERS, certificates
    from OTEL_EXPORTER_OTLP_CERTIFICATE.

    \b
      $ bai-daemon otlp --url http://localhost:4318
      $ bai-daemon otlp --label run=42 -- ./my_benchmark.sh
    """

    options = [url_option("http://localhost:4318", "The collector, without /v1/metrics.")]
    place = ["url"]

    def __init__(self, url: str) -> None:
        import requests
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
        from opentelemetry.sdk.metrics import export
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        self._export = export
        self._resource = Resource
        self._scope = InstrumentationScope("benchmarkai")
        self._response_type = metrics_service_pb2.ExportMetricsServiceResponse
        self._response: Any = None
        session = requests.Session()
        session.max_redirects = 0  # a redirected POST becomes a GET
        session.hooks["response"].append(self._keep_response)
        self._exporter = OTLPMetricExporter(
            endpoint=url + "/v1/metrics", timeout=_TIMEOUT, session=session
        )
        # The exporter would log every error a second time.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def send(self, metrics: Sequence[Metric]) -> None:
        self._response = None
        result = self._exporter.export(self._make_data(metrics), timeout_millis=_TIMEOUT * 1000)
        response = self._response
        if response is None:
            raise Unavailable("no response from the collector")
        failure = error_for(response.status_code, response.text, response.headers)
        if failure is not None:
            raise failure
        if result is not self._export.MetricExportResult.SUCCESS:
            raise Unavailable(f"HTTP {response.status_code}, but the export failed")
        message = self._response_type()
        try:
            message.ParseFromString(response.content)
        except Exception as error:
            raise Unavailable("unexpected response; is this an OTLP collector?") from error
        if message.partial_success.rejected_data_points:
            raise Rejected(message.partial_success.error_message or "rejected by the collector")

    def _make_data(self, metrics: Sequence[Metric]) -> Any:
        by_labels: Dict[Tuple[Tuple[str, str], ...], Dict[str, List[Metric]]] = {}
        for metric in metrics:
            labels = tuple(sorted(metric.labels.items()))
            by_labels.setdefault(labels, {}).setdefault(metric.name, []).append(metric)
        return self._export.MetricsData(
            [
                self._export.ResourceMetrics(
                    resource=self._resource(dict(labels)),
                    scope_metrics=[
                        self._export.ScopeMetrics(
                            scope=self._scope,
                            metrics=[self._make_gauge(*item) for item in by_name.items()],
                            schema_url="",
                        )
                    ],
                    schema_url="",
                )
                for labels, by_name in by_labels.items()
            ]
        )

    def _make_gauge(self, name: str, metrics: Sequence[Metric]) -> Any:
        points = [
            self._export.NumberDataPoint(
                attributes={},
                start_time_unix_nano=metric.time,
                time_unix_nano=metric.time,
                value=_as_int64_or_float(metric.value),
            )
            for metric in metrics
        ]
        return self._export.Metric(
            name=name, description="", unit="", data=self._export.Gauge(points)
        )

    def _keep_response(self, response: Any, *arguments: Any, **options: Any) -> None:
        self._response = response


def _as_int64_or_float(value: Value) -> Value:
    is_int64 = isinstance(value, int) and -(2**63) <= value < 2**63
    return value if is_int64 else float(value)
