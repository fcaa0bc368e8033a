import reprlib
from typing import Any, Mapping, Optional

from benchmarkai.daemon.backends import http
from benchmarkai.daemon.backends.bulk import BulkBackend
from benchmarkai.daemon.options import secret_option

# A value has at most 3 bytes for each of these characters, which are those of UTF-16. A name has
# this many bytes at most. Together they fit into a term of Lucene, 32766 bytes.
_MAX_LENGTH = 8191


class Backend(BulkBackend):
    """Write to Elasticsearch 7.3 or newer.

    Each metric becomes a document with the fields @timestamp, name, value and labels. The index
    is created with their types unless it exists, and so are a data stream and the template for
    it. Where that is not allowed, such as with a key that can only write, they must exist.

    Time series data streams need --no-ids. They make one document of metrics with the same time
    and dimensions: name and labels should be among these.

    \b
      $ bai-daemon elasticsearch --url http://localhost:9200 --index benchmark-metrics
      $ BAI_DAEMON_API_KEY=... bai-daemon elasticsearch --url https://es.example.com \\
            --data-stream benchmark-metrics --label run=42 -- ./my_benchmark.sh
    """

    product = "Elasticsearch"
    labels_since = "Elasticsearch 7.3"
    # https://www.elastic.co/docs/reference/elasticsearch/mapping-reference/flattened
    labels_mapping = {"type": "flattened", "ignore_above": _MAX_LENGTH}

    options = [
        *BulkBackend.options,
        secret_option("--api-key", "an API key, in place of a user", is_ascii=True),
        *http.OPTIONS,
    ]

    def __init__(self, api_key: Optional[str] = None, **options: Any) -> None:
        super().__init__(authorization=f"ApiKey {api_key}" if api_key else None, **options)

    def reason_to_reject_labels(self, labels: Mapping[str, str]) -> Optional[str]:
        # https://github.com/elastic/elasticsearch/issues/78248
        for name in labels:
            if len(name.encode("utf-8")) > _MAX_LENGTH:
                return (
                    f"the name of the label {reprlib.repr(name)} is longer than {_MAX_LENGTH} "
                    "bytes: shorten it"
                )
        return None
