"""TLS, proxies, headers and compression, which are the same for all HTTP backends."""

import contextlib
import gzip
import ssl

import click
import pytest
import trustme

from benchmarkai.daemon import backends, cli
from benchmarkai.daemon.backends import http
from benchmarkai.daemon.backends.base import Unavailable
from benchmarkai.daemon.metric import Metric
from benchmarkai.daemon.redaction import redact
from tests.daemon.backends.servers import Proxy, Tinyproxy, free_port
from tests.helpers import wait_until

OK = b'{"errors": false, "items": [{"create": {"status": 201}}]}'
JSON = {"Content-Type": "application/json", "X-Elastic-Product": "Elasticsearch"}
PROTOBUF = {"Content-Type": "application/x-protobuf"}

# The arguments of each backend before the URL, and what its server says to a metric.
BACKENDS = {
    "influxdb": (["--database", "benchmarks", "--url"], (204, {})),
    "prometheus": (["--gateway"], (200, {}, b"")),
    "elasticsearch": (["--url"], (200, JSON, OK)),
    "opensearch": (["--url"], (200, JSON, OK)),
    "otlp": (["--url"], (200, PROTOBUF, b"")),
}
METRIC = Metric("id", 10**18, "a", 1, {})
SERVER = "127.0.0.1"

for_each = pytest.mark.parametrize("name", BACKENDS)
for_one = pytest.mark.parametrize("name", ["influxdb"])


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def authority():
    """The authority that signs the certificates of servers and clients."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def server(name, start_server, authority):
    """A server of the backend that speaks TLS."""
    return start_server(Proxy, None, lambda number: BACKENDS[name][1], tls_for(authority))


def tls_for(authority, host=SERVER):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(host).configure_cert(context)
    return context


def make_backend(name, server, *arguments):
    """Return the backend that the arguments of its command make."""
    arguments = [*BACKENDS[name][0], server.url, *arguments]
    params = cli._make_command(name).make_context(name, arguments).params
    kind = backends.load(name)
    own = {option.name for option in kind.options}
    return kind(**{key: value for key, value in params.items() if key in own})


def is_delivered(backend):
    answer = backend.send([METRIC])
    return answer is None or not any(answer)


# TLS


@for_each
def test_a_server_whose_certificate_nobody_trusts_gets_nothing(name, server):
    with pytest.raises(Unavailable) as caught:
        make_backend(name, server).send([METRIC])
    assert "certificate verify failed" in str(caught.value)
    assert str(caught.value).endswith(": --ca-file names a file with the certificates to trust")
    assert server.bodies == []


@for_each
def test_a_server_is_trusted_if_an_authority_of_the_file_has_signed_its_certificate(
    name, server, ca_file
):
    assert is_delivered(make_backend(name, server, "--ca-file", ca_file))


@for_each
def test_a_certificate_for_another_host_is_not_trusted(name, start_server, authority, ca_file):
    server = start_server(Proxy, None, lambda number: None, tls_for(authority, "example.com"))
    with pytest.raises(Unavailable, match="certificate is not valid for '127.0.0.1'|doesn't match"):
        make_backend(name, server, "--ca-file", ca_file).send([METRIC])
    assert server.bodies == []


@for_each
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_certificate_may_be_left_unchecked_which_the_log_tells(name, server, caplog):
    caplog.set_level("INFO", "bai-daemon")
    backend = make_backend(name, server, "--insecure")
    assert caplog.messages == [
        "the server's certificate is not checked (--insecure): whoever is between it and us can "
        "read and change all"
    ]
    assert is_delivered(backend)


@pytest.fixture
def strict_server(name, start_server, authority):
    """A server that wants a certificate of its clients."""
    context = tls_for(authority)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return start_server(Proxy, None, lambda number: BACKENDS[name][1], context)


@for_each
@pytest.mark.parametrize("files", ["one", "two"])
def test_a_server_gets_the_certificate_of_the_client(
    name, strict_server, authority, ca_file, tmp_path, files
):
    own = authority.issue_cert("me@example.com")
    certificate, key = str(tmp_path / "own.pem"), str(tmp_path / "key.pem")
    if files == "two":
        own.cert_chain_pems[0].write_to_path(certificate)
        own.private_key_pem.write_to_path(key)
        options = ["--client-cert", certificate, "--client-key", key]
    else:
        own.private_key_and_cert_chain_pem.write_to_path(certificate)
        options = ["--client-cert", certificate]
    assert is_delivered(make_backend(name, strict_server, "--ca-file", ca_file, *options))
    for certificate in strict_server.certificates:
        assert certificate["subjectAltName"] == (("email", "me@example.com"),)


@for_each
def test_a_server_that_wants_a_certificate_gets_nothing_without(name, strict_server, ca_file):
    with pytest.raises(Unavailable):
        make_backend(name, strict_server, "--ca-file", ca_file).send([METRIC])
    assert strict_server.bodies == []


# Headers


@for_each
def test_each_request_has_the_headers(name, server, ca_file, tmp_path):
    (tmp_path / "headers").write_text("X-Scope-OrgID = tenant qwertz\n\nX-Key=abc=def\n")
    options = ["--header", "X-One=1 = one", "--header-file", str(tmp_path / "headers")]
    assert is_delivered(make_backend(name, server, "--ca-file", ca_file, *options))
    assert server.headers
    for headers in server.headers:
        assert headers["X-One"] == "1 = one"
        assert headers["X-Scope-OrgID"] == "tenant qwertz"
        assert headers["X-Key"] == "abc=def"
        assert headers["User-Agent"].startswith("bai-daemon/")
        assert headers["Authorization"] is None
    assert redact("tenant qwertz, qwertz, abc=def, 1 = one") == "***, ***, ***, 1 = one"


@for_one
def test_a_header_takes_the_place_of_the_daemon_s_own(name, start_server):
    server = start_server(Proxy, None, lambda number: BACKENDS[name][1])
    make_backend(name, server, "--header", "user-agent=me").send([METRIC])
    assert server.headers[0].get_all("User-Agent") == ["me"]


@for_one
@pytest.mark.parametrize(
    "header, message",
    [
        ("a b=c", "'a b' is not the name of a header"),
        ("a=b\nc: d", "the value of 'a' is not printable ASCII"),
        ("a=größe", "the value of 'a' is not printable ASCII"),
    ],
)
def test_what_no_header_can_be_is_a_usage_error(name, header, message):
    with pytest.raises(click.BadParameter) as caught:
        cli._make_command(name).make_context(name, ["--database", "d", "--header", header])
    assert message in caught.value.format_message()


@for_one
@pytest.mark.parametrize(
    "line", ["qwertz", "=qwertz", "a=", "a b=qwertz", "A=qwertz", "a=größe qwertz"]
)
def test_a_bad_line_in_a_file_of_headers_is_told_and_not_shown(name, tmp_path, line):
    path = tmp_path / "headers"
    path.write_text("A=1\n" + line, encoding="utf-8")
    with pytest.raises(click.BadParameter) as caught:
        cli._make_command(name).make_context(name, ["--database", "d", "--header-file", str(path)])
    assert "qwertz" not in caught.value.format_message()
    if not line.startswith("a=größe"):
        assert f"line 2 of {str(path)!r} is not NAME=VALUE" in caught.value.format_message()


# Options that cannot be used


@for_one
@pytest.mark.parametrize("case", ["no PEM", "no certificate", "encrypted", "another key"])
def test_a_file_that_cannot_be_used_is_told_at_the_start(name, authority, server, tmp_path, case):
    own = authority.issue_cert("me@example.com")
    certificate, key = str(tmp_path / "own.pem"), str(tmp_path / "key.pem")
    own.cert_chain_pems[0].write_to_path(certificate)
    own.private_key_pem.write_to_path(key)
    options = ["--client-cert", certificate, "--client-key", key]
    message = f"--client-cert: {certificate!r} and {key!r} are not a certificate and its key"
    if case == "no PEM":
        (tmp_path / "ca.pem").write_text("x")
        options = ["--ca-file", str(tmp_path / "ca.pem")]
        message = f"--ca-file: {str(tmp_path / 'ca.pem')!r} has no certificates in PEM"
    elif case == "no certificate":
        options = options[2:]
        message = "--client-key needs --client-cert"
    elif case == "encrypted":
        encrypt(key)
    else:
        authority.issue_cert("you@example.com").private_key_pem.write_to_path(key)
    with pytest.raises(ValueError) as caught:
        make_backend(name, server, *options)
    assert str(caught.value).startswith(message)


def encrypt(path):
    from cryptography.hazmat.primitives import serialization

    with open(path, "rb") as file:
        key = serialization.load_pem_private_key(file.read(), None)
    data = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"qwertz"),
    )
    with open(path, "wb") as file:
        file.write(data)


# Proxies


@for_each
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_https_goes_through_the_proxy(
    name, server, start_server, ca_file, monkeypatch, caplog, variable
):
    caplog.set_level("INFO", "bai-daemon")
    proxy = start_server(Tinyproxy)
    monkeypatch.setenv(variable, proxy.url)
    assert is_delivered(make_backend(name, server, "--ca-file", ca_file))
    assert proxy.requests() == [f"CONNECT {SERVER}:{server.port} HTTP/1.0"]
    assert caplog.messages == [f"using the proxy {proxy.url}"]


@for_each
def test_http_goes_through_the_proxy(name, start_server, monkeypatch):
    proxy = start_server(Tinyproxy)
    server = start_server(Proxy, None, lambda number: BACKENDS[name][1])
    monkeypatch.setenv("http_proxy", proxy.url)
    backend = make_backend(name, server)

    def is_delivered_now():
        # Tinyproxy closes each connection, perhaps only when it gets the next request.
        with contextlib.suppress(Unavailable):
            return is_delivered(backend)

    wait_until(is_delivered_now)
    assert all(server.url in line for line in proxy.requests())
    assert len(proxy.requests()) >= len(server.bodies) > 0


@for_each
def test_no_proxy_names_those_that_are_reached_directly(name, server, ca_file, monkeypatch):
    monkeypatch.setenv("https_proxy", f"http://{SERVER}:{free_port()}")
    monkeypatch.setenv("no_proxy", f"example.com, {SERVER}")
    assert is_delivered(make_backend(name, server, "--ca-file", ca_file))


@for_one
@pytest.mark.parametrize("password, is_right", [("qw%45rtz", True), ("qwertz2", False)])
def test_a_proxy_gets_the_password_and_the_log_does_not(
    name, server, start_server, ca_file, monkeypatch, caplog, password, is_right
):
    caplog.set_level("DEBUG")
    proxy = start_server(Tinyproxy, "me qwErtz")
    monkeypatch.setenv("https_proxy", proxy.url.replace("//", f"//me:{password}@"))
    backend = make_backend(name, server, "--ca-file", ca_file)
    if is_right:
        assert is_delivered(backend)
    else:
        with pytest.raises(Unavailable, match="Tunnel connection failed: 401|407") as caught:
            backend.send([METRIC])
        assert password not in redact(str(caught.value))
    assert password not in "".join(map(redact, caplog.messages))
    assert "qwErtz" not in "".join(map(redact, caplog.messages))


@for_one
def test_a_proxy_that_is_down_is_worth_a_retry(name, server, ca_file, monkeypatch):
    monkeypatch.setenv("https_proxy", f"{SERVER}:{free_port()}")
    with pytest.raises(Unavailable, match="proxy"):
        make_backend(name, server, "--ca-file", ca_file).send([METRIC])


@for_one
def test_a_proxy_of_another_protocol_is_told_at_the_start(name, server, monkeypatch):
    monkeypatch.setenv("https_proxy", "socks5://me:qwertz@localhost:1")
    with pytest.raises(ValueError) as caught:
        make_backend(name, server)
    assert str(caught.value).startswith("cannot use the proxy socks5://localhost:1: ")
    assert "qwertz" not in str(caught.value)


@for_one
@pytest.mark.parametrize("password", ["qwe#rtz", "qwe/rtz", "qwe?rtz"])
def test_a_password_of_a_proxy_that_cannot_be_told_from_the_url_is_not_shown(
    name, server, monkeypatch, caplog, password
):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("https_proxy", f"http://me:{password}@localhost:1")
    with pytest.raises(ValueError) as caught:
        make_backend(name, server)
    assert str(caught.value) == "percent-encode the password in the URL of the proxy"
    assert "qwe" not in caplog.text


@pytest.mark.parametrize(
    "url, variables, proxy",
    [
        ("http://a", {}, None),
        ("http://a", {"http_proxy": "p:1"}, "http://p:1"),
        ("https://a", {"http_proxy": "p:1"}, None),
        ("https://a", {"HTTPS_PROXY": "https://p:1"}, "https://p:1"),
        ("http://a", {"all_proxy": "http://p:1"}, "http://p:1"),
        ("http://a", {"all_proxy": "p:1", "http_proxy": "q:1"}, "http://q:1"),
        ("http://a", {"http_proxy": "p:1", "no_proxy": "*"}, None),
        ("http://a.b.c:8086", {"http_proxy": "p:1", "no_proxy": "x,.b.c"}, None),
        ("http://a.b.c:8086", {"http_proxy": "p:1", "no_proxy": "a.b.c:8086"}, None),
        ("http://a.b.c:8087", {"http_proxy": "p:1", "no_proxy": "a.b.c:8086"}, "http://p:1"),
        ("http://ab.c", {"http_proxy": "p:1", "no_proxy": "b.c"}, "http://p:1"),
        ("http://10.1.2.3:80", {"http_proxy": "p:1", "no_proxy": "x, 10.0.0.0/8"}, None),
        ("http://11.1.2.3", {"http_proxy": "p:1", "no_proxy": "10.0.0.0/8"}, "http://p:1"),
        ("http://[fd00::1]:80", {"http_proxy": "p:1", "no_proxy": "fd00::/8"}, None),
        ("http://[::1]:80", {"http_proxy": "p:1", "no_proxy": "::1"}, None),
    ],
)
def test_the_variables_name_the_proxy(monkeypatch, url, variables, proxy):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert http.proxy_for(url) == proxy


# Compression


@for_each
def test_a_large_request_is_compressed_if_servers_of_that_kind_take_it(name, start_server):
    items = b",".join([b'{"create": {"status": 201}}'] * 100)
    answer = BACKENDS[name][1]
    if answer[-1] == OK:
        answer = (200, JSON, b'{"errors": false, "items": [' + items + b"]}")
    server = start_server(Proxy, None, lambda number: answer)
    backend = make_backend(name, server)
    backend.send([METRIC._replace(own_id=str(n), name=f"name{n}") for n in range(100)])
    body, headers = server.bodies[-1], server.headers[-1]
    if name == "prometheus":
        assert headers["Content-Encoding"] is None
    else:
        assert headers["Content-Encoding"] == "gzip"
        body = gzip.decompress(body)
    assert b"name99" in body
