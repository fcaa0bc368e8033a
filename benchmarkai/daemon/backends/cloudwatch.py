import collections
import datetime
import time
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urlencode

import click

from benchmarkai.daemon.backends import base, http
from benchmarkai.daemon.backends.aws import current_credentials
from benchmarkai.daemon.backends.base import Answer, Rejected, Unavailable
from benchmarkai.daemon.metric import Metric, format_time
from benchmarkai.daemon.options import option

# The limits of PutMetricData, according to its reference:
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricDatum.html
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_Dimension.html
_MAX_DATA = 1000
_MAX_SIZE = 10**6  # bytes of a request; AWS's own agent takes it for the size before compression
_MAX_VALUES = 150  # different ones, of a datum
_MAX_NAME_LENGTH = 255
_MAX_LABEL_VALUE_LENGTH = 1024
_MAX_DIMENSIONS = 30
_MAX_VALUE = 2.0**360
_MAX_AGE = 14 * 24 * 3600 * 10**9  # nanoseconds
_MAX_LEAD = 2 * 3600 * 10**9  # nanoseconds

_EPOCH = datetime.datetime.fromtimestamp(0, datetime.timezone.utc)

_REJECTED_CODES = (
    "InvalidParameterValue",
    "InvalidParameterCombination",
    "MissingParameter",
    "RequestEntityTooLarge",
    "ValidationError",
)


class _TooLarge(Exception):
    """The request is larger than CloudWatch accepts, and has not been sent."""


class Backend(base.Backend):
    """Put metrics into CloudWatch, with labels as dimensions.

    Credentials, and the region unless --region is given, come from where AWS's own programs look
    for them: variables such as AWS_ACCESS_KEY_ID, ~/.aws, or the role of the machine. Metrics
    older than two weeks, or more than two hours ahead of the clock, are rejected, because
    CloudWatch does not accept them.

    AWS charges for each request: with --flush-interval 60 and a larger --batch-size, there are
    fewer. Values of one metric and period share a datum, of which a request has at most 1000.

    \b
      $ bai-daemon cloudwatch --namespace BenchmarkAI --region eu-west-1
      $ bai-daemon cloudwatch --label run=42 -- ./my_benchmark.sh
    """

    options = [
        option("--namespace", "The namespace.", default="BenchmarkAI", show_default=True),
        option("--region", "The region, such as eu-west-1."),
        option(
            "--resolution",
            "Seconds of a period. CloudWatch keeps those of 1 second for three hours, and then "
            "only minutes.",
            type=click.Choice(["1", "60"]),
            default="60",
            show_default=True,
        ),
        *http.CONNECTION_OPTIONS,
    ]
    place = ["namespace", "region"]

    def __init__(
        self, namespace: str, region: Optional[str], resolution: str, **connection: Any
    ) -> None:
        import boto3
        import botocore.config
        import botocore.exceptions

        self._errors = botocore.exceptions
        self._namespace = namespace
        self._resolution = int(resolution)
        self._headers = http.headers_of(connection)
        http.make_context(**connection)  # botocore would only fail at each request
        certificate, key = connection.get("client_cert"), connection.get("client_key")
        self._client_options = {
            # None lets it choose the certificates, by AWS_CA_BUNDLE for example.
            "verify": False if connection.get("insecure") else connection.get("ca_file"),
            "config": botocore.config.Config(
                connect_timeout=base.TIMEOUT,
                read_timeout=base.TIMEOUT,
                retries={"total_max_attempts": 1},
                client_cert=(certificate, key) if key else certificate,
            ),
        }
        self._session = boto3.Session(region_name=region)
        self._session.events.register("before-call.cloudwatch.PutMetricData", _check_size)
        self._session.events.register("before-sign.cloudwatch.PutMetricData", self._add_headers)
        self._client: Any = None
        http.warn_if_insecure(connection)

    def reason_to_reject_labels(self, labels: Mapping[str, str]) -> Optional[str]:
        if len(labels) > _MAX_DIMENSIONS:
            return f"there are more than {_MAX_DIMENSIONS} labels"
        for name, value in labels.items():
            if len(name) > _MAX_NAME_LENGTH or len(value) > _MAX_LABEL_VALUE_LENGTH:
                return (
                    f"the label {name!r} is longer than {_MAX_NAME_LENGTH}, or its value than "
                    f"{_MAX_LABEL_VALUE_LENGTH} characters"
                )
            for text in (name, value):
                if not (text.isascii() and text.isprintable() and text.strip()):
                    return f"the label {name!r} is not plain ASCII"
            if name.startswith(":"):
                return f"the label {name!r} starts with a colon"
        return None

    def reason_to_reject_name(self, name: str) -> Optional[str]:
        if len(name) > _MAX_NAME_LENGTH:
            return f"its name is longer than {_MAX_NAME_LENGTH} characters"
        return None

    def reason_to_reject(self, metric: Metric) -> Optional[str]:
        if not -_MAX_VALUE <= metric.value <= _MAX_VALUE:
            return "its value is beyond 2**360"
        now = time.time_ns()
        if metric.time < now - _MAX_AGE:
            return "it is older than two weeks"
        if metric.time > now + _MAX_LEAD:
            return (
                f"its time, {format_time(metric.time)}, is more than two hours ahead of the clock; "
                "once that is right, send it with --retry-refused"
            )
        return None

    def send(self, metrics: Sequence[Metric]) -> Optional[Answer]:
        groups = self._group(metrics)
        count = min(len(groups), _MAX_DATA)
        while True:
            try:
                self._put([self._make_datum(group) for group in groups[:count]])
                break
            except _TooLarge:
                count //= 2  # one datum is never too large, with the limits of its labels
        # The rest is for other requests, as what has been accepted must not be sent again.
        rest = [metric for group in groups[count:] for metric in group]
        return Answer(postponed=rest) if rest else None

    def _group(self, metrics: Sequence[Metric]) -> List[List[Metric]]:
        """Return the metrics of each datum.

        They are of one series and one period. CloudWatch keeps no shorter period, so that all
        statistics are the same as with a datum for each, percentiles too.
        """
        periods: Dict[Tuple[str, FrozenSet[Tuple[str, str]], int], Dict[float, List[Metric]]] = {}
        for metric in metrics:
            period = metric.time // (self._resolution * 10**9)
            by_value = periods.setdefault(
                (metric.name, frozenset(metric.labels.items()), period), {}
            )
            by_value.setdefault(float(metric.value), []).append(metric)
        groups = []
        for by_value in periods.values():
            equal = list(by_value.values())
            for start in range(0, len(equal), _MAX_VALUES):
                part = equal[start : start + _MAX_VALUES]
                groups.append([metric for metrics in part for metric in metrics])
        return groups

    def _make_datum(self, group: Sequence[Metric]) -> Dict[str, Any]:
        first = group[0]
        datum: Dict[str, Any] = {
            "MetricName": first.name,
            "Dimensions": [{"Name": name, "Value": value} for name, value in first.labels.items()],
            # Rounded down, or it might be in the next period.
            "Timestamp": _EPOCH + datetime.timedelta(milliseconds=first.time // 10**6),
        }
        if len(group) == 1:
            datum["Value"] = float(first.value)
        else:
            counts = collections.Counter(float(metric.value) for metric in group)
            datum["Values"] = list(counts)
            datum["Counts"] = [float(count) for count in counts.values()]
        if self._resolution == 1:
            datum["StorageResolution"] = 1
        return datum

    def _put(self, data: Sequence[Dict[str, Any]]) -> None:
        """Send a request with the data. Raises Unavailable, Rejected, or _TooLarge."""
        try:
            self._connect()
            response = self._client.put_metric_data(Namespace=self._namespace, MetricData=data)
        except self._errors.ClientError as error:
            raise _error_for(error) from error
        except (self._errors.BotoCoreError, self._errors.HTTPClientError) as error:
            raise Unavailable(http.with_advice(error)) from error
        if not response["ResponseMetadata"].get("RequestId"):
            raise Unavailable("unexpected response; is this CloudWatch?")

    def _connect(self) -> None:
        """Make the client unless there is one, and protect its current secrets."""
        credentials = self._session.get_credentials()
        if credentials is None:
            # A client that is made without them would not look for them again.
            raise self._errors.NoCredentialsError()
        current_credentials(credentials)
        if self._client is None:
            self._client = self._session.client("cloudwatch", **self._client_options)

    def _add_headers(self, request: Any, **others: Any) -> None:
        for name, value in self._headers.items():
            del request.headers[name]  # assigning would add a second one
            request.headers[name] = value


def _check_size(params: Mapping[str, Any], **others: Any) -> None:
    """Raise _TooLarge if the body is, before it is compressed."""
    body = params["body"]
    if isinstance(body, dict):  # in older versions of boto3, which send a form
        body = urlencode(body)
    if len(body) > _MAX_SIZE:
        raise _TooLarge


def _error_for(error: Any) -> Exception:
    """Return what an error that the server has sent means."""
    response = error.response.get("ResponseMetadata", {})
    code = error.response.get("Error", {}).get("Code", "")
    if response.get("HTTPStatusCode") == 413 or code in _REJECTED_CODES:
        return Rejected(str(error))
    return Unavailable(
        str(error), http.retry_after(http.title_case(response.get("HTTPHeaders") or {}))
    )
