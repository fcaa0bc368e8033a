import hashlib
import re
import reprlib
from typing import Any, Callable, Dict, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from benchmarkai.daemon.backends import http
from benchmarkai.daemon.backends.aws import current_credentials
from benchmarkai.daemon.backends.bulk import BulkBackend
from benchmarkai.daemon.options import option

# Lucene's limit. OpenSearch indexes a label as a term labels.NAME=VALUE, and has no ignore_above
# for it: https://docs.opensearch.org/latest/mappings/supported-field-types/flat-object
_MAX_TERM_SIZE = 32766

_AWS_HOST = re.compile(r"\.([a-z0-9-]+)\.(es|aoss)\.amazonaws\.com(\.cn)?")


class Backend(BulkBackend):
    """Write to OpenSearch 2.7 or newer, and Amazon OpenSearch.

    Each metric becomes a document with the fields @timestamp, name, value and labels. The index
    is created with their types unless it exists, and so are a data stream and the template for
    it. Where that is not allowed, such as for a user who can only write, they must exist.

    The time series collections of Amazon OpenSearch Serverless need --no-ids.

    \b
      $ bai-daemon opensearch --url http://localhost:9200 --index benchmark-metrics
      $ BAI_DAEMON_PASSWORD=... bai-daemon opensearch --url https://os.example.com --user me \\
            --label run=42 -- ./my_benchmark.sh
      $ bai-daemon opensearch --url https://id.eu-west-1.aoss.amazonaws.com --aws-auth --no-ids
    """

    product = "OpenSearch"
    labels_since = "OpenSearch 2.7"
    labels_mapping = {"type": "flat_object"}

    options = [
        *BulkBackend.options,
        option(
            "--aws-auth",
            "Sign requests for Amazon OpenSearch, with the credentials that AWS's own programs "
            "use. Needs boto3.",
            is_flag=True,
        ),
        *http.OPTIONS,
    ]

    def __init__(self, url: str, aws_auth: bool = False, **options: Any) -> None:
        if aws_auth and options.get("user"):
            raise ValueError("give either --user or --aws-auth, not both")
        super().__init__(url=url, sign=_make_signer(url) if aws_auth else None, **options)

    def reason_to_reject_labels(self, labels: Mapping[str, str]) -> Optional[str]:
        for name, value in labels.items():
            if len(f"labels.{name}={value}".encode()) > _MAX_TERM_SIZE:
                return (
                    f"the label {reprlib.repr(name)} and its value are longer than 32 kB, which "
                    "OpenSearch cannot index: shorten it"
                )
        return None


def _make_signer(url: str) -> Callable[[str, str, Dict[str, str], bytes], Mapping[str, str]]:
    """Return what signs the requests to a server in AWS's Signature Version 4."""
    try:
        import boto3
        import botocore.auth
        import botocore.awsrequest
    except ImportError as error:
        from benchmarkai.daemon.install import how_to_install

        raise ValueError(f"--aws-auth needs boto3: {how_to_install(['boto3'])}") from error
    session = boto3.Session()
    service, region = _service_and_region(url)
    region = region or session.region_name
    if region is None:
        raise ValueError("--aws-auth needs a region: set AWS_DEFAULT_REGION, such as eu-west-1")
    credentials = session.get_credentials()
    if credentials is None:
        raise ValueError(
            "--aws-auth has found no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE, or give the machine a role"
        )

    def sign(method: str, url: str, headers: Dict[str, str], body: bytes) -> Mapping[str, str]:
        current = current_credentials(credentials)
        # A proxy may change the others.
        signed = {
            name: value
            for name, value in headers.items()
            if name.lower() in ("content-type", "host") or name.lower().startswith("x-amz-")
        }
        # https://docs.aws.amazon.com/opensearch-service/latest/developerguide/serverless-clients.html
        signed["X-Amz-Content-SHA256"] = hashlib.sha256(body).hexdigest()
        request = botocore.awsrequest.AWSRequest(method, url, signed, body)
        botocore.auth.SigV4Auth(current, service, region).add_auth(request)
        return dict(request.headers.items())

    return sign


def _service_and_region(url: str) -> Tuple[str, Optional[str]]:
    """Return the name of the service to sign for, and its region if the URL tells it."""
    found = _AWS_HOST.search(urlsplit(url).hostname or "")
    return (found.group(2), found.group(1)) if found else ("es", None)
