"""The kafka backend, with a broker in a process of its own and with librdkafka's mock cluster."""

import collections
import contextlib
import ctypes
import gc
import glob
import json
import os
import re
import signal
import socket
import ssl
import threading
import time

import click
import pytest

confluent_kafka = pytest.importorskip(
    "confluent_kafka", reason="confluent-kafka is not installed: pip install confluent-kafka"
)

from benchmarkai.daemon import cli  # noqa: E402
from benchmarkai.daemon.backends import kafka  # noqa: E402
from benchmarkai.daemon.backends.base import Rejected, Unavailable  # noqa: E402
from benchmarkai.daemon.metric import Metric, format_time  # noqa: E402
from benchmarkai.daemon.redaction import redact  # noqa: E402
from tests.daemon.backends.servers import (  # noqa: E402
    Moto,
    Tansu,
    find_program,
    free_port,
    request,
)
from tests.daemon.harness import run_daemon  # noqa: E402
from tests.helpers import BAI_EMIT, Background, bounded, run, wait_until  # noqa: E402

TOPIC = "benchmark-metrics"
PRODUCE, INIT_PRODUCER_ID = 0, 22  # https://kafka.apache.org/protocol.html#protocol_api_keys


class MockCluster:
    """The mock that librdkafka has for its own tests: a broker in this process that can fail.

    Its functions are in the library that comes with confluent-kafka, which does not offer them:
    https://github.com/confluentinc/librdkafka/blob/master/src/rdkafka_mock.h
    """

    def __init__(self):
        package = os.path.dirname(confluent_kafka.__file__)
        found = glob.glob(os.path.join(package + ".libs", "librdkafka*.so*"))
        if not found:
            pytest.skip("this confluent-kafka has no librdkafka of its own: install its wheel")
        self._library = ctypes.CDLL(found[0])
        self._library.rd_kafka_new.restype = ctypes.c_void_p
        self._library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
        self._library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        self._library.rd_kafka_conf_new.restype = ctypes.c_void_p
        conf = ctypes.c_void_p(self._library.rd_kafka_conf_new())
        error = ctypes.create_string_buffer(512)
        self._library.rd_kafka_conf_set(conf, b"log_level", b"0", error, 512)
        self._client = ctypes.c_void_p(self._library.rd_kafka_new(0, conf, error, 512))
        assert self._client.value, error.value
        cluster = self._library.rd_kafka_mock_cluster_new(self._client, 1)
        self._cluster = ctypes.c_void_p(cluster)
        bootstrap = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        self.bootstrap = bootstrap.decode()

    def fail(self, *names, api=PRODUCE):
        """Let the next requests fail, each with the error of that name."""
        codes = [getattr(confluent_kafka.KafkaError, name) for name in names]
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster,
            ctypes.c_int16(api),
            ctypes.c_size_t(len(codes)),
            (ctypes.c_int * len(codes))(*codes),
        )

    def recover(self):
        self._library.rd_kafka_mock_clear_request_errors(self._cluster, ctypes.c_int16(PRODUCE))

    def set_topic_error(self, name):
        code = getattr(confluent_kafka.KafkaError, name)
        self._library.rd_kafka_mock_topic_set_error(self._cluster, TOPIC.encode(), code)

    def stop_broker(self):
        self._library.rd_kafka_mock_broker_set_down(self._cluster, ctypes.c_int32(-1))

    def start_broker(self):
        self._library.rd_kafka_mock_broker_set_up(self._cluster, ctypes.c_int32(-1))

    def stop(self):
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)


class Relay:
    """Passes requests on to a broker, and its responses back, each as a whole.

    context: the TLS that it ends, or None.
    """

    def __init__(self, context=None):
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._is_cut = False
        self._lock = threading.Lock()
        self._unanswered = collections.Counter()  # requests, by the connection to the broker
        self._clients = []
        self.answered = 0
        self.port = self._listener.getsockname()[1]
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.target = None
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """Drop all requests, and the responses to those that the broker has."""
        with self._lock:
            self._is_cut = True
        wait_until(lambda: not any(self._unanswered.values()))
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self._clients.clear()

    def mend(self):
        self._is_cut = False

    def stop(self):
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(OSError))
            stack.enter_context(client)
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
                stack.enter_context(client)
            self._clients.append(client)
            broker = socket.create_connection(("127.0.0.1", self.target.port))
            stack.enter_context(broker)
            stack.callback(broker.shutdown, socket.SHUT_RDWR)
            threading.Thread(target=self._answer, args=(broker, client), daemon=True).start()
            while True:
                request = self._read(client)
                with self._lock:
                    if self._is_cut:
                        return
                    self._unanswered[broker] += 1
                broker.sendall(request)

    def _answer(self, broker, client):
        try:
            while True:
                response = self._read(broker)
                if not self._is_cut:
                    client.sendall(response)
                self._unanswered[broker] -= 1
                self.answered += 1
        except OSError:
            del self._unanswered[broker]

    @staticmethod
    def _read(source):
        """Return the next frame. Raises OSError at the end."""
        data, size = b"", 4
        while len(data) < size:
            part = source.recv(size - len(data))
            if not part:
                raise OSError("closed")
            data += part
            if len(data) == 4:
                size += int.from_bytes(data, "big")
        return data


def librdkafka_threads():
    found = []
    for path in glob.glob("/proc/self/task/*/comm"):
        with contextlib.suppress(OSError), open(path) as file:
            found += [name for name in file if name.startswith("rdk:")]
    return found


@pytest.fixture(autouse=True)
def no_threads_left():
    """Threads of librdkafka would take the signals that later tests send to this process."""
    yield
    gc.collect()
    wait_until(lambda: not librdkafka_threads())


@pytest.fixture
def mock(no_threads_left):
    cluster = MockCluster()
    yield cluster
    cluster.stop()


def to(server, *options):
    """Return the arguments of a daemon that delivers to the server."""
    return ["kafka", "--bootstrap", server.bootstrap, "--flush-interval", "0.05", *options]


def make_backend(server, option=(), option_file=()):
    return kafka.Backend(server.bootstrap, TOPIC, dict(option), dict(option_file))


def make_metrics(count, first=0, series=3):
    return [
        Metric(f"id{n}", 10**18 + n, f"series{n % series}", n, {"run": "1"}, n)
        for n in range(first, first + count)
    ]


def messages_in(server):
    """Return all messages of the topic, those of a partition in their order."""
    settings = {"group.id": "tests", "log_level": 0, "enable.partition.eof": True}
    consumer = confluent_kafka.Consumer({"bootstrap.servers": server.bootstrap, **settings})
    topic = consumer.list_topics(TOPIC, timeout=30).topics[TOPIC]
    consumer.assign([confluent_kafka.TopicPartition(TOPIC, n, 0) for n in topic.partitions])
    messages = []
    ended = set()

    def all_are_here():
        for message in consumer.consume(1000, 0.1):
            if message.error() is None:
                messages.append(message)
            else:
                assert message.error().name() == "_PARTITION_EOF", message.error()
                ended.add(message.partition())
        return len(ended) == len(topic.partitions)

    wait_until(all_are_here)
    consumer.close()
    return messages


def documents_in(server):
    return [json.loads(message.value()) for message in messages_in(server)]


def ids_in(server):
    return [document["id"] for document in documents_in(server)]


def check_stream(documents, count):
    """Check that all numbers have arrived, each series in order, if repeats are left out."""
    seen = set()
    series = collections.defaultdict(list)
    for document in documents:
        if document["id"] not in seen:
            seen.add(document["id"])
            series[document["name"]].append(document["value"])
    assert sorted(sum(series.values(), [])) == list(range(count))
    assert all(values == sorted(values) for values in series.values())


def emit_stream(daemon, first, last):
    lines = [b"writer%d=%d\n" % (number % 7, number) for number in range(first, last)]
    daemon.emit(stdin=b"".join(lines))


# What arrives


def test_a_message_is_the_document_of_stdout_with_the_id(start_server, start_daemon):
    server = start_server(Tansu)
    daemon = start_daemon(*to(server, "--label", "run=42", "--label", "größe=ä"))
    before = time.time_ns()
    daemon.emit(stdin=json.dumps({"a.b": 0.42, "größe": 2**60 + 1, 'x{y="1"}': -1e-9}).encode())
    assert daemon.stop().code == 0, daemon.logged()
    found = {}
    for message in messages_in(server):
        document = json.loads(message.value())
        assert list(document) == ["time", "name", "value", "labels", "id"]
        own = {"y": "1"} if document["name"] == "x" else {}
        assert document["labels"] == {"run": "42", "größe": "ä", **own}
        assert json.loads(message.key()) == {
            "name": document["name"],
            "labels": document["labels"],
        }
        kind, milliseconds = message.timestamp()
        assert kind == confluent_kafka.TIMESTAMP_CREATE_TIME
        assert document["time"][:23] + "000000Z" == format_time(milliseconds * 10**6)
        assert before // 10**6 <= milliseconds <= time.time_ns() // 10**6
        found[document["name"]] = document["value"]
    assert found == {"a.b": 0.42, "größe": 2**60 + 1, "x": -1e-9}
    assert f"delivering to kafka bootstrap={server.bootstrap} topic={TOPIC}" in daemon.logged()


def test_without_faults_each_metric_arrives_once_and_each_series_in_order(
    start_server, start_daemon
):
    server = start_server(Tansu)
    daemon = start_daemon(*to(server, "--batch-size", "300"))
    emit_stream(daemon, 0, 5000)
    assert daemon.stop().code == 0, daemon.logged()
    messages = messages_in(server)
    documents = [json.loads(message.value()) for message in messages]
    assert len(documents) == len({document["id"] for document in documents}) == 5000
    check_stream(documents, 5000)
    partitions = collections.defaultdict(set)
    for message in messages:
        partitions[message.key()].add(message.partition())
    assert len(partitions) == 7
    assert all(len(numbers) == 1 for numbers in partitions.values())


def test_the_key_is_that_of_the_name_and_the_labels(mock):
    metrics = [
        Metric("1", 10**18, "a", 1, {"x": "1", "b": "2"}),
        Metric("2", 10**18, "a", 1, {"b": "2", "x": "1"}),
        Metric("3", 10**18, "a", 1, {"x": "2", "b": "2"}),
        Metric("4", 10**18, "a", 1, {}),
        Metric("5", 10**18, "b", 1, {}),
        Metric("6", 10**18, 'a{"x":"1"}', 1, {}),
    ]
    assert make_backend(mock).send(metrics) is None
    keys = {json.loads(m.value())["id"]: m.key().decode() for m in messages_in(mock)}
    assert keys == {
        "1": '{"labels":{"b":"2","x":"1"},"name":"a"}',
        "2": '{"labels":{"b":"2","x":"1"},"name":"a"}',
        "3": '{"labels":{"b":"2","x":"2"},"name":"a"}',
        "4": '{"labels":{},"name":"a"}',
        "5": '{"labels":{},"name":"b"}',
        "6": '{"labels":{},"name":"a{\\"x\\":\\"1\\"}"}',
    }


def test_a_message_is_compact_json(mock):
    assert make_backend(mock).send([Metric('1"', 10**18, "ä", 0.5, {"x": "1", "b": "2"})]) is None
    (message,) = messages_in(mock)
    assert message.value() == (
        b'{"time":"2001-09-09T01:46:40.000000000Z","name":"\\u00e4","value":0.5,'
        b'"labels":{"x":"1","b":"2"},"id":"1\\""}'
    )


def murmur2(data):
    """Return the hash by which the Java clients choose a partition.

    https://github.com/apache/kafka/blob/4.0/clients/src/main/java/org/apache/kafka/common/utils/Utils.java
    """
    size, mask, factor = len(data), 0xFFFFFFFF, 0x5BD1E995
    value = 0x9747B28C ^ size
    for start in range(0, size - size % 4, 4):
        word = int.from_bytes(data[start : start + 4], "little") * factor & mask
        word = (word ^ word >> 24) * factor & mask
        value = (value * factor & mask) ^ word
    if size % 4:
        value = (value ^ int.from_bytes(data[size - size % 4 :], "little")) * factor & mask
    value = (value ^ value >> 13) * factor & mask
    return value ^ value >> 15


@pytest.mark.parametrize("option, is_that_of_java", [({}, True), ({"partitioner": "fnv1a"}, False)])
def test_the_partition_is_the_one_that_java_clients_choose(mock, option, is_that_of_java):
    # From the tests of Kafka: UtilsTest.java, testMurmur2.
    assert murmur2(b"foobar") == -790332482 & 0xFFFFFFFF
    assert murmur2(b"a-little-bit-long-string") == -985981536 & 0xFFFFFFFF
    assert make_backend(mock, option).send(make_metrics(40, series=40)) is None
    messages = messages_in(mock)
    assert len({message.partition() for message in messages}) > 1
    found = all(m.partition() == (murmur2(m.key()) & 0x7FFFFFFF) % 4 for m in messages)
    assert found is is_that_of_java


# Faults


def test_nothing_is_lost_if_the_broker_is_down_at_the_start(start_server, start_daemon):
    server = start_server(Tansu)
    server.stop()
    daemon = start_daemon(*to(server))
    emit_stream(daemon, 0, 700)
    daemon.wait_for_log(
        f"cannot deliver: {server.bootstrap}, topic '{TOPIC}': {server.bootstrap}/bootstrap: "
        f"Connect to ipv4#{server.bootstrap} failed: Connection refused"
    )
    server.start()
    daemon.wait_for_log("delivering again")
    assert daemon.stop().code == 0, daemon.logged()
    documents = documents_in(server)
    assert len(documents) == 700
    check_stream(documents, 700)


@pytest.mark.slow
def test_nothing_is_lost_if_the_broker_is_killed_within_a_stream(start_server, start_daemon):
    store = start_server(Moto)
    request(store.url + "/tansu", b"", "PUT", Host="s3.amazonaws.com")
    relay = Relay()
    relay.target = server = start_server(Tansu, store, relay.port)
    daemon = start_daemon(*to(relay, "--batch-size", "200", "--shutdown-timeout", "60"))
    count = 0
    for _ in range(3):
        answered = relay.answered
        emit_stream(daemon, count, count + 2000)
        wait_until(lambda: relay.answered >= answered + 5)
        # This broker does not store a batch and its number as one, as Kafka does, so it must not
        # be killed in between. What it has stored is sent again nevertheless.
        relay.cut()
        server.kill()
        emit_stream(daemon, count + 2000, count + 3000)
        server.start()
        relay.mend()
        count += 3000
    assert daemon.stop().code == 0, daemon.logged()
    relay.stop()
    assert " WARNING: " in daemon.logged()
    server.advertised_port = None
    server.kill()
    server.start()
    check_stream(documents_in(server), count)


@pytest.mark.slow
def test_a_short_restart_of_the_broker_repeats_nothing(mock, messages):
    backend = make_backend(mock)
    assert backend.send(make_metrics(100)) is None
    mock.fail(*["NOT_ENOUGH_REPLICAS"] * 1000)
    sending = Background(lambda: backend.send(make_metrics(100, first=100)))
    wait_until(lambda: len(backend._producer))
    mock.stop_broker()
    wait_until(lambda: any("waiting for a broker" in message for message in messages()))
    mock.recover()
    mock.start_broker()
    assert sending.result() is None
    assert sorted(ids_in(mock)) == sorted(metric.id for metric in make_metrics(200))
    assert len(messages()) == 1


@pytest.mark.slow
def test_what_was_given_up_does_not_arrive_later(mock, monkeypatch):
    backend = make_backend(mock)
    assert backend.send(make_metrics(10)) is None
    mock.fail(*["NOT_ENOUGH_REPLICAS"] * 1000)
    monkeypatch.setattr(kafka, "TIMEOUT", 0.3)
    with pytest.raises(Unavailable, match="no acknowledgement within 0.3 s"):
        backend.send(make_metrics(10, first=10))
    monkeypatch.undo()
    mock.recover()
    # A producer that was kept would send before these.
    assert make_backend(mock).send(make_metrics(10, first=20)) is None
    assert sorted(ids_in(mock)) == sorted(m.id for m in make_metrics(10) + make_metrics(10, 20))
    assert backend.send(make_metrics(10, first=10)) is None
    assert sorted(ids_in(mock)) == sorted(metric.id for metric in make_metrics(30))


def test_a_broker_that_was_down_for_longer_is_found_again(mock, monkeypatch):
    backend = make_backend(mock)
    assert backend.send(make_metrics(10)) is None
    monkeypatch.setattr(kafka, "TIMEOUT", 0.3)
    mock.stop_broker()
    for _ in range(3):
        with pytest.raises(Unavailable, match="brokers are down|Connection refused"):
            backend.send(make_metrics(10, first=10))
    monkeypatch.undo()
    mock.start_broker()
    assert backend.send(make_metrics(10, first=10)) is None
    assert sorted(ids_in(mock)) == sorted(metric.id for metric in make_metrics(20))


# Errors

WAITS = [
    ("TOPIC_AUTHORIZATION_FAILED", "Topic authorization failed: grant the user WRITE on the topic"),
    ("CLUSTER_AUTHORIZATION_FAILED", "Cluster authorization failed: grant the user IDEMPOTENT_"),
    ("OUT_OF_ORDER_SEQUENCE_NUMBER", "out of order sequence number"),
]


@pytest.mark.parametrize("name, reason", WAITS, ids=str)
def test_an_error_that_may_end_is_worth_a_retry_by_a_new_producer(mock, name, reason):
    backend = make_backend(mock)
    assert backend.send(make_metrics(1)) is None
    mock.fail(name)
    with pytest.raises(Unavailable) as caught:
        backend.send(make_metrics(1, first=1))
    assert str(caught.value).startswith(f"{mock.bootstrap}, topic '{TOPIC}': ")
    assert reason in str(caught.value)
    assert backend.send(make_metrics(1, first=1)) is None
    assert sorted(ids_in(mock)) == ["id0", "id1"]


def test_a_producer_without_the_right_to_be_one_says_which_right_it_needs(mock):
    mock.fail("CLUSTER_AUTHORIZATION_FAILED", api=INIT_PRODUCER_ID)
    backend = make_backend(mock)
    with pytest.raises(Unavailable, match="Cluster authorization failed: grant the user IDEMPO"):
        backend.send(make_metrics(1))
    assert backend.send(make_metrics(1)) is None


def test_a_topic_that_does_not_exist_is_named_and_found_once_it_is_created(mock):
    mock.set_topic_error("UNKNOWN_TOPIC_OR_PART")
    backend = make_backend(mock, {"topic.metadata.propagation.max.ms": "100"})
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            backend.send(make_metrics(3))
        assert str(caught.value) == (
            f"{mock.bootstrap}, topic '{TOPIC}': Broker: Unknown topic or partition: "
            "create the topic, or choose another one (--topic)"
        )
    mock.set_topic_error("NO_ERROR")
    assert backend.send(make_metrics(3)) is None


def test_a_topic_is_written_to_as_soon_as_the_user_has_the_right(mock):
    mock.set_topic_error("TOPIC_AUTHORIZATION_FAILED")
    backend = make_backend(mock)
    for _ in range(2):
        with pytest.raises(Unavailable, match="grant the user WRITE on the topic"):
            backend.send(make_metrics(3))
    mock.set_topic_error("NO_ERROR")
    assert backend.send(make_metrics(3)) is None


BAD = ["MSG_SIZE_TOO_LARGE", "INVALID_RECORD", "INVALID_TIMESTAMP", "RECORD_LIST_TOO_LARGE"]


@pytest.mark.parametrize("name", BAD)
def test_a_batch_that_the_broker_rejects_is_split(mock, name):
    backend = make_backend(mock)
    assert backend.send(make_metrics(1)) is None
    mock.fail(name)
    with pytest.raises(Rejected, match="Broker: "):
        backend.send(make_metrics(5, first=1, series=1))
    assert backend.send(make_metrics(5, first=1, series=1)) is None


@pytest.mark.parametrize("name", ["MSG_SIZE_TOO_LARGE", "TOPIC_AUTHORIZATION_FAILED"])
def test_what_was_acknowledged_is_not_sent_again(mock, name):
    backend = make_backend(mock)
    assert backend.send(make_metrics(1)) is None
    mock.fail(name)  # for the messages of one of the partitions
    metrics = make_metrics(40, first=1, series=40)
    answer = backend.send(metrics)
    assert answer.rejected == () or answer.rejected == []
    assert f"{mock.bootstrap}, topic '{TOPIC}': Broker: " in answer.reason
    assert 0 < len(answer.postponed) < 40
    assert list(answer.postponed) == [m for m in metrics if m in answer.postponed]
    assert backend.send(answer.postponed) is None
    assert sorted(ids_in(mock)) == sorted(metric.id for metric in make_metrics(41))


def test_a_message_that_is_too_large_is_rejected_alone(start_server, start_daemon):
    server = start_server(Tansu)
    daemon = start_daemon(*to(server, "--option", "message.max.bytes=1000"))
    daemon.emit("a=1", "n" * 1000 + "=2", "b=3")
    assert daemon.stop().code == 0, daemon.logged()
    (entry,) = daemon.rejected_entries()
    assert (entry["value"], "message.max.bytes" in entry["reason"]) == (2, True)
    assert sorted(document["name"] for document in documents_in(server)) == ["a", "b"]
    assert "delivered 2, rejected 1, waiting 0" in daemon.logged()


def test_a_batch_of_which_the_broker_took_nothing_is_split_though_one_is_too_large(mock):
    backend = make_backend(mock, {"message.max.bytes": "1000"})
    assert backend.send(make_metrics(1)) is None
    mock.fail("INVALID_RECORD")
    large = make_metrics(1, first=9)[0]._replace(name="n" * 1000)
    with pytest.raises(Rejected, match="Broker: "):
        backend.send([large, *make_metrics(3, first=1, series=1)])


def test_a_queue_that_is_shorter_than_a_batch_is_enough(mock):
    backend = make_backend(mock, {"queue.buffering.max.messages": "10"})
    assert backend.send(make_metrics(300)) is None
    assert sorted(ids_in(mock)) == sorted(metric.id for metric in make_metrics(300))


def test_a_queue_that_stays_full_is_worth_a_retry(mock):
    backend = make_backend(mock, {"queue.buffering.max.messages": "10"})
    mock.stop_broker()
    with pytest.raises(Unavailable, match="brokers are down|Connection refused"):
        backend.send(make_metrics(300))
    mock.start_broker()
    assert backend.send(make_metrics(300)) is None
    assert sorted(ids_in(mock)) == sorted(metric.id for metric in make_metrics(300))


def test_without_an_error_the_reason_is_that_there_was_no_acknowledgement(monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # and never answer
        monkeypatch.setattr(kafka, "TIMEOUT", 0.3)
        bootstrap = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(Unavailable) as caught:
            kafka.Backend(bootstrap, TOPIC, {}, {}).send(make_metrics(3))
        assert str(caught.value) == (
            f"{bootstrap}, topic '{TOPIC}': no acknowledgement within 0.3 s"
        )


# The end

LESS_THAN_A_SEND = kafka.TIMEOUT - 10


def test_a_daemon_without_a_broker_ends_after_its_timeout(tmp_path):
    options = ["--bootstrap", f"127.0.0.1:{free_port()}", "--option", "client.id=me"]
    options += ["--shutdown-timeout", "0.5"]
    result = run_daemon("kafka", *options, "--", BAI_EMIT, "a=1", limit=LESS_THAN_A_SEND)
    assert result.code == 1
    assert "cannot deliver: " in result.err and "Connection refused" in result.err
    again = re.search(r"1 metric is kept in \S+: send with: (.*)", result.err).group(1)
    assert again.startswith(f"bai-daemon kafka {options[0]} {options[1]} --option client.id=me ")


def test_no_thread_looks_for_a_broker_before_the_first_metric():
    # The end of the process would wait for it, for as long as the resolver of names takes.
    before = set(os.listdir("/proc/self/task"))
    backend = kafka.Backend(f"127.0.0.1:{free_port()}", TOPIC, {}, {})
    assert set(os.listdir("/proc/self/task")) <= before
    del backend


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_daemon_whose_broker_hangs(start_server, start_daemon, number):
    server = start_server(Tansu)
    daemon = start_daemon(*to(server, "--shutdown-timeout", "0.2"))
    daemon.emit("a=1")
    wait_until(lambda: len(documents_in(server)) == 1)
    server.process.send_signal(signal.SIGSTOP)
    try:
        daemon.emit("b=2")
        result = bounded(lambda: daemon.stop(number), LESS_THAN_A_SEND)
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert result.code == 1
    assert "received 2, delivered 1, rejected 0, waiting 1" in result.err


# Settings


def usage_error(*arguments):
    """Return what is wrong with the arguments."""
    with pytest.raises(click.ClickException) as caught:
        context = cli._make_command("kafka").make_context("kafka", list(arguments))
        options = {name: context.params[name] for name in ("bootstrap", "topic", "option")}
        options["option_file"] = context.params["option_file"]
        cli._make_backend("kafka", kafka.Backend, options)
    return caught.value.format_message()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--option=a.b=1"], '--option a.b=1: No such configuration property: "a.b"'),
        (["--option=linger.ms=x"], "--option linger.ms=x: Invalid value for configuration prop"),
        (["--option=linger.ms=1000000000"], "linger.ms=1000000000: Configuration property"),
        (
            ["--option=security.protocol=ssl", "--option=ssl.ca.location=/none"],
            "--option ssl.ca.location=/none: Failed to create producer: ssl.ca.location failed",
        ),
        (["--option=stats_cb=x"], "--option stats_cb=x: expected stats_cb property as a callable"),
        (["--option=error_cb=x"], "'error_cb' cannot be set"),
        (["--option=retries=0"], "--option retries=0: Failed to create producer: `retries`"),
        (["--option=acks=1"], "'acks' cannot be set: the daemon relies on its own value to lose"),
        (["--option=request.required.acks=1"], "'request.required.acks' cannot be set"),
        (["--option=enable.idempotence=false"], "'enable.idempotence' cannot be set"),
        (["--option=message.timeout.ms=1"], "'message.timeout.ms' cannot be set"),
        (["--option=transactional.id=a"], "'transactional.id' cannot be set"),
        (["--option=delivery.report.only.error=false"], "'delivery.report.only.error' cannot be"),
        (["--option=bootstrap.servers=a:1"], "'bootstrap.servers' is set by --bootstrap"),
        (
            ["--option=sasl.password=qwertz"],
            "'sasl.password' is a secret, which others can see here: see --option-file",
        ),
        (["--option=ssl.key.pem=qwertz"], "'ssl.key.pem' is a secret"),
        (["--option=sasl.oauthbearer.client.secret=qwertz"], "is a secret"),
        (["--bootstrap", "a"], "'a' is not HOST:PORT, such as localhost:9092"),
        (["--bootstrap", "a:1,"], "'' is not HOST:PORT"),
        (["--bootstrap", "a:1,b:0"], "'b:0' is not HOST:PORT"),
        (["--bootstrap", "a:65536"], "'a:65536' is not HOST:PORT"),
        (["--bootstrap", "kafka://a:1"], "'kafka://a:1' is not HOST:PORT"),
        (["--bootstrap", "me:qwertz@a:1"], "it is not HOST:PORT"),
        (["--topic", "a b"], "'a b' is not the name of a topic: use up to 249 letters, digits"),
        (["--topic", "t" * 250], "is not the name of a topic"),
        (["--topic", ".."], "'..' is not the name of a topic"),
        (["--topic", ""], "'' is not the name of a topic"),
    ],
)
def test_a_setting_that_cannot_be_used_is_a_usage_error(arguments, message):
    shown = usage_error(*arguments)
    assert message in shown
    assert "qwertz" not in shown


@pytest.mark.parametrize("bootstrap", ["a:1", "a.b-c:65535,127.0.0.1:9092", "[::1]:9092"])
def test_brokers_are_hosts_with_ports(bootstrap):
    assert kafka._check_bootstrap(None, None, bootstrap) == bootstrap


@pytest.mark.parametrize("topic", ["a", "benchmark-metrics", "A_b.9", "t" * 249])
def test_a_topic_that_kafka_allows_is_allowed(topic):
    assert kafka._check_topic(None, None, topic) == topic


@pytest.mark.parametrize(
    "text, message",
    [
        ("\nsasl.password\n", "line 2 of '{}' is not NAME=VALUE"),
        ("sasl.password=qwertz\nqwertz=", "line 2 of '{}' is not NAME=VALUE"),
        ("qwe rtz=qwertz", "line 1 of '{}' is not NAME=VALUE"),
        ("acks=1", "'acks' cannot be set"),
        ("linger.ms=qwertz", "--option-file: Invalid value for configuration property"),
        ("a.b=qwertz", '--option-file: No such configuration property: "a.b"'),
    ],
)
def test_an_error_in_a_file_of_settings_shows_no_value(tmp_path, text, message):
    path = tmp_path / "settings"
    path.write_text(text)
    shown = usage_error("--option-file", str(path))
    assert message.format(path) in shown
    assert "qwertz" not in shown


def test_only_the_secrets_of_a_file_are_hidden(tmp_path):
    path = tmp_path / "settings"
    path.write_text("sasl.username=metrics\nsasl.password=qwertz\n")
    cli._make_command("kafka").make_context("kafka", ["--option-file", str(path)])
    assert redact("benchmark-metrics, qwertz") == "benchmark-metrics, ***"


def test_a_bad_setting_ends_the_daemon_at_the_start():
    result = run_daemon("kafka", "--option=a.b=1", "--", "true")
    assert (result.code, result.out) == (2, "")
    assert result.err == ('bai-daemon: --option a.b=1: No such configuration property: "a.b"\n')


def test_a_setting_that_has_no_effect_is_told_once(start_server, start_daemon):
    server = start_server(Tansu)
    server.stop()
    daemon = start_daemon(*to(server, "--option", "group.id=a"))
    daemon.emit("a=1")
    wait_until(lambda: daemon.logged().count("cannot deliver") == 2)
    server.start()
    assert daemon.stop().code == 0
    assert daemon.logged().count("group.id is a consumer property") == 1


def test_while_the_broker_is_down_each_attempt_is_one_line_in_the_log(start_daemon):
    daemon = start_daemon("kafka", f"--bootstrap=127.0.0.1:{free_port()}", "--shutdown-timeout=0")
    daemon.emit("a=1")
    wait_until(lambda: daemon.logged().count("next retry in") >= 3)
    result = daemon.stop()
    lines = [line for line in result.err.splitlines() if " INFO: " not in line]
    assert all(" WARNING: cannot deliver: " in line or " ERROR: " in line for line in lines)


# TLS and SASL


def test_metrics_arrive_over_tls(start_server, start_daemon, tmp_path):
    certificate, key = str(tmp_path / "certificate"), str(tmp_path / "key")
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [find_program("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048"]
    created = run([*command, "-nodes", *subject, "-days", "1", "-keyout", key, "-out", certificate])
    assert created.code == 0, created.err
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    # The broker's own options for TLS exclude one another.
    relay = Relay(context)
    relay.target = start_server(Tansu, None, relay.port)
    tls = ["--option", "security.protocol=SSL"]
    daemon = start_daemon(*to(relay, *tls, "--shutdown-timeout", "0"))
    daemon.emit("a=1")
    daemon.wait_for_log("certificate verify failed")
    daemon.wait_for_log(": check the settings ssl.* (--option and --option-file)")
    assert daemon.stop().code == 1
    daemon = start_daemon(*to(relay, *tls, "--option", f"ssl.ca.location={certificate}"))
    assert daemon.stop().code == 0, daemon.logged()
    relay.stop()
    assert "delivered 1, rejected 0, waiting 0" in daemon.logged()


class SaslBroker:
    """Reads what clients send to authenticate by SASL PLAIN, and then closes the connection.

    https://kafka.apache.org/protocol.html#sasl_handshake
    """

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.bootstrap = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.received = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                self._serve(client)

    def _serve(self, client):
        while True:
            frame = client.recv(1 << 16)[4:]
            if not frame:
                return  # it has gone
            api, version = frame[:2], frame[2:4]
            if api == b"\0\x12" and version == b"\0\0":
                # Only ApiVersions, and SaslHandshake of version 0: the password comes as it is.
                body = b"\0\0" + b"\0\0\0\2" + b"\0\x12\0\0\0\0" + b"\0\x11\0\0\0\0"
            elif api == b"\0\x12":
                body = b"\0\x23" + b"\0\0\0\0"  # the version is not supported
            elif api == b"\0\x11":
                body = b"\0\0" + b"\0\0\0\1" + b"\0\5PLAIN"
            else:
                self.received.append(frame)
                return
            client.sendall((4 + len(body)).to_bytes(4, "big") + frame[4:8] + body)

    def stop(self):
        self._listener.close()


def test_a_password_of_a_file_reaches_the_broker_and_nothing_else(start_daemon, tmp_path):
    broker = SaslBroker()
    path = tmp_path / "password"
    path.write_text("\n sasl.password = qwertz=42 \n")
    settings = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "me",
        "debug": "all",
    }
    options = [f"--option={name}={value}" for name, value in settings.items()]
    options += ["--option-file", str(path), "--log-level", "debug", "--shutdown-timeout", "0"]
    daemon = start_daemon(*to(broker, *options))
    daemon.emit("a=1")
    daemon.wait_for_log("cannot deliver: ")
    result = daemon.stop()
    broker.stop()
    assert result.code == 1
    assert set(broker.received) == {b"\0me\0qwertz=42"}
    assert "librdkafka: " in result.err
    assert f" --option-file {path} --spool " in result.err
    assert "qwertz" not in result.err
