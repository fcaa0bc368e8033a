"""What HTTP backends share: options, TLS, proxies, credentials, gzip, and what errors mean."""

import base64
import email.utils
import gzip
import ipaddress
import re
import ssl
import time
import urllib.request
from typing import Any, Callable, Dict, List, Mapping, Optional, Union
from urllib.parse import unquote, urlsplit

import click

from benchmarkai import __version__
from benchmarkai.daemon.backends.base import TIMEOUT, Rejected, Unavailable
from benchmarkai.daemon.log import log
from benchmarkai.daemon.options import (
    file_option,
    option,
    pairs_option,
    secret_option,
    secret_pairs_option,
    user_option,
)
from benchmarkai.daemon.redaction import protect, redact

_MAX_RETRY_AFTER = 3600.0  # seconds
_MIN_SIZE_TO_COMPRESS = 1000  # bytes; a smaller request is one packet anyway

# The request itself is bad. Any other error may end when the server, the database or the
# permissions are repaired.
_REJECTED = (400, 413, 422)

_HEADER_NAME = re.compile("[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110, 5.6.2


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise click.BadParameter unless the names and values may be in a request."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise click.BadParameter(f"{name!r} is not the name of a header")
        if not (value.isascii() and value.isprintable()):
            raise click.BadParameter(f"the value of {name!r} is not printable ASCII")


# What a backend takes that authenticates in its own way, and what all others take.
CONNECTION_OPTIONS: List[click.Option] = [
    file_option("--ca-file", "The certificates to trust, in PEM, in place of the system's."),
    file_option("--client-cert", "The certificate by which the server knows us, in PEM."),
    file_option("--client-key", "Its key, unless it is in the same file."),
    option("--insecure", "Do not check the server's certificate.", is_flag=True),
    pairs_option(
        "--header",
        "A header of each request; not for secrets, which others can see here.",
        check=check_headers,
    ),
    secret_pairs_option(
        "--header-file",
        "A file with secret headers, a line NAME=VALUE for each.",
        _HEADER_NAME,
        check=check_headers,
    ),
]
OPTIONS: List[click.Option] = [
    user_option(),
    secret_option("--password", "the password"),
    *CONNECTION_OPTIONS,
]


class Client:
    """Sends requests to one server, over TLS and through a proxy where they are asked for.

    url: that of the server, without a slash at its end.
    authorization: the value of that header, in place of a user.
    compress: whether the server takes a body in gzip.
    sign: returns more headers for a method, a URL, the headers and the body.
    options: the values of OPTIONS, or of CONNECTION_OPTIONS.

    The proxy is that of the variables HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY, upper or
    lower case, as urllib.request.getproxies() has them.

    Raises ValueError for options that cannot be used.
    """

    def __init__(
        self,
        url: str,
        authorization: Optional[str] = None,
        compress: bool = True,
        sign: Optional[Callable[[str, str, Dict[str, str], bytes], Mapping[str, str]]] = None,
        user: Optional[str] = None,
        password: Optional[str] = None,
        **options: Any,
    ) -> None:
        import urllib3

        if user and authorization:
            raise ValueError("give either a user or another way to authenticate, not both")
        self.url = url
        self._urllib3 = urllib3
        self._compress = compress
        self._sign = sign
        self._headers = {
            "User-Agent": f"bai-daemon/{__version__}",
            "Accept-Encoding": "gzip",
            **headers_of(options),
        }
        if user:
            authorization = basic_auth(user, password)
        if authorization:
            self._headers["Authorization"] = authorization
        # A redirected POST would become a GET, whose response says nothing about the metrics.
        self._pool = self._make_pool(
            retries=False,
            timeout=urllib3.Timeout(total=TIMEOUT),
            ssl_context=make_context(**options) if url.startswith("https:") else None,
        )
        warn_if_insecure(options)

    def _make_pool(self, **options: Any) -> Any:
        proxy = proxy_for(self.url)
        if proxy is None:
            return self._urllib3.PoolManager(**options)
        parts = urlsplit(proxy)
        if "@" in parts.path + parts.query + parts.fragment:
            raise ValueError("percent-encode the password in the URL of the proxy")
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        headers = None
        if parts.username is not None:
            credentials = [unquote(part or "") for part in (parts.username, parts.password)]
            protect(credentials[1])
            headers = {"proxy-authorization": basic_auth(*credentials)}
        log.info("using the proxy %s", place)
        try:
            return self._urllib3.ProxyManager(place, proxy_headers=headers, **options)
        except self._urllib3.exceptions.ProxySchemeUnknown as error:
            raise ValueError(f"cannot use the proxy {place}: {error}") from error

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Optional[Mapping[str, str]] = None
    ) -> Any:
        """Return the response of the server, whatever its status.

        path: what follows the URL of the server.

        Raises Unavailable if there is no response.
        """
        url = self.url + path
        all_headers = {**self._headers, **(headers or {})}
        if self._compress and len(body) >= _MIN_SIZE_TO_COMPRESS:
            body = gzip.compress(body, 1)
            all_headers["Content-Encoding"] = "gzip"
        if self._sign is not None:
            all_headers.update(self._sign(method, url, all_headers, body))
        try:
            return self._pool.request(
                method, url, body=body or None, headers=all_headers, redirect=False
            )
        except self._urllib3.exceptions.NewConnectionError as error:
            # The system says in two words what urllib3 says in ten.
            reason = getattr(error.__context__, "strerror", None) or error
            raise Unavailable(f"{self.url}: {reason}") from error
        except self._urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"{self.url}: {with_advice(error)}") from error

    def post(self, path: str, body: bytes, content_type: str) -> Any:
        """Return the response of the server to a successful request.

        Raises Unavailable or Rejected for any other.
        """
        response = self.request("POST", path, body, {"Content-Type": content_type})
        self.raise_failure(path, response)
        return response

    def raise_failure(self, path: str, response: Any) -> None:
        """Raise what the response to a request means, unless it is a success."""
        if response.status >= 300:
            text = f"{self.url}{path}: {response.data.decode('utf-8', 'replace')}"
            failure = error_for(response.status, text, response.headers)
            if failure is not None:
                raise failure


def with_advice(error: Exception) -> str:
    """Return what an error without a response says, and what to do if that is known."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return f"{error}: --ca-file names a file with the certificates to trust"
    return str(error)


def headers_of(options: Mapping[str, Any]) -> Dict[str, str]:
    """Return the headers that the options ask for, in the case of our own."""
    headers = {**(options.get("header") or {}), **(options.get("header_file") or {})}
    return title_case(headers)


def title_case(headers: Mapping[str, str]) -> Dict[str, str]:
    """Return the headers with their names in the usual case."""
    return {name.title(): value for name, value in headers.items()}


def warn_if_insecure(options: Mapping[str, Any]) -> None:
    """Tell the log that certificates are not checked, if that is so."""
    if options.get("insecure"):
        log.warning(
            "the server's certificate is not checked (--insecure): whoever is between it and us "
            "can read and change all"
        )


def make_context(
    ca_file: Optional[str] = None,
    client_cert: Optional[str] = None,
    client_key: Optional[str] = None,
    insecure: bool = False,
    **others: Any,
) -> ssl.SSLContext:
    """Return what TLS needs to know of CONNECTION_OPTIONS. Raises ValueError."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (ssl.SSLError, OSError) as error:
        raise ValueError(f"--ca-file: {ca_file!r} has no certificates in PEM: {error}") from error
    if client_key and not client_cert:
        raise ValueError("--client-key needs --client-cert")
    if client_cert:
        try:
            # Without a password, OpenSSL would ask for it at the terminal.
            context.load_cert_chain(client_cert, client_key, password="")
        except (ssl.SSLError, OSError) as error:
            raise ValueError(
                f"--client-cert: {client_cert!r} and {client_key or 'the key in it'!r} are not a "
                f"certificate and its key in PEM, not encrypted: {error}"
            ) from error
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def proxy_for(url: str) -> Optional[str]:
    """Return the URL of the proxy that the environment wants for a server, or None."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    host = parts.hostname or ""
    if not proxy or urllib.request.proxy_bypass(host) or urllib.request.proxy_bypass(parts.netloc):
        return None
    if _is_in_networks(host, proxies.get("no", "")):
        return None
    return proxy if "://" in proxy else "http://" + proxy


def _is_in_networks(host: str, networks: str) -> bool:
    """Return whether the host is an address in one of the networks, such as 10.0.0.0/8."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    for network in networks.split(","):
        try:
            if address in ipaddress.ip_network(network.strip(), strict=False):
                return True
        except ValueError:
            pass
    return False


def basic_auth(user: str, password: Optional[str]) -> str:
    """Return the value of the header Authorization, in UTF-8 (RFC 7617).

    The clients' own functions encode it as ASCII or Latin-1, if they can.
    """
    credentials = base64.b64encode(f"{user}:{password or ''}".encode()).decode("ascii")
    protect(credentials)
    return "Basic " + credentials


def error_for(status: int, reason: Any, headers: Any = None) -> Union[None, Unavailable, Rejected]:
    """Return the error that an HTTP status means, or None for success.

    reason: what the server says about it.
    headers: a mapping that ignores case, as those of the clients do.
    """
    if status < 300:
        return None
    # Half a secret would not be found any more.
    message = f"HTTP {status}: {' '.join(redact(str(reason)).split())[:300]}"
    if status in _REJECTED:
        return Rejected(message)
    return Unavailable(message, retry_after(headers))


def retry_after(headers: Any) -> Optional[float]:
    """Return the seconds in a Retry-After header (RFC 9110, 10.2.3), at most an hour, or None."""
    value = (headers or {}).get("Retry-After")
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    if seconds != seconds:  # NaN
        return None
    return min(max(0.0, seconds), _MAX_RETRY_AFTER)
