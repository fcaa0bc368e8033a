import datetime
import time
from typing import Any, Dict, Mapping, Optional, Sequence

from benchmarkai.daemon.backends import base
from benchmarkai.daemon.backends.base import Rejected, Unavailable
from benchmarkai.daemon.backends.http import TIMEOUT, retry_after
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.options import option

# The limits of PutMetricData, according to its reference:
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_Dimension.html
_MAX_METRICS = 1000
_MAX_NAME_LENGTH = 255
_MAX_LABEL_VALUE_LENGTH = 1024
_MAX_DIMENSIONS = 30
_MAX_VALUE = 2.0**360
_MAX_AGE = 14 * 24 * 3600 * 10**9  # nanoseconds

_REJECTED_CODES = (
    "InvalidParameterValue",
    "InvalidParameterCombination",
    "MissingParameter",
    "RequestEntityTooLarge",
    "ValidationError",
)


class Backend(base.Backend):
    """Put metrics into CloudWatch, with labels as dimensions.

    Credentials, and the region unless --region is given, come from where AWS's own programs look
    for them: variables such as AWS_ACCESS_KEY_ID, ~/.aws, or the role of the machine. Metrics
    older than two weeks are rejected, because CloudWatch does not accept them.

    \b
      $ bai-daemon cloudwatch --namespace BenchmarkAI --region eu-west-1
      $ bai-daemon cloudwatch --label run=42 -- ./my_benchmark.sh
    """

    max_batch_size = _MAX_METRICS
    options = [
        option("--namespace", "The namespace.", default="BenchmarkAI", show_default=True),
        option("--region", "The region, such as eu-west-1."),
    ]
    place = ["namespace", "region"]

    def __init__(self, namespace: str, region: Optional[str]) -> None:
        import boto3
        import botocore.config
        import botocore.exceptions

        self._errors = botocore.exceptions
        self._namespace = namespace
        self._config = botocore.config.Config(
            connect_timeout=TIMEOUT, read_timeout=TIMEOUT, retries={"total_max_attempts": 1}
        )
        self._session = boto3.Session(region_name=region)
        self._client: Any = None

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

    def reason_to_reject(self, metric: Metric) -> Optional[str]:
        if len(metric.name) > _MAX_NAME_LENGTH:
            return f"its name is longer than {_MAX_NAME_LENGTH} characters"
        if not -_MAX_VALUE <= metric.value <= _MAX_VALUE:
            return "its value is beyond 2**360"
        if metric.time < time.time_ns() - _MAX_AGE:
            return "it is older than two weeks"
        return None

    def send(self, metrics: Sequence[Metric]) -> None:
        data = [
            {
                "MetricName": metric.name,
                "Dimensions": [
                    {"Name": name, "Value": value} for name, value in metric.labels.items()
                ],
                "Timestamp": datetime.datetime.fromtimestamp(
                    metric.time / 1e9, datetime.timezone.utc
                ),
                "Value": float(metric.value),
            }
            for metric in metrics
        ]
        try:
            if self._client is None:
                self._client = self._session.client("cloudwatch", config=self._config)
            response = self._client.put_metric_data(Namespace=self._namespace, MetricData=data)
        except self._errors.ClientError as error:
            raise _error_for(error) from error
        except (self._errors.BotoCoreError, self._errors.HTTPClientError) as error:
            raise Unavailable(str(error)) from error
        if not response["ResponseMetadata"].get("RequestId"):
            raise Unavailable("unexpected response; is this CloudWatch?")


def _error_for(error: Any) -> Exception:
    """Return what an error that the server has sent means."""
    response = error.response.get("ResponseMetadata", {})
    code = error.response.get("Error", {}).get("Code", "")
    if response.get("HTTPStatusCode") == 413 or code in _REJECTED_CODES:
        return Rejected(str(error))
    return Unavailable(str(error), retry_after(_title_case(response.get("HTTPHeaders"))))


def _title_case(headers: Optional[Mapping[str, str]]) -> Dict[str, str]:
    return {name.title(): value for name, value in (headers or {}).items()}
