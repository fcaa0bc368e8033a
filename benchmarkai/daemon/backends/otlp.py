import logging

from benchmarkai.daemon.backends import (
    BackendBase,
    Rejected,
    Unavailable,
    check_answer,
    url,
)

_TIMEOUT = 10  # seconds, in which the exporter tries again by itself


class Backend(BackendBase):
    """Export over OTLP/HTTP to a collector.

    Each metric is a gauge. The labels become attributes of the resource. Headers, such as those
    of a vendor, come from the variable OTEL_EXPORTER_OTLP_HEADERS, certificates from
    OTEL_EXPORTER_OTLP_CERTIFICATE.

    \b
      $ bai-daemon otlp --url http://localhost:4318
      $ bai-daemon otlp --label run=42 -- ./my_benchmark.sh
    """

    options = [url("http://localhost:4318", "The collector, without /v1/metrics.")]

    def __init__(self, url):
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
        self._answer = None
        session = requests.Session()
        session.max_redirects = 0  # redirected, a POST becomes a GET
        session.hooks["response"].append(self._remember)
        self._exporter = OTLPMetricExporter(
            endpoint=url + "/v1/metrics", timeout=_TIMEOUT, session=session
        )
        # It logs what is logged here as well.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def send(self, metrics):
        self._answer = None
        result = self._exporter.export(self._data(metrics), timeout_millis=_TIMEOUT * 1000)
        answer = self._answer
        if answer is None:
            raise Unavailable("no answer from the collector")
        check_answer(answer.status_code, answer.text, answer.headers)
        if result is not self._export.MetricExportResult.SUCCESS:
            raise Unavailable("HTTP %d, and the export failed" % answer.status_code)
        response = self._response_type()
        try:
            response.ParseFromString(answer.content)
        except Exception:
            raise Unavailable("the answer is not one of OTLP")
        if response.partial_success.rejected_data_points:
            raise Rejected(response.partial_success.error_message or "rejected by the collector")

    def _data(self, metrics):
        by_labels = {}
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
                            metrics=[self._gauge(*item) for item in by_name.items()],
                            schema_url="",
                        )
                    ],
                    schema_url="",
                )
                for labels, by_name in by_labels.items()
            ]
        )

    def _gauge(self, name, metrics):
        points = [
            self._export.NumberDataPoint(
                attributes={},
                start_time_unix_nano=metric.time,
                time_unix_nano=metric.time,
                value=float(metric.value),
            )
            for metric in metrics
        ]
        return self._export.Metric(
            name=name, description="", unit="", data=self._export.Gauge(points)
        )

    def _remember(self, answer, *arguments, **options):
        self._answer = answer
