import json
import logging
import re
import time
from typing import Any, Callable, Dict, Mapping, Optional, Sequence

import click

from benchmarkai.daemon.backends import base
from benchmarkai.daemon.backends.base import TIMEOUT, Answer, Rejected, Unavailable
from benchmarkai.daemon.backends.documents import Documents, encode_text
from benchmarkai.daemon.log import log
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.options import option, pairs_option, secret_pairs_option
from benchmarkai.daemon.series import SeriesCache

_POLL = 0.1  # seconds between looks at the errors while messages are on their way
_PURGE = 1.0  # seconds for the reports on messages that are given up

# https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
_DEFAULTS = {
    "client.id": "bai-daemon",
    "compression.type": "lz4",
    # That of the Java clients, which finds the partition of a key for all others too.
    "partitioner": "murmur2_random",
    # A topic that a broker creates when it is asked for is there within this time.
    "topic.metadata.propagation.max.ms": 5000,
}
# A message counts as delivered because of these, so nobody may change them.
_OWN: Dict[str, Any] = {
    "acks": "all",
    "enable.idempotence": True,
    "delivery.report.only.error": True,
    "message.timeout.ms": TIMEOUT * 1000,
}
_OTHERS = [
    "request.required.acks",
    "delivery.timeout.ms",
    "transactional.id",
    "on_delivery",
    "error_cb",
    "logger",
]
_BOOTSTRAP = ["bootstrap.servers", "metadata.broker.list"]

_SETTING = re.compile("[a-z0-9._]+")
_SECRET = re.compile(r"password|passphrase|secret|key\.pem|oauthbearer\.config")
_HOST = re.compile(r"(?:[^\s:/@\[\]]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_TOPIC = re.compile("[a-zA-Z0-9._-]{1,249}")

# What no retry ends: a message, or another one of its batch, is bad.
# https://kafka.apache.org/protocol.html#protocol_error_codes
_BAD = (
    "MSG_SIZE_TOO_LARGE",
    "RECORD_LIST_TOO_LARGE",
    "INVALID_RECORD",
    "INVALID_TIMESTAMP",
    "_INVALID_DIFFERENT_RECORD",
)
# What says no more than that there was no acknowledgement.
_SILENCE = ("_PURGE_QUEUE", "_PURGE_INFLIGHT", "_MSG_TIMED_OUT", "_QUEUE_FULL", "_FATAL")

_NO_TOPIC = "create the topic, or choose another one (--topic)"
_ADVICE = {
    "UNKNOWN_TOPIC_OR_PART": _NO_TOPIC,
    "_UNKNOWN_TOPIC": _NO_TOPIC,
    "TOPIC_AUTHORIZATION_FAILED": "grant the user WRITE on the topic",
    "CLUSTER_AUTHORIZATION_FAILED": "grant the user IDEMPOTENT_WRITE on the cluster, which Kafka "
    "before version 3 wants",
    "_AUTHENTICATION": "check the settings sasl.* (--option and --option-file)",
    "_SSL": "check the settings ssl.* (--option and --option-file)",
}

_SEPARATORS = (",", ":")


def _check_bootstrap(context: click.Context, parameter: click.Parameter, value: str) -> str:
    for word in value.split(","):
        match = _HOST.fullmatch(word)
        if match is None or not 0 < int(match.group(1)) < 65536:
            shown = "it" if "@" in word else repr(word)
            raise click.BadParameter(f"{shown} is not HOST:PORT, such as localhost:9092")
    return value


def _check_topic(context: click.Context, parameter: click.Parameter, value: str) -> str:
    # https://github.com/apache/kafka/blob/4.0/clients/src/main/java/org/apache/kafka/common/internals/Topic.java
    if not _TOPIC.fullmatch(value) or value in (".", ".."):
        raise click.BadParameter(
            f"{value!r} is not the name of a topic: use up to 249 letters, digits, '.', '_' and '-'"
        )
    return value


def _check_settings(settings: Mapping[str, str]) -> None:
    for name in settings:
        if name in _BOOTSTRAP:
            raise click.BadParameter(f"{name!r} is set by --bootstrap")
        if name in _OWN or name in _OTHERS:
            raise click.BadParameter(
                f"{name!r} cannot be set: the daemon relies on its own value to lose nothing"
            )


def _check_open_settings(settings: Mapping[str, str]) -> None:
    _check_settings(settings)
    for name in settings:
        if _SECRET.search(name):
            raise click.BadParameter(
                f"{name!r} is a secret, which others can see here: see --option-file"
            )


class Backend(base.Backend):
    """Write to a topic of Kafka.

    A message is a metric in JSON, as the stdout backend prints it, with its "id": one that is sent
    again has the same id. The key is the name and the labels, so that a series stays in order in
    its partition. The topic must exist, unless the broker creates topics.

    \b
      $ bai-daemon kafka --bootstrap broker1:9092,broker2:9092 --topic benchmark-metrics
      $ bai-daemon kafka --option security.protocol=SSL -- ./my_benchmark.sh
    """

    options = [
        option(
            "--bootstrap",
            "One or more of the brokers.",
            metavar="HOST:PORT,...",
            default="localhost:9092",
            show_default=True,
            callback=_check_bootstrap,
        ),
        option(
            "--topic",
            "The topic.",
            default="benchmark-metrics",
            show_default=True,
            callback=_check_topic,
        ),
        pairs_option(
            "--option",
            "A setting of librdkafka, such as security.protocol=SSL; not for secrets.",
            check=_check_open_settings,
        ),
        secret_pairs_option(
            "--option-file",
            "A file with secret settings, a line NAME=VALUE for each, such as sasl.password.",
            _SETTING,
            is_secret=_SECRET.search,
            check=_check_settings,
        ),
    ]
    place = ["bootstrap", "topic"]

    def __init__(
        self, bootstrap: str, topic: str, option: Mapping[str, str], option_file: Mapping[str, str]
    ) -> None:
        import confluent_kafka

        self._kafka = confluent_kafka
        self._bootstrap = bootstrap
        self._topic = topic
        self._settings = {
            **_DEFAULTS,
            **option,
            **option_file,
            **_OWN,
        }
        self._keys = SeriesCache(_make_key)
        self._documents = Documents(separators=_SEPARATORS)
        self._producer: Any = None
        self._level = logging.WARNING
        try:
            # Without brokers: the end of a producer waits for the resolution of their names. Those
            # that send belong to the thread that delivers, for which nobody waits at the end.
            confluent_kafka.Producer({**self._settings, "logger": _Log(logging.DEBUG)})
        except (confluent_kafka.KafkaException, TypeError, ValueError) as error:
            raise ValueError(self._explain(error, option, option_file)) from error

    def send(self, metrics: Sequence[Metric]) -> Optional[Answer]:
        deadline = time.monotonic() + TIMEOUT
        self._prepare()
        failures: Dict[bytes, Any] = {}  # the errors, by the value of the message

        def note_failure(error: Any, message: Any) -> None:
            failures[message.value()] = error

        keys = self._keys.of_each(metrics)
        values = [
            f'{document},"id":{encode_text(metric.id)}}}'.encode()
            for metric, document in zip(metrics, self._documents.write(metrics))
        ]
        rejected = []
        for index, metric in enumerate(metrics):
            milliseconds = metric.time // 10**6
            try:
                self._enqueue(deadline, keys[index], values[index], milliseconds, note_failure)
            except self._kafka.KafkaException as exception:
                error = exception.args[0]
                if error.name() == "MSG_SIZE_TOO_LARGE":
                    rejected.append((metric, f"{error.str()} (message.max.bytes)"))
                    continue
                # What comes after this one must not overtake it.
                failures.update(dict.fromkeys(values[index:], error))
                break
        self._wait(deadline)
        if not failures:
            self._health.note_acknowledgements()
            return Answer(rejected) if rejected else None
        failed = [metric for metric, value in zip(metrics, values) if value in failures]
        reason = self._reason(list(failures.values()))
        are_bad = all(error.name() in _BAD for error in failures.values())
        if not are_bad:
            # It would not ask for the topic and the rights again for minutes.
            self._producer = None
        acknowledged = len(metrics) - len(failed) - len(rejected)
        if acknowledged or (rejected and not are_bad):
            return Answer(rejected, failed, reason=reason)
        # The broker rejects a batch as a whole.
        raise (Rejected if are_bad else Unavailable)(reason)

    def _open(self) -> None:
        """Make a new producer. Only the first one warns about the settings."""
        self._producer = None
        self._health = _Health()
        self._producer = self._kafka.Producer(
            {
                **self._settings,
                "bootstrap.servers": self._bootstrap,
                "error_cb": self._health.note,
                "logger": _Log(self._level),
            }
        )
        self._level = logging.DEBUG

    def _explain(
        self, error: Exception, option: Mapping[str, str], option_file: Mapping[str, str]
    ) -> str:
        """Return what is wrong with the settings, and with which of them if that can be told."""
        text = _text(error)
        for name, value in {**option, **option_file}.items():
            shown = "--option-file" if name in option_file else f"--option {name}={value}"
            try:
                # The text may have another name for the same setting.
                self._kafka.Producer({name: value, "logger": _Log(logging.DEBUG)})
            except (self._kafka.KafkaException, TypeError, ValueError) as other:
                return f"{shown}: {_text(other)}"
            if name in text:
                return f"{shown}: {text}"
        return text

    def _prepare(self) -> None:
        """Make a producer if there is none, or if the one of the last time cannot be used."""
        if self._producer is not None:
            self._serve(self._producer.poll, 0)  # what has happened since then
        if self._producer is None or self._health.is_down or self._health.is_broken:
            self._open()

    def _enqueue(
        self, deadline: float, key: bytes, value: bytes, time: int, on_delivery: Any
    ) -> None:
        """Raises KafkaException, also if the queue is full until it is time to give up."""
        while True:
            try:
                self._producer.produce(
                    self._topic, value, key, timestamp=time, on_delivery=on_delivery
                )
                return
            except BufferError:
                if self._must_give_up(deadline):
                    error = self._kafka.KafkaError
                    raise self._kafka.KafkaException(error(error._QUEUE_FULL)) from None
                self._serve(self._producer.poll, _POLL)

    def _wait(self, deadline: float) -> None:
        """Wait for the acknowledgement of all messages; give up those that get none.

        Raises Unavailable if it is not known which ones got one.
        """
        is_logged = False
        while len(self._producer):
            if self._must_give_up(deadline):
                self._producer.purge(blocking=False)
                self._serve(self._producer.flush, _PURGE)
                is_unknown = len(self._producer)
                # No message may follow its own repetition, by which order would be lost.
                self._producer = None
                if is_unknown:
                    raise Unavailable(self._reason([]))
                return
            if self._health.is_down and not is_logged:
                is_logged = True
                log.warning("%s: waiting for a broker", self._reason([]))
            self._serve(self._producer.flush, _POLL)

    def _serve(self, wait: Callable[[float], Any], seconds: float) -> None:
        """Let the producer call back for so long."""
        try:
            wait(seconds)
        except self._kafka.KafkaException as error:
            self._health.note(error.args[0])

    def _must_give_up(self, deadline: float) -> bool:
        health = self._health
        if health.is_broken or time.monotonic() >= deadline:
            return True
        # A producer that had brokers gets through their restart without sending anything twice.
        return health.is_down and not health.has_delivered

    def _reason(self, errors: Sequence[Any]) -> str:
        telling = [error for error in errors if error.name() not in _SILENCE]
        error = (telling or [self._health.error])[0]
        place = f"{self._bootstrap}, topic {self._topic!r}"
        if error is None:
            return f"{place}: no acknowledgement within {TIMEOUT} s"
        advice = _ADVICE.get(error.name())
        return f"{place}: {error.str()}" + (f": {advice}" if advice else "")


class _Health:
    """What a producer says about its brokers, while it is polled.

    error: the last error, a KafkaError, or None.
    is_down: whether it has lost all brokers.
    is_broken: whether it cannot send anything any more.
    has_delivered: whether all messages of a batch were acknowledged.
    """

    def __init__(self) -> None:
        self.error: Any = None
        self.is_down = False
        self.is_broken = False
        self.has_delivered = False

    def note(self, error: Any) -> None:
        if self.is_broken:
            return
        self.is_broken = error.fatal()
        is_down = error.name() == "_ALL_BROKERS_DOWN"
        if not is_down or self.error is None:
            self.error = error
        self.is_down = self.is_down or is_down

    def note_acknowledgements(self) -> None:
        self.error = None
        self.is_down = False
        self.has_delivered = True


class _Log:
    """Takes what librdkafka logs. What it says about its brokers is in our own log lines.

    level: that of warnings about settings. Everything else is for debugging.
    """

    def __init__(self, level: int) -> None:
        self._level = level

    def log(self, level: int, text: str, facility: str, *arguments: Any) -> None:
        level = self._level if facility == "CONFWARN" else logging.DEBUG
        log.log(level, "librdkafka: " + text, facility, *arguments)


def _make_key(name: str, labels: Mapping[str, str]) -> bytes:
    """Return the key of a series, such as {"labels":{"run":"42"},"name":"loss"}."""
    key = {"name": name, "labels": labels}
    return json.dumps(key, separators=_SEPARATORS, sort_keys=True).encode()


def _text(error: Exception) -> str:
    reason = error.args[0]
    return reason.str() if hasattr(reason, "str") else str(reason)
