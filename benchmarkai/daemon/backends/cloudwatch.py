import datetime
import time

from benchmarkai.daemon.backends import (
    TIMEOUT,
    BackendBase,
    Rejected,
    Unavailable,
    option,
    retry_after,
)

# The limits of PutMetricData, as its reference has them:
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_Dimension.html
_METRICS = 1000
_LONGEST_NAME = 255
_LONGEST_VALUE = 1024
_DIMENSIONS = 30
_LARGEST = 2.0**360
_OLDEST = 14 * 24 * 3600 * 10**9  # nanoseconds


class Backend(BackendBase):
    """Put into CloudWatch, with labels as dimensions.

    The credentials, and the region without --region, are found where AWS's own programs find
    them: in variables such as AWS_ACCESS_KEY_ID, in ~/.aws, or in the role of the machine.
    Metrics that are older than two weeks are refused, as CloudWatch does not take them.

    \b
      $ bai-daemon cloudwatch --namespace BenchmarkAI --region eu-west-1
      $ bai-daemon cloudwatch --label run=42 -- ./my_benchmark.sh
    """

    most = _METRICS
    options = [
        option("--namespace", "The namespace.", default="BenchmarkAI", show_default=True),
        option("--region", "The region, such as eu-west-1."),
    ]

    def __init__(self, namespace, region):
        import boto3
        import botocore.config
        import botocore.exceptions

        self._errors = botocore.exceptions
        self._namespace = namespace
        config = botocore.config.Config(
            connect_timeout=TIMEOUT, read_timeout=TIMEOUT, retries={"total_max_attempts": 1}
        )
        self._session = boto3.Session(region_name=region)
        self._config = config
        self._client = None

    def objection(self, metric):
        if len(metric.name) > _LONGEST_NAME:
            return "its name is longer than %d characters" % _LONGEST_NAME
        if not -_LARGEST <= metric.value <= _LARGEST:
            return "its value is beyond 2**360"
        if len(metric.labels) > _DIMENSIONS:
            return "it has more than %d labels" % _DIMENSIONS
        for name, value in metric.labels.items():
            if len(name) > _LONGEST_NAME or len(value) > _LONGEST_VALUE:
                return "the label %r is longer than %d, or its value than %d characters" % (
                    name,
                    _LONGEST_NAME,
                    _LONGEST_VALUE,
                )
            for text in (name, value):
                if not (text.isascii() and text.isprintable() and text.strip()):
                    return "the label %r is not plain ASCII" % name
            if name.startswith(":"):
                return "the label %r begins with a colon" % name
        if metric.time and metric.time < time.time_ns() - _OLDEST:
            return "it is older than two weeks"
        return None

    def send(self, metrics):
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
            answer = self._client.put_metric_data(Namespace=self._namespace, MetricData=data)
            if answer["ResponseMetadata"].get("RequestId"):
                return
            failure = Unavailable("the answer is not one of CloudWatch")
        except self._errors.ClientError as error:
            answer = error.response.get("ResponseMetadata", {})
            code = error.response.get("Error", {}).get("Code", "")
            if answer.get("HTTPStatusCode") == 413 or code in (
                "InvalidParameterValue",
                "InvalidParameterCombination",
                "MissingParameter",
                "RequestEntityTooLarge",
                "ValidationError",
            ):
                failure = Rejected(str(error))
            else:
                failure = Unavailable(str(error), retry_after(_titled(answer.get("HTTPHeaders"))))
        except (self._errors.BotoCoreError, self._errors.HTTPClientError) as error:
            failure = Unavailable(str(error))
        raise failure


def _titled(headers):
    return {name.title(): value for name, value in (headers or {}).items()}
