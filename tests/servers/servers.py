"""Metrics servers on 127.0.0.1, each started on a free port and ended by its process id."""

import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
from conftest import run, start, wait_until

FOLDER = os.path.dirname(sys.executable)
BAI_DAEMON = os.path.join(FOLDER, "bai-daemon")
BAI_EMIT = os.path.join(FOLDER, "bai-emit")

# What AWS's client needs, with credentials that are none.
os.environ.update(AWS_ACCESS_KEY_ID="none", AWS_SECRET_ACCESS_KEY="none")
os.environ["PATH"] = FOLDER + ":" + os.environ["PATH"]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def program(name, package, how="apt-get install"):
    """Return the path of the program, or skip the test."""
    path = shutil.which(name)
    if path is None:
        pytest.skip("%s is not installed: %s %s" % (name, how, package))
    return path


def request(url, data=None, **headers):
    """Return the body of the answer, as text."""
    if isinstance(data, dict):
        data = urllib.parse.urlencode(data).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as answer:
        return answer.read().decode("utf-8")


def answers(url):
    try:
        request(url)
    except urllib.error.HTTPError:
        pass
    except (OSError, http.client.HTTPException):
        return False
    return True


class Server:
    """A server that can be ended and started again, on the same port and with the same data."""

    def __init__(self, folder):
        self.folder = str(folder)
        self.port = free_port()
        self.url = "http://127.0.0.1:%d" % self.port
        self.process = None
        self.start()

    def command(self):
        raise NotImplementedError

    def start(self):
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.process = start(
                self.command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: self.process.poll() is not None or answers(self.url))
        assert self.process.poll() is None, open(os.path.join(self.folder, "log")).read()

    def end(self):
        if self.process.poll() is None:
            # Some are started by a wrapper: its group is theirs.
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(30)


class InfluxDB(Server):
    def command(self):
        influxd = program("influxd", "influxdb")
        with open(os.path.join(self.folder, "influxdb.conf"), "w") as file:
            file.write(
                "reporting-disabled = true\n"
                'bind-address = "127.0.0.1:%d"\n'
                '[meta]\ndir = "meta"\n'
                '[data]\ndir = "data"\nwal-dir = "wal"\n'
                '[http]\nbind-address = "127.0.0.1:%d"\n' % (free_port(), self.port)
            )
        return [influxd, "run", "-config", "influxdb.conf"]

    def start(self):
        super().start()
        request(self.url + "/query", {"q": "CREATE DATABASE benchmarks"})

    def query(self, query):
        parameters = urllib.parse.urlencode({"db": "benchmarks", "q": query, "epoch": "ns"})
        answer = json.loads(request(self.url + "/query?" + parameters))
        return answer["results"][0].get("series", [])

    def points(self):
        """Return (name, labels, value, time) of all that was written."""
        found = []
        for series in self.query("SELECT * FROM /.*/"):
            for row in series["values"]:
                point = dict(zip(series["columns"], row))
                when, value = point.pop("time"), point.pop("value")
                found.append((series["name"], point, value, when))
        return found


class VictoriaMetrics(Server):
    def command(self):
        return [
            program("victoria-metrics", "victoria-metrics"),
            "-httpListenAddr=127.0.0.1:%d" % self.port,
            "-storageDataPath=data",
            "-retentionPeriod=1",
        ]

    def points(self):
        request(self.url + "/internal/force_flush")
        found = []
        for line in request(self.url + "/api/v1/export", {"match": '{db!=""}'}).splitlines():
            series = json.loads(line)
            labels = series["metric"]
            labels.pop("db")
            name = labels.pop("__name__")[: -len("_value")]
            for value, when in zip(series["values"], series["timestamps"]):
                found.append((name, labels, value, when * 10**6))
        return found


class Pushgateway(Server):
    def command(self):
        name = "prometheus-pushgateway"
        # Debian's own default is a file that all of them share.
        return [
            program(name, name),
            "--web.listen-address=127.0.0.1:%d" % self.port,
            "--persistence.file=data",
        ]


class Prometheus(Server):
    """Scrapes a Pushgateway."""

    def __init__(self, folder, gateway):
        self.gateway = gateway
        super().__init__(folder)

    def command(self):
        with open(os.path.join(self.folder, "prometheus.yml"), "w") as file:
            file.write(
                "global: {scrape_interval: 1s}\n"
                "scrape_configs:\n"
                "- {job_name: gateway, honor_labels: true,"
                " static_configs: [{targets: ['127.0.0.1:%d']}]}\n" % self.gateway.port
            )
        return [
            program("prometheus", "prometheus"),
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--web.listen-address=127.0.0.1:%d" % self.port,
        ]

    def query(self, query):
        answer = request(self.url + "/api/v1/query", {"query": query})
        return json.loads(answer)["data"]["result"]


class Moto(Server):
    def command(self):
        pytest.importorskip("moto", reason="not installed: pip install 'moto[server]'")
        return [
            program("moto_server", "'moto[server]'", "pip install"),
            "-H127.0.0.1",
            "-p%d" % self.port,
        ]


class Noida(Server):
    def command(self):
        noida = program("noida-db", "noida-db", "pip install")
        words = ["--only", "elasticsearch", "--elasticsearch-port", str(self.port)]
        return [noida, "start", "--data-dir", "data"] + words


class Osmem(Server):
    def command(self):
        osmem_server = pytest.importorskip(
            "osmem_server", reason="not installed: pip install osmem-server"
        )
        words = ["-addr", "127.0.0.1:%d" % self.port, "-no-stdin-watch"]
        return [osmem_server.resolve_binary()] + words


class Oteltap(Server):
    def command(self):
        oteltap = program("oteltap", "oteltap", "pip install")
        return [oteltap, "--port", str(self.port)]


class Proxy:
    """Stands before a server and does harm, as long as its fault says so.

    fault(number of the request) returns None for no harm, or what to do.
    """

    def __init__(self, target, fault=lambda number: None):
        self.fault = fault
        self.bodies = []
        self.harmed = 0
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.bodies.append(body)
                fault = proxy.fault(len(proxy.bodies))
                if fault:
                    proxy.harmed += 1
                if isinstance(fault, tuple):
                    status, headers = fault
                    self.answer(status, headers, b'{"error": "for now"}')
                    return
                if fault == "drop":
                    self.close_connection = True
                    return
                if fault == "cut":
                    self.wfile.write(
                        b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nx"
                    )
                    self.close_connection = True
                    return
                if fault == "slow":
                    time.sleep(1)
                target_connection = http.client.HTTPConnection("127.0.0.1", target.port)
                headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                target_connection.request(self.command, self.path, body, headers)
                answer = target_connection.getresponse()
                data = answer.read()
                kept = {
                    k: v
                    for k, v in answer.getheaders()
                    if k.lower() not in ("content-length", "transfer-encoding", "connection")
                }
                if fault == "half":  # the server has it, and says so with half a body
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data) + 100))
                    self.end_headers()
                    self.wfile.write(data[: len(data) // 2])
                    self.close_connection = True
                    return
                self.answer(answer.status, kept, data)

            def answer(self, status, headers, data):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if status != 204:
                    self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_HEAD = handle_any

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.url = "http://127.0.0.1:%d" % self.port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def end(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def servers(tmp_path):
    """Start a server of a class: servers(InfluxDB)."""
    started = []

    def call(kind, *arguments):
        if kind is not Proxy:
            folder = tmp_path / ("server%d" % len(started))
            folder.mkdir()
            arguments = (folder,) + arguments
        started.append(kind(*arguments))
        return started[-1]

    yield call
    for server in reversed(started):
        server.end()


class Daemon:
    """A bai-daemon on a pipe and a spool in the folder."""

    def __init__(self, folder, *words, program=(BAI_DAEMON,), **options):
        self.path = str(folder / "pipe")
        self.spool = self.path + ".spool"
        self.log = str(folder / "daemon.log")
        with open(self.log, "ab") as log:
            before = log.tell()
            self.process = start(
                list(program) + list(words) + ["--fifo", self.path],
                stderr=log,
                **options,
            )
        # Its own word for it: somebody else may hold the pipe open.
        wait_until(lambda: self.process.poll() is not None or " from " in self.logged(before))

    def logged(self, start=0):
        with open(self.log) as file:
            file.seek(start)
            return file.read()

    def emit(self, *words, stdin=None):
        result = run([BAI_EMIT, "--fifo", self.path] + list(words), stdin=stdin)
        assert (result.code, result.err) == (0, "")

    def stop(self):
        self.process.terminate()
        return self.wait()

    def wait(self):
        try:
            return self.process.wait(60)
        finally:
            if self.process.poll() is None:
                self.kill()

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def daemons(tmp_path):
    """Start a daemon: daemons("influxdb", "--url", ...)."""
    started = []

    def call(*words, **options):
        started.append(Daemon(tmp_path, *words, **options))
        return started[-1]

    yield call
    for daemon in started:
        if daemon.process.poll() is None:
            daemon.kill()
