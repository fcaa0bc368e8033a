"""CloudWatch: what is sent, within its limits, and what its responses mean."""

import collections
import datetime
import gzip
import json
import random
import ssl
import time

import pytest

from benchmarkai.daemon.backends.base import Answer, Rejected, Unavailable
from benchmarkai.daemon.metric import Metric, format_time
from benchmarkai.daemon.redaction import redact
from tests.daemon.backends.servers import AWS_CREDENTIALS, Proxy, Tinyproxy, free_port
from tests.daemon.harness import run_daemon

cloudwatch = pytest.importorskip("benchmarkai.daemon.backends.cloudwatch")
exceptions = pytest.importorskip("botocore.exceptions", reason="pip install boto3")

SECOND = 10**9
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
START = (time.time_ns() - HOUR) // MINUTE * MINUTE  # of a minute
WIDE = {f"label{number}": "v" * 100 for number in range(30)}

SERIES = [1, 0.5, 2, 0.25, 1e6 + 0.1, 1, 1]
VALUES = {"alexnet.latency": 0.42, "größe": -1.5, "sum": 0.1 + 0.2, "large": 123456789012345678}

OK = (200, {"x-amzn-RequestId": "1"}, b"{}")
BUSY = (503, {"Retry-After": "7"}, b"")


def metric(name="a", value=1, labels={}, moment=START):
    return Metric(f"{name} {moment}", moment, name, value, labels)


def burst(count, name="a", moment=START):
    """Return metrics of one series within a second, all with different values."""
    return [metric(name, number / 8, {}, moment + number) for number in range(count)]


class CloudWatch(Proxy):
    """Accepts what the reference allows, as moto does not check it.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricDatum.html

    requests: the data of each request that was accepted.
    """

    def __init__(self, folder, tls=None):
        self.requests = []
        super().__init__(None, self._respond, tls)

    def _respond(self, number):
        body = self.bodies[-1]
        if self.headers[-1]["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        data = json.loads(body)["MetricData"]
        problem = "1 MB" if len(body) > 10**6 else self.problem(data)
        if problem:
            error = {"__type": "InvalidParameterValueException", "message": problem}
            code = {"x-amzn-query-error": "InvalidParameterValue;Sender"}
            return 400, code, json.dumps(error).encode()
        self.requests.append(data)
        return OK

    def problem(self, data):
        if len(data) > 1000:
            return "1000 data"
        for datum in data:
            values = datum.get("Values", [datum.get("Value")])
            if len(values) > 150 or len(set(values)) < len(values) or None in values:
                return "150 different values"
            if ("Value" in datum) + ("Values" in datum) != 1:
                return "Value or Values"
            if len(datum.get("Counts", values)) != len(values):
                return "a count for each value"
            if max(map(abs, values)) > 2.0**360:
                return "2**360"
            if len(datum["Dimensions"]) > 30:
                return "30 dimensions"
            now = time.time()
            if not now - 14 * 86400 <= datum["Timestamp"] <= now + 7200:
                return "two weeks ago to in two hours"
            if datum.get("StorageResolution", 60) not in (1, 60):
                return "StorageResolution"
        return None

    def data(self):
        return [datum for data in self.requests for datum in data]

    def values(self, resolution=60):
        """Return the sorted values of each name, dimensions and period, as statistics see them."""
        found = collections.defaultdict(list)
        for datum in self.data():
            labels = tuple(sorted((each["Name"], each["Value"]) for each in datum["Dimensions"]))
            values = datum.get("Values", [datum.get("Value")])
            for value, count in zip(values, datum.get("Counts", [1] * len(values))):
                period = datum["Timestamp"] // resolution
                found[datum["MetricName"], labels, period] += [value] * int(count)
        return {key: sorted(values) for key, values in found.items()}


def values_of(metrics, resolution=60):
    """Return what CloudWatch.values() must return for the metrics."""
    found = collections.defaultdict(list)
    for each in metrics:
        labels = tuple(sorted(each.labels.items()))
        found[each.name, labels, each.time // (resolution * SECOND)].append(float(each.value))
    return {key: sorted(values) for key, values in found.items()}


@pytest.fixture
def make_backend(monkeypatch):
    """A function that makes a backend which takes the server at a URL for CloudWatch."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def call(url, environment=AWS_CREDENTIALS, **options):
        for name, value in {**environment, "AWS_ENDPOINT_URL": url}.items():
            monkeypatch.setenv(name, value)
        options = {"resolution": "60", **options}
        return cloudwatch.Backend("BenchmarkAI", "eu-west-1", **options)

    return call


def send_all(backend, metrics):
    while metrics:
        answer = backend.send(metrics) or Answer()
        assert answer == Answer(postponed=answer.postponed)
        metrics = answer.postponed


@pytest.fixture
def send(start_server, make_backend):
    """A function that sends metrics to a server that accepts what CloudWatch would."""

    def call(metrics, **options):
        server = start_server(CloudWatch)
        send_all(make_backend(server.url, **options), metrics)
        return server

    return call


def test_a_metric_is_a_datum_with_its_labels_as_dimensions(send):
    server = send([metric("a b", 0.5, {"run": "42", "gpu": "0"})])
    assert json.loads(server.bodies[0])["Namespace"] == "BenchmarkAI"
    dimensions = [{"Name": "run", "Value": "42"}, {"Name": "gpu", "Value": "0"}]
    assert server.data() == [
        {
            "MetricName": "a b",
            "Dimensions": dimensions,
            "Timestamp": START / SECOND,
            "Value": 0.5,
        }
    ]


def test_a_value_is_exactly_the_double(send):
    values = [0.1 + 0.2, 5e-324, -1e-9, 2.0**360, -(2.0**360), 123456789012345678, 2**53 + 1]
    alone = [metric(f"n{number}", value) for number, value in enumerate(values)]
    *data, shared = send([*alone, *(metric("a", value) for value in values)]).data()
    assert [datum["Value"] for datum in data] == [float(value) for value in values]
    assert shared["Values"] == [float(value) for value in values]


def test_values_of_one_series_and_minute_share_a_datum(send):
    server = send([metric("a", 2, {}, START + 1), metric("a", 1, {}, START + MINUTE - 1)])
    (datum,) = server.data()
    assert (datum["Values"], datum["Counts"]) == ([2, 1], [1, 1])
    assert datum["Timestamp"] == START / SECOND
    assert "StorageResolution" not in datum


def test_equal_values_are_counted(send):
    server = send([metric("a", value) for value in [1, 0.5, 1.0, 1, 0.5]])
    (datum,) = server.data()
    assert (datum["Values"], datum["Counts"]) == ([1, 0.5], [3, 2])


def test_the_order_of_labels_does_not_matter(send):
    server = send([metric(labels={"a": "1", "b": "2"}), metric(labels={"b": "2", "a": "1"})])
    (datum,) = server.data()
    assert (datum["Values"], datum["Counts"]) == ([1], [2])


def test_another_name_label_or_minute_is_another_datum(send):
    others = [metric("b"), metric(labels={"run": "1"}), metric(moment=START + MINUTE)]
    server = send([metric(), *others])
    assert [datum["Value"] for datum in server.data()] == [1] * 4
    assert server.values() == values_of([metric(), *others])


def test_a_thousand_values_of_a_minute_are_seven_data(send):
    server = send(burst(1000))
    assert [len(datum["Values"]) for datum in server.data()] == [150] * 6 + [100]
    assert server.values() == values_of(burst(1000))


def test_a_resolution_of_a_second_is_that_of_the_data(send):
    metrics = [metric("a", n, {}, START + n * SECOND // 2) for n in range(4)]
    server = send(metrics, resolution="1")
    assert [datum["StorageResolution"] for datum in server.data()] == [1, 1]
    assert server.values(1) == values_of(metrics, 1)


def test_sharing_leaves_all_statistics_as_they_are(send):
    rng = random.Random(1)
    metrics = [
        metric(
            rng.choice("ab"),
            rng.choice([rng.random(), 1, 2]),
            {"run": rng.choice("12")},
            START + rng.randrange(3 * MINUTE),
        )
        for _ in range(1000)
    ]
    server = send(metrics)
    assert server.values() == values_of(metrics)
    assert len(server.data()) < 50


def test_a_metric_is_not_rounded_into_the_next_minute(send):
    metrics = [metric(moment=START + MINUTE - 1)]
    assert send(metrics).values() == values_of(metrics)


def test_a_request_has_at_most_a_thousand_data(send):
    metrics = [metric(f"n{number}") for number in range(2001)]
    server = send(metrics)
    assert [len(data) for data in server.requests] == [1000, 1000, 1]
    assert server.values() == values_of(metrics)


def test_a_request_has_at_most_a_megabyte(send):
    metrics = [metric(f"n{number}", 1, WIDE) for number in range(280)]
    server = send(metrics)
    assert len(server.requests) > 1
    assert [datum["MetricName"] for datum in server.data()] == [each.name for each in metrics]


def test_more_values_than_data_are_one_request(send):
    metrics = burst(1500)
    assert len(send(metrics).requests) == 1


def test_after_a_failure_only_the_rest_is_sent_again(start_server, make_backend):
    server = start_server(CloudWatch)
    accept = server.fault
    server.fault = lambda number: BUSY if number == 2 else accept(number)
    backend = make_backend(server.url)
    metrics = [metric(f"n{number}") for number in range(2001)]
    metrics += [metric(f"n{number}", 2) for number in range(0, 2001, 10)]
    answer = backend.send(metrics)
    assert answer == Answer(postponed=answer.postponed)
    assert len(answer.postponed) == 1001 + 101
    with pytest.raises(Unavailable) as caught:
        backend.send(answer.postponed)
    assert caught.value.retry_after == 7
    send_all(backend, answer.postponed)
    assert server.values() == values_of(metrics)


@pytest.mark.parametrize("response, error", [(BUSY, Unavailable), ((413, {}, b""), Rejected)])
def test_a_request_that_fails_is_the_last_one(start_server, make_backend, response, error):
    proxy = start_server(Proxy, None, lambda number: response)
    with pytest.raises(error):
        make_backend(proxy.url).send([metric(f"n{number}") for number in range(1001)])
    assert len(proxy.bodies) == 1


def test_a_small_request_is_not_compressed_and_a_large_one_is(send):
    assert send(burst(10)).headers[0]["Content-Encoding"] is None
    server = send(burst(1000))
    assert server.headers[0]["Content-Encoding"] == "gzip"
    assert server.values() == values_of(burst(1000))


@pytest.mark.parametrize(
    "lead, reason",
    [
        (-14 * DAY - MINUTE, "it is older than two weeks"),
        (-14 * DAY + MINUTE, None),
        (0, None),
        (2 * HOUR - MINUTE, None),
    ],
)
def test_a_metric_between_two_weeks_ago_and_two_hours_ahead_is_not_rejected(
    make_backend, lead, reason
):
    moved = metric(moment=time.time_ns() + lead)
    assert make_backend("http://127.0.0.1:1").reason_to_reject(moved) == reason


def test_a_metric_more_than_two_hours_ahead_is_rejected_with_its_time(make_backend):
    moment = time.time_ns() + 2 * HOUR + MINUTE
    assert make_backend("http://127.0.0.1:1").reason_to_reject(metric(moment=moment)) == (
        f"its time, {format_time(moment)}, is more than two hours ahead of the clock; once that "
        "is right, send it with --retry-refused"
    )


def test_headers_are_sent_and_signed(send):
    headers = {"X-Team": "a", "Content-Type": "application/x-amz-json-1.1"}
    server = send([metric()], header=headers, header_file={"X-Token": "b"})
    sent = server.headers[0]
    assert {name: sent.get_all(name) for name in ("X-Team", "Content-Type", "X-Token")} == {
        "X-Team": ["a"],
        "Content-Type": ["application/x-amz-json-1.1"],
        "X-Token": ["b"],
    }
    signed = server.authorizations[0].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert {"x-team", "x-token"} < set(signed)


def test_the_secrets_of_aws_are_not_shown(send):
    environment = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "qwertz/uiop"}
    send([metric()], environment={**environment, "AWS_SESSION_TOKEN": "asdf+ghjk"})
    assert redact("AKID qwertz/uiop asdf+ghjk") == "AKID *** ***"


def test_the_secrets_of_aws_are_not_shown_after_they_have_changed(
    start_server, make_backend, tmp_path
):
    (tmp_path / "program").write_text(
        f"echo x >>'{tmp_path}/calls'\n"
        "expiration=$(date -u -d '+1 minute' +%Y-%m-%dT%H:%M:%SZ)\n"
        f"n=$(wc -l <'{tmp_path}/calls')\n"
        'printf \'{"Version": 1, "AccessKeyId": "AKID", "SecretAccessKey": "changing-%d", '
        '"Expiration": "%s"}\' $n $expiration\n'
    )
    (tmp_path / "config").write_text(f"[default]\ncredential_process = sh '{tmp_path}/program'\n")
    server = start_server(CloudWatch)
    environment = {
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }
    backend = make_backend(server.url, environment)
    for _ in range(2):
        backend.send([metric()])
    # They expire so soon that each look at them gets others. Every second look is the signer's.
    found = range(1, 1 + len((tmp_path / "calls").read_text().split()))
    assert sum(redact(f"changing-{number}") == "***" for number in found) == 2


def test_credentials_may_come_later(start_server, make_backend, tmp_path, monkeypatch):
    server = start_server(CloudWatch)
    nowhere = str(tmp_path / "none")
    environment = {"AWS_CONFIG_FILE": nowhere, "AWS_SHARED_CREDENTIALS_FILE": nowhere}
    backend = make_backend(server.url, environment)
    with pytest.raises(Unavailable, match="Unable to locate credentials"):
        backend.send([metric()])
    for name, value in AWS_CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    assert backend.send([metric()]) is None


@pytest.fixture
def secure(start_server, tmp_path, monkeypatch):
    """A server with TLS that wants a certificate of the client, and the paths of certificates."""
    trustme = pytest.importorskip("trustme", reason="pip install trustme")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    client = authority.issue_cert("client")
    paths = {name: str(tmp_path / name) for name in ("ca", "cert", "key", "both")}
    authority.cert_pem.write_to_path(paths["ca"])
    client.cert_chain_pems[0].write_to_path(paths["cert"])
    client.private_key_pem.write_to_path(paths["key"])
    client.private_key_and_cert_chain_pem.write_to_path(paths["both"])
    for name in ("https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return start_server(CloudWatch, context), paths


def test_a_certificate_that_is_not_trusted_is_not_accepted(secure, make_backend):
    server, paths = secure
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED") as caught:
        make_backend(server.url, client_cert=paths["both"]).send([metric()])
    assert str(caught.value).endswith(": --ca-file names a file with the certificates to trust")


def test_the_server_and_the_client_know_each_other_by_certificates(secure, make_backend):
    server, paths = secure
    options = {"client_cert": paths["cert"], "client_key": paths["key"]}
    assert make_backend(server.url, ca_file=paths["ca"], **options).send([metric()]) is None
    with pytest.raises(Unavailable):
        make_backend(server.url, ca_file=paths["ca"]).send([metric()])
    assert len(server.requests) == 1


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_insecure_is_told_and_accepts_any_certificate(secure, make_backend, caplog):
    server, paths = secure
    backend = make_backend(server.url, insecure=True, client_cert=paths["both"])
    assert "the server's certificate is not checked (--insecure)" in caplog.text
    assert backend.send([metric()]) is None


@pytest.mark.parametrize("no_proxy, requests", [("example.com", 1), ("127.0.0.1", 0)])
def test_the_proxy_of_the_environment_is_used_unless_the_server_is_in_no_proxy(
    secure, start_server, make_backend, monkeypatch, no_proxy, requests
):
    server, paths = secure
    proxy = start_server(Tinyproxy)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    options = {"ca_file": paths["ca"], "client_cert": paths["both"]}
    assert make_backend(server.url, **options).send([metric()]) is None
    places = [line.split()[:2] for line in proxy.requests()]
    assert places == [["CONNECT", f"127.0.0.1:{server.port}"]] * requests


@pytest.mark.parametrize(
    "option, message",
    [
        ("--ca-file", "has no certificates in PEM"),
        ("--client-key", "--client-key needs --client-cert"),
    ],
)
def test_a_bad_certificate_is_a_usage_error(tmp_path, option, message):
    (tmp_path / "bad").write_text("no certificate")
    result = run_daemon("cloudwatch", option, str(tmp_path / "bad"), "--", "true")
    assert (result.code, result.out) == (2, "")
    assert message in " ".join(result.err.split())


def error_from_cloudwatch(code, status, headers=None):
    response = {
        "Error": {"Code": code, "Message": "no"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return cloudwatch._error_for(exceptions.ClientError(response, "PutMetricData"))


@pytest.mark.parametrize(
    "code, status",
    [
        ("413", 413),
        ("InvalidParameterValue", 400),
        ("InvalidParameterCombination", 400),
        ("MissingParameter", 400),
        ("RequestEntityTooLarge", 400),
        ("ValidationError", 400),
    ],
)
def test_what_cloudwatch_rejects(code, status):
    error = error_from_cloudwatch(code, status, {"retry-after": "7"})
    assert type(error) is Rejected
    assert str(error).endswith(": no")


@pytest.mark.parametrize(
    "code, status",
    [
        ("", 400),
        ("Throttling", 400),
        ("AccessDenied", 403),
        ("InvalidClientTokenId", 403),
        ("412", 412),
        ("414", 414),
        ("422", 422),
        ("ServiceUnavailable", 503),
    ],
)
@pytest.mark.parametrize(
    "headers, seconds", [(None, None), ({}, None), ({"retry-after": "7"}, 7)], ids=str
)
def test_any_other_error_of_cloudwatch_is_worth_a_retry(code, status, headers, seconds):
    error = error_from_cloudwatch(code, status, headers)
    assert type(error) is Unavailable
    assert str(error).endswith(": no")
    assert error.retry_after == seconds


def test_an_error_of_cloudwatch_without_details_is_worth_a_retry():
    error = cloudwatch._error_for(exceptions.ClientError({}, "PutMetricData"))
    assert type(error) is Unavailable
    assert error.retry_after is None


def test_busy_cloudwatch_is_asked_once_and_says_when_to_ask_again(start_server, make_backend):
    proxy = start_server(Proxy, None, lambda number: (503, {"Retry-After": "7"}, b""))
    with pytest.raises(Unavailable) as caught:
        make_backend(proxy.url).send([metric()])
    assert caught.value.retry_after == 7
    assert len(proxy.bodies) == 1


def test_what_cloudwatch_does_not_respond_is_not_a_delivery(start_server, make_backend):
    proxy = start_server(Proxy, None, lambda number: (200, {}, b""))
    with pytest.raises(Unavailable) as caught:
        make_backend(proxy.url).send([metric()])
    assert str(caught.value) == "unexpected response; is this CloudWatch?"


def test_cloudwatch_that_is_down_is_worth_a_retry(make_backend):
    with pytest.raises(Unavailable, match="Could not connect"):
        make_backend(f"http://127.0.0.1:{free_port()}").send([metric()])


def test_metrics_arrive_in_cloudwatch(cloudwatch, start_daemon, make_backend):
    import boto3

    # With so many values, the request is compressed.
    make_backend(cloudwatch.url).send(burst(1000, "burst"))

    daemon = start_daemon("cloudwatch", "--region", "eu-west-1", "--label", "run=42")
    for number in SERIES:
        daemon.emit(f"series={number!r}")
    daemon.emit(stdin=json.dumps(VALUES).encode())
    assert daemon.stop().code == 0, daemon.logged()
    client = boto3.client("cloudwatch", region_name="eu-west-1")
    now = datetime.datetime.now(datetime.timezone.utc)

    def statistics(name, dimensions=({"Name": "run", "Value": "42"},)):
        response = client.get_metric_statistics(
            Namespace="BenchmarkAI",
            MetricName=name,
            Dimensions=dimensions,
            StartTime=now - datetime.timedelta(hours=2),
            EndTime=now + datetime.timedelta(hours=1),
            Period=86400,
            Statistics=["SampleCount", "Sum", "Minimum", "Maximum"],
        )
        return response["Datapoints"]

    for name, value in VALUES.items():
        (point,) = statistics(name)
        assert (point["SampleCount"], point["Sum"]) == (1, float(value)), name
    (point,) = statistics("burst", ())
    assert (point["SampleCount"], point["Sum"]) == (1000, sum(range(1000)) / 8)
    assert (point["Minimum"], point["Maximum"]) == (0, 999 / 8)
    points = statistics("series")
    assert sum(point["SampleCount"] for point in points) == len(SERIES)
    assert min(point["Minimum"] for point in points) == min(SERIES)
    assert max(point["Maximum"] for point in points) == max(SERIES)


def test_metrics_beyond_the_limits_of_cloudwatch_are_rejected(start_server, start_daemon):
    server = start_server(CloudWatch)
    environment = {**AWS_CREDENTIALS, "AWS_ENDPOINT_URL": server.url}
    daemon = start_daemon("cloudwatch", "--region", "eu-west-1", env=environment)
    daemon.emit("a=1", "n" * 256 + "=1", "big=1e300", 'b{gpu="0"}=2')
    assert daemon.stop().code == 0
    reasons = [entry["reason"] for entry in daemon.rejected_entries()]
    assert reasons == ["its name is longer than 255 characters", "its value is beyond 2**360"]
    assert "delivered 2, rejected 2, waiting 0" in daemon.logged()
    found = [(datum["MetricName"], datum["Dimensions"]) for datum in server.data()]
    assert found == [("a", []), ("b", [{"Name": "gpu", "Value": "0"}])]
